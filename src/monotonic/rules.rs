//! Counters of source-NAT rules, accumulated per rule, so that deleting or rewriting a rule causes neither a drop nor a
//! spike.
//!
//! A rule is the same in two readings if backend, family, table, chain and fingerprint are equal; equal rules are
//! matched by their counts so that the increase is minimal. A lower count means a restart from 0. Deleted rules are
//! remembered for a while, because one that is restored with its counters soon after would otherwise be counted twice.
//!
//! Which kinds have series does not depend on their numbers of rules, so that series do not appear and disappear. Only
//! a kind without any rule is replaced by one that has some.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::Name;
use crate::facts::netfilter::{Backend, Counter, Family, SourceNatKind, SourceNatRule, SourceNatTotal};

/// Number of deleted rules that are remembered, in case they are restored with their counters (`iptables-restore
/// --counters`, with a reading between deletion and restoration). On a node that starts and stops a thousand pods an
/// hour, with a rule or two each, it is half a day, in about 3 MB. The number of present rules is limited by the
/// reading itself.
const MAX_GONE: usize = 16_384;

/// Identity of a rule across readings. Equal rules share it and are told apart by their counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RuleId {
    backend: Backend,
    family: Family,
    table: Name,
    chain: Name,
    fingerprint: u64,
}

/// Counts of a rule when it was last seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    counter: Counter,
    reading: u64,
}

/// Monotonic sums by kind.
#[derive(Clone, Debug, Default)]
pub(super) struct Counting {
    latest: u64,
    rules: BTreeMap<RuleId, Vec<Shown>>,
    kinds: BTreeMap<SourceNatKind, Option<Counter>>,
}

impl Counting {
    /// Replaces the sums of one reading by accumulated ones. Afterwards `totals` has every kind ever seen, with 0 rules
    /// if none is left.
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

    /// Adds the increases of equal rules since they were last seen.
    fn advance(&mut self, reading: u64, id: RuleId, counted: &[(Counter, SourceNatKind)]) {
        let counters: Vec<Counter> = counted.iter().map(|(counter, _)| *counter).collect();
        let increases = increases(self.rules.entry(id).or_default(), reading, &counters);
        for ((_, kind), increase) in counted.iter().zip(increases) {
            let sum = self.kinds.entry(*kind).or_default().get_or_insert_default();
            sum.packets = sum.packets.saturating_add(increase.packets);
            sum.bytes = sum.bytes.saturating_add(increase.bytes);
        }
    }

    /// Forgets deleted rules, the oldest first, down to the limit.
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

/// An anonymous chain gets a new name each time its rules are written.
fn lasting_name(chain: &Name) -> Name {
    if chain.starts_with("__chain") { Name::default() } else { chain.clone() }
}

/// Rules with counters by identity, highest counts first.
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

/// Increase of each of several equal rules since it was last seen; `known` is updated.
///
/// `counters` are sorted, highest first. Which of them corresponds to which of `known` is not visible, so they are
/// matched with minimal increase: first with rules present in the last reading of any of them, then with those deleted
/// by then. A counter below all known ones has restarted from 0.
fn increases(known: &mut Vec<Shown>, reading: u64, counters: &[Counter]) -> Vec<Counter> {
    let last = known.iter().map(|shown| shown.reading).max();
    let (present, gone): (Vec<Shown>, Vec<Shown>) = known.drain(..).partition(|shown| Some(shown.reading) == last);
    let (mut present, mut gone) = (Candidates::new(&present), Candidates::new(&gone));
    let mut bases: Vec<Option<Counter>> = counters.iter().map(|counter| present.take(*counter)).collect();
    for (base, counter) in bases.iter_mut().zip(counters).filter(|(base, _)| base.is_none()) {
        *base = gone.take(*counter);
    }
    // Each restarted counter uses up a known one, whose counts are past.
    for _ in bases.iter().filter(|base| base.is_none()) {
        let _ = present.0.pop_last().or_else(|| gone.0.pop_last());
    }
    known.extend(present.rest().chain(gone.rest()));
    known.extend(counters.iter().map(|counter| Shown { counter: *counter, reading }));
    counters.iter().zip(bases).map(|(counter, base)| since(*counter, base.unwrap_or_default())).collect()
}

/// Rules that a counter may belong to: packets, bytes, reading, and a number to distinguish equal ones. Ordered,
/// because a script that adds the same rule every minute creates thousands.
struct Candidates(BTreeSet<(u64, u64, u64, usize)>);

impl Candidates {
    fn new(known: &[Shown]) -> Self {
        let entry = |(at, shown): (usize, &Shown)| (shown.counter.packets, shown.counter.bytes, shown.reading, at);
        Self(known.iter().enumerate().map(entry).collect())
    }

    /// Removes the highest that is not above `counter`.
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
