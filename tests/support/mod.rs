//! Support for tests: namespaces, topologies, traffic, kernel values as printed by standard tools, and the program as
//! seen from outside.
//!
//! `program` runs natwatch, `capture` and `server` use it; `report`, `exposition` and `rules` parse its output.
//! `round_trip` and `fuzz_targets` link natwatch's code, which they test; nothing else links or runs it, so that tests
//! can compare natwatch with it.

// Every integration-test file compiles its own copy of this module and uses a part of
// it; the rest would be reported as dead code in each of them.
#![allow(dead_code, reason = "each test file uses a part of this module")]

pub mod bpf;
pub mod capture;
pub mod connection_lab;
pub mod connection_rules;
pub mod counters;
pub mod cpus;
pub mod dashboard;
pub mod debug_text;
pub mod exposition;
pub mod fake;
pub mod fleet;
pub mod fuzz_targets;
pub mod grammar;
pub mod hold;
pub mod http;
pub mod links;
pub mod linter;
pub mod mutator;
pub mod netns;
pub mod nfnetlink;
pub mod ports;
pub mod process;
pub mod program;
pub mod prometheus;
pub mod queries;
pub mod race;
pub mod report;
pub mod round_trip;
pub mod router;
pub mod rule_file;
pub mod rules;
pub mod secrets;
pub mod segment;
pub mod server;
pub mod sockets;
pub mod strace;
pub mod tools;
pub mod traffic;
pub mod tunnel_lab;
pub mod tunnel_maps;
pub mod tunnel_rules;
pub mod vxlan;
pub mod wait;
