//! Facts about a tunnel besides the rules, input of `scenarios::tunnel`: packets that enter it, paths of its outer
//! packets.

mod arrivals;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use arrivals::arrivals;
pub(super) use arrivals::{Arrival, Arrivals};

use super::network::host::may_be_chosen;
use super::past::{PastTunnel, past};
use super::values::Numbers;
use crate::facts::netfilter::{Family, address_key, name_key, prefix_range};
use crate::facts::{Address, Facts, Link, OuterHeader, OuterRoute, Question, Reading, Route, Tunnel, upper_devices};

/// `LOOPBACK_IFINDEX`, in each network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// A tunnel with the addresses, routes and devices around it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelFacts {
    /// Name of its device; empty: it is in another network namespace, and `paths` are possible paths.
    pub device: String,
    /// Names of the devices by which packets enter it.
    pub upper_devices: Numbers,
    /// Names of those that are not the tunnel's own device.
    pub above: Vec<String>,
    /// Destinations routed into it, by family (IPv4, IPv6).
    pub inner: [Numbers; 2],
    /// Whether it is a bridge port, so that frames enter it without traversing IP rules.
    pub bridged: bool,
    /// Whether bridged frames traverse IP rules, by family (IPv4, IPv6). `Err`: not read.
    pub bridges_call_rules: [Result<bool, Question>; 2],
    /// UDP destination ports; `None`: not known.
    pub ports: Option<Numbers>,
    /// UDP source ports; `None`: not known.
    pub source_ports: Option<Numbers>,
    /// Paths of outer packets.
    pub paths: Vec<OuterPath>,
    /// Why `paths` is incomplete; `None`: it is complete.
    pub vague: Option<Question>,
    /// Marks tested by policy rules, by family (IPv4, IPv6): value and mask.
    pub fwmarks: [Vec<(u32, u32)>; 2],
    /// Marks that may route packets past the tunnel, by family (IPv4, IPv6).
    pub past: [Vec<PastTunnel>; 2],
    /// Fields that are the same in all outer headers.
    pub header: OuterHeader,
    /// Packets that arrive through tunnels.
    pub arrivals: Arrivals,
    /// Whether outer packets are bound to a device, and may leave by another one if they are re-routed.
    pub is_rerouted: bool,
}

impl TunnelFacts {
    /// Whether its device is in another network namespace; packets from there have no mark (`iptunnel_xmit`).
    pub fn is_elsewhere(&self) -> bool {
        self.device.is_empty()
    }

    /// Bytes of the IP header that are the same in all packets of a path: offset, mask, value.
    pub fn bytes_of_header(&self, path: &OuterPath) -> Vec<(usize, u8, u8)> {
        let OuterHeader { dscp, ttl, dont_fragment } = self.header;
        let remote = path.remotes.as_ref().and_then(Numbers::single);
        let address = |address: Option<u128>, place: usize, width: usize| {
            let bytes = address.map(|address| address.to_be_bytes()[16 - width..].to_vec()).unwrap_or_default();
            bytes.into_iter().enumerate().map(move |(at, byte)| (place + at, 0xff, byte))
        };
        match path.family {
            Family::Ipv6 => dscp
                .into_iter()
                .flat_map(|dscp| [(0, 0x0f, dscp >> 2), (1, 0xc0, dscp << 6)])
                .chain(ttl.map(|ttl| (7, 0xff, ttl)))
                .chain(address(path.source, 8, 16))
                .chain(address(remote, 24, 16))
                .collect(),
            _ => (dscp.map(|dscp| (1, 0xfc, dscp << 2)).into_iter())
                .chain(dont_fragment.map(|set| (6, 0x40, if set { 0x40 } else { 0 })))
                .chain(ttl.map(|ttl| (8, 0xff, ttl)))
                .chain(address(path.source, 12, 4))
                .chain(address(remote, 16, 4))
                .collect(),
        }
    }

    /// Mark bits that affect routing: those tested by policy rules. If re-routing may change the device, all bits,
    /// since any change of the mark causes it.
    pub fn routing_bits(&self) -> u32 {
        let tested = self.fwmarks.iter().flatten().fold(0, |all, (_, mask)| all | mask);
        if self.is_rerouted { u32::MAX } else { tested }
    }
}

