//! Work budget of a judgement. Work is counted rather than timed, so that the same facts give the same verdict on every
//! machine; a caller with a deadline sets a flag.
//!
//! Once the budget is used up, packets get no further: what was found to happen stands, everything else is unknown.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Units per judgement; a unit is one operation on a diagram node or field value, some 20 ns in a release build.
pub(super) const BUDGET: u64 = 320_000_000;
/// Units per walk, so that an expensive walk leaves some for others.
pub(super) const WALK: u64 = BUDGET / 2;
/// Units per walk that is not about a tunnel: there are several of these, and nothing critical depends on them.
pub(super) const OF_CONNECTIONS: u64 = BUDGET / 32;

/// Why work has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The budget is used up.
    UsedUp,
    /// The caller's flag is set.
    Stopped,
}

impl Ended {
    /// Text for reports.
    pub const fn why(self) -> &'static str {
        match self {
            Self::UsedUp => "the rules are too many to follow every way through them",
            Self::Stopped => "judging was stopped before its end: the time given was too short",
        }
    }
}

/// Work budget of one judgement, shared by all its walks.
#[derive(Debug)]
pub struct Effort<'s> {
    left: Cell<u64>,
    stop: &'s AtomicBool,
    ended: Cell<Option<Ended>>,
}

impl<'s> Effort<'s> {
    /// A full budget. `stop` is the caller's flag, which ends all work.
    pub const fn new(stop: &'s AtomicBool) -> Self {
        Self { left: Cell::new(BUDGET), stop, ended: Cell::new(None) }
    }

    /// Uses up units; `false`: work has ended.
    pub fn spend(&self, units: usize) -> bool {
        let left = self.left.get().saturating_sub(units as u64);
        self.left.set(left);
        if left == 0 && self.ended.get().is_none() {
            self.ended.set(Some(Ended::UsedUp));
        }
        self.ended().is_none()
    }

    /// Runs `work` and returns the units it used.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = self.left.get();
        let done = work();
        (done, before - self.left.get())
    }

    /// Charges the units of work done earlier; `false`: the budget does not suffice, and nothing is charged.
    pub fn repeat(&self, units: u64) -> bool {
        let affordable = self.ended().is_none() && self.left.get() > units;
        if affordable {
            self.left.set(self.left.get() - units);
        }
        affordable
    }

    /// Why work has ended; `None`: it has not. The flag takes precedence.
    pub fn ended(&self) -> Option<Ended> {
        if self.stop.load(Ordering::Relaxed) {
            self.ended.set(Some(Ended::Stopped));
        }
        self.ended.get()
    }

    /// Whether work ended because of the flag. A flag set after all work was done has no effect.
    pub fn was_stopped(&self) -> bool {
        self.ended.get() == Some(Ended::Stopped)
    }

    /// Units left.
    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }
}
