//! `serve`: checks and starts everything before the first request, and runs background tasks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::probe::{found, known};
use super::shown;
use crate::advisory::{Catalogue, Severity};
use crate::cli;
use crate::judge;
use crate::kernel;
use crate::probe;
use crate::probe::saved::{self, Choice, Saved};
use crate::serve::http::{self, Security};
use crate::serve::logging::Log;
use crate::serve::reading::LiveNode;
use crate::serve::refresh::Refresher;
use crate::serve::signals::Signals;

/// How long `serve` waits for its probe before it starts without the result.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// How often `serve` checks for a new probe result.
const PROBE_RESULT_EVERY: Duration = Duration::from_secs(10);

/// Passes the result of a started probe, or a saved one, to the refresher, now and whenever it changes. Failures do not
/// stop it.
fn report_probe(flags: &cli::ServeFlags, started: Option<probe::Probe>, refresher: &Arc<Refresher>) {
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

/// Polls for new results, so that `serve` uses the same one as `check`.
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

/// Warns about accepted advisories that are critical on every node, which need `:critical` to have an effect.
fn warn_of_vain(options: &judge::Options) {
    let catalogue = Catalogue::built_in();
    for (id, _) in options.accepted.iter().filter(|(_, acceptance)| !acceptance.critical) {
        if catalogue.get(id).is_some_and(|advisory| advisory.severity == Severity::Critical) {
            tracing::warn!(advisory = id, "--accept has no effect: this is always critical; write {id}:critical");
        }
    }
}

/// Runs `natwatch serve` until a signal ends it.
pub(super) fn run(flags: &cli::ServeFlags) -> Result<(), String> {
    // First of all: without a handler, the first process of a container ignores SIGTERM.
    let signals = Signals::catch()?;
    // Before any thread exists: a multi-threaded process cannot fork a child that enters a user namespace.
    let started = flags.probe.then(|| probe::start(&flags.common.trees.paths(), &[], false));
    let (closing, reload) = signals.wait()?;
    let log = Log::to_stderr(flags.log_level, flags.log_format);
    let security = flags.web_config.as_deref().map(Security::open).transpose();
    let security = security.map_err(|error| format!("--web.config.file: {error}"))?.map(Arc::new);
    if let Some(security) = &security {
        let _ = reload.set(Arc::clone(security));
    }
    let listeners = if flags.systemd_socket { http::from_systemd()? } else { http::bind(&flags.listen)? };
    let collectors = flags.common.collectors();
    let mut options = flags.common.options(&[]);
    options.hide_flow_addresses = !flags.common.flows.addresses;
    warn_of_vain(&options);
    let refresher = {
        let flows_hold = Duration::from_secs(flags.common.flows.interval.into());
        Arc::new(Refresher::new(LiveNode(flags.common.trees.paths()), collectors.clone(), options, flows_hold))
    };
    report_probe(flags, started, &refresher);
    let settings = http::HttpSettings {
        telemetry_path: flags.telemetry_path.clone(),
        max_requests: flags.max_requests,
        metrics: shown(&flags.shown, &flags.common, &collectors),
        dropped_lines: log.dropped(),
    };
    // Readings have their own thread and slow work is moved off this one, so one is enough: threads waking each other
    // took a fifth of a scrape. The unit allows 64 threads in all.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(16).enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let served = runtime.block_on(http::run(listeners, refresher, settings, security, closing));
    // Without waiting for what blocks: a reading may be stuck inside the kernel.
    runtime.shutdown_background();
    served
}
