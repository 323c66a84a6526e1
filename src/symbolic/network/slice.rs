//! Slicing: which chains can influence the mark that packets end up with. Others can be skipped when only marks matter,
//! because they can only drop packets, and fewer packets have no additional marks.

use super::{Network, lets_pass, recall};
use crate::facts::Reading;
use crate::facts::netfilter::{ChainId, Field, Match, Step, Verdict};
use crate::symbolic::network::survey::{Relevant, bits_of};

/// Chains that only Services jump to.
const OF_SERVICES: &[&str] = &["KUBE-MARK-MASQ", "mark-for-masquerade"];
/// Chains that have fewer steps are followed for all packets at once, and are not worth a walk of their own.
pub(crate) const MANY_STEPS: usize = 256;

impl Network<'_> {
    /// Whether marks are written in chains that only Services jump to.
    pub(crate) fn has_services(&self, set: usize) -> bool {
        let found = &self.rules[set].ruleset.mark_writers.found;
        found.values().any(|(chain, _)| OF_SERVICES.contains(&chain.chain.as_str()))
    }

    /// Whether marks are written there only, considering all chains that were not read.
    pub(crate) fn only_services_mark(&self, set: usize) -> bool {
        let is_read = |chain: &ChainId| self.chain(set, chain).is_some_and(|chain| chain.rules.ok().is_some());
        let found = &self.rules[set].ruleset.mark_writers.found;
        let mut others = found.values().filter(|(chain, _)| !OF_SERVICES.contains(&chain.chain.as_str()));
        self.has_services(set) && others.all(|(chain, _)| is_read(chain))
    }

    /// Mark bits that influence these bits of the packet's mark: those tested before writing one, and those copied into
    /// one.
    pub fn relevant_to_marks(&self, decisive: u32) -> Relevant {
        let mut relevant = Relevant { mark: decisive, connection: 0 };
        loop {
            let mut more = relevant;
            for (set, id) in self.base_chains().filter(|(set, id)| self.writes_marks(*set, id, relevant)) {
                self.each_step(set, id, &mut |step| note_step(step, &mut more));
            }
            if more == relevant {
                return relevant;
            }
            relevant = more;
        }
    }

    /// Whether skipping chains that only drop saves a good part of the rules.
    pub fn is_worth_slicing(&self, decisive: u32) -> bool {
        let relevant = self.relevant_to_marks(decisive);
        let left_out = self.base_chains().filter(|(set, id)| !self.writes_marks(*set, id, relevant));
        left_out.map(|(set, id)| self.steps(set, id)).sum::<usize>() >= MANY_STEPS
    }

    /// How many steps a chain has, and those that it leads to.
    pub fn steps(&self, set: usize, id: &ChainId) -> usize {
        recall(&self.remembered.steps, (set, id.clone()), || {
            let mut steps = 0;
            self.each_step(set, id, &mut |_| steps += 1);
            steps
        })
    }

    fn base_chains(&self) -> impl Iterator<Item = (usize, &ChainId)> {
        let sets = self.rules.iter().enumerate();
        sets.flat_map(|(set, rules)| {
            rules.ruleset.chains.iter().filter(|(_, chain)| chain.base.is_some()).map(move |(id, _)| (set, id))
        })
    }

    /// Visits the steps of a chain and of those it jumps to.
    pub fn each_step(&self, set: usize, id: &ChainId, visit: &mut dyn FnMut(&Step)) {
        let rules =
            self.chains_from(set, id).flatten().flat_map(|(_, chain)| chain.rules_for_udp().unwrap_or_default());
        rules.flat_map(|rule| &rule.steps).for_each(visit);
    }
}

/// Whether a step does anything but drop packets or write irrelevant mark bits.
pub(crate) fn writes_marks(step: &Step, relevant: Relevant) -> bool {
    match step {
        Step::Match(_) | Step::NoEffect(_) | Step::UpdateSet { .. } | Step::OwnTimeout | Step::ToSocket => false,
        Step::SetMark(write) => write.can_change() & relevant.mark != 0,
        Step::SetConnectionMark(write) => write.can_change() & relevant.connection != 0,
        Step::Verdict(Verdict::Map { verdicts: Reading::Ok(verdicts), .. }) => verdicts.iter().any(is_more_than_a_path),
        Step::Verdict(verdict) => is_more_than_a_path(verdict),
        Step::Notrack
        | Step::Template
        | Step::FillChecksum
        | Step::Rewrite { .. }
        | Step::Nat(_)
        | Step::Unsupported { .. } => true,
    }
}

fn is_more_than_a_path(verdict: &Verdict) -> bool {
    !lets_pass(verdict) && !matches!(verdict, Verdict::Drop | Verdict::Reset)
}

fn note_step(step: &Step, more: &mut Relevant) {
    match step {
        Step::Match(Match::Tests { tests, .. }) => {
            for test in tests {
                match test.field {
                    Field::Mark => more.mark |= bits_of(&test.condition),
                    Field::ConnectionMark => more.connection |= bits_of(&test.condition),
                    Field::MarkBits(_) => {
                        more.mark |= test.field.mark_bits();
                        more.connection |= test.field.connection_mark_bits();
                    }
                    _ => {}
                }
            }
        }
        Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
            for field in fields {
                more.mark |= field.mark_bits();
                more.connection |= field.connection_mark_bits();
            }
        }
        // Copies keep the position of a bit.
        Step::SetMark(write) => more.connection |= write.copies() & more.mark,
        Step::SetConnectionMark(write) => more.mark |= write.copies() & more.connection,
        _ => {}
    }
}
