//! Tests that affect the whole machine and must not run next to others.

#![allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story")]
#![allow(clippy::disallowed_types, reason = "tests run the program and the standard tools")]

#[path = "../support/mod.rs"]
mod support;

mod neighbours;
