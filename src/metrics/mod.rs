//! Metric samples of one reading. A sample is added by the handle of its row in [`METRICS`], with that row's labels, so
//! a misspelt name does not compile. `serve::http` prints them with [`exposition`].

pub mod exposition;
mod flows;
mod handle;
mod process;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::advisory::State;
use crate::facts::netfilter::{self, Counter, SourceNatKind, SourceNatTotal};
use crate::facts::{
    Collector, ConntrackCounter, Facts, Link, Reading, Source, SourceState, Tunnel, with_lower_devices,
};
use crate::judge::{ConditionState, Report};
use handle::{Handle, Labels};
pub(crate) use handle::{Metric, MetricKind};
pub(crate) use process::{Process, add_process, add_server, add_web_config};
use table::{
    AdvisoryInfoLabels, AdvisoryLabels, BuildLabels, CollectorLabels, ConditionLabels, CpuLabels, DefectLabels,
    FamilyLabels, FeatureLabels, KernelLabels, NamespaceLabels, SourceLabels, SourceNatLabels, TunnelLabels,
    UnseenLabels,
};
pub use table::{METRICS, table};

/// A sample's value. Counters stay integers, since a float cannot count beyond 2⁵³ one by one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum SampleValue {
    /// An integer.
    Whole(u64),
    /// A float, such as seconds.
    Real(f64),
}

/// All samples of one metric.
#[derive(Clone, Debug)]
pub struct MetricFamily {
    /// Row in the table.
    pub metric: &'static Metric,
    /// Label values of all samples, concatenated: a scrape has some 900.
    text: String,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    /// Offset of its label values in `text`.
    begin: usize,
    /// End offset of each label value.
    ends: [usize; MAX_LABELS],
    value: SampleValue,
}

/// Maximum number of labels of a metric.
const MAX_LABELS: usize = 6;

impl MetricFamily {
    /// Label values, in table order, and value of each sample.
    pub fn samples(&self) -> impl Iterator<Item = (impl Iterator<Item = &str>, SampleValue)> {
        self.samples.iter().map(|sample| (self.labels(sample), sample.value))
    }

    fn labels<'f>(&'f self, sample: &'f Sample) -> impl Iterator<Item = &'f str> {
        let begins = std::iter::once(sample.begin).chain(sample.ends);
        begins.zip(sample.ends).take(self.metric.labels.len()).map(|(begin, end)| &self.text[begin..end])
    }

    fn add(&mut self, labels: &impl Labels, value: SampleValue) {
        let begin = self.text.len();
        let mut ends = [begin; MAX_LABELS];
        for (label, end) in labels.values().zip(&mut ends) {
            self.text.push_str(label);
            *end = self.text.len();
        }
        self.samples.push(Sample { begin, ends, value });
    }
}

/// All families of one reading, in table order.
#[derive(Clone, Debug, Default)]
pub struct Families {
    families: BTreeMap<usize, MetricFamily>,
}

impl Families {
    fn add<L: Labels>(&mut self, metric: Handle<L>, labels: L, value: SampleValue) {
        const { assert!(L::NAMES.len() <= MAX_LABELS) };
        let row = &METRICS[metric.position];
        let new = || MetricFamily { metric: row, text: String::new(), samples: Vec::new() };
        self.families.entry(metric.position).or_insert_with(new).add(&labels, value);
    }

    fn flag<L: Labels>(&mut self, metric: Handle<L>, labels: L, value: bool) {
        self.add(metric, labels, SampleValue::Whole(value.into()));
    }

    fn whole(&mut self, metric: Handle<()>, value: u64) {
        self.add(metric, (), SampleValue::Whole(value));
    }

    fn reading(&mut self, metric: Handle<()>, reading: &Reading<u64>) {
        if let Reading::Ok(value) = reading {
            self.whole(metric, *value);
        }
    }

    /// All families, in table order.
    pub fn iter(&self) -> impl Iterator<Item = &MetricFamily> {
        self.families.values()
    }

    /// Keeps the families of these collectors, and those of no collector.
    pub fn retain(&mut self, collectors: &[Collector]) {
        self.families.retain(|_, family| {
            if matches!(family.metric.labels, ["collector"] | ["source", "state"]) {
                let MetricFamily { text, samples, .. } = family;
                samples.retain(|sample| {
                    let label = &text[sample.begin..sample.ends[0]];
                    let of_source = Source::from_name(label).map(Source::collector);
                    Collector::from_name(label).or(of_source).is_none_or(|owner| collectors.contains(&owner))
                });
            }
            let owners = family.metric.collectors;
            owners.is_empty() || owners.iter().any(|owner| collectors.contains(owner))
        });
    }
}

