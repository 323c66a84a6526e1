//! `check`: reads this machine or a capture once, judges it and prints the report.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{BETWEEN_READINGS, FAILED, PATIENCE, print, shown};
use crate::advisory::{Severity, State};
use crate::capture::archive;
use crate::cli::{self, Common, Format};
use crate::facts::{Collector, Facts};
use crate::judge::{self, Report};
use crate::kernel::Progress;
use crate::metrics::{self, exposition};
use crate::probe::saved;
use crate::read::{self, Collectors, Known};
use crate::report::line::{PluginState, nagios, npd, plugin_state};
use crate::report::text::{self, Style};
use crate::report::{beginning, html, json, printable};
use crate::serve::reading::{Published, ReadingThread, judge_until};

/// Runs `natwatch check`; returns the exit code.
pub(super) fn run(flags: &cli::CheckFlags) -> u8 {
    let answered = answer(flags, style()).and_then(|answer| {
        print(&answer.text)?;
        if let Some(why) = answer.beside {
            eprintln!("natwatch: {why}");
        }
        Ok(answer.code)
    });
    match answered {
        Ok(code) => code,
        Err(error) => {
            // Monitors expect one line on stdout, and an exit code of its own for a failure of the check itself.
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

/// Result of `check`.
pub struct CheckAnswer {
    /// For stdout.
    pub text: String,
    /// For stderr: information that the format has no place for.
    pub beside: Option<String>,
    /// The exit code.
    pub code: u8,
}

/// Reads, judges and renders.
///
/// # Errors
/// The capture does not exist or is invalid.
pub fn answer(flags: &cli::CheckFlags, style: Style) -> Result<CheckAnswer, String> {
    let collectors = &flags.common.collectors();
    let mut options = flags.common.options(&flags.advisories);
    let (Seen { facts, durations, .. }, mut report) = read_and_judge(flags, &mut options)?;
    report.min_severity = flags.min_severity;
    let text = match flags.format {
        Format::Text => text::render(&report, &facts, style),
        Format::Json => json::render(&report, &facts),
        Format::Html => html::file(&report, &facts) + "\n",
        Format::Prometheus => {
            let settings = shown(&flags.shown, &flags.common, collectors);
            exposition::prometheus(&metrics::families(&report, &facts, &durations, &settings))
        }
        Format::Nagios => nagios(&report, &facts, flags.min_severity) + "\n",
        Format::Npd => npd(&report, flags.min_severity) + "\n",
    };
    let code = exit_code(&report, flags.format, flags.min_severity);
    let beside = report.probe_refused.filter(|_| matches!(flags.format, Format::Prometheus | Format::Npd));
    Ok(CheckAnswer { text, beside, code })
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

/// Part of the time reserved for judging.
const JUDGING: Duration = Duration::from_secs(2);

/// Facts of a node with timing.
struct Seen {
    facts: Facts,
    durations: BTreeMap<Collector, Duration>,
    /// Deadline for judging.
    deadline: Instant,
}

/// Readings of this machine on a thread of its own, so that a kernel that does not answer cannot block the command.
struct LiveReading {
    reader: ReadingThread,
    collectors: Collectors,
    deadline: Instant,
}

impl LiveReading {
    fn begin(common: &Common) -> Self {
        let reader = ReadingThread::new(Arc::new(common.trees.paths()));
        Self { reader, collectors: common.collectors(), deadline: Instant::now() + PATIENCE }
    }

    /// One reading, and its memory for the next; `None` if it was cut.
    fn read(&self, known: Known) -> (Facts, BTreeMap<Collector, Duration>, Option<Known>) {
        let (done, finished) = mpsc::channel();
        let then = move |published, left, _: &Progress| drop(done.send((published, left)));
        let patience = (self.deadline - JUDGING).saturating_duration_since(Instant::now());
        let underway = self.reader.begin(self.collectors.clone(), known, patience + JUDGING, then);
        let (Published { meta, parts, .. }, left) = match finished.recv_timeout(patience) {
            Ok((published, left)) => (published, Some(left)),
            Err(_) => (underway.so_far(), None),
        };
        let facts = parts.facts(&meta, &self.collectors, &underway.missing(patience));
        (facts, underway.progress.durations(), left)
    }
}

/// Reads and judges; reads a second time if there are UDP entries whose translation no rule gives any more.
fn read_and_judge(flags: &cli::CheckFlags, options: &mut judge::Options) -> Result<(Seen, Report), String> {
    let common = &flags.common;
    let judged = |seen: &mut Seen, options: &judge::Options| {
        let start = Instant::now();
        let report = judge_until(seen.deadline, &seen.facts, options);
        if flags.from.is_none() {
            seen.durations.insert(Collector::Verdict, start.elapsed());
        }
        report
    };
    match &flags.from {
        None => {
            let probe = saved::of_this_node(common.probe_choice(), common.trees.paths());
            let reading = LiveReading::begin(common);
            let deadline = reading.deadline;
            let (facts, durations, left) = reading.read(Known::default());
            options.probe = super::probe::known(probe.wait(deadline - JUDGING));
            let mut seen = Seen { facts, durations, deadline };
            let report = judged(&mut seen, options);
            let Some(mut left) = left.filter(|_| report.has_seen_once()) else { return Ok((seen, report)) };
            std::thread::sleep(BETWEEN_READINGS);
            left.read_again(BETWEEN_READINGS);
            let (facts, durations, whole) = reading.read(left);
            if whole.is_some() {
                seen = Seen { facts, durations, deadline };
            }
            let report = judged(&mut seen, options);
            Ok((seen, report))
        }
        Some(directory) => {
            let capture = archive::load(directory)?;
            options.probe = super::probe::known(saved::of_capture(&common.probe_choice(), &capture));
            let (durations, deadline) = (BTreeMap::new(), Instant::now() + PATIENCE);
            let (facts, mut left) = read::replay_after(&capture, &common.collectors(), &Known::default());
            let mut seen = Seen { facts, durations, deadline };
            let report = judged(&mut seen, options);
            let again = capture.answers.keys().any(|name| name.starts_with(read::SECOND_READING));
            if !again || !report.has_seen_once() {
                return Ok((seen, report));
            }
            left.read_again(BETWEEN_READINGS);
            seen.facts = read::replay_after(&capture, &common.collectors(), &left).0;
            let report = judged(&mut seen, options);
            Ok((seen, report))
        }
    }
}
