//! `serve`: one reading at a time, remembered where that is allowed, and answered over HTTP.
//!
//! `check` reads through [`reading`] too.

pub mod http;
pub mod logging;
mod memory;
mod process;
pub mod reading;
pub mod refresh;
pub mod signals;
mod sync;
