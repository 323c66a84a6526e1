//! The samples of one look. A sample can only be made through the [`METRICS`] table, with exactly the labels that it
//! declares.

mod table;

use std::collections::BTreeMap;
use std::time::Duration;

use crate::advisory::State;
use crate::advisory::defects::DefectState;
use crate::judge::{ConditionState, Report};
use crate::snapshot::netfilter::{Counter, SourceNatKind, SourceNatTotal};
use crate::snapshot::{
    Collector, ConntrackCounter, Link, Reading, Snapshot, Source, SourceState, Tunnel, with_lower_devices,
};
pub use table::{Kind, METRICS, Metric, table};

/// A value. Counters stay whole numbers: a float loses increments beyond 2⁵³.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// A whole number.
    Whole(u64),
    /// Seconds.
    Real(f64),
}

/// All samples of one metric.
#[derive(Clone, Debug)]
pub struct Family {
    /// Its row in the table.
    pub metric: &'static Metric,
    /// The label values of all samples, one after the other: a scrape has some 900 of them.
    text: String,
    samples: Vec<Sample>,
}

#[derive(Clone, Debug)]
struct Sample {
    /// Where its label values begin in the text.
    begin: usize,
    /// Where each of them ends.
    ends: [usize; MAX_LABELS],
    value: Value,
}

/// Most labels that a metric has.
const MAX_LABELS: usize = 6;

impl Family {
    /// Label values, in the order of the table, and value of each sample.
    pub fn samples(&self) -> impl Iterator<Item = (impl Iterator<Item = &str>, Value)> {
        self.samples.iter().map(|sample| (self.labels(sample), sample.value))
    }

    fn labels<'f>(&'f self, sample: &'f Sample) -> impl Iterator<Item = &'f str> {
        let begins = std::iter::once(sample.begin).chain(sample.ends);
        begins.zip(sample.ends).take(self.metric.labels.len()).map(|(begin, end)| &self.text[begin..end])
    }

    fn add(&mut self, labels: &[&str], value: Value) {
        let begin = self.text.len();
        let mut ends = [begin; MAX_LABELS];
        for (label, end) in labels.iter().zip(&mut ends) {
            self.text.push_str(label);
            *end = self.text.len();
        }
        self.samples.push(Sample { begin, ends, value });
    }
}

/// All families of one look, in the order of the table.
#[derive(Clone, Debug, Default)]
pub struct Families {
    families: BTreeMap<usize, Family>,
}

impl Families {
    fn add<const N: usize>(&mut self, name: &'static str, labels: [&str; N], value: Value) {
        const { assert!(N <= MAX_LABELS) };
        let position = table::position(name);
        debug_assert!(position.is_some_and(|at| METRICS[at].labels.len() == N), "{name} with {N} labels");
        let Some(position) = position else { return };
        let new = || Family { metric: &METRICS[position], text: String::new(), samples: Vec::new() };
        self.families.entry(position).or_insert_with(new).add(&labels, value);
    }

    fn flag<const N: usize>(&mut self, name: &'static str, labels: [&str; N], value: bool) {
        self.add(name, labels, Value::Whole(value.into()));
    }

    fn reading(&mut self, name: &'static str, reading: &Reading<u64>) {
        if let Reading::Ok(value) = reading {
            self.add(name, [], Value::Whole(*value));
        }
    }

    /// All families.
    pub fn iter(&self) -> impl Iterator<Item = &Family> {
        self.families.values()
    }

