//! A complete reading. Called by `serve::reading`, by `commands::capture`, and to replay a capture.
//!
//! Runs the readers in order (kernel and counters, links, rules with sets, conntrack entries, the distribution) and
//! publishes each part when it is complete, so that a reading that is cut off still yields the earlier parts. [`Parts`]
//! become `Facts` here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::identity::Identity;
use super::iptables::LegacyFamily;
use super::known::links::Standing;
use super::links::LinkFacts;
use super::nftables::RulesetInputs;
use super::sets::{self, OuterValues};
use super::{
    Collectors, Known, Node, Sources, conntrack, flows, links, lookups, neighbours, netstat, nftables, off, source_nat,
};
use crate::capture::{Ask, Capture, Meta, Replay};
use crate::facts::netfilter::Ruleset;
use crate::facts::{
    Collector, Conntrack, Facts, Failure, Flows, ForwardedPath, Neighbours, Netstat, NetworkNamespace, Reading, Source,
    Unanswered,
};

/// The parts published so far, each complete.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    node: Option<NodePart>,
    links: Option<Arc<LinkFacts>>,
    rules: Option<RulesPart>,
    flows: Option<Flows>,
    /// Distribution of the host's root file system.
    distro: Option<Reading<String>>,
    sources: Sources,
}

/// Parts that depend on no other: cheap, and published first.
#[derive(Clone, Debug)]
struct NodePart {
    identity: Identity,
    conntrack: Conntrack,
    netstat: Netstat,
    neighbours: Neighbours,
}

/// Rules of all backends, with their sets.
#[derive(Clone, Debug)]
struct RulesPart {
    nftables: Reading<Arc<Ruleset>>,
    /// `ip_tables`, `ip6_tables`
    legacy: [Reading<Arc<Ruleset>>; 2],
    /// See [`Facts::ipsec`].
    ipsec: Reading<bool>,
    /// See [`Facts::accepts_marks`].
    accepts_marks: Reading<bool>,
    /// See [`Facts::counts_entries`].
    counts_entries: Reading<bool>,
    /// See [`Facts::date`].
    dates: BTreeSet<u64>,
    /// See [`Facts::local_sources`].
    local_sources: Reading<BTreeMap<IpAddr, bool>>,
    /// See [`Facts::targets`].
    targets: Reading<BTreeMap<IpAddr, Option<u32>>>,
    /// See [`Facts::forwarded_paths`].
    forwarded_paths: Reading<Vec<ForwardedPath>>,
}

impl RulesPart {
    fn unread(why: &Failure) -> Self {
        let unread = || Reading::Failed(why.clone());
        Self {
            nftables: unread(),
            legacy: [unread(), unread()],
            ipsec: Reading::Failed(why.clone()),
            accepts_marks: Reading::Failed(why.clone()),
            counts_entries: Reading::Failed(why.clone()),
            dates: BTreeSet::new(),
            local_sources: Reading::Failed(why.clone()),
            targets: Reading::Failed(why.clone()),
            forwarded_paths: Reading::Failed(why.clone()),
        }
    }
}

