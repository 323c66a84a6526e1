//! `serve`: one reading at a time, remembered where that is allowed, and answered over HTTP.
//!
//! `check` reads through [`reading`] too.

pub(crate) mod http;
pub(crate) mod logging;
mod memory;
mod process;
pub(crate) mod reading;
pub(crate) mod refresh;
pub(crate) mod signals;
mod sync;
