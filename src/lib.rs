//! natwatch: a Prometheus exporter that reads conntrack, NAT rules, tunnels, offloads and the kernel's version of a
//! Linux node, and judges whether the node is exposed to known defects.
//!
//! Data flows one way, in the order of these modules:
//!
//! | module | contents |
//! |---|---|
//! | [`kernel`] | `Live`: executes requests to the operating system; decodes nothing |
//! | [`capture`] | `Ask`, the only access to a node; requests; saved captures and their replay |
//! | [`redact`] | removes private data from a capture |
//! | [`netfilter`] | binary formats of netlink and netfilter; independent of the rest |
//! | [`read`] | readers: requests, and decoding of responses into facts |
//! | [`facts`] | facts about a node |
//! | [`monotonic`] | makes counters monotonic across readings |
//! | [`symbolic`] | symbolic execution: what the kernel would do with packets |
//! | [`advisory`] | known problems and kernel defects, as data |
//! | [`judge`] | derives verdicts from facts |
//! | [`report`], [`metrics`] | text, JSON and HTML reports; metric samples |
//! | [`probe`] | tests by experiment which defects the running kernel has |
//! | [`serve`] | the exporter: one reading at a time, memory between readings, HTTP |
//! | [`cli`], [`commands`] | flags and sub-commands |
//!
//! ARCHITECTURE.md gives the reasons, and says which module may use which. The public interface is a program, [`parse`]
//! and [`run`], and [`netfilter`], which could be a crate of its own. `inside` lists what tests and benches use beyond
//! that.

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
