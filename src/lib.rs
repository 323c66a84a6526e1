//! natwatch: what connection tracking, NAT, tunnels, offloads and the kernel do on a Linux node, and whether it is
//! exposed to a known defect.
//!
//! Data flows one way, and the modules are listed in its order:
//!
//! | module | what it does |
//! |---|---|
//! | [`kernel`] | `Live`, which asks the operating system; decodes nothing |
//! | [`capture`] | `Ask`, the only door to the node; a saved capture, which answers as the node did; a capture as a directory |
//! | [`redact`] | a capture without private data |
//! | [`netfilter`] | the bytes of netlink and netfilter; names nothing of ours |
//! | [`read`] | readers: what a node is asked, and bytes to facts |
//! | [`facts`] | the facts |
//! | [`monotonic`] | counters that never fall |
//! | [`symbolic`] | what the kernel would do with a packet |
//! | [`advisory`] | known problems and kernel defects, as data |
//! | [`judge`] | facts to verdicts |
//! | [`report`], [`metrics`] | verdicts and facts to text, JSON, HTML; to series |
//! | [`probe`] | which defects the running kernel has, by experiment |
//! | [`serve`] | one reading at a time, what is remembered between them, and answers over HTTP |
//! | [`cli`], [`commands`] | flags and sub-commands |
//!
//! ARCHITECTURE.md tells why, and which modules may name which. To others this crate is a program: [`parse`] a command line and
//! [`run`] it; and [`netfilter`], which could be a crate of its own. What tests and benches use beside that, `inside` lists.

#![allow(rustdoc::private_intra_doc_links, reason = "these pages are read with private items")]
#![warn(unreachable_pub)]
#![cfg_attr(test, allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story"))]

mod advisory;
mod capture;
mod cli;
mod commands;
mod facts;
#[doc(hidden)]
pub mod inside;
mod judge;
mod kernel;
mod metrics;
mod monotonic;
pub mod netfilter;
mod probe;
mod read;
mod redact;
mod report;
mod serve;
mod symbolic;

pub use cli::parse;
pub use commands::run;
