//! The survey: what rules distinguish packets by, found in one pass over all rules. Nothing else is followed in walks.

use std::collections::{BTreeMap, BTreeSet};

use super::{BackendRules, Network};
use crate::facts::netfilter::{
    Chain, ChainId, Comparison, Field, FieldTest, HeaderBytes, Hook, MapLookup, MarkWrite, Match, Rule, SetId, Step,
    Verdict, mark_in, name_key,
};

/// What rules distinguish packets by.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Boundaries of the ranges of device names that rules distinguish.
    pub names: BTreeSet<u128>,
    /// Whether a rule tests bridge ports.
    pub asks_for_ports: bool,
    /// Whether a rule answers segments with a reset.
    pub refuses_with_reset: bool,
    /// Offsets of IP header bytes, of either family, that rules write, other than addresses.
    pub written_bytes: BTreeSet<usize>,
    /// Sets that rules delete from, and add to.
    pub updates: BTreeMap<(Option<usize>, SetId), [bool; 2]>,
    /// Sets that rules test.
    tested_sets: BTreeSet<(Option<usize>, SetId)>,
    /// Bits of the packet's mark that some rule may set, or whatever gives packets back.
    pub can_be_set: u32,
    /// Bits of the packet's mark that rules on output, postrouting and egress test or save.
    pub tested_outside: u32,
    /// Bits tested by rules: of the packet's mark, of the connection's.
    tested: [u32; 2],
    /// Bits copied from the connection's mark into the packet's, and vice versa.
    copied: [u32; 2],
}

/// Mark bits that can influence packets; no others are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relevant {
    /// Bits of the packet's mark.
    pub mark: u32,
    /// Bits of the connection's mark.
    pub connection: u32,
}

impl Survey {
    /// From all rules.
    pub fn of(network: &Network<'_>) -> Self {
        let mut survey = Self { names: BTreeSet::from([0, 1]), ..Self::default() };
        for (number, rules) in network.rules.iter().enumerate() {
            for chain in rules.ruleset.chains.values() {
                let chain = chain.rules_for_udp().unwrap_or_default();
                chain.iter().flat_map(|rule| &rule.steps).for_each(|step| survey.note_step(number, rules, step));
                survey.note_writes(rules, chain);
            }
            survey.note_outgoing(rules);
        }
        for rules in &network.rules {
            survey.note_ipsets(rules);
        }
        for device in network.devices.iter().flatten() {
            name_key(device.name).into_iter().for_each(|name| survey.name((name, name)));
        }
        survey
    }

    /// Sets that rules put packets into and others test.
    pub fn filled(&self) -> impl Iterator<Item = &(Option<usize>, SetId)> {
        let filled = self.updates.iter().filter(|(_, [_, puts])| *puts).map(|(set, _)| set);
        filled.filter(|set| self.tested_sets.contains(*set))
    }

    /// Whether a step of such a rule set puts packets into such a set.
    pub fn fills(&self, number: usize, step: &Step) -> bool {
        matches!(step, Step::UpdateSet { set, adds: true, .. } if self.tested_sets.contains(&updated(number, set)))
    }

    /// Names in this range are told from others.
    pub fn name(&mut self, (first, last): (u128, u128)) {
        self.names.insert(first);
        self.names.extend(last.checked_add(1));
    }

