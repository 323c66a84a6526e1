//! One look at a time, shared by everyone who asks meanwhile.
//!
//! A hundred simultaneous scrapes read the kernel once. Each waits only as long as it can afford: whoever runs out
//! of time gets what has been answered so far, with the rest marked failed, while the look goes on. A look that
//! is stuck inside the kernel is never joined by a second one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::accumulate::Accumulators;
use crate::advisory::Catalogue;
use crate::decode::{self, Collectors};
use crate::judge::{self, Report};
use crate::kernel::{Kernel, Progress, lock};
use crate::snapshot::{Collector, Snapshot};

/// Longest time that one look may take; a scrape that waits for it gives up earlier.
pub const MAX_LOOK: Duration = Duration::from_secs(60);

/// One finished look.
#[derive(Debug)]
pub struct Look {
    /// The verdicts.
    pub report: Report,
    /// What was seen, with counters continued beyond their wraps.
    pub snapshot: Snapshot,
    /// Time spent per collector.
    pub durations: BTreeMap<Collector, Duration>,
}

/// A look that is on its way.
#[derive(Clone, Debug)]
struct Flight {
    progress: Arc<Mutex<Progress>>,
    done: watch::Receiver<Option<Arc<Look>>>,
}

/// Looks on demand.
#[derive(Debug)]
pub struct Refresher {
    kernel: Kernel,
    collectors: Collectors,
    options: judge::Options,
    accumulators: Mutex<Accumulators>,
    flight: Mutex<Option<Flight>>,
}

impl Refresher {
    /// A refresher that has not looked yet.
    pub fn new(kernel: Kernel, collectors: Collectors, options: judge::Options) -> Self {
        Self { kernel, collectors, options, accumulators: Mutex::default(), flight: Mutex::default() }
    }

    /// A fresh look, or what there is of it after `patience`.
    pub async fn look(self: &Arc<Self>, patience: Duration) -> Arc<Look> {
        let Flight { progress, mut done } = self.join();
        let finished = tokio::time::timeout(patience, done.wait_for(Option::is_some)).await;
        if let Ok(Ok(look)) = &finished
            && let Some(look) = look.as_ref()
        {
            return Arc::clone(look);
        }
        let why = format!("no answer within {:.1} s", patience.as_secs_f64());
        let progress = lock(&progress).clone().given_up(&why);
        Arc::new(self.finish(progress))
    }

    /// The look that is on its way, or a new one.
    fn join(self: &Arc<Self>) -> Flight {
        let mut flight = lock(&self.flight);
        // A sender that is gone without a result belonged to a look that could not be finished.
        let running = |flight: &&Flight| flight.done.borrow().is_none() && flight.done.has_changed().is_ok();
        if let Some(running) = flight.as_ref().filter(running) {
            return running.clone();
        }
        let (sender, done) = watch::channel(None);
        let progress = Arc::new(Mutex::new(self.kernel.begin("no answer")));
        let started = Flight { progress: Arc::clone(&progress), done };
        let refresher = Arc::clone(self);
        let work = move || {
            let plan = |capture: &_| decode::plan(capture, &refresher.collectors);
            refresher.kernel.look(plan, Instant::now() + MAX_LOOK, &progress);
            let progress = lock(&progress).clone();
            sender.send_replace(Some(Arc::new(refresher.finish(progress))));
        };
        if let Err(error) = std::thread::Builder::new().name("look".into()).spawn(work) {
            tracing::error!(%error, "cannot start a thread to look at the kernel");
        }
        *flight = Some(started.clone());
        started
    }

    fn finish(&self, progress: Progress) -> Look {
        let mut snapshot = decode::snapshot(&progress.capture, &self.collectors);
        lock(&self.accumulators).apply(&mut snapshot);
        let report = judge::judge(Catalogue::built_in(), &snapshot, &self.options);
        Look { report, snapshot, durations: progress.durations }
    }
}
