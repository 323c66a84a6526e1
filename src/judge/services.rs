//! Conditions about Services.

use super::context::{Context, Evaluation, unread_links};
use super::idle;
use crate::facts::netfilter::{Backend, Family, Owner, owner};
use crate::facts::{Question, Reading};
use crate::symbolic::{Happens, Network, Occurrence, RuleAt};

/// Programs that translate connections to Kubernetes Services.
const SERVICES: &[Owner] =
    &[Owner::KubeProxy, Owner::KubeRouter, Owner::Cilium, Owner::Antrea, Owner::OvnKubernetes, Owner::KubeOvn];
/// Device of NodeLocal DNSCache.
const NODE_LOCAL_DNS: &str = "nodelocaldns";

/// Evaluation if no rule translates destinations, since IPVS may.
fn without_a_rule(context: &Context<'_>, nothing: &str, services: impl Fn(u64) -> Evaluation) -> Evaluation {
    match &context.facts.ipvs_services {
        Reading::Ok(0) | Reading::Absent(_) => Evaluation::fails(nothing),
        Reading::Ok(count) => services(*count),
        other => Evaluation::unknown(Question::unread(other).shown_by(["ipvsadm", "-Ln"])),
    }
}

/// `dns_dnat_to_several`: UDP to port 53 is translated to one of several destinations, at random.
pub(super) fn dns_dnat_to_several(context: &Context<'_>) -> Evaluation {
    match context.network().map(|network| context.derived.dns_to_several(network, &context.effort)) {
        Err(why) => Evaluation::unknown(why),
        Ok(found) => match &found.happens {
            Happens::Must => Evaluation::holds(format!(
                "UDP to one address and port 53 goes to one of several name servers: {}",
                found.place
            )),
            Happens::May(why) => Evaluation::unknown(why),
            Happens::Never => without_a_rule(
                context,
                "no rule spreads UDP to one address and port 53 over several name servers",
                |services| Evaluation::unknown(format!("IPVS has {services} services, which may spread it")),
            ),
        },
    }
}

/// `no_local_cache`: pods do not use a name server on this node, which would forward over TCP.
pub(super) fn no_local_cache(context: &Context<'_>) -> Evaluation {
    match &context.facts.links {
        Reading::Ok(links) => match links.iter().find(|link| link.name == NODE_LOCAL_DNS) {
            Some(link) => Evaluation::fails(format!("pods ask the cache on this node (device {})", link.name)),
            None => Evaluation::holds(format!("there is no cache on this node (no device {NODE_LOCAL_DNS})")),
        },
        other => Evaluation::unknown(unread_links(other)),
    }
}

/// `tcp_dnat_client_inside`: TCP destinations are translated to addresses that clients can also reach directly.
pub(super) fn tcp_dnat_client_inside(context: &Context<'_>) -> Evaluation {
    let found = match context.network().map(|network| context.derived.bypass(network, &context.effort)) {
        Err(why) => return Evaluation::unknown(why).of_services(true),
        Ok(found) => found,
    };
    let owners: Vec<Owner> = found.rules.iter().map(|at| owner_of(context, at)).collect();
    let unread = found.rules.iter().any(|at| at.position == 0);
    let of_services = unread || owners.iter().any(|owner| SERVICES.contains(owner));
    match &found.translated.happens {
        Happens::Must => {
            let who = match found.clients {
                [true, true] => "this host and others behind it",
                [true, false] => "this host",
                [false, _] => "clients behind this host",
            };
            let owner = match owners.first() {
                None | Some(Owner::Other) => String::new(),
                Some(owner) => format!("{owner}'s "),
            };
            let detail = format!(
                "connections of {who} are given another destination, which they can also reach past the translation: \
                 {owner}{} (clients beyond a default route's device are assumed to have no way of their own to it)",
                found.translated.place
            );
            let outcome = Evaluation::holds(detail).of_services(of_services);
            in_backend_of(outcome, context.network().ok(), found.rules.first())
        }
        Happens::May(why) => Evaluation::unknown(why).of_services(of_services || found.rules.is_empty()),
        Happens::Never => {
            let nothing = match (found.is_translating, found.translated.place.as_str()) {
                (false, _) => "no rule gives TCP connections another destination".to_owned(),
                (true, "") => "no client that is given another destination reaches it past the translation through \
                               this host (clients beyond a default route's device are assumed to have no way of their \
                               own to it)"
                    .into(),
                (true, place) => format!("{place} drops the resets of clients that are given another destination"),
            };
            without_a_rule(context, &nothing, |services| {
                Evaluation::unknown(format!("IPVS has {services} services, which may translate TCP")).of_services(true)
            })
        }
    }
}

/// Owner of a rule.
fn owner_of(context: &Context<'_>, at: &RuleAt) -> Owner {
    let found = context.network().ok().and_then(|network| Some((network.rules[at.set].ruleset, network.rule(at)?)));
    found.map_or(Owner::Other, |(ruleset, rule)| owner::owner(ruleset, &at.chain, rule))
}

