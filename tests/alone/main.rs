//! What concerns the whole machine: no other test may run beside it, so it is a program of its own.

#![allow(clippy::disallowed_types, reason = "tests run the program and the standard tools")]

#[path = "../support/mod.rs"]
mod support;

mod neighbours;
