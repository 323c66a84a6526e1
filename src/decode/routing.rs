//! Which devices carry a tunnel's outer packets: addresses, policy rules, routes, and route look-ups.
//!
//! The kernel is asked to route one remote of every *class*: two remotes that are covered by routes of equal
//! content in every table are routed alike, so a cluster of thousands of nodes needs one or two look-ups. Of a
//! multipath route a look-up names one next hop, and flows take them all, so the others are added.
//!
//! Kernel sources: `inet_fill_ifaddr`, `fib_nl_fill_rule`, `fib_dump_info`, `inet_rtm_getroute`, and their
//! IPv6 counterparts.

mod tables;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::capture::{Capture, NetlinkFamily, Request};
use crate::decode::Problems;
use crate::snapshot::{Address, Link, Reading, Route, Rule, Source, Tunnel};
use crate::wire::{self, Attributes, NLMSG_ERROR, WireError};
pub use tables::Tables;

const RTM_NEWROUTE: u16 = 24;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETRULE: u16 = 34;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// Length of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
/// Length of `struct rtmsg` and of `struct fib_rule_hdr`.
const RTMSG: usize = 12;
const IPPROTO_UDP: u8 = 17;
/// Classes of remotes per tunnel. More means a route of its own for nearly every peer.
const MAX_LOOKUPS: usize = 256;

fn family_name(ipv6: bool) -> &'static str {
    if ipv6 { "ipv6" } else { "ipv4" }
}

fn table(source: Source, what: &str, kind: u16, ipv6: bool) -> Request {
    let mut body = vec![0; RTMSG];
    body[0] = if ipv6 { AF_INET6 } else { AF_INET };
    Request::netlink(source, &format!("route/{what}-{}", family_name(ipv6)), NetlinkFamily::Route, kind, true, body)
}

fn addresses() -> Request {
    let body = vec![0; IFADDRMSG];
    Request::netlink(Source::Rtnetlink, "route/addresses", NetlinkFamily::Route, RTM_GETADDR, true, body)
}

fn rules(ipv6: bool) -> Request {
    table(Source::Routing, "rules", RTM_GETRULE, ipv6)
}

fn routes(ipv6: bool) -> Request {
    table(Source::Routing, "routes", RTM_GETROUTE, ipv6)
}

/// Asks the kernel which way the tunnel's packets to `remote` go.
fn lookup(link: &Link, tunnel: &Tunnel, number: usize, remote: IpAddr) -> Request {
    let mut body = vec![0; RTMSG];
    body[0] = if remote.is_ipv6() { AF_INET6 } else { AF_INET };
    body[1] = if remote.is_ipv6() { 128 } else { 32 };
    put_address(&mut body, 1, remote);
    if let Some(local) = tunnel.local.filter(|local| !local.is_unspecified()) {
        body[2] = body[1];
        put_address(&mut body, 2, local);
    }
    if let Some(device) = tunnel.link {
        wire::put(&mut body, 4, &device.to_ne_bytes());
    }
    wire::put(&mut body, 27, &[IPPROTO_UDP]);
    wire::put(&mut body, 29, &tunnel.port.unwrap_or_default().to_be_bytes());
    let name = format!("route/get-{}-{number}", link.name);
    Request::netlink(Source::Routing, &name, NetlinkFamily::Route, RTM_GETROUTE, false, body)
}

fn put_address(body: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => wire::put(body, kind, &address.octets()),
        IpAddr::V6(address) => wire::put(body, kind, &address.octets()),
    }
}

fn up_tunnels(links: &[Link]) -> impl Iterator<Item = (&Link, &Tunnel)> {
    links.iter().filter(|link| link.up).filter_map(|link| Some((link, link.tunnel.as_ref()?)))
}

/// Families that outer packets belong to.
fn families(links: &[Link]) -> BTreeSet<bool> {
    up_tunnels(links).flat_map(|(_, tunnel)| tunnel.remotes()).map(|remote| remote.is_ipv6()).collect()
}

/// What to ask; needs the forwarding databases.
pub fn requests(tables: &Tables, links: &[Link]) -> Vec<Request> {
    let mut requests = vec![addresses()];
    requests.extend(families(links).iter().flat_map(|ipv6| [rules(*ipv6), routes(*ipv6)]));
    for (link, tunnel) in up_tunnels(links) {
        if let Reading::Ok(classes) = classes(tables, tunnel) {
            let lookups = classes.iter().enumerate().take(MAX_LOOKUPS);
            requests.extend(lookups.map(|(number, remote)| lookup(link, tunnel, number, *remote)));
        }
    }
    requests
}

