//! Facts: what one reading found out about a node. Plain data, no I/O, no judgement.
//!
//! `read` fills them, `symbolic` and `judge` derive verdicts from them, `report` and `metrics` print them. What may be
//! unread is a [`Reading`], which keeps "not there" (a fact) apart from "could not be read". A zero in here is a
//! measured zero.

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
    ARPHRD_LOOPBACK, Address, FdbEntry, Feature, FeatureState, Features, Filter, Link, OuterRoute, Route, Toggle,
    Tunnel, TunnelKind, UdpChecksum, upper_devices, with_lower_devices,
};
pub(crate) use name::Name;
pub(crate) use neighbours::{NeighbourTable, Neighbours, OwnNeighbours};
pub(crate) use outer_header::OuterHeader;
pub(crate) use question::{Question, quoted};
pub(crate) use reading::Unanswered;
pub use reading::{Failure, Reading, SystemCall};
pub(crate) use routing::{ForwardedPath, PolicyRule, routes_by_sender};
pub(crate) use shared::Shared;

/// Declares a closed set of names once: the enum, the list of its members, and the public name that each is printed as
/// and parsed from.
macro_rules! names {
    ($(#[$doc:meta])* $enum:ident { $($(#[$member_doc:meta])* $member:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(unreachable_pub, reason = "some are, for tests")]
        pub enum $enum { $($(#[$member_doc])* $member,)+ }

        #[allow(unreachable_pub, reason = "some are, for tests")]
        impl $enum {
            /// All members, in order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$member,)+];

            /// Public name (label value, JSON value, flag value).
            pub const fn name(self) -> &'static str {
                match self { $(Self::$member => $name,)+ }
            }

            /// The member with this public name; `None` if there is none.
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
    /// Result of reading a source.
    SourceState {
        /// Read and decoded.
        Ok = "ok",
        /// Not there, which is a fact.
        Absent = "absent",
        /// A permission is missing.
        Denied = "denied",
        /// Reading or decoding failed.
        Failed = "failed",
    }
}

names! {
    /// A kernel interface that natwatch reads.
    Source {
        /// `/proc/thread-self/net/stat/nf_conntrack`
        ProcConntrack = "proc_conntrack",
        /// nfnetlink subsystem 1: per-CPU counters; requested only if the file above is missing
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
        /// rtnetlink: policy rules, routes, route lookups
        Routing = "routing",
        /// generic netlink family `ethtool`, and driver names in sysfs
        Ethtool = "ethtool",
        /// release, version and live patches of the running kernel; the host's os-release
        Kernel = "kernel",
        /// `/proc/sys/net/netfilter`
        Sysctl = "sysctl",
        /// `/proc/thread-self/net/{snmp,snmp6,netstat}`
        Netstat = "netstat",
        /// What processes packets outside netfilter: tc filters, XDP programs, IPVS, sockets of tunnels in other
        /// namespaces
        Datapath = "datapath",
        /// nfnetlink subsystem 1: conntrack entries
        CtnetlinkEntries = "ctnetlink_entries",
        /// rtnetlink: neighbour tables
        Neighbours = "neighbours",
    }
}

names! {
    /// A group of sources that can be switched off together with its metrics.
    Collector {
        /// Connection tracking counters and sizes
        Conntrack = "conntrack",
        /// NAT rules and the sets they look up
        Nat = "nat",
        /// Links, tunnels, routes, offload features
        Links = "links",
        /// Kernel identity and its known defects
        Kernel = "kernel",
        /// Protocol counters
        Netstat = "netstat",
        /// Conntrack entries: composition, source ports in use
        Flows = "flows",
        /// Neighbour tables
        Neighbours = "neighbours",
        /// The advisories
        Verdict = "verdict",
    }
}

impl Source {
    /// The collector that this source belongs to.
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
    /// Which network namespace was read.
    NetworkNamespace {
        /// The initial one (`init_net`)
        Initial = "initial",
        /// Another one, such as a container's
        Other = "other",
        /// Could not be determined
        Unknown = "unknown",
    }
}

/// Protocol counters of this network namespace: packets or segments since it was created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netstat {
    /// `Udp: InCsumErrors`
    pub udp_in_csum_errors: Reading<u64>,
    /// `Udp6InCsumErrors`; absent if IPv6 is off
    pub udp6_in_csum_errors: Reading<u64>,
    /// `Tcp: InCsumErrors`
    pub tcp_in_csum_errors: Reading<u64>,
    /// `TcpExt: TCPSynRetrans`
    pub tcp_syn_retransmits: Reading<u64>,
}

impl Netstat {
    /// All counters `Failed` for this reason.
    pub fn unread(why: &Failure) -> Self {
        Self {
            udp_in_csum_errors: Reading::Failed(why.clone()),
            udp6_in_csum_errors: Reading::Failed(why.clone()),
            tcp_in_csum_errors: Reading::Failed(why.clone()),
            tcp_syn_retransmits: Reading::Failed(why.clone()),
        }
    }
}

/// State of one source, for reports and `natwatch_source_info`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceStatus {
    /// The source.
    pub source: Source,
    /// Its state.
    pub state: SourceState,
    /// One line of explanation; may be empty if `Ok`.
    pub detail: String,
}

/// Everything that one reading found out about a node.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Host name (UTS namespace's node name).
    pub hostname: String,
    /// Start of the reading, RFC 3339, UTC.
    pub captured_at: String,
    /// Number of CPUs online.
    pub online_cpus: Reading<u32>,
    /// Which network namespace was read.
    pub network_namespace: NetworkNamespace,
    /// Identity of the running kernel.
    pub kernel: Reading<Kernel>,
    /// Names of loaded live patches. Absent: the kernel has no live patching.
    pub livepatches: Reading<Vec<String>>,
    /// Distribution of the root file system, as `ID VERSION_ID` of os-release.
    pub distro: Reading<String>,
    /// Connection tracking.
    pub conntrack: Conntrack,
    /// nf_tables rule set. Absent: nf_tables is not built or not loaded.
    pub nftables: Reading<Arc<netfilter::Ruleset>>,
    /// Legacy `ip_tables` rule set. Absent: no legacy table.
    pub legacy_ipv4: Reading<Arc<netfilter::Ruleset>>,
    /// Legacy `ip6_tables` rule set. Absent: no legacy table.
    pub legacy_ipv6: Reading<Arc<netfilter::Ruleset>>,
    /// Source-NAT rules of all backends, in hook order.
    pub source_nat_rules: Reading<Vec<netfilter::SourceNatRule>>,
    /// The same rules, counted by kind.
    pub source_nat_totals: Reading<BTreeMap<netfilter::SourceNatKind, netfilter::SourceNatTotal>>,
    /// All network devices of the namespace, by index.
    pub links: Reading<Vec<Link>>,
    /// Local addresses.
    pub addresses: Reading<Vec<Address>>,
    /// Policy rules of both families.
    pub rules: Reading<Vec<PolicyRule>>,
    /// Routes that verdicts may need: default routes, those that cover a tunnel's remote, those into a tunnel, those of
    /// tables that a mark selects, and non-unicast routes. Where there are too many and no tunnel, not read.
    pub routes: Reading<Vec<Route>>,
    /// Routes of unmarked packets of this host, by family (IPv4, IPv6); of those that cover a destination the last one
    /// applies. Failed: policy rules or routes depend on more than the destination, or there are more than 1024 routes.
    pub unmarked_routes: [Reading<Vec<Route>>; 2],
    /// Whether any device forwards, by family (IPv4, IPv6).
    pub forwarding: [Reading<bool>; 2],
    /// `ip_local_port_range`, both ends included: source ports of a tunnel without a range of its own. Read only while
    /// a tunnel is up.
    pub local_ports: Reading<(u16, u16)>,
    /// Number of IPVS services. Absent: ip_vs is not loaded.
    pub ipvs_services: Reading<u64>,
    /// BPF programs attached other than as tc filters (tcx, netkit). Absent: no tunnel is up.
    pub programs: Reading<Programs>,
    /// For each single address given by SNAT rules, whether it is local (`RTN_LOCAL`); at most the first 64.
    pub local_sources: Reading<BTreeMap<IpAddr, bool>>,
    /// For each single address given by DNAT rules, index of the device that this host's packets to it leave by; `None`
    /// if there is none, because the address is local or unreachable. At most the first 64.
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
    /// Tunnels with a socket in this namespace but a device in another one, as links that the kernel does not list.
    pub foreign_tunnels: Reading<Vec<Link>>,
    /// Protocol counters.
    pub netstat: Netstat,
    /// What conntrack entries say.
    pub flows: Flows,
    /// Neighbour tables, shared by all network namespaces.
    pub neighbours: Neighbours,
    /// State of each source that this reading needed.
    pub sources: Vec<SourceStatus>,
}

/// BPF programs attached to devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Programs {
    /// Number of programs by device index: at ingress for all devices while this host forwards, at egress for those
    /// that a tunnel's packets leave by. A device is missing if the kernel did not report a number: it was removed, or
    /// its peer reports it.
    Counted(BTreeMap<u32, u32>),
    /// None is assumed, because bpf(2) is not permitted or the capture is older than the request; the text says which.
    Unseen(String),
}

/// Whether packets of some family may be forwarded: they are, or it could not be read.
pub(crate) fn may_forward(forwarding: &[Reading<bool>; 2]) -> bool {
    forwarding.iter().any(|forwards| !matches!(forwards, Reading::Ok(false) | Reading::Absent(_)))
}

impl Facts {
    /// Loaded live patches, empty if the kernel has no live patching; `None` if unread.
    pub fn known_livepatches(&self) -> Option<&[String]> {
        match &self.livepatches {
            Reading::Ok(names) => Some(names),
            Reading::Absent(_) => Some(&[]),
            Reading::Denied(_) | Reading::Failed(_) => None,
        }
    }

    /// All links; empty if unread.
    pub fn known_links(&self) -> &[Link] {
        self.links.ok().map_or(&[], Vec::as_slice)
    }

    /// Name of a link; `?` if unknown.
    pub fn link_name(&self, index: u32) -> &str {
        self.known_links().iter().find(|link| link.index == index).map_or("?", |link| &link.name)
    }

    /// Names of a tunnel's underlay devices, comma-separated; `None` if unread.
    pub fn underlay_names(&self, tunnel: &Tunnel) -> Option<String> {
        match &tunnel.underlay {
            Reading::Ok(devices) if !devices.is_empty() => {
                Some(devices.iter().map(|index| self.link_name(*index)).collect::<Vec<_>>().join(","))
            }
            _ => None,
        }
    }

    /// All tunnels, up or down.
    pub fn tunnels(&self) -> impl Iterator<Item = (&Link, &Tunnel)> {
        self.known_links().iter().filter_map(|link| Some((link, link.tunnel.as_ref()?)))
    }
}
