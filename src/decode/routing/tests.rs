//! On bytes captured from Linux 6.18; `tests/fixtures/README.md` says how.

use super::wire::decode_route;
use super::*;
use crate::decode::test_capture;
use crate::wire::NLMSG_ERROR;

const ADDRESSES: &[u8] = include_bytes!("../../../tests/fixtures/flannel/netlink/route/addresses");
const RULES: &[u8] = include_bytes!("../../../tests/fixtures/flannel/netlink/route/rules-ipv4");
const ROUTES: &[u8] = include_bytes!("../../../tests/fixtures/flannel/netlink/route/routes-ipv4");
const LOOKUP: &[u8] = include_bytes!("../../../tests/fixtures/flannel/netlink/route/get-flannel.1-0");
const RULES6: &[u8] = include_bytes!("../../../tests/fixtures/dual-stack/netlink/route/rules-ipv6");
const ROUTES6: &[u8] = include_bytes!("../../../tests/fixtures/dual-stack/netlink/route/routes-ipv6");

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn addresses_say_which_one_is_secondary() {
    let addresses = decode_addresses(ADDRESSES).unwrap();
    let find = |text: &str| addresses.iter().find(|address| address.address == ip(text)).unwrap();
    assert!(!find("192.0.2.10").secondary);
    assert!(find("192.0.2.11").secondary);
    assert_eq!((find("192.0.2.10").prefix_length, find("192.0.2.10").scope), (24, 0));
    assert_eq!(find("127.0.0.1").scope, 254);
}

#[test]
fn the_three_default_rules_are_read_in_order() {
    let rules = decode_rules(RULES).unwrap();
    let seen: Vec<_> = rules.iter().map(|rule| (rule.priority, rule.table, rule.action)).collect();
    assert_eq!(seen, [(0, 255, 1), (32766, 254, 1), (32767, 253, 1)]);
    assert!(rules.iter().all(|rule| rule.fwmark.is_none() && rule.other.is_empty() && !rule.ipv6));
    assert!(decode_rules(RULES6).unwrap().iter().all(|rule| rule.ipv6));
}

#[test]
fn routes_know_their_prefix_gateway_and_device() {
    let routes = decode_routes(ROUTES, false).unwrap();
    let default = routes.iter().find(|route| route.prefix_length == 0).unwrap();
    assert_eq!((default.table, default.destination, default.gateway), (254, None, Some(ip("192.0.2.1"))));
    assert_eq!(default.devices.len(), 1);
    let subnet = routes.iter().find(|route| route.destination == Some(ip("192.0.2.0")) && route.table == 254).unwrap();
    assert_eq!((subnet.prefix_length, subnet.preferred_source), (24, Some(ip("192.0.2.10"))));
    let inside = routes.iter().find(|route| route.destination == Some(ip("10.42.1.0"))).unwrap();
    assert_eq!(inside.gateway, Some(ip("10.42.1.0")));
    assert!(decode_routes(ROUTES6, true).unwrap().iter().any(|route| route.destination == Some(ip("2001:db8::"))));
}

#[test]
fn a_look_up_gives_a_device_or_no_route() {
    assert_eq!(decode_lookup(LOOKUP).unwrap().unwrap().devices, decode_routes(ROUTES, false).unwrap()[0].devices);
    let refusal = |errno: i32| {
        let mut bytes = 36u32.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend((-errno).to_ne_bytes());
        bytes.extend([0; 16]);
        bytes
    };
    assert_eq!(decode_lookup(&refusal(101)).unwrap(), None, "ENETUNREACH: nothing leaves");
    assert!(super::wire::has_no_family(&refusal(97)).unwrap(), "EAFNOSUPPORT: the kernel has no such family");
    let mut done = refusal(97)[..20].to_vec();
    done[..6].copy_from_slice(&[20, 0, 0, 0, 3, 0]); // NLMSG_DONE
    assert!(super::wire::has_no_family(&done).unwrap());
    assert!(!super::wire::has_no_family(&refusal(1)).unwrap() && !super::wire::has_no_family(RULES).unwrap());
    assert!(decode_lookup(&refusal(22)).unwrap_err().to_string().contains("errno 22"));
}

#[test]
fn every_cut_is_an_error() {
    for cut in 0..ADDRESSES.len() {
        assert!(decode_addresses(&ADDRESSES[..cut]).is_err(), "addresses cut at {cut}");
    }
    for cut in 0..RULES.len() {
        assert!(decode_rules(&RULES[..cut]).is_err(), "rules cut at {cut}");
    }
    for cut in 0..ROUTES.len() {
        assert!(decode_routes(&ROUTES[..cut], false).is_err(), "routes cut at {cut}");
    }
    for cut in 0..LOOKUP.len() {
        assert!(decode_lookup(&LOOKUP[..cut]).is_err(), "look-up cut at {cut}");
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
        let _ = decode_routes(&broken, false);
    });
}

#[test]
fn remotes_behind_the_same_routes_share_one_look_up() {
    let mut capture = test_capture();
    capture.answers.insert(rules(false).name, Reading::Ok(RULES.to_vec()));
    capture.answers.insert(routes(false).name, Reading::Ok(ROUTES.to_vec()));
    let tables = Tables::read(&capture);
    let key = |text: &str| tables.family(false).ok().unwrap().class(ip(text));
    assert_eq!(key("192.0.2.20"), key("192.0.2.200"), "both on the subnet");
    assert_eq!(key("198.51.100.30"), key("203.0.113.7"), "both through the gateway");
    assert_ne!(key("192.0.2.20"), key("198.51.100.30"));
    assert_ne!(key("192.0.2.20"), key("192.0.2.10"), "one is local");
}
