//! State that makes counters monotonic across readings: per-CPU conntrack counters that wrap, and NAT rules that are
//! deleted and re-created. Owned by `serve::memory`.
//!
//! Conntrack counters have 32 bits and are extended per CPU: a step of more than half of 2³² is a restart from 0, not
//! an increase.

mod rules;

use std::collections::BTreeMap;

use crate::facts::{ConntrackCounter, ConntrackCpu, Facts, Reading};

/// Accumulators of a running exporter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulators {
    conntrack: Unwrapping,
    rules: rules::Counting,
}

impl Accumulators {
    /// Replaces the kernel's values by accumulated ones.
    ///
    /// `reading` numbers readings by their start. If a newer reading has been applied before, the facts get that one's
    /// values.
    pub(crate) fn apply(&mut self, reading: u64, facts: &mut Facts) {
        if let Reading::Ok(cpus) = &mut facts.conntrack.cpus {
            self.conntrack.apply(reading, cpus);
        }
        if let (Reading::Ok(rules), Reading::Ok(totals)) = (&facts.source_nat_rules, &mut facts.source_nat_totals) {
            self.rules.apply(reading, rules, totals);
        }
    }
}

/// Accumulated per-CPU conntrack counters.
#[derive(Clone, Debug, Default)]
struct Unwrapping {
    latest: u64,
    counters: BTreeMap<(u16, ConntrackCounter), Unwrapped>,
}

/// A 32-bit kernel counter extended to 64 bits.
#[derive(Clone, Copy, Debug)]
struct Unwrapped {
    last: u32,
    total: u64,
}

impl Unwrapped {
    fn advance(&mut self, value: u32) {
        let step = value.wrapping_sub(self.last);
        // A step of more than half the range is no increase: the module was reloaded, and the counter restarted from 0.
        self.total += u64::from(if step <= u32::MAX / 2 { step } else { value });
        self.last = value;
    }
}

impl Unwrapping {
    /// Replaces the kernel's values by accumulated ones. CPUs missing in this reading keep theirs.
    fn apply(&mut self, reading: u64, cpus: &mut Vec<ConntrackCpu>) {
        let news = reading >= self.latest;
        self.latest = self.latest.max(reading);
        for (index, cpu) in cpus.iter().enumerate().filter(|_| news) {
            let key = cpu.cpu.unwrap_or(u16::try_from(index).unwrap_or(u16::MAX));
            for (counter, value) in &cpu.counters {
                let value = u32::try_from(*value).unwrap_or(u32::MAX); // the sources have 32 bits
                self.counters
                    .entry((key, *counter))
                    .and_modify(|unwrapped| unwrapped.advance(value))
                    .or_insert(Unwrapped { last: value, total: value.into() });
            }
        }
        let numbered = cpus.iter().all(|cpu| cpu.cpu.is_some());
        let mut continued: BTreeMap<u16, ConntrackCpu> = BTreeMap::new();
        for ((key, counter), unwrapped) in &self.counters {
            let cpu = continued.entry(*key).or_default();
            cpu.cpu = numbered.then_some(*key);
            cpu.counters.insert(*counter, unwrapped.total);
        }
        *cpus = continued.into_values().collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::CounterRow;
    use crate::read;

    use ConntrackCounter::{Drop, InsertFailed};

    fn reading(accumulators: &mut Accumulators, cpus: &[u32]) -> u64 {
        numbered_reading(accumulators, accumulators.conntrack.latest + 1, cpus)
    }

    fn numbered_reading(accumulators: &mut Accumulators, number: u64, cpus: &[u32]) -> u64 {
        let mut facts = read::replay(&read::testing::capture(), &Default::default());
        let row = |value: &u32| CounterRow::from([(InsertFailed, u64::from(*value)), (Drop, 0)]);
        facts.conntrack.cpus =
            Reading::Ok(cpus.iter().map(|value| ConntrackCpu { cpu: None, counters: row(value) }).collect());
        accumulators.apply(number, &mut facts);
        assert_eq!(facts.conntrack.totals().ok().unwrap()[&Drop], 0);
        facts.conntrack.totals().ok().unwrap()[&InsertFailed]
    }

    #[test]
    fn a_wrap_on_one_cpu_is_neither_a_drop_nor_a_jump() {
        let mut accumulators = Accumulators::default();
        let start = reading(&mut accumulators, &[u32::MAX - 1, 10]);
        assert_eq!(start, u64::from(u32::MAX - 1) + 10);
        assert_eq!(reading(&mut accumulators, &[3, 11]), start + 5 + 1);
        assert_eq!(reading(&mut accumulators, &[3, 11]), start + 6);
    }

    #[test]
    fn a_look_that_is_finished_late_changes_nothing() {
        let mut accumulators = Accumulators::default();
        assert_eq!(numbered_reading(&mut accumulators, 1, &[100]), 100);
        assert_eq!(numbered_reading(&mut accumulators, 2, &[150]), 150);
        assert_eq!(numbered_reading(&mut accumulators, 1, &[100]), 150, "the first reading, by a scrape that was late");
        assert_eq!(numbered_reading(&mut accumulators, 3, &[151]), 151);
    }

    #[test]
    fn a_counter_that_begins_again_does_not_jump_and_a_cpu_that_goes_does_not_dip() {
        let mut accumulators = Accumulators::default();
        assert_eq!(reading(&mut accumulators, &[1000, 500]), 1500);
        assert_eq!(reading(&mut accumulators, &[2, 500]), 1502);
        assert_eq!(reading(&mut accumulators, &[4]), 1504);
        assert_eq!(reading(&mut accumulators, &[4, 501]), 1505);
    }
}
