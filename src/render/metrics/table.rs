//! The one table of metrics. README, `natwatch metrics` and the tests read it.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::snapshot::Collector;

/// What a metric does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Goes up and down.
    Gauge,
    /// Only goes up.
    Counter,
}

impl Kind {
    /// The type's name in both exposition formats.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gauge => "gauge",
            Self::Counter => "counter",
        }
    }
}

/// One row of the table.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Full name, with unit and `_total`.
    pub name: &'static str,
    /// Gauge or counter.
    pub kind: Kind,
    /// Label names, in order.
    pub labels: &'static [&'static str],
    /// Unit that the name carries; empty where it counts things.
    pub unit: &'static str,
    /// The collectors that it belongs to: printed with any of them; always, if there are none.
    pub collectors: &'static [Collector],
    /// What it says and which kernel object says so.
    pub help: &'static str,
}

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    collectors: &'static [Collector],
    help: &'static str,
) -> Metric {
    Metric { name, kind: Kind::Gauge, labels, unit: "", collectors, help }
}

const fn counter(name: &'static str, collectors: &'static [Collector], help: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, labels: &[], unit: "", collectors, help }
}

const ALWAYS: &[Collector] = &[];
const VERDICT: &[Collector] = &[Collector::Verdict];
const KERNEL: &[Collector] = &[Collector::Kernel];
const CONNTRACK: &[Collector] = &[Collector::Conntrack];
const NAT: &[Collector] = &[Collector::Nat];
const LINKS: &[Collector] = &[Collector::Links];
const LIMITED: &[Collector] = &[Collector::Nat, Collector::Links];
const NETSTAT: &[Collector] = &[Collector::Netstat];

/// What source-NAT rules are counted by.
const NAT_LABELS: &[&str] = &["backend", "family", "owner", "action", "port_randomization"];

/// Where a metric stands in the table.
pub(super) fn position(name: &str) -> Option<usize> {
    static POSITIONS: LazyLock<HashMap<&str, usize, foldhash::fast::RandomState>> =
        LazyLock::new(|| METRICS.iter().enumerate().map(|(at, metric)| (metric.name, at)).collect());
    POSITIONS.get(name).copied()
}

