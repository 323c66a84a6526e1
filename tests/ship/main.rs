//! What is shipped: alerts and dashboards on a real Prometheus, packages, units, kernels in qemu.

#![allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story")]
#![allow(clippy::disallowed_types, reason = "tests run the program and the standard tools")]

#[path = "../support/mod.rs"]
mod support;

mod alerts;
mod dashboards;
mod deploy;
mod kernels;
mod mixin;
mod prometheus;
mod schema;
mod web_security;
