//! Which translations let two connections compete for a port, one kind per test.

use super::language::{effort, rules};
use crate::facts::Address;
use crate::facts::netfilter::{Chosen, Set, Step, address_key};
use crate::facts::{Failure, Reading};
use crate::symbolic::network::host::{Device, HostFacts, LOCAL, OwnAddresses};
use crate::symbolic::{Happens, Network, ReachedSourceNats, reached};

/// `lo`, `lan0` (10.77.1.1, fd77:1::1), `wan0` (203.0.113.1, fd77:2::1), and `down0`.
const DEVICES: [(u32, &str, bool); 4] = [(1, "lo", true), (2, "lan0", true), (3, "wan0", true), (4, "down0", false)];
const ADDRESSES: [(u32, &str, u8); 7] = [
    (1, "127.0.0.1", 254),
    (1, "::1", 254),
    (2, "10.77.1.1", 0),
    (2, "fd77:1::1", 0),
    (2, "fe80::1", 253),
    (3, "203.0.113.1", 0),
    (3, "fd77:2::1", 0),
];

fn device((index, name, up): (u32, &'static str, bool)) -> Device<'static> {
    let hardware_type = if name == "lo" { 772 } else { 1 };
    Device { index, name, group: None, kind: None, hardware_type, up }
}

pub(crate) fn address((link, address, scope): (u32, &str, u8)) -> Address {
    let address = address.parse().unwrap();
    Address { link, address, prefix_length: 24, scope, peer: address, unpreferred: false, secondary: false }
}

/// The rules found on a router, with its network changed by `change`.
fn found(text: &str, change: impl FnOnce(&mut Network<'_>)) -> ReachedSourceNats {
    let written = rules(text);
    let mut network = written.network();
    network.devices = Some(DEVICES.map(device).to_vec());
    network.host.addresses = Ok(ADDRESSES.map(address).to_vec());
    change(&mut network);
    reached(&network, &effort())
}

/// `yes`: some rule certainly; `maybe`: some rule possibly; `one to one`: only such rules are reached; `no`: none.
fn word(found: &ReachedSourceNats) -> &'static str {
    let is = |certain: bool| found.rules.iter().any(|rule| (rule.happens == Happens::Must) == certain);
    match (is(true), is(false), &found.one_to_one) {
        (true, ..) => "yes",
        (_, true, _) => "maybe",
        (_, _, Some(_)) => "one to one",
        _ => "no",
    }
}

fn race(text: &str) -> &'static str {
    word(&found(text, |_| ()))
}

fn post(text: &str) -> String {
    format!("ip nat P: nat postrouting 100\n {text}")
}

/// Other hosts' packets only: what this host sends is not translated.
fn with_host(text: &str, change: impl FnOnce(&mut HostFacts)) -> &'static str {
    word(&found(text, |network| change(&mut network.host)))
}

const MASQUERADE: &str = "ip nat P: nat postrouting 100\n src 10.77.1.0/24, oif wan0 => masquerade\n";

#[test]
fn a_packet_has_to_get_through_the_host() {
    for (chain, expected) in [
        ("", "yes"),
        ("ip filter F: filter forward 0 drop", "one to one"),
        // Expected connections do not compete.
        ("ip filter F: filter forward 0 drop\n state 6 => accept", "one to one"),
        ("ip filter F: filter forward 0 drop\n state 0xe => accept", "yes"),
        ("ip filter F: filter forward 0 drop\n state 2 => accept", "one to one"),
        ("ip filter F: filter forward 0 drop\n src 10.77.1.8/29 => accept", "yes"),
        ("ip filter F: filter forward 0 drop\n iif down0 => accept", "one to one"),
        ("ip filter F: filter forward 0 drop\n iif lan0, oif wan0 => accept", "yes"),
        ("ip filter F: filter forward 0\n src 10.77.1.0/24 => drop", "one to one"),
        ("inet filter F: filter forward 0 drop", "one to one"),
        ("ip6 filter F: filter forward 0 drop", "yes"),
        ("ip raw R: filter prerouting -300\n => notrack", "one to one"),
        ("ip raw R: filter prerouting -300\n proto 6 => notrack", "yes"),
        ("ip raw R: filter prerouting -300\n => notrack\nip raw O: filter output -300\n => notrack", "no"),
        ("ip mangle R: filter prerouting -150\n iif lan0 => drop", "yes"), // there is another device
        ("ip mangle R: filter prerouting -150\n => drop", "one to one"),
        ("ip mangle P: filter postrouting -150\n => drop", "no"),
        ("ip filter F: filter forward 0 drop\n opaque => accept", "maybe"),
        ("ip filter F: filter forward 0 drop\n sometimes => accept", "yes"),
        ("unread ip forward", "maybe"),
    ] {
        assert_eq!(race(&format!("{MASQUERADE}{chain}")), expected, "{chain}");
    }
}

