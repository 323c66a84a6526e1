//! Summaries built while conntrack entries arrive; nothing here stores a list of entries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::frequent::Frequent;
use crate::facts::{
    DEFAULT_PORTS, Failure, FlowCount, FlowProtocol, FlowSample, FlowState, PortKey, PortsUsed, RewrittenFlow,
    RewrittenFlows, SnatPorts, UdpClient, UdpTranslation, UdpTranslations,
};
use crate::netfilter::conntrack::{
    Addresses, Entry, IPS_ASSURED, IPS_DST_NAT, IPS_EXPECTED, IPS_OFFLOAD, IPS_SEEN_REPLY, IPS_SRC_NAT, Tuple,
};
use crate::read::known::flows::Wanted;

/// Destinations whose ports are counted at the same time. With 16,384 entries no count is low by more than 16.
const DESTINATIONS: usize = 1024;
/// Destinations that are reported.
const MOST_USED: usize = 64;
/// Translated source addresses; a node has a few.
const SOURCES: usize = 256;
/// Clients of one destination that are counted at the same time.
const CLIENTS: usize = 16;
/// Clients of one destination that are reported.
const MOST_CLIENTS: usize = 5;
/// Rewritten tunnel flows that are reported one by one: there is one per pair of nodes and flow hash, and a few
/// suffice.
const REWRITTEN: usize = 64;
/// Groups of translated UDP entries: one per pair of original and translated destination. A Kubernetes node with 1,000
/// UDP Services of 4 endpoints each, all in use, has this many.
const TRANSLATIONS: usize = 4096;
/// Entries of one such group that are reported one by one.
const CLIENTS_EACH: usize = 4;

const TCP: u8 = 6;
/// `IPPROTO_UDP`
pub(super) const UDP: u8 = 17;

/// One direction of an entry (`CTA_TUPLE_ORIG`, `CTA_TUPLE_REPLY`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowEnds {
    /// Address and port.
    pub source: (IpAddr, u16),
    /// Address and port.
    pub destination: (IpAddr, u16),
    zone: Option<u16>,
}

/// The parts of an entry that summaries use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FlowEntry {
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Original direction.
    pub original: FlowEnds,
    /// Reply direction.
    pub reply: FlowEnds,
    zone: u16,
    /// `IPS_*`
    pub status: u32,
    timeout: u32,
    /// `enum tcp_conntrack`; `None` if not TCP, or about to be removed.
    tcp_state: Option<u8>,
}

impl FlowEntry {
    /// Fails if a required attribute is missing.
    pub(super) fn new(entry: &Entry<'_>) -> Result<Self, Failure> {
        let missing = |what: &str| Failure::unexpected(format!("an entry without {what}"));
        let original = entry.original.as_ref().ok_or_else(|| missing("CTA_TUPLE_ORIG"))?;
        let reply = entry.reply.as_ref().ok_or_else(|| missing("CTA_TUPLE_REPLY"))?;
        let protocol = original.protocol.as_ref().and_then(|protocol| protocol.number);
        Ok(Self {
            protocol: protocol.ok_or_else(|| missing("CTA_PROTO_NUM"))?,
            original: ends(original).ok_or_else(|| missing("addresses"))?,
            reply: ends(reply).ok_or_else(|| missing("addresses"))?,
            zone: entry.zone.unwrap_or(0),
            status: entry.status.ok_or_else(|| missing("CTA_STATUS"))?,
            timeout: entry.timeout.unwrap_or(0), // missing for one that is about to be removed
            tcp_state: entry.protocol.as_ref().and_then(|protocol| protocol.tcp.as_ref()?.state),
        })
    }

    fn kind(&self) -> (FlowProtocol, FlowState) {
        match (self.protocol, self.status & IPS_SEEN_REPLY) {
            (TCP, _) => (FlowProtocol::Tcp, tcp_state(self.tcp_state)),
            (UDP, 0) => (FlowProtocol::Udp, FlowState::OneWay),
            (UDP, _) => (FlowProtocol::Udp, FlowState::TwoWay),
            (1 | 58, _) => (FlowProtocol::Icmp, FlowState::All),
            _ => (FlowProtocol::Other, FlowState::All),
        }
    }

