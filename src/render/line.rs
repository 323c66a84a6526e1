//! One line each for Nagios-compatible monitors and for node-problem-detector.

use crate::advisory::{Severity, State};
use crate::judge::Report;
use crate::snapshot::{ConntrackCounter, Snapshot};

use super::in_state;

/// A state of the monitoring plugins guidelines, and its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PluginState {
    /// 0
    Ok = 0,
    /// 1
    Warning = 1,
    /// 2
    Critical = 2,
    /// 3
    Unknown = 3,
}

/// The plugin state of a report, counting advisories of at least `severity`.
pub fn plugin_state(report: &Report, severity: Severity) -> PluginState {
    match report.worst(severity) {
        State::Exposed if report.worst(severity.max(Severity::Critical)) == State::Exposed => PluginState::Critical,
        State::Exposed => PluginState::Warning,
        State::Unknown => PluginState::Unknown,
        State::Mitigated | State::NotAffected => PluginState::Ok,
    }
}

/// One status line with performance data.
pub fn nagios(report: &Report, snapshot: &Snapshot, severity: Severity) -> String {
    let word = match plugin_state(report, severity) {
        PluginState::Ok => "OK",
        PluginState::Warning => "WARNING",
        PluginState::Critical => "CRITICAL",
        PluginState::Unknown => "UNKNOWN",
    };
    let mut line = format!("NATWATCH {word} - {}", headline(report, severity));
    let perfdata = [
        Some(format!("exposed={}", in_state(report, State::Exposed).len())),
        Some(format!("unknown={}", in_state(report, State::Unknown).len())),
        snapshot.conntrack.entries.ok().map(|entries| match snapshot.conntrack.entries_limit.ok() {
            Some(limit) => format!("conntrack_entries={entries};;;0;{limit}"),
            None => format!("conntrack_entries={entries}"),
        }),
        counter(snapshot, ConntrackCounter::InsertFailed),
        counter(snapshot, ConntrackCounter::Drop),
    ];
    line = line.replace(['|', '\n'], " ");
    line.push_str(" | ");
    line.push_str(&perfdata.into_iter().flatten().collect::<Vec<_>>().join(" "));
    line
}

fn counter(snapshot: &Snapshot, counter: ConntrackCounter) -> Option<String> {
    let totals = snapshot.conntrack.totals();
    Some(format!("conntrack_{counter}={}c", totals.ok()?.get(&counter)?))
}

/// One line of at most 80 characters.
pub fn npd(report: &Report, severity: Severity) -> String {
    let line = headline(report, severity).replace('\n', " ");
    match line.char_indices().nth(80) {
        Some(_) => line.chars().take(79).chain(['…']).collect(),
        None => line,
    }
}

/// The ids in the worst state, or that there is nothing.
fn headline(report: &Report, severity: Severity) -> String {
    let worst = report.worst(severity);
    let ids: Vec<&str> = in_state(report, worst)
        .iter()
        .filter(|finding| finding.severity >= severity)
        .map(|finding| finding.id.as_str())
        .collect();
    match worst {
        State::Exposed | State::Unknown => format!("{worst}: {}", ids.join(", ")),
        State::Mitigated | State::NotAffected => {
            format!("nothing exposed ({} advisories judged)", report.advisories.len())
        }
    }
}
