//! The report as a web page: one file, no scripts, nothing loaded from elsewhere.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::advisory::State;
use crate::judge::{Finding, Report};
use crate::snapshot::netfilter::{Counter, SourceNatRule};
use crate::snapshot::{Feature, Snapshot};

use super::{in_state, json, missing_privilege, source_nat, unknown_by_cause};

/// Source-NAT rules on the page; a page that is to be read has no use for thousands, the JSON report has them.
const MAX_SOURCE_NAT_RULES: usize = 200;

const STYLE: &str = "
:root{color-scheme:light dark;--bad:#c62828;--dim:#8a6100;--good:#2e7d32;--line:#8884}
@media(prefers-color-scheme:dark){:root{--bad:#ff8a80;--dim:#ffd166;--good:#81c784}}
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{margin-bottom:0}.exposed{color:var(--bad)}.unknown{color:var(--dim)}.mitigated,.not_affected{color:var(--good)}
section{border-top:1px solid var(--line);margin-top:1.5rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line)}
pre{overflow-x:auto;background:#8882;padding:.5rem;margin:.2rem 0}.scroll{overflow-x:auto}
";

/// Renders the page; `telemetry_path` is where the metrics are.
pub fn render(report: &Report, snapshot: &Snapshot, telemetry_path: &str) -> String {
    let release = snapshot.kernel.ok().map_or("of unknown release", |kernel| &kernel.release);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "natwatch: " (words(report.verdict)) " (" (snapshot.hostname) ")" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { "natwatch: " span class=(report.verdict) { (words(report.verdict)) } }
                p { (snapshot.hostname) ", kernel " (release) ", " (snapshot.captured_at) }
                @if let Some(hint) = missing_privilege(report, snapshot) { p { (hint) } }
                @for finding in in_state(report, State::Exposed) { (exposed(finding)) }
                @for (cause, findings) in unknown_by_cause(report) {
                    section {
                        h2 class="unknown" { "Unknown" }
                        p {
                            @for finding in &findings { strong { (finding.id) } " " }
                            br; "because " (cause)
                        }
                    }
                }
                (rest(report))
                (source_nat_section(snapshot))
                (tunnels(snapshot))
                (conntrack(snapshot))
                (defects(report))
                (sources(snapshot))
                section {
                    p {
                        a href=(telemetry_path) { "Metrics" } " · "
                        a href="/report.json" { "This report as JSON" } " · natwatch " (env!("CARGO_PKG_VERSION"))
                    }
                }
            }
        }
    }
    .into_string()
}

fn words(state: State) -> String {
    state.name().replace('_', " ")
}

fn exposed(finding: &Finding) -> Markup {
    html! {
        section {
            h2 class="exposed" { "Exposed: " (finding.id) " (" (finding.severity) ")" }
            p { (finding.summary) }
            (conditions(finding))
            @if !finding.evidence.is_empty() {
                ul { @for evidence in &finding.evidence { li { (evidence) } } }
            }
            h3 { "What to do" }
            ul {
                @for remedy in &finding.remedies {
                    li {
                        (remedy.text)
                        @if !remedy.survives_reboot { " (until the next reboot)" }
                        @if let Some(command) = &remedy.command { pre { (command) } }
                    }
                }
            }
            p { @for reference in &finding.references { a href=(reference) { (reference) } br; } }
        }
    }
}

fn conditions(finding: &Finding) -> Markup {
    html! {
        div class="scroll" {
            table {
                tr { th { "condition" } th { "kind" } th { "state" } th { "decided by" } }
                @for condition in &finding.conditions {
                    tr {
                        td { (condition.id) }
                        td { (condition.kind) }
                        td { (condition.state) }
                        td { (condition.detail) }
                    }
                }
            }
        }
    }
}

fn rest(report: &Report) -> Markup {
    html! {
        @for (state, title) in [(State::Mitigated, "Mitigated"), (State::NotAffected, "Not affected")] {
            @let findings = in_state(report, state);
            @if !findings.is_empty() {
                section {
                    h2 class=(state) { (title) }
                    ul { @for finding in findings { li { strong { (finding.id) } ": " (finding.summary) } } }
                }
            }
        }
    }
}

