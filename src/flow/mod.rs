//! What the kernel would do with a packet: a symbolic packet walks through the hooks, and every way that a real one could
//! take is taken. Pure; to be read beside `nf_hook_entries_grow`, `nft_do_chain`, `ipt_do_table` and `nf_nat_core.c`.
//!
//! | file | holds |
//! |---|---|
//! | `world` | rules of all backends, links, addresses |
//! | `values`, `packet` | what a symbolic packet's fields can hold |
//! | `unknowns` | what could not be told, and whether it matters |
//! | `effort` | how much work all of this may do |
//! | `unread` | rules that were not read, and what follows |
//! | `order` | which chains a hook calls, in which orders |
//! | `walk`, `chain`, `split` | the way through hooks, through chains; what a test leaves of a packet |
//! | `nat_core` | when nat chains are called, and which |
//! | `nat` | what a translation makes of a packet |
//! | `source_nat` | which source-NAT rules new connections get to |
//! | `services` | destinations that are translated, and what goes wrong with that |
//! | `facts` | what surrounds a tunnel: who sends into it, which way its own packets go |
//! | `inner`, `tunnel` | marks of what gets into a tunnel; whether a rule changes the packets that it sends |

mod chain;
mod effort;
mod facts;
mod inner;
mod nat;
mod nat_core;
mod order;
mod packet;
mod services;
mod source_nat;
mod split;
mod tunnel;
mod unknowns;
mod unread;
mod values;
mod walk;
mod world;

pub use effort::{Effort, Ended};
pub use facts::{TunnelFacts, Way, facts};
pub use services::{destination_nat, dns_to_several, invalid_passes};
pub use source_nat::{Reached, ReachedRules, reached};
pub use tunnel::{OuterPackets, outer_packets};
pub use walk::Certainty;
pub use world::{Found, RuleAt, World};

#[cfg(test)]
mod tests;
