//! What entries of connection tracking tell: what they are, which ports they take, and whose translation no rule gives any more.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Failure, Reading, names};

names! {
    /// Protocols that are counted apart.
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
    /// States of entries: of TCP the kernel's (`tcp_conntrack_names`), of UDP whether it was answered.
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
        /// UDP in one direction
        OneWay = "one_way",
        /// UDP in both
        TwoWay = "two_way",
        /// Whatever the protocol has
        All = "all",
    }
}

names! {
    /// Parts of what is read of entries, each read by itself.
    FlowPart {
        /// The first entries of a dump: what they are
        Sample = "sample",
        /// Ports towards the destinations that take most
        Ports = "ports",
        /// Flows of tunnels that leave with another port
        Tunnels = "tunnels",
        /// UDP whose destination was translated
        Udp = "udp",
    }
}

/// Something that was read of entries, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowReading<T> {
    /// What was read. It fails as not needed where nothing depends on it.
    pub found: Reading<Arc<T>>,
    /// All entries were seen that it is about.
    pub complete: bool,
    /// How long ago it was read; 0 in the reading that read it.
    pub age: Duration,
}

impl<T> FlowReading<T> {
    /// It was not read, for this reason.
    pub fn unread(why: Reading<()>) -> Self {
        let found = why.and_then(|()| Reading::Failed(Failure::unexpected("nothing was read")));
        Self { found, complete: false, age: Duration::ZERO }
    }
}

/// What entries of this network namespace tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Flows {
    /// What the first entries of a dump are, which are a random sample.
    pub sample: FlowReading<FlowSample>,
    /// Ports of translated sources.
    pub ports: FlowReading<SnatPorts>,
    /// Flows of tunnels of this node.
    pub tunnels: FlowReading<RewrittenFlows>,
    /// UDP whose destination was translated.
    pub udp: FlowReading<UdpTranslations>,
}

impl Flows {
    /// Nothing was read, for this reason.
    pub fn unread(why: &Reading<()>) -> Self {
        Self {
            sample: FlowReading::unread(why.clone()),
            ports: FlowReading::unread(why.clone()),
            tunnels: FlowReading::unread(why.clone()),
            udp: FlowReading::unread(why.clone()),
        }
    }

    /// Each part that was read, whether it is complete, and its age.
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

/// What the first entries of a dump are.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FlowSample {
    /// Entries of the table then (`nf_conntrack_count`).
    pub entries: u64,
    /// Entries that were read.
    pub sampled: u64,
    /// By protocol and state.
    pub composition: BTreeMap<(FlowProtocol, FlowState), FlowCount>,
    /// Those that `early_drop` may take to make room: not assured, and in no flowtable.
    pub evictable: u64,
}

impl FlowSample {
    /// What so many of the sample stand for in the whole table.
    pub fn scaled(&self, sampled: u64) -> u64 {
        scaled(sampled, self.sampled, self.entries)
    }

    /// The part of the entries that may be dropped to make room; `None`: there are none.
    pub fn evictable_ratio(&self) -> Option<f64> {
        (self.sampled > 0).then(|| self.evictable as f64 / self.sampled as f64)
    }

    /// The part of the table that was read, at most 1.
    pub fn ratio(&self) -> f64 {
        if self.entries <= self.sampled { 1.0 } else { self.sampled as f64 / self.entries as f64 }
    }
}

/// What `part` of `sampled` entries stands for in a table of `entries`.
pub(crate) fn scaled(part: u64, sampled: u64, entries: u64) -> u64 {
    if sampled == 0 || entries <= sampled {
        return part;
    }
    (part as f64 * entries as f64 / sampled as f64).round() as u64
}

/// How many entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// All of them.
    pub entries: u64,
    /// Those that are not dropped to make room (`IPS_ASSURED`).
    pub assured: u64,
}

