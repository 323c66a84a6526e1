//! CPU affinity and priority of threads.

use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The first two CPUs this process may use.
pub fn two_cpus() -> [usize; 2] {
    let allowed = sched_getaffinity(None).expect("sched_getaffinity");
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    match (cpus.next(), cpus.next()) {
        (Some(a), Some(b)) => [a, b],
        _ => panic!("a race needs two CPUs"),
    }
}

/// Puts this thread before all ordinary ones, for the fraction of a second that a race takes.
///
/// On a busy machine the two threads would otherwise hardly ever run at the same time: one
/// uses up its share of a CPU by spinning while the other waits for its own. Refused where
/// the capability is lacking; then the race works as well as the load lets it.
pub fn prefer_this_thread() {
    let _ = setpriority_process(None, -20);
}

/// Keeps this thread on one CPU.
pub fn pin_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("sched_setaffinity");
}
