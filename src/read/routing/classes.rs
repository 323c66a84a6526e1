//! Classes of tunnel remotes that are routed alike, and the route lookup for each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{IPPROTO_UDP, MAX_LOOKUPS, MAX_MARKS, Tables, path_to, put_address};
use crate::capture::{NetlinkFamily, Request};
use crate::facts::netfilter::Family;
use crate::facts::{Link, Reading, Source, Tunnel};
use crate::netfilter::netlink;
use crate::netfilter::netlink::rtnl::*;

/// Remotes that are routed alike.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    /// Position of its first remote in the kernel's list, so that a replay makes the same requests.
    order: usize,
    /// Index of the device that their packets must leave by; `None`: any.
    pub(super) via: Option<u32>,
    /// Their addresses, in the kernel's order.
    pub(super) remotes: Vec<IpAddr>,
}

/// Groups a tunnel's remotes by the routes that cover them and the device that their packets must leave by.
pub(super) fn classes(tables: &Tables, tunnel: &Tunnel) -> Reading<Vec<Class>> {
    let mut classes = BTreeMap::new();
    for (order, (remote, via)) in tunnel.destinations().into_iter().enumerate() {
        let family = Family::of(&remote);
        match tables.of(family) {
            Reading::Ok(tables) => {
                let class = classes.entry((family, tables.class(remote), via));
                class.or_insert(Class { order, via, remotes: vec![] }).remotes.push(remote);
            }
            other => return other.as_ref().map(|_| Vec::new()),
        };
    }
    let mut first: Vec<Class> = classes.into_values().collect();
    first.sort_unstable();
    Reading::Ok(first)
}

/// Marks for route lookups, numbered: 0, and one for each combination of policy rules that test the mark.
pub(super) fn marks(tables: &Tables, family: Family) -> Vec<(usize, u32)> {
    let rules = tables.of(family).ok().map_or(&[][..], |tables| tables.rules.as_slice());
    let mut all = BTreeSet::from([0]);
    for (mark, mask) in rules.iter().filter_map(|rule| rule.fwmark) {
        let with: Vec<u32> = all.iter().map(|other| other & !mask | mark & mask).collect();
        all.extend(with);
    }
    all.into_iter().take(MAX_MARKS).enumerate().collect()
}

/// All lookups for a tunnel: the class that each stands for, the mark, and the request.
pub(super) fn lookups<'c>(
    tables: &Tables,
    link: &Link,
    tunnel: &Tunnel,
    classes: &'c [Class],
) -> Vec<(&'c Class, u32, Request)> {
    let mut all = Vec::new();
    for (number, class) in classes.iter().enumerate().take(MAX_LOOKUPS) {
        let Some(remote) = class.remotes.first() else { continue };
        for mark in marks(tables, Family::of(remote)) {
            all.extend(lookup(link, tunnel, number, class, mark).map(|request| (class, mark.1, request)));
        }
    }
    all
}

/// Route lookup for the first remote of a class with a mark.
fn lookup(link: &Link, tunnel: &Tunnel, number: usize, class: &Class, mark: (usize, u32)) -> Option<Request> {
    let mut body = path_to(*class.remotes.first()?);
    if let Some(local) = tunnel.local.filter(|local| !local.is_unspecified()) {
        body[2] = body[1];
        put_address(&mut body, RTA_SRC, local);
    }
    if let Some(device) = class.via {
        netlink::put(&mut body, RTA_OIF, &device.to_ne_bytes());
    }
    netlink::put(&mut body, RTA_IP_PROTO, &[IPPROTO_UDP]);
    netlink::put(&mut body, RTA_DPORT, &tunnel.port.unwrap_or_default().to_be_bytes());
    let mut name = format!("route/get-{}-{number}", link.name);
    if let (which @ 1.., mark) = mark {
        netlink::put(&mut body, RTA_MARK, &mark.to_ne_bytes());
        name.push_str(&format!("-mark-{which}"));
    }
    Some(Request::netlink(Source::Routing, &name, NetlinkFamily::Route, RTM_GETROUTE, false, body))
}
