//! The report as JSON: the document of `/report.json` and `check --format json`.
//!
//! A list or number that could not be read is `null`, never empty or 0; `sources` says why.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::judge::{Finding, Report};
use crate::snapshot::{Feature, Link, Reading, Snapshot, Tunnel};

/// Version of the document; it changes when something is renamed or removed, not when something is added.
const SCHEMA_VERSION: u32 = 1;

#[derive(Serialize)]
struct Document<'a> {
    schema_version: u32,
    natwatch_version: &'static str,
    verdict: &'static str,
    node: Node<'a>,
    advisories: Vec<Advisory<'a>>,
    kernel: Kernel<'a>,
    tunnels: Option<Vec<TunnelEntry<'a>>>,
    /// Not read by this version.
    source_nat_rules: Option<Vec<()>>,
    conntrack: Conntrack,
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
    evidence: &'a [String],
    remedies: Vec<Remedy<'a>>,
    references: &'a [String],
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

/// Renders the document, indented, with a final newline.
pub fn render(report: &Report, snapshot: &Snapshot) -> String {
    let release = snapshot.kernel.ok().map(|kernel| kernel.release.as_str());
    let counters = snapshot
        .conntrack
        .totals()
        .ok()
        .map(|totals| totals.iter().map(|(counter, value)| (counter.name(), *value)).collect());
    let document = Document {
        schema_version: SCHEMA_VERSION,
        natwatch_version: env!("CARGO_PKG_VERSION"),
        verdict: report.verdict.name(),
        node: Node {
            hostname: &snapshot.hostname,
            kernel_release: release,
            distro: snapshot.distro.ok().map(String::as_str),
            network_namespace: snapshot.network_namespace.name(),
            captured_at: &snapshot.captured_at,
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
        },
        tunnels: snapshot
            .links
            .ok()
            .map(|_| snapshot.tunnels().map(|(link, tunnel)| tunnel_entry(snapshot, link, tunnel)).collect()),
        source_nat_rules: None,
        conntrack: Conntrack {
            entries: snapshot.conntrack.entries.ok().copied(),
            entries_limit: snapshot.conntrack.entries_limit.ok().copied(),
            buckets: snapshot.conntrack.buckets.ok().copied(),
            counters,
        },
        sources: snapshot
            .sources
            .iter()
            .map(|status| Source { name: status.source.name(), state: status.state.name(), detail: &status.detail })
            .collect(),
    };
    let mut text = serde_json::to_string_pretty(&document).unwrap_or_default(); // plain strings and numbers
    text.push('\n');
    text
}

fn advisory(finding: &Finding) -> Advisory<'_> {
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
        evidence: &finding.evidence,
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
    }
}

fn tunnel_entry<'a>(snapshot: &Snapshot, link: &'a Link, tunnel: &Tunnel) -> TunnelEntry<'a> {
    TunnelEntry {
        device: &link.name,
        kind: tunnel.kind.name(),
        id: tunnel.id,
        port: tunnel.port,
        underlay: underlay(snapshot, tunnel),
        up: link.up,
        udp_checksum: tunnel.udp_checksum.name(),
        tx_checksum_offload: link.feature(Feature::TxChecksumIpGeneric).name(),
    }
}

/// Names of the devices that carry a tunnel, joined by commas; `None` where they are not known.
pub fn underlay(snapshot: &Snapshot, tunnel: &Tunnel) -> Option<String> {
    match &tunnel.underlay {
        Reading::Ok(devices) if !devices.is_empty() => {
            Some(devices.iter().map(|index| snapshot.link_name(*index)).collect::<Vec<_>>().join(","))
        }
        _ => None,
    }
}