    fn note_step(&mut self, number: usize, rules: &BackendRules<'_>, step: &Step) {
        match step {
            Step::Match(Match::Tests { tests, .. }) => tests.iter().for_each(|test| self.test(test)),
            Step::Match(Match::OfBridged { .. }) => self.asks_for_ports = true,
            Step::Verdict(Verdict::Reset) => self.refuses_with_reset = true,
            Step::Match(Match::Set { fields, set, .. }) | Step::Verdict(Verdict::Map { fields, set, .. }) => {
                self.tested_sets.insert(updated(number, set));
                for (at, field) in fields.iter().enumerate() {
                    self.tested[0] |= field.mark_bits();
                    self.tested[1] |= field.connection_mark_bits();
                    match field {
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
            Step::Match(Match::Ipset { index, .. }) => {
                self.tested_sets.insert((None, SetId::Ipset(*index)));
            }
            Step::UpdateSet { set, adds, .. } => {
                self.updates.entry(updated(number, set)).or_default()[usize::from(*adds)] = true;
            }
            Step::NoEffect(what) => self.written_bytes.extend(match what.as_str() {
                "DSCP" | "ECN" | "TOS" => 0..2,
                "HL" => 7..8,
                "TTL" => 8..9,
                what => match what.strip_suffix(" set").and_then(HeaderBytes::of) {
                    Some(HeaderBytes { header: 1, offset, length }) => offset..offset + length,
                    _ => 0..0,
                },
            }),
            Step::SetMark(write) => self.copied[0] |= write.copies(),
            Step::SetConnectionMark(write) => self.copied[1] |= write.copies(),
            _ => {}
        }
    }

    /// Records devices and marks in elements of ipsets.
    fn note_ipsets(&mut self, rules: &BackendRules<'_>) {
        for set in rules.ruleset.sets.iter().filter(|(id, _)| matches!(id, SetId::Ipset(_))).map(|(_, set)| set) {
            let elements = || set.elements.ok().into_iter().flatten();
            match set.kind.as_str() {
                "hash:net,iface" => elements().filter_map(|element| element.get(1)).for_each(|name| self.name(*name)),
                "hash:ip,mark" => {
                    self.tested[0] = u32::MAX;
                    self.tested_outside = u32::MAX;
                }
                _ => {}
            }
        }
    }

    /// Records bits that a chain's rules may set. A bit tested to be set can only be cleared by inverting it, as
    /// kube-proxy does.
    fn note_writes(&mut self, of: &BackendRules<'_>, rules: &[Rule]) {
        let mut known = 0;
        for rule in rules {
            let mut here = known;
            for step in &rule.steps {
                match step {
                    Step::Match(Match::Tests { tests, inverted: false }) => {
                        here |= tests.iter().fold(0, |all, test| all | bits_set(test));
                    }
                    Step::SetMark(MarkWrite::Exact { keep, take, xor }) => {
                        self.can_be_set |= take | xor & !(keep & here);
                        here &= keep & !take & !xor;
                        known &= keep & !take & !xor;
                    }
                    Step::SetMark(MarkWrite::Mapped { lookup, mapped, keep, take, xor }) => {
                        self.can_be_set |= take | xor & !(keep & here) | mapped_bits(of, lookup, *mapped);
                        here &= keep & !take & !xor & !mapped;
                        known &= keep & !take & !xor & !mapped;
                    }
                    Step::SetMark(write @ MarkWrite::Number { .. }) => {
                        self.can_be_set |= write.can_set();
                        here = 0;
                        known = 0;
                    }
                    Step::SetMark(MarkWrite::Unknown(_))
                    | Step::Unsupported { .. }
                    | Step::Verdict(Verdict::Stolen(_)) => {
                        self.can_be_set = u32::MAX;
                    }
                    Step::Verdict(Verdict::Jump(_) | Verdict::Map { .. }) => known = 0,
                    _ => {}
                }
            }
            if let [Step::Match(Match::Tests { tests, inverted: true }), Step::Verdict(verdict)] = rule.steps.as_slice()
                && let [test] = tests.as_slice()
                && matches!(
                    verdict,
                    Verdict::Return | Verdict::Accept | Verdict::Drop | Verdict::Reset | Verdict::Goto(_)
                )
            {
                known |= bits_set(test); // packets without these bits have left
            }
        }
    }

    /// Records mark bits tested by rules that this host's own packets traverse.
    fn note_outgoing(&mut self, rules: &BackendRules<'_>) {
        let chains = &rules.ruleset.chains;
        let outgoing = |chain: &Chain| {
            chain.base.as_ref().is_some_and(|base| matches!(base.hook, Hook::Output | Hook::Postrouting | Hook::Egress))
        };
        let mut open: Vec<&ChainId> = chains.iter().filter(|(_, chain)| outgoing(chain)).map(|(id, _)| id).collect();
        let mut seen = BTreeSet::new();
        while let Some(id) = open.pop() {
            let Some((id, chain)) = chains.get_key_value(id).filter(|(id, _)| seen.insert(*id)) else { continue };
            for rule in chain.rules_for_udp().into_iter().flatten() {
                for step in &rule.steps {
                    self.tested_outside |= match step {
                        Step::Match(Match::Tests { tests, .. }) => {
                            tests.iter().fold(0, |all, test| all | bits(test) & test.field.mark_bits())
                        }
                        Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
                            fields.iter().fold(0, |all, field| all | field.mark_bits())
                        }
                        Step::SetConnectionMark(write) => write.copies(),
                        _ => 0,
                    };
                }
                let named = rule.jumps().map(|name| ChainId { chain: name.clone(), ..id.clone() });
                open.extend(named.filter_map(|id| chains.get_key_value(&id)).map(|(id, _)| id));
            }
        }
    }

    fn test(&mut self, FieldTest { field, condition }: &FieldTest) {
        match field {
            Field::InputName | Field::OutputName => {
                condition.ranges(128).into_iter().flatten().for_each(|range| self.name(range));
            }
            Field::Mark => self.tested[0] |= bits_of(condition),
            Field::ConnectionMark => self.tested[1] |= bits_of(condition),
            Field::MarkBits(_) => {
                self.tested[0] |= field.mark_bits();
                self.tested[1] |= field.connection_mark_bits();
            }
            _ => {}
        }
    }

    /// Bits tested by rules, `others`, and bits that these are copied from.
    pub fn relevant(&self, others: u32) -> Relevant {
        let [mut mark, mut connection] = [self.tested[0] | others, self.tested[1]];
        // Copies keep the position of a bit, so one pass in each direction suffices.
        connection |= mark & self.copied[0];
        mark |= connection & self.copied[1];
        connection |= mark & self.copied[0];
        Relevant { mark, connection }
    }
}

/// Bits that a mapped mark write may set: any if the map's data are not known.
fn mapped_bits(rules: &BackendRules<'_>, lookup: &MapLookup, mapped: u32) -> u32 {
    let known = lookup.known_in(&rules.ruleset.sets);
    let bits = known.and_then(|mut known| known.try_fold(0, |all, (_, data)| Some(all | mark_in(data)?)));
    bits.map_or(u32::MAX, |bits| bits & mapped)
}

/// Key of a set in [`Survey::updates`]; ipsets are shared by all rule sets.
pub(crate) fn updated(number: usize, set: &SetId) -> (Option<usize>, SetId) {
    (matches!(set, SetId::Nftables { .. }).then_some(number), set.clone())
}

/// Mark bits that a comparison depends on.
pub(crate) fn bits_of(condition: &Comparison) -> u32 {
    match condition {
        Comparison::Masked { mask, .. } => *mask as u32,
        Comparison::Ranges(_) => u32::MAX,
    }
}

fn bits(test: &FieldTest) -> u32 {
    bits_of(&test.condition)
}

/// Mark bits that are set if a test of the mark holds.
fn bits_set(test: &FieldTest) -> u32 {
    match (&test.field, &test.condition) {
        (Field::Mark, Comparison::Masked { mask, value }) if mask == value => *value as u32,
        _ => 0,
    }
}
