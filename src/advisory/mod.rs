//! Knowledge about problems as data: advisories (`catalogue/ID.md`), kernel defects (`defects/ID.toml`), and their
//! linter.
//!
//! An advisory's file has TOML front matter between `+++` lines, then the prose that `natwatch explain` prints. Code
//! changes only if a condition needs a word that [`Test`] lacks.

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
    /// Severity of an exposure.
    Severity {
        /// Information; never counted
        Info = "info",
        /// Connections are sometimes delayed or lost
        Warning = "warning",
        /// Connections are lost
        Critical = "critical",
    }
}

names! {
    /// State of an advisory on a node, from good to bad.
    State {
        /// An ingredient is missing
        NotAffected = "not_affected",
        /// The ingredients are present, but a safeguard prevents the problem
        Mitigated = "mitigated",
        /// Not enough could be read to decide
        Unknown = "unknown",
        /// All conditions hold
        Exposed = "exposed",
    }
}

names! {
    /// How a condition contributes.
    ConditionKind {
        /// Required for the problem to exist
        Ingredient = "ingredient",
        /// Lack of something that would prevent the problem
        Safeguard = "safeguard",
    }
}

/// The closed vocabulary of conditions. `judge::conditions` says how each is evaluated.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Test {
    /// The connection tracking table has entries.
    ConntrackActive,
    /// Entries ÷ limit of the table is at least this.
    ConntrackTableFilled(f64),
    /// 2 · entries ÷ buckets is at least this.
    ConntrackBucketsLoaded(f64),
    /// The number of neighbours is known.
    NeighboursCounted,
    /// Neighbours subject to the limit ÷ limit of their table is at least this.
    NeighboursNearlyFull(f64),
    /// The running kernel has this defect.
    KernelDefect(String),
    /// The tunnel is up.
    TunnelUp,
    /// The tunnel has an underlay device with this driver that offers offloads for UDP tunnels.
    UnderlayDriver(String),
    /// Such a device has an offload for UDP tunnels enabled.
    UnderlayTunnelOffload(String),
    /// Its driver offloads tunnels on this tunnel's port.
    DriverOffloadsPort {
        /// Name of the driver.
        driver: String,
        /// If this defect is present: on any port.
        defect: String,
        /// If it is absent: on these ports only, and whether that works correctly is not visible.
        ports: Vec<u16>,
    },
    /// New connections reach a rule that translates their source.
    SourceNatReachable,
    /// Like `SourceNatReachable`; also if each source has its own address, but fewer ports than it may have
    /// connections.
    SourceNatChoosesPorts,
    /// More than one CPU is online.
    SeveralCpus,
    /// Such a rule may choose the same port twice: it keeps ports, or one of these defects makes `random` predictable.
    PortNotRandom(Vec<String>),
    /// NAT would leave a tunnel packet with a wrong checksum.
    ChecksumBreakable {
        /// Defect that breaks checksums computed by the tunnel.
        on: String,
        /// Defect that breaks checksums left 0 by the tunnel.
        off: String,
    },
    /// There are rules that translate addresses.
    SourceNatPresent,
    /// The tunnel device leaves the checksum of inner packets to a later device.
    TunnelChecksumOffload,
    /// The tunnel's outer packets are tracked.
    OuterTracked,
    /// A rule rewrites the address or port of an outer packet.
    OuterRewritten,
    /// UDP to port 53 is translated to one of several destinations, at random.
    DnsDnatToSeveral,
    /// Pods do not use a name server on this node, which would forward over TCP.
    NoLocalCache,
    /// TCP destinations are translated to addresses that clients can also reach directly.
    TcpDnatClientInside,
    /// Out-of-window segments are invalid (`nf_conntrack_tcp_be_liberal` is 0).
    TcpNotLiberal,
    /// Invalid segments from translated destinations reach such clients.
    BypassArrives,
    /// TCP connections leave with a source translated to an address of this host.
    SourceNatAnsweredHere,
    /// Invalid segments in reply to them reach this host's TCP.
    InvalidArrives,
    /// TCP connections leave with a translated source.
    SourceNatReached,
    /// Some of them get a new random port with each entry.
    RandomPorts,
    /// Entries of established connections expire after less than this many seconds of silence.
    TcpTimeoutShort(u64),
    /// The tunnel device computes the checksum of inner packets at once.
    TunnelChecksumOffloadOff,
    /// NAT would not leave a tunnel packet with a wrong checksum, or there is no NAT.
    OffloadNotNeeded {
        /// Defect that breaks checksums computed by the tunnel.
        on: String,
        /// Defect that breaks checksums left 0 by the tunnel.
        off: String,
    },
    /// Rules for Services or pods are both in legacy tables and in nf_tables.
    ServiceNatInBoth,
    /// So many of a rule's ports are in use towards one destination that new connections are dropped.
    PortsNearlyUsed,
    /// UDP destinations are translated.
    UdpDestinationNat,
    /// UDP entries have a translation that no rule gives any more, and packets keep them alive.
    StaleFlows,
}

