//! State remembered between readings. Owned by `serve`; `check` has none.

use std::time::{Duration, Instant};

use crate::facts::Facts;
use crate::judge::Derived;
use crate::monotonic::Accumulators;
use crate::read::Known;

/// How long rules of legacy tables are kept while the tables' descriptions are unchanged. Reading costs milliseconds
/// per 1,000 rules, and the kernel has no generation number for them.
const TABLES_HOLD: Duration = Duration::from_secs(30);

/// How long links, addresses, routes and neighbours are kept without a notification; then they are read again, to
/// verify that notifications are complete.
const LINKS_HOLD: Duration = Duration::from_secs(600);

/// State remembered between readings. Only readings that were not cut enter it.
#[derive(Debug)]
pub(crate) struct Memory {
    /// How long conntrack entries are kept at least.
    flows_hold: Duration,
    known: Known,
    counters: Accumulators,
    derived: Derived,
}

impl Memory {
    /// Empty. `flows_hold`: see `--collector.flows.interval`.
    pub(crate) fn new(flows_hold: Duration) -> Self {
        Self { flows_hold, known: Known::default(), counters: Accumulators::default(), derived: Derived::default() }
    }

    /// What a reading that starts now may take over.
    pub(crate) fn known(&mut self, now: Instant) -> Known {
        self.known.forget_tables(now, TABLES_HOLD);
        self.known.verify(now, LINKS_HOLD);
        self.known.age_flows(now, self.flows_hold);
        self.known.clone()
    }

    /// Stores what a reading left that started at `began`, and accumulates its counters. Readings are numbered by their
    /// start. Returns whether rules were decoded anew.
    pub(crate) fn remember(&mut self, left: Known, began: Instant, number: u64, facts: &mut Facts) -> bool {
        let decoded = left.has_other_rules_than(&self.known);
        self.known = left;
        self.known.date(began);
        for what in self.known.take_unnotified() {
            tracing::warn!(what, "changed without a notification of the kernel's; please report it");
        }
        self.counters.apply(number, facts);
        decoded
    }

    /// Takes out what was derived from the last reading's facts, for the time of judging. Unless it is given back, it
    /// will be derived anew.
    pub(crate) fn lend_derived(&mut self) -> Derived {
        std::mem::take(&mut self.derived)
    }

    /// Puts it back.
    pub(crate) fn give_back(&mut self, derived: Derived) {
        self.derived = derived;
    }

    /// Accumulates the counters of a reading that was cut, without storing anything.
    pub(crate) fn continue_counters(&self, facts: &mut Facts) {
        self.counters.clone().apply(u64::MAX, facts);
    }
}
