//! Scenarios: which packets run through the rules, and what is asked about them. One file per question;
//! `judge::derived` calls them.

pub(crate) mod bypass;
mod collisions;
mod confirmed;
mod connection;
mod devices;
mod effect;
mod first;
mod given_source;
pub(crate) mod idle;
mod on_nat;
mod paths;
pub(crate) mod replies;
mod rewriting;
mod senders;
pub(crate) mod services;
pub(crate) mod source_nat;
pub(crate) mod stale;
mod translatable;
pub(crate) mod tunnel;