/// A path of outer packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterPath {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Mark of the packets; see [`OuterRoute::mark`].
    pub mark: u32,
    /// Outer destinations; `None`: not known.
    pub remotes: Option<Numbers>,
    /// Name of the outgoing device; `None`: not known.
    pub device: Option<u128>,
    /// Index and number of next hops, for a multipath route.
    pub next_hop: Option<(usize, usize)>,
    /// Outer source address; `None`: not known.
    pub source: Option<u128>,
    /// Address that masquerading would give them.
    pub primary: Result<u128, Question>,
}

/// Gathers the facts. `Err`: what was not read.
pub(crate) fn facts(facts: &Facts, link: &Link, tunnel: &Tunnel) -> Result<TunnelFacts, Question> {
    if link.link_netnsid.is_some() {
        return Err("its packets leave in another network namespace, whose rules are not read".into());
    }
    let links = facts.known_links();
    let read = |reading: Reading<()>, words: [&'static str; 3]| match reading {
        Reading::Ok(()) => Ok(()),
        other => Err(Question::unread(&other).shown_by(words)),
    };
    read(facts.routes.without_value(), ["ip", "route", "show"])?;
    read(facts.rules.without_value(), ["ip", "rule", "show"])?;
    read(facts.addresses.without_value(), ["ip", "address", "show"])?;
    let into = upper_devices(links, link.index);
    let names =
        links.iter().filter(|link| into.contains(&link.index) && bridge_of(links, link).is_none()).map(|link| {
            name_key(&link.name).ok_or_else(|| format!("the name of {} is not known byte by byte", link.name).into())
        });
    let names = names.collect::<Result<Vec<u128>, Question>>()?;
    if let Some(route) = facts.routes.ok().into_iter().flatten().find(|route| is_unresolved(route)) {
        let why = format!("a route in table {} has a next-hop object, which is not read", route.table);
        return Err(Question::from(why).shown_by(["ip", "nexthop", "show"]));
    }
    let source_ports = tunnel.source_ports.or(facts.local_ports.ok().copied());
    let (paths, vague) = outer_paths(facts, link, tunnel);
    let fwmarks = |family: Family| -> Vec<(u32, u32)> {
        let rules = facts.rules.ok().into_iter().flatten().filter(|rule| rule.family == family);
        rules.filter_map(|rule| rule.fwmark).collect()
    };
    Ok(TunnelFacts {
        device: if link.is_elsewhere() { String::new() } else { link.name.clone() },
        above: links
            .iter()
            .filter(|other| into.contains(&other.index) && other.index != link.index)
            .map(|other| other.name.clone())
            .collect(),
        upper_devices: Numbers::ranges(names.into_iter().map(|key| (key, key)).collect()),
        inner: Family::IP.map(|family| routed_into(facts, &into, family)),
        bridged: link.master.is_some(),
        bridges_call_rules: [0, 1].map(|at| bridges_call_rules(facts, link, at)),
        ports: destination_ports(tunnel),
        source_ports: source_ports.map(|(first, last)| Numbers::ranges(vec![(first.into(), last.into())])),
        paths,
        vague,
        fwmarks: Family::IP.map(fwmarks),
        past: Family::IP.map(|family| {
            let (rules, routes) = (facts.rules.ok(), facts.routes.ok());
            let (rules, routes) = (rules.map_or(&[][..], Vec::as_slice), routes.map_or(&[][..], Vec::as_slice));
            past(rules, routes, family, &into)
        }),
        header: tunnel.header,
        arrivals: arrivals(links),
        is_rerouted: is_rerouted(facts.routes.ok().map_or(&[], Vec::as_slice), &tunnel.destinations()),
    })
}

/// Paths of outer packets, and why they are incomplete.
fn outer_paths(facts: &Facts, link: &Link, tunnel: &Tunnel) -> (Vec<OuterPath>, Option<Question>) {
    let entries = |question: Question| question.shown_by(["bridge", "fdb", "show", "dev", &link.name]);
    match &tunnel.outer {
        _ if link.is_elsewhere() => match &tunnel.underlay {
            Reading::Ok(_) => (paths_from(facts, tunnel), None),
            other => (vague_paths(facts, tunnel), Some(Question::unread(other))),
        },
        Reading::Ok(_) if matches!(tunnel.fdb, Reading::Denied(_) | Reading::Failed(_)) => {
            (vague_paths(facts, tunnel), Some(entries(Question::unread(&tunnel.fdb))))
        }
        Reading::Ok(_) if tunnel.listed_destinations().next().is_none() => {
            (vague_paths(facts, tunnel), Some(entries("it knows no remote yet".into())))
        }
        Reading::Ok(routes) => (routes.iter().flat_map(|route| paths(facts, tunnel, route)).collect(), None),
        other => (
            vague_paths(facts, tunnel),
            Some(Question::unread(other).shown_by(["ip", "route", "show", "table", "all"])),
        ),
    }
}

