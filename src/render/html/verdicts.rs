//! The verdicts: an index, then what is wrong with what to do about it, then the rest.

use maud::{Markup, html};

use super::super::{accepted, exposures, in_state, is_counted, name, tone, unknown_by_cause};
use super::table;
use crate::advisory::{Severity, State};
use crate::judge::{Finding, Report};

/// The class that gives the headline the colour of what decided it.
pub fn tone_of_verdict(report: &Report) -> &'static str {
    match exposures(report).0.first() {
        Some(worst) => worst.severity.name(),
        None => report.verdict.name(),
    }
}

/// Every advisory by what is said of it, the worst first.
pub fn index(report: &Report) -> Markup {
    let (counted, informative) = exposures(report);
    let (critical, warning) = counted.into_iter().partition(|finding| finding.severity == Severity::Critical);
    let (accepted, informative) = informative.into_iter().partition(|finding| finding.accepted.is_some());
    let groups: [(&str, &str, Vec<&Finding>); 7] = [
        (Severity::Critical.name(), "Exposed, critical", critical),
        (Severity::Warning.name(), "Exposed, warning", warning),
        (State::Unknown.name(), "Unknown", in_state(report, State::Unknown)),
        (Severity::Info.name(), "For information", informative),
        (Severity::Info.name(), "Exposed, accepted", accepted),
        (State::Mitigated.name(), "Not exposed now", in_state(report, State::Mitigated)),
        (State::NotAffected.name(), "Not affected", in_state(report, State::NotAffected)),
    ];
    html! {
        nav aria-label="Verdicts" {
            dl {
                @for (tone, title, findings) in groups.into_iter().filter(|(_, _, findings)| !findings.is_empty()) {
                    @let number = findings.len();
                    @match section(tone) {
                        // On a phone this is all that the index says of them.
                        Some(id) => dt class=(tone) { a href={ "#" (id) } { (title) " (" (number) ")" } },
                        None => dt class=(tone) { (title) " (" (number) ")" },
                    }
                    dd { @for finding in findings { a href={ "#" (finding.id) } { (finding.id) } " " } }
                }
            }
        }
    }
}

/// The section that advisories in such a state share; each of the others has its own.
fn section(tone: &str) -> Option<&'static str> {
    match State::from_name(tone)? {
        State::Mitigated => Some("not-exposed-now"),
        State::NotAffected => Some("not-affected"),
        State::Exposed | State::Unknown => None,
    }
}

/// In the order of the index.
pub fn all(report: &Report) -> Markup {
    let (counted, informative) = exposures(report);
    html! {
        @for finding in counted { (exposed(finding)) }
        @for (cause, findings) in unknown_by_cause(report) { (unknown(&cause, &findings)) }
        @for finding in informative { (exposed(finding)) }
        (rest(report, State::Mitigated, "Not exposed now",
            "All ingredients are here, and a safeguard is in place or a limit is not reached."))
        (rest(report, State::NotAffected, "Not affected", "An ingredient is missing altogether."))
    }
}

fn exposed(finding: &Finding) -> Markup {
    html! {
        section id=(finding.id) class={ "finding " (tone(finding)) } {
            h2 {
                @if is_counted(finding) { "Exposed: " (finding.id) " (" (finding.severity) ")" }
                @else if finding.accepted.is_some() { "Accepted, not counted: " (finding.id) " (" (finding.severity) ")" }
                @else { "For information, not counted: " (finding.id) }
            }
            @if let Some(accepted) = accepted(finding) { p { "Left out of the verdict, " (accepted) } }
            p { (finding.summary) }
            (remedies(finding))
            h3 { "Why" }
            (conditions(finding))
            @if !finding.evidence.is_empty() {
                ul { @for evidence in &finding.evidence { li { (evidence) } } }
            }
            p { @for reference in &finding.references { a href=(reference) { (reference) } br; } }
        }
    }
}

/// Commands wrap, and one click selects one as a whole.
fn remedies(finding: &Finding) -> Markup {
    html! {
        h3 { "What to do" }
        ul {
            @for remedy in &finding.remedies {
                li {
                    @if !remedy.survives_reboot { "Until the next reboot: " }
                    (remedy.text)
                    @if let Some(command) = &remedy.command {
                        pre { @for line in command.lines() { code { (line) } } }
                    }
                }
            }
        }
    }
}

fn unknown(cause: &str, findings: &[&Finding]) -> Markup {
    html! {
        section class="finding unknown" {
            h2 { "Unknown" }
            p { "because " (cause) }
            @for finding in findings {
                details id=(finding.id) {
                    summary {
                        strong { (name(finding)) }
                        @if !is_counted(finding) { " (" (finding.severity) ")" }
                        ": " (finding.title)
                    }
                    (conditions(finding))
                }
            }
        }
    }
}

fn rest(report: &Report, state: State, title: &str, meaning: &str) -> Markup {
    let findings = in_state(report, state);
    html! {
        @if !findings.is_empty() {
            section class=(state) id=[section(state.name())] {
                h2 { (title) }
                p { (meaning) }
                @for finding in findings {
                    details id=(finding.id) {
                        summary { strong { (name(finding)) } ": " (finding.summary) }
                        (conditions(finding))
                    }
                }
            }
        }
    }
}

fn conditions(finding: &Finding) -> Markup {
    let rows = finding.conditions.iter();
    let rows = rows.map(|condition| [condition.id.clone(), condition.state.to_string(), condition.detail.clone()]);
    table(["condition", "state", "decided by"], rows)
}
