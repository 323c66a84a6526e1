//! Resource usage of natwatch's own process, as Prometheus client libraries report it.

use std::sync::OnceLock;

use procfs::WithCurrentSystemInfo as _;
use rustix::process::{Resource, getrlimit};

use crate::metrics::Process;

/// Reads `/proc/self`; `None` if that fails, in which case the series are missing.
pub(crate) fn read() -> Option<Process> {
    let process = procfs::process::Process::myself().ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second() as f64;
    Some(Process {
        cpu_seconds: (stat.utime + stat.stime) as f64 / ticks,
        open_fds: process.fd_count().ok()? as u64,
        max_fds: getrlimit(Resource::Nofile).current,
        virtual_memory_bytes: stat.vsize,
        resident_memory_bytes: stat.rss_bytes().get(),
        start_time_seconds: boot_time()? as f64 + stat.starttime as f64 / ticks,
        threads: stat.num_threads.try_into().ok()?,
    })
}

/// Boot time, Unix time in seconds. Read once: `/proc/stat` has a line per CPU and a number per interrupt.
fn boot_time() -> Option<u64> {
    static BOOT_TIME: OnceLock<u64> = OnceLock::new();
    match BOOT_TIME.get() {
        Some(seconds) => Some(*seconds),
        None => procfs::boot_time_secs().ok().map(|seconds| *BOOT_TIME.get_or_init(|| seconds)),
    }
}
