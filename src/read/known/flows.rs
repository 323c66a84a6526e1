//! What earlier readings have read of entries, how old it is, and when it may be read again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::facts::netfilter::Ruleset;
use crate::facts::{FlowReading, FlowSample, Reading, RewrittenFlows, SnatPorts, UdpTranslations, ports_between};
use crate::read::Sources;

/// What is remembered of entries.
#[derive(Clone, Debug, Default)]
pub(in crate::read) struct KnownFlows {
    /// The rules, and what they make worth knowing.
    pub(in crate::read) rules: Option<(Rulesets, Wanted)>,
    pub(in crate::read) wanted: Wanted,
    pub(in crate::read) sample: KeptPart<FlowSample>,
    /// Of the sample.
    pub(in crate::read) estimates: Option<Arc<SnatPorts>>,
    pub(in crate::read) ports: KeptPart<SnatPorts>,
    pub(in crate::read) tunnels: KeptPart<RewrittenFlows>,
    pub(in crate::read) udp: KeptPart<UdpTranslations>,
    pub(in crate::read) sources: Sources,
    /// This is the second reading of two that follow each other at once.
    pub(in crate::read) second: bool,
}

/// A part, and when it was read.
#[derive(Clone, Debug)]
pub(in crate::read) struct KeptPart<T> {
    pub(in crate::read) part: Option<FlowReading<T>>,
    since: Option<Instant>,
    /// CPU time that it took.
    cost: Duration,
    /// It may be read again.
    pub(in crate::read) due: bool,
}

impl<T> Default for KeptPart<T> {
    fn default() -> Self {
        Self { part: None, since: None, cost: Duration::ZERO, due: true }
    }
}

impl<T> KeptPart<T> {
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
    /// Dates what a reading has read which began then.
    pub(crate) fn date(&mut self, began: Instant) {
        self.sample.date(began);
        self.ports.date(began);
        self.tunnels.date(began);
        self.udp.date(began);
    }

    /// How old the parts are now; those may be read again that are older than `interval`, and those that filters select only if
    /// they are older than 200 times what all of them cost.
    pub(crate) fn age(&mut self, now: Instant, interval: Duration) {
        /// 0.5 % of one CPU.
        const BUDGET: u32 = 200;
        self.sample.age(now, interval);
        let filtered = interval.max((self.ports.cost + self.tunnels.cost + self.udp.cost).saturating_mul(BUDGET));
        self.ports.age(now, filtered);
        self.tunnels.age(now, filtered);
        self.udp.age(now, filtered);
    }

    /// The next reading is a second one of UDP, so long after the first, and of nothing else.
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

/// What is asked of entries on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::read) struct Wanted {
    /// Ports that sources may be translated to.
    pub(in crate::read) ranges: Vec<PortRange>,
    /// There are more ranges than are told apart.
    pub(in crate::read) too_many_ranges: bool,
    /// Ports of the node's tunnels, IPv4 and IPv6.
    pub(in crate::read) tunnel_ports: BTreeSet<u16>,
    /// Rules that were read translate destinations of UDP, or may.
    pub(in crate::read) udp: bool,
}

/// Ports that rules choose from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::read) struct PortRange {
    /// Both ends included.
    pub(in crate::read) ports: (u16, u16),
    /// Addresses that come with them; `None`: any.
    pub(in crate::read) addresses: Option<(IpAddr, IpAddr)>,
}

impl PortRange {
    pub(in crate::read) fn has(&self, address: IpAddr, port: u16) -> bool {
        let (first, last) = self.ports;
        (first..=last).contains(&port) && self.addresses.is_none_or(|(first, last)| first <= address && address <= last)
    }

    pub(in crate::read) fn available(&self) -> u64 {
        ports_between(self.ports)
    }
}

/// Rules of nf_tables, `ip_tables`, `ip6_tables`.
pub(in crate::read) type Rulesets = [Reading<Arc<Ruleset>>; 3];

/// Whether packets meet the same in both: what rules have counted since makes other objects of them.
pub(in crate::read) fn do_the_same(one: &Rulesets, other: &Rulesets) -> bool {
    one.iter().zip(other).all(|pair| match pair {
        (Reading::Ok(one), Reading::Ok(other)) => one.does_the_same_as(other),
        (one, other) => one.without_value() == other.without_value(),
    })
}
