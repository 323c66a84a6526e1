//! The program on a real kernel: namespaces, rules, packets, as root.

#![allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story")]
#![allow(clippy::disallowed_types, reason = "tests run the program and the standard tools")]

#[path = "../support/mod.rs"]
mod support;

mod accepted;
mod cli;
mod connections;
mod conntrack;
mod faults;
mod flows;
mod http;
mod http_limits;
mod lab;
mod legacy;
mod links;
mod memory;
mod nftables;
mod privileges;
mod probe;
mod probe_result;
mod quiet;
mod race;
mod redaction;
mod replay;
mod resets;
mod rules;
mod rules_cost;
mod scale;
mod spellings;
mod support_tests;
mod tunnels;