/// Fills in the devices that carry each tunnel.
pub fn attach_underlay(capture: &Capture, tables: &Tables, links: &mut [Link]) {
    for link in links.iter_mut().filter(|link| link.up) {
        if let Some(tunnel) = &link.tunnel {
            let underlay = underlay(capture, tables, link, tunnel);
            link.tunnel = Some(Tunnel { underlay, ..tunnel.clone() });
        }
    }
}

fn underlay(capture: &Capture, tables: &Tables, link: &Link, tunnel: &Tunnel) -> Reading<Vec<u32>> {
    if link.link_netnsid.is_some() {
        return Reading::Failed("its outer packets are sent in another network namespace".into());
    }
    if tunnel.flow_based {
        return Reading::Absent("flow-based: each packet brings its own remote".into());
    }
    if let Some(entry) = tunnel.fdb.ok().into_iter().flatten().find(|entry| entry.nexthop_group.is_some()) {
        let group = entry.nexthop_group.unwrap_or_default();
        return Reading::Failed(format!("its forwarding database uses next-hop group {group}, which is not read"));
    }
    if let Some(why) = ports_decide(tables, tunnel) {
        return Reading::Failed(why.into());
    }
    let classes = match (&tunnel.fdb, classes(tables, tunnel)) {
        (Reading::Ok(_), Reading::Ok(classes)) => classes,
        (Reading::Ok(_), other) => return other.map(|_| Vec::new()),
        (other, _) => return other.as_ref().map(|_| Vec::new()),
    };
    if classes.len() > MAX_LOOKUPS {
        return Reading::Failed(format!("its remotes take more than {MAX_LOOKUPS} different routes"));
    }
    let via = tunnel.fdb.ok().into_iter().flatten().filter_map(|entry| entry.via);
    let mut devices: BTreeSet<u32> = tunnel.link.into_iter().chain(via).collect();
    for (number, remote) in classes.iter().enumerate() {
        let found = match capture.get(&lookup(link, tunnel, number, *remote)).decode(decode_lookup) {
            Reading::Ok(found) => found,
            other => return other.map(|_| Vec::new()),
        };
        if tunnel.link.is_none() {
            match siblings(tables, *remote, &found) {
                Ok(siblings) => devices.extend(siblings),
                Err(why) => return Reading::Failed(why),
            }
        }
        devices.extend(found);
    }
    if devices.is_empty() && tunnel.remotes().is_empty() {
        return Reading::Absent("it knows no remote yet".into());
    }
    Reading::Ok(devices.into_iter().collect())
}

/// Why one look-up per remote does not tell the way of every packet, if it does not.
fn ports_decide(tables: &Tables, tunnel: &Tunnel) -> Option<&'static str> {
    const FRA_SPORT_RANGE: u16 = 23;
    const FRA_DPORT_RANGE: u16 = 24;
    let families: BTreeSet<bool> = tunnel.remotes().iter().map(IpAddr::is_ipv6).collect();
    let rules = families.into_iter().filter_map(|ipv6| tables.family(ipv6).ok()).flat_map(|family| &family.rules);
    let tested: BTreeSet<u16> = rules.flat_map(|rule| &rule.other).copied().collect();
    let own_port = |port: &u16| Some(*port) != tunnel.port;
    let other_ports = tunnel.fdb.ok().into_iter().flatten().any(|entry| entry.port.as_ref().is_some_and(own_port));
    if tested.contains(&FRA_SPORT_RANGE) {
        return Some("a policy rule looks at source ports, which differ by packet");
    }
    (other_ports && tested.contains(&FRA_DPORT_RANGE))
        .then_some("a policy rule looks at destination ports, and forwarding entries have their own")
}

