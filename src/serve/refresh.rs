//! Runs one reading at a time, shared by all requests that arrive meanwhile. Called by `http`.
//!
//! A hundred simultaneous scrapes cause one reading. Each waits up to its own timeout; at that point it gets the parts
//! published so far, the others being `Failed`, while the reading continues as long as any request waits. No second
//! reading is started while one is stuck inside the kernel.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use tokio::sync::{OnceCell, OwnedMutexGuard, watch};

use crate::advisory::Catalogue;
use crate::facts::{Collector, Facts, Failure, Unanswered};
use crate::judge::{self, History, Report};
use crate::kernel::{Progress, Whereabouts, heap};
use crate::read::{Collectors, Known, Parts};
use crate::serve::memory::Memory;
use crate::serve::reading::{NodeAccess, Published, ReadingThread, Underway, judge_until};
use crate::serve::sync::{lock, off_thread};

/// Maximum duration of a reading, whoever waits for it.
pub(crate) const MAX_READING: Duration = Duration::from_secs(60);

/// Part of the time available that is reserved for judging.
fn reserve(patience: Duration) -> Duration {
    (patience / 4).min(Duration::from_secs(1))
}

/// The result of a reading: facts and verdicts.
#[derive(Debug)]
pub(crate) struct JudgedReading {
    /// The verdicts.
    pub report: Report,
    /// What was read, with accumulated counters.
    pub facts: Facts,
    /// Time spent, by collector.
    pub durations: BTreeMap<Collector, Duration>,
    /// Whether nothing is missing for lack of time.
    pub whole: bool,
    /// Encoded responses, shared by all clients of this reading, by [`Form`](super::http).
    pub bodies: [OnceCell<Bytes>; FORMS],
}

/// Number of forms of responses.
pub(crate) const FORMS: usize = 8;

/// A running reading with its waiters.
#[derive(Clone, Debug)]
struct Flight {
    number: u64,
    underway: Underway,
    /// Number of waiters.
    waiters: Arc<AtomicUsize>,
    /// Set when nobody waits any more; judging then stops.
    stop: Arc<AtomicBool>,
    done: watch::Receiver<Option<Arc<JudgedReading>>>,
}

impl Flight {
    /// A closed channel without a result belongs to a reading that failed.
    fn is_running(&self) -> bool {
        self.done.borrow().is_none() && self.done.has_changed().is_ok()
    }
}

/// A waiter, which is deregistered on drop, also if its client disconnects.
struct Waiting {
    refresher: Arc<Refresher>,
    flight: Flight,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _nobody_joins_meanwhile = lock(&self.refresher.flight);
        if self.flight.waiters.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.flight.stop.store(true, Ordering::Relaxed);
        }
    }
}

/// A report from the parts that a flight had published so far.
#[derive(Clone, Debug)]
struct Partial {
    flight: u64,
    /// Number of parts.
    count: usize,
    judged: Arc<JudgedReading>,
}

/// Reads and judges on demand.
#[derive(Debug)]
pub(crate) struct Refresher {
    reader: ReadingThread,
    collectors: Collectors,
    options: Mutex<judge::Options>,
    history: Mutex<History>,
    /// Left by complete readings for the next.
    memory: Mutex<Memory>,
    flight: Mutex<Option<Flight>>,
    /// Report from a flight's parts, for clients that could not wait.
    partial: Mutex<Option<Partial>>,
    /// Held while that is made, so that a hundred such clients cost as much as one.
    judging_partial: Arc<tokio::sync::Mutex<()>>,
    /// Set at shutdown: no client waits any longer.
    closing: watch::Sender<bool>,
}

impl Refresher {
    /// Reads nothing yet. `flows_hold`: how long conntrack entries are kept.
    pub(crate) fn new(
        node: impl NodeAccess,
        collectors: Collectors,
        options: judge::Options,
        flows_hold: Duration,
    ) -> Self {
        Self {
            reader: ReadingThread::new(Arc::new(node)),
            collectors,
            options: Mutex::new(options),
            history: Mutex::default(),
            memory: Mutex::new(Memory::new(flows_hold)),
            flight: Mutex::default(),
            partial: Mutex::default(),
            judging_partial: Arc::default(),
            closing: watch::Sender::new(false),
        }
    }

    /// Sets the results of probe experiments.
    pub(crate) fn set_probe(&self, probe: judge::Probed) {
        lock(&self.options).probe = probe;
    }

