//! Verdicts: an index, then exposures with remedies, then the others.

use maud::{Markup, html};

use super::super::{accepted, commands, exposures, in_state, is_counted, name, tone, uncounted, unknown_by_cause};
use super::table;
use crate::advisory::{Severity, State};
use crate::judge::{Finding, Report};

/// CSS class for the headline: that of the worst exposure that counts.
pub(crate) fn tone_of_verdict(report: &Report) -> &'static str {
    match exposures(report).0.first() {
        Some(worst) => worst.severity.name(),
        None => report.worst(report.min_severity).name(),
    }
}

/// Index of all advisories by state, worst first.
pub(crate) fn index(report: &Report) -> Markup {
    let (counted, shown) = exposures(report);
    let of = |severity| counted.iter().copied().filter(|finding| finding.severity == severity).collect::<Vec<_>>();
    let because = |why| shown.iter().copied().filter(|finding| uncounted(report, finding) == Some(why)).collect();
    let groups: [(&str, &str, Vec<&Finding>); 9] = [
        (Severity::Critical.name(), "Exposed, critical", of(Severity::Critical)),
        (Severity::Warning.name(), "Exposed, warning", of(Severity::Warning)),
        (Severity::Info.name(), "Exposed, info", of(Severity::Info)),
        (State::Unknown.name(), "Unknown", in_state(report, State::Unknown)),
        (Severity::Info.name(), "For information", because("For information")),
        (Severity::Info.name(), "Exposed, not counted", because("Below --min-severity")),
        (Severity::Info.name(), "Exposed, accepted", because("Accepted")),
        (State::Mitigated.name(), "Not exposed now", in_state(report, State::Mitigated)),
        (State::NotAffected.name(), "Not affected", in_state(report, State::NotAffected)),
    ];
    html! {
        nav aria-label="Verdicts" {
            dl {
                @for (tone, title, findings) in groups.into_iter().filter(|(_, _, findings)| !findings.is_empty()) {
                    @let number = findings.len();
                    @match section(tone) {
                        // On small screens the index shows only this.
                        Some(id) => dt class=(tone) { a href={ "#" (id) } { (title) " (" (number) ")" } },
                        None => dt class=(tone) { (title) " (" (number) ")" },
                    }
                    dd { @for finding in findings { a href={ "#" (finding.id) } { (finding.id) } " " } }
                }
            }
        }
    }
}

/// Id of the section shared by advisories in this state; `None`: each has its own.
fn section(tone: &str) -> Option<&'static str> {
    match State::from_name(tone)? {
        State::Mitigated => Some("not-exposed-now"),
        State::NotAffected => Some("not-affected"),
        State::Exposed | State::Unknown => None,
    }
}

/// All sections, in the order of the index.
pub(crate) fn all(report: &Report) -> Markup {
    let (counted, shown) = exposures(report);
    html! {
        @for finding in counted { (exposed(report, finding)) }
        @for (cause, findings) in unknown_by_cause(report) { (unknown(report, &cause, &findings)) }
        @for finding in shown { (exposed(report, finding)) }
        (rest(report, State::Mitigated, "Not exposed now",
            "All ingredients are here, and a safeguard is in place or a limit is not reached."))
        (rest(report, State::NotAffected, "Not affected", "An ingredient is missing altogether."))
    }
}

fn exposed(report: &Report, finding: &Finding) -> Markup {
    html! {
        section id=(finding.id) class={ "finding " (tone(report, finding)) } {
            h2 {
                @match uncounted(report, finding) {
                    None => { "Exposed: " (finding.id) " (" (finding.severity) ")" }
                    Some(why) => { (why) ", not counted: " (finding.id) " (" (finding.severity) ")" }
                }
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

/// Commands wrap, and one click selects a whole command.
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

fn unknown(report: &Report, cause: &str, findings: &[&Finding]) -> Markup {
    html! {
        section class="finding unknown" {
            h2 {
                "Unknown: " @for (at, finding) in findings.iter().enumerate() { @if at > 0 { ", " } (finding.id) }
            }
            p { "because " (cause) }
            @if !commands(findings).is_empty() {
                p { "What could not be told is shown by:" }
                @for command in commands(findings) { pre { code { (command) } } }
            }
            @for finding in findings {
                details id=(finding.id) {
                    summary {
                        strong { (name(finding)) }
                        @if !is_counted(report, finding) { " (" (finding.severity) ")" }
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
