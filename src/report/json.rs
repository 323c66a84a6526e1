//! The report as JSON, for `/report.json` and `check --format json`.
//!
//! A list or number that was not read is `null`, never empty or 0; `sources` says why.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::facts::netfilter::SourceNatRule;
use crate::facts::{Facts, Feature, Link, Tunnel};
use crate::judge::{Finding, Report};

use super::{flows, source_nat};

/// Version of the document; changes when something is renamed or removed, not when something is added.
const SCHEMA_VERSION: u32 = 1;

/// Number of source-NAT rules in the document. A node with one rule per pod has a few hundred; a rule takes half a
/// kilobyte, so the document stays below 6 MB even if a script adds rules without end.
const MAX_SOURCE_NAT_RULES: usize = 10_000;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    natwatch_version: &'static str,
    verdict: &'static str,
    /// Number of advisories that would count if they were not accepted.
    known_risks_left_out: usize,
    node: Node<'a>,
    advisories: Vec<Advisory<'a>>,
    kernel: Kernel<'a>,
    tunnels: Option<Vec<TunnelEntry<'a>>>,
    source_nat_rules: Option<Vec<SourceNatEntry<'a>>>,
    /// Number of rules beyond the limit.
    source_nat_rules_omitted: Option<usize>,
    conntrack: Conntrack,
    flows: Option<flows::FlowsSection<'a>>,
    sources: Vec<Source<'a>>,
}

#[derive(Serialize)]
struct Node<'a> {
    hostname: &'a str,
    kernel_release: Option<&'a str>,
    distro: Option<&'a str>,
    network_namespace: &'static str,
    captured_at: &'a str,
}

#[derive(Serialize)]
struct Advisory<'a> {
    id: &'a str,
    title: &'a str,
    severity: &'static str,
    state: &'static str,
    summary: &'a str,
    conditions: Vec<Condition<'a>>,
    evidence: Vec<String>,
    remedies: Vec<Remedy<'a>>,
    references: &'a [String],
    accepted: Option<Accepted<'a>>,
}

#[derive(Serialize)]
struct Accepted<'a> {
    reason: &'a str,
}

#[derive(Serialize)]
struct Condition<'a> {
    id: &'a str,
    kind: &'static str,
    state: &'static str,
    detail: &'a str,
}

#[derive(Serialize)]
struct Remedy<'a> {
    text: &'a str,
    command: Option<&'a str>,
    survives_reboot: bool,
}

#[derive(Serialize)]
struct Kernel<'a> {
    release: Option<&'a str>,
    defects: Vec<Defect<'a>>,
    /// Why a probe's result was not used; `null` if there is none or it was used.
    probe_not_used: Option<&'a str>,
}

#[derive(Serialize)]
struct Defect<'a> {
    id: &'a str,
    state: &'static str,
    basis: &'static str,
    detail: &'a str,
}

#[derive(Serialize)]
struct TunnelEntry<'a> {
    device: &'a str,
    kind: &'static str,
    id: Option<u32>,
    port: Option<u16>,
    underlay: Option<String>,
    up: bool,
    udp_checksum: &'static str,
    tx_checksum_offload: &'static str,
}

#[derive(Serialize)]
struct SourceNatEntry<'a> {
    backend: &'static str,
    family: &'static str,
    table: &'a str,
    chain: &'a str,
    position: u32,
    owner: &'static str,
    action: &'static str,
    port_randomization: &'static str,
    to_ports: Option<String>,
    mark: Vec<MarkEntry>,
    packets: Option<u64>,
    bytes: Option<u64>,
}

#[derive(Serialize)]
struct MarkEntry {
    value: String,
    mask: String,
    inverted: bool,
}

#[derive(Serialize)]
struct Conntrack {
    entries: Option<u64>,
    entries_limit: Option<u64>,
    buckets: Option<u64>,
    counters: Option<BTreeMap<&'static str, u64>>,
}

#[derive(Serialize)]
struct Source<'a> {
    name: &'static str,
    state: &'static str,
    detail: &'a str,
}

