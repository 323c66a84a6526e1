//! Scenario: which source-NAT rules new connections reach, and which of them let connections compete for a port.

use std::collections::BTreeSet;

use super::collisions::{Collision, collisions};
use super::devices::loopback;
use super::senders;
use crate::facts::netfilter::{Backend, Family, Hook, Nat, NatAction};
use crate::symbolic::effort::Effort;
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::{Hits, OnNat, Walk};
use crate::symbolic::network::{Hit, Network, RuleAt};
use crate::symbolic::packets::state;
use crate::symbolic::space::{NOTHING, PacketSet};

/// A source-NAT rule that connections reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReachedSourceNat {
    /// Location, for reports.
    pub place: String,
    /// Backend and location; `None`: a chain of an unread list.
    pub at: Option<(Backend, RuleAt)>,
    /// The NAT statement; `None`: unsupported or unread.
    pub nat: Option<Nat>,
    /// Whether two connections reach it, or it and another rule, that can get the same address and port.
    pub happens: Happens,
}

/// ReachedSourceNat rules that let connections compete for a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReachedSourceNats {
    /// Ordered by backend, table, chain.
    pub rules: Vec<ReachedSourceNat>,
    /// Rules that give each source its own address, but fewer ports than it may have connections; in the same order.
    pub few_ports: Vec<ReachedSourceNat>,
    /// Location of a rule that connections reach without competing, since each source has its own address.
    pub one_to_one: Option<String>,
    /// Why there may be more; `None`: these are all.
    pub gave_up: Option<String>,
}

impl OnNat for Hits {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, _: PacketSet) -> PacketSet {
        NOTHING
    }

    fn translated(&mut self, walk: &mut Walk<'_>, _: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        self.add(&walk.space, hit.clone(), packets);
        NOTHING
    }
}

/// Rules that new connections of any protocol, forwarded or of this host, may reach, and that can make two of them
/// compete.
pub(crate) fn reached(network: &Network<'_>, effort: &Effort<'_>) -> ReachedSourceNats {
    let (found, is_all) = reached_by(network, effort, true);
    if is_all { found } else { reached_by(network, effort, false).0 }
}

/// The same for forwarded packets of a few devices, or of all; also whether all would give the same result.
fn reached_by(network: &Network<'_>, effort: &Effort<'_>, few: bool) -> (ReachedSourceNats, bool) {
    let mut walk = Walk::of_connections(network, loopback().as_slice(), effort);
    let (mut rules, mut few_ports, mut one_to_one): (Vec<ReachedSourceNat>, Vec<ReachedSourceNat>, Option<String>) =
        Default::default();
    let mut is_all = true;
    for family in Family::IP {
        walk.sampled = few.then(BTreeSet::new);
        let mut hits = senders::senders(&mut walk, family);
        hits.0.retain(|hit, _| walk.nat(hit).is_none_or(translates_source));
        // Expected connections do not compete.
        let new = walk.in_state(&[state::NEW]);
        hits.0.values_mut().for_each(|packets| *packets = walk.space.and(*packets, new));
        hits.0.retain(|_, packets| !packets.is_empty());
        let found = collisions(&mut walk, family, hits);
        is_all &= walk.sampled.iter().flatten().all(|hit| {
            let is_one = walk.nat(hit).is_some_and(|nat| nat.map.is_none());
            is_one && found.iter().any(|of| of.hit == *hit && of.happens == Happens::Must && !of.alone)
        });
        for Collision { hit, happens, alone } in found {
            let place = walk.place(&hit);
            if alone || happens == Happens::Never {
                one_to_one.get_or_insert_with(|| place.clone());
            }
            if happens == Happens::Never {
                continue;
            }
            let nat = walk.nat(&hit).cloned();
            let at = hit.rule().map(|at| (network.backend(&at), at));
            let rules = if alone { &mut few_ports } else { &mut rules };
            // A rule reached in both families.
            match rules.iter_mut().find(|known| known.at == at && known.place == place) {
                Some(known) if known.happens == Happens::Must => {}
                Some(known) => known.happens = happens,
                None => rules.push(ReachedSourceNat { place, at, nat, happens }),
            }
        }
    }
    few_ports.sort_by(|one, other| order(one).cmp(&order(other)));
    rules.sort_by(|one, other| order(one).cmp(&order(other)));
    (ReachedSourceNats { rules, few_ports, one_to_one, gave_up: walk.why_incomplete() }, is_all)
}

fn order(rule: &ReachedSourceNat) -> (bool, Option<&RuleAt>, &str) {
    let at = rule.at.as_ref().map(|(_, at)| at);
    (at.is_none(), at, &rule.place)
}

/// Whether a statement translates the source.
pub(crate) fn translates_source(nat: &Nat) -> bool {
    matches!(nat.action, NatAction::Masquerade | NatAction::Snat | NatAction::Netmap)
}
