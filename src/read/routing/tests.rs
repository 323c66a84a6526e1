//! Tests on bytes captured from Linux 6.18; `tests/nodes/README.md` says how.

use std::sync::LazyLock;

use super::wire::{decode_listed, decode_route, decode_rule};
use super::*;
use crate::capture::archive::testing::recorded_answer;
use crate::facts::netfilter::Family;
use crate::netfilter::netlink::NLMSG_ERROR;
use crate::read::testing::{Answers, answering, read_with};

static ADDRESSES: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/addresses"));
static RULES: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/rules-ipv4"));
static ROUTES: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/routes-ipv4"));
static LOOKUP: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/get-flannel.1-0"));
static RULES6: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("dual-stack", "netlink/route/rules-ipv6"));
static ROUTES6: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("dual-stack", "netlink/route/routes-ipv6"));

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn decode_addresses(bytes: &[u8]) -> Reading<Vec<Address>> {
    answering(bytes, read_addresses)
}

fn decode_rules(bytes: &[u8]) -> Reading<Vec<PolicyRule>> {
    answering(bytes, |node| dump(node, &rules(Family::Ipv4), |message| decode_rule(message).map(Some)))
}

fn decode_routes(bytes: &[u8], family: Family) -> Reading<Vec<Route>> {
    answering(bytes, |node| dump(node, &routes(family), |message| decode_listed(message, family)))
}

fn decode_lookup(bytes: &[u8]) -> Reading<Option<Route>> {
    let request = Request::netlink(Source::Routing, "route/get-x-0", NetlinkFamily::Route, RTM_GETROUTE, false, vec![]);
    answering(bytes, |node| look_up(node, &request))
}

#[test]
fn addresses_say_which_one_is_secondary() {
    let addresses = decode_addresses(*ADDRESSES).into_result().unwrap();
    let find = |text: &str| addresses.iter().find(|address| address.address == ip(text)).unwrap();
    assert!(!find("192.0.2.10").secondary);
    assert!(find("192.0.2.11").secondary);
    assert_eq!((find("192.0.2.10").prefix_length, find("192.0.2.10").scope), (24, 0));
    assert_eq!(find("127.0.0.1").scope, 254);
}

#[test]
fn the_three_default_rules_are_read_in_order() {
    let rules = decode_rules(*RULES).into_result().unwrap();
    let seen: Vec<_> = rules.iter().map(|rule| (rule.priority, rule.table, rule.action)).collect();
    assert_eq!(seen, [(0, 255, 1), (32766, 254, 1), (32767, 253, 1)]);
    assert!(rules.iter().all(|rule| rule.fwmark.is_none() && rule.other.is_empty() && rule.family == Family::Ipv4));
    assert!(decode_rules(*RULES6).ok().unwrap().iter().all(|rule| rule.family == Family::Ipv6));
}

#[test]
fn routes_know_their_prefix_gateway_and_device() {
    let routes = decode_routes(*ROUTES, Family::Ipv4).into_result().unwrap();
    let default = routes.iter().find(|route| route.prefix_length == 0).unwrap();
    assert_eq!((default.table, default.destination, default.gateway), (254, None, Some(ip("192.0.2.1"))));
    assert_eq!(default.devices.len(), 1);
    let subnet = routes.iter().find(|route| route.destination == Some(ip("192.0.2.0")) && route.table == 254).unwrap();
    assert_eq!((subnet.prefix_length, subnet.preferred_source), (24, Some(ip("192.0.2.10"))));
    let inside = routes.iter().find(|route| route.destination == Some(ip("10.42.1.0"))).unwrap();
    assert_eq!(inside.gateway, Some(ip("10.42.1.0")));
    assert!(
        decode_routes(*ROUTES6, Family::Ipv6)
            .ok()
            .unwrap()
            .iter()
            .any(|route| route.destination == Some(ip("2001:db8::")))
    );
}

#[test]
fn a_look_up_gives_a_device_or_no_route() {
    let found = decode_lookup(*LOOKUP).into_result().unwrap().unwrap();
    assert_eq!(found.devices, decode_routes(*ROUTES, Family::Ipv4).ok().unwrap()[0].devices);
    let refusal = |errno: i32| {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend((-errno).to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    };
    assert_eq!(decode_lookup(&refusal(101)), Reading::Ok(None), "ENETUNREACH: nothing leaves");
    let none = Reading::Ok(Vec::new());
    assert_eq!(decode_rules(&refusal(97)), none, "EAFNOSUPPORT: the kernel has no such family");
    let mut done = refusal(97)[..20].to_vec();
    done[..6].copy_from_slice(&[20, 0, 0, 0, 3, 0]); // NLMSG_DONE
    assert_eq!(decode_rules(&done), none, "a dump that fails at its start says so in its end");
    assert!(matches!(decode_rules(&refusal(1)), Reading::Denied(_)));
    assert!(matches!(decode_rules(&refusal(22)), Reading::Failed(_)));
    assert_eq!(decode_lookup(&refusal(22)).failure().and_then(Failure::refused), Some(22));
    assert!(decode_lookup(&refusal(22)).why().contains("errno 22"));
}

#[test]
fn every_cut_is_an_error() {
    for cut in 0..ADDRESSES.len() {
        assert!(matches!(decode_addresses(&ADDRESSES[..cut]), Reading::Failed(_)), "addresses cut at {cut}");
    }
    for cut in 0..RULES.len() {
        assert!(matches!(decode_rules(&RULES[..cut]), Reading::Failed(_)), "rules cut at {cut}");
    }
    for cut in 0..ROUTES.len() {
        assert!(matches!(decode_routes(&ROUTES[..cut], Family::Ipv4), Reading::Failed(_)), "routes cut at {cut}");
    }
    for cut in 0..LOOKUP.len() {
        assert!(matches!(decode_lookup(&LOOKUP[..cut]), Reading::Failed(_)), "look-up cut at {cut}");
    }
}

#[test]
fn random_bytes_never_panic() {
    proptest::proptest!(|(bytes: Vec<u8>, at in 0..ROUTES.len(), byte: u8)| {
        let _ = decode_addresses(&bytes);
        let _ = decode_rules(&bytes);
        let _ = decode_route(&bytes);
        let _ = decode_lookup(&bytes);
        let mut broken = ROUTES.to_vec();
        broken[at] = byte;
        let _ = decode_routes(&broken, Family::Ipv4);
    });
}

#[test]
fn remotes_behind_the_same_routes_share_one_look_up() {
    let answers = [(&rules(Family::Ipv4), Reading::Ok(*RULES)), (&routes(Family::Ipv4), Reading::Ok(*ROUTES))];
    let (tables, _) = read_with(&Answers::from(answers), |node| Tables::read(node, usize::MAX));
    let key = |text: &str| tables.of(Family::Ipv4).ok().unwrap().class(ip(text));
    assert_eq!(key("192.0.2.20"), key("192.0.2.200"), "both on the subnet");
    assert_eq!(key("198.51.100.30"), key("203.0.113.7"), "both through the gateway");
    assert_ne!(key("192.0.2.20"), key("198.51.100.30"));
    assert_ne!(key("192.0.2.20"), key("192.0.2.10"), "one is local");
}
