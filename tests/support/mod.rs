//! What the live tests need around the product: namespaces, topologies, traffic, and
//! the kernel's own numbers as the standard tools print them.
//!
//! Nothing here calls natwatch code, so that a test can hold natwatch against it; `natwatch` starts the program.

// Every integration-test file compiles its own copy of this module and uses a part of
// it; the rest would be reported as dead code in each of them.
#![allow(dead_code, reason = "each test file uses a part of this module")]

pub mod command;
pub mod counters;
pub mod cpus;
pub mod fake;
pub mod http;
pub mod links;
pub mod natwatch;
pub mod netns;
pub mod process;
pub mod race;
pub mod router;
pub mod sockets;
pub mod strace;
pub mod tools;
pub mod traffic;
pub mod vxlan;
pub mod wait;
