//! Symbolic execution of netfilter: sets of packets run through the hooks as in the kernel, along all paths that a real
//! packet could take. Pure. To be read next to `nf_hook_entries_grow`, `nft_do_chain`, `ipt_do_table` and
//! `nf_nat_core.c`. `judge` calls `scenarios`, which run packets through the `machine`.
//!
//! | file | contents |
//! |---|---|
//! | `space` | sets of packets: binary decision diagrams |
//! | `assumptions` | open questions: must, may, never |
//! | `happens` | whether something happens: must, never, or depends on a question |
//! | `packets` | variables of packet fields |
//! | `network::survey` | what rules distinguish packets by; nothing else is followed |
//! | `network::slice` | which chains can influence marks |
//! | `values` | sets of numbers: addresses, ports, device names |
//! | `effort` | work budget |
//! | `network` | inputs: rules of all backends, links, addresses |
//! | `network::host` | devices and addresses of this host |
//! | `kept` | inputs of an earlier walk, to check whether its results are still valid |
//! | `network::unread` | unread rules, and what follows |
//! | `network::translations` | destinations that connections may have instead of their packets' |
//! | `order` | which chains a hook calls, in which orders |
//! | `machine` | hooks, chains, rules, matches, sets, writes, the NAT core |
//! | `past` | routes by which a mark may lead past a tunnel |
//! | `facts` | facts about a tunnel: which packets enter it, and paths of its outer packets |
//! | `scenarios` | which packets run through the rules: of tunnels, of Services, of new connections |

mod assumptions;
mod effort;
mod facts;
mod happens;
mod kept;
mod machine;
mod network;
mod order;
mod packets;
mod past;
mod scenarios;
mod space;
mod values;

pub(crate) use effort::{Effort, Ended};
pub(crate) use facts::{TunnelFacts, facts};
pub(crate) use happens::Happens;
pub(crate) use kept::NetworkSnapshot;
pub(crate) use network::{Network, Occurrence, RuleAt};
pub(crate) use scenarios::bypass::{Bypass, bypass};
pub(crate) use scenarios::replies::{SourceNatReplies, source_nat_replies};
pub(crate) use scenarios::services::dns_to_several;
pub(crate) use scenarios::source_nat::{ReachedSourceNat, ReachedSourceNats, reached};
pub(crate) use scenarios::stale::{TranslationStatus, UdpTargets, udp_targets};
pub(crate) use scenarios::tunnel::{OtherMarks, OuterPackets, outer_packets};

#[cfg(test)]
mod tests;
