//! Runs of adjacent rules with the same effect, evaluated as one set of packets.
//!
//! Called by `chain`. Evaluated one by one, each rule of a run would cost diagram operations of its own.

use super::{Ends, StepPlace, Walk};
use crate::facts::Name;
use crate::facts::netfilter::{ChainId, Field, FieldTest, MarkWrite, Match, Rule, Step, Verdict};
use crate::symbolic::network::RuleAt;
use crate::symbolic::packets::width;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// Minimum length of a run.
const MIN_RUN: usize = 4;

/// Adjacent rules of a chain with the same effect.
pub(super) struct RunOfRules<'r> {
    /// Index of the rule set in [`Network::rules`](crate::symbolic::network::Network).
    pub(super) set: usize,
    /// The chain.
    pub(super) id: &'r ChainId,
    /// The rules.
    pub(super) rules: &'r [Rule],
    /// Nesting depth of jumps.
    pub(super) depth: usize,
}

impl Walk<'_> {
    /// The longest run at the start of `rules`, and whether it may be evaluated at once.
    pub(super) fn same_effect<'r>(&self, set: usize, id: &ChainId, rules: &'r [Rule]) -> (&'r [Rule], bool) {
        let Some(first) = rules.first().and_then(|rule| self.effect(rule)) else { return (&[], false) };
        let length = rules.iter().take_while(|rule| self.effect(rule).as_ref() == Some(&first)).count();
        // Packets that return from a chain without writes return from it each time.
        let writes = |chain: &Name| self.network.writes(set, &ChainId { chain: chain.clone(), ..id.clone() });
        let comes_back = !matches!(&first, Step::Verdict(Verdict::Jump(chain)) if length >= MIN_RUN && writes(chain));
        (&rules[..length], length >= MIN_RUN && comes_back)
    }

    /// The effect of a rule on the packets it matches, if it is a single one that may be applied twice.
    fn effect(&self, rule: &Rule) -> Option<Step> {
        let mut acting = rule.steps.iter().enumerate().filter(|(_, step)| self.acts(step));
        let (Some((at, only)), None) = (acting.next(), acting.next()) else { return None };
        let tests_mark = |step: &Step| match step {
            Step::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| test.field.mark_bits() != 0),
            Step::Match(Match::Set { fields, .. }) => fields.iter().any(|field| field.mark_bits() != 0),
            _ => false,
        };
        if rule.steps[at..].iter().any(|step| matches!(step, Step::Match(_))) {
            return None;
        }
        match only {
            Step::Verdict(Verdict::Accept | Verdict::Drop | Verdict::Reset | Verdict::Return | Verdict::Jump(_)) => {
                Some(only.clone())
            }
            Step::SetMark(write) => match self.relevant(write, &Field::Mark)? {
                written @ MarkWrite::Exact { keep, take: 0, xor } if keep & xor == 0 => {
                    (!rule.steps.iter().any(tests_mark)).then_some(Step::SetMark(written))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// Evaluates a run. `None`: a match is non-deterministic, so rules are evaluated one by one.
    pub(super) fn run(&mut self, run: &RunOfRules<'_>, packets: PacketSet, ends: &mut Ends) -> Option<PacketSet> {
        let RunOfRules { set, id, rules, depth } = *run;
        // Combine the matches first, which are a smaller diagram than the packets.
        let held = self.held_for(run, packets)?;
        let taken = self.space.and(packets, held);
        let Some(rule) = rules.first().filter(|_| !taken.is_empty()) else { return Some(packets) };
        let rest = self.space.minus(packets, taken);
        let mut met = rules.iter().map(|rule| RuleAt { set, chain: id.clone(), position: rule.position }).zip(rules);
        let met = met.find(|(at, rule)| {
            let held = self.holds(at, rule, packets, depth).unwrap_or(NOTHING);
            !self.space.and(packets, held).is_empty()
        });
        let (at, _) = met?;
        for (number, step) in rule.steps.iter().enumerate().filter(|(_, step)| self.acts(step)) {
            let place = StepPlace { at: &at, number, depth };
            match step {
                Step::Verdict(verdict) => {
                    let mut next = NOTHING;
                    self.verdict(&place, verdict, taken, &mut next, ends);
                    return Some(self.space.or(rest, next));
                }
                Step::SetMark(write) => {
                    let written = self.write(&place, taken, write, &Field::Mark, &Field::ConnectionMark);
                    return Some(self.space.or(rest, written));
                }
                _ => {}
            }
        }
        None
    }

    /// Packets that match a rule. `None`: a match is non-deterministic.
    fn holds(&mut self, at: &RuleAt, rule: &Rule, packets: PacketSet, depth: usize) -> Option<PacketSet> {
        let mut all = EVERYTHING;
        for (number, step) in rule.steps.iter().enumerate() {
            let Step::Match(found) = step else { continue };
            let holds = self.condition(&StepPlace { at, number, depth }, found, packets)?;
            all = self.space.and(all, holds);
        }
        Some(all)
    }

    /// Packets that match any rule of a run. Rules that differ in the values of one field only are combined into one
    /// test.
    fn held_for(&mut self, run: &RunOfRules<'_>, packets: PacketSet) -> Option<PacketSet> {
        let RunOfRules { set, id, rules, depth } = *run;
        let differing: Vec<Option<Differing<'_>>> = rules.iter().map(Differing::of).collect();
        let start = RuleAt { set, chain: id.clone(), position: rules.first()?.position };
        let known =
            |of: &Option<Differing<'_>>| of.as_ref().is_some_and(|of| of.fields().all(|of| self.packets.knows(of)));
        let key = differing.iter().all(known).then_some((start, rules.len(), self.outer, self.packets.family));
        if let Some(known) = key.as_ref().and_then(|key| self.runs.get(key)) {
            return Some(*known);
        }
        let (mut held, mut at) = (Vec::new(), 0);
        while let Some(rule) = rules.get(at) {
            let same = match &differing[at] {
                Some(first) => {
                    differing[at..].iter().take_while(|of| of.as_ref().is_some_and(|of| of.fits(first))).count()
                }
                None => 1,
            };
            let first = RuleAt { set, chain: id.clone(), position: rule.position };
            match &differing[at] {
                Some(of) if same > 1 => {
                    let numbers = differing[at..at + same].iter().flatten().flat_map(|of| of.numbers.iter().copied());
                    let mut all = self.with(of.field, &numbers.collect::<Vec<_>>());
                    for test in &of.others {
                        let holds = self.test(test, packets)?;
                        all = self.space.and(all, holds);
                    }
                    held.push(all);
                }
                _ => held.push(self.holds(&first, rule, packets, depth)?),
            }
            at += same;
        }
        let held = self.space.any(held);
        if let Some(key) = key.filter(|_| !self.is_over()) {
            self.runs.insert(key, held);
        }
        Some(held)
    }
}

/// Fields whose tests hold for the same packets anywhere.
fn is_plain(field: &Field) -> bool {
    use Field::{ConnectionState, DestinationPort, L4Proto, Mark, SourcePort};
    matches!(field, L4Proto | SourcePort | DestinationPort | Mark | ConnectionState) || is_address(field)
}

fn is_address(field: &Field) -> bool {
    matches!(field, Field::Ipv4Source | Field::Ipv4Destination | Field::Ipv6Source | Field::Ipv6Destination)
}

/// Whether a match tests only such fields.
pub(super) fn is_of_fields(found: &Match) -> bool {
    matches!(found, Match::Tests { tests, .. } if tests.iter().all(|test| is_plain(&test.field)))
}

/// A rule of a run, split into the field whose values may vary, and the rest.
struct Differing<'r> {
    field: &'r Field,
    numbers: Vec<(u128, u128)>,
    /// Its other tests.
    others: Vec<&'r FieldTest>,
}

impl<'r> Differing<'r> {
    /// `None`: it has other matches than tests, or the values are not ranges.
    fn of(rule: &'r Rule) -> Option<Self> {
        let mut tests = Vec::new();
        for step in &rule.steps {
            match step {
                Step::Match(Match::Tests { tests: own, inverted: false }) => tests.extend(own),
                Step::Match(_) => return None,
                _ => {}
            }
        }
        if !tests.iter().all(|test| is_plain(&test.field)) {
            return None;
        }
        let is_number = |test: &&FieldTest| !matches!(test.field, Field::Mark | Field::ConnectionState);
        let at = tests.iter().position(|test| is_address(&test.field)).or_else(|| tests.iter().position(is_number))?;
        let FieldTest { field, condition } = tests.remove(at);
        Some(Self { field, numbers: condition.ranges(width(field))?, others: tests })
    }

    fn fields(&self) -> impl Iterator<Item = &'r Field> {
        std::iter::once(self.field).chain(self.others.iter().map(|test| &test.field))
    }

    fn fits(&self, other: &Self) -> bool {
        self.field == other.field && self.others == other.others
    }
}
