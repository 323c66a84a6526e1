//! Counters of source-NAT rules, added up rule by rule: a rule that goes or is written anew makes neither a dip nor a
//! spike.
//!
//! A rule is the same one in two readings if backend, family, table, chain and fingerprint are; equal rules are paired by
//! what they counted so that as little as possible is added. Lower than before is a fresh start. A rule that is gone is
//! remembered for a while, because one that is restored with its counters a moment later would else be counted twice.
//!
//! Which kinds of rules have series does not depend on how many rules they have, so that series do not come and go. Only a
//! kind that has no rule left gives its place to one that has.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::Name;
use crate::facts::netfilter::{Backend, Counter, Family, SourceNatKind, SourceNatRule, SourceNatTotal};

/// Rules that are gone and still remembered, in case they come back with their counters (`iptables-restore --counters`,
/// a reading between deletion and restoration). A node that starts and stops a thousand pods an hour, with a rule or two
/// each, remembers half a day; that takes about 3 MB. Rules that are there now are bounded by the reading itself.
const MAX_GONE: usize = 16_384;

/// What makes a rule the same one in two readings. Equal rules share it; they are told apart by what they counted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RuleId {
    backend: Backend,
    family: Family,
    table: Name,
    chain: Name,
    fingerprint: u64,
}

/// What one rule showed when it was last there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    counter: Counter,
    reading: u64,
}

/// Sums by kind that never fall.
#[derive(Clone, Debug, Default)]
pub(super) struct Counting {
    latest: u64,
    rules: BTreeMap<RuleId, Vec<Shown>>,
    kinds: BTreeMap<SourceNatKind, Option<Counter>>,
}

impl Counting {
    /// Replaces the sums over the rules of one reading by continued ones. Kinds that were ever seen are in `totals`
    /// afterwards, with 0 rules where none is left.
    pub(super) fn apply(
        &mut self,
        reading: u64,
        rules: &[SourceNatRule],
        totals: &mut BTreeMap<SourceNatKind, SourceNatTotal>,
    ) {
        if reading >= self.latest {
            self.latest = reading;
            for (id, counted) in by_identity(rules) {
                self.advance(reading, id, &counted);
            }
            self.forget(reading);
        }
        for kind in totals.keys() {
            self.kinds.entry(*kind).or_default();
        }
        for (kind, counted) in &self.kinds {
            totals.entry(*kind).or_default().counted = *counted;
        }
    }

    /// Adds what equal rules counted since they were last seen.
    fn advance(&mut self, reading: u64, id: RuleId, counted: &[(Counter, SourceNatKind)]) {
        let counters: Vec<Counter> = counted.iter().map(|(counter, _)| *counter).collect();
        let increases = increases(self.rules.entry(id).or_default(), reading, &counters);
        for ((_, kind), increase) in counted.iter().zip(increases) {
            let sum = self.kinds.entry(*kind).or_default().get_or_insert_default();
            sum.packets = sum.packets.saturating_add(increase.packets);
            sum.bytes = sum.bytes.saturating_add(increase.bytes);
        }
    }

    /// Forgets rules that are gone, the longest gone first, until few enough are left.
    fn forget(&mut self, reading: u64) {
        let gone = |shown: &&Shown| shown.reading != reading;
        let mut readings: Vec<u64> = self.rules.values().flatten().filter(gone).map(|shown| shown.reading).collect();
        let Some(excess) = readings.len().checked_sub(MAX_GONE).filter(|excess| *excess > 0) else { return };
        readings.sort_unstable();
        let newest = readings[excess - 1];
        let mut ties = readings[..excess].iter().filter(|reading| **reading == newest).count();
        self.rules.retain(|_, known| {
            known.retain(|shown| {
                let tie = shown.reading == newest && ties > 0;
                ties -= usize::from(tie);
                shown.reading > newest || (shown.reading == newest && !tie)
            });
            !known.is_empty()
        });
    }
}

