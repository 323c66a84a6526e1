//! Packets through one hook, in every possible order of its chains: `nf_hook_slow`, `nf_conntrack_in`.
//!
//! The calls of a hook come from `order`; chains are evaluated by `chain`, the NAT core by `nat_core`. Scenarios call
//! [`Walk::hook`] for each hook on a packet's path.

use super::{Ends, Flow, Hits, OnNat, Walk};
use crate::facts::netfilter::{ChainId, Field, Hook};
use crate::symbolic::assumptions::About;
use crate::symbolic::happens::Happens;
use crate::symbolic::order::{self, Call};
use crate::symbolic::packets::{PacketKind, state};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// State of the packets in one hook.
pub(super) struct Pass<'p> {
    /// The hook.
    pub(super) hook: Hook,
    /// Position of the packets in their connection.
    pub(super) flow: Flow,
    /// Handler of NAT results; `None`: inside the NAT core, which calls the nat chains.
    pub(super) on_nat: Option<&'p mut dyn OnNat>,
    /// Packets translated so far, by rule.
    pub(super) translated: Hits,
}

impl Walk<'_> {
    /// Runs a hook; returns the packets that leave it.
    pub(crate) fn hook(
        &mut self,
        hook: Hook,
        device: Option<&str>,
        flow: Flow,
        packets: PacketSet,
        on_nat: &mut dyn OnNat,
    ) -> PacketSet {
        if packets.is_empty() || self.is_over() {
            return NOTHING;
        }
        // Fields that hashes depend on may be rewritten between hooks.
        let mut numbers = self.layout.numbers(self.outer);
        numbers.retain(|number| self.packets.knows(number)); // an unknown one is a new variable at each stage
        let packets = if numbers.is_empty() { packets } else { self.forget(packets, &numbers) };
        let steps = order::calls(self.network, self.packets.family, hook, device);
        let mut pass = Pass { hook, flow, on_nat: Some(on_nat), translated: Hits::default() };
        self.in_every_order(&mut pass, steps, packets)
    }

    /// Runs one call of a hook.
    fn call(&mut self, pass: &mut Pass<'_>, call: &Call, packets: PacketSet) -> PacketSet {
        if packets.is_empty() || self.is_over() {
            return NOTHING;
        }
        match (call, pass.on_nat.as_mut()) {
            (Call::Conntrack, _) => self.conntrack(pass.flow, packets),
            (Call::Nat, Some(on_nat)) => self.nat_core(pass.hook, pass.flow, packets, *on_nat),
            (Call::Nat, None) => packets,
            (Call::Chain(set, id), None) => {
                let ends = self.nat_chain(*set, id, packets);
                self.passing(pass, ends)
            }
            (Call::Chain(set, id), Some(_)) if pass.hook == Hook::Output && self.network.reroutes(*set, id) => {
                self.rerouting_chain(pass, *set, id, packets)
            }
            (Call::Chain(set, id), Some(_)) => {
                let ends = self.base_chain(*set, id, packets);
                self.rewritten_by_chain(pass, ends)
            }
            (Call::Unread(list), None) => {
                let ends = self.unread_list(*list, packets);
                self.passing(pass, ends)
            }
            (Call::Unread(list), Some(_)) => {
                let ends = self.unread_list(*list, packets);
                let passing = self.rewritten_by_chain(pass, ends);
                // A chain may cause re-routing.
                if pass.hook != Hook::Output {
                    return passing;
                }
                self.flagged(passing, self.layout.rerouted)
            }
        }
    }

    /// Packets after a chain other than nat. It may rewrite packets itself; a NAT statement there is unsupported or
    /// unread.
    fn rewritten_by_chain(&mut self, pass: &mut Pass<'_>, ends: Ends) -> PacketSet {
        let mut left = self.space.or(ends.returned, ends.accepted);
        for (hit, packets) in ends.translated.0 {
            let found = match &mut pass.on_nat {
                Some(on_nat) if self.packets.kind == PacketKind::Tunnel => {
                    on_nat.translated(self, pass.hook, &hit, packets)
                }
                _ => packets,
            };
            left = self.space.or(left, found);
        }
        left
    }

    /// Packets after a nat chain; records those it translates.
    fn passing(&mut self, pass: &mut Pass<'_>, ends: Ends) -> PacketSet {
        for (hit, packets) in ends.translated.0 {
            pass.translated.add(&self.space, hit, packets);
        }
        self.space.or(ends.returned, ends.accepted)
    }

    /// Runs calls by priority, and those of equal priority in every possible order.
    pub(super) fn in_every_order(
        &mut self,
        pass: &mut Pass<'_>,
        steps: Vec<order::PriorityCalls>,
        mut packets: PacketSet,
    ) -> PacketSet {
        for order::PriorityCalls { priority, calls } in steps {
            if packets.is_empty() || self.is_over() {
                return NOTHING;
            }
            let calls: Vec<Call> = calls.into_iter().filter(|call| !self.is_left_out(call)).collect();
            let independent = calls.iter().all(|call| match call {
                Call::Chain(set, id) => {
                    !(self.network.writes(*set, id) || self.follows_timeouts && self.network.sets_timeouts(*set, id))
                }
                Call::Conntrack | Call::Nat | Call::Unread(_) => false,
            });
            packets = match calls.as_slice() {
                [] => packets,
                [call] => self.call(pass, call, packets),
                calls if independent => self.in_any_order(pass, priority, calls, packets),
                calls => self.permuted(pass, priority, calls, packets),
            };
        }
        packets
    }

    /// Packets under each answer to the question in which order calls run.
    fn orders(&mut self, hook: Hook, priority: i32, calls: &[&Call], orders: usize) -> Vec<PacketSet> {
        let names: Vec<String> = calls.iter().map(|call| order::name(self.network, call)).collect();
        let why = format!(
            "{} have priority {priority} in {hook}, and the one that was created last is first",
            names.join(" and ")
        );
        let key = format!("order {} {why}", self.packets.family);
        let question = self.assumptions.ask(&self.space, key, About::All, orders, || why);
        (0..orders).map(|order| self.assumptions.answer(&self.space, question, order)).collect()
    }

    /// Calls of which one writes what another one tests: runs them in each order.
    fn permuted(&mut self, pass: &mut Pass<'_>, priority: i32, calls: &[Call], packets: PacketSet) -> PacketSet {
        let orders = order::orders(calls.len());
        if !order::is_permuted(calls.len()) {
            let why = format!(
                "{} chains have priority {priority} in {}, in more orders than are tried",
                calls.len(),
                pass.hook
            );
            self.gave_up.get_or_insert(why);
        }
        let mut left = NOTHING;
        let each = self.orders(pass.hook, priority, &calls.iter().collect::<Vec<_>>(), orders);
        for (number, assumed) in each.into_iter().enumerate() {
            let mine = self.space.and(packets, assumed);
            let mine =
                order::order(calls, number).into_iter().fold(mine, |packets, call| self.call(pass, call, packets));
            left = self.space.or(left, mine);
        }
        left
    }

    /// Calls of which none writes what another one tests: each has the same effect in any position, on the packets that
    /// reach it.
    fn in_any_order(&mut self, pass: &mut Pass<'_>, priority: i32, calls: &[Call], packets: PacketSet) -> PacketSet {
        let mut each = Vec::new();
        for call in calls {
            let mut alone = Pass { hook: pass.hook, flow: pass.flow, on_nat: None, translated: Hits::default() };
            let passing = match pass.on_nat {
                None => self.call(&mut alone, call, packets),
                Some(_) => {
                    let Call::Chain(set, id) = call else { continue };
                    let ends = self.base_chain(*set, id, packets);
                    self.space.or(ends.returned, ends.accepted)
                }
            };
            let hits = self.space.any(alone.translated.0.values().copied());
            let met = self.space.or(hits, self.space.minus(packets, passing));
            if !met.is_empty() {
                each.push((call, passing, alone.translated, met));
            }
        }
        if self.is_over() {
            return NOTHING;
        }
        let (mut all, mut overlap) = (NOTHING, false);
        for (.., met) in &each {
            overlap |= !self.space.and(all, *met).is_empty();
            all = self.space.or(all, *met);
        }
        let matters = overlap && each.iter().any(|(_, _, translated, _)| !translated.0.is_empty());
        // For each packet only the first call that drops or translates it matters; it may be any.
        let assumed: Vec<PacketSet> = match matters {
            true => {
                let names: Vec<&Call> = each.iter().map(|(call, ..)| *call).collect();
                self.orders(pass.hook, priority, &names, each.len())
            }
            false => vec![],
        };
        // Packets that reach a call: all if it is first; else those that the first one and those before it let pass.
        let mut later = vec![NOTHING; each.len()];
        for at in (1..assumed.len()).rev() {
            let passed = self.space.and(assumed[at], each[at].1);
            later[at - 1] = self.space.or(later[at], passed);
        }
        let (mut left, mut earlier) = (packets, NOTHING);
        for (at, (_, passing, translated, _)) in each.into_iter().enumerate() {
            let mut getting = left;
            if let Some(assumed) = assumed.get(at) {
                let others = self.space.and(left, self.space.or(earlier, later[at]));
                getting = self.space.or(others, self.space.and(packets, *assumed));
                earlier = self.space.or(earlier, *assumed);
            }
            for (hit, packets) in translated.0 {
                pass.translated.add(&self.space, hit, self.space.and(packets, getting));
            }
            left = self.space.and(left, passing);
        }
        left
    }

    /// Whether a chain can be skipped because it writes no mark that is followed.
    fn is_left_out(&self, call: &Call) -> bool {
        match call {
            Call::Chain(set, id) if self.sliced => !self.network.writes_marks(*set, id, self.relevant),
            _ => false,
        }
    }

    /// `nf_conntrack_in`
    fn conntrack(&mut self, flow: Flow, packets: PacketSet) -> PacketSet {
        let untracked = self.in_state(&[state::UNTRACKED]);
        let (kept, open) = (self.space.and(packets, untracked), self.space.minus(packets, untracked));
        let tracked = match self.tracks(self.packets.family) {
            Happens::Must => EVERYTHING,
            Happens::Never => NOTHING,
            Happens::May(why) => self.if_tracked(self.packets.family, &why),
        };
        let states: &[u128] = match (flow, self.packets.kind) {
            // An unanswered flow is still new when its second packet arrives.
            (Flow::Invalid, _) => &[state::INVALID],
            (Flow::Later, _) => &[state::ESTABLISHED, state::RELATED, state::NEW],
            (Flow::First, PacketKind::Traffic) => &[state::NEW, state::RELATED],
            (Flow::First, PacketKind::Tunnel) => &[state::NEW],
        };
        let seen = self.space.and(open, tracked);
        let seen = self.forget(seen, &[Field::ConnectionState]);
        let key = format!("{} state {flow:?}", self.stage);
        let mut with_state = NOTHING;
        for (number, state) in states.iter().enumerate() {
            let mine = self.answer(key.clone(), About::SomePacket, states.len(), number, String::new);
            let in_state = self.in_state(&[*state]);
            let mine = self.space.and(mine, in_state);
            with_state = self.space.or(with_state, mine);
        }
        let seen = self.space.and(seen, with_state);
        self.space.any([kept, self.space.minus(open, tracked), seen])
    }

    /// `ipt_mangle_out`, `nf_route_table_hook4`: packets with a changed mark are re-routed.
    fn rerouting_chain(&mut self, pass: &mut Pass<'_>, set: usize, id: &ChainId, packets: PacketSet) -> PacketSet {
        let (mark, before) = (self.block(&Field::Mark), self.layout.mark_before.clone());
        let packets = self.equal_bits(packets, &before, &mark, u32::MAX);
        let ends = self.base_chain(set, id, packets);
        let passing = self.rewritten_by_chain(pass, ends);
        let kept = self.equal_bits(passing, &before, &mark, u32::MAX);
        let changed = self.flagged(self.space.minus(passing, kept), self.layout.rerouted);
        let changed = match &mut pass.on_nat {
            Some(on_nat) => on_nat.routed_again(self, changed),
            None => changed,
        };
        let all = self.space.or(kept, changed);
        self.space.exists(all, &before.0.into_iter().collect())
    }
}