    fn has_ports(&self) -> bool {
        matches!(self.protocol, TCP | UDP | 33 | 132 | 136)
    }

    /// Whether source NAT changed its source address or port.
    fn has_other_source(&self) -> bool {
        self.status & IPS_SRC_NAT != 0 && self.reply.destination != self.original.source
    }
}

fn ends(tuple: &Tuple<'_>) -> Option<FlowEnds> {
    let (source, destination) = addresses(tuple.addresses.as_ref()?)?;
    let ports = tuple.protocol.as_ref()?;
    Some(FlowEnds {
        source: (source, ports.source_port.unwrap_or(0)),
        destination: (destination, ports.destination_port.unwrap_or(0)),
        zone: tuple.zone,
    })
}

fn addresses(addresses: &Addresses<'_>) -> Option<(IpAddr, IpAddr)> {
    let v4 = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from);
    let v6 = |bytes: &[u8]| <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from);
    match addresses {
        Addresses { v4_source: Some(source), v4_destination: Some(destination), .. } => {
            Some((v4(source)?, v4(destination)?))
        }
        Addresses { v6_source: Some(source), v6_destination: Some(destination), .. } => {
            Some((v6(source)?, v6(destination)?))
        }
        _ => None,
    }
}

/// `enum tcp_conntrack`; `None`: an entry about to be removed has no state.
fn tcp_state(state: Option<u8>) -> FlowState {
    match state {
        Some(1) => FlowState::SynSent,
        Some(2) => FlowState::SynRecv,
        Some(3) => FlowState::Established,
        Some(4) => FlowState::FinWait,
        Some(5) => FlowState::CloseWait,
        Some(6) => FlowState::LastAck,
        Some(7) => FlowState::TimeWait,
        Some(8) => FlowState::Close,
        Some(9) => FlowState::SynSent2,
        _ => FlowState::None,
    }
}

/// Composition of the entries seen.
#[derive(Debug, Default)]
pub(super) struct Composition {
    sample: FlowSample,
}

impl Composition {
    /// Counts one entry.
    pub(super) fn add(&mut self, flow: &FlowEntry) {
        self.sample.sampled += 1;
        let count: &mut FlowCount = self.sample.composition.entry(flow.kind()).or_default();
        count.entries += 1;
        count.assured += u64::from(flow.status & IPS_ASSURED != 0);
        self.sample.evictable += u64::from(flow.status & (IPS_ASSURED | IPS_OFFLOAD) == 0);
    }

    /// Number of entries counted.
    pub(super) fn sampled(&self) -> u64 {
        self.sample.sampled
    }

    /// The result. `whole`: all entries were counted; else the table has `entries`.
    pub(super) fn end(self, entries: u64, whole: bool) -> FlowSample {
        let entries = if whole { self.sample.sampled } else { entries.max(self.sample.sampled) };
        FlowSample { entries, ..self.sample }
    }
}

#[derive(Debug, Default)]
struct Counted {
    time_wait: u64,
    clients: Clients,
}

/// Clients of one destination. Most destinations have one connection, for which nothing is allocated.
#[derive(Debug, Default)]
enum Clients {
    #[default]
    None,
    One(IpAddr),
    Counted(Frequent<IpAddr, ()>),
}

impl Clients {
    fn add(&mut self, client: IpAddr) {
        let first = match self {
            Self::None => return *self = Self::One(client),
            Self::One(first) => *first,
            Self::Counted(counts) => {
                counts.add(client);
                return;
            }
        };
        let mut counts = Frequent::new(CLIENTS);
        counts.add(first);
        counts.add(client);
        *self = Self::Counted(counts);
    }

