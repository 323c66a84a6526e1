//! Renders a report as text, JSON, HTML, and one-line formats of other monitors.
//!
//! Renderers define their own output types, so that changes of core types do not change formats.

mod flows;
pub(crate) mod html;
pub mod json;
pub(crate) mod line;
pub mod markdown;
pub mod runbook;
mod source_nat;
pub(crate) mod text;

use std::fmt::Write as _;

use crate::advisory::{ConditionKind, Severity, State};
use crate::facts::{Facts, Source, SourceState, SourceStatus};
use crate::judge::{Finding, Report};

/// A state in words. `mitigated` also covers a table that is simply not full, where nothing was mitigated.
fn words(state: State) -> &'static str {
    match state {
        State::Exposed => "exposed",
        State::Unknown => "unknown",
        State::Mitigated => "not exposed now",
        State::NotAffected => "not affected",
    }
}

/// The verdict in words. It makes no claim about what does not count.
fn verdict(report: &Report) -> String {
    let worst = report.worst(report.min_severity);
    if worst >= State::Unknown {
        return words(worst).to_owned();
    }
    let is_below = |finding: &Finding| finding.severity < report.min_severity && finding.accepted.is_none();
    let below = report.advisories.iter().any(|finding| is_below(finding) && finding.state >= State::Unknown);
    let else_ = if report.left_out() == 0 { "" } else { "else " };
    let limit = if below { format!(" of at least {}", report.min_severity) } else { String::new() };
    format!("nothing {else_}exposed{limit}")
}

/// Whether a finding affects exit code and headline; accepted ones and those of lower severity are shown only.
fn is_counted(report: &Report, finding: &Finding) -> bool {
    finding.severity >= report.min_severity && finding.accepted.is_none()
}

/// Colour of an exposure; one that does not count is shown as information, so that no red line contradicts a good
/// headline.
fn tone(report: &Report, finding: &Finding) -> Severity {
    if is_counted(report, finding) { finding.severity } else { Severity::Info }
}

/// Why an exposure does not count; `None` if it does.
fn uncounted(report: &Report, finding: &Finding) -> Option<&'static str> {
    match (finding.accepted.is_some(), finding.severity) {
        _ if is_counted(report, finding) => None,
        (true, _) => Some("Accepted"),
        (false, Severity::Info) => Some("For information"),
        (false, _) => Some("Below --min-severity"),
    }
}

/// What a condition contributes, in words. "safeguard holds" would suggest the contrary.
fn contributes(kind: ConditionKind) -> &'static str {
    match kind {
        ConditionKind::Ingredient => "ingredient",
        ConditionKind::Safeguard => "lack of a safeguard",
    }
}

/// Number of accepted risks that the verdict leaves out, in words; `None` if there are none.
fn left_out(report: &Report) -> Option<String> {
    match report.left_out() {
        0 => None,
        1 => Some("1 known risk left out".into()),
        several => Some(format!("{several} known risks left out")),
    }
}

/// Note that a finding is accepted, with the reason; `None` if it is not.
fn accepted(finding: &Finding) -> Option<String> {
    let reason = finding.accepted.as_deref()?;
    Some(if reason.is_empty() { "accepted".into() } else { format!("accepted: {reason}") })
}

/// A finding's id, with a note if it is accepted.
fn name(finding: &Finding) -> String {
    accepted(finding).map_or_else(|| finding.id.clone(), |accepted| format!("{} ({accepted})", finding.id))
}

/// One sentence about what a missing privilege hides; `None` if none is missing.
fn missing_privilege(report: &Report, facts: &Facts) -> Option<String> {
    let denied = facts.sources.iter().filter(|status| status.state == SourceState::Denied);
    let list: Vec<_> = denied.map(|status| format!("{}: {}", hidden(status), status.detail)).collect();
    let gain = if in_state(report, State::Unknown).is_empty() { "seen" } else { "decided" };
    (!list.is_empty()).then(|| format!("More could be {gain} with more privilege. {}.", list.join("; ")))
}

/// What a denied source would have shown, if its name does not say it.
fn hidden(status: &SourceStatus) -> String {
    match status.source {
        Source::Nftables => "NAT rules (nftables)".into(),
        Source::XtablesIpv4 => "NAT rules (legacy iptables)".into(),
        Source::XtablesIpv6 => "NAT rules (legacy ip6tables)".into(),
        source => source.name().into(),
    }
}

/// Findings in a state, by severity, accepted ones last.
fn in_state(report: &Report, state: State) -> Vec<&Finding> {
    let mut findings: Vec<&Finding> = report.advisories.iter().filter(|finding| finding.state == state).collect();
    findings.sort_by_key(|finding| (finding.accepted.is_some(), std::cmp::Reverse(finding.severity)));
    findings
}

/// Exposures that count, and those that do not.
fn exposures(report: &Report) -> (Vec<&Finding>, Vec<&Finding>) {
    in_state(report, State::Exposed).into_iter().partition(|finding| is_counted(report, finding))
}

/// Unknown findings by their cause.
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

/// Commands that show the cause, each once.
fn commands<'f>(findings: &[&'f Finding]) -> Vec<&'f String> {
    let mut commands: Vec<&String> = Vec::new();
    for command in findings.iter().flat_map(|finding| finding.commands()) {
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    commands
}

/// The longest prefix of at most `bytes` bytes that ends at a character boundary.
pub(crate) fn beginning(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

/// Makes untrusted text printable: control characters and those that change text direction become `\xNN`, byte by byte,
/// as in [`Name`](crate::facts::Name).
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escape(&mut shown, character),
            _ if character.is_control() => escape(&mut shown, character),
            _ => shown.push(character),
        }
    }
    shown
}

fn escape(shown: &mut String, character: char) {
    for byte in character.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(shown, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests;
