//! What each sub-command does, down to its exit code.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;

use crate::advisory::{Catalogue, Severity, State};
use crate::capture::archive;
use crate::capture::{Capture, Meta, Recorder};
use crate::cli::{self, Action, Cli, Common, Format, ProbeFormat, Shown};
use crate::facts::{Collector, Facts};
use crate::judge::{self, Report};
use crate::kernel::{self, Live, Progress};
use crate::metrics::{self, exposition};
use crate::probe::saved::{self, Choice, Saved};
use crate::read::{self, Collectors, Known};
use crate::report::line::{PluginState, nagios, npd, plugin_state};
use crate::report::text::{self, Style};
use crate::report::{beginning, html, json, printable};
use crate::serve::http;
use crate::serve::http::Security;
use crate::serve::logging::Log;
use crate::serve::reading::{Published, Reader, Watched, judge_until};
use crate::serve::refresh::Refresher;
use crate::serve::signals::Signals;
use crate::{probe, redact};

/// natwatch itself failed.
const FAILED: u8 = 1;
/// How long `check` and `capture` take at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// Of that, what is kept for judging what there is.
const JUDGING: Duration = Duration::from_secs(2);

/// Runs a command line; errors go to stderr, once.
pub fn run(cli: Cli) -> u8 {
    let result = match cli.action {
        None => serve(&cli.serve),
        Some(Action::Serve(serve_flags)) => serve(&serve_flags),
        Some(Action::Check(flags)) => return check(&flags),
        Some(Action::Capture(flags)) => capture(&flags),
        Some(Action::Probe(flags)) => match probe(&flags) {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        Some(Action::Explain { id }) => explain(id.as_deref()),
        Some(Action::Metrics) => print(&metrics::table()),
        Some(Action::Manpage { command }) => manpage(command.as_deref()),
        Some(Action::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "natwatch", &mut script);
            print(&String::from_utf8_lossy(&script))
        }
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("natwatch: {}", printable(&error));
            FAILED
        }
    }
}

/// Writes to stdout. A reader that has gone away is no error.
fn print(text: &str) -> Result<(), String> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(format!("cannot write to stdout: {error}")),
        _ => Ok(()),
    }
}

fn check(flags: &cli::Check) -> u8 {
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
    let reader = Reader::new(Arc::new(common.trees.paths()));
    let underway = reader.begin(collectors.clone(), Known::default(), PATIENCE, then);
    let Published { meta, parts, .. } = finished.recv_timeout(PATIENCE - JUDGING).unwrap_or_else(|_| underway.so_far());
    let facts = parts.facts(&meta, collectors, &underway.missing(PATIENCE - JUDGING));
    Seen { facts, durations: underway.progress.durations(), deadline, probe: probe.wait(deadline - JUDGING) }
}

