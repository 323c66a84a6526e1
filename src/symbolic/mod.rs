//! What the kernel would do with packets: sets of them walk through the hooks, and every way that a real one could take is
//! taken. Pure; to be read beside `nf_hook_entries_grow`, `nft_do_chain`, `ipt_do_table` and `nf_nat_core.c`.
//!
//! | file | holds |
//! |---|---|
//! | `space` | sets of packets: binary decision diagrams |
//! | `assumptions` | what cannot be told: must, may, never |
//! | `certainty` | whether something happens: it does, it does not, or it depends on such |
//! | `packets` | which variables are which field of a packet |
//! | `network::survey` | what rules tell packets apart by: nothing else is followed |
//! | `network::slice` | which chains can decide about marks at all |
//! | `values` | numbers that a field of the node's can hold |
//! | `effort` | how much work all of this may do |
//! | `network` | rules of all backends, links, addresses |
//! | `network::host` | devices and addresses of this host |
//! | `kept` | a network that is kept, to be held against a later one |
//! | `network::unread` | rules that were not read, and what follows |
//! | `network::translations` | which destinations connections can have in place of their packets' |
//! | `order` | which chains a hook calls, in which orders |
//! | `machine` | hooks, chains, rules, matches, sets, writes, the NAT core |
//! | `past` | routes that a mark may lead past a tunnel |
//! | `facts` | what surrounds a tunnel: who sends into it, which way its own packets go |
//! | `scenarios` | which packets are sent through it: those of tunnels, of Services, new connections, and which of these compete |

mod assumptions;
mod certainty;
mod effort;
mod facts;
mod kept;
mod machine;
mod network;
mod order;
mod packets;
mod past;
mod scenarios;
mod space;
mod values;

pub(crate) use certainty::Certainty;
pub(crate) use effort::{Effort, Ended};
pub(crate) use facts::{TunnelFacts, facts};
pub(crate) use kept::Kept;
pub(crate) use network::{Network, Occurrence, RuleAt};
pub(crate) use scenarios::answers::{SourceNatReplies, answers};
pub(crate) use scenarios::bypass::{Bypass, bypass};
pub(crate) use scenarios::services::dns_to_several;
pub(crate) use scenarios::source_nat::{Reached, ReachedRules, reached};
pub(crate) use scenarios::stale::{Given, UdpTargets, udp_targets};
pub(crate) use scenarios::tunnel::{OtherMarks, OuterPackets, outer_packets};

#[cfg(test)]
mod tests;
