//! Assumptions: what could not be determined, and whether a result depends on it.
//!
//! Each question is a number in the [`Space`], so the packets that take a path under an assumption are the set of
//! packets with that answer. Some questions have one answer for all packets (which of two chains comes first); others
//! are unknown functions of the packet (an unsupported match). Something *must* happen if for all global answers there
//! is a packet to which it happens for all per-packet answers (∀ global ∃ packet ∀ per-packet). It *may* happen if
//! there are a packet and answers.
//!
//! Any other order of quantifiers would make both branches of a match certain that distinguishes packets itself. What
//! is neither must nor never is `unknown`, with the question as the reason, so an open question only affects verdicts
//! that depend on it.

use std::collections::{BTreeMap, BTreeSet};

use super::space::{BitVector, EVERYTHING, PacketSet, Space};
use crate::facts::Question;

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    /// One answer for all packets.
    All,
    /// Each packet may have another answer.
    EachPacket,
    /// For each answer there are packets with it.
    SomePacket,
}

/// Index of a question.
pub(crate) type QuestionNumber = usize;

#[derive(Clone, Debug)]
struct Asked {
    why: Question,
    block: BitVector,
    answers: u128,
}

/// The questions of a walk.
#[derive(Clone, Debug, Default)]
pub(crate) struct Assumptions {
    asked: Vec<Asked>,
    by_key: BTreeMap<String, QuestionNumber>,
    of_all: BTreeSet<u32>,
    of_each: BTreeSet<u32>,
}

impl Assumptions {
    /// Adds a question with this number of answers, from 0, unless one with this `key` exists. `why`: what could not be
    /// determined.
    pub(crate) fn ask<W: Into<Question>>(
        &mut self,
        space: &Space<'_>,
        key: String,
        about: About,
        answers: usize,
        why: impl FnOnce() -> W,
    ) -> QuestionNumber {
        if let Some(known) = self.by_key.get(&key) {
            return *known;
        }
        let bits = answers.saturating_sub(1).checked_ilog2().map_or(0, |bits| bits + 1);
        self.note(key, about, space.block(bits), answers as u128, why().into())
    }

    /// Adds a question whose answer is a number. `block` makes its variables; `None`: there are none left.
    pub(crate) fn ask_number<W: Into<Question>>(
        &mut self,
        key: String,
        about: About,
        block: impl FnOnce() -> Option<BitVector>,
        why: impl FnOnce() -> W,
    ) -> Option<BitVector> {
        let found = match self.by_key.get(&key) {
            Some(known) => *known,
            None => {
                let block = block()?;
                let answers = 1u128.checked_shl(block.0.len() as u32).unwrap_or(u128::MAX);
                self.note(key, about, block, answers, why().into())
            }
        };
        Some(self.asked[found].block.clone())
    }

    fn note(&mut self, key: String, about: About, block: BitVector, answers: u128, why: Question) -> QuestionNumber {
        match about {
            About::All => self.of_all.extend(&block.0),
            About::EachPacket => self.of_each.extend(&block.0),
            About::SomePacket => {}
        }
        self.asked.push(Asked { why, block, answers });
        self.by_key.insert(key, self.asked.len() - 1);
        self.asked.len() - 1
    }

    /// Packets with this answer. Numbers beyond the last answer also mean the last one, so that there is always an
    /// answer.
    pub(crate) fn answer(&self, space: &Space<'_>, question: QuestionNumber, answer: usize) -> PacketSet {
        let Asked { block, answers, .. } = &self.asked[question];
        let answer = answer as u128;
        let last = if answer + 1 == *answers { u128::MAX } else { answer };
        space.ranges(block, &[(answer, last)])
    }

    /// Whether a set depends on per-packet questions.
    pub(crate) fn depends_on_packets(&self, space: &Space<'_>, set: PacketSet) -> bool {
        !self.of_each.is_empty() && !space.support(set).is_disjoint(&self.of_each)
    }

    /// Whether the set has a packet for all answers. `determined`: variables whose value follows from the rest of the
    /// packet and the answers.
    pub(crate) fn must(&self, space: &Space<'_>, set: PacketSet, determined: &BTreeSet<u32>) -> bool {
        self.by_answers(space, self.for_certain(space, set, determined)) == EVERYTHING
    }

    /// Packets that are in the set for all per-packet answers. `determined`: as above.
    pub(crate) fn for_certain(&self, space: &Space<'_>, set: PacketSet, determined: &BTreeSet<u32>) -> PacketSet {
        match self.depends_on_packets(space, set) {
            true => space.for_all(space.exists(set, determined), &self.of_each),
            false => set,
        }
    }

    /// Variables of questions with one answer for all packets.
    pub(crate) fn about_all(&self) -> &BTreeSet<u32> {
        &self.of_all
    }

