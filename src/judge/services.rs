//! The vocabulary of conditions that is about Services.

use super::conditions::{Context, Outcome, unread_links};
use crate::facts::netfilter::{Backend, Family, Owner, owner};
use crate::facts::{Question, Reading};
use crate::symbolic::{Certainty, Found, RuleAt, World};

/// Who translates connections to Services of Kubernetes.
const SERVICES: &[Owner] =
    &[Owner::KubeProxy, Owner::KubeRouter, Owner::Cilium, Owner::Antrea, Owner::OvnKubernetes, Owner::KubeOvn];
/// The device that NodeLocal DNSCache makes.
const NODE_LOCAL_DNS: &str = "nodelocaldns";

impl Context<'_> {
    /// What follows where no rule translates destinations: IPVS may.
    fn without_a_rule(&self, nothing: &str, services: impl Fn(u64) -> Outcome) -> Outcome {
        match &self.facts.ipvs_services {
            Reading::Ok(0) | Reading::Absent(_) => Outcome::fails(nothing),
            Reading::Ok(count) => services(*count),
            other => Outcome::unknown(Question::unread(other).shown_by(["ipvsadm", "-Ln"])),
        }
    }

    pub(super) fn dns_dnat_to_several(&self) -> Outcome {
        match self.world().map(|world| self.derived.dns_to_several(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => match &found.certainty {
                Certainty::Happens => Outcome::holds(format!(
                    "UDP to one address and port 53 goes to one of several name servers: {}",
                    found.place
                )),
                Certainty::Unknown(why) => Outcome::unknown(why),
                Certainty::DoesNot => self.without_a_rule(
                    "no rule spreads UDP to one address and port 53 over several name servers",
                    |services| Outcome::unknown(format!("IPVS has {services} services, which may spread it")),
                ),
            },
        }
    }

    pub(super) fn no_local_cache(&self) -> Outcome {
        match &self.facts.links {
            Reading::Ok(links) => match links.iter().find(|link| link.name == NODE_LOCAL_DNS) {
                Some(link) => Outcome::fails(format!("pods ask the cache on this node (device {})", link.name)),
                None => Outcome::holds(format!("there is no cache on this node (no device {NODE_LOCAL_DNS})")),
            },
            other => Outcome::unknown(unread_links(other)),
        }
    }

    pub(super) fn tcp_dnat_client_inside(&self) -> Outcome {
        let found = match self.world().map(|world| self.derived.bypass(world, &self.effort)) {
            Err(why) => return Outcome::unknown(why).of_services(true),
            Ok(found) => found,
        };
        let owners: Vec<Owner> = found.rules.iter().map(|at| self.owner_of(at)).collect();
        let unread = found.rules.iter().any(|at| at.position == 0);
        let of_services = unread || owners.iter().any(|owner| SERVICES.contains(owner));
        match &found.translated.certainty {
            Certainty::Happens => {
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
                Outcome::holds(detail).of_services(of_services).in_backend_of(self.world().ok(), found.rules.first())
            }
            Certainty::Unknown(why) => Outcome::unknown(why).of_services(of_services || found.rules.is_empty()),
            Certainty::DoesNot => {
                let nothing = match (found.is_translating, found.translated.place.as_str()) {
                    (false, _) => "no rule gives TCP connections another destination".to_owned(),
                    (true, "") => "no client that is given another destination reaches it past the translation through \
                                   this host (clients beyond a default route's device are assumed to have no way of their \
                                   own to it)"
                        .into(),
                    (true, place) => format!("{place} drops the resets of clients that are given another destination"),
                };
                self.without_a_rule(&nothing, |services| {
                    Outcome::unknown(format!("IPVS has {services} services, which may translate TCP")).of_services(true)
                })
            }
        }
    }

    /// Who writes a rule.
    fn owner_of(&self, at: &RuleAt) -> Owner {
        let found = self.world().ok().and_then(|world| Some((world.rules[at.set].ruleset, world.rule(at)?)));
        found.map_or(Owner::Other, |(ruleset, rule)| owner::owner(ruleset, &at.chain, rule))
    }

    pub(super) fn tcp_not_liberal(&self) -> Outcome {
        match &self.facts.conntrack.tcp_be_liberal {
            Reading::Ok(0) => {
                Outcome::holds("nf_conntrack_tcp_be_liberal is 0: segments outside the window are invalid")
            }
            Reading::Ok(value) => Outcome::fails(format!("nf_conntrack_tcp_be_liberal is {value}")),
            Reading::Absent(_) => Outcome::fails("nf_conntrack is not in the running kernel"),
            other => {
                let liberal = ["sysctl", "net.netfilter.nf_conntrack_tcp_be_liberal"];
                Outcome::unknown(Question::unread(other).shown_by(liberal))
            }
        }
    }

    pub(super) fn bypass_arrives(&self) -> Outcome {
        match self.world().map(|world| self.derived.bypass(world, &self.effort)) {
            Err(why) => Outcome::unknown(why),
            Ok(found) => undropped(
                &found.arrive,
                "no rule drops invalid TCP segments on their way to such clients",
                "invalid TCP segments get to such clients",
                "no invalid TCP segment gets to such a client",
            ),
        }
    }

    pub(super) fn source_nat_answered_here(&self) -> Outcome {
        match self.answers() {
            Err(why) => Outcome::unknown(why),
            Ok(found) => match &found.translated.certainty {
                Certainty::Happens => Outcome::holds(format!(
                    "TCP connections leave with an address of this host's as their source: {}",
                    found.translated.place
                ))
                .in_backend_of(self.world().ok(), found.rule.as_ref()),
                Certainty::Unknown(why) => Outcome::unknown(why),
                Certainty::DoesNot => {
                    Outcome::fails("no TCP connection leaves with an address of this host's as another source")
                }
            },
        }
    }

    pub(super) fn invalid_arrives(&self) -> Outcome {
        match self.answers() {
            Err(why) => Outcome::unknown(why),
            Ok(found) => undropped(
                &found.arrive,
                "no rule drops invalid TCP segments that are for this host itself",
                "invalid TCP segments that are for this host itself get to it",
                "no invalid TCP segment that answers such a connection gets to this host's own TCP",
            ),
        }
    }
}

