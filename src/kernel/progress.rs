//! Progress and deadline of a running reading.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::facts::{Collector, Failure, Unanswered};

/// Shared by a reading and its waiters.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    state: Mutex<State>,
    heartbeat: Heartbeat,
}

/// Time of the reading thread's last transition into or out of the kernel, and its direction.
#[derive(Debug)]
struct Heartbeat(AtomicU64);

impl Heartbeat {
    fn beat(&self, started: Instant, in_kernel: bool) {
        let milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX >> 1);
        self.0.store(milliseconds << 1 | u64::from(in_kernel), Ordering::Relaxed);
    }

    /// Whether the thread is in the kernel, and the time of the last transition since the start.
    fn last(&self) -> (bool, Duration) {
        let beat = self.0.load(Ordering::Relaxed);
        (beat & 1 == 1, Duration::from_millis(beat >> 1))
    }
}

/// What a reading is doing, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whereabouts {
    /// Whether it waits for the kernel; else natwatch is working.
    pub in_kernel: bool,
    /// The current request.
    pub request: Option<String>,
    /// Duration.
    pub since: Duration,
}

#[derive(Debug)]
struct State {
    deadline: Instant,
    /// Whether a request was not answered because the deadline had passed.
    cut: bool,
    /// The current request.
    current: Option<String>,
    durations: BTreeMap<Collector, Duration>,
}

impl Progress {
    /// For a reading that starts now, with a deadline after `patience`.
    pub fn new(patience: Duration) -> Self {
        let started = Instant::now();
        let (deadline, durations) = (started + patience, BTreeMap::new());
        let state = Mutex::new(State { deadline, cut: false, current: None, durations });
        // It starts in the kernel, with reading its environment.
        Self { started, state, heartbeat: Heartbeat(AtomicU64::new(1)) }
    }

    /// The state is consistent even if a thread panicked while holding the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Start of the reading.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Deadline of the reading.
    pub fn deadline(&self) -> Instant {
        self.state().deadline
    }

    /// Extends the deadline for another waiter.
    pub fn extend(&self, deadline: Instant) {
        let mut state = self.state();
        state.deadline = state.deadline.max(deadline);
    }

    /// Whether the deadline has passed; marks the reading as cut if so.
    pub fn is_over(&self) -> bool {
        let mut state = self.state();
        let over = Instant::now() >= state.deadline;
        state.cut |= over;
        over
    }

    /// Whether a request was not answered because of the deadline.
    pub fn was_cut(&self) -> bool {
        self.state().cut
    }

    /// The current request.
    pub fn current(&self) -> Option<String> {
        self.state().current.clone()
    }

    /// Time spent on requests, including decoding, by collector.
    pub fn durations(&self) -> BTreeMap<Collector, Duration> {
        self.state().durations.clone()
    }

    /// The failure for a request past the deadline.
    pub(super) fn not_answered(&self) -> Failure {
        Failure::NotAnswered(Unanswered::in_time(self.deadline().saturating_duration_since(self.started)))
    }

    /// What the reading is doing, and for how long.
    pub fn whereabouts(&self) -> Whereabouts {
        let (in_kernel, since) = self.heartbeat.last();
        Whereabouts { in_kernel, request: self.current(), since: self.started.elapsed().saturating_sub(since) }
    }

    /// Records the start of a request.
    pub fn begin(&self, request: &str) {
        self.state().current = Some(request.to_owned());
        self.heartbeat.beat(self.started, true);
    }

    /// Runs `work` on a part of a response, recorded as time outside the kernel.
    pub(super) fn outside<T>(&self, work: impl FnOnce() -> T) -> T {
        self.heartbeat.beat(self.started, false);
        let done = work();
        self.heartbeat.beat(self.started, true);
        done
    }

    /// Records the end of a request.
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
