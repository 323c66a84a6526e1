//! The table of all metrics. Each row makes the handle used to add samples; README, `natwatch metrics` and tests are
//! derived from it.

use crate::advisory::defects::{Basis, DefectState};
use crate::advisory::{Severity, State};
use crate::facts::netfilter::{Backend, Family, NatAction, Owner, PortRandomization};
use crate::facts::{
    Collector, Feature, FlowProtocol, FlowState, NetworkNamespace, Source, SourceState, TunnelKind, UdpChecksum,
};

use super::handle::{Handle, LabelValue, Labels, Metric, label_sets, metrics};

const ALWAYS: &[Collector] = &[];
const VERDICT: &[Collector] = &[Collector::Verdict];
const KERNEL: &[Collector] = &[Collector::Kernel];
const CONNTRACK: &[Collector] = &[Collector::Conntrack];
const NAT: &[Collector] = &[Collector::Nat];
const LINKS: &[Collector] = &[Collector::Links];
const LIMITED: &[Collector] = &[Collector::Nat, Collector::Links];
const NETSTAT: &[Collector] = &[Collector::Netstat];
const FLOWS: &[Collector] = &[Collector::Flows];
const NEIGHBOURS: &[Collector] = &[Collector::Neighbours];

label_sets! {
    AdvisoryLabels<'a> { advisory: &'a str }
    ConditionLabels<'a> { advisory: &'a str, condition: &'a str }
    AdvisoryInfoLabels<'a> { advisory: &'a str, severity: Severity, state: State, condition: &'a str }
    UnseenLabels<'a> { advisory: &'a str, severity: Severity }
    KernelLabels<'a> { release: &'a str, distro: &'a str, upstream: &'a str }
    DefectLabels<'a> { defect: &'a str, state: DefectState, basis: Basis }
    NamespaceLabels { kind: NetworkNamespace }
    CpuLabels<'a> { cpu: &'a str }
    FamilyLabels { family: Family }
    SourceNatLabels { backend: Backend, family: Family, owner: Owner, action: NatAction, port_randomization: PortRandomization }
    TunnelLabels<'a> { device: &'a str, kind: TunnelKind, id: &'a str, port: &'a str, underlay: &'a str, udp_checksum: UdpChecksum }
    FeatureLabels<'a> { device: &'a str, feature: Feature }
    FlowLabels { protocol: FlowProtocol, state: FlowState }
    SnatDestinationLabels<'a> { source: &'a str, destination: &'a str, port: &'a str, protocol: &'a str }
    SourceLabels { source: Source, state: SourceState }
    CollectorLabels { collector: Collector }
    BuildLabels<'a> { version: &'a str, arch: &'a str }
}

