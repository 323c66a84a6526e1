//! Sections about facts: rules, tunnels, connection tracking, kernel defects, sources.

use maud::{Markup, html};

use super::super::source_nat;
use super::table;
use crate::facts::netfilter::{Counter, SourceNatRule};
use crate::facts::{Facts, Feature};
use crate::judge::Report;

/// Number of source-NAT rules on the page; the JSON report has all.
const MAX_SOURCE_NAT_RULES: usize = 200;

/// All sections.
pub(crate) fn all(report: &Report, facts: &Facts) -> Markup {
    html! {
        (source_nat_section(facts))
        (tunnels(facts))
        (conntrack(facts))
        (defects(report))
        (sources(facts))
    }
}

fn source_nat_section(facts: &Facts) -> Markup {
    let rules = facts.source_nat_rules.ok().map_or(&[][..], Vec::as_slice);
    let omitted = rules.len().saturating_sub(MAX_SOURCE_NAT_RULES);
    html! {
        section {
            h2 { "Source NAT" }
            p { (source_nat::headline(facts)) }
            @if source_nat::totals(facts).next().is_some() { (source_nat_kinds(facts)) }
            @if !rules.is_empty() {
                details {
                    summary { "The rules" }
                    (source_nat_rules(&rules[..rules.len() - omitted]))
                    @if omitted > 0 {
                        p { "and " (source_nat::counted(omitted as u64)) " more: see this report as JSON" }
                    }
                }
            }
        }
    }
}

fn source_nat_kinds(facts: &Facts) -> Markup {
    let heads = ["owner", "action", "ports", "backend", "family", "rules", "without counter", "packets", "bytes"];
    let rows = source_nat::totals(facts).map(|(kind, total)| {
        let [packets, bytes] = counter(total.counted);
        [
            kind.owner.to_string(),
            kind.action.to_string(),
            source_nat::ports(kind.randomization).into(),
            kind.backend.to_string(),
            kind.family.to_string(),
            total.rules.to_string(),
            total.uncounted.to_string(),
            packets,
            bytes,
        ]
    });
    table(heads, rows)
}

fn source_nat_rules(rules: &[SourceNatRule]) -> Markup {
    let heads =
        ["chain", "table", "family", "backend", "position", "owner", "action", "ports", "mark", "packets", "bytes"];
    let rows = rules.iter().map(|rule| {
        let [packets, bytes] = counter(rule.counter);
        let range = source_nat::to_ports(rule).map(|range| format!(", {range}")).unwrap_or_default();
        [
            rule.chain.to_string(),
            rule.table.to_string(),
            rule.family.to_string(),
            rule.backend.to_string(),
            rule.position.to_string(),
            rule.owner.to_string(),
            rule.action.to_string(),
            format!("{}{range}", source_nat::ports(rule.randomization)),
            rule.marks.iter().map(source_nat::mark).collect::<Vec<_>>().join(", "),
            packets,
            bytes,
        ]
    });
    table(heads, rows)
}

/// Packets and bytes; `-` if there is no counter.
fn counter(counter: Option<Counter>) -> [String; 2] {
    match counter {
        Some(Counter { packets, bytes }) => [packets.to_string(), bytes.to_string()],
        None => ["-".into(), "-".into()],
    }
}

fn tunnels(facts: &Facts) -> Markup {
    let heads = ["device", "kind", "id", "port", "carried by", "up", "outer UDP checksum", "checksum offload"];
    let rows: Vec<_> = facts
        .tunnels()
        .map(|(link, tunnel)| {
            [
                link.name.to_string(),
                tunnel.kind.to_string(),
                tunnel.id.map_or("-".into(), |id| id.to_string()),
                tunnel.port.map_or("?".into(), |port| port.to_string()),
                facts.underlay_names(tunnel).unwrap_or_else(|| "?".into()),
                if link.up { "yes" } else { "no" }.into(),
                tunnel.udp_checksum.to_string(),
                link.feature(Feature::TxChecksumIpGeneric).to_string(),
            ]
        })
        .collect();
    html! { @if !rows.is_empty() { section { h2 { "Tunnels" } (table(heads, rows)) } } }
}

fn conntrack(facts: &Facts) -> Markup {
    let number = |value: Option<&u64>| value.map_or("?".into(), u64::to_string);
    html! {
        section {
            h2 { "Connection tracking" }
            p {
                (number(facts.conntrack.entries.ok())) " of "
                (number(facts.conntrack.entries_limit.ok())) " entries, "
                (number(facts.conntrack.buckets.ok())) " buckets"
            }
            @if let Some(totals) = facts.conntrack.totals().ok() {
                table { tbody { @for (counter, value) in totals { tr { th scope="row" { (counter) } td { (value) } } } } }
            }
        }
    }
}

fn defects(report: &Report) -> Markup {
    let rows = report
        .defects
        .iter()
        .map(|defect| [defect.id.clone(), defect.state.to_string(), defect.basis.to_string(), defect.detail.clone()]);
    html! {
        section { h2 { "Defects of the running kernel" } (table(["defect", "state", "basis", "decided by"], rows)) }
    }
}

fn sources(facts: &Facts) -> Markup {
    let rows = facts
        .sources
        .iter()
        .map(|status| [status.source.to_string(), status.state.to_string(), status.detail.to_string()]);
    html! { section { h2 { "Sources" } (table(["source", "state", "detail"], rows)) } }
}
