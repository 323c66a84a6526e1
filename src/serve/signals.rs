//! Signals, taken by a thread of their own: whatever is stuck, SIGTERM ends natwatch.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, process};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::watch;

use crate::serve::http::Security;

/// What the server has to come to its end by itself; its own grace is shorter.
const PATIENCE: Duration = Duration::from_millis(850);

/// What SIGHUP has re-read, once there is one.
pub(crate) type Reload = Arc<OnceLock<Arc<Security>>>;

/// Signals that are kept until somebody waits for them.
#[derive(Debug)]
pub(crate) struct Signals(signal_hook::iterator::Signals);

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP from now on. No thread is started.
    ///
    /// # Errors
    /// The kernel does not let natwatch catch signals.
    pub(crate) fn catch() -> Result<Self, String> {
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self).map_err(failed)
    }

    /// Waits for them: SIGTERM and SIGINT set what is returned, and SIGHUP has the web configuration re-read.
    ///
    /// # Errors
    /// No thread can be started.
    pub(crate) fn wait(mut self) -> Result<(watch::Receiver<bool>, Reload), String> {
        let ((close, closing), reload) = (watch::channel(false), Reload::default());
        let security = Arc::clone(&reload);
        let work = move || {
            for signal in self.0.forever() {
                if signal == SIGHUP {
                    if let Some(security) = security.get().cloned() {
                        let _ = std::thread::Builder::new().name("reload".into()).spawn(move || security.reload(true));
                    }
                    continue;
                }
                close.send_replace(true);
                std::thread::sleep(PATIENCE);
                process::exit(0);
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(work).map_err(failed)?;
        Ok((closing, reload))
    }
}

fn failed(error: io::Error) -> String {
    format!("cannot wait for signals: {error}")
}