#[test]
fn what_is_given_an_address_of_this_hosts_does_not_leave() {
    let own = ["127.0.0.1", "10.77.1.1", "203.0.113.1"].map(|own| address_key(own.parse().unwrap()));
    let typed = own.map(|own| (LOCAL, (own, own), None)).to_vec();
    for (action, expected) in
        [("redirect", "no"), ("dnat to 203.0.113.1", "no"), ("dnat to 127.0.0.1", "no"), ("dnat to 203.0.113.7", "yes")]
    {
        let output = format!("ip n O: nat output -100\n proto 6 => {action}\n");
        let text = output + &post("oif wan0, status 0x20 => masquerade random-fully");
        let found = found(&text, |network| network.own = [Some(OwnAddresses { typed: typed.clone() }), None]);
        assert_eq!(word(&found), expected, "{action}");
    }
}

#[test]
fn it_has_to_leave_by_a_device_that_is_there_and_up() {
    for (rule, expected) in [
        ("oif wan0 => masquerade", "yes"),
        ("oif gone0 => masquerade", "no"),
        ("oif down0 => masquerade", "no"),
        ("oif lo => masquerade", "no"),
        ("!oif wan0 => masquerade", "yes"),
        ("!oif wan0, !oif lan0 => masquerade", "no"),
        ("oif w+ => masquerade", "yes"),
        ("iif down0, oif wan0 => masquerade", "no"),
        ("state 8 => accept\n => masquerade", "no"),
    ] {
        assert_eq!(race(&post(rule)), expected, "{rule}");
    }
    let unread = |network: &mut Network<'_>| network.devices = None;
    for rule in ["=> masquerade", "oif wan0 => masquerade", "src 10.5.0.12 => snat to 192.0.2.1 random"] {
        assert_eq!(word(&found(&post(rule), unread)), "maybe", "{rule}");
    }
    let own = "ip nat P: nat postrouting 100\n => masquerade\nip filter F: filter forward 0 drop";
    assert_eq!(word(&found(own, unread)), "maybe", "whose addresses this host has");
    let unnamed = |network: &mut Network<'_>| network.devices = Some(vec![device((9, "\\x01", true))]);
    assert_eq!(word(&found(&post("=> masquerade"), unnamed)), "maybe");
    let none = |network: &mut Network<'_>| network.devices = Some(vec![device(DEVICES[0])]);
    assert_eq!(word(&found(&post("oif wan0 => masquerade"), none)), "yes", "the network is to come");
}

#[test]
fn who_forwards_nothing_translates_what_it_sends() {
    let none = |host: &mut HostFacts| host.forwards = [Ok(false), Ok(false)];
    let unread = |host: &mut HostFacts| host.forwards = [Err("no answer".into()), Ok(false)];
    assert_eq!(with_host(MASQUERADE, none), "one to one", "10.77.1.1, which only this host has");
    assert_eq!(with_host(MASQUERADE, unread), "maybe");
    assert_eq!(with_host(&post("src 10.77.2.0/24, oif wan0 => masquerade"), none), "no");
    let another = |host: &mut HostFacts| {
        none(host);
        host.addresses.as_mut().unwrap().push(address((1, "10.77.3.1", 0)));
    };
    assert_eq!(with_host(&post("oif wan0 => masquerade"), another), "yes", "two addresses of its own");
    assert_eq!(with_host(&post("oif wan0 => masquerade"), none), "one to one", "one, and the one that is given");
    assert_eq!(with_host(&post("oif wan0, src 203.0.113.1 => masquerade"), none), "one to one");
    let unread = |host: &mut HostFacts| {
        none(host);
        host.addresses = Err("no answer".into());
    };
    assert_eq!(with_host(&post("oif wan0 => masquerade"), unread), "maybe");
    // The router's packets to a Service leave by another device than the one with their source address.
    let service = "ip nat O: nat output -100\n dst 10.96.0.1 => or 0x4000, dnat to 10.77.1.5\n\
                   ip nat P: nat postrouting 100\n mark 0x4000/0x4000, oif lan0 => masquerade";
    assert_eq!(with_host(service, none), "one to one");
    assert_eq!(with_host(service, another), "yes");
}

