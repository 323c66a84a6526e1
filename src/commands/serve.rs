//! `serve`: all that has to be in order before the first answer, and what goes on beside.

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

/// How long `serve` waits for its probe before it serves without.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);
/// How often `serve` looks whether there is another result of a probe.
const PROBE_RESULT_EVERY: Duration = Duration::from_secs(10);

/// Tells the refresher what experiments have found, those of a probe that was started or a saved result, and goes on to do so
/// beside serving. None of it stops it.
fn tell_probe(flags: &cli::ServeFlags, started: Option<probe::Probe>, refresher: &Arc<Refresher>) {
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

/// Accepting what is critical on every node takes `:critical`, or it is accepted never.
fn warn_of_vain(options: &judge::Options) {
    let catalogue = Catalogue::built_in();
    for (id, _) in options.accepted.iter().filter(|(_, acceptance)| !acceptance.critical) {
        if catalogue.get(id).is_some_and(|advisory| advisory.severity == Severity::Critical) {
            tracing::warn!(advisory = id, "--accept has no effect: this is always critical; write {id}:critical");
        }
    }
}

/// `natwatch serve`: the exporter, until a signal ends it.
pub(super) fn run(flags: &cli::ServeFlags) -> Result<(), String> {
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
    let collectors = flags.common.collectors();
    let mut options = flags.common.options(&[]);
    options.hide_flow_addresses = !flags.common.flows.addresses;
    warn_of_vain(&options);
    let refresher = {
        let flows_hold = Duration::from_secs(flags.common.flows.interval.into());
        Arc::new(Refresher::new(LiveNode(flags.common.trees.paths()), collectors.clone(), options, flows_hold))
    };
    tell_probe(flags, started, &refresher);
    let settings = http::HttpSettings {
        telemetry_path: flags.telemetry_path.clone(),
        max_requests: flags.max_requests,
        metrics: shown(&flags.shown, &flags.common, &collectors),
        dropped_lines: log.dropped(),
    };
    // The kernel is read on a thread of its own, and what takes long is done off this one, so one is enough: threads that
    // wake each other took a fifth of a scrape. The unit has room for 64 threads in all.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.max_blocking_threads(16).enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start: {error}"))?;
    let served = runtime.block_on(http::run(listeners, refresher, settings, security, closing));
    // Nothing that blocks is waited for: a reading may be stuck inside the kernel.
    runtime.shutdown_background();
    served
}
