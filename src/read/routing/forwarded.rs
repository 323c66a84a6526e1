//! Where forwarded packets go by where they come from: only policy rules make a difference there (`ip rule add iif|from …`).
//!
//! Kernel sources: `fib_rules_lookup`, `inet_rtm_getroute` and `inet6_rtm_getroute` with `RTA_IIF`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{RTN_UNICAST, look_up_or_nowhere, path_to, put_address};
use crate::capture::{NetlinkFamily, Request};
use crate::facts::netfilter::{Family, address_key, key_address, prefix_range};
use crate::facts::{ARPHRD_LOOPBACK, Address, Failure, ForwardedPath, Link, Reading, Source, routes_by_sender};
use crate::netfilter::netlink::{self, rtnl::*};
use crate::read::Node;
use crate::read::known::links::{Sent, Standing};

/// Look-ups, 10 µs each. With more the paths of packets of this host stand for those of all, where there are such.
const MAX_LOOKUPS: usize = 512;
/// Addresses of a range that are tried: more than this host has there.
const CANDIDATES: usize = 8;
/// Addresses of documentation, of IPv4 and of IPv6, which stand for all hosts that no policy rule names.
const ELSEWHERE: [&[u128]; 2] = [&[0xc633_6401, 0xcb00_7101], &[0x2001_0db8 << 96 | 1]];
/// `EACCES`, `ENETDOWN`, `ENETUNREACH`, `EHOSTUNREACH`
const NOWHERE: &[i32] = &[13, 100, 101, 113];
/// `EINVAL` and `EXDEV`: what comes from there is refused, as it is not routed back (`fib_validate_source`; all reasons are `EINVAL`
/// since Linux 6.13). Others of the same kind may be let through. A blackhole cannot be told from it.
const REFUSED_SOURCE: [i32; 2] = [22, 18];
/// `RT_SCOPE_LINK`
const LINK: u8 = 253;

/// Looks up the way from hosts beyond each device to each of these addresses. Nothing where no policy rule tells packets apart
/// by where they come from. It stands while nothing is notified of, as links and routes do.
pub(crate) fn paths(node: &mut Node<'_>, standing: &Standing, targets: &[IpAddr]) -> Reading<Vec<ForwardedPath>> {
    let Reading::Ok(rules) = &standing.rules else { return standing.rules.as_ref().map(|_| Vec::new()) };
    let Reading::Ok(links) = &standing.links else { return standing.links.as_ref().map(|_| Vec::new()) };
    let Reading::Ok(addresses) = &standing.addresses else { return standing.addresses.as_ref().map(|_| Vec::new()) };
    let mut all = Vec::new();
    for family in Family::IP {
        if !routes_by_sender(rules, family) {
            continue;
        }
        let own = rules.iter().filter(|rule| rule.family == family);
        let cuts: Vec<(u128, u128)> =
            own.filter_map(|rule| rule.source).map(|(prefix, length)| prefix_range(prefix, length)).collect();
        let targets: Vec<IpAddr> = targets.iter().copied().filter(|target| Family::of(target) == family).collect();
        if targets.is_empty() {
            continue;
        }
        for (input, sources, source) in senders(links, addresses, family, &cuts) {
            all.extend(targets.iter().map(|target| Sent { input, sources, source, target: *target }));
            if all.len() > MAX_LOOKUPS {
                return Reading::Failed(Failure::too_large(MAX_LOOKUPS, "paths by where packets come from"));
            }
        }
    }
    let epoch = if all.is_empty() { None } else { node.epoch() };
    let known = node.left.links.as_ref().filter(|links| Some(links.epoch) == epoch).map(|links| &links.forwarded_paths);
    if let Some(known) = known.filter(|known| known.0 == all) {
        return Reading::Ok(known.1.clone());
    }
    let found = look_up(node, &all);
    if let (Reading::Ok(found), Some(links)) = (&found, node.left.links.as_mut())
        && Some(links.epoch) == epoch
    {
        links.forwarded_paths = Arc::new((all, found.clone()));
    }
    found
}

