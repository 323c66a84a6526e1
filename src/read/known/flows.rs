//! Conntrack entries from earlier readings: their age, and when they may be read again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::facts::netfilter::Ruleset;
use crate::facts::{FlowReading, FlowSample, Reading, RewrittenFlows, SnatPorts, UdpTranslations, ports_between};
use crate::read::Sources;

/// What is remembered of conntrack entries.
#[derive(Clone, Debug, Default)]
pub(in crate::read) struct KnownFlows {
    /// The rules, and the `Wanted` derived from them.
    pub(in crate::read) rules: Option<(Rulesets, Wanted)>,
    /// What the last reading needed.
    pub(in crate::read) wanted: Wanted,
    /// The sample.
    pub(in crate::read) sample: KeptPart<FlowSample>,
    /// Port estimates from the sample.
    pub(in crate::read) estimates: Option<Arc<SnatPorts>>,
    /// Exact port counts.
    pub(in crate::read) ports: KeptPart<SnatPorts>,
    /// Rewritten tunnel flows.
    pub(in crate::read) tunnels: KeptPart<RewrittenFlows>,
    /// Translated UDP entries.
    pub(in crate::read) udp: KeptPart<UdpTranslations>,
    /// State of the source.
    pub(in crate::read) sources: Sources,
    /// Whether the next reading is the second of two consecutive ones of UDP entries.
    pub(in crate::read) second: bool,
}

/// One part with the time it was read.
#[derive(Clone, Debug)]
pub(in crate::read) struct KeptPart<T> {
    /// The part; `None`: never read.
    pub(in crate::read) part: Option<FlowReading<T>>,
    since: Option<Instant>,
    /// CPU time spent to read it.
    cost: Duration,
    /// Whether it may be read again.
    pub(in crate::read) due: bool,
}

impl<T> Default for KeptPart<T> {
    fn default() -> Self {
        Self { part: None, since: None, cost: Duration::ZERO, due: true }
    }
}

impl<T> KeptPart<T> {
    /// Read just now, at this cost in CPU time.
    pub(in crate::read) fn new(part: FlowReading<T>, cost: Duration) -> Self {
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
    /// Sets the time of what a reading read that began then.
    pub(crate) fn date(&mut self, began: Instant) {
        self.sample.date(began);
        self.ports.date(began);
        self.tunnels.date(began);
        self.udp.date(began);
    }

    /// Sets the ages. Parts older than `interval` become due; those from filtered dumps only after 200 times their
    /// total cost.
    pub(crate) fn age(&mut self, now: Instant, interval: Duration) {
        /// At most 0.5 % of one CPU.
        const BUDGET: u32 = 200;
        self.sample.age(now, interval);
        let filtered = interval.max((self.ports.cost + self.tunnels.cost + self.udp.cost).saturating_mul(BUDGET));
        self.ports.age(now, filtered);
        self.tunnels.age(now, filtered);
        self.udp.age(now, filtered);
    }

    /// Makes the next reading a second one of UDP entries only, this long after the first.
    pub(crate) fn read_again(&mut self, after: Duration) {
        self.second = true;
        if let Some(part) = &mut self.udp.part {
            part.age = after;
        }
        self.udp.due = true;
        for due in [&mut self.sample.due, &mut self.ports.due, &mut self.tunnels.due] {
            *due = false;
        }
    }
}

/// Which conntrack entries are needed on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::read) struct Wanted {
    /// Port ranges that sources may be translated to.
    pub(in crate::read) ranges: Vec<PortRange>,
    /// Whether there are more ranges than are distinguished.
    pub(in crate::read) too_many_ranges: bool,
    /// UDP ports of the node's tunnels, both families.
    pub(in crate::read) tunnel_ports: BTreeSet<u16>,
    /// Whether rules translate UDP destinations, or may.
    pub(in crate::read) udp: bool,
}

/// Source ports that a rule chooses from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::read) struct PortRange {
    /// First and last port.
    pub(in crate::read) ports: (u16, u16),
    /// First and last translated address; `None`: any.
    pub(in crate::read) addresses: Option<(IpAddr, IpAddr)>,
}

impl PortRange {
    /// Whether a translated source is in this range.
    pub(in crate::read) fn has(&self, address: IpAddr, port: u16) -> bool {
        let (first, last) = self.ports;
        (first..=last).contains(&port) && self.addresses.is_none_or(|(first, last)| first <= address && address <= last)
    }

    /// Number of ports.
    pub(in crate::read) fn available(&self) -> u64 {
        ports_between(self.ports)
    }
}

/// Rule sets of nf_tables, `ip_tables`, `ip6_tables`.
pub(in crate::read) type Rulesets = [Reading<Arc<Ruleset>>; 3];

/// Whether both treat packets the same; they are different objects once counters changed.
pub(in crate::read) fn are_equivalent(one: &Rulesets, other: &Rulesets) -> bool {
    one.iter().zip(other).all(|pair| match pair {
        (Reading::Ok(one), Reading::Ok(other)) => one.is_equivalent_to(other),
        (one, other) => one.without_value() == other.without_value(),
    })
}
