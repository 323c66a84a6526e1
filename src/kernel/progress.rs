//! What a reading shows of itself while it is on its way, and how long it may take.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::facts::{Collector, Failure, Unanswered};

/// Shared by a reading and those who wait for it.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    state: Mutex<State>,
    heartbeat: Heartbeat,
}

/// When the reading thread was last seen to enter the kernel or to leave it, and which of the two.
#[derive(Debug)]
struct Heartbeat(AtomicU64);

impl Heartbeat {
    fn beat(&self, started: Instant, in_kernel: bool) {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX >> 1);
        self.0.store(milliseconds << 1 | u64::from(in_kernel), Ordering::Relaxed);
    }

    /// Whether it is in the kernel, and since when it is where it is, from the beginning on.
    fn last(&self) -> (bool, Duration) {
        let beat = self.0.load(Ordering::Relaxed);
        (beat & 1 == 1, Duration::from_millis(beat >> 1))
    }
}

/// Where a reading has been for so long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// The kernel has not answered yet; else natwatch itself is at work.
    pub in_kernel: bool,
    /// The request that is being answered.
    pub request: Option<String>,
    /// For how long.
    pub since: Duration,
}

#[derive(Debug)]
struct State {
    deadline: Instant,
    /// Some request was not answered because the deadline had passed.
    cut: bool,
    /// The request that is being answered now.
    current: Option<String>,
    durations: BTreeMap<Collector, Duration>,
}

impl Progress {
    /// Of a reading that begins now and may take so long.
    pub fn new(patience: Duration) -> Self {
        let started = Instant::now();
        let (deadline, durations) = (started + patience, BTreeMap::new());
        let state = Mutex::new(State { deadline, cut: false, current: None, durations });
        // The first thing that it does is to ask the kernel who looks.
        Self { started, state, heartbeat: Heartbeat(AtomicU64::new(1)) }
    }

    /// A thread that panicked while holding the lock leaves a state that is whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When it began.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Until when requests are answered.
    pub fn deadline(&self) -> Instant {
        self.state().deadline
    }

    /// Somebody waits until then.
    pub fn extend(&self, deadline: Instant) {
        let mut state = self.state();
        state.deadline = state.deadline.max(deadline);
    }

    /// Whether the time is over; then the reading is cut.
    pub fn is_over(&self) -> bool {
        let mut state = self.state();
        let over = Instant::now() >= state.deadline;
        state.cut |= over;
        over
    }

    /// Whether a request was not answered because the time was over.
    pub fn was_cut(&self) -> bool {
        self.state().cut
    }

    /// The request that is being answered now.
    pub fn current(&self) -> Option<String> {
        self.state().current.clone()
    }

    /// Time spent on requests, what readers made of the answers included, by collector.
    pub fn durations(&self) -> BTreeMap<Collector, Duration> {
        self.state().durations.clone()
    }

    /// That there was no answer in the time given.
    pub(super) fn not_answered(&self) -> Failure {
        Failure::NotAnswered(Unanswered::in_time(self.deadline().saturating_duration_since(self.started)))
    }

    /// Where the reading is now, and for how long it has been there.
    pub fn whereabouts(&self) -> Whereabouts {
        let (in_kernel, since) = self.heartbeat.last();
        Whereabouts { in_kernel, request: self.current(), since: self.started.elapsed().saturating_sub(since) }
    }

    /// A request is about to be asked.
    pub fn begin(&self, request: &str) {
        self.state().current = Some(request.to_owned());
        self.heartbeat.beat(self.started, true);
    }

    /// Does something with a part of an answer, outside the kernel.
    pub(super) fn outside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.heartbeat.beat(self.started, false);
        let done = work();
        self.heartbeat.beat(self.started, true);
        done
    }

    /// It was answered.
    pub(super) fn end(&self, collector: Collector, spent: Duration) {
        let mut state = self.state();
        state.current = None;
        *state.durations.entry(collector).or_default() += spent;
        drop(state);
        self.heartbeat.beat(self.started, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_known_whether_the_kernel_or_natwatch_is_at_work() {
        let progress = Progress::new(Duration::from_secs(60));
        let place = || (progress.whereabouts().in_kernel, progress.whereabouts().request);
        assert_eq!(place(), (true, None), "who looks is asked first");
        progress.begin("netlink/route/links");
        assert_eq!(place(), (true, Some("netlink/route/links".into())));
        let taking = progress.outside(place);
        assert_eq!(taking, (false, Some("netlink/route/links".into())));
        assert!(place().0, "it waits for the next message");
        progress.end(Collector::Links, Duration::ZERO);
        assert_eq!(place(), (false, None));
        std::thread::sleep(Duration::from_millis(20));
        assert!(progress.whereabouts().since >= Duration::from_millis(15));
    }
}
