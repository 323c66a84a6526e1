//! What is known about a node at one moment: plain data, no input or output, no opinion.
//!
//! Every fact is three-valued at least: [`Reading`] keeps "it is not there" (a fact) apart from "it
//! could not be seen" (no fact). A zero in here is a measured zero.

mod conntrack;
mod flows;
mod kernel;
mod links;
mod name;
mod neighbours;
pub mod netfilter;
mod outer_header;
mod question;
mod reading;
mod routing;
mod shared;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

pub(crate) use conntrack::{Conntrack, ConntrackCounter, ConntrackCpu, CounterRow};
pub(crate) use flows::{
    DEFAULT_PORTS, FlowCount, FlowProtocol, FlowReading, FlowSample, FlowState, Flows, LOW_PORTS, PortKey, PortsUsed,
    RewrittenFlow, RewrittenFlows, SnatPorts, UdpClient, UdpTranslation, UdpTranslations, ports_between, scaled,
};
pub(crate) use kernel::{Build, Kernel, KernelVersion, Numbering, Vendor};
pub(crate) use links::{
    Address, FdbEntry, Feature, FeatureState, Features, Filter, Link, OuterRoute, Route, Toggle, Tunnel, TunnelKind,
    UdpChecksum, upper_devices, with_lower_devices,
};
pub(crate) use name::Name;
pub(crate) use neighbours::{NeighbourTable, Neighbours, OwnNeighbours};
pub(crate) use outer_header::OuterHeader;
pub(crate) use question::{Question, quoted};
pub(crate) use reading::Unanswered;
pub use reading::{Failure, Reading, SystemCall};
pub(crate) use routing::{ForwardedPath, PolicyRule};
pub(crate) use shared::Shared;

/// Declares a closed set of names once: the enum, the list of all members, and each member's public name, by which
/// it is printed and read.
macro_rules! names {
    ($(#[$doc:meta])* $enum:ident { $($(#[$member_doc:meta])* $member:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(unreachable_pub, reason = "some are, for tests")]
        pub enum $enum { $($(#[$member_doc])* $member,)+ }

        #[allow(unreachable_pub, reason = "some are, for tests")]
        impl $enum {
            /// Every member, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$member,)+];

            /// The public name (label value, JSON value, flag).
            pub const fn name(self) -> &'static str {
                match self { $(Self::$member => $name,)+ }
            }

            /// The member with this public name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$member),)+ _ => None }
            }
        }

        impl<'de> serde::Deserialize<'de> for $enum {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let name = String::deserialize(deserializer)?;
                Self::from_name(&name).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|member| member.name()).collect();
                    serde::de::Error::custom(format!("{name:?} is none of {}", known.join(", ")))
                })
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }
    };
}
pub(crate) use names;

names! {
    /// How a source ended.
    SourceState {
        /// Read and understood.
        Ok = "ok",
        /// Not there, which is a fact.
        Absent = "absent",
        /// A permission is missing.
        Denied = "denied",
        /// It went wrong.
        Failed = "failed",
    }
}

names! {
    /// One kernel interface that natwatch reads.
    Source {
        /// `/proc/thread-self/net/stat/nf_conntrack`
        ProcConntrack = "proc_conntrack",
        /// nfnetlink subsystem 1; asked only where the file above is missing
        Ctnetlink = "ctnetlink",
        /// nfnetlink subsystem 10
        Nftables = "nftables",
        /// Legacy x_tables for IPv4: `ip_tables_names` and getsockopt
        XtablesIpv4 = "xtables_ipv4",
        /// Legacy x_tables for IPv6
        XtablesIpv6 = "xtables_ipv6",
        /// nfnetlink subsystem 6
        Ipset = "ipset",
        /// rtnetlink: links, addresses, forwarding database
        Rtnetlink = "rtnetlink",
        /// rtnetlink: policy rules, routes, route look-ups
        Routing = "routing",
        /// generic netlink family `ethtool`, and the driver names in sysfs
        Ethtool = "ethtool",
        /// release, version and live patches of the running kernel; the host's os-release
        Kernel = "kernel",
        /// `/proc/sys/net/netfilter`
        Sysctl = "sysctl",
        /// `/proc/thread-self/net/{snmp,snmp6,netstat}`
        Netstat = "netstat",
        /// What handles packets beside netfilter: tc filters, XDP programs, IPVS, sockets of tunnels elsewhere
        Datapath = "datapath",
        /// nfnetlink subsystem 1: entries of connection tracking
        CtnetlinkEntries = "ctnetlink_entries",
        /// rtnetlink: neighbour tables
        Neighbours = "neighbours",
    }
}

