//! Packets that are sent through the rules, and what is asked about them.

pub mod answers;
pub mod bypass;
mod collisions;
mod connection;
mod devices;
mod effect;
mod first;
mod given_source;
pub mod idle;
mod on_nat;
mod rewriting;
mod senders;
pub mod services;
pub mod source_nat;
pub mod stale;
mod translatable;
pub mod tunnel;