    fn into_counts(self) -> Vec<(IpAddr, u64)> {
        match self {
            Self::None => Vec::new(),
            Self::One(client) => vec![(client, 1)],
            Self::Counted(counts) => counts.into_counts().map(|(client, count, ())| (client, count)).collect(),
        }
    }
}

/// Source ports in use, by destination.
#[derive(Debug)]
pub(super) struct PortCounts<'w> {
    wanted: &'w Wanted,
    counts: Frequent<PortKey, Counted>,
    /// Translated source addresses seen.
    given: Frequent<IpAddr, ()>,
    low: u64,
    sampled: u64,
}

impl<'w> PortCounts<'w> {
    /// Counts the ports in these ranges.
    pub(super) fn new(wanted: &'w Wanted) -> Self {
        Self { wanted, counts: Frequent::new(DESTINATIONS), given: Frequent::new(SOURCES), low: 0, sampled: 0 }
    }

    /// Counts one entry.
    pub(super) fn add(&mut self, flow: &FlowEntry) {
        self.sampled += 1;
        if !flow.has_ports() || self.wanted.ranges.is_empty() {
            return;
        }
        let (source, taken) = flow.reply.destination;
        let (destination, port) = flow.reply.source;
        if flow.has_other_source() {
            self.given.add(source);
            self.low += u64::from(taken < DEFAULT_PORTS.0);
        }
        let zone = flow.reply.zone.unwrap_or(flow.zone);
        let mut counted_in = None;
        for range in self.wanted.ranges.iter().filter(|range| range.has(source, taken)) {
            if counted_in.replace(range.ports) == Some(range.ports) {
                continue; // two rules with equal ranges, which are adjacent
            }
            let key = PortKey { zone, protocol: flow.protocol, source, destination, port, range: range.ports };
            if let Some(counted) = self.counts.add(key) {
                counted.time_wait += u64::from(flow.kind().1 == FlowState::TimeWait);
                counted.clients.add(flow.original.source.0);
            }
        }
    }

    /// The result. `whole`: all entries were counted; else the table has `entries`.
    pub(super) fn end(self, entries: u64, whole: bool) -> SnatPorts {
        let Self { counts, given, low, sampled, .. } = self;
        let (uncounted, entries) = (counts.uncounted(), if whole { sampled } else { entries.max(sampled) });
        let given: BTreeSet<IpAddr> = given.into_counts().map(|(address, ..)| address).collect();
        let mut used: Vec<PortsUsed> = counts
            .into_counts()
            .filter(|(key, ..)| given.contains(&key.source))
            .map(|(key, count, Counted { time_wait, clients })| {
                let exact = whole && uncounted == 0;
                let scaled = |count| crate::facts::scaled(count, sampled, entries);
                let share = count as f64 / sampled.max(1) as f64;
                let error = (share * (1.0 - share) / sampled.max(1) as f64).sqrt() * entries as f64;
                let error = if whole { uncounted as f64 } else { error };
                let mut clients = clients.into_counts();
                clients.iter_mut().for_each(|(_, count)| *count = scaled(*count));
                clients.sort_by_key(|(client, count)| (std::cmp::Reverse(*count), *client));
                clients.truncate(MOST_CLIENTS);
                let time_wait = scaled(time_wait.min(count));
                PortsUsed { key, used: scaled(count), time_wait, error: (!exact).then_some(error), clients }
            })
            .collect();
        used.sort_by(PortsUsed::fuller_first);
        used.truncate(MOST_USED);
        SnatPorts { used, uncounted, low, sampled, entries }
    }
}

/// Rewritten flows of this node's tunnels.
#[derive(Debug)]
pub(super) struct Tunnels<'w> {
    wanted: &'w Wanted,
    /// Addresses of this host; `None`: not known, so every source counts.
    local: Option<BTreeSet<IpAddr>>,
    found: RewrittenFlows,
}