#[rustfmt::skip]
metrics! {
    EXPOSURE(AdvisoryLabels<'static>): Metric::gauge("natwatch_exposure", VERDICT,
        "1 if every condition of the advisory holds, 0 if it is mitigated or does not affect this node; no series while that is unknown (derived)");
    ADVISORY_INFO(AdvisoryInfoLabels<'static>): Metric::gauge("natwatch_advisory_info", VERDICT,
        "The verdict, always 1, one series an advisory: its severity on this node, its state (exposed, mitigated, not_affected or unknown), and the condition that decides it: of an exposure the last, else the first that is the reason (derived)");
    ADVISORY_UNSEEN(UnseenLabels<'static>): Metric::gauge("natwatch_advisory_unseen", VERDICT,
        "1 while the verdict is unknown because something that decides it could not be read, so that a permission or a repair would tell; else no series (derived)");
    ADVISORY_ACCEPTED(AdvisoryLabels<'static>): Metric::gauge("natwatch_advisory_accepted", VERDICT,
        "1 for an advisory that is a known risk on this node and does not count, whatever its state (derived: --accept)");
    ADVISORY_CONDITION(ConditionLabels<'static>): Metric::gauge("natwatch_advisory_condition", VERDICT,
        "1 if the condition holds, 0 if it fails; no series while that is unknown; only with --collector.verdict.conditions (derived)");
    KERNEL_INFO(KernelLabels<'static>): Metric::gauge("natwatch_kernel_info", KERNEL,
        "Running kernel: release (/proc/sys/kernel/osrelease), distribution (os-release of the host), upstream version that it is based on; always 1");
    KERNEL_DEFECT_INFO(DefectLabels<'static>): Metric::gauge("natwatch_kernel_defect_info", KERNEL,
        "What is known about the kernel defect, always 1: its state (present, absent or unknown) and what that is based on (derived: operator, probe, build date or version tables)");
    NETWORK_NAMESPACE_INFO(NamespaceLabels): Metric::gauge("natwatch_network_namespace_info", ALWAYS,
        "Whether this is the node's network namespace: initial, other or unknown (presence of /proc/sys/net/core/netdev_max_backlog); always 1");
    REPORT_TIMESTAMP_SECONDS(()): Metric::gauge("natwatch_report_timestamp_seconds", ALWAYS,
        "When the kernel was looked at, since the Unix epoch (system clock)").in_unit("seconds");
    CONNTRACK_ENTRIES(()): Metric::gauge("natwatch_conntrack_entries", CONNTRACK,
        "Entries in the connection tracking table of this namespace (/proc/sys/net/netfilter/nf_conntrack_count)");
    CONNTRACK_ENTRIES_LIMIT(()): Metric::gauge("natwatch_conntrack_entries_limit", CONNTRACK,
        "Most entries that the table takes, 0 for no limit (/proc/sys/net/netfilter/nf_conntrack_max)");
    CONNTRACK_BUCKETS(()): Metric::gauge("natwatch_conntrack_buckets", CONNTRACK,
        "Buckets of the hash table, shared by all namespaces (/proc/sys/net/netfilter/nf_conntrack_buckets)");
    CONNTRACK_FOUND(()): Metric::counter("natwatch_conntrack_found_total", CONNTRACK,
        "NAT tuples found taken while a free one was searched, before 4.9 also successful look-ups (nf_conntrack statistics, found)");
    CONNTRACK_INVALID(()): Metric::counter("natwatch_conntrack_invalid_total", CONNTRACK,
        "Packets that belong to no connection and cannot start one (nf_conntrack statistics, invalid)");
    CONNTRACK_INSERT(()): Metric::counter("natwatch_conntrack_insert_total", CONNTRACK,
        "Entries made by user space, before 4.13 every new connection (nf_conntrack statistics, insert)");
    CONNTRACK_INSERT_FAILED(()): Metric::counter("natwatch_conntrack_insert_failed_total", CONNTRACK,
        "Entries that could not be inserted: an unresolved clash, a dying entry or a long chain; before 5.10 also clashes that were resolved (nf_conntrack statistics, insert_failed)");
    CONNTRACK_DROP(()): Metric::counter("natwatch_conntrack_drop_total", CONNTRACK,
        "Packets dropped by connection tracking: table full, unresolved clash, refused by a protocol tracker (nf_conntrack statistics, drop)");
    CONNTRACK_EARLY_DROP(()): Metric::counter("natwatch_conntrack_early_drop_total", CONNTRACK,
        "Entries evicted to make room in a full table (nf_conntrack statistics, early_drop)");
    CONNTRACK_ERROR(()): Metric::counter("natwatch_conntrack_error_total", CONNTRACK,
        "Error packets that could not be handled (nf_conntrack statistics, icmp_error)");
    CONNTRACK_SEARCH_RESTART(()): Metric::counter("natwatch_conntrack_search_restart_total", CONNTRACK,
        "Look-ups restarted because the table changed under them (nf_conntrack statistics, search_restart)");
    CONNTRACK_CLASH_RESOLVE(()): Metric::counter("natwatch_conntrack_clash_resolve_total", CONNTRACK,
        "Clashes resolved without losing a packet, 5.10 and later (nf_conntrack statistics, clashres)");
    CONNTRACK_CHAINTOOLONG(()): Metric::counter("natwatch_conntrack_chaintoolong_total", CONNTRACK,
        "Insertions refused because a hash chain was too long, 5.15 and later (nf_conntrack statistics, chainlength)");
    CONNTRACK_EXPECT_NEW(()): Metric::counter("natwatch_conntrack_expect_new_total", CONNTRACK,
        "Expectations added after a matching new one (nf_conntrack statistics, expect_new; not over ctnetlink)");
    CONNTRACK_EXPECT_CREATE(()): Metric::counter("natwatch_conntrack_expect_create_total", CONNTRACK,
        "Expectations created by helpers (nf_conntrack statistics, expect_create; not over ctnetlink)");
    CONNTRACK_EXPECT_DELETE(()): Metric::counter("natwatch_conntrack_expect_delete_total", CONNTRACK,
        "Expectations deleted (nf_conntrack statistics, expect_delete; not over ctnetlink)");
    CONNTRACK_CPU_INSERT_FAILED(CpuLabels<'static>): Metric::counter("natwatch_conntrack_cpu_insert_failed_total", CONNTRACK,
        "Entries that could not be inserted, by CPU; only with --collector.conntrack.per-cpu (nf_conntrack statistics, insert_failed)");
    CONNTRACK_CPU_DROP(CpuLabels<'static>): Metric::counter("natwatch_conntrack_cpu_drop_total", CONNTRACK,
        "Packets dropped by connection tracking, by CPU; only with --collector.conntrack.per-cpu (nf_conntrack statistics, drop)");
    SOURCE_NAT_RULES(SourceNatLabels): Metric::gauge("natwatch_source_nat_rules", NAT,
        "Source-NAT rules that a postrouting or input hook leads to (nf_tables, NFT_MSG_GETRULE; legacy x_tables, IPT_SO_GET_ENTRIES)");
    SOURCE_NAT_RULE_PACKETS(SourceNatLabels): Metric::counter("natwatch_source_nat_rule_packets_total", NAT,
        "Packets counted by source-NAT rules, which see the first packet of each connection; rules that are gone are included (nf_tables, NFTA_COUNTER_PACKETS; legacy x_tables, struct xt_counters, where the tables of a family have more than 1 MiB up to 30 s old)");
    SOURCE_NAT_RULE_BYTES(SourceNatLabels): Metric::counter("natwatch_source_nat_rule_bytes_total", NAT,
        "Bytes of the packets counted by source-NAT rules; rules that are gone are included (nf_tables, NFTA_COUNTER_BYTES; legacy x_tables, struct xt_counters, where the tables of a family have more than 1 MiB up to 30 s old)").in_unit("bytes");
    SOURCE_NAT_RULES_UNCOUNTED(SourceNatLabels): Metric::gauge("natwatch_source_nat_rules_uncounted", NAT,
        "Source-NAT rules without a counter, which packets and bytes do not include (nf_tables, NFT_MSG_GETRULE)");
    TUNNELS(()): Metric::gauge("natwatch_tunnels", LINKS,
        "VXLAN and Geneve devices, up or down (rtnetlink, IFLA_INFO_KIND)");
    TUNNEL_INFO(TunnelLabels<'static>): Metric::gauge("natwatch_tunnel_info", LINKS,
        "A tunnel device, always 1: network id, UDP port, the devices that carry it, outer UDP checksum (rtnetlink, IFLA_INFO_DATA and route look-ups)");
    INTERFACE_FEATURE_ENABLED(FeatureLabels<'static>): Metric::gauge("natwatch_interface_feature_enabled", LINKS,
        "1 if the offload feature is in force on a tunnel or a device that carries one (ethtool netlink, ETHTOOL_A_FEATURES_ACTIVE)");
    INTERFACE_FEATURE_WANTED(FeatureLabels<'static>): Metric::gauge("natwatch_interface_feature_wanted", LINKS,
        "1 if the offload feature was asked for (ethtool netlink, ETHTOOL_A_FEATURES_WANTED)");
    INTERFACE_FEATURE_FIXED(FeatureLabels<'static>): Metric::gauge("natwatch_interface_feature_fixed", LINKS,
        "1 if the offload feature cannot be changed (ethtool netlink, ETHTOOL_A_FEATURES_HW and _NOCHANGE)");
    SERIES_OMITTED(()): Metric::gauge("natwatch_series_omitted", LIMITED,
        "Series left out because of the limits on devices, tunnels and kinds of NAT rules (derived)");
    NETSTAT_UDP_IN_CSUM_ERRORS(()): Metric::counter("natwatch_netstat_udp_in_csum_errors_total", NETSTAT,
        "UDP datagrams received over IPv4 with a wrong checksum (/proc/thread-self/net/snmp, Udp InCsumErrors)");
    NETSTAT_UDP6_IN_CSUM_ERRORS(()): Metric::counter("natwatch_netstat_udp6_in_csum_errors_total", NETSTAT,
        "UDP datagrams received over IPv6 with a wrong checksum (/proc/thread-self/net/snmp6, Udp6InCsumErrors)");
    NETSTAT_TCP_IN_CSUM_ERRORS(()): Metric::counter("natwatch_netstat_tcp_in_csum_errors_total", NETSTAT,
        "TCP segments received with a wrong checksum (/proc/thread-self/net/snmp, Tcp InCsumErrors)");
    NETSTAT_TCP_SYN_RETRANSMITS(()): Metric::counter("natwatch_netstat_tcp_syn_retransmits_total", NETSTAT,
        "SYN and SYN/ACK segments sent again (/proc/thread-self/net/netstat, TcpExt TCPSynRetrans)");
    FLOWS_SAMPLED(()): Metric::gauge("natwatch_flows_sampled", FLOWS,
        "Entries of connection tracking that were read as a sample, at most every 30 s (--collector.flows.interval); no series where nothing depends on them (ctnetlink, IPCTNL_MSG_CT_GET)");
    FLOWS_SAMPLE_RATIO(()): Metric::gauge("natwatch_flows_sample_ratio", FLOWS,
        "Part of the connection tracking table that was read as a sample (ctnetlink, IPCTNL_MSG_CT_GET; nf_conntrack_count)").in_unit("ratio");
    FLOWS_TIMESTAMP_SECONDS(()): Metric::gauge("natwatch_flows_timestamp_seconds", FLOWS,
        "When the sample was read, since the Unix epoch (system clock)").in_unit("seconds");
    SNAT_PORTS_USED_RATIO(()): Metric::gauge("natwatch_snat_ports_used_ratio", FLOWS,
        "Used part of the source ports that a rule may choose from, of the translated source address, destination and protocol where it is largest; estimated from the sample where that is small (ctnetlink, CTA_TUPLE_REPLY)").in_unit("ratio");
    SNAT_DESTINATION_PORTS_USED_RATIO(SnatDestinationLabels<'static>): Metric::gauge("natwatch_snat_destination_ports_used_ratio", FLOWS,
        "The same for each destination from 0.25 on, those with the fewest ports left; only with --collector.flows.destinations (ctnetlink, CTA_TUPLE_REPLY)").in_unit("ratio");
    TUNNEL_REWRITTEN_FLOWS(()): Metric::gauge("natwatch_tunnel_rewritten_flows", FLOWS,
        "Flows of this node's tunnels that leave with another source than the tunnel gave them (ctnetlink, CTA_TUPLE_REPLY)");
    CONNTRACK_STALE_TRANSLATIONS(()): Metric::gauge("natwatch_conntrack_stale_translations", FLOWS,
        "Entries of UDP with a destination that no rule gives any more, seen twice with packets between (ctnetlink, IPS_DST_NAT)");
    CONNTRACK_ENTRIES_ESTIMATED(FlowLabels): Metric::gauge("natwatch_conntrack_entries_estimated", FLOWS,
        "Entries of the connection tracking table by protocol and state, estimated from the sample (ctnetlink, CTA_PROTOINFO, IPS_SEEN_REPLY)");
    CONNTRACK_EVICTABLE_RATIO(()): Metric::gauge("natwatch_conntrack_evictable_ratio", FLOWS,
        "Part of the entries that may be dropped to make room in a full table: not assured, and in no flowtable (ctnetlink, IPS_ASSURED, IPS_OFFLOAD)").in_unit("ratio");
    NEIGHBOUR_ENTRIES(FamilyLabels): Metric::gauge("natwatch_neighbour_entries", NEIGHBOURS,
        "Entries of the neighbour table, of all network namespaces, those included that do not count for the limit (rtnetlink, RTM_GETNEIGHTBL, ndtc_entries)");
    NEIGHBOUR_ENTRIES_LIMIT(FamilyLabels): Metric::gauge("natwatch_neighbour_entries_limit", NEIGHBOURS,
        "Entries that count beyond which the neighbour table takes no other (rtnetlink, RTM_GETNEIGHTBL, NDTA_THRESH3)");
    SOURCE_INFO(SourceLabels): Metric::gauge("natwatch_source_info", ALWAYS,
        "How reading the source ended, always 1: ok, absent, denied or failed; only sources that were needed are listed (derived)");
    SCRAPE_COLLECTOR_SUCCESS(CollectorLabels): Metric::gauge("natwatch_scrape_collector_success", ALWAYS,
        "1 if none of the collector's sources was denied or failed; of verdict: 1 if no advisory is unknown (derived)");
    SCRAPE_COLLECTOR_DURATION_SECONDS(CollectorLabels): Metric::gauge("natwatch_scrape_collector_duration_seconds", ALWAYS,
        "Time that the kernel took to answer the collector's requests; of verdict: to decode and judge them (monotonic clock)").in_unit("seconds");
    BUILD_INFO(BuildLabels<'static>): Metric::gauge("natwatch_build_info", ALWAYS,
        "Version and architecture of natwatch, always 1");
    HTTP_CONNECTIONS(()): Metric::gauge("natwatch_http_connections", ALWAYS,
        "Connections that are open, this one included; at 512, or 64 of one peer, the one idle longest is closed (derived)");
    LOG_LINES_DROPPED(()): Metric::counter("natwatch_log_lines_dropped_total", ALWAYS,
        "Log lines that were dropped because whoever reads stderr did not take them (derived)");
    WEB_CONFIG_LAST_RELOAD_SUCCESSFUL(()): Metric::gauge("natwatch_web_config_last_reload_successful", ALWAYS,
        "1 if what stands in the file of --web.config.file is in force, 0 if it is wrong and something older is; only with that flag (derived)");
    PROCESS_CPU_SECONDS(()): Metric::counter("process_cpu_seconds_total", ALWAYS,
        "User and system CPU time of natwatch (/proc/self/stat)").in_unit("seconds");
    PROCESS_OPEN_FDS(()): Metric::gauge("process_open_fds", ALWAYS,
        "Open file descriptors of natwatch (/proc/self/fd)");
    PROCESS_MAX_FDS(()): Metric::gauge("process_max_fds", ALWAYS,
        "Limit of open file descriptors of natwatch (/proc/self/limits)");
    PROCESS_VIRTUAL_MEMORY_BYTES(()): Metric::gauge("process_virtual_memory_bytes", ALWAYS,
        "Virtual memory of natwatch (/proc/self/stat)").in_unit("bytes");
    PROCESS_RESIDENT_MEMORY_BYTES(()): Metric::gauge("process_resident_memory_bytes", ALWAYS,
        "Resident memory of natwatch (/proc/self/stat)").in_unit("bytes");
    PROCESS_START_TIME_SECONDS(()): Metric::gauge("process_start_time_seconds", ALWAYS,
        "Start of natwatch since the Unix epoch (/proc/self/stat)").in_unit("seconds");
    PROCESS_THREADS(()): Metric::gauge("process_threads", ALWAYS,
        "Threads of natwatch (/proc/self/stat)");
}

/// The table as Markdown, for `natwatch metrics` and README.
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
    use crate::metrics::MetricKind;

    #[test]
    fn the_table_follows_the_naming_rules() {
        let mut names = std::collections::BTreeSet::new();
        for metric in METRICS {
            let name = metric.name;
            assert!(names.insert(name), "{name} is there twice");
            assert!(name.starts_with("natwatch_") || name.starts_with("process_"), "{name}");
            assert_eq!(name.ends_with("_total"), metric.kind == MetricKind::Counter, "{name}");
            let stem = name.trim_end_matches("_total");
            assert!(metric.unit.is_empty() || stem.ends_with(metric.unit), "{name}: unit {}", metric.unit);
            assert!(!metric.help.ends_with('.') && !metric.help.contains(['\n', '\\']), "{name}: {}", metric.help);
            assert!(metric.help.is_ascii(), "{name}");
        }
    }
}