/// UDP destination ports of outer packets. `None`: not known.
fn destination_ports(tunnel: &Tunnel) -> Option<Numbers> {
    let own = tunnel.port?;
    match &tunnel.fdb {
        Reading::Ok(entries) => {
            let listed = entries.iter().filter_map(|entry| entry.port);
            Some(Numbers::of(&listed.chain([own]).map(u128::from).collect::<Vec<_>>()))
        }
        Reading::Absent(_) => Some(Numbers::of(&[own.into()])),
        Reading::Denied(_) | Reading::Failed(_) => None, // FDB entries may have other ports
    }
}

/// Whether frames of the tunnel's bridge traverse IPv4 (0) or IPv6 (1) rules: by the bridge's own option or sysctl.
fn bridges_call_rules(facts: &Facts, link: &Link, at: usize) -> Result<bool, Question> {
    if bridge_of(facts.known_links(), link).is_some_and(|bridge| bridge.calls_rules[at]) {
        return Ok(!matches!(facts.bridges_call_rules[at], Reading::Absent(_)));
    }
    match &facts.bridges_call_rules[at] {
        Reading::Ok(calls) => Ok(*calls),
        Reading::Absent(_) => Ok(false),
        unread => Err(Question::unread(unread)
            .reword(|why| {
                format!("whether frames of bridges pass the rules (bridge-nf-call-iptables) was not read: {why}")
            })
            .shown_by(["sysctl", "net.bridge"])),
    }
}

/// The bridge that a device is a port of. IP packets use the bridge's device, never the port.
fn bridge_of<'l>(links: &'l [Link], port: &Link) -> Option<&'l Link> {
    let master = port.master?;
    links.iter().find(|link| link.index == master && link.kind.as_deref() == Some("bridge"))
}

/// `RTN_UNICAST`
const UNICAST: u8 = 1;

/// Whether a route's device is not known.
fn is_unresolved(route: &Route) -> bool {
    route.kind == UNICAST && route.nexthop.is_some() && route.devices.is_empty()
}

/// Whether some table routes one of the remotes to a device other than the one the tunnel is bound to.
fn is_rerouted(routes: &[Route], destinations: &[(IpAddr, Option<u32>)]) -> bool {
    /// Maximum number of comparisons of remotes with routes: some milliseconds.
    const MAX: usize = 1_000_000;
    let bound = || destinations.iter().filter_map(|(remote, via)| Some((*remote, (*via)?)));
    if routes.len().saturating_mul(bound().count()) > MAX {
        return true;
    }
    let covers = |route: &Route, remote: IpAddr| match route.destination {
        Some(network) if network.is_ipv6() == remote.is_ipv6() => {
            let (first, last) = prefix_range(network, route.prefix_length);
            (first..=last).contains(&address_key(remote))
        }
        Some(_) => false,
        None => route.gateway.is_none_or(|gateway| gateway.is_ipv6() == remote.is_ipv6()),
    };
    bound().any(|(remote, via)| {
        // Per table, the routes with the longest prefix.
        let mut best: BTreeMap<u32, (u8, bool)> = BTreeMap::new();
        for route in routes.iter().filter(|route| covers(route, remote)) {
            let elsewhere = route.devices != [via];
            let found = best.entry(route.table).or_default();
            if route.prefix_length > found.0 {
                *found = (route.prefix_length, elsewhere);
            } else if route.prefix_length == found.0 {
                found.1 |= elsewhere;
            }
        }
        best.values().any(|(_, elsewhere)| *elsewhere)
    })
}