impl<'w> Tunnels<'w> {
    /// For tunnels on these ports, with packets from these addresses.
    pub(super) fn new(wanted: &'w Wanted, local: Option<BTreeSet<IpAddr>>) -> Self {
        Self { wanted, local, found: RewrittenFlows::default() }
    }

    /// Adds one entry, if it is a rewritten tunnel flow.
    pub(super) fn add(&mut self, flow: &FlowEntry) {
        let (peer, tunnel_port) = flow.original.destination;
        let (source, port) = flow.original.source;
        let is_ours = || self.local.as_ref().is_none_or(|local| local.contains(&source));
        let is_tunnel = flow.protocol == UDP && self.wanted.tunnel_ports.contains(&tunnel_port);
        if is_tunnel && flow.has_other_source() && is_ours() {
            self.found.count += 1;
            if self.found.first.len() < REWRITTEN {
                let rewritten_port = flow.reply.destination.1;
                self.found.first.push(RewrittenFlow { tunnel_port, peer, port, rewritten_port });
            }
        }
    }

    /// The result, sorted.
    pub(super) fn end(mut self) -> RewrittenFlows {
        self.found.first.sort_by_key(|flow| (flow.tunnel_port, flow.peer, flow.port));
        self.found
    }
}

type Destination = (IpAddr, u16);

/// UDP entries with a translated destination.
#[derive(Debug)]
pub(super) struct Translations<'m> {
    /// What the previous reading found, and the minimum number of seconds since then.
    earlier: BTreeMap<(Destination, Destination), &'m UdpTranslation>,
    at_least: u64,
    found: BTreeMap<(Destination, Destination), (u64, Vec<UdpClient>)>,
    /// Whether there was no room for a group.
    pub(super) overflowed: bool,
}

impl<'m> Translations<'m> {
    /// To be compared with the previous reading and the minimum time since then, if there was one.
    pub(super) fn new(earlier: Option<(&'m UdpTranslations, std::time::Duration)>) -> Self {
        let each = earlier.iter().flat_map(|(found, _)| &found.each);
        Self {
            earlier: each.map(|translation| ((translation.destination, translation.target), translation)).collect(),
            at_least: earlier.map_or(0, |(_, at_least)| at_least.as_secs()),
            found: BTreeMap::new(),
            overflowed: false,
        }
    }

    /// Adds one entry, if it is UDP with a translated destination.
    pub(super) fn add(&mut self, flow: &FlowEntry) {
        if flow.protocol != UDP || flow.status & IPS_DST_NAT == 0 || flow.status & IPS_EXPECTED != 0 {
            return;
        }
        let key = (flow.original.destination, flow.reply.source);
        if key.0 == key.1 {
            return;
        }
        if self.found.len() >= TRANSLATIONS && !self.found.contains_key(&key) {
            self.overflowed = true;
            return;
        }
        let (source, zone, timeout) = (flow.original.source, flow.original.zone.unwrap_or(flow.zone), flow.timeout);
        let before = self
            .earlier
            .get(&key)
            .and_then(|earlier| earlier.clients.iter().find(|client| (client.source, client.zone) == (source, zone)));
        // Timeouts are rounded down to seconds, and decrease with time unless refreshed.
        let refilled = before.map(|before| u64::from(timeout) + self.at_least > u64::from(before.timeout));
        let client = UdpClient { source, zone, timeout, refilled };
        let (entries, clients) = self.found.entry(key).or_default();
        *entries += 1;
        if clients.len() < CLIENTS_EACH {
            clients.push(client);
        } else if refilled.is_some()
            && let Some(place) = clients.iter_mut().find(|client| client.refilled.is_none())
        {
            *place = client; // entries with a previous value say more
        }
    }

    /// The result.
    pub(super) fn end(self) -> UdpTranslations {
        let each = self.found.into_iter().map(|((destination, target), (entries, clients))| UdpTranslation {
            destination,
            target,
            entries,
            clients,
        });
        UdpTranslations { each: each.collect() }
    }
}

#[cfg(test)]
mod tests;
