//! One line each for Nagios-compatible monitors and for node-problem-detector.

use crate::advisory::{Severity, State};
use crate::judge::{Finding, Report};
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
        Some(format!("exposed={}", ids(report, State::Exposed, severity).len())),
        Some(format!("unknown={}", ids(report, State::Unknown, severity).len())),
        snapshot.conntrack.entries.ok().map(|entries| match snapshot.conntrack.entries_limit.ok() {
            Some(limit) => format!("conntrack_entries={entries};;;0;{limit}"),
            None => format!("conntrack_entries={entries}"),
        }),
        counter(snapshot, ConntrackCounter::InsertFailed),
        counter(snapshot, ConntrackCounter::Drop),
    ];
    if let Some(why) = &report.probe_refused {
        line += &format!("; {why}");
    }
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

/// What is in the worst state, or that there is nothing; and then what does not count, because the state says nothing of that.
fn headline(report: &Report, severity: Severity) -> String {
    let worst = report.worst(severity);
    if worst >= State::Unknown {
        return format!("{worst}: {}", ids(report, worst, severity).join(", "));
    }
    let uncounted: Vec<&Finding> =
        in_state(report, State::Exposed).into_iter().filter(|finding| finding.severity < severity).collect();
    if uncounted.is_empty() {
        return format!("nothing exposed ({} advisories judged)", report.advisories.len());
    }
    let list: Vec<String> = uncounted.iter().map(|finding| format!("{} ({})", finding.id, finding.severity)).collect();
    format!("nothing exposed of at least {severity}; not counted: {}", list.join(", "))
}

/// Those in a state, of at least this severity, worst first.
fn ids(report: &Report, state: State, severity: Severity) -> Vec<&str> {
    let counted = in_state(report, state).into_iter().filter(|finding| finding.severity >= severity);
    counted.map(|finding| finding.id.as_str()).collect()
}