/// Devices of the other next hops of a multipath route: a look-up names the one that its packet would take, and the
/// tunnel's packets, whose source ports differ, take all of them.
fn siblings(tables: &Tables, remote: IpAddr, found: &[u32]) -> Result<BTreeSet<u32>, String> {
    let Some(family) = tables.family(remote.is_ipv6()).ok() else { return Ok(BTreeSet::new()) };
    let mut siblings = BTreeSet::new();
    for route in family.covering(remote).map(|at| &family.routes[at]) {
        if let Some(id) = route.nexthop.filter(|_| route.devices.is_empty()) {
            return Err(format!("a route uses next-hop object {id}, whose devices are not read"));
        }
        if found.iter().any(|index| route.devices.contains(index)) {
            siblings.extend(&route.devices);
        }
    }
    Ok(siblings)
}

/// One remote for each set of routes that covers any.
fn classes(tables: &Tables, tunnel: &Tunnel) -> Reading<Vec<IpAddr>> {
    let mut classes = BTreeMap::new();
    for (order, remote) in tunnel.remotes().into_iter().enumerate() {
        match tables.family(remote.is_ipv6()) {
            Reading::Ok(family) => classes.entry((remote.is_ipv6(), family.class(remote))).or_insert((order, remote)),
            other => return other.as_ref().map(|_| Vec::new()),
        };
    }
    let mut first: Vec<_> = classes.into_values().collect();
    first.sort_unstable(); // the order in which the kernel lists them, so that a replay asks the same
    Reading::Ok(first.into_iter().map(|(_, remote)| remote).collect())
}

/// Addresses of all links, as far as they were read.
pub fn known_addresses(capture: &Capture) -> Reading<Vec<Address>> {
    capture.get(&addresses()).decode(decode_addresses)
}

/// Addresses of all links; `Failed` unless a tunnel is up.
pub fn decode_all_addresses(capture: &Capture, problems: &mut Problems) -> Reading<Vec<Address>> {
    problems.note(Source::Rtnetlink, known_addresses(capture))
}

/// Policy rules of the families in use.
pub fn decode_all_rules(tables: &Tables, links: &[Link], problems: &mut Problems) -> Reading<Vec<Rule>> {
    let all = families(links).into_iter().map(|ipv6| tables.family(ipv6).as_ref().map(|family| family.rules.clone()));
    problems.note(Source::Routing, concat(all))
}

/// Routes that cover a remote of a tunnel, and failures of route look-ups.
pub fn decode_all_routes(
    capture: &Capture,
    tables: &Tables,
    links: &[Link],
    problems: &mut Problems,
) -> Reading<Vec<Route>> {
    let mut remotes = BTreeSet::new();
    for (link, tunnel) in up_tunnels(links) {
        remotes.extend(tunnel.remotes());
        for (number, remote) in classes(tables, tunnel).ok().into_iter().flatten().enumerate().take(MAX_LOOKUPS) {
            problems.note(Source::Routing, capture.get(&lookup(link, tunnel, number, *remote)).decode(decode_lookup));
        }
    }
    let all = families(links).into_iter().map(|ipv6| {
        tables.family(ipv6).as_ref().map(|family| {
            let mine = remotes.iter().filter(|remote| remote.is_ipv6() == ipv6);
            let covering: BTreeSet<usize> = mine.flat_map(|remote| family.covering(*remote)).collect();
            covering.into_iter().map(|at| family.routes[at].clone()).collect()
        })
    });
    problems.note(Source::Routing, concat(all))
}

fn concat<T>(readings: impl Iterator<Item = Reading<Vec<T>>>) -> Reading<Vec<T>> {
    let mut all = Vec::new();
    for reading in readings {
        match reading {
            Reading::Ok(values) => all.extend(values),
            other => return other,
        }
    }
    Reading::Ok(all)
}

/// Answer to `RTM_GETADDR`.
fn decode_addresses(bytes: &[u8]) -> Result<Vec<Address>, WireError> {
    const IFA_F_SECONDARY: u32 = 1;
    let mut addresses = Vec::new();
    for message in wire::dump(bytes, "addresses")? {
        let attributes = Attributes::after(message.body, IFADDRMSG, "IFA")?;
        let [_, prefix_length, flags, scope] = wire::array(message.body, 0, "ifaddrmsg")?;
        let Some(address) = attributes.address(2)?.or(attributes.address(1)?) else { continue };
        addresses.push(Address {
            link: u32::from_ne_bytes(wire::array(message.body, 4, "ifaddrmsg")?),
            address,
            prefix_length,
            scope,
            secondary: attributes.u32(8)?.unwrap_or(flags.into()) & IFA_F_SECONDARY != 0,
        });
    }
    Ok(addresses)
}

