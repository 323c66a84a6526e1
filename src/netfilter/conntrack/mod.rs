//! Connection tracking.

mod stats;

pub use stats::*;
