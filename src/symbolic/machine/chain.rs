//! Packets through a chain and those it jumps to: `nft_do_chain`, `ipt_do_table`.
//!
//! Called by `hooks` for base chains. Each rule, or run of rules with the same effect (`runs`), divides the packets
//! into those it matches (`matches`, `sets`) and others; its steps are applied to the former, and the next rule gets
//! what goes on of both. Packets that leave are collected in [`Ends`].

use std::collections::BTreeSet;

use super::runs::{RunOfRules, is_of_fields};
use super::verdict_map::VerdictMap;
use super::{Ends, Hits, PacketKind, StepPlace, Walk};
use crate::facts::netfilter::{Chain, ChainId, Field, Match, Rule, Step, Verdict};
use crate::symbolic::assumptions::About;
use crate::symbolic::network::{Hit, RuleAt};
use crate::symbolic::packets::state;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// `NFT_JUMP_STACK_SIZE` is 16; x_tables allows as many jumps as there are chains.
const MAX_DEPTH: usize = 128;
/// Number of nodes made in a chain before unused ones are freed. Together with their hash table they fit into a CPU
/// cache.
const MAX_GARBAGE: usize = 1 << 16;

impl Walk<'_> {
    /// `nft_do_chain`
    pub(super) fn chain(&mut self, set: usize, id: &ChainId, packets: PacketSet, depth: usize) -> Ends {
        let chain = self.network.chain(set, id);
        let rules = match chain.and_then(|chain| self.rules(chain, packets)) {
            Some(rules) if depth < MAX_DEPTH => rules,
            other => {
                let why = match (other, chain) {
                    (Some(_), _) => format!("chain {} is called from {MAX_DEPTH} others", id.chain),
                    (None, Some(unread)) => unread.rules.why().to_owned(),
                    (None, None) => format!("chain {} was not read", id.chain),
                };
                let hit = Hit::Rule(RuleAt { set, chain: id.clone(), position: 0 }, 0);
                return self.anything(&hit, &why, packets);
            }
        };
        let mut ends = Ends::default();
        let (mut live, mut rest) = (packets, rules);
        // Number of rules known not to form a run.
        let mut single = 0;
        let before = self.space.mark();
        // Freeing nodes rehashes all others, so it has to be worth it.
        let least = MAX_GARBAGE.max(before.nodes() / 2);
        let mut most = least;
        while let [rule, others @ ..] = rest {
            if live.is_empty() {
                break;
            }
            if self.is_over() {
                return Ends::default(); // work has ended: the rest of the chain is not seen
            }
            if self.space.made_since(before) > most {
                let sets = [&mut live, &mut ends.returned, &mut ends.accepted, &mut self.refused].into_iter();
                let sets = sets.chain(ends.translated.0.values_mut());
                let sets = sets.chain(self.elements.values_mut()).chain(self.runs.values_mut());
                self.space.forget_others(before, sets.collect());
                // If that many nodes are in use, do not search after each rule.
                most = least.max(2 * self.space.made_since(before));
            }
            if single == 0 {
                let (run, together) = self.same_effect(set, id, rest);
                let left =
                    if together { self.run(&RunOfRules { set, id, rules: run, depth }, live, &mut ends) } else { None };
                if let Some(left) = left {
                    live = left;
                    rest = &rest[run.len()..];
                    continue;
                }
                single = run.len();
            }
            let at = RuleAt { set, chain: id.clone(), position: rule.position };
            live = self.rule(&at, rule, live, &mut ends, depth);
            (rest, single) = (others, single.saturating_sub(1));
        }
        if self.is_over() {
            return Ends::default();
        }
        ends.returned = self.space.or(ends.returned, live);
        ends
    }

    /// The rules that these packets traverse; `None`: not read. For some chains only rules for UDP were read.
    pub(super) fn rules<'r>(&mut self, chain: &'r Chain, packets: PacketSet) -> Option<&'r [Rule]> {
        let udp = self.with(&Field::L4Proto, &[(17, 17)]);
        match self.space.minus(packets, udp).is_empty() {
            true => chain.rules_for_udp(),
            false => chain.rules.ok().map(|rules| rules.as_slice()),
        }
    }

    /// Evaluates one rule; returns the packets that go on with the next one.
    fn rule(&mut self, at: &RuleAt, rule: &Rule, packets: PacketSet, ends: &mut Ends, depth: usize) -> PacketSet {
        let Some(last) = rule.steps.iter().rposition(|step| self.acts(step)) else {
            return packets; // only counts or logs
        };
        if self.has_been_written(rule, packets) {
            return packets;
        }
        let (mut next, mut current) = (NOTHING, packets);
        // Combine tests of fields before applying them to the packets, which are a larger diagram.
        let mut tested = EVERYTHING;
        for (number, step) in rule.steps.iter().enumerate().take(last + 1) {
            if self.is_over() {
                return NOTHING; // work has ended: the rest of the rule is not seen
            }
            let place = StepPlace { at, number, depth };
            if let Step::Match(Match::Set { fields, .. }) = step
                && fields.iter().any(Field::is_drawn)
            {
                current = self.forget(current, fields);
            }
            if let Step::Match(found) = step
                && is_of_fields(found)
            {
                let Some(holds) = self.condition(&place, found, current) else { return packets };
                tested = self.space.and(tested, holds);
                continue;
            }
            if tested != EVERYTHING {
                next = self.space.or(next, self.space.minus(current, tested));
                current = self.space.and(current, std::mem::replace(&mut tested, EVERYTHING));
                if current.is_empty() {
                    break;
                }
            }
            current = self.step_taken(&place, step, current, &mut next, ends);
            if current.is_empty() {
                break;
            }
        }
        self.space.or(next, current)
    }

    /// Evaluates one step; returns the packets for which the rule goes on. Packets that go on with the next rule are
    /// added to `next`.
    fn step_taken(
        &mut self,
        place: &StepPlace<'_>,
        step: &Step,
        packets: PacketSet,
        next: &mut PacketSet,
        ends: &mut Ends,
    ) -> PacketSet {
        match step {
            Step::Match(found) => self.matching(place, found, packets, next),
            Step::SetMark(write) if write.copies() != 0 => {
                let with = self.with_connection(packets);
                *next = self.space.or(*next, self.space.minus(packets, with));
                self.write(place, with, write, &Field::Mark, &Field::ConnectionMark)
            }
            Step::SetMark(write) => self.write(place, packets, write, &Field::Mark, &Field::ConnectionMark),
            Step::SetConnectionMark(write) => self.write(place, packets, write, &Field::ConnectionMark, &Field::Mark),
            Step::Notrack => self.untracked(packets),
            Step::Nat(_) => {
                ends.translated.add(&self.space, Hit::Rule(place.at.clone(), place.number), packets);
                NOTHING
            }
            Step::Verdict(verdict) => self.verdict(place, verdict, packets, next, ends),
            Step::Template => self.flagged(packets, self.layout.template),
            Step::FillChecksum => self.flagged(packets, self.layout.filled),
            Step::ToSocket if self.packets.forwarded => NOTHING,
            Step::ToSocket => packets,
            Step::OwnTimeout => {
                self.timing.insert(place.at.clone());
                self.flagged(packets, self.layout.own_timeout)
            }
            Step::Rewrite { field, value } => self.rewritten(place, field, *value, packets, ends),
            Step::UpdateSet { set, adds, key } => self.update_set(place, set, *adds, key, packets),
            Step::NoEffect(_) => packets,
            Step::Unsupported { what, .. } => {
                let found = self.anything(&Hit::Rule(place.at.clone(), place.number), what, packets);
                self.join(ends, Ends { returned: NOTHING, ..found });
                found.returned
            }
        }
    }

    /// Packets that match; the others are added to `next`. With a non-deterministic match, all packets do both.
    pub(super) fn matching(
        &mut self,
        place: &StepPlace<'_>,
        found: &Match,
        packets: PacketSet,
        next: &mut PacketSet,
    ) -> PacketSet {
        if let Match::Accounting(object) = found {
            let limited = self.if_limited(place.at, object);
            *next = self.space.or(*next, self.space.and(packets, limited));
            return packets;
        }
        let (inside, outside) = match self.condition(place, found, packets) {
            Some(holds) => (self.space.and(packets, holds), self.space.minus(packets, holds)),
            None => (packets, packets),
        };
        *next = self.space.or(*next, outside);
        inside
    }

    /// Adds the results of a called chain.
    pub(super) fn join(&mut self, ends: &mut Ends, others: Ends) {
        ends.returned = self.space.or(ends.returned, others.returned);
        ends.accepted = self.space.or(ends.accepted, others.accepted);
        others.translated.0.into_iter().for_each(|(hit, packets)| ends.translated.add(&self.space, hit, packets));
    }

    /// Applies a verdict; returns the packets for which the same rule goes on.
    pub(super) fn verdict(
        &mut self,
        place: &StepPlace<'_>,
        verdict: &Verdict,
        packets: PacketSet,
        next: &mut PacketSet,
        ends: &mut Ends,
    ) -> PacketSet {
        if packets.is_empty() {
            return packets;
        }
        let at = place.at;
        match verdict {
            Verdict::Continue => return packets,
            Verdict::Accept => ends.accepted = self.space.or(ends.accepted, packets),
            Verdict::Return => ends.returned = self.space.or(ends.returned, packets),
            Verdict::Drop => drop(self.dropping.insert(at.clone())),
            Verdict::Reset => self.refused = self.space.or(self.refused, packets),
            Verdict::Jump(chain) | Verdict::Goto(chain) => {
                let id = ChainId { chain: chain.clone(), ..at.chain.clone() };
                let mut found = self.chain(at.set, &id, packets, place.depth + 1);
                if matches!(verdict, Verdict::Jump(_)) {
                    *next = self.space.or(*next, found.returned);
                    found.returned = NOTHING;
                }
                self.join(ends, found);
            }
            Verdict::Stolen(what) => {
                let found = self.handed_over(place, what, packets);
                ends.accepted = self.space.or(ends.accepted, found);
            }
            Verdict::Map { fields, set, verdicts } => {
                return self.verdict_map(place, &VerdictMap { fields, set, verdicts }, packets, next, ends);
            }
        }
        NOTHING
    }

    /// Rewrites an address or port; returns the packets for which the rule goes on.
    fn rewritten(
        &mut self,
        place: &StepPlace<'_>,
        field: &Field,
        value: Option<u128>,
        packets: PacketSet,
        ends: &mut Ends,
    ) -> PacketSet {
        let number = value.map(|value| (value, value));
        let as_it_was = number.filter(|_| self.packets.knows(field)).map(|number| self.with(field, &[number]));
        let as_it_was = as_it_was.unwrap_or(NOTHING);
        let (kept, mut changed) = (self.space.and(packets, as_it_was), self.space.minus(packets, as_it_was));
        if self.packets.kind == PacketKind::Tunnel {
            // The checksum becomes wrong, unless it is complete.
            let filled = self.space.is_set(self.layout.filled);
            let hit = Hit::Rule(place.at.clone(), place.number);
            ends.translated.add(&self.space, hit, self.space.minus(changed, filled));
            changed = self.space.and(changed, filled);
        }
        changed = match number {
            Some(number) => self.set(changed, field, &[number]),
            None => self.forget(changed, std::slice::from_ref(field)),
        };
        self.space.or(kept, changed)
    }

    /// The same packets with a flag set.
    pub(super) fn flagged(&self, packets: PacketSet, flag: u32) -> PacketSet {
        let any = self.space.exists(packets, &BTreeSet::from([flag]));
        self.space.and(any, self.space.is_set(flag))
    }

    /// Packets given to user space, which may return them, with another mark.
    fn handed_over(&mut self, place: &StepPlace<'_>, to: &str, packets: PacketSet) -> PacketSet {
        let (network, at) = (self.network, place.at);
        let why = || network.question(at, format!("{} hands packets to {to}", network.describe(at)));
        let key = format!("{} {:?} {} user space", self.stage, place.at, place.number);
        // Kept, returned unchanged, returned with any mark.
        let [as_it_was, marked] = [1, 2].map(|answer| self.answer(key.clone(), About::All, 3, answer, why));
        let any = self.any_marks(packets, &[Field::Mark]);
        self.space.or(self.space.and(packets, as_it_was), self.space.and(any, marked))
    }

    /// Something unsupported or unread: it drops all packets, or has any other effect on them. Dropping is an
    /// assumption of its own, so that nothing after it is certain; the other case therefore needs no detail.
    pub(super) fn anything(&mut self, hit: &Hit, why: &str, packets: PacketSet) -> Ends {
        if packets.is_empty() {
            return Ends::default();
        }
        let network = self.network;
        let why = || network.question_of(hit, format!("{}: {why}", network.place(hit)));
        let assumed = self.answer(format!("{} {hit:?}", self.stage), About::All, 2, 1, why);
        let packets = self.space.and(packets, assumed);
        let packets = self.any_marks(packets, &[Field::Mark, Field::ConnectionMark]);
        // It may also set timeouts of entries.
        let timed = BTreeSet::from_iter(self.follows_timeouts.then_some(self.layout.own_timeout));
        let packets = self.space.exists(packets, &timed);
        let untracked = self.untracked(packets);
        let both = self.space.or(packets, untracked);
        Ends { returned: both, accepted: both, translated: Hits([(hit.clone(), packets)].into()) }
    }

    /// Packets with any values in these marks. Nothing about them is certain, so no question is needed.
    fn any_marks(&mut self, packets: PacketSet, marks: &[Field]) -> PacketSet {
        let variables = marks.iter().flat_map(|mark| self.block(mark).0).collect();
        self.space.exists(packets, &variables)
    }

    /// Packets after `NOTRACK`; those with a connection or template are unchanged.
    fn untracked(&mut self, packets: PacketSet) -> PacketSet {
        let open = self.in_state(&[state::INVALID]);
        let open = self.space.minus(open, self.space.is_set(self.layout.template));
        let changed = self.space.and(packets, open);
        let state = self.block(&Field::ConnectionState).0.into_iter().collect();
        let changed = self.space.exists(changed, &state);
        let untracked = self.in_state(&[state::UNTRACKED]);
        let changed = self.space.and(changed, untracked);
        self.space.or(self.space.minus(packets, open), changed)
    }

    /// Whether a step has an effect, other than matching, that this walk follows.
    pub(super) fn acts(&self, step: &Step) -> bool {
        match step {
            Step::Match(_) | Step::NoEffect(_) => false,
            Step::UpdateSet { set, .. } => self.filled.keys().any(|(_, filled)| filled == set),
            Step::OwnTimeout => self.follows_timeouts,
            Step::SetMark(write) => self.relevant(write, &Field::Mark).is_some(),
            Step::SetConnectionMark(write) => self.relevant(write, &Field::ConnectionMark).is_some(),
            _ => true,
        }
    }
}