/// Answer to `RTM_GETRULE`.
fn decode_rules(bytes: &[u8]) -> Result<Vec<Rule>, WireError> {
    const MODELLED: &[u16] = &[1, 2, 6, 10, 15, 16];
    /// `FRA_SUPPRESS_PREFIXLEN` -1 (none), `FRA_PROTOCOL` (who made the rule)
    const IRRELEVANT: &[u16] = &[14, 21];
    let mut rules = Vec::new();
    for message in wire::dump(bytes, "policy rules")? {
        let attributes = Attributes::after(message.body, RTMSG, "FRA")?;
        let [family, destination_length, source_length, _] = wire::array(message.body, 0, "fib_rule_hdr")?;
        let [table, _, _, action] = wire::array(message.body, 4, "fib_rule_hdr")?;
        let mark = attributes.u32(10)?;
        let no_suppression = attributes.u32(14)?.is_none_or(|length| length == u32::MAX);
        let other = attributes
            .iter()
            .map(|attribute| attribute.kind)
            .filter(|kind| !MODELLED.contains(kind) && !(IRRELEVANT.contains(kind) && (*kind != 14 || no_suppression)));
        rules.push(Rule {
            ipv6: family == AF_INET6,
            priority: attributes.u32(6)?.unwrap_or(0),
            table: attributes.u32(15)?.unwrap_or(table.into()),
            action,
            fwmark: mark.map(|mark| attributes.u32(16).map(|mask| (mark, mask.unwrap_or(u32::MAX)))).transpose()?,
            source: attributes.address(2)?.map(|address| (address, source_length)),
            destination: attributes.address(1)?.map(|address| (address, destination_length)),
            other: other.collect(),
        });
    }
    Ok(rules)
}

/// Answer to a dump of `RTM_GETROUTE`.
fn decode_routes(bytes: &[u8]) -> Result<Vec<Route>, WireError> {
    const RTM_F_CLONED: u32 = 0x200;
    let mut routes = Vec::new();
    for message in wire::dump(bytes, "routes")? {
        if u32::from_ne_bytes(wire::array(message.body, 8, "rtmsg")?) & RTM_F_CLONED == 0 {
            routes.push(decode_route(message.body)?);
        }
    }
    Ok(routes)
}

/// Devices that one route look-up found. No route is an answer too: nothing leaves.
fn decode_lookup(bytes: &[u8]) -> Result<Vec<u32>, WireError> {
    const NO_ROUTE: [i32; 3] = [100, 101, 113]; // ENETDOWN, ENETUNREACH, EHOSTUNREACH
    let message = wire::messages(bytes).next();
    let message = message.ok_or_else(|| WireError::new("route look-up: no answer"))?;
    let message = message.map_err(|error| error.within("route look-up"))?;
    match message.kind {
        RTM_NEWROUTE => Ok(decode_route(message.body)?.devices),
        NLMSG_ERROR if NO_ROUTE.contains(&message.errno()?) => Ok(Vec::new()),
        NLMSG_ERROR => Err(WireError::new(format!("route look-up: the kernel answered errno {}", message.errno()?))),
        kind => Err(WireError::new(format!("route look-up: the answer has type {kind}"))),
    }
}

fn decode_route(body: &[u8]) -> Result<Route, WireError> {
    let attributes = Attributes::after(body, RTMSG, "RTA")?;
    let [_, prefix_length, _, tos, table, _, _, kind] = wire::array(body, 0, "rtmsg")?;
    let mut devices: Vec<u32> = attributes.u32(4)?.into_iter().collect();
    if let Some(mut hops) = attributes.get(9) {
        while !hops.is_empty() {
            let length = u16::from_ne_bytes(wire::array(hops, 0, "rtnexthop")?) as usize;
            devices.push(u32::from_ne_bytes(wire::array(hops, 4, "rtnexthop")?));
            if length < 8 {
                return Err(WireError::new(format!("rtnexthop says {length} bytes")));
            }
            hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(Route {
        table: attributes.u32(15)?.unwrap_or(table.into()),
        destination: attributes.address(1)?,
        prefix_length,
        kind,
        tos,
        priority: attributes.u32(6)?,
        gateway: attributes.address(5)?,
        preferred_source: attributes.address(7)?,
        devices,
        nexthop: attributes.u32(30)?,
    })
}

#[cfg(test)]
mod tests;
