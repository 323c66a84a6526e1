//! What dumps of conntrack entries say: a composition sample, source ports in use by SNAT, tunnel flows with a
//! rewritten source port, and UDP entries with a translated destination. Filled by `read::flows`.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, Reading, names};

names! {
    /// Layer 4 protocols that entries are grouped by.
    FlowProtocol {
        /// TCP
        Tcp = "tcp",
        /// UDP
        Udp = "udp",
        /// ICMP and ICMPv6
        Icmp = "icmp",
        /// Any other
        Other = "other",
    }
}

names! {
    /// Entry states: for TCP the kernel's (`tcp_conntrack_names`), for UDP whether both directions were seen.
    FlowState {
        /// `TCP_CONNTRACK_NONE`
        None = "none",
        /// `TCP_CONNTRACK_SYN_SENT`
        SynSent = "syn_sent",
        /// `TCP_CONNTRACK_SYN_RECV`
        SynRecv = "syn_recv",
        /// `TCP_CONNTRACK_ESTABLISHED`
        Established = "established",
        /// `TCP_CONNTRACK_FIN_WAIT`
        FinWait = "fin_wait",
        /// `TCP_CONNTRACK_CLOSE_WAIT`
        CloseWait = "close_wait",
        /// `TCP_CONNTRACK_LAST_ACK`
        LastAck = "last_ack",
        /// `TCP_CONNTRACK_TIME_WAIT`
        TimeWait = "time_wait",
        /// `TCP_CONNTRACK_CLOSE`
        Close = "close",
        /// `TCP_CONNTRACK_SYN_SENT2`
        SynSent2 = "syn_sent2",
        /// UDP seen in the original direction only
        OneWay = "one_way",
        /// UDP seen in both directions
        TwoWay = "two_way",
        /// Protocols without states of their own
        All = "all",
    }
}

names! {
    /// Parts of [`Flows`]; each is read by itself.
    FlowPart {
        /// Composition of the table, from the first entries of a dump
        Sample = "sample",
        /// Ports in use towards the busiest destinations
        Ports = "ports",
        /// Tunnel flows that leave with a rewritten source port
        Tunnels = "tunnels",
        /// UDP entries with a translated destination
        Udp = "udp",
    }
}

/// One part of [`Flows`] with its completeness and age.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowReading<T> {
    /// The value; `Failed(NotNeeded)` if no advisory depends on it.
    pub found: Reading<Arc<T>>,
    /// Whether every entry the value is about was seen.
    pub complete: bool,
    /// Age of the value; 0 if this reading took it.
    pub age: Duration,
}

impl<T> FlowReading<T> {
    /// Not read, for this reason.
    pub fn unread(why: Reading<()>) -> Self {
        let found = why.and_then(|()| Reading::Failed(Failure::unexpected("nothing was read")));
        Self { found, complete: false, age: Duration::ZERO }
    }
}

/// What the conntrack entries of this network namespace say.
#[derive(Clone, Debug, PartialEq)]
pub struct Flows {
    /// The first entries of a dump. Buckets are hashed, so they are a random sample.
    pub sample: FlowReading<FlowSample>,
    /// Source ports in use by SNAT.
    pub ports: FlowReading<SnatPorts>,
    /// Flows of this node's tunnels with a rewritten source port.
    pub tunnels: FlowReading<RewrittenFlows>,
    /// UDP entries with a translated destination.
    pub udp: FlowReading<UdpTranslations>,
}

impl Flows {
    /// All parts unread, for this reason.
    pub fn unread(why: &Reading<()>) -> Self {
        Self {
            sample: FlowReading::unread(why.clone()),
            ports: FlowReading::unread(why.clone()),
            tunnels: FlowReading::unread(why.clone()),
            udp: FlowReading::unread(why.clone()),
        }
    }

    /// The parts that have a value, each with `complete` and `age`.
    pub fn parts(&self) -> Vec<(FlowPart, bool, Duration)> {
        fn part<T>(name: FlowPart, part: &FlowReading<T>) -> Option<(FlowPart, bool, Duration)> {
            part.found.ok().map(|_| (name, part.complete, part.age))
        }
        let all = [
            part(FlowPart::Sample, &self.sample),
            part(FlowPart::Ports, &self.ports),
            part(FlowPart::Tunnels, &self.tunnels),
            part(FlowPart::Udp, &self.udp),
        ];
        all.into_iter().flatten().collect()
    }
}

/// Composition of the first entries of a dump.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowSample {
    /// Size of the table at that time (`nf_conntrack_count`).
    pub entries: u64,
    /// Number of entries read.
    pub sampled: u64,
    /// Entries by protocol and state.
    pub composition: BTreeMap<(FlowProtocol, FlowState), FlowCount>,
    /// Entries that `early_drop` may evict: not assured and not offloaded to a flowtable.
    pub evictable: u64,
}

impl FlowSample {
    /// Extrapolates a count within the sample to the whole table.
    pub fn scaled(&self, sampled: u64) -> u64 {
        scaled(sampled, self.sampled, self.entries)
    }

