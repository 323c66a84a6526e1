//! Handles signals on a thread of its own, so that SIGTERM ends natwatch whatever else is stuck.

use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{io, process};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tokio::sync::watch;

use crate::serve::http::Security;

/// Time for the server to end by itself, longer than its own grace period.
const PATIENCE: Duration = Duration::from_millis(850);

/// What SIGHUP reloads, once it exists.
pub(crate) type Reload = Arc<OnceLock<Arc<Security>>>;

/// Signals that are queued until `wait`.
#[derive(Debug)]
pub(crate) struct Signals(signal_hook::iterator::Signals);

impl Signals {
    /// Catches SIGTERM, SIGINT and SIGHUP from now on, without starting a thread.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn catch() -> Result<Self, String> {
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).map(Self).map_err(failed)
    }

    /// Starts the handling thread: SIGTERM and SIGINT set the returned value, SIGHUP reloads the web configuration.
    ///
    /// # Errors
    /// The thread cannot be started.
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