    /// Variables of per-packet questions.
    pub(crate) fn about_each(&self) -> &BTreeSet<u32> {
        &self.of_each
    }

    /// Global answers for which the set has a packet.
    fn by_answers(&self, space: &Space<'_>, set: PacketSet) -> PacketSet {
        let mut packets = space.support(set);
        packets.retain(|variable| !self.of_all.contains(variable));
        space.exists(set, &packets)
    }

    /// The questions that a set depends on, along the path with the fewest assumptions.
    pub(crate) fn why(&self, space: &Space<'_>, set: PacketSet) -> Question {
        let asked = |variable: u32| self.asked.iter().position(|asked| asked.block.0.contains(&variable));
        let packets =
            space.support(set).into_iter().filter(|of| !self.of_all.contains(of) && !self.of_each.contains(of));
        let only = space.exists(set, &packets.collect());
        let cost = |variable: u32| usize::from(asked(variable).is_some());
        let path = space.cheapest(only, &cost).unwrap_or_default();
        let mut found: BTreeSet<usize> = path.iter().filter_map(|(variable, _)| asked(*variable)).collect();
        // The path has questions in the diagram's order; those it does not depend on are left out.
        for question in found.clone() {
            let rest = path.iter().filter(|(of, _)| asked(*of).is_some_and(|of| of != question && found.contains(&of)));
            let taken = rest.fold(EVERYTHING, |all, (variable, one)| {
                let is_set = space.is_set(*variable);
                if *one { space.and(all, is_set) } else { space.minus(all, is_set) }
            });
            if space.minus(taken, only).is_empty() {
                found.remove(&question);
            }
        }
        Question::joined(found.into_iter().map(|at| self.asked[at].why.clone()))
    }

    /// Number of assumptions on the path with the fewest; `None`: the set is empty.
    pub(crate) fn doubt(&self, space: &Space<'_>, set: PacketSet) -> Option<usize> {
        let is_asked = |variable: u32| usize::from(self.of_all.contains(&variable) || self.of_each.contains(&variable));
        let path = space.cheapest(set, &is_asked)?;
        Some(path.into_iter().filter(|(variable, _)| is_asked(*variable) > 0).count())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::effort::Effort;
    use super::*;

    #[test]
    fn what_happens_under_every_answer_must_happen() {
        let stop = AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let space = Space::new(&effort);
        let mut assumptions = Assumptions::default();
        let mut ask =
            |key: &str, about, answers| assumptions.ask(&space, key.into(), about, answers, || format!("{key}?"));
        let (a, b) = (ask("a", About::All, 2), ask("b", About::All, 3));
        assert_eq!(ask("a", About::All, 2), a, "the same question is asked once");
        let is = |question, answer| assumptions.answer(&space, question, answer);
        let must = |sets: &[PacketSet]| assumptions.must(&space, space.any(sets.iter().copied()), &BTreeSet::new());
        assert!(!must(&[]) && must(&[EVERYTHING]) && !must(&[is(a, 1)]));
        assert!(must(&[is(a, 1), is(a, 0)]));
        let with = |one, other| space.and(one, other);
        assert!(!must(&[is(a, 1), with(is(a, 0), is(b, 0)), with(is(a, 0), is(b, 1))]));
        assert!(must(&[is(a, 1), with(is(a, 0), is(b, 0)), with(is(a, 0), is(b, 1)), is(b, 2)]));
        assert_eq!(assumptions.why(&space, space.or(with(is(a, 1), is(b, 0)), is(b, 2))).text, "b?");
    }

    #[test]
    fn a_match_that_sorts_the_packets_makes_neither_branch_certain() {
        let stop = AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let space = Space::new(&effort);
        let packets = space.block(1);
        let mut assumptions = Assumptions::default();
        let mut ask = |key: &str, about| assumptions.ask(&space, key.into(), about, 2, String::new);
        let (of_all, of_each) = (ask("all", About::All), ask("each", About::EachPacket));
        let [zero, one] = [0, 1].map(|value| space.matching(&packets, 1, value));
        let sorted = |question| {
            let [no, yes] = [0, 1].map(|answer| assumptions.answer(&space, question, answer));
            space.or(space.and(yes, one), space.and(no, zero))
        };
        assert!(
            assumptions.must(&space, sorted(of_all), &BTreeSet::new()),
            "one answer for all: one of the packets is always in it"
        );
        assert!(
            !assumptions.must(&space, sorted(of_each), &BTreeSet::new()),
            "it may hold for the one and fail for the other"
        );
        let both =
            space.or(assumptions.answer(&space, of_each, 0), space.and(assumptions.answer(&space, of_each, 1), one));
        assert!(assumptions.must(&space, both, &BTreeSet::new()));
    }
}