/// Reads a node: kernel and counters first, then links, rules and conntrack entries, and last a file of the host's root
/// file system, which may hang. `publish` is called with the parts after each is complete. Also returns the memory for
/// the next reading, valid if this one was not cut.
pub fn all(
    ask: &mut dyn Ask,
    collectors: &Collectors,
    memory: &Known,
    publish: &mut dyn FnMut(&Parts),
) -> (Parts, Known) {
    let mut node = Node::new(ask, collectors, memory);
    let mut parts = Parts::default();
    let on = |collector| collectors.contains(&collector);
    let identity = if on(Collector::Kernel) {
        super::identity::read(&mut node)
    } else {
        Identity::unread(&off(Collector::Kernel))
    };
    let kernel = identity.kernel.clone();
    let conntrack = if on(Collector::Conntrack) {
        conntrack::read(&mut node)
    } else {
        Conntrack::unread(&off(Collector::Conntrack))
    };
    let entries = conntrack.entries.clone();
    let netstat =
        if on(Collector::Netstat) { netstat::read(&mut node) } else { Netstat::unread(&off(Collector::Netstat)) };
    let neighbours = if on(Collector::Neighbours) {
        neighbours::read(&mut node)
    } else {
        Neighbours::unread(&off(Collector::Neighbours))
    };
    parts.node = Some(NodePart { identity, conntrack, netstat, neighbours });
    parts.sources = node.sources.clone();
    publish(&parts);
    let links = if on(Collector::Links) { links::read(&mut node) } else { LinkFacts::unread(&off(Collector::Links)) };
    let inputs = inputs(&links, super::identity::drops_clashes(&kernel));
    let standing = Arc::clone(&links.standing);
    parts.links = Some(Arc::new(links));
    parts.sources = node.sources.clone();
    publish(&parts);
    let rules = if on(Collector::Nat) {
        read_rules(&mut node, inputs, &standing)
    } else {
        RulesPart::unread(&off(Collector::Nat))
    };
    let rulesets = [rules.nftables.clone(), rules.legacy[0].clone(), rules.legacy[1].clone()];
    parts.rules = Some(rules);
    parts.sources = node.sources.clone();
    publish(&parts);
    parts.flows = Some(match &parts.links {
        Some(links) if on(Collector::Flows) => flows::read(&mut node, rulesets, links, &entries),
        _ => Flows::unread(&Reading::Failed(off(Collector::Flows))),
    });
    parts.sources = node.sources.clone();
    publish(&parts);
    let kernel = on(Collector::Kernel);
    parts.distro =
        Some(if kernel { super::identity::distro(&mut node) } else { Reading::Failed(off(Collector::Kernel)) });
    let Node { sources, left, .. } = node;
    parts.sources = sources;
    (parts, left)
}

/// Facts from a saved capture.
pub fn replay(capture: &Capture, collectors: &Collectors) -> Facts {
    replay_after(capture, collectors, &Known::default()).0
}

/// Like [`replay`], after an earlier reading; also returns the memory for the next.
pub(crate) fn replay_after(capture: &Capture, collectors: &Collectors, known: &Known) -> (Facts, Known) {
    let (parts, left) = all(&mut Replay::new(capture), collectors, known, &mut |_| ());
    (parts.facts(&capture.meta, collectors, &Failure::NotAnswered(Unanswered::NotCaptured)), left)
}

/// Reads the kernel's identity only.
pub(crate) fn identity(node: &mut Node<'_>) -> Identity {
    super::identity::read(node)
}

fn inputs(links: &LinkFacts, drops_clashes: bool) -> RulesetInputs {
    let (known, foreign) = (links.known(), links.standing.foreign.as_slice());
    let names: BTreeSet<String> =
        super::links::relevant(known, foreign).iter().map(|at| known[*at].name.clone()).collect();
    let values = OuterValues::of(known, foreign, &links.standing.addresses);
    RulesetInputs { devices: (!names.is_empty()).then_some(names), values, tested_elsewhere: 0, drops_clashes }
}

/// Legacy tables first: bits of the mark that their rules test may be set by rules of nf_tables.
fn read_rules(node: &mut Node<'_>, mut inputs: RulesetInputs, standing: &Standing) -> RulesPart {
    let legacy = [LegacyFamily::Ipv4, LegacyFamily::Ipv6].map(|half| half.read(node));
    let known = legacy.iter().filter_map(Reading::ok);
    inputs.tested_elsewhere = known.fold(0, |all, ruleset| all | ruleset.mark_writers.tested);
    let nftables = nftables::read(node, &inputs);
    let mut all = [nftables].into_iter().chain(legacy).collect::<Vec<_>>();
    let accepts_marks = match inputs.devices.is_some() {
        true => links::accepts_marks(node),
        false => Reading::Absent("not read: no tunnel is up".into()),
    };
    let (ipsets, ipsec, counts_entries, dates, local_sources, targets, forwarded_paths) = {
        let known = all.iter().filter_map(Reading::ok);
        let asked: Vec<_> = known.map(|ruleset| (node.left.lookups(ruleset), Arc::as_ref(ruleset))).collect();
        let ipsec = match asked.iter().any(|(lookups, _)| lookups.ipsec) {
            true => super::ipsec::stands(node),
            false => Reading::Failed(Failure::not_needed("not read: no rule asks for IPsec")),
        };
        let counts_entries = match asked.iter().any(|(lookups, _)| lookups.counts) {
            true => conntrack::counts_entries(node),
            false => Reading::Failed(Failure::not_needed("not read: no rule asks what entries have counted")),
        };
        let dates = asked.iter().flat_map(|(lookups, _)| &lookups.dates).copied().collect();
        let ipsets = sets::read_ipsets(node, asked.iter().map(|(lookups, _)| Arc::as_ref(lookups)), &inputs.values);
        let local_sources = super::routing::local_ones(node, &lookups::sources(&asked));
        let addresses = lookups::targets(&asked);
        let targets = super::routing::paths_to(node, &addresses);
        let forwarded_paths = super::routing::forwarded::paths(node, standing, &addresses);
        (ipsets, ipsec, counts_entries, dates, local_sources, targets, forwarded_paths)
    };
    for ruleset in all.iter_mut().filter(|_| !ipsets.is_empty()) {
        if let Reading::Ok(ruleset) = ruleset {
            Arc::make_mut(ruleset).sets.extend(ipsets.iter().map(|(id, set)| (id.clone(), set.clone())));
        }
    }
    let [nftables, ipv4, ipv6] = <[_; 3]>::try_from(all).unwrap_or_else(|_| unreachable!("three went in"));
    let legacy = [ipv4, ipv6];
    RulesPart { nftables, legacy, ipsec, accepts_marks, counts_entries, dates, local_sources, targets, forwarded_paths }
}