/// Destinations routed into one of these devices, without IPv6's link-local and multicast routes (no checksum offload).
fn routed_into(facts: &Facts, devices: &BTreeSet<u32>, family: Family) -> Numbers {
    let whole: IpAddr = if family == Family::Ipv6 { [0u16; 8].into() } else { [0u8; 4].into() };
    let routes = facts.routes.ok().into_iter().flatten().filter(|route| route.kind == UNICAST);
    let routes = routes.filter(|route| route.devices.iter().any(|device| devices.contains(device)));
    let prefixes = routes.filter_map(|route| {
        let destination = match (route.destination, route.gateway) {
            (Some(destination), _) => destination,
            // A default route does not say its family; its gateway does.
            (None, Some(gateway)) if Family::of(&gateway) == family => whole,
            (None, None) => whole,
            (None, Some(_)) => return None,
        };
        let local = route.prefix_length >= 8 && (is_link_local(destination) || destination.is_multicast());
        (Family::of(&destination) == family && !local).then(|| prefix_range(destination, route.prefix_length))
    });
    Numbers::ranges(prefixes.collect())
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.segments()[0] & 0xffc0 == 0xfe80)
}

/// Partial paths if no route is known: the device and address that the tunnel is bound to.
fn vague_paths(facts: &Facts, tunnel: &Tunnel) -> Vec<OuterPath> {
    let local = tunnel.local.filter(|local| !local.is_unspecified() && !tunnel.flow_based);
    let insists = tunnel.fdb.ok().is_some() && tunnel.listed_destinations().all(|(_, via)| via == tunnel.link);
    let device = tunnel.link.filter(|_| insists);
    let path = |family| OuterPath {
        family,
        mark: 0,
        remotes: None,
        device: device.and_then(|index| name_key(facts.link_name(index))),
        next_hop: None,
        source: local.map(address_key),
        primary: match device {
            Some(index) => primary(facts, index, family, None),
            None => Err("which device it leaves by is not known".into()),
        },
    };
    let families = Family::IP.into_iter().filter(|family| local.is_none_or(|local| Family::of(&local) == *family));
    families.map(path).collect()
}

/// Possible paths of a tunnel of which only sockets are seen: by each device and each address that routing may choose.
/// Masquerading gives the same address if the route has none (`inet_select_addr`, `ipv6_dev_get_saddr`).
fn paths_from(facts: &Facts, tunnel: &Tunnel) -> Vec<OuterPath> {
    let addresses = facts.addresses.ok().map_or(&[][..], Vec::as_slice);
    let routes = facts.routes.ok().map_or(&[][..], Vec::as_slice);
    let mut paths = Vec::new();
    for (family, has_socket) in Family::IP.into_iter().zip(tunnel.elsewhere.unwrap_or_default()) {
        for device in tunnel.underlay.ok().into_iter().flatten().copied().filter(|_| has_socket) {
            let path = |source: Option<u128>, primary| OuterPath {
                family,
                mark: 0,
                remotes: None,
                device: name_key(facts.link_name(device)),
                next_hop: None,
                source,
                primary,
            };
            let own: Vec<&Address> =
                addresses.iter().filter(|at| at.link == device && may_be_chosen(at, family)).collect();
            // A host address is not chosen for other hosts, unless it is the only one.
            let whole = if family == Family::Ipv6 { 128 } else { 32 };
            let chosen = own.iter().filter(|at| own.len() == 1 || at.prefix_length < whole);
            let chosen: BTreeSet<u128> = chosen.map(|at| address_key(at.address)).collect();
            paths.extend(chosen.iter().map(|address| path(Some(*address), Ok(*address))));
            if chosen.is_empty() {
                let primary = primary(facts, device, family, None);
                paths.push(path(primary.as_ref().ok().copied(), primary));
            }
            let named = routes.iter().filter(|route| route.kind == UNICAST && route.devices.contains(&device));
            let named = named.filter_map(|route| route.preferred_source).filter(|source| Family::of(source) == family);
            let named: BTreeSet<u128> = named.map(address_key).filter(|source| !chosen.contains(source)).collect();
            paths.extend(named.into_iter().map(|source| path(Some(source), primary(facts, device, family, None))));
        }
    }
    paths
}