#[test]
fn ipvs_and_bridges_send_too() {
    let text = format!("{MASQUERADE}ip filter F: filter forward 0 drop");
    assert_eq!(with_host(&text, |host| host.ipvs_in_use = Ok(true)), "yes");
    assert_eq!(with_host(&text, |host| host.ipvs_in_use = Err("no answer".into())), "maybe");
    let dropped = format!("{text}\nip filter I: filter input 0 drop");
    assert_eq!(with_host(&dropped, |host| host.ipvs_in_use = Ok(true)), "one to one");
    let bridge = |network: &mut Network<'_>| {
        network.host.forwards = [Ok(false), Ok(false)];
        network.devices.as_mut().unwrap()[2].kind = Some("bridge");
    };
    assert_eq!(word(&found(MASQUERADE, bridge)), "maybe");
    assert_eq!(word(&found(&post("oif lan0 => masquerade"), bridge)), "one to one");
}

#[test]
fn a_source_with_an_address_of_its_own_competes_with_nobody() {
    for (rules, expected) in [
        ("src 10.5.0.12, oif wan0 => snat to 203.0.113.21", "one to one"),
        ("src 10.5.0.12 => snat to 203.0.113.21\n src 10.5.0.13 => snat to 203.0.113.22", "one to one"),
        ("src 10.5.0.12 => snat to 203.0.113.21\n src 10.5.0.13 => snat to 203.0.113.21", "yes"),
        ("src 10.5.0.12/31 => snat to 203.0.113.21", "yes"),
        ("src 10.5.0.12 => masquerade", "one to one"),
        ("src 10.5.0.12 => masquerade\n src 10.5.0.13 => masquerade", "yes"),
        ("src 10.5.0.12, oif wan0 => masquerade\n src 10.5.0.13, oif lan0 => masquerade", "one to one"),
        ("src 10.5.0.12, oif wan0 => masquerade\n src 10.5.0.13 => snat to 203.0.113.1", "yes"),
        ("src 10.5.0.12, oif wan0 => masquerade\n src 10.5.0.13 => snat to 203.0.113.2", "one to one"),
        // Different destinations, protocols or ports.
        ("src 10.5.0.12, dst 10.5.0.12 => masquerade\n src 10.5.0.13, dst 10.5.0.13 => masquerade", "one to one"),
        (
            "src 10.5.0.12, proto 6 => snat to 203.0.113.21\n src 10.5.0.13, proto 17 => snat to 203.0.113.21",
            "one to one",
        ),
        ("src 10.5.0.12, dport 1-99 => snat to 203.0.113.21\n src 10.5.0.13, dport 99 => snat to 203.0.113.21", "yes"),
        (
            "src 10.5.0.12, sport 1-99 => snat to 203.0.113.21\n src 10.5.0.13, sport 100 => snat to 203.0.113.21",
            "one to one",
        ),
        // A block of ports for each.
        (
            "src 10.5.0.12 => snat to 203.0.113.21 ports 1024-2047\n src 10.5.0.13 => snat to 203.0.113.21 ports 2048-3071",
            "one to one",
        ),
        (
            "src 10.5.0.12 => snat to 203.0.113.21 ports 1024-2048\n src 10.5.0.13 => snat to 203.0.113.21 ports 2048-3071",
            "yes",
        ),
        // Randomly chosen ports may coincide.
        ("src 10.5.0.12 => snat to 203.0.113.21 random-fully", "yes"),
        ("src 10.5.0.12 => snat to 203.0.113.21-203.0.113.22", "one to one"),
        ("src 10.5.0.12/31 => snat to 203.0.113.21-203.0.113.22", "yes"),
        ("src 203.0.113.21 => snat to 203.0.113.21", "one to one"),
        ("=> snat ports 1024-2047", "one to one"),
    ] {
        assert_eq!(race(&post(rules)), expected, "{rules}");
    }
}

