//! `check`: one reading, of this machine or of a capture, judged and printed.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{FAILED, PATIENCE, print, shown};
use crate::advisory::{Severity, State};
use crate::capture::archive;
use crate::cli::{self, Common, Format};
use crate::facts::{Collector, Facts};
use crate::judge::Report;
use crate::kernel::Progress;
use crate::metrics::{self, exposition};
use crate::probe::saved::{self, Saved};
use crate::read::{self, Known};
use crate::report::line::{PluginState, nagios, npd, plugin_state};
use crate::report::text::{self, Style};
use crate::report::{beginning, html, json, printable};
use crate::serve::reading::{Published, ReadingThread, judge_until};

pub(super) fn run(flags: &cli::CheckFlags) -> u8 {
    match checked(flags) {
        Ok(code) => code,
        Err(error) => {
            // A monitor takes the line on stdout and a code of its own for "the check itself failed".
            let (code, line) = match flags.format {
                Format::Nagios => (PluginState::Unknown as u8, format!("NATWATCH UNKNOWN - {error}\n")),
                Format::Npd => (2, format!("{}\n", beginning(&error, 80))),
                Format::Text | Format::Json | Format::Html | Format::Prometheus => (FAILED, String::new()),
            };
            let _ = print(&line);
            eprintln!("natwatch: {}", printable(&error));
            code
        }
    }
}

fn checked(flags: &cli::CheckFlags) -> Result<u8, String> {
    let collectors = &flags.common.collectors.0;
    let Seen { facts, mut durations, deadline, probe } = match &flags.from {
        None => read_live(&flags.common),
        Some(directory) => {
            let capture = archive::load(directory)?;
            let facts = read::replay(&capture, collectors);
            let probe = saved::of_capture(&flags.common.probe_choice(), &capture);
            Seen { facts, durations: BTreeMap::new(), deadline: Instant::now() + PATIENCE, probe }
        }
    };
    let mut options = flags.common.options(&flags.advisories);
    options.probe = super::probe::known(probe);
    let start = Instant::now();
    let mut report = judge_until(deadline, &facts, &options);
    report.min_severity = flags.min_severity;
    if flags.from.is_none() {
        durations.insert(Collector::Verdict, start.elapsed());
    }
    let text = match flags.format {
        Format::Text => text::render(&report, &facts, style()),
        Format::Json => json::render(&report, &facts),
        Format::Html => html::file(&report, &facts) + "\n",
        Format::Prometheus => {
            let settings = shown(&flags.shown, collectors);
            exposition::prometheus(&metrics::families(&report, &facts, &durations, &settings))
        }
        Format::Nagios => nagios(&report, &facts, flags.min_severity) + "\n",
        Format::Npd => npd(&report, flags.min_severity) + "\n",
    };
    print(&text)?;
    if let Some(why) = &report.probe_refused
        && matches!(flags.format, Format::Prometheus | Format::Npd)
    {
        eprintln!("natwatch: {why}"); // there is no place for it in the report
    }
    Ok(exit_code(&report, flags.format, flags.min_severity))
}

fn exit_code(report: &Report, format: Format, severity: Severity) -> u8 {
    match (format, report.worst(severity)) {
        (Format::Nagios, _) => plugin_state(report, severity) as u8,
        (Format::Npd, State::Exposed) => 1,
        (Format::Npd, State::Unknown) | (_, State::Exposed) => 2,
        (_, State::Unknown) => 3,
        (_, State::Mitigated | State::NotAffected) => 0,
    }
}

fn style() -> Style {
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    Style { colour: wanted && !dumb && io::stdout().is_terminal() }
}

/// Of that, what is kept for judging what there is.
const JUDGING: Duration = Duration::from_secs(2);

/// What there is of a node.
struct Seen {
    facts: Facts,
    durations: BTreeMap<Collector, Duration>,
    /// Until when it may be judged.
    deadline: Instant,
    /// What an earlier probe has found.
    probe: Option<Saved>,
}

/// One reading of this machine, on a thread of its own so that a kernel that does not answer cannot hang us.
fn read_live(common: &Common) -> Seen {
    let deadline = Instant::now() + PATIENCE;
    let probe = saved::of_this_node(common.probe_choice(), common.trees.paths());
    let (done, finished) = mpsc::channel();
    let collectors = &common.collectors.0;
    let then = move |published, _, _: &Progress| drop(done.send(published));
    let reader = ReadingThread::new(Arc::new(common.trees.paths()));
    let underway = reader.begin(collectors.clone(), Known::default(), PATIENCE, then);
    let Published { meta, parts, .. } = finished.recv_timeout(PATIENCE - JUDGING).unwrap_or_else(|_| underway.so_far());
    let facts = parts.facts(&meta, collectors, &underway.missing(PATIENCE - JUDGING));
    Seen { facts, durations: underway.progress.durations(), deadline, probe: probe.wait(deadline - JUDGING) }
}