fn checked(flags: &cli::Check) -> Result<u8, String> {
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
    options.probe = known(probe);
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

fn shown(shown: &Shown, collectors: &Collectors) -> metrics::Settings {
    let Shown { max_devices, per_cpu, conditions } = *shown;
    metrics::Settings { max_devices, per_cpu, conditions, collectors: collectors.clone() }
}

/// Everything that a reading asks and is answered within the time.
fn record(common: &Common) -> Capture {
    let deadline = Instant::now() + PATIENCE;
    let (paths, collectors) = (common.trees.paths(), common.collectors.0.clone());
    let probe = saved::of_this_node(common.probe_choice(), paths.clone());
    let (keep, answers) = mpsc::channel();
    let (tell, meta) = mpsc::channel();
    std::thread::spawn(move || {
        let boot_id = probe::running(&paths).map(|kernel| kernel.boot_id);
        let mut live = Live::new(paths, Arc::new(Progress::new(PATIENCE)));
        let _ = tell.send(Meta { boot_id, ..live.meta() });
        let mut recorder = Recorder::new(live, |name, answer| drop(keep.send((name, answer))));
        read::all(&mut recorder, &collectors, &Known::default(), &mut |_| ());
    });
    let meta = meta.recv_timeout(PATIENCE).unwrap_or_else(|_| kernel::meta());
    let mut capture = Capture { meta, answers: BTreeMap::new() };
    while let Ok((name, answer)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        capture.answers.insert(name, answer);
    }
    saved::keep(probe.wait(deadline), &mut capture);
    capture
}

fn capture(flags: &cli::Capture) -> Result<(), String> {
    archive::check_target(&flags.directory)?;
    let mut capture = record(&flags.common);
    // What nobody asked before the time ran out is missing in the directory, and a replay says so.
    if flags.redact {
        redact::redact(&mut capture);
    }
    archive::save(&capture, &flags.directory)?;
    print(&archive::listing(&capture))?;
    let directory: &Path = &flags.directory;
    print(&format!("\nReplay it with: natwatch check --from {}\n", directory.display()))
}

/// The manual page of the program, or of a sub-command, from the one table of flags.
fn manpage(name: Option<&str>) -> Result<(), String> {
    let mut program = Cli::command();
    program.build();
    let command = match name {
        None => program,
        Some(name) => {
            let found = program.get_subcommands().find(|command| command.get_name() == name);
            let found = found.ok_or_else(|| format!("no sub-command is called {name:?}"))?;
            found
                .clone()
                .name(format!("natwatch-{name}"))
                .bin_name(format!("natwatch {name}"))
                .version(env!("CARGO_PKG_VERSION"))
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page).map_err(|error| error.to_string())?;
    print(&String::from_utf8_lossy(&page))
}

fn probe(flags: &cli::Probe) -> Result<u8, String> {
    let probe = probe::start(&flags.trees.paths(), &flags.defects, flags.allow_module_load);
    let deadline = probe.deadline();
    let outcome = probe.finish(deadline);
    let usual = if flags.output.is_some() { ProbeFormat::Json } else { ProbeFormat::Text };
    let text = match flags.format.unwrap_or(usual) {
        ProbeFormat::Text => outcome.text(),
        ProbeFormat::Json => outcome.json(),
    };
    match &flags.output {
        Some(file) => replace(file, &text)?,
        None => print(&text)?,
    }
    Ok(if flags.exit_zero { 0 } else { outcome.exit_code(|defect| probe::counts(defect, &flags.defects)) })
}

/// Writes a file that another process may read meanwhile: it sees the old one or the new one. What is no regular file, such as
/// a pipe or a device, is written into.
fn replace(file: &Path, text: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", file.display());
    // Where a symbolic link leads to.
    let target = match std::fs::canonicalize(file) {
        Ok(target) => target,
        Err(error) if std::fs::symlink_metadata(file).is_ok() => return Err(failed(error)),
        Err(_) => file.to_owned(), // a new one
    };
    let old = std::fs::metadata(&target).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        let mut open = std::fs::OpenOptions::new().write(true).open(&target).map_err(failed)?;
        return open.write_all(text.as_bytes()).map_err(failed);
    }
    let now = jiff::Timestamp::now().as_nanosecond();
    let mut name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?.to_owned();
    name.push(format!(".{}-{now}", std::process::id()));
    let new = target.with_file_name(name);
    // A result that others can write is not believed.
    let mut options = std::fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o644).open(&new).and_then(|mut open| {
        if let Some(old) = old {
            open.set_permissions(Permissions::from_mode(old.mode() & 0o755))?;
        }
        open.write_all(text.as_bytes())?;
        std::fs::rename(&new, &target)
    });
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error)
    })
}

/// How long `serve` waits for its probe before it serves without.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// How often `serve` looks whether there is another result of a probe.
const PROBE_RESULT_EVERY: Duration = Duration::from_secs(10);

/// Tells the refresher what experiments have found, those of a probe that was started or a saved result, and goes on to do so
/// beside serving. None of it stops it.
fn tell_probe(flags: &cli::Serve, started: Option<probe::Probe>, refresher: &Arc<Refresher>) {
    let (soon, refresher) = (Instant::now() + PROBE_PATIENCE, Arc::clone(refresher));
    let (choice, paths) = (flags.common.probe_choice(), flags.common.trees.paths());
    let work: Box<dyn FnOnce() + Send> = match started {
        Some(mut probe) => {
            if probe.wait(soon) {
                return refresher.set_probe(found(probe.finish(soon)));
            }
            Box::new(move || {
                let deadline = probe.deadline();
                refresher.set_probe(found(probe.finish(deadline)));
            })
        }
        None if choice == Choice::Nothing => return,
        None => {
            let first = saved::of_this_node(choice.clone(), paths.clone()).wait(soon);
            tell_saved(&refresher, first.clone());
            Box::new(move || follow(&choice, &paths, first, &refresher))
        }
    };
    if let Err(error) = std::thread::Builder::new().name("probe".into()).spawn(work) {
        tracing::warn!(%error, "the probe is not waited for");
    }
}

