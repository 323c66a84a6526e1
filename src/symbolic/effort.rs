//! How much work a judgement may do. It is counted and not timed, so that the same facts have the same verdict on every
//! machine; a caller who cannot wait that long sets a flag.
//!
//! When the budget is used up, packets get no further: what was seen to happen happens, everything else is unknown.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

/// Units of one judgement: a unit is a value of a field that is copied, compared or hashed, some 20 ns in a release build.
pub(super) const BUDGET: u64 = 320_000_000;
/// Units of one walk, so that one that is dear leaves something for the others.
pub(super) const WALK: u64 = BUDGET / 2;
/// Units of one that is not about a tunnel: of those there are several, and nothing critical waits for them.
pub(super) const OF_CONNECTIONS: u64 = BUDGET / 32;

/// Why no more work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The budget is used up.
    UsedUp,
    /// The caller's flag was set.
    Stopped,
}

impl Ended {
    /// For people.
    pub const fn why(self) -> &'static str {
        match self {
            Self::UsedUp => "the rules are too many to follow every way through them",
            Self::Stopped => "judging was stopped before its end: the time given was too short",
        }
    }
}

/// The work of one judgement, shared by all its walks.
#[derive(Debug)]
pub struct Effort<'s> {
    left: Cell<u64>,
    stop: &'s AtomicBool,
    ended: Cell<Option<Ended>>,
}

impl<'s> Effort<'s> {
    /// A full budget. The flag is the caller's: once it is set, all work ends.
    pub const fn new(stop: &'s AtomicBool) -> Self {
        Self { left: Cell::new(BUDGET), stop, ended: Cell::new(None) }
    }

    /// Takes from the budget; `false`: no more work is to be done.
    pub fn spend(&self, units: usize) -> bool {
        let left = self.left.get().saturating_sub(units as u64);
        self.left.set(left);
        if left == 0 && self.ended.get().is_none() {
            self.ended.set(Some(Ended::UsedUp));
        }
        self.ended().is_none()
    }

    /// Does some work, and says how many units it took.
    pub fn measure<T>(&self, work: impl FnOnce() -> T) -> (T, u64) {
        let before = self.left.get();
        let done = work();
        (done, before - self.left.get())
    }

    /// Takes what work took that was done before; `false`: this judgement could not have done it, and nothing is taken.
    pub fn repeat(&self, units: u64) -> bool {
        let affordable = self.ended().is_none() && self.left.get() > units;
        if affordable {
            self.left.set(self.left.get() - units);
        }
        affordable
    }

    /// Whether no more work is to be done, and why. A stop beats a budget that is used up.
    pub fn ended(&self) -> Option<Ended> {
        if self.stop.load(Ordering::Relaxed) {
            self.ended.set(Some(Ended::Stopped));
        }
        self.ended.get()
    }

    /// Whether work ended because of the flag. One that is set when all is done has stopped nothing.
    pub fn was_stopped(&self) -> bool {
        self.ended.get() == Some(Ended::Stopped)
    }

    /// Units that are left.
    pub(super) fn left(&self) -> u64 {
        self.left.get()
    }
}
