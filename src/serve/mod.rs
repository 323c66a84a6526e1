//! The exporter: one reading at a time, memory between readings, and the HTTP server.
//!
//! [`refresh`] shares a reading among scrapes, [`reading`] runs and judges it (also for `check`), [`memory`] is what is
//! kept, [`http`] answers.

pub(crate) mod http;
pub(crate) mod logging;
mod memory;
mod process;
pub(crate) mod reading;
pub(crate) mod refresh;
pub(crate) mod signals;
mod sync;
