//! The NAT core: `nf_nat_inet_fn`, which calls the nat chains of a hook for the first packet of each connection.

use std::collections::BTreeSet;

use super::order::{self, Call};
use super::packet::{Kind, Packet, merge, state};
use super::unread::List;
use super::values::Values;
use super::walk::{End, Flow, Hit, Passed, Walk};
use super::world::RuleAt;
use crate::snapshot::netfilter::{Chain, ChainId, Field, Hook};

impl Walk<'_> {
    /// `nf_nat_inet_fn`: the nat chains in turn, until one translates.
    pub(super) fn nat_core(
        &mut self,
        hook: Hook,
        flow: Flow,
        packets: Vec<Packet>,
        settle: &mut dyn FnMut(&mut Self, Passed) -> Vec<Packet>,
    ) -> Vec<Packet> {
        let Some(family) = packets.first().map(|packet| packet.family) else { return packets };
        if self.is_over() {
            return Vec::new();
        }
        let no_connection = Values::of(&[state::INVALID, state::UNTRACKED]);
        let (mut seen, mut passed) = (Vec::new(), Vec::new());
        for packet in packets {
            let states = packet.get(&Field::ConnectionState);
            let (tracked, others) = match flow {
                Flow::First => (states.without(&no_connection), states.and(&no_connection)),
                Flow::Later | Flow::Invalid => (Values::of(&[]), states),
            };
            for (states, packets) in [(tracked, &mut seen), (others, &mut passed)] {
                if states == packet.get(&Field::ConnectionState) {
                    packets.push(packet.clone());
                } else if !states.is_empty() {
                    packets.push(packet.clone().with(Field::ConnectionState, states));
                }
            }
        }
        let steps = order::nat_chains(self.world, family, hook);
        let mut translated = Vec::new();
        let left = self.in_every_order(hook, steps, seen, &mut |walk, call, packets| {
            let ends = match call {
                Call::Chain(set, id) if walk.was_searched(*set, id, &packets) => {
                    let at = RuleAt { set: *set, chain: id.clone(), position: 0 };
                    packets.into_iter().flat_map(|packet| walk.through_services(&at, packet)).collect()
                }
                Call::Chain(set, id) => walk.base_chain(*set, id, packets),
                Call::Unread(list) => walk.unread_list(*list, packets),
                Call::Conntrack | Call::Nat => return packets,
            };
            let mut left = Vec::new();
            for (end, packet) in ends {
                match end {
                    End::Translated(hit) => translated.push(Passed { packet, hit: Some(hit) }),
                    _ => left.push(packet),
                }
            }
            left
        });
        let passed_by: Vec<Packet> = std::mem::take(&mut passed);
        for packet in passed_by.into_iter().chain(left) {
            self.spend(packet.weight());
            if self.effort.was_stopped() {
                return Vec::new();
            }
            passed.extend(settle(self, Passed { packet, hit: None }));
        }
        let mut hits = BTreeSet::new();
        for hit in translated {
            // What was seen counts, also when the budget is used up; only a stop does not wait for it.
            self.spend(8 * hit.packet.weight());
            if self.effort.was_stopped() {
                return Vec::new();
            }
            hits.insert(hit);
        }
        for hit in hits {
            passed.extend(settle(self, hit));
        }
        merge(passed, self.effort)
    }

    pub(super) fn is_unread(&self, set: usize, id: &ChainId, packets: &[Packet]) -> bool {
        let udp = packets.iter().all(Packet::is_udp);
        let read = |chain: &Chain| chain.rules.ok().is_some() || udp && chain.udp_rules.is_some();
        !self.world.chain(set, id).is_some_and(read)
    }

    /// The same because it was only searched.
    fn was_searched(&self, set: usize, id: &ChainId, packets: &[Packet]) -> bool {
        self.is_unread(set, id, packets) && self.world.chain(set, id).is_some_and(Chain::only_searched)
    }

    /// The nat chains of Services were only searched for rules that set a mark: one of those may have, and the destination
    /// may have been translated.
    fn through_services(&mut self, at: &RuleAt, packet: Packet) -> Vec<(End, Packet)> {
        let hit = Hit::Rule(at.clone(), 0);
        if packet.kind == Kind::Tunnel {
            return self.anything(&hit, "the chains of Services are too large to be read whole", vec![packet]);
        }
        let mut ends = Vec::new();
        let found = self.world.searched_bits(at.set);
        let mut passing = |mut packet: Packet, bits: u32| {
            for mark in [Field::Mark, Field::ConnectionMark] {
                let freed = packet.get(&mark).with_free_bits(bits);
                packet.set(mark, freed);
            }
            packet.forget(&Field::ConnectionStatus);
            let mut translated = packet.clone();
            let (_, destination) = packet.ends();
            translated.forget(&destination);
            translated.forget(&Field::DestinationPort);
            ends.extend([(End::Return, packet), (End::Translated(hit.clone()), translated)]);
        };
        passing(packet.clone(), found);
        if let Some((bits, why)) = self.world.doubtful_bits() {
            let question = self.unknowns.ask(format!("doubtful bits {why}"), 2, || why);
            let mut doubtful = packet;
            if doubtful.guess(question, 1) {
                passing(doubtful, found | bits);
            }
        }
        ends
    }

    /// A list of base chains that was not read: any number of chains, which may do anything.
    pub(super) fn unread_list(&mut self, list: List, packets: Vec<Packet>) -> Vec<(End, Packet)> {
        let why = format!("not read: {}", self.world.list(list).why());
        self.anything(&Hit::Unread(list), &why, packets)
    }
}