/// Renders the document, indented, with a final line feed.
pub fn render(report: &Report, facts: &Facts) -> String {
    let release = facts.kernel.ok().map(|kernel| kernel.release.as_str());
    let counters = facts
        .conntrack
        .totals()
        .ok()
        .map(|totals| totals.iter().map(|(counter, value)| (counter.name(), *value)).collect());
    let rules = facts.source_nat_rules.ok();
    let document = Document {
        schema_version: SCHEMA_VERSION,
        natwatch_version: env!("CARGO_PKG_VERSION"),
        verdict: report.verdict.name(),
        known_risks_left_out: report.left_out(),
        node: Node {
            hostname: &facts.hostname,
            kernel_release: release,
            distro: facts.distro.ok().map(String::as_str),
            network_namespace: facts.network_namespace.name(),
            captured_at: &facts.captured_at,
        },
        advisories: report.advisories.iter().map(advisory).collect(),
        kernel: Kernel {
            release,
            defects: report
                .defects
                .iter()
                .map(|defect| Defect {
                    id: &defect.id,
                    state: defect.state.name(),
                    basis: defect.basis.name(),
                    detail: &defect.detail,
                })
                .collect(),
            probe_not_used: report.probe_refused.as_deref(),
        },
        tunnels: facts
            .links
            .ok()
            .map(|_| facts.tunnels().map(|(link, tunnel)| tunnel_entry(facts, link, tunnel)).collect()),
        source_nat_rules: rules.map(|rules| rules.iter().take(MAX_SOURCE_NAT_RULES).map(source_nat_entry).collect()),
        source_nat_rules_omitted: rules.map(|rules| rules.len().saturating_sub(MAX_SOURCE_NAT_RULES)),
        conntrack: Conntrack {
            entries: facts.conntrack.entries.ok().copied(),
            entries_limit: facts.conntrack.entries_limit.ok().copied(),
            buckets: facts.conntrack.buckets.ok().copied(),
            counters,
        },
        flows: flows::of(report, facts),
        sources: facts
            .sources
            .iter()
            .map(|status| Source { name: status.source.name(), state: status.state.name(), detail: &status.detail })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default(); // strings and numbers always serialize
    text.push('\n');
    text
}

fn advisory(finding: &Finding) -> Advisory<'_> {
    let commands = finding.commands().iter().map(|command| format!("what could not be told is shown by: {command}"));
    Advisory {
        id: &finding.id,
        title: &finding.title,
        severity: finding.severity.name(),
        state: finding.state.name(),
        summary: &finding.summary,
        conditions: finding
            .conditions
            .iter()
            .map(|condition| Condition {
                id: &condition.id,
                kind: condition.kind.name(),
                state: condition.state.name(),
                detail: &condition.detail,
            })
            .collect(),
        evidence: finding.evidence.iter().cloned().chain(commands).collect(),
        remedies: finding
            .remedies
            .iter()
            .map(|remedy| Remedy {
                text: &remedy.text,
                command: remedy.command.as_deref(),
                survives_reboot: remedy.survives_reboot,
            })
            .collect(),
        references: &finding.references,
        accepted: finding.accepted.as_deref().map(|reason| Accepted { reason }),
    }
}

fn tunnel_entry<'a>(facts: &Facts, link: &'a Link, tunnel: &Tunnel) -> TunnelEntry<'a> {
    TunnelEntry {
        device: &link.name,
        kind: tunnel.kind.name(),
        id: tunnel.id,
        port: tunnel.port,
        underlay: facts.underlay_names(tunnel),
        up: link.up,
        udp_checksum: tunnel.udp_checksum.name(),
        tx_checksum_offload: link.feature(Feature::TxChecksumIpGeneric).name(),
    }
}

fn source_nat_entry(rule: &SourceNatRule) -> SourceNatEntry<'_> {
    SourceNatEntry {
        backend: rule.backend.name(),
        family: rule.family.name(),
        table: &rule.table,
        chain: &rule.chain,
        position: rule.position,
        owner: rule.owner.name(),
        action: rule.action.name(),
        port_randomization: rule.randomization.name(),
        to_ports: source_nat::to_ports(rule),
        mark: rule
            .marks
            .iter()
            .map(|mark| MarkEntry {
                value: source_nat::hexadecimal(mark.value),
                mask: source_nat::hexadecimal(mark.mask),
                inverted: mark.inverted,
            })
            .collect(),
        packets: rule.counter.map(|counter| counter.packets),
        bytes: rule.counter.map(|counter| counter.bytes),
    }
}