    /// Has waiting clients answered now, from the parts that were read.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// What the running reading is doing; `None`: none is running.
    pub(crate) fn whereabouts(&self) -> Option<Whereabouts> {
        let flight = lock(&self.flight);
        let running = flight.as_ref().filter(|flight| flight.is_running());
        running.map(|flight| flight.underway.progress.whereabouts())
    }

    /// Takes and releases every lock; returns unless one is held forever.
    pub(crate) fn touch_locks(&self) {
        drop(lock(&self.flight));
        drop(lock(&self.memory));
        drop(lock(&self.history));
        drop(lock(&self.options));
        drop(lock(&self.partial));
    }

    /// A fresh reading, or its parts after `patience`.
    pub(crate) async fn judged(self: &Arc<Self>, patience: Duration) -> Arc<JudgedReading> {
        let start = Instant::now();
        let (deadline, soon) = (start + patience, start + patience - reserve(patience));
        let (number, underway) = loop {
            let (flight, is_mine) = self.join(deadline);
            let mut done = flight.done.clone();
            let (number, underway) = (flight.number, flight.underway.clone());
            let waiting = Waiting { refresher: Arc::clone(self), flight };
            let left = soon.saturating_duration_since(Instant::now());
            let mut closing = self.closing.subscribe();
            let judged = tokio::select! {
                judged = tokio::time::timeout(left, finished(&mut done)) => judged.ok().flatten(),
                _ = closing.wait_for(|closing| *closing) => None,
            };
            drop(waiting);
            match judged {
                // It was cut, or its judging stopped, when nobody waited as long as this client can.
                Some(judged) if !judged.whole && !is_mine && Instant::now() < soon => {}
                Some(judged) => return judged,
                None => break (number, underway),
            }
        };
        let closing = *self.closing.borrow();
        let deadline = if closing { deadline.min(Instant::now() + reserve(Duration::from_secs(1))) } else { deadline };
        self.what_there_is(number, underway, start, deadline).await
    }

    /// A report from the parts so far, at the client's deadline. Clients that see the same parts share it.
    async fn what_there_is(
        self: &Arc<Self>,
        number: u64,
        underway: Underway,
        start: Instant,
        deadline: Instant,
    ) -> Arc<JudgedReading> {
        if let Some(judged) = self.shared(number, underway.so_far().count) {
            return judged;
        }
        // Half of the remaining time is for another client's report in progress, the rest for rendering.
        let patience = deadline.saturating_duration_since(Instant::now()) / 2;
        let judging = Arc::clone(&self.judging_partial).lock_owned();
        let Ok(judging) = tokio::time::timeout(patience, judging).await else {
            // A report from fewer parts, or none, is all that this client's time allows.
            let made = || lock(&self.partial).clone().filter(|partial| partial.flight == number);
            if let Some(partial) = made() {
                return partial.judged;
            }
            let nothing = Published { parts: Parts::default(), count: 0, ..underway.so_far() };
            let judged = self.make_partial(underway, nothing, start, deadline, None).await;
            if made().is_none() {
                *lock(&self.partial) = Some(Partial { flight: number, count: 0, judged: Arc::clone(&judged) });
            }
            return judged;
        };
        let published = underway.so_far();
        if let Some(judged) = self.shared(number, published.count) {
            return judged;
        }
        let count = published.count;
        let judged = self.make_partial(underway, published, start, deadline, Some(judging)).await;
        *lock(&self.partial) = Some(Partial { flight: number, count, judged: Arc::clone(&judged) });
        judged
    }

    /// A finished report from at least `count` parts of a flight; `None` if there is none.
    fn shared(&self, flight: u64, count: usize) -> Option<Arc<JudgedReading>> {
        let made = lock(&self.partial).clone().filter(|partial| partial.flight == flight && partial.count >= count);
        made.filter(|partial| partial.count > 0 && !partial.judged.report.was_stopped).map(|partial| partial.judged)
    }

    /// If a client disconnects, the work continues, so the work itself holds the lock that prevents duplicates.
    async fn make_partial(
        self: &Arc<Self>,
        underway: Underway,
        published: Published,
        start: Instant,
        deadline: Instant,
        judging: Option<OwnedMutexGuard<()>>,
    ) -> Arc<JudgedReading> {
        let refresher = Arc::clone(self);
        off_thread(move || {
            let _judging = judging;
            let missing = underway.missing(start.elapsed());
            Arc::new(refresher.partial(published, &missing, deadline, underway.progress.durations()))
        })
        .await
    }

