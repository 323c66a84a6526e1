//! Signals, taken by a thread of their own: whatever is stuck, SIGTERM ends natwatch.

use std::process;
use std::sync::Arc;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tokio::sync::watch;

use crate::server::Security;

/// What the server has to come to its end by itself; its own grace is shorter.
const PATIENCE: Duration = Duration::from_millis(950);

/// Waits for signals: SIGTERM and SIGINT set what is returned, and SIGHUP has the web configuration re-read.
///
/// # Errors
/// The kernel does not let natwatch wait for signals.
pub fn wait(security: Option<Arc<Security>>) -> Result<watch::Receiver<bool>, String> {
    let failed = |error: std::io::Error| format!("cannot wait for signals: {error}");
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP]).map_err(failed)?;
    let (close, closing) = watch::channel(false);
    let work = move || {
        for signal in signals.forever() {
            if signal == SIGHUP {
                if let Some(security) = security.clone() {
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
    Ok(closing)
}
