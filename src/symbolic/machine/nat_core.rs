//! The NAT core: `nf_nat_inet_fn`, which calls a hook's nat chains for the first packet of each connection.
//!
//! nat chains do not run unless connections are tracked. The kernel enables that for the first rule that needs it, in
//! any chain, so if no traversed rule does, the others are searched, including those of dormant tables.

use super::hooks::Pass;
use super::{Ends, Flow, Hits, OnNat, PacketKind, Walk};
use crate::facts::netfilter::{ChainId, Field, Hook};
use crate::symbolic::assumptions::About;
use crate::symbolic::network::unread::BaseChainList;
use crate::symbolic::network::{Hit, RuleAt};
use crate::symbolic::order;
use crate::symbolic::packets::state;
use crate::symbolic::space::{NOTHING, PacketSet};

impl Walk<'_> {
    /// `nf_nat_inet_fn`: runs the nat chains in order, until one translates.
    pub(crate) fn nat_core(&mut self, hook: Hook, flow: Flow, packets: PacketSet, on_nat: &mut dyn OnNat) -> PacketSet {
        if packets.is_empty() || self.is_over() {
            return NOTHING;
        }
        let no_connection = self.in_state(&[state::INVALID, state::UNTRACKED]);
        let (seen, others) = match flow {
            Flow::First => (self.space.minus(packets, no_connection), self.space.and(packets, no_connection)),
            Flow::Later | Flow::Invalid => (NOTHING, packets),
        };
        let steps = order::nat_chains(self.network, self.packets.family, hook);
        let mut pass = Pass { hook, flow, on_nat: None, translated: Hits::default() };
        let left = self.in_every_order(&mut pass, steps, seen);
        let left = self.space.or(left, others);
        let mut passed = if left.is_empty() || self.is_over() { NOTHING } else { on_nat.untouched(self, hook, left) };
        for (hit, packets) in pass.translated.0 {
            if self.is_over() {
                return NOTHING;
            }
            if !packets.is_empty() {
                let found = on_nat.translated(self, hook, &hit, packets);
                passed = self.space.or(passed, found);
            }
        }
        passed
    }

    /// Runs a nat chain, read or only searched.
    pub(super) fn nat_chain(&mut self, set: usize, id: &ChainId, packets: PacketSet) -> Ends {
        match self.network.chain(set, id) {
            Some(chain) if chain.only_searched() && self.rules(chain, packets).is_none() => {
                self.through_services(&RuleAt { set, chain: id.clone(), position: 0 }, packets)
            }
            _ => self.base_chain(set, id, packets),
        }
    }

    /// nat chains that were only searched, which have Services: packets may get the marks that rules in there write,
    /// and their destination may be translated.
    fn through_services(&mut self, at: &RuleAt, packets: PacketSet) -> Ends {
        let hit = Hit::Rule(at.clone(), 0);
        if self.packets.past_services && self.network.only_services_mark(at.set) {
            return Ends { returned: packets, ..Ends::default() };
        }
        if self.packets.kind == PacketKind::Tunnel {
            return self.anything(&hit, "the chains of Services are too large to be read whole", packets);
        }
        let found = self.network.searched_bits(at.set);
        let mut ends = Ends::default();
        let mut cases = vec![(packets, found)];
        if let Some((bits, why)) = self.network.doubtful_bits() {
            let assumed = self.answer(format!("doubtful bits {why}"), About::All, 2, 1, || why);
            cases.push((self.space.and(packets, assumed), found | bits));
        }
        for (packets, bits) in cases {
            let passing = [Field::Mark, Field::ConnectionMark]
                .iter()
                .fold(packets, |packets, field| self.with_any_mark(packets, field, bits));
            let passing = self.translated_or_not(passing);
            let (_, destination) = self.packets.ends();
            let translated = self.forget(passing, &[destination, Field::DestinationPort]);
            ends.returned = self.space.or(ends.returned, passing);
            ends.translated.add(&self.space, hit.clone(), translated);
        }
        ends
    }

    /// An unread list of base chains: any number of chains with any effect.
    pub(super) fn unread_list(&mut self, list: BaseChainList, packets: PacketSet) -> Ends {
        let why = format!("not read: {}", self.network.list(list).why());
        self.anything(&Hit::Unread(list), &why, packets)
    }
}
