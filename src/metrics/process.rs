//! Samples about natwatch itself.

use super::{Families, SampleValue, table};

/// What `process_*` says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    /// User and system time.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// Their limit; `None` without one.
    pub max_fds: Option<u64>,
    /// Virtual memory.
    pub virtual_memory_bytes: u64,
    /// Resident memory.
    pub resident_memory_bytes: u64,
    /// Since the Unix epoch.
    pub start_time_seconds: f64,
    /// Threads.
    pub threads: u64,
}

/// Adds the exporter's own process, as Prometheus client libraries do.
pub(crate) fn add_process(out: &mut Families, process: &Process) {
    out.add(table::PROCESS_CPU_SECONDS, (), SampleValue::Real(process.cpu_seconds));
    out.whole(table::PROCESS_OPEN_FDS, process.open_fds);
    if let Some(limit) = process.max_fds {
        out.whole(table::PROCESS_MAX_FDS, limit);
    }
    out.whole(table::PROCESS_VIRTUAL_MEMORY_BYTES, process.virtual_memory_bytes);
    out.whole(table::PROCESS_RESIDENT_MEMORY_BYTES, process.resident_memory_bytes);
    out.add(table::PROCESS_START_TIME_SECONDS, (), SampleValue::Real(process.start_time_seconds));
    out.whole(table::PROCESS_THREADS, process.threads);
}

/// Adds what the server knows of itself: open connections, and log lines that nobody took.
pub(crate) fn add_server(out: &mut Families, connections: usize, dropped_lines: usize) {
    out.whole(table::HTTP_CONNECTIONS, connections as u64);
    out.whole(table::LOG_LINES_DROPPED, dropped_lines as u64);
}

/// Adds whether the web configuration in its file is the one in force.
pub(crate) fn add_web_config(out: &mut Families, current: bool) {
    out.whole(table::WEB_CONFIG_LAST_RELOAD_SUCCESSFUL, current.into());
}
