//! Samples about natwatch's own process.

use super::{Families, SampleValue, table};

/// Values of the `process_*` metrics.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    /// User and system time, seconds.
    pub cpu_seconds: f64,
    /// Number of open file descriptors.
    pub open_fds: u64,
    /// Limit of file descriptors; `None`: unlimited.
    pub max_fds: Option<u64>,
    /// Virtual memory, bytes.
    pub virtual_memory_bytes: u64,
    /// Resident memory, bytes.
    pub resident_memory_bytes: u64,
    /// Start of the process, Unix time in seconds.
    pub start_time_seconds: f64,
    /// Number of threads.
    pub threads: u64,
}

/// Adds the `process_*` samples, as Prometheus client libraries do.
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

/// Adds the samples of the HTTP server: open connections, and log lines dropped.
pub(crate) fn add_server(out: &mut Families, connections: usize, dropped_lines: usize) {
    out.whole(table::HTTP_CONNECTIONS, connections as u64);
    out.whole(table::LOG_LINES_DROPPED, dropped_lines as u64);
}

/// Adds whether the last reload of the web configuration succeeded.
pub(crate) fn add_web_config(out: &mut Families, current: bool) {
    out.whole(table::WEB_CONFIG_LAST_RELOAD_SUCCESSFUL, current.into());
}
