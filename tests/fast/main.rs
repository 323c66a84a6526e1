//! Tests without privileges: code structure, goldens of recorded nodes, parsers, documents.

#![allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story")]
#![allow(clippy::disallowed_types, reason = "tests run the program and the standard tools")]

#[path = "../support/mod.rs"]
mod support;

mod architecture;
mod circles;
mod dear_rules;
mod docs;
mod fuzz;
mod golden;
mod netfilter;
