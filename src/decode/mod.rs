//! Bytes in, facts or a precise error out: pure, total, no default zero.
//!
//! Each submodule owns one kind of kernel answer: which [`Request`]s to make (given what was answered so far)
//! and how to read them. [`plan`] is the planner, [`snapshot`] the decoder; a live look and a replay run both.

mod conntrack;
mod datapath;
mod ethtool;
mod identity;
mod iptables;
mod links;
mod marks;
pub mod modules;
mod netstat;
mod nftables;
mod owner;
pub mod release;
mod routing;
mod services;
mod sets;
mod source_nat;
mod xtables;

pub use iptables::read_now as tables_read_now;
#[cfg(test)]
pub use source_nat::totals as source_nat_totals;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{Absence, Capture, Question, Request};
use crate::snapshot::{
    Collector, Conntrack, Failure, Netstat, NetworkNamespace, Reading, Snapshot, Source, SourceState, SourceStatus,
};

/// Which collectors are on.
pub type Collectors = BTreeSet<Collector>;

/// Requests of a whole look; a node with many tunnels needs a few hundred, one with many chains or sets thousands.
const MAX_REQUESTS: usize = 32_768;

/// Everything that has to be asked, as far as the answers in `capture` tell; the collector whose requests grow with
/// the node comes last.
fn wanted(capture: &Capture, collectors: &Collectors) -> Vec<Request> {
    let mut requests = Vec::new();
    let mut order: Vec<&Collector> = collectors.iter().collect();
    order.sort_by_key(|collector| **collector == Collector::Links);
    for collector in order {
        requests.extend(match collector {
            Collector::Conntrack => conntrack::requests(capture),
            Collector::Nat => {
                let links_on = collectors.contains(&Collector::Links);
                [nftables::requests(capture, links_on), iptables::requests(capture, links_on)].concat()
            }
            Collector::Links => [links::requests(capture), datapath::requests(capture)].concat(),
            Collector::Kernel => identity::requests(capture),
            Collector::Netstat => netstat::requests(),
            Collector::Verdict => Vec::new(),
        });
    }
    let mut questions: BTreeMap<String, Question> = BTreeMap::new();
    requests.retain(|request| match questions.entry(request.name.clone()) {
        Entry::Vacant(place) => {
            place.insert(request.question.clone());
            true
        }
        Entry::Occupied(known) => {
            debug_assert!(known.get().asks_the_same(&request.question), "two questions are called {}", request.name);
            false
        }
    });
    requests
}

/// The next requests; empty when nothing is left to ask.
pub fn plan(capture: &Capture, collectors: &Collectors) -> Vec<Request> {
    let mut requests = wanted(capture, collectors);
    requests.truncate(MAX_REQUESTS); // the rest stays unanswered, which makes its source a failed one
    requests.retain(|request| !capture.has(request));
    requests
}

/// Reads everything that was answered.
pub fn snapshot(capture: &Capture, collectors: &Collectors) -> Snapshot {
    let mut problems = Problems::default();
    let on = |collector| collectors.contains(&collector);
    let links = if on(Collector::Links) { links::decode(capture, &mut problems) } else { off(Collector::Links) };
    let tunnels = links.ok().map_or(&[][..], Vec::as_slice);
    let tunnels = if tunnels.iter().any(|link| link.up && link.tunnel.is_some()) { tunnels } else { &[] };
    let unread = || Failure::not_needed("not read: no tunnel is up");
    let failed = || Reading::Failed(unread());
    let (addresses, rules, routes, local_ports) = if tunnels.is_empty() {
        (Reading::Failed(unread()), Reading::Failed(unread()), Reading::Failed(unread()), Reading::Failed(unread()))
    } else {
        let tables = routing::Tables::read(capture);
        (
            routing::decode_all_addresses(capture, &mut problems),
            routing::decode_all_rules(&tables, &mut problems),
            routing::decode_all_routes(capture, &tables, tunnels, &mut problems),
            links::decode_local_ports(capture, &mut problems),
        )
    };
    let forwarding = [false, true].map(|ipv6| match tunnels {
        [] => failed(),
        _ => problems.note(Source::Routing, routing::decode_forwarding(capture, ipv6)),
    });
    let (ipvs_services, foreign_tunnels) = if on(Collector::Links) {
        let known = links.ok().map_or(&[][..], Vec::as_slice);
        let foreign = datapath::decode_foreign_tunnels(capture, known, &mut problems);
        (datapath::decode_ipvs(capture, &mut problems), foreign)
    } else {
        (off(Collector::Links), off(Collector::Links))
    };
    let (kernel, livepatches, distro) = if on(Collector::Kernel) {
        let kernel = identity::decode(capture, &mut problems);
        (kernel, identity::decode_livepatches(capture), identity::decode_distro(capture, &mut problems))
    } else {
        (off(Collector::Kernel), off(Collector::Kernel), off(Collector::Kernel))
    };
    let conntrack = if on(Collector::Conntrack) {
        conntrack::decode(capture, &mut problems)
    } else {
        let off = || off(Collector::Conntrack);
        Conntrack {
            cpus: self::off(Collector::Conntrack),
            entries: off(),
            entries_limit: off(),
            buckets: off(),
            tcp_be_liberal: off(),
        }
    };
    let netstat = if on(Collector::Netstat) {
        netstat::decode(capture, &mut problems)
    } else {
        let off = || off(Collector::Netstat);
        Netstat {
            udp_in_csum_errors: off(),
            udp6_in_csum_errors: off(),
            tcp_in_csum_errors: off(),
            tcp_syn_retransmits: off(),
        }
    };
    let nftables = if on(Collector::Nat) {
        nftables::decode(capture, on(Collector::Links), &mut problems)
    } else {
        off(Collector::Nat)
    };
    let mut legacy = |half: iptables::Half| {
        if on(Collector::Nat) { half.decode(capture, on(Collector::Links), &mut problems) } else { off(Collector::Nat) }
    };
    let iptables_legacy = [iptables::Half::Ipv4, iptables::Half::Ipv6].map(&mut legacy);
    let source_nat_rules = source_nat::all(&nftables, &iptables_legacy);
    let [legacy_ipv4, legacy_ipv6] = iptables_legacy;
    let source_nat_totals = source_nat_rules.as_ref().map(|rules| source_nat::totals(rules));
    Snapshot {
        nftables,
        legacy_ipv4,
        legacy_ipv6,
        source_nat_rules,
        source_nat_totals,
        hostname: capture.meta.hostname.clone(),
        captured_at: capture.meta.captured_at.clone(),
        online_cpus: capture.meta.online_cpus,
        network_namespace: NetworkNamespace::from_name(&capture.meta.network_namespace)
            .unwrap_or(NetworkNamespace::Unknown),
        kernel,
        livepatches,
        distro,
        conntrack,
        links,
        addresses,
        rules,
        routes,
        forwarding,
        ipvs_services,
        foreign_tunnels,
        local_ports,
        netstat,
        sources: problems.statuses(capture, &wanted(capture, collectors)),
    }
}