/// A probe may be run later, or anew: what `check` goes by, `serve` does too.
fn follow(choice: &Choice, paths: &kernel::Paths, mut last: Option<Saved>, refresher: &Refresher) {
    loop {
        std::thread::sleep(PROBE_RESULT_EVERY);
        let saved = saved::read(choice, paths);
        if saved != last {
            tell_saved(refresher, saved.clone());
            last = saved;
        }
    }
}

fn tell_saved(refresher: &Refresher, saved: Option<Saved>) {
    let known = known(saved);
    if let Some(why) = &known.refused {
        tracing::warn!("{why}");
    }
    refresher.set_probe(known);
}

/// A saved result as the judge takes it.
fn known(saved: Option<Saved>) -> judge::Probe {
    let Some(Saved { origin, outcome }) = saved else { return judge::Probe::default() };
    let refused = |why: String| {
        // A capture comes from strangers.
        let why: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
        let refused = Some(format!("the probe's result {origin} is not used: {why}"));
        judge::Probe { refused, ..judge::Probe::default() }
    };
    outcome.map_or_else(refused, found)
}

/// A probe's outcome as the judge takes it; what no experiment decides is not its business.
fn found(outcome: probe::Outcome) -> judge::Probe {
    let mine = outcome.defects.into_iter().filter(|finding| probe::is_decidable(&finding.id));
    let findings = mine.map(|probe::Finding { id, state, detail }| {
        tracing::info!(defect = id, %state, detail, "probed");
        (id, (state, detail))
    });
    judge::Probe { findings: findings.collect(), livepatches: outcome.livepatches, refused: None }
}

fn explain(id: Option<&str>) -> Result<(), String> {
    let catalogue = Catalogue::built_in();
    match id {
        None => print(&text::explain_all(catalogue)),
        Some(id) => match catalogue.get(id) {
            Some(advisory) => print(&text::explain(advisory)),
            None => Err(format!("no advisory is called {id:?}; `natwatch explain` lists them")),
        },
    }
}

/// Accepting what is critical on every node takes `:critical`, or it is accepted never.
fn warn_of_vain(options: &judge::Options) {
    let catalogue = Catalogue::built_in();
    for (id, _) in options.accepted.iter().filter(|(_, acceptance)| !acceptance.critical) {
        if catalogue.get(id).is_some_and(|advisory| advisory.severity == Severity::Critical) {
            tracing::warn!(advisory = id, "--accept has no effect: this is always critical; write {id}:critical");
        }
    }
}

fn serve(flags: &cli::Serve) -> Result<(), String> {
    // First of all: without a handler the first process of a container does not hear SIGTERM.
    let signals = Signals::catch()?;
    // Before there are threads: a process that has any cannot make a child that enters a user namespace.
    let started = flags.probe.then(|| probe::start(&flags.common.trees.paths(), &[], false));
    let (closing, reload) = signals.wait()?;
    let log = Log::to_stderr(flags.log_level, flags.log_format);
    let security = flags.web_config.as_deref().map(Security::open).transpose();
    let security = security.map_err(|error| format!("--web.config.file: {error}"))?.map(Arc::new);
    if let Some(security) = &security {
        let _ = reload.set(Arc::clone(security));
    }
    let listeners = if flags.systemd_socket { http::from_systemd()? } else { http::bind(&flags.listen)? };
    let collectors = flags.common.collectors.0.clone();
    let options = flags.common.options(&[]);
    warn_of_vain(&options);
    kernel::heap::give_back_large();
    let refresher = Arc::new(Refresher::new(Watched(flags.common.trees.paths()), collectors.clone(), options));
    tell_probe(flags, started, &refresher);
    let settings = http::Settings {
        telemetry_path: flags.telemetry_path.clone(),
        max_requests: flags.max_requests,
        metrics: shown(&flags.shown, &collectors),
        dropped_lines: log.dropped(),
    };
    // The kernel is read on a thread of its own, and what takes long is done off this one, so one is enough: threads that
    // wake each other took a fifth of a scrape. The unit has room for 64 threads in all.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(16).enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let served = runtime.block_on(http::run(listeners, refresher, settings, security, closing));
    // Nothing that blocks is waited for: a look may be stuck inside the kernel.
    runtime.shutdown_background();
    served
}
