//! One look at a time, shared by everyone who asks meanwhile.
//!
//! A hundred simultaneous scrapes read the kernel once. Each waits only as long as it can afford: whoever runs out
//! of time gets what has been answered so far, with the rest marked failed, while the look goes on. A look that
//! is stuck inside the kernel is never joined by a second one.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::accumulate::Accumulators;
use crate::advisory::Catalogue;
use crate::capture::{Capture, LastTables, Request};
use crate::decode::{self, Collectors};
use crate::judge::{self, History, Report};
use crate::kernel::{Kernel, Progress, lock};
use crate::snapshot::netfilter::Ruleset;
use crate::snapshot::{Collector, Snapshot, Source, Unanswered};

/// Longest time that one look may take; a scrape that waits for it gives up earlier.
pub const MAX_LOOK: Duration = Duration::from_secs(60);

/// How long rules of legacy tables are taken over while the tables' descriptions stand. Reading costs milliseconds per
/// 1,000 rules, and the kernel has no number that every change moves.
const TABLES_HOLD: Duration = Duration::from_secs(30);

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
    number: u64,
    progress: Arc<Mutex<Progress>>,
    done: watch::Receiver<Option<Arc<Look>>>,
}

/// What a refresher looks at: the kernel, or a test's idea of one.
pub trait World: std::fmt::Debug + Send + Sync + 'static {
    /// The start of a look; `unanswered` is what a request means that is never answered.
    fn begin(&self, unanswered: Unanswered) -> Progress;
    /// Answers what `plan` names, into `progress`, until the deadline.
    fn look(&self, plan: &dyn Fn(&Capture) -> Vec<Request>, deadline: Instant, progress: &Mutex<Progress>);
}

impl World for Kernel {
    fn begin(&self, unanswered: Unanswered) -> Progress {
        Self::begin(self, unanswered)
    }

    fn look(&self, plan: &dyn Fn(&Capture) -> Vec<Request>, deadline: Instant, progress: &Mutex<Progress>) {
        Self::look(self, plan, deadline, progress);
    }
}

/// Looks on demand.
#[derive(Debug)]
pub struct Refresher {
    world: Box<dyn World>,
    collectors: Collectors,
    options: Mutex<judge::Options>,
    accumulators: Mutex<Accumulators>,
    history: Mutex<History>,
    last_rules: Mutex<Option<Arc<Ruleset>>>,
    /// Legacy tables, and when they were read.
    last_tables: Mutex<BTreeMap<Source, (Instant, LastTables)>>,
    flight: Mutex<Option<Flight>>,
}

impl Refresher {
    /// A refresher that has not looked yet.
    pub fn new(world: impl World, collectors: Collectors, options: judge::Options) -> Self {
        Self {
            world: Box::new(world),
            collectors,
            options: Mutex::new(options),
            accumulators: Mutex::default(),
            history: Mutex::default(),
            last_rules: Mutex::default(),
            last_tables: Mutex::default(),
            flight: Mutex::default(),
        }
    }

    /// What experiments have found, from now on.
    pub fn set_probe(&self, probe: judge::Probe) {
        lock(&self.options).probe = probe;
    }

    /// A fresh look, or what there is of it after `patience`.
    pub async fn look(self: &Arc<Self>, patience: Duration) -> Arc<Look> {
        let Flight { number, progress, mut done } = self.join();
        let look = tokio::time::timeout(patience, finished(&mut done)).await.ok().flatten();
        if let Some(look) = look {
            return look;
        }
        let why = Unanswered::in_time(patience);
        let so_far = lock(&progress).so_far();
        if so_far.is_none()
            && let Some(look) = finished(&mut done).await
        {
            return look; // all answers are there and are being read
        }
        let so_far = so_far.unwrap_or_else(|| lock(&progress).clone());
        Arc::new(self.finish(number, so_far.given_up(why), false))
    }

    /// The look that is on its way, or a new one.
    fn join(self: &Arc<Self>) -> Flight {
        let mut flight = lock(&self.flight);
        // A sender that is gone without a result belonged to a look that could not be finished.
        let running = |flight: &&Flight| flight.done.borrow().is_none() && flight.done.has_changed().is_ok();
        if let Some(running) = flight.as_ref().filter(running) {
            return running.clone();
        }
        let number = flight.as_ref().map_or(0, |flight| flight.number + 1);
        let (sender, done) = watch::channel(None);
        let mut progress = self.world.begin(Unanswered::in_time(MAX_LOOK));
        progress.capture.last_rules.clone_from(&lock(&self.last_rules));
        let started_at = Instant::now();
        lock(&self.last_tables).retain(|_, (read_at, _)| started_at.duration_since(*read_at) < TABLES_HOLD);
        let last_tables = lock(&self.last_tables).iter().map(|(source, (_, last))| (*source, last.clone())).collect();
        progress.capture.last_tables = last_tables;
        let progress = Arc::new(Mutex::new(progress));
        let started = Flight { number, progress: Arc::clone(&progress), done };
        let refresher = Arc::clone(self);
        let work = move || {
            let plan = |capture: &_| decode::plan(capture, &refresher.collectors);
            refresher.world.look(&plan, Instant::now() + MAX_LOOK, &progress);
            let answers = lock(&progress).finish();
            let read = decode::tables_read_now(&answers.capture);
            let read = read.into_iter().map(|(source, last)| (source, (started_at, last)));
            lock(&refresher.last_tables).extend(read);
            sender.send_replace(Some(Arc::new(refresher.finish(number, answers, true))));
        };
        if let Err(error) = std::thread::Builder::new().name("look".into()).spawn(work) {
            tracing::error!(%error, "cannot start a thread to look at the kernel");
        }
        *flight = Some(started.clone());
        started
    }