    /// The running reading or a new one, and whether this call started it.
    fn join(self: &Arc<Self>, deadline: Instant) -> (Flight, bool) {
        let mut flight = lock(&self.flight);
        if let Some(running) = flight.as_ref().filter(|flight| flight.is_running()) {
            running.waiters.fetch_add(1, Ordering::AcqRel);
            running.stop.store(false, Ordering::Relaxed);
            let latest = running.underway.progress.started() + MAX_READING;
            running.underway.progress.extend(deadline.min(latest));
            return (running.clone(), false);
        }
        let number = flight.as_ref().map_or(0, |flight| flight.number + 1);
        let (sender, done) = watch::channel(None);
        let (refresher, stop) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let then = move |published: Published, left: Known, progress: &Progress| {
            let (judged, decoded) = refresher.finish(number, published, left, progress, &stopped);
            sender.send_replace(Some(Arc::new(judged)));
            if decoded {
                heap::give_back(); // after all clients were answered
            }
        };
        let patience = deadline.saturating_duration_since(Instant::now()).min(MAX_READING);
        let known = lock(&self.memory).known(Instant::now());
        let underway = self.reader.begin(self.collectors.clone(), known, patience, then);
        let started = Flight { number, underway, waiters: Arc::new(AtomicUsize::new(1)), stop, done };
        *flight = Some(started.clone());
        (started, true)
    }

    /// Judges a finished reading. One that was cut, or whose judging was stopped, is not remembered, because what is
    /// unknown in it says nothing about the node. Also returns whether rules were decoded anew, which leaves free
    /// memory to be returned.
    fn finish(
        &self,
        number: u64,
        published: Published,
        left: Known,
        progress: &Progress,
        stop: &AtomicBool,
    ) -> (JudgedReading, bool) {
        let start = Instant::now();
        let Published { meta, parts, .. } = published;
        lock(&self.partial).take();
        let whole = !progress.was_cut();
        // All parts exist; those that were cut say so themselves.
        let missing = Failure::NotAnswered(Unanswered::in_time(progress.started().elapsed()));
        let mut facts = parts.facts(&meta, &self.collectors, &missing);
        let decoded = if whole {
            lock(&self.memory).remember(left, progress.started(), number, &mut facts)
        } else {
            lock(&self.memory).continue_counters(&mut facts);
            true
        };
        let options = lock(&self.options).clone();
        let mut report = if whole {
            let mut derived = lock(&self.memory).lend_derived();
            let report = judge::judge_again(Catalogue::built_in(), &facts, &options, stop, &mut derived);
            lock(&self.memory).give_back(derived);
            report
        } else {
            judge::judge(Catalogue::built_in(), &facts, &options, stop)
        };
        let mut history = lock(&self.history);
        let changes = if whole && !report.was_stopped { history.note(start, &report) } else { Vec::new() };
        history.complete(start, Catalogue::built_in(), &mut report);
        drop(history);
        for change in changes {
            let (advisory, cause) = (change.advisory, change.cause);
            tracing::warn!(advisory, old = %change.old, new = %change.new, cause, "verdict changed");
        }
        let mut durations = progress.durations();
        durations.insert(Collector::Verdict, start.elapsed());
        let whole = whole && !report.was_stopped;
        (JudgedReading { report, facts, durations, whole, bodies: Default::default() }, decoded)
    }

    /// Judges parts, without remembering the result.
    fn partial(
        &self,
        published: Published,
        missing: &Failure,
        deadline: Instant,
        mut durations: BTreeMap<Collector, Duration>,
    ) -> JudgedReading {
        let start = Instant::now();
        let mut facts = published.parts.facts(&published.meta, &self.collectors, missing);
        lock(&self.memory).continue_counters(&mut facts);
        let options = lock(&self.options).clone();
        let mut report = judge_until(deadline, &facts, &options);
        lock(&self.history).complete(start, Catalogue::built_in(), &mut report);
        durations.insert(Collector::Verdict, start.elapsed());
        JudgedReading { report, facts, durations, whole: false, bodies: Default::default() }
    }
}