/// Sources needed to run packets through the rules, plus conntrack entries and sysctls.
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

/// The same without conntrack entries.
const RULES_AND_SYSCTL: &[Source] = RULES_AND_ENTRIES.split_at(1).1;

/// The same without sysctls.
const RULES: &[Source] = RULES_AND_SYSCTL.split_at(1).1;

/// Sources about tunnels and their underlay devices.
const LINKS: &[Source] = &[Source::Rtnetlink, Source::Routing, Source::Ethtool, Source::Kernel];

impl Test {
    /// Sources needed to decide it. While one of them is denied or failed, it may be unknown for that reason.
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

/// A condition of an advisory.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Public name.
    pub id: String,
    /// What is true while it holds, worded to follow "whether".
    pub words: String,
    /// Ingredient or safeguard.
    pub kind: ConditionKind,
    /// How it is evaluated.
    pub test: Test,
}

/// Something to do about an exposure.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remedy {
    /// What it does.
    pub text: String,
    /// Shell command, with `{placeholders}` that conditions fill in.
    pub command: Option<String>,
    /// Whether its effect survives a reboot.
    pub survives_reboot: bool,
    /// Placeholder without whose value it does not apply to the node.
    pub only_with: Option<String>,
}

/// A counter shown with the verdict, without influence on it.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Evidence {
    /// Name of a connection tracking counter.
    pub counter: String,
    /// What it counts.
    pub text: String,
}

/// A different severity on kernels with a defect.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SeverityWithDefect {
    /// Id of the defect.
    pub defect: String,
    /// Severity where it is present.
    pub severity: Severity,
}

/// What an advisory is judged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// The node as a whole.
    Node,
    /// Each tunnel; the worst one determines the node's state.
    Tunnel,
}

/// A known problem.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Advisory {
    /// Public name.
    pub id: String,
    /// One line of description.
    pub title: String,
    /// What breaks, in a few words; for documentation only.
    pub impact: String,
    /// Severity of an exposure.
    pub severity: Severity,
    /// A different severity on kernels with a defect.
    pub severity_with_defect: Option<SeverityWithDefect>,
    /// Severity if connections to Kubernetes Services are concerned, or may be.
    pub severity_with_services: Option<Severity>,
    /// What it is judged for.
    pub subject: Subject,
    /// URLs of reports and fixes.
    pub references: Vec<String>,
    /// Conditions, in display order.
    pub conditions: Vec<Condition>,
    /// One sentence per state name; the deciding detail is appended.
    pub summaries: BTreeMap<String, String>,
    /// Effect that remains for a while after an exposure has ended.
    pub residual_effect: Option<String>,
    /// Remedies, best first.
    pub remedies: Vec<Remedy>,
    #[serde(default)]
    /// Counters to show.
    pub evidence: Vec<Evidence>,
    #[serde(default)]
    /// What `natwatch explain` prints.
    pub prose: String,
}

/// Placeholders in remedies' commands, as `{name}`; filled in by `judge::conditions`.
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

/// The advisories, by id.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    /// All of them.
    pub advisories: Vec<Advisory>,
}

impl Catalogue {
    /// The catalogue embedded in the program by `build.rs`, checked by tests and the linter.
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

    /// The advisory with this id; `None` if there is none.
    pub fn get(&self, id: &str) -> Option<&Advisory> {
        self.advisories.iter().find(|advisory| advisory.id == id)
    }
}