    /// Evictable share of the sample, 0 to 1; `None` if the sample is empty.
    pub fn evictable_ratio(&self) -> Option<f64> {
        (self.sampled > 0).then(|| self.evictable as f64 / self.sampled as f64)
    }

    /// Share of the table that was read, 0 to 1.
    pub fn ratio(&self) -> f64 {
        if self.entries <= self.sampled { 1.0 } else { self.sampled as f64 / self.entries as f64 }
    }
}

/// Extrapolates `part` of `sampled` entries to a table of `entries`.
pub(crate) fn scaled(part: u64, sampled: u64, entries: u64) -> u64 {
    if sampled == 0 || entries <= sampled {
        return part;
    }
    (part as f64 * entries as f64 / sampled as f64).round() as u64
}

/// A number of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// All entries.
    pub entries: u64,
    /// Those that are assured (`IPS_ASSURED`), so `early_drop` does not evict them.
    pub assured: u64,
}

/// Ports that a rule without a port range chooses from, both ends included (`nf_nat_l4proto_unique_tuple`).
pub(crate) const DEFAULT_PORTS: (u16, u16) = (1024, 65535);
/// The same for connections whose original source port was 512 to 1023, or below 512.
pub(crate) const LOW_PORTS: [(u16, u16); 2] = [(600, 1023), (1, 511)];

/// Number of ports in a range, both ends included.
pub(crate) fn ports_between((first, last): (u16, u16)) -> u64 {
    u64::from(last.saturating_sub(first)) + 1
}

/// Source ports in use by SNAT.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnatPorts {
    /// Per destination, the fullest first.
    pub used: Vec<PortsUsed>,
    /// For estimates: number of sampled entries that any one destination may have beyond those counted for it.
    pub uncounted: u64,
    /// Entries read whose translated source port is below 1024.
    pub low: u64,
    /// Entries read for the estimates.
    pub sampled: u64,
    /// Entries in the table at that time.
    pub entries: u64,
}

/// The space within which translated source ports must be unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Conntrack zone.
    pub zone: u16,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// Translated source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Destination port.
    pub port: u16,
    /// Ports that the rule may choose from, both ends included.
    pub range: (u16, u16),
}

impl PortKey {
    /// Number of ports in `range`.
    pub fn available(&self) -> u64 {
        ports_between(self.range)
    }

    /// Protocol as command lines spell it.
    pub fn protocol_name(&self) -> &'static str {
        match self.protocol {
            6 => "tcp",
            17 => "udp",
            33 => "dccp",
            132 => "sctp",
            _ => "udplite",
        }
    }
}

/// Ports in use towards one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct PortsUsed {
    /// The destination and the ports available.
    pub key: PortKey,
    /// Ports in use, including connections in TIME_WAIT.
    pub used: u64,
    /// Ports in use by connections in TIME_WAIT.
    pub time_wait: u64,
    /// Standard deviation of an estimate, in ports; `None` if all entries were counted.
    pub error: Option<f64>,
    /// Clients with the most ports and their number of ports, most first.
    pub clients: Vec<(IpAddr, u64)>,
}

impl PortsUsed {
    /// Used ÷ available, at most 1.
    pub fn ratio(&self) -> f64 {
        (self.used as f64 / self.key.available() as f64).min(1.0)
    }

    /// Report order: by ratio, fullest first, then by key.
    pub fn fuller_first(&self, other: &Self) -> Ordering {
        other.ratio().total_cmp(&self.ratio()).then(self.key.cmp(&other.key))
    }
}

/// Tunnel flows whose outer source port was rewritten by NAT.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewrittenFlows {
    /// Number of flows.
    pub count: u64,
    /// The first flows of the dump.
    pub first: Vec<RewrittenFlow>,
}

/// A tunnel flow with a rewritten source port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrittenFlow {
    /// UDP destination port of the tunnel.
    pub tunnel_port: u16,
    /// Outer destination address.
    pub peer: IpAddr,
    /// Outer source port as the tunnel chose it.
    pub port: u16,
    /// Outer source port on the wire.
    pub rewritten_port: u16,
}

/// UDP entries with a translated destination, grouped by original and translated destination.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UdpTranslations {
    /// One item per group.
    pub each: Vec<UdpTranslation>,
}

/// UDP entries with the same original and the same translated destination.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpTranslation {
    /// Original destination address and port.
    pub destination: (IpAddr, u16),
    /// Translated destination address and port.
    pub target: (IpAddr, u16),
    /// Number of entries.
    pub entries: u64,
    /// Clients of some entries; of all if they are few.
    pub clients: Vec<UdpClient>,
}

/// The source of one UDP entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpClient {
    /// Source address and port.
    pub source: (IpAddr, u16),
    /// Conntrack zone.
    pub zone: u16,
    /// Seconds until the entry expires unless another packet refreshes it.
    pub timeout: u32,
    /// Whether packets refreshed the entry since the previous reading: the timeout is higher than it was then. `None`
    /// if the previous reading did not have the entry.
    pub refilled: Option<bool>,
}