#[test]
fn a_port_that_is_kept_meets_one_that_is_drawn_by_chance_alone() {
    let competing = |rules: &str| -> Vec<u32> {
        let found = found(&post(rules), |_| ());
        let mut places: Vec<u32> = found
            .rules
            .iter()
            .filter(|rule| rule.happens == Happens::Must)
            .map(|rule| rule.at.as_ref().map_or(0, |(_, at)| at.position))
            .collect();
        places.sort_unstable();
        places
    };
    let hairpin = "src 10.5.0.12, dst 10.5.0.12 => masquerade";
    assert_eq!(competing(&format!("{hairpin}\n=> masquerade random-fully")), [2]);
    assert_eq!(competing(&format!("=> masquerade random-fully\n{hairpin}")), [1]);
    assert_eq!(competing(&format!("{hairpin}\n=> masquerade")), [1, 2]);
}

/// Chains of equal priority: their order is in no dump, and does not matter here.
#[test]
fn whichever_of_two_chains_comes_first_one_of_them_races() {
    let two = |first: &str, second: &str| {
        race(&format!(
            "ip nat P: nat postrouting 100\n {first} => masquerade\nlegacy ip nat P: nat postrouting 100\n {second}"
        ))
    };
    assert_eq!(two("", "=> masquerade"), "yes");
    assert_eq!(two("", "=> masquerade random-fully"), "maybe");
    assert_eq!(two("src 10.5.0.12", "=> snat to 203.0.113.77"), "yes");
    assert_eq!(two("src 10.5.0.12", "src 10.5.0.12 => snat to 203.0.113.77"), "one to one");
}

#[test]
fn connections_of_one_source_compete_for_the_ports_that_a_rule_names() {
    let counts = |rules: &str| {
        let found = found(&post(rules), |_| ());
        (found.rules.len(), found.few_ports.len(), found.one_to_one.is_some())
    };
    assert_eq!(counts("src 10.5.0.12 => snat to 203.0.113.9 ports 2000-2127"), (0, 1, true));
    assert_eq!(counts("src 10.5.0.12/31 => snat to 203.0.113.9 ports 2000-2127"), (1, 0, false));
    assert_eq!(counts("src 10.5.0.12 => snat to 203.0.113.9"), (0, 0, true));
}

#[test]
fn this_hosts_own_connections_use_up_the_ports_that_a_rule_names() {
    let alone = |network: &mut Network<'_>| {
        network.host.addresses = Ok(vec![address((3, "203.0.113.1", 0))]);
        network.host.forwards = [Ok(false), Ok(false)];
    };
    for (rule, expected) in [
        ("=> masquerade ports 2000-2127", (0, 1)),
        ("=> masquerade random-fully ports 2000-2127", (1, 0)),
        ("=> snat to 203.0.113.1 ports 2000-2127", (0, 1)),
        ("sport 2000-2127 => masquerade ports 2000-2127", (0, 0)),
        ("=> masquerade", (0, 0)),
    ] {
        let found = found(&post(rule), alone);
        assert_eq!((found.rules.len(), found.few_ports.len()), expected, "{rule}");
    }
}

#[test]
fn networks_that_are_mapped_to_others_keep_hosts_apart() {
    for (rules, expected) in [
        ("src 10.5.0.0/24 => netmap to 192.0.2.0-192.0.2.255", "one to one"),
        ("src 10.5.0.0/23 => netmap to 192.0.2.0-192.0.2.255", "yes"),
        ("src 10.5.0.0/24 => netmap to 192.0.2.0-192.0.2.127", "yes"),
        (
            "src 10.5.0.0/24 => netmap to 192.0.2.0-192.0.2.255\n src 10.5.1.0/24 => netmap to 192.0.2.0-192.0.2.255",
            "yes",
        ),
        (
            "src 10.5.0.0/25 => netmap to 192.0.2.0-192.0.2.255\n src 10.5.1.128/25 => netmap to 192.0.2.0-192.0.2.255",
            "one to one",
        ),
        ("src 10.5.0.0/24 => netmap to 192.0.2.0-192.0.2.255\n src 10.6.0.1 => snat to 192.0.2.9", "yes"),
        ("src 10.5.0.0/29 => netmap to 192.0.2.0-192.0.2.7\n src 10.6.0.1 => snat to 192.0.2.9", "one to one"),
    ] {
        assert_eq!(race(&post(rules)), expected, "{rules}");
    }
}

