//! Logging of `serve`: a bounded queue and a thread that writes to stderr. If stderr is slow or stuck, lines are
//! dropped and counted, and nothing blocks.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::cli::{LogFormat, LogLevel};

/// Number of lines in the queue: some hundred kilobytes.
const QUEUE: usize = 2048;
/// How long to wait for the last lines at exit.
const LAST_LINES: Duration = Duration::from_millis(100);

/// The logger; when dropped, it flushes the last lines as far as stderr accepts them.
#[derive(Debug)]
pub(crate) struct Log {
    worker: Option<WorkerGuard>,
    dropped: ErrorCounter,
}

impl Log {
    /// Starts logging to stderr.
    pub(crate) fn to_stderr(level: LogLevel, format: LogFormat) -> Self {
        let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(QUEUE).thread_name("log");
        let (writer, worker) = queue.finish(io::stderr());
        let dropped = writer.error_counter();
        subscribe(level, format, writer);
        // A panic message written directly to stderr could block.
        std::panic::set_hook(Box::new(
            |panic| tracing::error!(%panic, "this is a mistake of natwatch's; please report it"),
        ));
        Self { worker: Some(worker), dropped }
    }

    /// Counter of dropped lines.
    pub(crate) fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

impl Drop for Log {
    /// The library's own drop waits for a second, which is too long.
    fn drop(&mut self) {
        let (done, written) = mpsc::channel::<()>();
        let worker = self.worker.take();
        let wait = std::thread::Builder::new().name("last log lines".into()).spawn(move || {
            drop(worker);
            drop(done);
        });
        if wait.is_ok() {
            let _ = written.recv_timeout(LAST_LINES);
        }
    }
}

fn subscribe(level: LogLevel, format: LogFormat, writer: NonBlocking) {
    let level = match level {
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(level);
    match format {
        LogFormat::Json => registry.with(fmt::layer().json().flatten_event(true).with_writer(writer)).init(),
        LogFormat::Logfmt => {
            let layer = fmt::layer().event_format(tracing_logfmt::EventsFormatter::default());
            registry.with(layer.fmt_fields(tracing_logfmt::FieldsFormatter::default()).with_writer(writer)).init();
        }
    }
}