fn source_nat_section(snapshot: &Snapshot) -> Markup {
    let rules = snapshot.source_nat_rules.ok().map_or(&[][..], Vec::as_slice);
    let omitted = rules.len().saturating_sub(MAX_SOURCE_NAT_RULES);
    html! {
        section {
            h2 { "Source NAT" }
            p { (source_nat::headline(snapshot)) }
            @if source_nat::totals(snapshot).next().is_some() { (source_nat_kinds(snapshot)) }
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

fn source_nat_kinds(snapshot: &Snapshot) -> Markup {
    html! {
        div class="scroll" {
            table {
                tr {
                    th { "owner" } th { "action" } th { "ports" } th { "backend" } th { "family" } th { "rules" }
                    th { "without counter" } th { "packets" } th { "bytes" }
                }
                @for (kind, total) in source_nat::totals(snapshot) {
                    tr {
                        td { (kind.owner) } td { (kind.action) } td { (source_nat::ports(kind.randomization)) }
                        td { (kind.backend) } td { (kind.family) } td { (total.rules) } td { (total.uncounted) }
                        (counter(total.counted))
                    }
                }
            }
        }
    }
}

fn source_nat_rules(rules: &[SourceNatRule]) -> Markup {
    html! {
        div class="scroll" {
            table {
                tr {
                    th { "backend" } th { "family" } th { "table" } th { "chain" } th { "position" } th { "owner" }
                    th { "action" } th { "ports" } th { "mark" } th { "packets" } th { "bytes" }
                }
                @for rule in rules {
                    tr {
                        td { (rule.backend) } td { (rule.family) } td { (rule.table) } td { (rule.chain) }
                        td { (rule.position) } td { (rule.owner) } td { (rule.action) }
                        td {
                            (source_nat::ports(rule.randomization))
                            @if let Some(range) = source_nat::to_ports(rule) { ", " (range) }
                        }
                        td { (rule.marks.iter().map(source_nat::mark).collect::<Vec<_>>().join(", ")) }
                        (counter(rule.counter))
                    }
                }
            }
        }
    }
}

fn counter(counter: Option<Counter>) -> Markup {
    let shown = |number: Option<u64>| number.map_or("-".into(), |number| number.to_string());
    html! {
        td { (shown(counter.map(|counter| counter.packets))) } td { (shown(counter.map(|counter| counter.bytes))) }
    }
}

fn tunnels(snapshot: &Snapshot) -> Markup {
    let tunnels: Vec<_> = snapshot.tunnels().collect();
    html! {
        @if !tunnels.is_empty() {
            section {
                h2 { "Tunnels" }
                div class="scroll" {
                    table {
                        tr {
                            th { "device" } th { "kind" } th { "id" } th { "port" } th { "carried by" } th { "up" }
                            th { "outer UDP checksum" } th { "checksum offload" }
                        }
                        @for (link, tunnel) in tunnels {
                            tr {
                                td { (link.name) } td { (tunnel.kind) }
                                td { (tunnel.id.map_or("-".into(), |id| id.to_string())) }
                                td { (tunnel.port.map_or("?".into(), |port| port.to_string())) }
                                td { (json::underlay(snapshot, tunnel).unwrap_or_else(|| "?".into())) }
                                td { (if link.up { "yes" } else { "no" }) }
                                td { (tunnel.udp_checksum) } td { (link.feature(Feature::TxChecksumIpGeneric)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

fn conntrack(snapshot: &Snapshot) -> Markup {
    let number = |value: Option<&u64>| value.map_or("?".into(), u64::to_string);
    html! {
        section {
            h2 { "Connection tracking" }
            p {
                (number(snapshot.conntrack.entries.ok())) " of "
                (number(snapshot.conntrack.entries_limit.ok())) " entries, "
                (number(snapshot.conntrack.buckets.ok())) " buckets"
            }
            @if let Some(totals) = snapshot.conntrack.totals().ok() {
                div class="scroll" {
                    table { @for (counter, value) in totals { tr { th { (counter) } td { (value) } } } }
                }
            }
        }
    }
}

fn defects(report: &Report) -> Markup {
    html! {
        section {
            h2 { "Defects of the running kernel" }
            div class="scroll" {
                table {
                    tr { th { "defect" } th { "state" } th { "basis" } th { "decided by" } }
                    @for defect in &report.defects {
                        tr { td { (defect.id) } td { (defect.state) } td { (defect.basis) } td { (defect.detail) } }
                    }
                }
            }
        }
    }
}

fn sources(snapshot: &Snapshot) -> Markup {
    html! {
        section {
            h2 { "Sources" }
            div class="scroll" {
                table {
                    tr { th { "source" } th { "state" } th { "detail" } }
                    @for status in &snapshot.sources {
                        tr { td { (status.source) } td { (status.state) } td { (status.detail) } }
                    }
                }
            }
        }
    }
}
