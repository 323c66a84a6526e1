//! Health checks: distinguishes a stuck natwatch from a stuck kernel.
//!
//! If the kernel does not answer, `/-/ready` fails, since a restart would not help. `/-/healthy` fails only if natwatch
//! itself is stuck. A thread of its own checks, so that the endpoints answer whatever else is stuck.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::kernel::Whereabouts;
use crate::serve::refresh::Refresher;
use crate::serve::sync::lock;

/// Interval of checks.
const EVERY: Duration = Duration::from_secs(1);
/// Time without a response after which the kernel counts as stuck: slightly less than the default scrape timeout.
const KERNEL: Duration = Duration::from_secs(8);
/// Time for which a lock is held, or a reading runs outside the kernel, after which natwatch counts as stuck. Longer
/// than judging any rule set takes on any share of a CPU.
const NATWATCH: Duration = Duration::from_secs(60);

/// Result of the last check.
#[derive(Debug)]
struct Seen {
    /// Time at which all locks could be taken.
    at: Instant,
    /// What the running reading was doing.
    reading: Option<Whereabouts>,
}

/// Health of natwatch and the kernel.
#[derive(Debug)]
pub(crate) struct Health(Mutex<Seen>);

impl Health {
    /// Starts the checking thread.
    pub(crate) fn watch(refresher: Arc<Refresher>) -> Arc<Self> {
        let health = Arc::new(Self(Mutex::new(Seen { at: Instant::now(), reading: None })));
        let mine = Arc::downgrade(&health);
        let work = move || {
            let mut told = false;
            while let Some(health) = mine.upgrade() {
                health.check_progress(&refresher);
                told = health.tell(told);
                drop(health);
                std::thread::sleep(EVERY);
            }
        };
        if let Err(error) = std::thread::Builder::new().name("health".into()).spawn(work) {
            tracing::error!(%error, "cannot start the thread that looks whether natwatch is stuck");
        }
        health
    }

    /// Checks what the reading is doing; blocks while a lock is held.
    pub(crate) fn check_progress(&self, refresher: &Refresher) {
        refresher.touch_locks();
        self.see(Instant::now(), refresher.whereabouts());
    }

    fn see(&self, at: Instant, reading: Option<Whereabouts>) {
        *lock(&self.0) = Seen { at, reading };
    }

    /// Logs once that the kernel is stuck, and once that it answers again. `told` and the result: whether it was logged
    /// as stuck last.
    fn tell(&self, told: bool) -> bool {
        match (self.kernel_stuck(), told) {
            (Some(what), false) => tracing::error!(what, "the kernel does not answer"),
            (None, true) => tracing::warn!("the kernel answers again"),
            _ => return told,
        }
        !told
    }

    /// The request that the kernel has not answered for long; `None`: not stuck.
    pub(crate) fn kernel_stuck(&self) -> Option<String> {
        let seen = lock(&self.0);
        let stuck = seen.reading.as_ref().filter(|reading| reading.in_kernel && reading.since >= KERNEL)?;
        let request = stuck.request.as_deref().unwrap_or("/proc of natwatch itself");
        Some(format!("no answer to {request} for {} s", stuck.since.as_secs()))
    }

    /// What natwatch itself is stuck in; `None`: not stuck.
    pub(crate) fn stuck(&self, now: Instant) -> Option<String> {
        let seen = lock(&self.0);
        let unseen = now.saturating_duration_since(seen.at);
        if unseen >= NATWATCH {
            return Some(format!("a lock has been held for {} s", unseen.as_secs()));
        }
        let stuck = seen.reading.as_ref().filter(|reading| !reading.in_kernel && reading.since >= NATWATCH)?;
        Some(format!("a reading has been at work for {} s without asking the kernel", stuck.since.as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_keeps_is_not_natwatchs_fault_and_the_other_way_round() {
        let start = Instant::now();
        let health = Health(Mutex::new(Seen { at: start, reading: None }));
        let after = |in_kernel: bool, seconds: u64| {
            let request = Some("netlink/route/links".to_owned());
            health.see(start, Some(Whereabouts { in_kernel, request, since: Duration::from_secs(seconds) }));
            (health.kernel_stuck(), health.stuck(start))
        };
        assert_eq!(after(true, 7), (None, None));
        assert_eq!(after(true, 100), (Some("no answer to netlink/route/links for 100 s".into()), None));
        assert_eq!(after(false, 59), (None, None));
        assert!(matches!(after(false, 60), (None, Some(why)) if why.contains("60 s")));
        health.see(start, None);
        assert_eq!(health.stuck(start + Duration::from_secs(59)), None);
        assert!(health.stuck(start + Duration::from_secs(60)).is_some_and(|why| why.contains("lock")));
    }
}
