//! What earlier readings have read of entries, how old it is, and when it may be read again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::wanted::{Rulesets, Wanted};
use crate::facts::{FlowReading, FlowSample, RewrittenFlows, SnatPorts, UdpTranslations};
use crate::read::Sources;

/// What is remembered of entries.
#[derive(Clone, Debug, Default)]
pub struct KnownFlows {
    /// The rules, and what they make worth knowing.
    pub(super) rules: Option<(Rulesets, Wanted)>,
    pub(super) wanted: Wanted,
    pub(super) sample: KeptPart<FlowSample>,
    /// Of the sample.
    pub(super) estimates: Option<Arc<SnatPorts>>,
    pub(super) ports: KeptPart<SnatPorts>,
    pub(super) tunnels: KeptPart<RewrittenFlows>,
    pub(super) udp: KeptPart<UdpTranslations>,
    pub(super) sources: Sources,
    /// This is the second reading of two that follow each other at once.
    pub(super) again: bool,
}

/// A part, and when it was read.
#[derive(Clone, Debug)]
pub(super) struct KeptPart<T> {
    pub(super) part: Option<FlowReading<T>>,
    since: Option<Instant>,
    /// CPU time that it took.
    cost: Duration,
    /// It may be read again.
    pub(super) due: bool,
}

impl<T> Default for KeptPart<T> {
    fn default() -> Self {
        Self { part: None, since: None, cost: Duration::ZERO, due: true }
    }
}

impl<T> KeptPart<T> {
    pub(super) fn new(part: FlowReading<T>, cost: Duration) -> Self {
        Self { part: Some(part), since: None, cost, due: false }
    }

    fn age(&mut self, now: Instant, interval: Duration) {
        let Some((part, since)) = self.part.as_mut().zip(self.since) else { return };
        part.age = now.saturating_duration_since(since);
        self.due = part.age >= interval;
    }

    fn date(&mut self, began: Instant) {
        if self.part.is_some() {
            self.since.get_or_insert(began);
        }
    }
}

impl KnownFlows {
    /// Dates what a reading has read which began then.
    pub fn date(&mut self, began: Instant) {
        self.sample.date(began);
        self.ports.date(began);
        self.tunnels.date(began);
        self.udp.date(began);
    }

    /// How old the parts are now; those may be read again that are older than `interval`, and those that filters select only if
    /// they are older than 200 times what all of them cost.
    pub fn age(&mut self, now: Instant, interval: Duration) {
        /// 0.5 % of one CPU.
        const BUDGET: u32 = 200;
        self.sample.age(now, interval);
        let filtered = interval.max((self.ports.cost + self.tunnels.cost + self.udp.cost).saturating_mul(BUDGET));
        self.ports.age(now, filtered);
        self.tunnels.age(now, filtered);
        self.udp.age(now, filtered);
    }

    /// For a second look at UDP so long after the first, and at nothing else.
    pub fn read_again(&mut self, after: Duration) {
        self.again = true;
        if let Some(part) = &mut self.udp.part {
            part.age = after;
        }
        self.udp.due = true;
        for due in [&mut self.sample.due, &mut self.ports.due, &mut self.tunnels.due] {
            *due = false;
        }
    }
}