/// Settings that decide which series are printed.
#[derive(Clone, Debug)]
pub struct MetricSettings {
    /// `--collector.links.max-devices`
    pub max_devices: usize,
    /// `--collector.conntrack.per-cpu`
    pub per_cpu: bool,
    /// `--collector.verdict.conditions`
    pub conditions: bool,
    /// `--collector.flows.destinations`
    pub flow_destinations: usize,
    /// Enabled collectors.
    pub collectors: crate::read::Collectors,
}

/// Number of tunnels with series; the others are counted in `natwatch_series_omitted`.
const MAX_TUNNELS: usize = 16;

/// Number of source-NAT kinds with series, 4 each; a node may have 500. The others are counted in
/// `natwatch_series_omitted`.
const MAX_SOURCE_NAT_KINDS: usize = 16;

/// All samples of one reading. `durations` is empty for a replay.
pub fn families(
    report: &Report,
    facts: &Facts,
    durations: &BTreeMap<Collector, Duration>,
    settings: &MetricSettings,
) -> Families {
    let mut out = Families::default();
    if settings.collectors.contains(&Collector::Verdict) {
        verdicts(&mut out, report, settings);
    }
    if settings.collectors.contains(&Collector::Kernel) {
        kernel(&mut out, report, facts);
    }
    out.flag(table::NETWORK_NAMESPACE_INFO, NamespaceLabels { kind: facts.network_namespace }, true);
    // In a capture this may be any text.
    let looked_at = facts.captured_at.parse().map(jiff::Timestamp::as_second).ok();
    if let Some(seconds) = looked_at.and_then(|seconds| seconds.try_into().ok()) {
        out.whole(table::REPORT_TIMESTAMP_SECONDS, seconds);
    }
    conntrack(&mut out, facts, settings);
    let omitted = source_nat(&mut out, facts) + links(&mut out, report, facts, settings);
    if settings.collectors.contains(&Collector::Nat) || settings.collectors.contains(&Collector::Links) {
        out.whole(table::SERIES_OMITTED, omitted);
    }
    let netstat = &facts.netstat;
    out.reading(table::NETSTAT_UDP_IN_CSUM_ERRORS, &netstat.udp_in_csum_errors);
    out.reading(table::NETSTAT_UDP6_IN_CSUM_ERRORS, &netstat.udp6_in_csum_errors);
    out.reading(table::NETSTAT_TCP_IN_CSUM_ERRORS, &netstat.tcp_in_csum_errors);
    out.reading(table::NETSTAT_TCP_SYN_RETRANSMITS, &netstat.tcp_syn_retransmits);
    for (found, family) in facts.neighbours.0.iter().zip([netfilter::Family::Ipv4, netfilter::Family::Ipv6]) {
        let Some(found) = found.ok() else { continue };
        out.add(table::NEIGHBOUR_ENTRIES, FamilyLabels { family }, SampleValue::Whole(found.entries.into()));
        out.add(table::NEIGHBOUR_ENTRIES_LIMIT, FamilyLabels { family }, SampleValue::Whole(found.limit.into()));
    }
    flows::add(&mut out, report, facts, looked_at, settings);
    health(&mut out, report, facts, durations, settings);
    let build = BuildLabels { version: env!("CARGO_PKG_VERSION"), arch: std::env::consts::ARCH };
    out.flag(table::BUILD_INFO, build, true);
    out
}

fn verdicts(out: &mut Families, report: &Report, settings: &MetricSettings) {
    for finding in &report.advisories {
        let advisory = finding.id.as_str();
        if finding.state != State::Unknown {
            out.flag(table::EXPOSURE, AdvisoryLabels { advisory }, finding.state == State::Exposed);
        }
        let (severity, state) = (finding.severity, finding.state);
        let condition = finding.deciding().map_or("", |condition| &condition.id);
        out.flag(table::ADVISORY_INFO, AdvisoryInfoLabels { advisory, severity, state, condition }, true);
        if finding.unseen {
            out.flag(table::ADVISORY_UNSEEN, UnseenLabels { advisory, severity }, true);
        }
        for condition in finding.conditions.iter().filter(|_| settings.conditions) {
            let holds = match condition.state {
                ConditionState::Holds => true,
                ConditionState::Fails => false,
                ConditionState::Unknown => continue,
            };
            out.flag(table::ADVISORY_CONDITION, ConditionLabels { advisory, condition: &condition.id }, holds);
        }
        if finding.accepted.is_some() {
            out.flag(table::ADVISORY_ACCEPTED, AdvisoryLabels { advisory }, true);
        }
    }
}

