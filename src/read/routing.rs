//! Paths of tunnel packets: addresses, policy rules, routes, and route lookups, which give the underlay devices. Called
//! by `links::standing`.
//!
//! The kernel is asked to route to one remote of each *class*: remotes covered by routes of equal content in every
//! table are routed alike, so a cluster of thousands of nodes needs one or two lookups. For a multipath route a lookup
//! returns one next hop while flows use all, so the others are added.
//!
//! Kernel sources: `inet_fill_ifaddr`, `fib_nl_fill_rule`, `fib_dump_info`, `inet_rtm_getroute`, and their IPv6
//! counterparts.

mod classes;
pub(crate) mod forwarded;
mod tables;
pub(crate) mod unmarked;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::capture::{NetlinkFamily, Request};
use crate::facts::netfilter::Family;
use crate::facts::{Address, Failure, Link, OuterRoute, PolicyRule, Reading, Route, Source, Tunnel, upper_devices};
use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{self, Attributes, Message};
use crate::read::Node;
use classes::{Class, classes, lookups, marks};
pub(crate) use tables::Tables;
use wire::{decode_address, decode_route};

/// Length of `struct ifaddrmsg`.
const IFADDRMSG: usize = 8;
/// Length of `struct rtmsg` and of `struct fib_rule_hdr`.
const RTMSG: usize = 12;
const IPPROTO_UDP: u8 = 17;
/// Classes of remotes per tunnel. More means that almost every peer has its own route.
const MAX_LOOKUPS: usize = 256;
/// Marks that policy rules test, including 0; each takes one lookup per class.
const MAX_MARKS: usize = 16;
const RTN_UNICAST: u8 = 1;

fn table(source: Source, what: &str, kind: u16, family: Family) -> Request {
    let mut body = vec![0; RTMSG];
    body[0] = family.nfproto();
    Request::netlink(source, &format!("route/{what}-{family}"), NetlinkFamily::Route, kind, true, body)
}

fn addresses() -> Request {
    let body = vec![0; IFADDRMSG];
    Request::netlink(Source::Rtnetlink, "route/addresses", NetlinkFamily::Route, RTM_GETADDR, true, body)
}

fn rules(family: Family) -> Request {
    table(Source::Routing, "rules", RTM_GETRULE, family)
}

fn routes(family: Family) -> Request {
    table(Source::Routing, "routes", RTM_GETROUTE, family)
}

/// Body of a route lookup for an address.
fn path_to(address: IpAddr) -> Vec<u8> {
    let mut body = vec![0; RTMSG];
    body[0] = Family::of(&address).nfproto();
    body[1] = if address.is_ipv6() { 128 } else { 32 };
    put_address(&mut body, RTA_DST, address);
    body
}

/// Whether each address is local, by route lookups in the order of the addresses.
pub(crate) fn local_ones(node: &mut Node<'_>, addresses: &[IpAddr]) -> Reading<BTreeMap<IpAddr, bool>> {
    /// `RTN_LOCAL`
    const LOCAL: u8 = 2;
    look_up_each(node, "source", addresses, |route| route.is_some_and(|route| route.kind == LOCAL))
}

/// Index of the device that this host's packets to each address leave by; `None`: the address is local or unreachable.
pub(crate) fn paths_to(node: &mut Node<'_>, addresses: &[IpAddr]) -> Reading<BTreeMap<IpAddr, Option<u32>>> {
    let device = |route: Route| (route.kind == RTN_UNICAST).then(|| route.devices.first().copied()).flatten();
    look_up_each(node, "target", addresses, |route| route.and_then(device))
}

