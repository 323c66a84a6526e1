//! What is known about problems: advisories as data, kernel defects as data, and the linter of both.
//!
//! An advisory is one file in `catalogue/`: TOML front matter between `+++` lines, then the prose that
//! `natwatch explain` prints. Rust changes only when a condition needs a word that [`Test`] lacks.

pub(crate) mod decide;
pub mod defects;
#[cfg(test)]
mod front_matter;
#[cfg(test)]
mod lint;
mod range;
mod releases;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use crate::facts::{Source, names};

names! {
    /// How bad an exposure is.
    Severity {
        /// Shown, never counted
        Info = "info",
        /// Connections are delayed or lost now and then
        Warning = "warning",
        /// Connections are lost
        Critical = "critical",
    }
}

names! {
    /// The state of an advisory on a node, from good to bad.
    State {
        /// An ingredient is absent altogether
        NotAffected = "not_affected",
        /// The ingredients are here; something named keeps the problem from happening
        Mitigated = "mitigated",
        /// Not enough could be seen to say one of the others
        Unknown = "unknown",
        /// Every condition of the problem holds now
        Exposed = "exposed",
    }
}

names! {
    /// What a condition contributes.
    ConditionKind {
        /// Without it the problem cannot exist
        Ingredient = "ingredient",
        /// The lack of something that would prevent the problem
        Safeguard = "safeguard",
    }
}

/// The closed vocabulary of conditions. What each word looks at stands in `judge::conditions`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Test {
    /// The connection tracking table has entries.
    ConntrackActive,
    /// Entries ÷ limit of the table is at least this.
    ConntrackTableFilled(f64),
    /// 2 · entries ÷ buckets is at least this.
    ConntrackBucketsLoaded(f64),
    /// It is known how many neighbours there are.
    NeighboursCounted,
    /// Neighbours that count ÷ limit of their table is at least this.
    NeighboursNearlyFull(f64),
    /// The running kernel has this defect.
    KernelDefect(String),
    /// The tunnel is up.
    TunnelUp,
    /// A device with this driver, on which it offers offloads for UDP tunnels, carries the tunnel.
    UnderlayDriver(String),
    /// Such a device has an offload for UDP tunnels in force.
    UnderlayTunnelOffload(String),
    /// Its driver offloads tunnels on this tunnel's port.
    DriverOffloadsPort {
        /// The driver.
        driver: String,
        /// Present: on any port.
        defect: String,
        /// Absent: on these ports only, and whether that is right cannot be seen from here.
        ports: Vec<u16>,
    },
    /// New connections get to a rule that translates their source.
    SourceNatReachable,
    /// The same, and where each source has an address of its own, but fewer ports than it may have connections.
    SourceNatChoosesPorts,
    /// More than one CPU is online.
    SeveralCpus,
    /// Such a rule may give two connections the same port: it keeps ports, or one of these defects makes `random` predictable.
    PortNotRandom(Vec<String>),
    /// A translation would leave a tunnel packet's checksum wrong.
    ChecksumBreakable {
        /// The defect that breaks checksums that the tunnel fills in.
        on: String,
        /// The defect that breaks those that it leaves 0.
        off: String,
    },
    /// There are rules that translate addresses.
    SourceNatPresent,
    /// The tunnel's device leaves the checksum of what it carries to later.
    TunnelChecksumOffload,
    /// Connection tracking sees the tunnel's packets.
    OuterTracked,
    /// A rule changes the address or port of one of them.
    OuterRewritten,
    /// UDP to port 53 is given one of several destinations by chance.
    DnsDnatToSeveral,
    /// Pods do not ask a name server on this node, which would ask over TCP.
    NoLocalCache,
    /// Connections over TCP are given other destinations, which their clients can reach past the translation.
    TcpDnatClientInside,
    /// Out-of-window segments are invalid (`nf_conntrack_tcp_be_liberal` is 0).
    TcpNotLiberal,
    /// Invalid segments of the translated destinations get to such clients.
    BypassArrives,
    /// TCP connections leave with an address of this host's as another source.
    SourceNatAnsweredHere,
    /// Invalid segments that answer them get to this host's own TCP.
    InvalidArrives,
    /// TCP connections leave with another source.
    SourceNatReached,
    /// The port of some of them is drawn anew for each entry.
    RandomPorts,
    /// Entries of established connections stay for less than so many seconds without a packet.
    TcpTimeoutShort(u64),
    /// The tunnel's device computes the checksum of what it carries at once.
    TunnelChecksumOffloadOff,
    /// A translation would not leave a tunnel packet's checksum wrong, or there is none.
    OffloadNotNeeded {
        /// The defect that breaks checksums that the tunnel fills in.
        on: String,
        /// The defect that breaks those that it leaves 0.
        off: String,
    },
    /// Rules for Services or pods stand in legacy tables and in nf_tables.
    ServiceNatInBoth,
    /// Of the ports that such a rule chooses from so many are used towards one destination that new connections are lost.
    PortsNearlyUsed,
    /// UDP packets are given another destination.
    UdpDestinationNat,
    /// Entries of UDP have a target that no rule gives any more, and packets keep them.
    StaleFlows,
}

/// Entries of connection tracking, a sysctl, and what the walk of packets through the rules is made of.
const RULES_AND_ENTRIES: &[Source] = &[
    Source::CtnetlinkEntries,
    Source::Sysctl,
    Source::Nftables,
    Source::XtablesIpv4,
    Source::XtablesIpv6,
    Source::Ipset,
    Source::Rtnetlink,
    Source::Routing,
    Source::Datapath,
    Source::Kernel,
];