impl Parts {
    /// The facts; parts not yet published are `Failed` for the reason `missing`.
    pub fn facts(self, meta: &Meta, collectors: &Collectors, missing: &Failure) -> Facts {
        let unread = |source: Source| {
            let there = match source.collector() {
                Collector::Links => self.links.is_some(),
                Collector::Nat => self.rules.is_some(),
                Collector::Flows => self.flows.is_some(),
                Collector::Kernel => self.node.is_some() && self.distro.is_some(),
                _ => self.node.is_some(),
            };
            (!there).then(|| Reading::<()>::Failed(missing.clone()))
        };
        let sources = self.sources.statuses(collectors, unread);
        let node = self.node.unwrap_or_else(|| NodePart {
            identity: Identity::unread(missing),
            conntrack: Conntrack::unread(missing),
            netstat: Netstat::unread(missing),
            neighbours: Neighbours::unread(missing),
        });
        let links = self.links.map_or_else(|| LinkFacts::unread(missing), Arc::unwrap_or_clone);
        let rules = self.rules.unwrap_or_else(|| RulesPart::unread(missing));
        let source_nat_rules = source_nat::all(&rules.nftables, &rules.legacy);
        let source_nat_totals = source_nat_rules.as_ref().map(|rules| source_nat::totals(rules));
        let [legacy_ipv4, legacy_ipv6] = rules.legacy;
        Facts {
            hostname: meta.hostname.clone(),
            captured_at: meta.captured_at.clone(),
            network_namespace: NetworkNamespace::from_name(&meta.network_namespace)
                .unwrap_or(NetworkNamespace::Unknown),
            online_cpus: node.identity.online_cpus,
            kernel: node.identity.kernel,
            livepatches: node.identity.livepatches,
            distro: self.distro.unwrap_or_else(|| Reading::Failed(missing.clone())),
            conntrack: node.conntrack,
            netstat: node.netstat,
            neighbours: node.neighbours,
            flows: self.flows.unwrap_or_else(|| Flows::unread(&Reading::Failed(missing.clone()))),
            links: links.links,
            addresses: links.standing.addresses.clone(),
            rules: links.standing.rules.clone(),
            routes: links.standing.routes.clone(),
            unmarked_routes: links.standing.unmarked_routes.clone(),
            forwarding: links.standing.forwarding.clone(),
            local_ports: links.local_ports,
            ipvs_services: links.ipvs_services,
            programs: links.programs,
            ipsec: rules.ipsec,
            accepts_marks: rules.accepts_marks,
            counts_entries: rules.counts_entries,
            date: date(&meta.captured_at, &rules.dates),
            local_sources: rules.local_sources,
            targets: rules.targets,
            forwarded_paths: rules.forwarded_paths,
            bridges_call_rules: links.bridges_call_rules,
            foreign_tunnels: links.foreign_tunnels,
            nftables: rules.nftables,
            legacy_ipv4,
            legacy_ipv6,
            source_nat_rules,
            source_nat_totals,
            sources,
        }
    }
}