names! {
    /// A group of sources that can be switched off, and the families printed from them.
    Collector {
        /// Connection tracking counters and sizes
        Conntrack = "conntrack",
        /// NAT rules and the sets they ask
        Nat = "nat",
        /// Links, tunnels, routes, offload features
        Links = "links",
        /// Kernel identity and its known defects
        Kernel = "kernel",
        /// Protocol counters
        Netstat = "netstat",
        /// Entries of connection tracking: what they are, which ports they take
        Flows = "flows",
        /// Neighbour tables
        Neighbours = "neighbours",
        /// The advisories
        Verdict = "verdict",
    }
}

impl Source {
    /// The collector that reads this source.
    pub const fn collector(self) -> Collector {
        match self {
            Self::ProcConntrack | Self::Ctnetlink | Self::Sysctl => Collector::Conntrack,
            Self::Nftables | Self::XtablesIpv4 | Self::XtablesIpv6 | Self::Ipset => Collector::Nat,
            Self::Rtnetlink | Self::Routing | Self::Ethtool | Self::Datapath => Collector::Links,
            Self::Kernel => Collector::Kernel,
            Self::Netstat => Collector::Netstat,
            Self::CtnetlinkEntries => Collector::Flows,
            Self::Neighbours => Collector::Neighbours,
        }
    }
}

names! {
    /// Which network namespace the readings come from.
    NetworkNamespace {
        /// The node's own (the one the kernel booted with)
        Initial = "initial",
        /// A container's or another private one
        Other = "other",
        /// It could not be told
        Unknown = "unknown",
    }
}

/// Protocol counters of this network namespace, packets or segments since boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netstat {
    /// `Udp: InCsumErrors`
    pub udp_in_csum_errors: Reading<u64>,
    /// `Udp6InCsumErrors`; absent where IPv6 is off
    pub udp6_in_csum_errors: Reading<u64>,
    /// `Tcp: InCsumErrors`
    pub tcp_in_csum_errors: Reading<u64>,
    /// `TcpExt: TCPSynRetrans`
    pub tcp_syn_retransmits: Reading<u64>,
}

impl Netstat {
    /// Nothing of it was read.
    pub fn unread(why: &Failure) -> Self {
        Self {
            udp_in_csum_errors: Reading::Failed(why.clone()),
            udp6_in_csum_errors: Reading::Failed(why.clone()),
            tcp_in_csum_errors: Reading::Failed(why.clone()),
            tcp_syn_retransmits: Reading::Failed(why.clone()),
        }
    }
}

/// How one source ended, for people and for `natwatch_source_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// Which source
    pub source: Source,
    /// How it ended
    pub state: SourceState,
    /// Why, in one line; may be empty when it is `ok`.
    pub detail: String,
}

