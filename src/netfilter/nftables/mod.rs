//! nf_tables: messages, expressions, registers.

mod data;
pub mod expr;
mod expression;
mod fields;
mod message;
pub mod register;
pub mod uapi;

pub use data::{Data, Verdict};
pub use expression::*;
pub use message::*;