/// The last of these dates that had passed when a reading began; 0: none had.
fn date(captured_at: &str, dates: &BTreeSet<u64>) -> Reading<u64> {
    let now = captured_at.parse::<jiff::Timestamp>().map(|now| u64::try_from(now.as_nanosecond()).unwrap_or(0));
    match now {
        Ok(now) => Reading::Ok(dates.range(..=now).next_back().copied().unwrap_or(0)),
        Err(_) => Reading::Failed(Failure::unexpected(format!("{captured_at:?} is no time"))),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::capture::archive::testing::recorded_answer;
    use crate::facts::{SourceState, SourceStatus};
    use crate::read::testing::{Played, capture};

    static LINKS: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/links"));

    fn missing() -> Failure {
        Failure::NotAnswered(Unanswered::InTime { milliseconds: 1500 })
    }

    fn facts(parts: &Parts) -> Facts {
        let collectors: Collectors = Collector::ALL.iter().copied().collect();
        parts.clone().facts(&capture().meta, &collectors, &missing())
    }

    fn of(node: &Facts, collectors: &[Collector]) -> Vec<SourceStatus> {
        let mine = |status: &&SourceStatus| collectors.contains(&status.source.collector());
        node.sources.iter().filter(mine).cloned().collect()
    }

    fn are_missing(statuses: &[SourceStatus]) -> bool {
        !statuses.is_empty()
            && statuses.iter().all(|it| it.state == SourceState::Failed && it.detail == missing().to_string())
    }

    #[test]
    fn what_was_not_published_failed() {
        let nothing = facts(&Parts::default());
        assert!(are_missing(&nothing.sources), "{:?}", nothing.sources);
        assert_eq!(nothing.kernel, Reading::Failed(missing()));
        assert_eq!(nothing.conntrack, Conntrack::unread(&missing()));
        assert_eq!(nothing.netstat, Netstat::unread(&missing()));
        assert_eq!(nothing.links, Reading::Failed(missing()));
        assert_eq!(nothing.foreign_tunnels, Reading::Failed(missing()), "and not: there are none");
        assert_eq!(nothing.ipvs_services, Reading::Failed(missing()));
        let rules = [&nothing.nftables, &nothing.legacy_ipv4, &nothing.legacy_ipv6];
        assert!(rules.iter().all(|rules| **rules == Reading::Failed(missing())));
        assert!(nothing.source_nat_rules.failure().is_some() && nothing.source_nat_totals.failure().is_some());
    }

    /// A node that answers two questions; then each part is whole as far as it was published.
    #[test]
    fn parts_are_published_one_after_the_other() {
        let collectors: Collectors = Collector::ALL.iter().copied().collect();
        let mut ask = Played(|request: &crate::capture::Request| match request.name.as_str() {
            "procfs/sys/net/netfilter/nf_conntrack_count" => Reading::Ok(b"7\n".to_vec()),
            "netlink/route/links" => Reading::Ok(LINKS.to_vec()),
            _ => Reading::Denied("EPERM".into()),
        });
        let mut published = Vec::new();
        let (all, _) =
            all(&mut ask, &collectors, &Known::default(), &mut |parts: &Parts| published.push(parts.clone()));
        let [first, second, _, third] = published.as_slice() else { panic!("{} publications", published.len()) };

        let [first, second, third, all] = [facts(first), facts(second), facts(third), facts(&all)];
        assert_eq!(first.conntrack.entries, Reading::Ok(7));
        assert_eq!(first.links, Reading::Failed(missing()));
        assert!(are_missing(&of(&first, &[Collector::Links])) && are_missing(&of(&first, &[Collector::Nat])));
        let kernel = |facts: &Facts| are_missing(&of(facts, &[Collector::Kernel]));
        assert!(kernel(&first) && kernel(&third) && !kernel(&all), "the distribution comes last");
        let node = [Collector::Conntrack, Collector::Netstat];
        assert!(of(&first, &node).iter().all(|status| status.detail != missing().to_string()));

        assert_eq!(of(&second, &node), of(&first, &node), "what was published stays");
        assert_eq!(second.tunnels().count(), 1);
        let rtnetlink = second.sources.iter().find(|status| status.source == Source::Rtnetlink);
        assert_eq!(rtnetlink.map(|status| status.state), Some(SourceState::Denied), "the forwarding database");
        assert!(are_missing(&of(&second, &[Collector::Nat])));

        assert_eq!(of(&all, &[Collector::Links]), of(&second, &[Collector::Links]));
        assert_eq!(all.links, second.links);
        assert!(all.sources.iter().all(|status| status.detail != missing().to_string()), "{:?}", all.sources);
    }
}