#[test]
fn ipv6_is_judged_by_itself() {
    let post = |rules: &str| format!("ip6 nat P: nat postrouting 100\n {rules}");
    for (text, expected) in [
        (post("oif wan0 => masquerade"), "yes"),
        (post("src fd00::1, oif wan0 => masquerade"), "one to one"),
        (post("src fd00::1 => snat to fd99::1\n src fd00::2 => snat to fd99::1"), "yes"),
        (post("src fd00::1 => snat to fd99::1\n src fd00::2 => snat to fd99::2"), "one to one"),
        (post("src fd00::/64 => netmap to fd99::-fd99::ffff:ffff:ffff:ffff"), "one to one"),
        (post("src fd00::/63 => netmap to fd99::-fd99::ffff:ffff:ffff:ffff"), "yes"),
        (post("oif wan0 => masquerade\nip6 filter F: filter forward 0 drop"), "one to one"),
        (post("oif wan0 => masquerade\nip filter F: filter forward 0 drop"), "yes"),
        (
            "ip nat A: nat postrouting 100\n src 10.5.0.12 => snat to 203.0.113.21\n".to_owned()
                + &post("src fd00::1 => snat to fd99::1"),
            "one to one",
        ),
    ] {
        assert_eq!(race(&text), expected, "{text}");
    }
    // Tentative addresses, which may still turn out to be another host's.
    let tentative =
        |host: &mut HostFacts| host.addresses.as_mut().unwrap().iter_mut().for_each(|own| own.unpreferred = true);
    assert_eq!(with_host(&post("oif wan0 => masquerade"), tentative), "yes");
}

#[test]
fn frames_of_a_bridge_meet_what_packets_do_not() {
    let bridged = |rules: &str| {
        let masquerading = post("src 10.99.0.0/24, oif br0 => masquerade");
        let text = format!("ip f F: filter forward 0 drop\n {rules} => accept\n{masquerading}");
        let bridge = Device { kind: Some("bridge"), ..device((9, "br0", true)) };
        word(&found(&text, |network| network.devices.as_mut().unwrap().push(bridge)))
    };
    assert_eq!(bridged("bridged"), "maybe", "if they pass the rules at all");
    assert_eq!(bridged("iif down0"), "no");
}

fn in_set(elements: Reading<Vec<Vec<(u128, u128)>>>) -> &'static str {
    in_set_of(&post("set s, oif wan0 => masquerade"), true, elements)
}

fn in_set_of(text: &str, stable: bool, elements: Reading<Vec<Vec<(u128, u128)>>>) -> &'static str {
    let mut written = rules(text);
    let set = Set {
        name: "s".into(),
        kind: "4 bytes".into(),
        stable,
        members: [].into(),
        elements,
        verdicts: Vec::new(),
        family: None,
        sets: Vec::new(),
        data: vec![],
    };
    written.nftables.sets.insert(super::language::set("s"), set);
    let mut network = written.network();
    network.devices = Some(DEVICES.map(device).to_vec());
    network.host.addresses = Ok(ADDRESSES.map(address).to_vec());
    word(&reached(&network, &effort()))
}

#[test]
fn a_set_has_the_sources_that_are_in_it() {
    let element = |number: u128| vec![(number, number)];
    assert_eq!(in_set(Reading::Ok(vec![])), "no");
    assert_eq!(in_set(Reading::Ok(vec![element(0x0a05_0001)])), "one to one");
    assert_eq!(in_set(Reading::Ok(vec![element(0x0a05_0001), element(0x0a05_0002)])), "yes");
    assert_eq!(in_set(Reading::Failed(Failure::too_large(1, "elements"))), "maybe");
}