    /// Keeps what belongs to these collectors, and what belongs to none.
    pub fn retain(&mut self, collectors: &[Collector]) {
        self.families.retain(|_, family| {
            if matches!(family.metric.labels, ["collector"] | ["source", "state"]) {
                let Family { text, samples, .. } = family;
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

/// What the metrics need besides report and snapshot.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `--collector.links.max-devices`
    pub max_devices: usize,
    /// `--collector.conntrack.per-cpu`
    pub per_cpu: bool,
    /// Which collectors are on.
    pub collectors: crate::decode::Collectors,
}

/// Tunnels with a series of their own; the rest is counted in `natwatch_series_omitted`.
const MAX_TUNNELS: usize = 16;

/// Kinds of source-NAT rules with series of their own, 4 each: 64 of the 500 that a node may have. The rest is counted
/// in `natwatch_series_omitted`.
const MAX_SOURCE_NAT_KINDS: usize = 16;

/// The samples of one look. `durations` is empty for a replay, which took no time in any kernel.
pub fn families(
    report: &Report,
    snapshot: &Snapshot,
    durations: &BTreeMap<Collector, Duration>,
    settings: &Settings,
) -> Families {
    let mut out = Families::default();
    if settings.collectors.contains(&Collector::Verdict) {
        verdicts(&mut out, report);
    }
    if settings.collectors.contains(&Collector::Kernel) {
        kernel(&mut out, report, snapshot);
    }
    let kind = snapshot.network_namespace.name();
    out.flag("natwatch_network_namespace_info", [kind], true);
    // A capture may say anything.
    let looked_at = snapshot.captured_at.parse().map(jiff::Timestamp::as_second).ok();
    if let Some(seconds) = looked_at.and_then(|seconds| seconds.try_into().ok()) {
        out.add("natwatch_report_timestamp_seconds", [], Value::Whole(seconds));
    }
    conntrack(&mut out, snapshot, settings);
    let omitted = source_nat(&mut out, snapshot) + links(&mut out, report, snapshot, settings);
    if settings.collectors.contains(&Collector::Nat) || settings.collectors.contains(&Collector::Links) {
        out.add("natwatch_series_omitted", [], Value::Whole(omitted));
    }
    let netstat = &snapshot.netstat;
    out.reading("natwatch_netstat_udp_in_csum_errors_total", &netstat.udp_in_csum_errors);
    out.reading("natwatch_netstat_udp6_in_csum_errors_total", &netstat.udp6_in_csum_errors);
    out.reading("natwatch_netstat_tcp_in_csum_errors_total", &netstat.tcp_in_csum_errors);
    out.reading("natwatch_netstat_tcp_syn_retransmits_total", &netstat.tcp_syn_retransmits);
    health(&mut out, report, snapshot, durations, settings);
    out.flag("natwatch_build_info", [env!("CARGO_PKG_VERSION"), std::env::consts::ARCH], true);
    out
}

fn verdicts(out: &mut Families, report: &Report) {
    for finding in &report.advisories {
        let id = finding.id.as_str();
        if finding.state != State::Unknown {
            out.flag("natwatch_exposure", [id], finding.state == State::Exposed);
        }
        for state in State::ALL {
            out.flag("natwatch_advisory_state", [id, state.name()], finding.state == *state);
        }
        for condition in &finding.conditions {
            for state in ConditionState::ALL {
                let labels = [id, &condition.id, state.name()];
                out.flag("natwatch_advisory_condition", labels, condition.state == *state);
            }
        }
        out.flag("natwatch_advisory_info", [id, finding.severity.name(), &finding.title], true);
        if finding.accepted.is_some() {
            out.flag("natwatch_advisory_accepted", [id], true);
        }
    }
}

fn kernel(out: &mut Families, report: &Report, snapshot: &Snapshot) {
    if let Reading::Ok(kernel) = &snapshot.kernel {
        let distro = snapshot.distro.ok().map_or("", String::as_str);
        out.flag("natwatch_kernel_info", [&kernel.release, distro, &kernel.base.to_string()], true);
    }
    for defect in &report.defects {
        for state in DefectState::ALL {
            out.flag("natwatch_kernel_defect", [&defect.id, state.name()], defect.state == *state);
        }
        out.flag("natwatch_kernel_defect_info", [&defect.id, defect.basis.name()], true);
    }
}

fn conntrack(out: &mut Families, snapshot: &Snapshot, settings: &Settings) {
    out.reading("natwatch_conntrack_entries", &snapshot.conntrack.entries);
    out.reading("natwatch_conntrack_entries_limit", &snapshot.conntrack.entries_limit);
    out.reading("natwatch_conntrack_buckets", &snapshot.conntrack.buckets);
    for (counter, value) in snapshot.conntrack.totals().ok().into_iter().flatten() {
        out.add(counter_metric(*counter), [], Value::Whole(*value));
    }
    for cpu in snapshot.conntrack.cpus.ok().into_iter().flatten().filter(|_| settings.per_cpu) {
        let Some(number) = cpu.cpu.map(|cpu| cpu.to_string()) else { continue };
        for (counter, name) in [
            (ConntrackCounter::InsertFailed, "natwatch_conntrack_cpu_insert_failed_total"),
            (ConntrackCounter::Drop, "natwatch_conntrack_cpu_drop_total"),
        ] {
            if let Some(value) = cpu.counters.get(&counter) {
                out.add(name, [&number], Value::Whole(*value));
            }
        }
    }
}

fn counter_metric(counter: ConntrackCounter) -> &'static str {
    match counter {
        ConntrackCounter::Found => "natwatch_conntrack_found_total",
        ConntrackCounter::Invalid => "natwatch_conntrack_invalid_total",
        ConntrackCounter::Insert => "natwatch_conntrack_insert_total",
        ConntrackCounter::InsertFailed => "natwatch_conntrack_insert_failed_total",
        ConntrackCounter::Drop => "natwatch_conntrack_drop_total",
        ConntrackCounter::EarlyDrop => "natwatch_conntrack_early_drop_total",
        ConntrackCounter::Error => "natwatch_conntrack_error_total",
        ConntrackCounter::SearchRestart => "natwatch_conntrack_search_restart_total",
        ConntrackCounter::ClashResolve => "natwatch_conntrack_clash_resolve_total",
        ConntrackCounter::ChainTooLong => "natwatch_conntrack_chaintoolong_total",
        ConntrackCounter::ExpectNew => "natwatch_conntrack_expect_new_total",
        ConntrackCounter::ExpectCreate => "natwatch_conntrack_expect_create_total",
        ConntrackCounter::ExpectDelete => "natwatch_conntrack_expect_delete_total",
    }
}

/// Source-NAT rules by kind; returns how many series the limit left out.
fn source_nat(out: &mut Families, snapshot: &Snapshot) -> u64 {
    let mut omitted = 0;
    for (position, (kind, total)) in ranked_kinds(snapshot).into_iter().enumerate() {
        let SourceNatKind { backend, family, owner, action, randomization } = *kind;
        let SourceNatTotal { rules, uncounted, counted } = *total;
        if position >= MAX_SOURCE_NAT_KINDS {
            omitted += if counted.is_some() { 4 } else { 2 };
            continue;
        }
        let labels = [backend.name(), family.name(), owner.name(), action.name(), randomization.name()];
        out.add("natwatch_source_nat_rules", labels, Value::Whole(rules));
        out.add("natwatch_source_nat_rules_uncounted", labels, Value::Whole(uncounted));
        if let Some(Counter { packets, bytes }) = counted {
            out.add("natwatch_source_nat_rule_packets_total", labels, Value::Whole(packets));
            out.add("natwatch_source_nat_rule_bytes_total", labels, Value::Whole(bytes));
        }
    }
    omitted
}

/// Kinds that have rules first, then by labels: not by how many rules there are, so that a kind's series do not come
/// and go with other kinds' rules.
fn ranked_kinds(snapshot: &Snapshot) -> Vec<(&SourceNatKind, &SourceNatTotal)> {
    let mut kinds: Vec<_> = snapshot.source_nat_totals.ok().into_iter().flatten().collect();
    kinds.sort_by_key(|(kind, total)| (total.rules == 0, **kind));
    kinds
}

/// Tunnels and what carries them; returns how many series the limits left out.
fn links(out: &mut Families, report: &Report, snapshot: &Snapshot, settings: &Settings) -> u64 {
    if snapshot.links.ok().is_none() {
        return 0;
    }
    let mut tunnels: Vec<(&Link, &Tunnel)> = snapshot.tunnels().collect();
    out.add("natwatch_tunnels", [], Value::Whole(tunnels.len() as u64));
    tunnels.sort_by_key(|(link, _)| (!link.up, &link.name));
    for (link, tunnel) in tunnels.iter().take(MAX_TUNNELS) {
        let id = tunnel.id.map_or(String::new(), |id| id.to_string());
        let port = tunnel.port.map_or(String::new(), |port| port.to_string());
        let underlay = super::json::underlay(snapshot, tunnel).unwrap_or_default();
        let labels = [&link.name, tunnel.kind.name(), &id, &port, &underlay, tunnel.udp_checksum.name()];
        out.flag("natwatch_tunnel_info", labels, true);
    }
    let mut omitted = tunnels.len().saturating_sub(MAX_TUNNELS);
    let devices = feature_devices(report, snapshot);
    for (position, device) in devices.iter().enumerate() {
        for (feature, state) in device.features.ok().into_iter().flatten() {
            if position >= settings.max_devices {
                omitted += 3;
                continue;
            }
            let labels = [device.name.as_str(), feature.name()];
            out.flag("natwatch_interface_feature_enabled", labels, state.enabled);
            out.flag("natwatch_interface_feature_wanted", labels, state.wanted);
            out.flag("natwatch_interface_feature_fixed", labels, state.fixed);
        }
    }
    omitted as u64
}

/// Tunnels that are up and what carries them: those of exposed tunnels first, then by name.
fn feature_devices<'a>(report: &Report, snapshot: &'a Snapshot) -> Vec<&'a Link> {
    let links = snapshot.known_links();
    let exposed = |link: &Link| {
        let mut exposed = report.advisories.iter().filter(|finding| finding.state == State::Exposed);
        exposed.any(|finding| finding.subject.as_deref() == Some(&link.name))
    };
    let mut rank: BTreeMap<&str, (bool, &Link)> = BTreeMap::new();
    for (link, tunnel) in snapshot.tunnels().filter(|(link, _)| link.up) {
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
    snapshot: &Snapshot,
    durations: &BTreeMap<Collector, Duration>,
    settings: &Settings,
) {
    for status in &snapshot.sources {
        for state in SourceState::ALL {
            let labels = [status.source.name(), state.name()];
            out.flag("natwatch_source_state", labels, status.state == *state);
        }
    }
    for collector in &settings.collectors {
        let success = match collector {
            Collector::Verdict => report.advisories.iter().all(|finding| finding.state != State::Unknown),
            _ => snapshot
                .sources
                .iter()
                .filter(|status| status.source.collector() == *collector)
                .all(|status| matches!(status.state, SourceState::Ok | SourceState::Absent)),
        };
        out.flag("natwatch_scrape_collector_success", [collector.name()], success);
        if let Some(duration) = durations.get(collector) {
            let seconds = Value::Real(duration.as_secs_f64());
            out.add("natwatch_scrape_collector_duration_seconds", [collector.name()], seconds);
        }
    }
}

/// What `process_*` says.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Their limit; `None` without one.
    pub max_fds: Option<u64>,
    /// Virtual memory.
    pub virtual_memory_bytes: u64,
    /// Resident memory.
    pub resident_memory_bytes: u64,
    /// Since the Unix epoch.
    pub start_time_seconds: f64,
    /// Threads.
    pub threads: u64,
}

/// Adds the exporter's own process, as Prometheus client libraries do.
pub fn add_process(out: &mut Families, process: &Process) {
    out.add("process_cpu_seconds_total", [], Value::Real(process.cpu_seconds));
    out.add("process_open_fds", [], Value::Whole(process.open_fds));
    if let Some(limit) = process.max_fds {
        out.add("process_max_fds", [], Value::Whole(limit));
    }
    out.add("process_virtual_memory_bytes", [], Value::Whole(process.virtual_memory_bytes));
    out.add("process_resident_memory_bytes", [], Value::Whole(process.resident_memory_bytes));
    out.add("process_start_time_seconds", [], Value::Real(process.start_time_seconds));
    out.add("process_threads", [], Value::Whole(process.threads));
}

/// Adds what the server knows of itself: open connections, and log lines that nobody took.
pub fn add_server(out: &mut Families, connections: usize, dropped_lines: usize) {
    out.add("natwatch_http_connections", [], Value::Whole(connections as u64));
    out.add("natwatch_log_lines_dropped_total", [], Value::Whole(dropped_lines as u64));
}

/// Adds whether the web configuration in its file is the one in force.
pub fn add_web_config(out: &mut Families, current: bool) {
    out.add("natwatch_web_config_last_reload_successful", [], Value::Whole(current.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_has_its_metric() {
        for counter in ConntrackCounter::ALL {
            let name = counter_metric(*counter);
            assert_eq!(name, format!("natwatch_conntrack_{counter}_total"));
            assert!(METRICS.iter().any(|metric| metric.name == name), "{name}");
        }
    }
}