fn kernel(out: &mut Families, report: &Report, facts: &Facts) {
    if let Reading::Ok(kernel) = &facts.kernel {
        let distro = facts.distro.ok().map_or("", String::as_str);
        let labels = KernelLabels { release: &kernel.release, distro, upstream: &kernel.base.to_string() };
        out.flag(table::KERNEL_INFO, labels, true);
    }
    for defect in &report.defects {
        let labels = DefectLabels { defect: &defect.id, state: defect.state, basis: defect.basis };
        out.flag(table::KERNEL_DEFECT_INFO, labels, true);
    }
}

fn conntrack(out: &mut Families, facts: &Facts, settings: &MetricSettings) {
    out.reading(table::CONNTRACK_ENTRIES, &facts.conntrack.entries);
    out.reading(table::CONNTRACK_ENTRIES_LIMIT, &facts.conntrack.entries_limit);
    out.reading(table::CONNTRACK_BUCKETS, &facts.conntrack.buckets);
    for (counter, value) in facts.conntrack.totals().ok().into_iter().flatten() {
        out.whole(counter_metric(*counter), *value);
    }
    for cpu in facts.conntrack.cpus.ok().into_iter().flatten().filter(|_| settings.per_cpu) {
        let Some(number) = cpu.cpu.map(|cpu| cpu.to_string()) else { continue };
        for (counter, metric) in [
            (ConntrackCounter::InsertFailed, table::CONNTRACK_CPU_INSERT_FAILED),
            (ConntrackCounter::Drop, table::CONNTRACK_CPU_DROP),
        ] {
            if let Some(value) = cpu.counters.get(&counter) {
                out.add(metric, CpuLabels { cpu: &number }, SampleValue::Whole(*value));
            }
        }
    }
}

fn counter_metric(counter: ConntrackCounter) -> Handle<()> {
    match counter {
        ConntrackCounter::Found => table::CONNTRACK_FOUND,
        ConntrackCounter::Invalid => table::CONNTRACK_INVALID,
        ConntrackCounter::Insert => table::CONNTRACK_INSERT,
        ConntrackCounter::InsertFailed => table::CONNTRACK_INSERT_FAILED,
        ConntrackCounter::Drop => table::CONNTRACK_DROP,
        ConntrackCounter::EarlyDrop => table::CONNTRACK_EARLY_DROP,
        ConntrackCounter::Error => table::CONNTRACK_ERROR,
        ConntrackCounter::SearchRestart => table::CONNTRACK_SEARCH_RESTART,
        ConntrackCounter::ClashResolve => table::CONNTRACK_CLASH_RESOLVE,
        ConntrackCounter::ChainTooLong => table::CONNTRACK_CHAINTOOLONG,
        ConntrackCounter::ExpectNew => table::CONNTRACK_EXPECT_NEW,
        ConntrackCounter::ExpectCreate => table::CONNTRACK_EXPECT_CREATE,
        ConntrackCounter::ExpectDelete => table::CONNTRACK_EXPECT_DELETE,
    }
}

/// Source-NAT rules by kind; returns the number of series left out.
fn source_nat(out: &mut Families, facts: &Facts) -> u64 {
    let mut omitted = 0;
    for (position, (kind, total)) in ranked_kinds(facts).into_iter().enumerate() {
        let SourceNatKind { backend, family, owner, action, randomization } = *kind;
        let SourceNatTotal { rules, uncounted, counted } = *total;
        if position >= MAX_SOURCE_NAT_KINDS {
            omitted += if counted.is_some() { 4 } else { 2 };
            continue;
        }
        let labels = SourceNatLabels { backend, family, owner, action, port_randomization: randomization };
        out.add(table::SOURCE_NAT_RULES, labels, SampleValue::Whole(rules));
        out.add(table::SOURCE_NAT_RULES_UNCOUNTED, labels, SampleValue::Whole(uncounted));
        if let Some(Counter { packets, bytes }) = counted {
            out.add(table::SOURCE_NAT_RULE_PACKETS, labels, SampleValue::Whole(packets));
            out.add(table::SOURCE_NAT_RULE_BYTES, labels, SampleValue::Whole(bytes));
        }
    }
    omitted
}

