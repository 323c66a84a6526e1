//! The report for terminals: verdict, exposures, unknown findings by cause, then the others in one line per state.

use std::fmt::Write as _;

use crate::advisory::{Advisory, Catalogue, Severity, State};
use crate::facts::Facts;
use crate::judge::{ConditionState, Finding, Report};

use super::{
    accepted, commands, contributes, exposures, in_state, is_counted, left_out, missing_privilege, name, printable,
    source_nat, tone, uncounted, unknown_by_cause,
};

/// Width of the text, columns.
const WIDTH: usize = 80;

/// Whether to use ANSI colours.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// stdout is a terminal that supports colours.
    pub colour: bool,
}

impl Style {
    fn paint(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn state(self, state: State, text: &str) -> String {
        match state {
            State::Exposed => self.paint("1;31", text),
            State::Unknown => self.paint("1;33", text),
            State::Mitigated | State::NotAffected => self.paint("1;32", text),
        }
    }

    /// Colour of an exposure: red, orange or blue, as on the dashboards.
    fn severity(self, severity: Severity, text: &str) -> String {
        match severity {
            Severity::Critical => self.paint("1;31", text),
            Severity::Warning => self.paint("1;38;5;208", text),
            Severity::Info => self.paint("1;94", text),
        }
    }

    /// The verdict has the colour of the worst exposure that counts.
    fn verdict(self, report: &Report, text: &str) -> String {
        match exposures(report).0.first() {
            Some(worst) => self.severity(worst.severity, text),
            None => self.state(report.worst(report.min_severity), text),
        }
    }
}

/// Renders the report.
pub(crate) fn render(report: &Report, facts: &Facts, style: Style) -> String {
    let mut out = String::new();
    let verdict = super::verdict(report);
    let release = facts.kernel.ok().map_or("of unknown release", |kernel| &kernel.release);
    let left_out = left_out(report).map(|count| format!(" ({count})")).unwrap_or_default();
    let _ = writeln!(out, "natwatch: {}{left_out}", style.verdict(report, &verdict));
    paragraph(&mut out, "", &format!("{}, kernel {release}, {}", facts.hostname, facts.captured_at));
    informs(&mut out, report, style);
    if let Some(hint) = missing_privilege(report, facts) {
        out.push('\n');
        paragraph(&mut out, "", &hint);
    }
    if let Some(why) = &report.probe_refused {
        out.push('\n');
        paragraph(&mut out, "", &format!("Note: {why}."));
    }
    let (counted, informative) = exposures(report);
    for finding in counted {
        exposed(&mut out, report, finding, style);
    }
    unknown(&mut out, report, style);
    for finding in &informative {
        exposed(&mut out, report, finding, style);
    }
    rest(&mut out, report, style);
    source_nat_rules(&mut out, facts);
    if !in_state(report, State::Exposed).is_empty() {
        let _ = writeln!(out, "\n`natwatch explain ID` tells how it works and where that is known from.");
    }
    out
}

/// Exposures that do not count, in a line of their own.
fn informs(out: &mut String, report: &Report, style: Style) {
    let (_, shown) = exposures(report);
    let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
    for finding in shown {
        let Some(why) = uncounted(report, finding) else { continue };
        match groups.iter_mut().find(|(known, _)| *known == why) {
            Some((_, names)) => names.push(name(finding)),
            None => groups.push((why, vec![name(finding)])),
        }
    }
    for (why, names) in groups {
        let words = format!("{why}, not counted in the verdict");
        listed(out, &words, &style.severity(Severity::Info, &words), &names.join(", "));
    }
}

fn exposed(out: &mut String, report: &Report, finding: &Finding, style: Style) {
    let heading = match (&finding.accepted, finding.severity) {
        _ if is_counted(report, finding) => format!("EXPOSED  {} ({})", finding.id, finding.severity),
        (Some(_), _) => format!("ACCEPTED  {} ({}, exposed)", finding.id, finding.severity),
        (None, Severity::Info) => format!("INFO  {} (exposed)", finding.id),
        (None, _) => format!("NOT COUNTED  {} ({}, exposed)", finding.id, finding.severity),
    };
    let _ = writeln!(out, "\n{}", style.severity(tone(report, finding), &heading));
    if let Some(accepted) = accepted(finding) {
        item(out, "  ", "Left out of the verdict, ", &accepted);
    }
    paragraph(out, "  ", &finding.summary);
    for condition in finding.conditions.iter().filter(|condition| condition.state == ConditionState::Holds) {
        item(out, "  ", &format!("- {}: ", condition.id), &condition.detail);
    }
    for evidence in &finding.evidence {
        item(out, "  ", "- ", evidence);
    }
    for remedy in &finding.remedies {
        let lasting = if remedy.survives_reboot { "Fix" } else { "Fix until the next reboot" };
        item(out, "  ", &format!("{lasting}: "), &remedy.text);
        if let Some(command) = &remedy.command {
            let _ = writeln!(out, "      {command}"); // never wrapped, so that it can be copied
        }
    }
}

/// Unknown findings by cause.
fn unknown(out: &mut String, report: &Report, style: Style) {
    for (cause, findings) in unknown_by_cause(report) {
        let id = |finding: &&Finding| match is_counted(report, finding) {
            true => finding.id.clone(),
            false if finding.accepted.is_some() => name(finding),
            false => format!("{} ({})", finding.id, finding.severity),
        };
        let ids: Vec<String> = findings.iter().map(id).collect();
        let _ = writeln!(out, "\n{}", style.state(State::Unknown, "UNKNOWN"));
        paragraph(out, "  ", &ids.join(", "));
        paragraph(out, "  ", &format!("because {cause}"));
        let commands: Vec<&String> = commands(&findings);
        if !commands.is_empty() {
            paragraph(out, "  ", "What could not be told is shown by:");
        }
        for command in commands {
            let _ = writeln!(out, "      {command}"); // never wrapped, so that it can be copied
        }
    }
}

/// One line for each state that needs no attention.
fn rest(out: &mut String, report: &Report, style: Style) {
    let mut first = true;
    for (state, words) in [(State::Mitigated, "Not exposed now"), (State::NotAffected, "Not affected")] {
        let ids: Vec<String> = in_state(report, state).iter().map(|finding| name(finding)).collect();
        if !ids.is_empty() {
            if first {
                out.push('\n');
            }
            first = false;
            listed(out, words, &style.state(state, words), &ids.join(", "));
        }
    }
}

/// A wrapped list after a possibly coloured heading; colour codes have no width.
fn listed(out: &mut String, words: &str, painted: &str, list: &str) {
    let mut line = String::new();
    item(&mut line, "", &format!("{words}: "), list);
    out.push_str(&line.replacen(words, painted, 1));
}

/// Writers of source-NAT rules, one line per kind.
fn source_nat_rules(out: &mut String, facts: &Facts) {
    out.push('\n');
    item(out, "", "", &source_nat::headline(facts));
    for kind in source_nat::kinds(facts) {
        item(out, "  ", "- ", &kind);
    }
}

/// An advisory, for `natwatch explain`.
pub(crate) fn explain(advisory: &Advisory) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{} ({})", advisory.id, advisory.severity);
    paragraph(&mut out, "", &advisory.title);
    out.push('\n');
    for block in advisory.prose.split("\n\n") {
        paragraph(&mut out, "", &block.replace('\n', " "));
        out.push('\n');
    }
    out.push_str("Conditions\n");
    for condition in &advisory.conditions {
        item(&mut out, "  ", "- ", &format!("{} ({})", condition.id, contributes(condition.kind)));
    }
    out.push_str("\nRemedies\n");
    for remedy in &advisory.remedies {
        let lasting = if remedy.survives_reboot { "" } else { " (until the next reboot)" };
        item(&mut out, "  ", "- ", &format!("{}{lasting}", remedy.text));
        if let Some(command) = &remedy.command {
            let _ = writeln!(out, "      {command}");
        }
    }
    out.push_str("\nReferences\n");
    for reference in &advisory.references {
        let _ = writeln!(out, "  {reference}");
    }
    out
}

/// The list printed by `natwatch explain` without an id.
pub(crate) fn explain_all(catalogue: &Catalogue) -> String {
    let mut out = String::new();
    for advisory in &catalogue.advisories {
        let _ = writeln!(out, "{} ({})", advisory.id, advisory.severity);
        paragraph(&mut out, "  ", &advisory.title);
    }
    out
}

fn paragraph(out: &mut String, indent: &str, text: &str) {
    item(out, indent, "", text);
}

/// A wrapped paragraph with a lead in the first line; further lines are indented to its width.
fn item(out: &mut String, indent: &str, lead: &str, text: &str) {
    let first = format!("{indent}{lead}");
    let hanging = format!("{indent}{}", if lead.is_empty() { "" } else { "  " });
    let options = textwrap::Options::new(WIDTH)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false)
        .initial_indent(&first)
        .subsequent_indent(&hanging);
    out.push_str(&textwrap::fill(&printable(text), options));
    out.push('\n');
}