/// Ports that a rule chooses from which names none, both ends included (`nf_nat_l4proto_unique_tuple`).
pub(crate) const DEFAULT_PORTS: (u16, u16) = (1024, 65535);
/// The same for connections that had a port from 512 to 1023, and one below 512.
pub(crate) const LOW_PORTS: [(u16, u16); 2] = [(600, 1023), (1, 511)];

/// How many ports there are from one to another, both included.
pub(crate) fn ports_between((first, last): (u16, u16)) -> u64 {
    u64::from(last.saturating_sub(first)) + 1
}

/// Ports of translated sources that are in use.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SnatPorts {
    /// Towards single destinations, the fullest first.
    pub used: Vec<PortsUsed>,
    /// Of an estimate: entries of the sample that one destination can have beyond what was counted of it.
    pub uncounted: u64,
    /// Entries among those that were read which got a port below 1024.
    pub low: u64,
    /// Entries that were read for the estimates, and entries of the table then.
    pub sampled: u64,
    /// See `sampled`.
    pub entries: u64,
}

/// For which translations ports are chosen apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortKey {
    /// Only entries of one zone compete.
    pub zone: u16,
    /// `IPPROTO_*`
    pub protocol: u8,
    /// The address that sources get.
    pub source: IpAddr,
    /// Where they are connected to.
    pub destination: IpAddr,
    /// The port there.
    pub port: u16,
    /// Ports that the rule may choose from, both ends included.
    pub range: (u16, u16),
}

impl PortKey {
    /// How many ports there are.
    pub fn available(&self) -> u64 {
        ports_between(self.range)
    }

    /// The protocol as commands spell it.
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

/// Ports that are used towards one destination.
#[derive(Clone, Debug, PartialEq)]
pub struct PortsUsed {
    /// For what.
    pub key: PortKey,
    /// How many, those of connections in TIME_WAIT included.
    pub used: u64,
    /// Of these, connections in TIME_WAIT.
    pub time_wait: u64,
    /// One standard deviation of an estimate; `None`: all entries were counted.
    pub error: Option<f64>,
    /// Who has most of them, and how many, most first.
    pub clients: Vec<(IpAddr, u64)>,
}

impl PortsUsed {
    /// Used ÷ available, at most 1.
    pub fn ratio(&self) -> f64 {
        (self.used as f64 / self.key.available() as f64).min(1.0)
    }

    /// The order in which they are told.
    pub fn fuller_first(&self, other: &Self) -> Ordering {
        other.ratio().total_cmp(&self.ratio()).then(self.key.cmp(&other.key))
    }
}

/// Flows of tunnels that leave with another source than the tunnel gave them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RewrittenFlows {
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<RewrittenFlow>,
}

/// One of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RewrittenFlow {
    /// The tunnel's port.
    pub tunnel_port: u16,
    /// Where its packets go.
    pub peer: IpAddr,
    /// Their source port as the tunnel gave it.
    pub port: u16,
    /// The port that they leave with.
    pub rewritten_port: u16,
}

/// UDP whose destination was translated: by what was asked for and what it became.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UdpTranslations {
    /// Each once.
    pub each: Vec<UdpTranslation>,
}

/// Entries of UDP that were sent to the same address and port, and given the same one.
#[derive(Clone, Debug, PartialEq)]
pub struct UdpTranslation {
    /// Where they were sent to.
    pub destination: (IpAddr, u16),
    /// Where they go.
    pub target: (IpAddr, u16),
    /// How many entries there are.
    pub entries: u64,
    /// Some of them; of a few entries all.
    pub clients: Vec<UdpClient>,
}

/// Who sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpClient {
    /// Address and port.
    pub source: (IpAddr, u16),
    /// Zone of connection tracking.
    pub zone: u16,
    /// Seconds until the entry is dropped, if no packet comes.
    pub timeout: u32,
    /// Packets have come since the reading before: it had the same entry, with less time left than it has now. `None`: the reading
    /// before did not have it.
    pub refilled: Option<bool>,
}
