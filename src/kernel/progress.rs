//! What a reading shows of itself while it is on its way, and how long it may take.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::snapshot::{Collector, Failure, Unanswered};

/// Shared by a reading and those who wait for it.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    state: Mutex<State>,
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
        Self { started, state: Mutex::new(State { deadline, cut: false, current: None, durations }) }
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

    /// A request is about to be asked.
    pub fn begin(&self, request: &str) {
        self.state().current = Some(request.to_owned());
    }

    /// It was answered.
    pub(super) fn end(&self, collector: Collector, spent: Duration) {
        let mut state = self.state();
        state.current = None;
        *state.durations.entry(collector).or_default() += spent;
    }
}