/// Kinds with rules first, then by labels. Not by number of rules, so that a kind's series do not appear and disappear
/// with other kinds' rules.
fn ranked_kinds(facts: &Facts) -> Vec<(&SourceNatKind, &SourceNatTotal)> {
    let mut kinds: Vec<_> = facts.source_nat_totals.ok().into_iter().flatten().collect();
    kinds.sort_by_key(|(kind, total)| (total.rules == 0, **kind));
    kinds
}

/// Tunnels and their devices; returns the number of series left out.
fn links(out: &mut Families, report: &Report, facts: &Facts, settings: &MetricSettings) -> u64 {
    if facts.links.ok().is_none() {
        return 0;
    }
    let mut tunnels: Vec<(&Link, &Tunnel)> = facts.tunnels().collect();
    out.whole(table::TUNNELS, tunnels.len() as u64);
    tunnels.sort_by_key(|(link, _)| (!link.up, &link.name));
    for (link, tunnel) in tunnels.iter().take(MAX_TUNNELS) {
        let labels = TunnelLabels {
            device: &link.name,
            kind: tunnel.kind,
            id: &tunnel.id.map_or(String::new(), |id| id.to_string()),
            port: &tunnel.port.map_or(String::new(), |port| port.to_string()),
            underlay: &facts.underlay_names(tunnel).unwrap_or_default(),
            udp_checksum: tunnel.udp_checksum,
        };
        out.flag(table::TUNNEL_INFO, labels, true);
    }
    let mut omitted = tunnels.len().saturating_sub(MAX_TUNNELS);
    let devices = feature_devices(report, facts);
    for (position, device) in devices.iter().enumerate() {
        for (feature, state) in device.features.ok().into_iter().flatten() {
            if position >= settings.max_devices {
                omitted += 3;
                continue;
            }
            let labels = FeatureLabels { device: &device.name, feature: *feature };
            out.flag(table::INTERFACE_FEATURE_ENABLED, labels, state.enabled);
            out.flag(table::INTERFACE_FEATURE_WANTED, labels, state.wanted);
            out.flag(table::INTERFACE_FEATURE_FIXED, labels, state.fixed);
        }
    }
    omitted as u64
}

/// Tunnels that are up and their underlay devices: those of exposed tunnels first, then by name.
fn feature_devices<'a>(report: &Report, facts: &'a Facts) -> Vec<&'a Link> {
    let links = facts.known_links();
    let exposed = |link: &Link| {
        let mut exposed = report.advisories.iter().filter(|finding| finding.state == State::Exposed);
        exposed.any(|finding| finding.subject.as_deref() == Some(&link.name))
    };
    let mut rank: BTreeMap<&str, (bool, &Link)> = BTreeMap::new();
    for (link, tunnel) in facts.tunnels().filter(|(link, _)| link.up) {
        let underlay = tunnel.underlay.ok().into_iter().flatten();
        let below = underlay.flat_map(|index| with_lower_devices(links, *index)).map(|at| &links[at]);
        for device in std::iter::once(link).chain(below) {
            let unexposed = !exposed(link);
            rank.entry(&device.name).and_modify(|(rank, _)| *rank &= unexposed).or_insert((unexposed, device));
        }
    }
    let mut ranked: Vec<_> = rank.into_iter().map(|(name, (rank, link))| ((rank, name), link)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, link)| link).collect()
}

fn health(
    out: &mut Families,
    report: &Report,
    facts: &Facts,
    durations: &BTreeMap<Collector, Duration>,
    settings: &MetricSettings,
) {
    for status in &facts.sources {
        out.flag(table::SOURCE_INFO, SourceLabels { source: status.source, state: status.state }, true);
    }
    for collector in settings.collectors.iter() {
        let success = match collector {
            Collector::Verdict => report.advisories.iter().all(|finding| finding.state != State::Unknown),
            _ => facts
                .sources
                .iter()
                .filter(|status| status.source.collector() == *collector)
                .all(|status| matches!(status.state, SourceState::Ok | SourceState::Absent)),
        };
        out.flag(table::SCRAPE_COLLECTOR_SUCCESS, CollectorLabels { collector: *collector }, success);
        // A collector without requests took no time.
        if !durations.is_empty() {
            let duration = durations.get(collector).copied().unwrap_or_default();
            let labels = CollectorLabels { collector: *collector };
            out.add(table::SCRAPE_COLLECTOR_DURATION_SECONDS, labels, SampleValue::Real(duration.as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_metric() {
        for counter in ConntrackCounter::ALL {
            let row = &METRICS[counter_metric(*counter).position];
            assert_eq!(row.name, format!("natwatch_conntrack_{counter}_total"));
        }
    }
}