fn look_up(node: &mut Node<'_>, all: &[Sent]) -> Reading<Vec<ForwardedPath>> {
    let mut found = Vec::new();
    for (number, Sent { input, sources, source, target }) in all.iter().enumerate() {
        let mut body = path_to(*target);
        body[2] = if source.is_ipv6() { 128 } else { 32 };
        put_address(&mut body, RTA_SRC, *source);
        netlink::put(&mut body, RTA_IIF, &input.to_ne_bytes());
        let name = format!("route/get-path-{number}");
        let request = Request::netlink(Source::Routing, &name, NetlinkFamily::Route, RTM_GETROUTE, false, body);
        let route = look_up_or_nowhere(node, &request, NOWHERE);
        if number == 0 && route.failure().is_some_and(Failure::is_not_captured) {
            return Reading::Ok(Vec::new()); // a capture from before it was asked for
        }
        if route.failure().and_then(Failure::refused).is_some_and(|errno| REFUSED_SOURCE.contains(&errno)) {
            continue;
        }
        match node.note(&request, route) {
            Reading::Ok(route) => {
                let route = route.filter(|route| route.kind == RTN_UNICAST);
                let output = route.and_then(|route| route.devices.first().copied());
                found.push(ForwardedPath { input: *input, sources: *sources, target: *target, output });
            }
            other => return other.map(|_| Vec::new()),
        }
    }
    Reading::Ok(found)
}

/// By device, addresses that all policy rules treat alike, and one of them that another host there may have.
fn senders(
    links: &[Link],
    addresses: &[Address],
    family: Family,
    cuts: &[(u128, u128)],
) -> impl Iterator<Item = (u32, (u128, u128), IpAddr)> {
    let addresses = addresses.iter().filter(move |own| Family::of(&own.address) == family);
    let own: BTreeSet<u128> = addresses.clone().map(|own| address_key(own.address)).collect();
    let largest = if family == Family::Ipv6 { u128::MAX } else { u32::MAX.into() };
    let mut starts = BTreeSet::from([0]);
    starts.extend(cuts.iter().flat_map(|(from, to)| [Some(*from), to.checked_add(1)]).flatten());
    starts.retain(|start| *start <= largest);
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([largest]);
    let classes: Vec<(u128, u128)> = starts.iter().copied().zip(ends).collect();
    // What a bridge has is not what its ports have: packets come in by the bridge.
    let bridges: BTreeSet<u32> =
        links.iter().filter(|link| link.kind.as_deref() == Some("bridge")).map(|link| link.index).collect();
    let is_port = move |link: &Link| link.master.is_some_and(|master| bridges.contains(&master));
    let inputs = links.iter().filter(|link| link.up && link.hardware_type != ARPHRD_LOOPBACK);
    inputs.filter(move |link| !is_port(link)).flat_map(move |link| {
        let here = addresses.clone().filter(|own| own.link == link.index && own.scope < LINK);
        let networks: Vec<(u128, u128)> = here.map(|own| prefix_range(own.peer, own.prefix_length)).collect();
        let source = |(first, last): (u128, u128)| {
            // Those on the link first: a source that is not routed back there may be refused (`rp_filter`).
            let on_link = networks.iter().map(|(from, to)| ((*from).max(first), (*to).min(last)));
            let ranges = on_link.chain([(first, last)]).filter(|(from, to)| from <= to);
            let hosts = ranges.flat_map(|(from, to)| (from..=to).take(CANDIDATES));
            let elsewhere = ELSEWHERE[family.ip_index()].iter().copied().filter(|host| (first..=last).contains(host));
            let is_end = |host: &u128| networks.iter().any(|(from, to)| from < to && (from == host || to == host));
            hosts.chain(elsewhere).find(|host| !own.contains(host) && !is_end(host) && is_unicast(family, *host))
        };
        let each = classes.iter().filter_map(|class| Some((link.index, *class, key_address(family, source(*class)?))));
        each.collect::<Vec<_>>()
    })
}

fn is_unicast(family: Family, key: u128) -> bool {
    match family {
        Family::Ipv6 => key > 1 && key >> 120 != 0xff && key >> 118 != 0x3fa,
        _ => !matches!(key >> 24, 0 | 127 | 224..),
    }
}