/// An anonymous chain has another name whenever its rules are written.
fn lasting_name(chain: &Name) -> Name {
    if chain.starts_with("__chain") { Name::default() } else { chain.clone() }
}

/// The rules that have counters, equal ones together, those that counted most first.
fn by_identity(rules: &[SourceNatRule]) -> BTreeMap<RuleId, Vec<(Counter, SourceNatKind)>> {
    let mut groups: BTreeMap<RuleId, Vec<(Counter, SourceNatKind)>> = BTreeMap::new();
    for rule in rules {
        let Some(counter) = rule.counter else { continue };
        let SourceNatRule { backend, family, fingerprint, .. } = *rule;
        let id = RuleId { backend, family, table: rule.table.clone(), chain: lasting_name(&rule.chain), fingerprint };
        groups.entry(id).or_default().push((counter, rule.kind()));
    }
    for group in groups.values_mut() {
        group.sort_by_key(|(counter, _)| std::cmp::Reverse((counter.packets, counter.bytes)));
    }
    groups
}

/// How much each of some equal rules counted since it was last seen; `known` becomes what is remembered from now on.
///
/// `counters` are sorted, the highest first. Which of them is which of the `known` ones cannot be seen; they are
/// paired so that as little as possible is added: first with those that were there when one of them was last seen, then
/// with those that were gone by then. What is lower than everything known began again at 0.
fn increases(known: &mut Vec<Shown>, reading: u64, counters: &[Counter]) -> Vec<Counter> {
    let last = known.iter().map(|shown| shown.reading).max();
    let (present, gone): (Vec<Shown>, Vec<Shown>) = known.drain(..).partition(|shown| Some(shown.reading) == last);
    let (mut present, mut gone) = (Candidates::new(&present), Candidates::new(&gone));
    let mut bases: Vec<Option<Counter>> = counters.iter().map(|counter| present.take(*counter)).collect();
    for (base, counter) in bases.iter_mut().zip(counters).filter(|(base, _)| base.is_none()) {
        *base = gone.take(*counter);
    }
    // Each that began again is one of the known ones, whose old counts are past.
    for _ in bases.iter().filter(|base| base.is_none()) {
        let _ = present.0.pop_last().or_else(|| gone.0.pop_last());
    }
    known.extend(present.rest().chain(gone.rest()));
    known.extend(counters.iter().map(|counter| Shown { counter: *counter, reading }));
    counters.iter().zip(bases).map(|(counter, base)| since(*counter, base.unwrap_or_default())).collect()
}

/// Rules that one may have been: packets, bytes, reading, and a number that keeps equal ones apart. In order, because a
/// script that adds the same rule every minute makes thousands of equal ones.
struct Candidates(BTreeSet<(u64, u64, u64, usize)>);

impl Candidates {
    fn new(known: &[Shown]) -> Self {
        let entry = |(at, shown): (usize, &Shown)| (shown.counter.packets, shown.counter.bytes, shown.reading, at);
        Self(known.iter().enumerate().map(entry).collect())
    }

    /// Takes out the highest that can have become `counter`.
    fn take(&mut self, counter: Counter) -> Option<Counter> {
        let lower = self.0.range(..=(counter.packets, counter.bytes, u64::MAX, usize::MAX));
        let found = *lower.rev().find(|(_, bytes, ..)| *bytes <= counter.bytes)?;
        self.0.remove(&found);
        Some(Counter { packets: found.0, bytes: found.1 })
    }

    fn rest(self) -> impl Iterator<Item = Shown> {
        self.0.into_iter().map(|(packets, bytes, reading, _)| Shown { counter: Counter { packets, bytes }, reading })
    }
}

fn since(counter: Counter, base: Counter) -> Counter {
    Counter { packets: counter.packets - base.packets, bytes: counter.bytes - base.bytes }
}

#[cfg(test)]
mod tests;