/// The result of a reading; `None` if it failed.
async fn finished(done: &mut watch::Receiver<Option<Arc<JudgedReading>>>) -> Option<Arc<JudgedReading>> {
    done.wait_for(Option::is_some).await.ok().and_then(|judged| judged.clone())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::capture::{Ask, Meta, Request, Take};
    use crate::facts::{NetworkNamespace, Reading, Source, SourceState};
    use crate::read::testing;
    use crate::serve::reading::NodeSession;

    /// Answers the number of entries at once and everything else when the gate opens.
    #[derive(Debug)]
    struct Slow {
        gate: Arc<Mutex<mpsc::Receiver<()>>>,
        readings: Arc<AtomicUsize>,
    }

    struct Asked<'w> {
        node: &'w Slow,
        reading: usize,
        progress: Arc<Progress>,
    }

    impl NodeAccess for Slow {
        fn meta(&self) -> Meta {
            testing::capture().meta
        }

        fn open(&self) -> Box<dyn NodeSession + '_> {
            let progress = Arc::new(Progress::new(Duration::ZERO));
            Box::new(Asked { node: self, progress, reading: 0 })
        }
    }

    impl NodeSession for Asked<'_> {
        fn begin(&mut self, progress: Arc<Progress>) -> NetworkNamespace {
            self.reading = self.node.readings.fetch_add(1, Ordering::SeqCst) + 1;
            self.progress = progress;
            NetworkNamespace::Initial
        }
    }

    impl Ask for Asked<'_> {
        fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
            if request.name.contains("/route/") {
                self.progress.begin(&request.name);
                let _ = lock(&self.node.gate).recv();
            }
            if self.progress.is_over() {
                return Reading::Failed(Failure::NotAnswered(Unanswered::in_time(Duration::ZERO)));
            }
            take(format!("{}\n", self.reading).as_bytes());
            Reading::Ok(())
        }
    }

    fn slow() -> (Arc<Refresher>, mpsc::Sender<()>, Arc<AtomicUsize>) {
        let (open, gate) = mpsc::channel();
        let readings = Arc::new(AtomicUsize::new(0));
        let node = Slow { gate: Arc::new(Mutex::new(gate)), readings: Arc::clone(&readings) };
        let collectors = Collectors::from([Collector::Conntrack, Collector::Links]);
        (Arc::new(Refresher::new(node, collectors, judge::Options::default(), Duration::ZERO)), open, readings)
    }

    #[tokio::test]
    async fn an_impatient_scrape_gets_the_parts_there_are_and_the_rest_failed() {
        let (refresher, open, readings) = slow();
        let patient = {
            let refresher = Arc::clone(&refresher);
            tokio::spawn(async move { refresher.judged(Duration::from_secs(60)).await })
        };
        while readings.load(Ordering::SeqCst) == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let judged = loop {
            let judged = refresher.judged(Duration::from_millis(40)).await;
            if judged.facts.conntrack.entries.ok().is_some() {
                break judged;
            }
        };
        assert_eq!(judged.facts.conntrack.entries, Reading::Ok(1));
        let links = judged.facts.links.failure().map(Failure::root).cloned();
        assert!(matches!(links, Some(Failure::NotAnswered(Unanswered::InTime { .. }))), "{links:?}");
        assert!(judged.facts.links.why().contains("route/links"), "{}", judged.facts.links.why());
        let state = |source| judged.facts.sources.iter().find(|status| status.source == source).map(|it| it.state);
        assert_eq!(state(Source::Rtnetlink), Some(SourceState::Failed));
        assert_eq!(state(Source::Sysctl), Some(SourceState::Ok));
        assert_eq!(readings.load(Ordering::SeqCst), 1, "a stuck reading is never joined by a second");
        drop(open);
        let judged = patient.await.expect("it did not panic");
        assert_eq!(judged.facts.conntrack.entries_limit, Reading::Ok(1), "the same reading, finished");
        assert_eq!(readings.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_hundred_scrapes_share_one_reading() {
        let (refresher, open, readings) = slow();
        let scrapes: Vec<_> = (0..100)
            .map(|_| {
                let refresher = Arc::clone(&refresher);
                tokio::spawn(async move { refresher.judged(Duration::from_secs(60)).await })
            })
            .collect();
        for _ in 0..1000 {
            tokio::task::yield_now().await; // until each of the tasks has joined the reading
        }
        drop(open);
        for scrape in scrapes {
            let judged = scrape.await.expect("no scrape panicked");
            assert_eq!(judged.facts.conntrack.entries, Reading::Ok(1));
        }
        assert_eq!(readings.load(Ordering::SeqCst), 1);
        assert_eq!(refresher.judged(Duration::from_secs(60)).await.facts.conntrack.entries, Reading::Ok(2), "fresh");
    }
}
