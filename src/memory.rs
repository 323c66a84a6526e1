//! What is remembered between readings. `serve` owns it; `check` has none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::accumulate::Accumulators;
use crate::decode::Known;
use crate::snapshot::netfilter::Ruleset;
use crate::snapshot::{Snapshot, Source};

/// How long rules of legacy tables are taken over while the tables' descriptions stand. Reading costs milliseconds per
/// 1,000 rules, and the kernel has no number that every change moves.
const TABLES_HOLD: Duration = Duration::from_secs(30);

/// Only a reading that was not cut enters it.
#[derive(Debug, Default)]
pub struct Memory {
    known: Known,
    /// Legacy tables among that, and since when.
    tables: BTreeMap<Source, (Arc<Ruleset>, Instant)>,
    counters: Accumulators,
}

impl Memory {
    /// What a reading that begins now may take over.
    pub fn known(&mut self, now: Instant) -> Known {
        let Self { known, tables, .. } = self;
        tables.retain(|source, (_, since)| {
            let holds = now.saturating_duration_since(*since) < TABLES_HOLD;
            if !holds {
                known.forget_tables(*source);
            }
            holds
        });
        known.clone()
    }

    /// Takes in what a reading has left that began then, and continues its counters beyond wraps and rules that are
    /// gone. Readings are numbered in the order in which they began.
    pub fn remember(&mut self, left: Known, started: Instant, number: u64, snapshot: &mut Snapshot) {
        for (source, ruleset) in left.tables() {
            let known = self.tables.get(&source).is_some_and(|(known, _)| Arc::ptr_eq(known, ruleset));
            if !known {
                self.tables.insert(source, (Arc::clone(ruleset), started));
            }
        }
        self.known = left;
        self.counters.apply(number, snapshot);
    }

    /// Continues the counters of a reading that was cut, which leaves nothing behind.
    pub fn continue_counters(&self, snapshot: &mut Snapshot) {
        self.counters.clone().apply(u64::MAX, snapshot);
    }
}
