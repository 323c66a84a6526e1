//! What rules tell packets apart by, found by one pass over all of them: only that has to be known of a packet.

use std::collections::{BTreeMap, BTreeSet};

use super::{BackendRules, Network};
use crate::facts::netfilter::{
    Chain, ChainId, Comparison, Field, FieldTest, HeaderBytes, Hook, MapLookup, MarkWrite, Match, Rule, SetId, Step,
    Verdict, mark_in, name_key,
};

/// What matters of packets to one node's rules.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Where pieces of device names begin that some rule tells apart.
    pub names: BTreeSet<u128>,
    /// Some rule asks by which ports of bridges frames come and go.
    pub asks_for_ports: bool,
    /// Some rule answers segments with a reset.
    pub refuses_with_reset: bool,
    /// Bytes of the header of IP, of either family, that some rule writes beside addresses.
    pub written_bytes: BTreeSet<usize>,
    /// Sets that rules take packets out of, and put packets into.
    pub updates: BTreeMap<(Option<usize>, SetId), [bool; 2]>,
    /// Sets that rules test.
    tested_sets: BTreeSet<(Option<usize>, SetId)>,
    /// Bits of the packet's mark that some rule may set, or whatever gives packets back.
    pub can_be_set: u32,
    /// Bits of the packet's mark that rules on output, postrouting and egress test, or save.
    pub tested_outside: u32,
    /// Bits of the packet's mark and of the connection's that some rule tests.
    tested: [u32; 2],
    /// Bits that are copied: from the connection's mark into the packet's, and from the packet's into the connection's.
    copied: [u32; 2],
}

/// Bits of marks that can decide about a packet; no others are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Relevant {
    /// Of the packet's mark.
    pub mark: u32,
    /// Of the connection's.
    pub connection: u32,
}

impl Survey {
    /// Of all rules.
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

    /// Devices and marks that elements of ipsets are about.
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

    /// Bits that the rules of a chain may set: a bit that was tested to be set is only turned off by inverting it, as
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
                known |= bits_set(test); // who does not have them has left
            }
        }
    }

    /// Bits of the mark that rules test that this host's own packets meet.
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

    /// Bits that rules test, or that `others` do, and those that these are copied from.
    pub fn relevant(&self, others: u32) -> Relevant {
        let [mut mark, mut connection] = [self.tested[0] | others, self.tested[1]];
        // Copies keep the place of a bit, so one pass in each direction finds all.
        connection |= mark & self.copied[0];
        mark |= connection & self.copied[1];
        connection |= mark & self.copied[0];
        Relevant { mark, connection }
    }
}

/// Bits that a write with a map may set by what the map has: any, if that is not known.
fn mapped_bits(rules: &BackendRules<'_>, lookup: &MapLookup, mapped: u32) -> u32 {
    let known = lookup.known_in(&rules.ruleset.sets);
    let bits = known.and_then(|mut known| known.try_fold(0, |all, (_, data)| Some(all | mark_in(data)?)));
    bits.map_or(u32::MAX, |bits| bits & mapped)
}

/// What [`Survey::updates`] knows a set by: ipsets are the same for all rule sets.
pub(crate) fn updated(number: usize, set: &SetId) -> (Option<usize>, SetId) {
    (matches!(set, SetId::Nftables { .. }).then_some(number), set.clone())
}

/// Bits that a condition looks at.
pub(crate) fn bits_of(condition: &Comparison) -> u32 {
    match condition {
        Comparison::Masked { mask, .. } => *mask as u32,
        Comparison::Ranges(_) => u32::MAX,
    }
}

fn bits(test: &FieldTest) -> u32 {
    bits_of(&test.condition)
}

/// Bits of the mark that are set where a test holds, if it is about nothing else.
fn bits_set(test: &FieldTest) -> u32 {
    match (&test.field, &test.condition) {
        (Field::Mark, Comparison::Masked { mask, value }) if mask == value => *value as u32,
        _ => 0,
    }
}
