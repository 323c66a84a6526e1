//! What rules tell packets apart by, found in one look at all of them: only that has to be known of a packet.

use std::collections::{BTreeMap, BTreeSet};

use super::world::{Rules, World};
use crate::snapshot::netfilter::{Condition, Field, MarkWrite, Match, SetId, Step, Test, Verdict, name_key};

/// What matters of packets to one node's rules.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Where pieces of device names begin that some rule tells apart.
    pub names: BTreeSet<u128>,
    /// Sets that rules take packets out of, and put packets into.
    pub updates: BTreeMap<(usize, SetId), [bool; 2]>,
    /// Bits of the packet's mark and of the connection's that some rule tests.
    tested: [u32; 2],
    /// Bits that are copied: from the connection's mark into the packet's, and the other way round.
    copied: [u32; 2],
}

/// Bits of marks that can decide about a packet; no others are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relevant {
    /// Of the packet's mark.
    pub mark: u32,
    /// Of the connection's.
    pub connection: u32,
}

impl Survey {
    /// Looks at all rules.
    pub fn of(world: &World<'_>) -> Self {
        let mut survey = Self { names: BTreeSet::from([0, 1]), ..Self::default() };
        for (number, rules) in world.rules.iter().enumerate() {
            let chains = rules.ruleset.chains.values().flat_map(|chain| chain.rules_for_udp().into_iter().flatten());
            chains.flat_map(|rule| &rule.steps).for_each(|step| survey.look_at(number, rules, step));
        }
        for link in world.links.into_iter().flatten() {
            name_key(&link.name).into_iter().for_each(|name| survey.name((name, name)));
        }
        survey
    }

    /// Names in this range are told from others.
    pub fn name(&mut self, (first, last): (u128, u128)) {
        self.names.insert(first);
        self.names.extend(last.checked_add(1));
    }

    fn look_at(&mut self, number: usize, rules: &Rules<'_>, step: &Step) {
        match step {
            Step::Match(Match::Tests { tests, .. }) => tests.iter().for_each(|test| self.test(test)),
            Step::Match(Match::Set { fields, set, .. }) | Step::Verdict(Verdict::Map { fields, set, .. }) => {
                for (at, field) in fields.iter().enumerate() {
                    match field {
                        Field::Mark => self.tested[0] = u32::MAX,
                        Field::ConnectionMark => self.tested[1] = u32::MAX,
                        Field::InputName | Field::OutputName => {
                            let Some(set) = rules.ruleset.sets.get(set) else { continue };
                            let elements = set.elements.ok().into_iter().flatten();
                            elements.filter_map(|element| element.get(at)).for_each(|range| self.name(*range));
                            set.members.keys().filter_map(|key| key.get(at)).for_each(|name| self.name((*name, *name)));
                        }
                        _ => {}
                    }
                }
            }
            Step::UpdateSet { set, adds } => {
                self.updates.entry((number, set.clone())).or_default()[usize::from(*adds)] = true;
            }
            Step::SetMark(MarkWrite::Exact { take, .. }) => self.copied[0] |= take,
            Step::SetConnectionMark(MarkWrite::Exact { take, .. }) => self.copied[1] |= take,
            _ => {}
        }
    }

    fn test(&mut self, Test { field, condition }: &Test) {
        match field {
            Field::InputName | Field::OutputName => {
                super::packets::ranges(condition, 128).into_iter().flatten().for_each(|range| self.name(range));
            }
            Field::Mark | Field::ConnectionMark => {
                let bits = match condition {
                    Condition::Masked { mask, .. } => *mask as u32,
                    Condition::Ranges(_) => u32::MAX,
                };
                self.tested[usize::from(*field == Field::ConnectionMark)] |= bits;
            }
            _ => {}
        }
    }

    /// Bits that rules test, or that `others` do, and those that these are copied from.
    pub fn relevant(&self, others: u32) -> Relevant {
        let [mut mark, mut connection] = [self.tested[0] | others, self.tested[1]];
        // Copies keep the place of a bit, so one round in each direction finds all.
        connection |= mark & self.copied[0];
        mark |= connection & self.copied[1];
        connection |= mark & self.copied[0];
        Relevant { mark, connection }
    }
}
