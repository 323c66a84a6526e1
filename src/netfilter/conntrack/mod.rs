//! Connection tracking.

mod entry;
mod stats;

pub use entry::*;
pub use stats::*;