/// Every metric, in the order of the output.
#[rustfmt::skip]
pub static METRICS: &[Metric] = &[
    gauge("natwatch_exposure", &["advisory"], VERDICT,
        "1 if every condition of the advisory holds, 0 if it is mitigated or does not affect this node; no series while that is unknown (derived)"),
    gauge("natwatch_advisory_state", &["advisory", "state"], VERDICT,
        "1 for the state that the advisory is in: exposed, mitigated, not_affected or unknown (derived)"),
    gauge("natwatch_advisory_condition", &["advisory", "condition", "state"], VERDICT,
        "1 for the state that the condition is in: holds, fails or unknown (derived)"),
    gauge("natwatch_advisory_info", &["advisory", "severity", "title"], VERDICT,
        "Severity and title of the advisory, always 1 (derived from the catalogue)"),
    gauge("natwatch_advisory_accepted", &["advisory"], VERDICT,
        "1 for an advisory that is a known risk on this node and does not count, whatever its state (derived: --accept)"),
    gauge("natwatch_kernel_info", &["release", "distro", "upstream"], KERNEL,
        "Running kernel: release (/proc/sys/kernel/osrelease), distribution (os-release of the host), upstream version that it is based on; always 1"),
    gauge("natwatch_kernel_defect", &["defect", "state"], KERNEL,
        "1 for the state of the kernel defect: present, absent or unknown (derived: operator, probe or version tables)"),
    gauge("natwatch_kernel_defect_info", &["defect", "basis"], KERNEL,
        "What the state of the kernel defect is based on, always 1 (derived)"),
    gauge("natwatch_network_namespace_info", &["kind"], ALWAYS,
        "Whether this is the node's network namespace: initial, other or unknown (presence of /proc/sys/net/core/netdev_max_backlog); always 1"),
    Metric { unit: "seconds", ..gauge("natwatch_report_timestamp_seconds", &[], ALWAYS,
        "When the kernel was looked at, since the Unix epoch (system clock)") },
    gauge("natwatch_conntrack_entries", &[], CONNTRACK,
        "Entries in the connection tracking table of this namespace (/proc/sys/net/netfilter/nf_conntrack_count)"),
    gauge("natwatch_conntrack_entries_limit", &[], CONNTRACK,
        "Most entries that the table takes, 0 for no limit (/proc/sys/net/netfilter/nf_conntrack_max)"),
    gauge("natwatch_conntrack_buckets", &[], CONNTRACK,
        "Buckets of the hash table, shared by all namespaces (/proc/sys/net/netfilter/nf_conntrack_buckets)"),
    counter("natwatch_conntrack_found_total", CONNTRACK,
        "NAT tuples found taken while a free one was searched, before 4.9 also successful look-ups (nf_conntrack statistics, found)"),
    counter("natwatch_conntrack_invalid_total", CONNTRACK,
        "Packets that belong to no connection and cannot start one (nf_conntrack statistics, invalid)"),
    counter("natwatch_conntrack_insert_total", CONNTRACK,
        "Entries made by user space, before 4.13 every new connection (nf_conntrack statistics, insert)"),
    counter("natwatch_conntrack_insert_failed_total", CONNTRACK,
        "Entries that could not be inserted: an unresolved clash, a dying entry or a long chain; before 5.10 also clashes that were resolved (nf_conntrack statistics, insert_failed)"),
    counter("natwatch_conntrack_drop_total", CONNTRACK,
        "Packets dropped by connection tracking: table full, unresolved clash, refused by a protocol tracker (nf_conntrack statistics, drop)"),
    counter("natwatch_conntrack_early_drop_total", CONNTRACK,
        "Entries evicted to make room in a full table (nf_conntrack statistics, early_drop)"),
    counter("natwatch_conntrack_error_total", CONNTRACK,
        "Error packets that could not be handled (nf_conntrack statistics, icmp_error)"),
    counter("natwatch_conntrack_search_restart_total", CONNTRACK,
        "Look-ups restarted because the table changed under them (nf_conntrack statistics, search_restart)"),
    counter("natwatch_conntrack_clash_resolve_total", CONNTRACK,
        "Clashes resolved without losing a packet, 5.10 and later (nf_conntrack statistics, clashres)"),
    counter("natwatch_conntrack_chaintoolong_total", CONNTRACK,
        "Insertions refused because a hash chain was too long, 5.15 and later (nf_conntrack statistics, chainlength)"),
    counter("natwatch_conntrack_expect_new_total", CONNTRACK,
        "Expectations added after a matching new one (nf_conntrack statistics, expect_new; not over ctnetlink)"),
    counter("natwatch_conntrack_expect_create_total", CONNTRACK,
        "Expectations created by helpers (nf_conntrack statistics, expect_create; not over ctnetlink)"),
    counter("natwatch_conntrack_expect_delete_total", CONNTRACK,
        "Expectations deleted (nf_conntrack statistics, expect_delete; not over ctnetlink)"),
    Metric { labels: &["cpu"], ..counter("natwatch_conntrack_cpu_insert_failed_total", CONNTRACK,
        "Entries that could not be inserted, by CPU; only with --collector.conntrack.per-cpu (nf_conntrack statistics, insert_failed)") },
    Metric { labels: &["cpu"], ..counter("natwatch_conntrack_cpu_drop_total", CONNTRACK,
        "Packets dropped by connection tracking, by CPU; only with --collector.conntrack.per-cpu (nf_conntrack statistics, drop)") },
    gauge("natwatch_source_nat_rules", NAT_LABELS, NAT,
        "Source-NAT rules that a postrouting or input hook leads to (nf_tables, NFT_MSG_GETRULE; legacy x_tables, IPT_SO_GET_ENTRIES)"),
    Metric { labels: NAT_LABELS, ..counter("natwatch_source_nat_rule_packets_total", NAT,
        "Packets counted by source-NAT rules, which see the first packet of each connection; rules that are gone are included (nf_tables, NFTA_COUNTER_PACKETS; legacy x_tables, struct xt_counters, where the tables of a family have more than 1 MiB up to 30 s old)") },
    Metric { labels: NAT_LABELS, unit: "bytes", ..counter("natwatch_source_nat_rule_bytes_total", NAT,
        "Bytes of the packets counted by source-NAT rules; rules that are gone are included (nf_tables, NFTA_COUNTER_BYTES; legacy x_tables, struct xt_counters, where the tables of a family have more than 1 MiB up to 30 s old)") },
    gauge("natwatch_source_nat_rules_uncounted", NAT_LABELS, NAT,
        "Source-NAT rules without a counter, which packets and bytes do not include (nf_tables, NFT_MSG_GETRULE)"),
    gauge("natwatch_tunnels", &[], LINKS,
        "VXLAN and Geneve devices, up or down (rtnetlink, IFLA_INFO_KIND)"),
    gauge("natwatch_tunnel_info", &["device", "kind", "id", "port", "underlay", "udp_checksum"], LINKS,
        "A tunnel device, always 1: network id, UDP port, the devices that carry it, outer UDP checksum (rtnetlink, IFLA_INFO_DATA and route look-ups)"),
    gauge("natwatch_interface_feature_enabled", &["device", "feature"], LINKS,
        "1 if the offload feature is in force on a tunnel or a device that carries one (ethtool netlink, ETHTOOL_A_FEATURES_ACTIVE)"),
    gauge("natwatch_interface_feature_wanted", &["device", "feature"], LINKS,
        "1 if the offload feature was asked for (ethtool netlink, ETHTOOL_A_FEATURES_WANTED)"),
    gauge("natwatch_interface_feature_fixed", &["device", "feature"], LINKS,
        "1 if the offload feature cannot be changed (ethtool netlink, ETHTOOL_A_FEATURES_HW and _NOCHANGE)"),
    gauge("natwatch_series_omitted", &[], LIMITED,
        "Series left out because of the limits on devices, tunnels and kinds of NAT rules (derived)"),
    counter("natwatch_netstat_udp_in_csum_errors_total", NETSTAT,
        "UDP datagrams received over IPv4 with a wrong checksum (/proc/thread-self/net/snmp, Udp InCsumErrors)"),
    counter("natwatch_netstat_udp6_in_csum_errors_total", NETSTAT,
        "UDP datagrams received over IPv6 with a wrong checksum (/proc/thread-self/net/snmp6, Udp6InCsumErrors)"),
    counter("natwatch_netstat_tcp_in_csum_errors_total", NETSTAT,
        "TCP segments received with a wrong checksum (/proc/thread-self/net/snmp, Tcp InCsumErrors)"),
    counter("natwatch_netstat_tcp_syn_retransmits_total", NETSTAT,
        "SYN and SYN/ACK segments sent again (/proc/thread-self/net/netstat, TcpExt TCPSynRetrans)"),
    gauge("natwatch_source_state", &["source", "state"], ALWAYS,
        "1 for the state that reading the source ended in: ok, absent, denied or failed; only sources that were needed are listed (derived)"),
    gauge("natwatch_scrape_collector_success", &["collector"], ALWAYS,
        "1 if none of the collector's sources was denied or failed; of verdict: 1 if no advisory is unknown (derived)"),
    Metric { unit: "seconds", ..gauge("natwatch_scrape_collector_duration_seconds", &["collector"], ALWAYS,
        "Time that the kernel took to answer the collector's requests; of verdict: to decode and judge them (monotonic clock)") },
    gauge("natwatch_build_info", &["version", "arch"], ALWAYS,
        "Version and architecture of natwatch, always 1"),
    gauge("natwatch_http_connections", &[], ALWAYS,
        "Connections that are open, this one included; at 512, or 64 of one peer, the one idle longest is closed (derived)"),
    counter("natwatch_log_lines_dropped_total", ALWAYS,
        "Log lines that were dropped because whoever reads stderr did not take them (derived)"),
    gauge("natwatch_web_config_last_reload_successful", &[], ALWAYS,
        "1 if what stands in the file of --web.config.file is in force, 0 if it is wrong and something older is; only with that flag (derived)"),
    Metric { unit: "seconds", ..counter("process_cpu_seconds_total", ALWAYS,
        "User and system CPU time of natwatch (/proc/self/stat)") },
    gauge("process_open_fds", &[], ALWAYS, "Open file descriptors of natwatch (/proc/self/fd)"),
    gauge("process_max_fds", &[], ALWAYS, "Limit of open file descriptors of natwatch (/proc/self/limits)"),
    Metric { unit: "bytes", ..gauge("process_virtual_memory_bytes", &[], ALWAYS,
        "Virtual memory of natwatch (/proc/self/stat)") },
    Metric { unit: "bytes", ..gauge("process_resident_memory_bytes", &[], ALWAYS,
        "Resident memory of natwatch (/proc/self/stat)") },
    Metric { unit: "seconds", ..gauge("process_start_time_seconds", &[], ALWAYS,
        "Start of natwatch since the Unix epoch (/proc/self/stat)") },
    gauge("process_threads", &[], ALWAYS, "Threads of natwatch (/proc/self/stat)"),
];

/// The table as Markdown, for `natwatch metrics` and the README.
pub fn table() -> String {
    let mut out = String::from("| name | type | labels | unit | help |\n|---|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let help = metric.help.replace('|', "\\|");
        let row = [&format!("`{}`", metric.name), metric.kind.name(), &labels.join(", "), metric.unit, &help];
        out.push_str(&format!("| {} |\n", row.join(" | ")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_follows_the_naming_rules() {
        let mut names = std::collections::BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("natwatch_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == Kind::Counter, "{name}");
            let stem = name.trim_end_matches("_total");
            assert!(metric.unit.is_empty() || stem.ends_with(metric.unit), "{name}: unit {}", metric.unit);
            assert!(!metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{name}: {}", metric.help);
            assert!(metric.help.is_ascii(), "{name}");
        }
    }
}