/// Route lookups for these addresses, in order; `None`: no route, or one that rejects (`fib_props`). Valid until a
/// notification, like links and routes.
fn look_up_each<T>(
    node: &mut Node<'_>,
    what: &str,
    addresses: &[IpAddr],
    tell: impl Fn(Option<Route>) -> T,
) -> Reading<BTreeMap<IpAddr, T>> {
    /// `EACCES`, `EINVAL`, `EAFNOSUPPORT`, `ENETDOWN`, `ENETUNREACH`, `EHOSTUNREACH`
    const NOWHERE: &[i32] = &[13, 22, 97, 100, 101, 113];
    let epoch = if addresses.is_empty() { None } else { node.epoch() };
    let stands = epoch.is_some() && node.left.links.as_ref().map(|links| links.epoch) == epoch;
    let mut found = BTreeMap::new();
    for (number, address) in addresses.iter().enumerate() {
        let name = format!("route/get-{what}-{number}");
        let known = node.left.links.as_ref().filter(|_| stands).and_then(|links| links.routes.get(&name));
        if let Some((_, route)) = known.filter(|(of, _)| of == address) {
            found.insert(*address, tell(route.clone()));
            continue;
        }
        let request =
            Request::netlink(Source::Routing, &name, NetlinkFamily::Route, RTM_GETROUTE, false, path_to(*address));
        let route = look_up_or_nowhere(node, &request, NOWHERE);
        let route = match node.note(&request, route) {
            Reading::Ok(route) => route,
            other => return other.map(|_| BTreeMap::new()),
        };
        if let Some(links) = node.left.links.as_mut().filter(|_| stands) {
            Arc::make_mut(&mut links.routes).insert(name, (*address, route.clone()));
        }
        found.insert(*address, tell(route));
    }
    Reading::Ok(found)
}

/// Result of one lookup; with one of these errnos, and for `None`, packets go nowhere.
fn look_up_or_nowhere(node: &mut Node<'_>, request: &Request, nowhere: &[i32]) -> Reading<Option<Route>> {
    let route = node.try_answer(request, |message| decode_route(message.body));
    match route.failure().and_then(Failure::refused) {
        Some(errno) if nowhere.contains(&errno) => Reading::Ok(None),
        _ => route.map(Some),
    }
}

fn put_address(body: &mut Vec<u8>, kind: u16, address: IpAddr) {
    match address {
        IpAddr::V4(address) => netlink::put(body, kind, &address.octets()),
        IpAddr::V6(address) => netlink::put(body, kind, &address.octets()),
    }
}

fn up_tunnels(links: &[Link]) -> impl Iterator<Item = (&Link, &Tunnel)> {
    links.iter().filter(|link| link.up).filter_map(|link| Some((link, link.tunnel.as_ref()?)))
}