/// Paths of one route: one per device.
fn paths(facts: &Facts, tunnel: &Tunnel, route: &OuterRoute) -> Vec<OuterPath> {
    let family = route.remotes.first().map_or(Family::Ipv4, Family::of);
    let local = tunnel.local.filter(|local| !local.is_unspecified()).or(route.source);
    let by = |(number, index): (usize, &u32)| {
        let next_hop = match route.gateway {
            // nf_nat_masquerade_ipv6 uses the destination.
            _ if family == Family::Ipv6 => route.remotes.first().copied(),
            Some(gateway) if Family::of(&gateway) == family && number == 0 => Some(gateway),
            None if number == 0 => route.remotes.first().copied(),
            _ => None, // of a multipath route's other next hops only the device is known
        };
        OuterPath {
            family,
            mark: route.mark,
            remotes: Some(Numbers::of(&route.remotes.iter().map(|remote| address_key(*remote)).collect::<Vec<_>>())),
            device: name_key(facts.link_name(*index)),
            next_hop: (route.devices.len() > 1).then_some((number, route.devices.len())),
            source: local.map(address_key),
            primary: primary(facts, *index, family, next_hop),
        }
    };
    route.devices.iter().enumerate().map(by).collect()
}

/// Address that masquerading gives packets that leave by a device: `inet_select_addr`, `ipv6_dev_get_saddr`.
fn primary(facts: &Facts, device: u32, family: Family, next_hop: Option<IpAddr>) -> Result<u128, Question> {
    let all = facts.addresses.ok().map_or(&[][..], Vec::as_slice);
    let usable = |address: &&Address| may_be_chosen(address, family);
    let here: Vec<&Address> = all.iter().filter(usable).filter(|address| address.link == device).collect();
    let name = facts.link_name(device);
    let open = |why: String| {
        Question::from(why).shown_by(["ip", if family == Family::Ipv6 { "-6" } else { "-4" }, "address", "show"])
    };
    let chosen = match (here.as_slice(), next_hop) {
        ([], _) if family == Family::Ipv6 => None,
        // inet_select_addr continues with other devices in order: lo is first, the others' order is not known.
        ([], _) => {
            let elsewhere: Vec<&Address> = all.iter().filter(usable).collect();
            let devices: BTreeSet<u32> = elsewhere.iter().map(|address| address.link).collect();
            match devices.first() {
                Some(first) if *first != LOOPBACK_INDEX && devices.len() > 1 => {
                    return Err(open(format!(
                        "{name} has no address, and which one of other devices masquerading writes is not known"
                    )));
                }
                first => elsewhere.into_iter().find(|address| Some(&address.link) == first),
            }
        }
        ([only], _) => Some(*only),
        (_, None) => return Err(open(format!("which of the addresses of {name} masquerading writes is not known"))),
        (several, Some(next_hop)) if family == Family::Ipv6 => {
            let length = |address: &Address| {
                let differing = address_key(address.address) ^ address_key(next_hop);
                differing.leading_zeros().min(address.prefix_length.into())
            };
            // Of equal ones the first is taken.
            several.iter().rev().max_by_key(|address| length(address)).copied()
        }
        (several, Some(next_hop)) => {
            let on_link = |address: &&&Address| {
                let (first, last) = prefix_range(address.peer, address.prefix_length);
                (first..=last).contains(&address_key(next_hop))
            };
            several.iter().find(on_link).or(several.first()).copied()
        }
    };
    chosen
        .map(|address| address_key(address.address))
        .ok_or_else(|| open(format!("{name} has no address to masquerade with")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_rerouted_if_some_table_has_another_device_for_it() {
        let route = |table, prefix: &str, device| Route::to(table, prefix, UNICAST, device);
        let remote = "192.0.2.20".parse().unwrap();
        let is_rerouted = |routes: &[Route], own| is_rerouted(routes, &[(remote, Some(own))]);
        let mut routes = vec![route(254, "192.0.2.0/24", 2), route(254, "0.0.0.0/0", 3), route(254, "10.0.0.0/8", 3)];
        assert!(!is_rerouted(&routes, 2), "the longest prefix decides");
        assert!(is_rerouted(&routes, 3));
        routes.push(route(254, "192.0.2.20/32", 3));
        assert!(is_rerouted(&routes, 2));
        routes.pop();
        routes.push(route(100, "0.0.0.0/0", 3));
        assert!(is_rerouted(&routes, 2), "a policy rule may lead to that table");
        assert!(!super::is_rerouted(&routes, &[(remote, None)]), "nothing insists on a device");
    }
}