/// Everything that one look at a node found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Host name of the node (its UTS namespace).
    pub hostname: String,
    /// When the reading began, RFC 3339, UTC.
    pub captured_at: String,
    /// CPUs online.
    pub online_cpus: Reading<u32>,
    /// Whose network this is.
    pub network_namespace: NetworkNamespace,
    /// Release and numbering of the running kernel.
    pub kernel: Reading<Kernel>,
    /// Live patches that are loaded, by name. Absent: the kernel cannot load any.
    pub livepatches: Reading<Vec<String>>,
    /// Distribution of the root file system, as `ID VERSION_ID` of os-release.
    pub distro: Reading<String>,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// Rules of nf_tables. Absent: the kernel has no nf_tables, or it is not loaded.
    pub nftables: Reading<Arc<netfilter::Ruleset>>,
    /// Rules of legacy `ip_tables`. Absent: the kernel has none.
    pub legacy_ipv4: Reading<Arc<netfilter::Ruleset>>,
    /// Rules of legacy `ip6_tables`. Absent: the kernel has none.
    pub legacy_ipv6: Reading<Arc<netfilter::Ruleset>>,
    /// Source-NAT rules of all backends, in the order of the hooks.
    pub source_nat_rules: Reading<Vec<netfilter::SourceNatRule>>,
    /// The same, taken together by kind.
    pub source_nat_totals: Reading<BTreeMap<netfilter::SourceNatKind, netfilter::SourceNatTotal>>,
    /// All links of the namespace, in the kernel's order (by index).
    pub links: Reading<Vec<Link>>,
    /// Local addresses.
    pub addresses: Reading<Vec<Address>>,
    /// Policy rules of both families.
    pub rules: Reading<Vec<PolicyRule>>,
    /// Default routes, those that cover a remote of a tunnel, those into a tunnel, those of tables that a mark leads to, and those
    /// that are not unicast. Without a tunnel too many are given up.
    pub routes: Reading<Vec<Route>>,
    /// Routes that packets of this host take which have no mark, of IPv4 and of IPv6: of those that cover a destination the last
    /// one counts. Failed: policy rules or routes look at more than the destination, or there are more than 1024 routes.
    pub unmarked_routes: [Reading<Vec<Route>>; 2],
    /// Whether any device forwards packets, of IPv4 and of IPv6.
    pub forwarding: [Reading<bool>; 2],
    /// `ip_local_port_range`, both ends included: ports that a tunnel sends from if it has no range of its own; read only
    /// while a tunnel is up.
    pub local_ports: Reading<(u16, u16)>,
    /// Services of IPVS. Absent: it is not loaded.
    pub ipvs_services: Reading<u64>,
    /// BPF programs that are attached without `tc` (tcx, netkit). Absent: no tunnel is up.
    pub programs: Reading<Programs>,
    /// Addresses that SNAT rules give, one by one, and whether each is this host's (`RTN_LOCAL`); of more than 64 the first.
    pub local_sources: Reading<BTreeMap<IpAddr, bool>>,
    /// Addresses that rules give to destinations, one by one, and the device by which this host's packets to each leave; `None`: by
    /// none, it is this host's or nobody's. Of more than 64 the first.
    pub targets: Reading<BTreeMap<IpAddr, Option<u32>>>,
    /// The ways to these of packets that are forwarded from the networks on the link of each device. Empty: no policy rule goes by
    /// where packets come from.
    pub forwarded_paths: Reading<Vec<ForwardedPath>>,
    /// Whether policies or states of IPsec stand. Absent: nothing is there that could have made one. Read only while rules
    /// ask for it.
    pub ipsec: Reading<bool>,
    /// Whether sockets have the marks of who connects to them (`tcp_fwmark_accept`). Absent: no rule writes marks, or no tunnel is up.
    pub accepts_marks: Reading<bool>,
    /// Whether entries of connection tracking count packets and bytes (`nf_conntrack_acct`). Read only while rules ask what they have
    /// counted.
    pub counts_entries: Reading<bool>,
    /// The last of the dates that rules ask for which had passed when the reading began, in nanoseconds since the epoch; 0: none had.
    pub date: Reading<u64>,
    /// Whether frames that cross bridges pass the rules of IPv4, of IPv6 (`net.bridge.bridge-nf-call-iptables`, `…-ip6tables`).
    /// Absent: br_netfilter is not loaded, so none does. Read only while a tunnel that is up is a port of a bridge.
    pub bridges_call_rules: [Reading<bool>; 2],
    /// Tunnels that have a socket here although no device of this namespace owns it, as links that the kernel does not list.
    pub foreign_tunnels: Reading<Vec<Link>>,
    /// Protocol counters.
    pub netstat: Netstat,
    /// Entries of connection tracking.
    pub flows: Flows,
    /// Neighbour tables, which all network namespaces share.
    pub neighbours: Neighbours,
    /// How each source that this reading needed ended.
    pub sources: Vec<SourceStatus>,
}

/// BPF programs of devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// How many, by index of the device: of all that packets may come in by while this host forwards, and where they leave of
    /// those that a tunnel's packets cross. Of one that has no number it was not told: it is gone, or its other end tells.
    Counted(BTreeMap<u32, u32>),
    /// None is assumed: bpf(2) is not permitted here, or a capture is from before it was asked. Why.
    Unseen(String),
}

/// Whether packets of some family may be forwarded: it is so, or that was not read.
pub(crate) fn may_forward(forwarding: &[Reading<bool>; 2]) -> bool {
    forwarding.iter().any(|forwards| !matches!(forwards, Reading::Ok(false) | Reading::Absent(_)))
}

impl Facts {
    /// The live patches that are loaded: none where the kernel cannot load any; `None` where that could not be read.
    pub fn known_livepatches(&self) -> Option<&[String]> {
        match &self.livepatches {
            Reading::Ok(names) => Some(names),
            Reading::Absent(_) => Some(&[]),
            Reading::Denied(_) | Reading::Failed(_) => None,
        }
    }

    /// All links, or none where they could not be read.
    pub fn known_links(&self) -> &[Link] {
        self.links.ok().map_or(&[], Vec::as_slice)
    }

    /// The name of a link.
    pub fn link_name(&self, index: u32) -> &str {
        self.known_links().iter().find(|link| link.index == index).map_or("?", |link| &link.name)
    }

    /// Names of the devices that carry a tunnel's outer packets, joined by commas; `None` where they are not known.
    pub fn underlay_names(&self, tunnel: &Tunnel) -> Option<String> {
        match &tunnel.underlay {
            Reading::Ok(devices) if !devices.is_empty() => {
                Some(devices.iter().map(|index| self.link_name(*index)).collect::<Vec<_>>().join(","))
            }
            _ => None,
        }
    }

    /// The tunnels among the links, up or not.
    pub fn tunnels(&self) -> impl Iterator<Item = (&Link, &Tunnel)> {
        self.known_links().iter().filter_map(|link| Some((link, link.tunnel.as_ref()?)))
    }
}