/// A dump for one family; empty if the kernel was built without it.
fn dump<T>(
    node: &mut Node<'_>,
    request: &Request,
    decode: impl FnMut(&Message<'_>) -> Result<Option<T>, Failure>,
) -> Reading<Vec<T>> {
    const NOT_BUILT: [i32; 2] = [95, 97]; // `EOPNOTSUPP`, `EAFNOSUPPORT`
    let all = node.try_dump(request, decode);
    if all.failure().is_some_and(|failure| matches!(failure.root(), Failure::TooLarge { .. })) {
        node.sources.asked(request.source); // no failure: the dump was cut off here
        return all;
    }
    match all.failure().and_then(Failure::refused) {
        Some(errno) if NOT_BUILT.contains(&errno) => Reading::Ok(Vec::new()),
        _ => node.note(request, all),
    }
}

/// Request for the forwarding settings of a family.
fn forwarding(family: Family) -> Request {
    let name = format!("route/forwarding-{family}");
    // struct netconfmsg is one byte, followed by attributes; kernels without IPv6 refuse.
    Request::netlink(
        Source::Routing,
        &name,
        NetlinkFamily::Route,
        RTM_GETNETCONF,
        true,
        vec![family.nfproto(), 0, 0, 0],
    )
}

/// Whether any device forwards packets of a family.
pub(crate) fn forwards(node: &mut Node<'_>, family: Family) -> Reading<bool> {
    /// The default for new devices.
    const NETCONFA_IFINDEX_DEFAULT: u32 = -2i32 as u32;
    let found = dump(node, &forwarding(family), |message| {
        // struct netconfmsg, padded to 4 bytes
        let attributes = Attributes::after(message.body, 4, "NETCONFA")?;
        let [found, ..] = crate::netfilter::array::<4>(message.body, 0, "netconfmsg")?;
        let template = attributes.u32(NETCONFA_IFINDEX)? == Some(NETCONFA_IFINDEX_DEFAULT);
        let forwards = attributes.u32(NETCONFA_FORWARDING)?.is_some_and(|forwards| forwards != 0);
        Ok((found == family.nfproto() && !template).then_some(forwards))
    });
    found.map(|devices| devices.contains(&true))
}

/// Looks up the paths of outer packets, and fills in the underlay devices of each tunnel.
pub(crate) fn attach_underlay(node: &mut Node<'_>, tables: &Tables, links: &mut [Link]) {
    for link in links.iter_mut().filter(|link| link.up) {
        if let Some(tunnel) = &link.tunnel {
            let outer = outer_routes(node, tables, link, tunnel);
            let underlay = match &outer {
                // The kernel sends by these devices whatever the routes are.
                Reading::Ok(routes) => {
                    let via = tunnel.fdb.ok().into_iter().flatten().filter_map(|entry| entry.via);
                    let routed = routes.iter().flat_map(|route| route.devices.iter().copied());
                    let all: BTreeSet<u32> = tunnel.link.into_iter().chain(via).chain(routed).collect();
                    if all.is_empty() && tunnel.listed_destinations().next().is_none() {
                        Reading::Absent("it knows no remote yet".into())
                    } else {
                        Reading::Ok(all.into_iter().collect())
                    }
                }
                other => other.as_ref().map(|_| Vec::new()),
            };
            link.tunnel = link.tunnel.take().map(|tunnel| Tunnel { underlay, outer, ..tunnel });
        }
    }
}

fn outer_routes(node: &mut Node<'_>, tables: &Tables, link: &Link, tunnel: &Tunnel) -> Reading<Vec<OuterRoute>> {
    if link.link_netnsid.is_some() {
        return Reading::Failed("its outer packets are sent in another network namespace".into());
    }
    if tunnel.flow_based {
        return Reading::Absent("flow-based: each packet brings its own remote".into());
    }
    if let Some(entry) = tunnel.fdb.ok().into_iter().flatten().find(|entry| entry.nexthop_group.is_some()) {
        let group = entry.nexthop_group.unwrap_or_default();
        return Reading::Failed(Failure::unsupported(format!(
            "its forwarding database uses next-hop group {group}, which is not read"
        )));
    }
    if let Some(why) = ports_decide(tables, tunnel) {
        return Reading::Failed(Failure::unsupported(why));
    }
    let classes = match (&tunnel.fdb, classes(tables, tunnel)) {
        (Reading::Ok(_), Reading::Ok(classes)) => classes,
        (Reading::Ok(_), other) => return other.map(|_| Vec::new()),
        (other, _) => return other.as_ref().map(|_| Vec::new()),
    };
    if classes.len() > MAX_LOOKUPS {
        return Reading::Failed(Failure::too_large(MAX_LOOKUPS, "different routes to its remotes"));
    }
    if Family::IP.iter().any(|family| marks(tables, *family).len() >= MAX_MARKS) {
        return Reading::Failed(Failure::too_large(MAX_MARKS, "marks that policy rules test"));
    }
    let mut routes = Vec::new();
    for (Class { remotes, via, .. }, mark, request) in lookups(tables, link, tunnel, &classes) {
        let found = match look_up(node, &request) {
            Reading::Ok(Some(found)) => found,
            Reading::Ok(None) => continue, // unreachable
            other => return other.map(|_| Vec::new()),
        };
        let mut devices = found.devices;
        if let (None, [remote, ..]) = (via, remotes.as_slice()) {
            match siblings(tables, *remote, &devices) {
                Ok(siblings) => {
                    devices.extend(siblings.into_iter().filter(|index| !devices.contains(index)).collect::<Vec<_>>())
                }
                Err(why) => return Reading::Failed(Failure::unsupported(why)),
            }
        }
        let (gateway, source) = (found.gateway, found.preferred_source);
        routes.push(OuterRoute { mark, remotes: remotes.clone(), devices, gateway, source });
    }
    Reading::Ok(routes)
}

/// The route returned by one lookup; `None`: unreachable.
fn look_up(node: &mut Node<'_>, request: &Request) -> Reading<Option<Route>> {
    const ENETDOWN: i32 = 100;
    const ENETUNREACH: i32 = 101;
    const EHOSTUNREACH: i32 = 113;
    let found = node.try_answer(request, |message| match message.kind {
        RTM_NEWROUTE => decode_route(message.body),
        kind => Err(Failure::unexpected(format!("the answer has type {kind}"))),
    });
    match found.failure().and_then(Failure::refused) {
        Some(ENETDOWN | ENETUNREACH | EHOSTUNREACH) => Reading::Ok(None),
        _ => node.note(request, found).map(Some),
    }
}

/// Why one lookup per remote does not give the path of all packets; `None`: it does.
fn ports_decide(tables: &Tables, tunnel: &Tunnel) -> Option<&'static str> {
    let families: BTreeSet<Family> = tunnel.listed_destinations().map(|(remote, _)| Family::of(&remote)).collect();
    let rules = families.into_iter().filter_map(|family| tables.of(family).ok()).flat_map(|tables| &tables.rules);
    let tested: BTreeSet<u16> = rules.flat_map(|rule| &rule.other).copied().collect();
    let own_port = |port: &u16| Some(*port) != tunnel.port;
    let other_ports = tunnel.fdb.ok().into_iter().flatten().any(|entry| entry.port.as_ref().is_some_and(own_port));
    if tested.contains(&FRA_SPORT_RANGE) {
        return Some("a policy rule looks at source ports, which differ by packet");
    }
    (other_ports && tested.contains(&FRA_DPORT_RANGE))
        .then_some("a policy rule looks at destination ports, and forwarding entries have their own")
}

