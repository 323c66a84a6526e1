//! Links, addresses and routes from an earlier reading.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::facts::{Address, Failure, ForwardedPath, Link, PolicyRule, Reading, Route};
use crate::read::Sources;

/// By UDP port of tunnels, whether there is an IPv4 / IPv6 socket.
pub(crate) type TunnelSockets = BTreeMap<u16, [bool; 2]>;

/// Everything that rtnetlink sends notifications for: links, forwarding databases, routes of tunnels, tc filters,
/// addresses, policy rules, routes, and forwarding. Not drivers and offload features.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// See [`crate::facts::Facts::links`].
    pub links: Reading<Vec<Link>>,
    /// See [`crate::facts::Facts::addresses`].
    pub addresses: Reading<Vec<Address>>,
    /// See [`crate::facts::Facts::rules`].
    pub rules: Reading<Vec<PolicyRule>>,
    /// See [`crate::facts::Facts::routes`].
    pub routes: Reading<Vec<Route>>,
    /// See [`crate::facts::Facts::unmarked_routes`].
    pub unmarked_routes: [Reading<Vec<Route>>; 2],
    /// See [`crate::facts::Facts::forwarding`].
    pub forwarding: [Reading<bool>; 2],
    /// Tunnels with their device in another namespace, derived from `sockets`.
    pub foreign: Vec<Link>,
    /// Sockets on tunnel ports.
    pub sockets: TunnelSockets,
}

impl Standing {
    /// All fields `Failed` for this reason.
    pub(crate) fn unread(why: &Failure) -> Self {
        Self {
            foreign: Vec::new(),
            sockets: TunnelSockets::new(),
            links: Reading::Failed(why.clone()),
            addresses: Reading::Failed(why.clone()),
            rules: Reading::Failed(why.clone()),
            routes: Reading::Failed(why.clone()),
            unmarked_routes: [Reading::Failed(why.clone()), Reading::Failed(why.clone())],
            forwarding: [Reading::Failed(why.clone()), Reading::Failed(why.clone())],
        }
    }

    /// Name of a part that differs, ignoring XDP programs; `None`: all are equal.
    pub(crate) fn differs_from(&self, other: &Self) -> Option<&'static str> {
        let without_programs = |links: &Reading<Vec<Link>>| {
            links.as_ref().map(|links| links.iter().map(|link| Link { xdp: false, ..link.clone() }).collect::<Vec<_>>())
        };
        if without_programs(&self.links) != without_programs(&other.links) {
            Some("links, forwarding databases or the ways of tunnels")
        } else if self.addresses != other.addresses {
            Some("addresses")
        } else if self.rules != other.rules {
            Some("policy rules")
        } else if self.routes != other.routes || self.unmarked_routes != other.unmarked_routes {
            Some("routes")
        } else if self.forwarding != other.forwarding {
            Some("forwarding")
        } else if self.foreign != other.foreign {
            Some("devices that may carry tunnels of other namespaces")
        } else {
            None
        }
    }
}

/// Packets that a path is looked up for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::read) struct Sent {
    /// Index of the link that they come in by.
    pub input: u32,
    /// Sources that all policy rules treat alike, both ends included.
    pub sources: (u128, u128),
    /// One of these.
    pub source: IpAddr,
    /// Where they are sent to.
    pub target: IpAddr,
}

/// Links and the like from an earlier reading.
#[derive(Clone, Debug)]
pub(in crate::read) struct KnownLinks {
    /// What was read.
    pub standing: Arc<Standing>,
    /// State of the sources it was read from.
    pub sources: Sources,
    /// Epoch before it was read; see [`crate::capture::Ask::epoch`].
    pub epoch: u64,
    /// Start of the reading that read it; `None`: it has not ended yet.
    pub since: Option<Instant>,
    /// Read it again although nothing was notified, and compare.
    pub verify: bool,
    /// Route lookups made since, valid as long: address and route by request name.
    pub routes: Arc<BTreeMap<String, (IpAddr, Option<Route>)>>,
    /// Look-ups by where packets come from, since then as well: what was looked up, and what was found.
    pub forwarded_paths: Arc<(Vec<Sent>, Vec<ForwardedPath>)>,
}
