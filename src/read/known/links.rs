//! Links and what surrounds tunnels, as they were read before.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::facts::{Address, Failure, ForwardedPath, Link, PolicyRule, Reading, Route};
use crate::read::Sources;
use crate::read::routing::forwarded::Sent;

/// Of UDP ports of tunnels, whether there is a socket of IPv4, of IPv6.
pub(crate) type TunnelSockets = BTreeMap<u16, [bool; 2]>;

/// Links, tunnels' forwarding databases and paths, filters of traffic control, addresses, policy rules, routes, and which
/// families are forwarded. Drivers and offload features are not of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub links: Reading<Vec<Link>>,
    pub addresses: Reading<Vec<Address>>,
    pub rules: Reading<Vec<PolicyRule>>,
    pub routes: Reading<Vec<Route>>,
    pub unmarked_routes: [Reading<Vec<Route>>; 2],
    pub forwarding: [Reading<bool>; 2],
    /// Tunnels whose device lives elsewhere, by the sockets that were there.
    pub foreign: Vec<Link>,
    /// The sockets of tunnels that were there.
    pub sockets: TunnelSockets,
}

impl Standing {
    /// Nothing was read.
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

    /// What is not the same in the other, but for XDP programs.
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

/// Links and what surrounds tunnels, as they were read before.
#[derive(Clone, Debug)]
pub(in crate::read) struct KnownLinks {
    pub standing: Arc<Standing>,
    /// How the sources ended that they come from.
    pub sources: Sources,
    /// See [`crate::capture::Ask::epoch`].
    pub epoch: u64,
    /// When the reading began that read them; `None`: it has not come to its end.
    pub since: Option<Instant>,
    /// They are read again all the same, and compared.
    pub verify: bool,
    /// Look-ups of routes since, which stand as long: address and route by the name of the request.
    pub routes: Arc<BTreeMap<String, (IpAddr, Option<Route>)>>,
    /// Look-ups by where packets come from, since then as well: what was looked up, and what was found.
    pub forwarded_paths: Arc<(Vec<Sent>, Vec<ForwardedPath>)>,
}