impl Outcome {
    /// Remedies that add a rule use the backend of this one.
    fn in_backend_of(self, world: Option<&World<'_>>, at: Option<&RuleAt>) -> Self {
        let (Some(world), Some(at)) = (world, at) else { return self };
        let ipv6 = if at.chain.family == Family::Ipv6 { "6" } else { "" };
        match world.backend(at) {
            Backend::Legacy => self.with("iptables", format!("ip{ipv6}tables-legacy")),
            Backend::IptablesNft => self.with("iptables", format!("ip{ipv6}tables-nft")),
            // Of a chain that was not read as a whole its table tells.
            Backend::Nftables if at.position == 0 && at.chain.table == *"nat" => {
                self.with("iptables", format!("ip{ipv6}tables-nft"))
            }
            Backend::Nftables => self.with("nft", "nft"),
        }
    }
}

/// Whether invalid segments get to where they were sent; the place is that of a rule that drops some. In words: that none does,
/// that some get there all the same, and that there are none although none does.
fn undropped(found: &Found, all: &str, some: &str, none: &str) -> Outcome {
    match (&found.certainty, found.place.as_str()) {
        (Certainty::Happens, "") => Outcome::holds(all),
        (Certainty::Happens, place) => Outcome::holds(format!("{some}; {place} drops only some")),
        (Certainty::Unknown(why), _) => Outcome::unknown(why),
        (Certainty::DoesNot, "") => Outcome::fails(none),
        (Certainty::DoesNot, place) => Outcome::fails(format!("{place} drops invalid TCP segments")),
    }
}
