//! Upper bound of the marks with which packets may enter a tunnel: once all were seen, further inner packets add
//! nothing.

use std::cell::OnceCell;

use super::arrivals::{GROUP_POLICY, names};
use super::{MAX_WORDS, TunnelWalk};
use crate::facts::netfilter::{Family, Field};
use crate::symbolic::machine::Walk;
use crate::symbolic::space::{BitPattern, PacketSet};

impl TunnelWalk<'_, '_> {
    /// Whether no other mark is possible: all that rules may write, under any answers, are among these.
    pub(super) fn are_all(&mut self, marks: PacketSet) -> bool {
        let network = self.walk.network;
        let unread = Family::IP.into_iter().any(|family| network.unread(family).is_some());
        if unread || network.marks_elsewhere(self.bits_brought_in()).is_some() || network.doubtful_bits().is_some() {
            return false;
        }
        // Mark writers do not matter here.
        let marks = self.walk.space.exists(marks, &self.walk.writer_variables().into_iter().collect());
        let chosen = if self.facts.arrivals.marking.is_empty() { 0 } else { GROUP_POLICY };
        let can_be_set = (network.survey().can_be_set | network.settable_bits() | chosen) & self.decisive();
        let mark = self.walk.block(&Field::Mark);
        let possible = self.walk.space.matching(&mark, u128::from(!can_be_set), 0);
        if self.are_among(possible, marks) {
            return true;
        }
        // A sliced walk is more precise, at a cost.
        let (bound, units) = self.walk.effort.measure(|| self.bound.get_or_init(|| self.bound()).clone());
        self.walk.was_spent_elsewhere(units);
        let Some(bound) = bound else { return false };
        let sets = bound.into_iter().map(|pattern| self.walk.space.matching(&mark, pattern.mask, pattern.value));
        let possible = self.walk.space.any(sets);
        self.are_among(possible, marks)
    }

    fn are_among(&self, possible: PacketSet, marks: PacketSet) -> bool {
        let open = self.walk.space.minus(possible, self.walk.space.is_set(self.walk.layout.filled));
        self.walk.space.minus(open, marks).is_empty()
    }

    /// All marks with which packets may enter the tunnel, and possibly others. `None`: not worth it, or too many.
    fn bound(&self) -> Option<Vec<BitPattern>> {
        let (network, decisive) = (self.walk.network, self.decisive());
        if self.walk.is_sliced() || !network.is_worth_slicing(decisive) {
            return None;
        }
        let walk = Walk::slice(network, &names(self.facts), decisive, self.walk.effort);
        let mut slice = TunnelWalk::new(walk, self.facts, OnceCell::new());
        let marks = slice.inner();
        let mark = slice.walk.block(&Field::Mark);
        let patterns = slice.walk.space.patterns(marks, &mark, MAX_WORDS);
        patterns.filter(|_| slice.walk.why_incomplete().is_none())
    }
}
