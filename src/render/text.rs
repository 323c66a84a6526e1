//! The report for a terminal: the verdict first, then exposed, then unknown by cause, then the rest in a line.

use std::fmt::Write as _;

use crate::advisory::{Advisory, Catalogue, State};
use crate::judge::{ConditionState, Finding, Report};
use crate::snapshot::Snapshot;

use super::{in_state, missing_privilege, source_nat, unknown_by_cause};

/// Columns of the text.
const WIDTH: usize = 80;

/// ANSI colours, or nothing.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// Whether the reader is a terminal that wants colours.
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
}

/// Renders the report.
pub fn render(report: &Report, snapshot: &Snapshot, style: Style) -> String {
    let mut out = String::new();
    let verdict = report.verdict.name().replace('_', " ");
    let release = snapshot.kernel.ok().map_or("of unknown release", |kernel| &kernel.release);
    let _ = writeln!(out, "natwatch: {}", style.state(report.verdict, &verdict));
    paragraph(&mut out, "", &format!("{}, kernel {release}, {}", snapshot.hostname, snapshot.captured_at));
    if let Some(hint) = missing_privilege(report, snapshot) {
        out.push('\n');
        paragraph(&mut out, "", &hint);
    }
    for finding in in_state(report, State::Exposed) {
        exposed(&mut out, finding, style);
    }
    for (cause, findings) in unknown_by_cause(report) {
        let ids: Vec<&str> = findings.iter().map(|finding| finding.id.as_str()).collect();
        let _ = writeln!(out, "\n{}", style.state(State::Unknown, "UNKNOWN"));
        paragraph(&mut out, "  ", &ids.join(", "));
        paragraph(&mut out, "  ", &format!("because {cause}"));
    }
    rest(&mut out, report, style);
    source_nat_rules(&mut out, snapshot);
    if report.verdict == State::Exposed {
        let _ = writeln!(out, "\n`natwatch explain ID` tells how it works and where that is known from.");
    }
    out
}

fn exposed(out: &mut String, finding: &Finding, style: Style) {
    let heading = format!("EXPOSED  {} ({})", finding.id, finding.severity);
    let _ = writeln!(out, "\n{}", style.state(State::Exposed, &heading));
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
            let _ = writeln!(out, "      {command}"); // never wrapped: it is to be copied
        }
    }
}

/// What needs no attention, in a line per state.
fn rest(out: &mut String, report: &Report, style: Style) {
    let mut first = true;
    for (state, words) in [(State::Mitigated, "Mitigated"), (State::NotAffected, "Not affected")] {
        let ids: Vec<&str> = in_state(report, state).iter().map(|finding| finding.id.as_str()).collect();
        if !ids.is_empty() {
            if first {
                out.push('\n');
            }
            first = false;
            let mut line = String::new();
            item(&mut line, "", &format!("{words}: "), &ids.join(", "));
            out.push_str(&line.replacen(words, &style.state(state, words), 1));
        }
    }
}

/// Who translates source addresses here, in a line per kind.
fn source_nat_rules(out: &mut String, snapshot: &Snapshot) {
    out.push('\n');
    item(out, "", "", &source_nat::headline(snapshot));
    for kind in source_nat::kinds(snapshot) {
        item(out, "  ", "- ", &kind);
    }
}

/// An advisory for `natwatch explain`.
pub fn explain(advisory: &Advisory) -> String {
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
        item(&mut out, "  ", "- ", &format!("{} ({})", condition.id, condition.kind));
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

/// The list of `natwatch explain` without an id.
pub fn explain_all(catalogue: &Catalogue) -> String {
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

/// A wrapped paragraph whose first line begins with `lead` and whose other lines are indented below it.
fn item(out: &mut String, indent: &str, lead: &str, text: &str) {
    let first = format!("{indent}{lead}");
    let hanging = format!("{indent}{}", if lead.is_empty() { "" } else { "  " });
    let options = textwrap::Options::new(WIDTH)
        .word_splitter(textwrap::WordSplitter::NoHyphenation)
        .break_words(false)
        .initial_indent(&first)
        .subsequent_indent(&hanging);
    let printable: String = text.chars().filter(|c| !c.is_control()).collect();
    out.push_str(&textwrap::fill(&printable, options));
    out.push('\n');
}
