//! A report as text for people, JSON, a web page, metrics, and the one-line formats of other monitors.
//!
//! Renderers own their output shapes: the core types are not the JSON.

pub mod exposition;
pub mod html;
pub mod json;
pub mod line;
pub mod markdown;
pub mod metrics;
mod source_nat;
pub mod text;

use crate::advisory::State;
use crate::judge::{Finding, Report};
use crate::snapshot::{Snapshot, Source, SourceState, SourceStatus};

/// What a missing privilege hides, in one sentence; `None` when none is missing.
fn missing_privilege(report: &Report, snapshot: &Snapshot) -> Option<String> {
    let denied = snapshot.sources.iter().filter(|status| status.state == SourceState::Denied);
    let list: Vec<_> = denied.map(|status| format!("{}: {}", hidden(status), status.detail)).collect();
    let gain = if in_state(report, State::Unknown).is_empty() { "seen" } else { "decided" };
    (!list.is_empty()).then(|| format!("More could be {gain} with more privilege. {}.", list.join("; ")))
}

/// What a source that was denied would have shown, where its name does not say it.
fn hidden(status: &SourceStatus) -> String {
    match status.source {
        Source::Nftables => "NAT rules (nftables)".into(),
        Source::XtablesIpv4 => "NAT rules (legacy iptables)".into(),
        Source::XtablesIpv6 => "NAT rules (legacy ip6tables)".into(),
        source => source.name().into(),
    }
}

/// Findings in one state, exposed ones by severity.
fn in_state(report: &Report, state: State) -> Vec<&Finding> {
    let mut findings: Vec<&Finding> = report.advisories.iter().filter(|finding| finding.state == state).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// Unknown findings by what keeps them unknown.
fn unknown_by_cause(report: &Report) -> Vec<(String, Vec<&Finding>)> {
    let mut groups: Vec<(String, Vec<&Finding>)> = Vec::new();
    for finding in in_state(report, State::Unknown) {
        match groups.iter_mut().find(|(known, _)| known == finding.cause()) {
            Some((_, members)) => members.push(finding),
            None => groups.push((finding.cause().to_owned(), vec![finding])),
        }
    }
    groups
}

#[cfg(test)]
mod tests;
