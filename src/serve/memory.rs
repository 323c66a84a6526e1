//! What is remembered between readings. `serve` owns it; `check` has none.

use std::time::{Duration, Instant};

use crate::facts::Facts;
use crate::judge::Derived;
use crate::monotonic::Accumulators;
use crate::read::Known;

/// How long rules of legacy tables are taken over while the tables' descriptions stand. Reading costs milliseconds per
/// 1,000 rules, and the kernel has no number that every change moves.
const TABLES_HOLD: Duration = Duration::from_secs(30);

/// How long links, addresses, routes and neighbours are taken over while nothing is notified of; then they are read again to see
/// whether that can be relied on.
const LINKS_HOLD: Duration = Duration::from_secs(600);

/// Only a reading that was not cut enters it.
#[derive(Debug)]
pub(crate) struct Memory {
    /// How long what was read of entries of connection tracking is taken over at least.
    flows_hold: Duration,
    known: Known,
    counters: Accumulators,
    derived: Derived,
}

impl Memory {
    /// Nothing is remembered yet. `flows_hold`: see `--collector.flows.interval`.
    pub(crate) fn new(flows_hold: Duration) -> Self {
        Self { flows_hold, known: Known::default(), counters: Accumulators::default(), derived: Derived::default() }
    }

    /// What a reading that begins now may take over.
    pub(crate) fn known(&mut self, now: Instant) -> Known {
        self.known.forget_tables(now, TABLES_HOLD);
        self.known.verify(now, LINKS_HOLD);
        self.known.age_flows(now, self.flows_hold);
        self.known.clone()
    }

    /// Takes in what a reading has left that began then, and continues its counters beyond wraps and rules that are
    /// gone. Readings are numbered in the order in which they began. Returns whether rules were decoded anew.
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

    /// Lends what was derived from the facts of the last reading: judging takes its time. What is not given back is derived again.
    pub(crate) fn lend_derived(&mut self) -> Derived {
        std::mem::take(&mut self.derived)
    }

    /// Takes back what was lent.
    pub(crate) fn give_back(&mut self, derived: Derived) {
        self.derived = derived;
    }

    /// Continues the counters of a reading that was cut, which leaves nothing behind.
    pub(crate) fn continue_counters(&self, facts: &mut Facts) {
        self.counters.clone().apply(u64::MAX, facts);
    }
}