fn off<T>(collector: Collector) -> Reading<T> {
    Reading::Failed(Failure::SwitchedOff { collector: collector.name().into() })
}

/// A missing file is a fact only where its neighbour, which every kernel has, is there.
fn always_there<T>(capture: &Capture, reading: Reading<T>, neighbour: &Request) -> Reading<T> {
    match reading {
        Reading::Absent(why) if capture.get(neighbour).ok().is_none() => {
            Reading::Failed(Failure::Hidden { witness: None }.within(&neighbour.name).within(why))
        }
        other => other,
    }
}

/// What decoding found wrong, by source.
#[derive(Debug, Default)]
pub struct Problems {
    failed: BTreeMap<Source, String>,
    set: BTreeMap<Source, (SourceState, String)>,
    remarks: BTreeMap<Source, String>,
}

impl Problems {
    /// Passes a reading on, and makes its source a failed one if the reading failed.
    fn note<T>(&mut self, source: Source, reading: Reading<T>) -> Reading<T> {
        if let Reading::Failed(why) = &reading {
            self.fail(source, why.to_string());
        }
        reading
    }

    fn fail(&mut self, source: Source, why: String) {
        self.failed.entry(source).or_insert(why);
    }

    /// Settles the state of a source that was not asked.
    fn set<T>(&mut self, source: Source, reading: Reading<T>) {
        self.set.insert(source, (reading.state(), reading.why()));
    }

    /// Adds to the detail of a source that is all right.
    fn remark(&mut self, source: Source, text: String) {
        self.remarks.insert(source, text);
    }

    #[cfg(test)]
    fn remarks(&self, source: Source) -> &str {
        self.remarks.get(&source).map_or("", String::as_str)
    }

    /// The state of every source that this look needed.
    fn statuses(&self, capture: &Capture, wanted: &[Request]) -> Vec<SourceStatus> {
        let needed =
            |source: &Source| self.set.contains_key(source) || wanted.iter().any(|request| request.source == *source);
        Source::ALL.iter().copied().filter(needed).map(|source| self.status(source, capture, wanted)).collect()
    }

    fn status(&self, source: Source, capture: &Capture, wanted: &[Request]) -> SourceStatus {
        if let Some((state, detail)) = self.set.get(&source) {
            return SourceStatus { source, state: *state, detail: detail.clone() };
        }
        let mut worst = (SourceState::Ok, self.remarks.get(&source).cloned().unwrap_or_default());
        if let Some(why) = self.failed.get(&source) {
            worst = (SourceState::Failed, why.clone());
        }
        for request in wanted.iter().filter(|request| request.source == source) {
            let answer = capture.get(request);
            let state = answer.state();
            let expected = state == SourceState::Absent && request.absence == Absence::Expected;
            // Where only so much is read by design, whoever needed more says so.
            let too_large = request.is_limited()
                && answer.failure().is_some_and(|failure| matches!(failure.root(), Failure::TooLarge { .. }));
            if !expected && !too_large && state > worst.0 {
                worst = (state, answer.why());
            }
        }
        SourceStatus { source, state: worst.0, detail: worst.1 }
    }
}

/// A capture without answers, of an ordinary root process on a node.
#[cfg(test)]
pub fn test_capture() -> Capture {
    use crate::capture::{BYTE_ORDER, FORMAT, Meta};
    let meta = Meta {
        format: FORMAT,
        natwatch_version: "0.0.0".into(),
        byte_order: BYTE_ORDER.into(),
        hostname: "node".into(),
        captured_at: "2026-01-01T00:00:00Z".into(),
        online_cpus: Some(2),
        uid: 0,
        gid: 0,
        capabilities: vec!["CAP_NET_ADMIN".into()],
        network_namespace: "initial".into(),
        redacted: false,
    };
    Capture::new(meta, crate::snapshot::Unanswered::NotCaptured)
}
