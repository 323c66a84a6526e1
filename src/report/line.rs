//! One-line formats for Nagios-compatible monitors and for node-problem-detector.

use crate::advisory::{Severity, State};
use crate::facts::{ConntrackCounter, Facts};
use crate::judge::{Finding, Report};

use super::{beginning, in_state, left_out};

/// Plugin states of the monitoring-plugins guidelines, with their exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PluginState {
    /// 0
    Ok = 0,
    /// 1
    Warning = 1,
    /// 2
    Critical = 2,
    /// 3
    Unknown = 3,
}

/// Plugin state of a report, considering advisories of at least `severity`.
pub(crate) fn plugin_state(report: &Report, severity: Severity) -> PluginState {
    match report.worst(severity) {
        State::Exposed if report.worst(severity.max(Severity::Critical)) == State::Exposed => PluginState::Critical,
        State::Exposed => PluginState::Warning,
        State::Unknown => PluginState::Unknown,
        State::Mitigated | State::NotAffected => PluginState::Ok,
    }
}

/// A status line with performance data.
pub(crate) fn nagios(report: &Report, facts: &Facts, severity: Severity) -> String {
    let word = match plugin_state(report, severity) {
        PluginState::Ok => "OK",
        PluginState::Warning => "WARNING",
        PluginState::Critical => "CRITICAL",
        PluginState::Unknown => "UNKNOWN",
    };
    let count = |state| ids(report, state, severity).len();
    let left_out = left_out(report).map(|count| format!(", {count}")).unwrap_or_default();
    let mut line = format!("NATWATCH {word} - {}{left_out}", headline(report, severity));
    let perfdata = [
        Some(format!("exposed={}", count(State::Exposed))),
        Some(format!("unknown={}", count(State::Unknown))),
        Some(format!("accepted={}", report.left_out())),
        facts.conntrack.entries.ok().map(|entries| match facts.conntrack.entries_limit.ok() {
            Some(limit) => format!("conntrack_entries={entries};;;0;{limit}"),
            None => format!("conntrack_entries={entries}"),
        }),
        counter(facts, ConntrackCounter::InsertFailed),
        counter(facts, ConntrackCounter::Drop),
    ];
    if let Some(why) = &report.probe_refused {
        line += &format!("; {why}");
    }
    line = line.replace(['|', '\n'], " ");
    line.push_str(" | ");
    line.push_str(&perfdata.into_iter().flatten().collect::<Vec<_>>().join(" "));
    line
}

fn counter(facts: &Facts, counter: ConntrackCounter) -> Option<String> {
    let totals = facts.conntrack.totals();
    Some(format!("conntrack_{counter}={}c", totals.ok()?.get(&counter)?))
}

/// A line of at most 80 bytes; node-problem-detector cuts there, even inside a character.
pub(crate) fn npd(report: &Report, severity: Severity) -> String {
    const WIDTH: usize = 80;
    let left_out = left_out(report).map(|count| format!(", {count}")).unwrap_or_default();
    let width = WIDTH - left_out.len();
    let mut line = headline(report, severity).replace('\n', " ");
    if line.len() > width {
        line = format!("{}…", beginning(&line, width - '…'.len_utf8()));
    }
    // The number left out is shown in any case.
    line + &left_out
}

/// The worst state and its advisories; then advisories that do not count, which the state does not include.
fn headline(report: &Report, severity: Severity) -> String {
    let worst = report.worst(severity);
    if worst >= State::Unknown {
        return format!("{worst}: {}", ids(report, worst, severity).join(", "));
    }
    let else_ = if report.left_out() == 0 { "" } else { "else " };
    let is_uncounted = |finding: &&Finding| finding.severity < severity && finding.accepted.is_none();
    let uncounted: Vec<&Finding> = in_state(report, State::Exposed).into_iter().filter(is_uncounted).collect();
    if uncounted.is_empty() {
        return format!("nothing {else_}exposed ({} advisories judged)", report.advisories.len());
    }
    let list: Vec<String> = uncounted.iter().map(|finding| format!("{} ({})", finding.id, finding.severity)).collect();
    format!("nothing {else_}exposed of at least {severity}; not counted: {}", list.join(", "))
}

/// Ids of the advisories in a state that count, worst first.
fn ids(report: &Report, state: State, severity: Severity) -> Vec<&str> {
    let mut counted: Vec<&Finding> = report.counted(severity).filter(|finding| finding.state == state).collect();
    counted.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    counted.into_iter().map(|finding| finding.id.as_str()).collect()
}
