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
//! | [`probe`] | an island: which defects the running kernel has, by experiment |
//! | [`serve`] | one reading at a time, what is remembered between them, and answers over HTTP |
//! | [`cli`], [`commands`] | flags and sub-commands |
//!
//! ARCHITECTURE.md tells why, and which modules may name which.

#![cfg_attr(test, allow(clippy::too_many_arguments, clippy::too_many_lines, reason = "a test is a table, or a story"))]

pub mod advisory;
pub mod capture;
pub mod cli;
pub mod commands;
pub mod facts;
pub mod judge;
pub mod kernel;
pub mod metrics;
pub mod monotonic;
pub mod netfilter;
pub mod probe;
pub mod read;
pub mod redact;
pub mod report;
pub mod serve;
pub mod symbolic;