    /// Reads and judges what was answered. A look that did not come to its end changes no verdict: what nobody waited for
    /// is unknown for no reason of the node's.
    fn finish(&self, number: u64, progress: Progress, whole: bool) -> Look {
        let start = Instant::now();
        let mut snapshot = decode::snapshot(&progress.capture, &self.collectors);
        lock(&self.accumulators).apply(number, &mut snapshot);
        if let Some(rules) = snapshot.nftables.ok().filter(|rules| rules.generation.is_some()) {
            *lock(&self.last_rules) = Some(Arc::clone(rules));
        }
        let mut report = judge::judge(Catalogue::built_in(), &snapshot, &lock(&self.options), &AtomicBool::new(false));
        let mut history = lock(&self.history);
        let changes = if whole { history.note(start, &report) } else { Vec::new() };
        for change in changes {
            let (advisory, cause) = (change.advisory, change.cause);
            tracing::warn!(advisory, old = %change.old, new = %change.new, cause, "verdict changed");
        }
        history.complete(start, Catalogue::built_in(), &mut report);
        drop(history);
        let mut durations = progress.durations;
        durations.insert(Collector::Verdict, start.elapsed());
        Look { report, snapshot, durations }
    }
}

/// The look, once it is finished; `None` if it never will be.
async fn finished(done: &mut watch::Receiver<Option<Arc<Look>>>) -> Option<Arc<Look>> {
    done.wait_for(Option::is_some).await.ok().and_then(|look| look.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::decode::test_capture;
    use crate::snapshot::{Reading, SourceState};

    /// Answers the number of entries at once and everything else when the gate opens.
    #[derive(Debug)]
    struct Slow {
        gate: Mutex<mpsc::Receiver<()>>,
        looks: Arc<AtomicUsize>,
    }

    impl World for Slow {
        fn begin(&self, _: Unanswered) -> Progress {
            Progress::new(test_capture())
        }

        fn look(&self, plan: &dyn Fn(&Capture) -> Vec<Request>, _: Instant, progress: &Mutex<Progress>) {
            let look = self.looks.fetch_add(1, Ordering::SeqCst) + 1;
            let requests = plan(&lock(progress).capture);
            for request in requests {
                if !request.name.ends_with("nf_conntrack_count") {
                    lock(progress).current = Some(request.name.clone());
                    let _ = lock(&self.gate).recv();
                }
                let mut progress = lock(progress);
                progress.current = None;
                progress.capture.answers.insert(request.name, Reading::Ok(format!("{look}\n").into_bytes()));
            }
        }
    }

    fn slow() -> (Arc<Refresher>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (open, gate) = mpsc::channel();
        let looks = Arc::new(AtomicUsize::new(0));
        let world = Slow { gate: Mutex::new(gate), looks: Arc::clone(&looks) };
        let refresher = Refresher::new(world, Collectors::from([Collector::Conntrack]), judge::Options::default());
        (Arc::new(refresher), open, looks)
    }

    #[tokio::test]
    async fn an_impatient_scrape_gets_what_there_is_and_the_rest_failed() {
        let (refresher, open, looks) = slow();
        let look = loop {
            let look = refresher.look(Duration::from_millis(20)).await;
            if look.snapshot.conntrack.entries.ok().is_some() {
                break look;
            }
        };
        assert_eq!(look.snapshot.conntrack.entries, Reading::Ok(1));
        assert!(look.snapshot.conntrack.buckets.why().contains("no answer within 0.0 s"));
        let states = look.snapshot.sources.iter().map(|status| status.state);
        assert!(states.clone().count() > 0 && states.clone().all(|state| state == SourceState::Failed));
        assert_eq!(looks.load(Ordering::SeqCst), 1, "a stuck look is never joined by a second");
        let patient = async { refresher.look(Duration::from_secs(60)).await };
        let answering = async { drop(open) }; // polled after the patient one has joined
        let (look, ()) = tokio::join!(biased; patient, answering);
        assert_eq!(look.snapshot.conntrack.entries_limit, Reading::Ok(1), "the same look, finished");
    }

    #[tokio::test]
    async fn a_hundred_scrapes_share_one_look() {
        let (refresher, open, looks) = slow();
        let scrapes: Vec<_> = (0..100)
            .map(|_| {
                let refresher = Arc::clone(&refresher);
                tokio::spawn(async move { refresher.look(Duration::from_secs(60)).await })
            })
            .collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await; // until each of the tasks has joined the look
        }
        drop(open);
        for scrape in scrapes {
            let look = scrape.await.expect("no scrape panicked");
            assert_eq!(look.snapshot.conntrack.entries, Reading::Ok(1));
        }
        assert_eq!(looks.load(Ordering::SeqCst), 1);
        assert_eq!(refresher.look(Duration::from_secs(60)).await.snapshot.conntrack.entries, Reading::Ok(2), "fresh");
    }
}