/// The same without the entries.
const RULES_AND_SYSCTL: &[Source] = RULES_AND_ENTRIES.split_at(1).1;

/// The same without the sysctl.
const RULES: &[Source] = RULES_AND_SYSCTL.split_at(1).1;

/// What tells of tunnels and the devices that carry them.
const LINKS: &[Source] = &[Source::Rtnetlink, Source::Routing, Source::Ethtool, Source::Kernel];

impl Test {
    /// What has to be read to decide it: while one of them is denied or failed it may be unknown for that reason.
    pub fn sources(&self) -> &'static [Source] {
        match self {
            Self::SeveralCpus => &[Source::Kernel],
            Self::ConntrackActive | Self::ConntrackTableFilled(_) | Self::ConntrackBucketsLoaded(_) => {
                &[Source::Sysctl]
            }
            Self::TcpNotLiberal => &[Source::Sysctl],
            Self::NeighboursCounted => &[Source::Neighbours],
            Self::NeighboursNearlyFull(_) => &[Source::Neighbours, Source::Kernel],
            Self::TcpTimeoutShort(_) => RULES_AND_SYSCTL,
            Self::PortsNearlyUsed | Self::UdpDestinationNat | Self::StaleFlows => RULES_AND_ENTRIES,
            Self::KernelDefect(_) => &[Source::Kernel],
            Self::TunnelUp
            | Self::UnderlayDriver(_)
            | Self::UnderlayTunnelOffload(_)
            | Self::DriverOffloadsPort { .. }
            | Self::ChecksumBreakable { .. }
            | Self::TunnelChecksumOffload
            | Self::TunnelChecksumOffloadOff => LINKS,
            Self::SourceNatReachable
            | Self::SourceNatChoosesPorts
            | Self::SourceNatReached
            | Self::RandomPorts
            | Self::PortNotRandom(_)
            | Self::SourceNatPresent
            | Self::OuterTracked
            | Self::OuterRewritten
            | Self::DnsDnatToSeveral
            | Self::NoLocalCache
            | Self::TcpDnatClientInside
            | Self::BypassArrives
            | Self::SourceNatAnsweredHere
            | Self::InvalidArrives
            | Self::OffloadNotNeeded { .. }
            | Self::ServiceNatInBoth => RULES,
        }
    }
}

/// One condition of an advisory.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Public name.
    pub id: String,
    /// For people: what is so while it holds, to stand behind "whether".
    pub words: String,
    /// Ingredient or lack of a safeguard.
    pub kind: ConditionKind,
    /// What decides it.
    pub test: Test,
}

/// Something to do about an exposure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    /// What it does.
    pub text: String,
    /// A command, with `{placeholders}` that conditions fill in.
    pub command: Option<String>,
    /// Whether its effect survives a reboot.
    pub survives_reboot: bool,
    /// A placeholder without whose value it is none for this node.
    pub only_with: Option<String>,
}

/// A counter that is shown beside the verdict but decides nothing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Name of a connection tracking counter.
    pub counter: String,
    /// What it counts.
    pub text: String,
}

/// Another severity on kernels with a defect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeverityWithDefect {
    /// The defect.
    pub defect: String,
    /// How bad an exposure is where it is present.
    pub severity: Severity,
}

/// What an advisory is judged on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The node as a whole.
    Node,
    /// Each tunnel; the worst one is the node's.
    Tunnel,
}

/// One known problem.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    /// Public name.
    pub id: String,
    /// One line.
    pub title: String,
    /// What breaks, in some words; only documents have it.
    pub impact: String,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is worse.
    pub severity_with_defect: Option<SeverityWithDefect>,
    /// How bad it is where connections to Services of Kubernetes are concerned, or may be.
    pub severity_with_services: Option<Severity>,
    /// What it is judged on.
    pub subject: Subject,
    /// Where this is known from.
    pub references: Vec<String>,
    /// All conditions, in the order they are shown.
    pub conditions: Vec<Condition>,
    /// One sentence per state, by the state's name; the detail that decided is added.
    pub summaries: BTreeMap<String, String>,
    /// What an exposure leaves behind for a while after it has ended.
    pub residual_effect: Option<String>,
    /// What to do, best first.
    pub remedies: Vec<Remedy>,
    #[serde(default)]
    /// Counters to show.
    pub evidence: Vec<Evidence>,
    #[serde(default)]
    /// What `natwatch explain` prints.
    pub prose: String,
}

/// What commands of remedies may leave open, as `{name}`; `judge::conditions` fills it in.
pub(crate) const PLACEHOLDERS: &[&str] = &[
    "entries_limit_doubled",
    "buckets_for_that",
    "entries_quadrupled",
    "offloading_device",
    "tunnel_device",
    "tunnel_port",
    "family",
    "limit",
    "limit_quadrupled",
    "iptables",
    "nft",
    "client",
    "client_port",
    "destination",
    "destination_port",
];

/// The advisories, sorted by id.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// All of them.
    pub advisories: Vec<Advisory>,
}

impl Catalogue {
    /// The catalogue that is compiled in: what `build.rs` has read of the files. A test and the linter keep it well-formed.
    pub fn built_in() -> &'static Self {
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| {
            let files: Vec<(String, Advisory)> =
                serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/catalogue.json"))).unwrap_or_default();
            let mut advisories: Vec<Advisory> = files.into_iter().map(|(_, advisory)| advisory).collect();
            advisories.sort_by(|a, b| a.id.cmp(&b.id));
            Catalogue { advisories }
        });
        &CATALOGUE
    }

    /// The advisory with this id.
    pub fn get(&self, id: &str) -> Option<&Advisory> {
        self.advisories.iter().find(|advisory| advisory.id == id)
    }
}
