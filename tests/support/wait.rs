//! Waits for conditions, and serialises tests that need the whole machine.

use std::fs::File;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

/// Long enough that only a real defect, never a busy machine, makes a wait fail.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One evaluation of a condition: a value, or (perhaps) the reason why there is none yet.
pub trait Attempt {
    /// The value of a successful evaluation.
    type Value;
    /// The value, or the reason to show if no later evaluation succeeds.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl<T> Attempt for Option<T> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(|| "the condition did not hold".to_owned())
    }
}

impl<T, E: ToString> Attempt for Result<T, E> {
    type Value = T;
    fn outcome(self) -> Result<T, String> {
        self.map_err(|reason| reason.to_string())
    }
}

/// Repeats `attempt` until it succeeds; panics with its last reason once `deadline` has passed.
///
/// The pause between tries grows from 1 ms to 50 ms: quick conditions cost nothing, slow
/// ones do not eat the CPU that they are waiting for.
#[track_caller]
pub fn eventually<A: Attempt>(deadline: Duration, mut attempt: impl FnMut() -> A) -> A::Value {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        match attempt().outcome() {
            Ok(value) => return value,
            Err(reason) if start.elapsed() >= deadline => {
                panic!("gave up after {:.1?}: {reason}", start.elapsed())
            }
            Err(_) => thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// Held by a test that needs both CPUs or the whole conntrack limit for itself.
pub struct Exclusive {
    _lock: File,
}

/// Waits until no other test, of this or another process, holds the machine.
///
/// A file lock instead of a mutex, because some test runners start one process per test.
pub fn exclusive() -> Exclusive {
    super::tools::require_root();
    let path = "/run/natwatch-live-tests.lock";
    let lock = File::create(path).unwrap_or_else(|e| panic!("cannot create {path}: {e}"));
    flock(&lock, FlockOperation::LockExclusive).unwrap_or_else(|e| panic!("lock {path}: {e}"));
    Exclusive { _lock: lock }
}