/// Devices of a multipath route's other next hops: a lookup returns one, while the tunnel's packets, with varying
/// source ports, use all.
fn siblings(tables: &Tables, remote: IpAddr, found: &[u32]) -> Result<BTreeSet<u32>, String> {
    let Some(family) = tables.of(Family::of(&remote)).ok() else { return Ok(BTreeSet::new()) };
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

/// Addresses of all links.
pub(crate) fn read_addresses(node: &mut Node<'_>) -> Reading<Vec<Address>> {
    node.dump(&addresses(), decode_address)
}

/// Policy rules of both families.
pub(crate) fn all_rules(tables: &Tables) -> Reading<Vec<PolicyRule>> {
    concat(Family::IP.iter().map(|family| tables.of(*family).as_ref().map(|tables| tables.rules.clone())))
}

/// `RT_TABLE_DEFAULT`, `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`, which unmarked packets use as well.
fn is_common(table: u32) -> bool {
    (253..=255).contains(&table)
}

/// Routes for [`crate::facts::Facts::routes`]: default routes, those that cover a tunnel's remote, those into a tunnel,
/// those of tables that a mark selects, and non-unicast routes.
pub(crate) fn wanted_routes(tables: &Tables, links: &[Link], foreign: &[Link]) -> Reading<Vec<Route>> {
    let remotes = || up_tunnels(links).flat_map(|(_, tunnel)| tunnel.listed_destinations()).map(|(remote, _)| remote);
    let above: BTreeSet<u32> = up_tunnels(links).flat_map(|(link, _)| upper_devices(links, link.index)).collect();
    let all = Family::IP.iter().map(|of| {
        tables.of(*of).as_ref().map(|family| {
            let mine = remotes().filter(|remote| Family::of(remote) == *of);
            let mut wanted: BTreeSet<usize> = mine.flat_map(|remote| family.covering(remote)).collect();
            let marked: BTreeSet<u32> =
                family.rules.iter().filter(|rule| rule.fwmark.is_some()).map(|rule| rule.table).collect();
            let inward = |route: &Route| {
                let into = route.devices.iter().any(|at| above.contains(at));
                let known = route.nexthop.is_none() || !route.devices.is_empty();
                let led_to = known && marked.contains(&route.table) && !is_common(route.table);
                let names_source = !foreign.is_empty() && route.preferred_source.is_some();
                into || route.kind != RTN_UNICAST || route.prefix_length == 0 || led_to || names_source
            };
            wanted.extend(family.routes.iter().enumerate().filter(|(_, route)| inward(route)).map(|(at, _)| at));
            wanted.into_iter().map(|at| family.routes[at].clone()).collect()
        })
    });
    concat(all)
}

/// Devices of routes with a next hop.
pub(crate) fn gateway_devices(tables: &Tables) -> BTreeSet<u32> {
    let families = Family::IP.iter().filter_map(|family| tables.of(*family).ok());
    let routes = families.flat_map(|family| &family.routes);
    routes
        .filter(|route| route.kind == RTN_UNICAST && route.gateway.is_some())
        .flat_map(|route| route.devices.clone())
        .collect()
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

#[cfg(test)]
mod tests;