/// `tcp_not_liberal`: out-of-window segments are invalid (`nf_conntrack_tcp_be_liberal` is 0).
pub(super) fn tcp_not_liberal(context: &Context<'_>) -> Evaluation {
    match &context.facts.conntrack.tcp_be_liberal {
        Reading::Ok(0) => {
            Evaluation::holds("nf_conntrack_tcp_be_liberal is 0: segments outside the window are invalid")
        }
        Reading::Ok(value) => Evaluation::fails(format!("nf_conntrack_tcp_be_liberal is {value}")),
        Reading::Absent(_) => Evaluation::fails("nf_conntrack is not in the running kernel"),
        other => {
            let liberal = ["sysctl", "net.netfilter.nf_conntrack_tcp_be_liberal"];
            Evaluation::unknown(Question::unread(other).shown_by(liberal))
        }
    }
}

/// `bypass_arrives`: invalid segments from translated destinations reach such clients.
pub(super) fn bypass_arrives(context: &Context<'_>) -> Evaluation {
    match context.network().map(|network| context.derived.bypass(network, &context.effort)) {
        Err(why) => Evaluation::unknown(why),
        Ok(found) => undropped(
            &found.arrive,
            "no rule drops invalid TCP segments on their way to such clients",
            "invalid TCP segments get to such clients",
            "no invalid TCP segment gets to such a client",
        ),
    }
}

/// `source_nat_answered_here`: TCP connections leave with a source translated to an address of this host.
pub(super) fn source_nat_answered_here(context: &Context<'_>) -> Evaluation {
    match idle::replies(context) {
        Err(why) => Evaluation::unknown(why),
        Ok(found) => match &found.translated.happens {
            Happens::Must => {
                let place = &found.translated.place;
                let detail = format!("TCP connections leave with an address of this host's as their source: {place}");
                in_backend_of(Evaluation::holds(detail), context.network().ok(), found.rule.as_ref())
            }
            Happens::May(why) => Evaluation::unknown(why),
            Happens::Never => {
                Evaluation::fails("no TCP connection leaves with an address of this host's as another source")
            }
        },
    }
}

/// `invalid_arrives`: invalid segments in reply to them reach this host's TCP.
pub(super) fn invalid_arrives(context: &Context<'_>) -> Evaluation {
    match idle::replies(context) {
        Err(why) => Evaluation::unknown(why),
        Ok(found) => undropped(
            &found.arrive,
            "no rule drops invalid TCP segments that are for this host itself",
            "invalid TCP segments that are for this host itself get to it",
            "no invalid TCP segment that answers such a connection gets to this host's own TCP",
        ),
    }
}

/// Sets the backend for remedies that add a rule: that of the rule at `at`.
fn in_backend_of(evaluation: Evaluation, network: Option<&Network<'_>>, at: Option<&RuleAt>) -> Evaluation {
    let (Some(network), Some(at)) = (network, at) else { return evaluation };
    let ipv6 = if at.chain.family == Family::Ipv6 { "6" } else { "" };
    match network.backend(at) {
        Backend::Legacy => evaluation.with("iptables", format!("ip{ipv6}tables-legacy")),
        Backend::IptablesNft => evaluation.with("iptables", format!("ip{ipv6}tables-nft")),
        // For a chain that was not read, its table's name decides.
        Backend::Nftables if at.position == 0 && at.chain.table == *"nat" => {
            evaluation.with("iptables", format!("ip{ipv6}tables-nft"))
        }
        Backend::Nftables => evaluation.with("nft", "nft"),
    }
}

/// Whether invalid segments reach their destination; the place is a rule that drops some. Texts for: nothing drops
/// them, some arrive nevertheless, none arrive although nothing drops them.
fn undropped(found: &Occurrence, all: &str, some: &str, none: &str) -> Evaluation {
    match (&found.happens, found.place.as_str()) {
        (Happens::Must, "") => Evaluation::holds(all),
        (Happens::Must, place) => Evaluation::holds(format!("{some}; {place} drops only some")),
        (Happens::May(why), _) => Evaluation::unknown(why),
        (Happens::Never, "") => Evaluation::fails(none),
        (Happens::Never, place) => Evaluation::fails(format!("{place} drops invalid TCP segments")),
    }
}

/// `service_nat_in_both`: rules for Services or pods are in two backends.
pub(super) fn service_nat_in_both(context: &Context<'_>) -> Evaluation {
    match context.network().map(|network| context.derived.two_backends(network, &context.effort)) {
        Err(why) => Evaluation::unknown(why),
        Ok(found) => match &found.happens {
            Happens::Must => Evaluation::holds(&found.place),
            Happens::May(why) => Evaluation::unknown(why),
            Happens::Never => {
                Evaluation::fails("no rules for Services or pods stand in two backends, for packets of one family")
            }
        },
    }
}