#[test]
fn a_set_has_the_sources_that_rules_put_into_it() {
    let filled = |fill: &str, test: &str| {
        let text = format!("ip m P: filter prerouting -150\n {fill}\n{}", post(&format!("{test} => masquerade")));
        in_set_of(&text, false, Reading::Ok(vec![]))
    };
    assert_eq!(filled("iif down0 => add s src", "set s"), "maybe", "others may have been put there");
    assert_eq!(filled("=> add s src", "set s"), "yes");
    assert_eq!(filled("src 10.5.0.12 => add s src", "set s"), "maybe", "one for certain");
    assert_eq!(filled("=> add s dst", "set s"), "maybe", "by another key");
    assert_eq!(filled("=> add s src\n => delete s src", "set s"), "maybe");
    // It is as it was read, until a rule fills it.
    assert_eq!(filled("src 10.9.0.1 => add s src", "!set s"), "yes");
    let dropped = "ip m P: filter prerouting -150\n set s => drop\n => add s src\n";
    let text = format!("{dropped}{}", post("=> masquerade"));
    assert_eq!(in_set_of(&text, false, Reading::Ok(vec![])), "yes");
}

#[test]
fn what_is_dropped_behind_its_translation_is_no_connection() {
    for (behind, expected) in [
        ("filter postrouting 150 drop", "no"),
        ("filter postrouting 150\n => drop", "no"),
        ("filter postrouting 50\n oif wan0 => drop", "no"),
        ("filter postrouting 150\n oif lan0 => drop", "yes"),
        ("filter postrouting 150\n src 203.0.113.1 => drop", "no"),
        ("filter postrouting 150\n src 10.5.0.12 => drop", "yes"), // not any more
        ("filter postrouting 150\n opaque => drop", "maybe"),
        ("filter postrouting 100 drop", "no"),
    ] {
        let text = format!("{}\nip z Z: {behind}", post("oif wan0 => masquerade"));
        assert_eq!(race(&text), expected, "{behind}");
    }
}

#[test]
fn what_was_not_read_or_not_understood_may_compete() {
    for (rules, expected) in [
        ("src 10.5.0.12 => odd", "maybe"),
        ("src 10.5.0.12, opaque => masquerade\n src 10.5.0.13 => masquerade", "maybe"),
        ("opaque => masquerade", "maybe"),
        // Each of two packets may get a result of its own.
        (
            "opaque => jump A\n src 10.5.0.13 => masquerade\nip nat A:\n src 10.5.0.12 => masquerade\n => accept",
            "maybe",
        ),
        ("sometimes, src 10.5.0.12 => masquerade\n src 10.5.0.13 => masquerade", "yes"),
        ("src 10.5.0.12 => masquerade\n unread", "maybe"),
    ] {
        assert_eq!(race(&post(rules)), expected, "{rules}");
    }
    let unread = |host: &mut HostFacts| host.addresses = Err("no answer".into());
    assert_eq!(with_host(MASQUERADE, unread), "yes", "two others at least");
    let two = post("src 10.5.0.12, oif wan0 => masquerade\n src 10.5.0.13 => snat to 203.0.113.1");
    assert_eq!(with_host(&two, unread), "maybe");
    let several = |host: &mut HostFacts| host.addresses.as_mut().unwrap().push(address((3, "203.0.113.2", 0)));
    assert_eq!(with_host(&two, several), "maybe", "which of two addresses is chosen");
    let mut written = rules(&post("src 10.5.0.12/31 => snat to 203.0.113.1"));
    let chain = written.nftables.chains.values_mut().next().unwrap();
    let mut changed = chain.known_rules().to_vec();
    let Some(Step::Nat(nat)) = changed[0].steps.last_mut() else { unreachable!() };
    nat.addresses = Chosen::ByPacket;
    chain.rules = Reading::Ok(changed.into());
    assert_eq!(word(&reached(&written.network(), &effort())), "maybe", "a map tells the address");
}

#[test]
fn what_arrives_may_be_translated_too() {
    let input = |rule: &str| format!("ip nat I: nat input 100\n {rule}");
    assert_eq!(race(&input("=> snat to 192.0.2.1")), "yes");
    assert_eq!(race(&input("src 10.5.0.12 => snat to 192.0.2.1")), "one to one");
    assert_eq!(race(&input("dst 198.51.100.1 => snat to 192.0.2.1")), "no", "it is not for this host");
}
