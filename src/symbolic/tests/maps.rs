//! Values that packets get from maps.

use super::bypass::{DEVICES, devices, own, routed};
use super::language::{self, address, effort, rules};
use super::tunnel::{facts, verdict};
use super::unread::word;
use crate::facts::Reading;
use crate::facts::netfilter::{Element, Set, Verdict};
use crate::symbolic::scenarios::bypass::bypass;
use crate::symbolic::scenarios::services::dns_to_several;
use crate::symbolic::scenarios::tunnel::outer_packets;
use crate::symbolic::{OuterPackets, reached};

const ALL: (u128, u128) = (0, u32::MAX as u128);

/// A map: its elements and their data.
fn map(all: &[(Element, [u8; 4])]) -> Set {
    Set {
        name: "m".into(),
        kind: "4 bytes".into(),
        stable: true,
        members: [].into(),
        elements: Reading::Ok(all.iter().map(|(element, _)| element.clone()).collect()),
        verdicts: vec![],
        data: all.iter().map(|(_, data)| data.to_vec()).collect(),
        family: None,
        sets: vec![],
    }
}

fn marks(all: &[(Element, u32)]) -> Set {
    map(&all.iter().map(|(element, mark)| (element.clone(), mark.to_ne_bytes())).collect::<Vec<_>>())
}

fn net(first: &str, last: &str) -> Element {
    vec![(address(first), address(last))]
}

fn one(only: &str) -> Element {
    net(only, only)
}

fn walk(text: &str, map: Option<Set>) -> OuterPackets {
    let mut written = rules(text);
    written.nftables.sets.extend(map.map(|map| (language::set("m"), map)));
    outer_packets(&written.network(), &facts(), &effort())
}

fn rewritten(text: &str, map: Option<Set>) -> &'static str {
    verdict(&walk(text, map))
}

const MASQUERADE: &str = "ip n P: nat postrouting 100\n mark 0x4000/0x4000 => masquerade random-fully\n";

#[test]
fn a_mark_is_what_a_map_has_for_the_packet() {
    let by = |marker: &str, map: Set| rewritten(&[marker, MASQUERADE].concat(), Some(map));
    let inner = "ip m O: filter output 0\n oif flannel.1, map m dst => mark-of m dst 0xffffffff\n";
    let pods = net("10.42.0.0", "10.42.127.255");
    let (others, elsewhere) = (net("10.42.128.0", "10.42.255.255"), net("203.0.113.0", "203.0.113.255"));
    assert_eq!(by(inner, marks(&[(pods.clone(), 0x4000), (others.clone(), 0x1)])), "yes");
    assert_eq!(by(inner, marks(&[(pods.clone(), 0x8000), (others.clone(), 0x1)])), "no");
    assert_eq!(by(inner, marks(&[(elsewhere.clone(), 0x4000), (pods.clone(), 0x1)])), "no");
    assert_eq!(by(inner, marks(&[])), "no", "without an element the rule ends");
    // Of elements with the same key the first one counts: the last one may be the catch-all.
    let all = vec![ALL];
    assert_eq!(by(inner, marks(&[(net("10.42.0.0", "10.42.255.255"), 0x1), (all.clone(), 0x4000)])), "no");
    assert_eq!(by(inner, marks(&[(pods.clone(), 0x1), (all.clone(), 0x4000)])), "yes");
    // Some bits, or all but some.
    let masked = inner.replace("0xffffffff", "0xff");
    assert_eq!(by(&masked, marks(&[(pods.clone(), 0x4001)])), "no");
    let marked = format!("ip l O: filter output -10\n oif flannel.1 => or 0x4000\n{masked}");
    assert_eq!(by(&marked, marks(&[(pods.clone(), 0x1)])), "yes", "others stay");
    let cleared = marked.replace("0xff", "0xffffffff");
    assert_eq!(by(&cleared, marks(&[(net("10.42.0.0", "10.42.255.255"), 0x1)])), "no");
    let several = "ip m O: filter output 0\n map m dst.dport => mark-of m dst.dport 0xffffffff\n";
    let with_port = |port: u128, mark| (vec![pods[0], (port, port)], mark);
    assert_eq!(by(several, marks(&[with_port(80, 0x1), with_port(443, 0x4000)])), "yes");
    assert_eq!(by(several, marks(&[with_port(80, 0x1), with_port(443, 0x2)])), "no");
}

#[test]
fn an_outer_packet_gets_its_own_mark_from_a_map() {
    let by = |map: Set| {
        let marker = "ip m O: filter output 0\n oif eth0, map m dst => mark-of m dst 0xffffffff\n";
        rewritten(&[marker, MASQUERADE].concat(), Some(map))
    };
    assert_eq!(by(marks(&[(one("192.0.2.20"), 0x4000)])), "yes");
    assert_eq!(by(marks(&[(one("192.0.2.20"), 0x1), (one("192.0.2.21"), 0x4000)])), "no");
}

#[test]
fn a_map_by_a_number_gives_each_that_the_number_can_have() {
    let number = |number: u128| vec![(number, number)];
    let by = |what: &str, oif: &str, all: &[(u128, u32)]| {
        let marker = format!("ip m O: filter output 0\n oif {oif}, map m {what} => mark-of m {what} 0xffffffff\n");
        let map = all.iter().map(|(key, mark)| (number(*key), *mark)).collect::<Vec<_>>();
        rewritten(&[&marker, MASQUERADE].concat(), Some(marks(&map)))
    };
    for oif in ["flannel.1", "eth0"] {
        assert_eq!(by("numgen", oif, &[(0, 0x1), (3, 0x4000)]), "yes", "{oif}");
        assert_eq!(by("numgen", oif, &[(0, 0x1), (3, 0x8000)]), "no", "{oif}");
        assert_eq!(by("numgen", oif, &[(0, 0x1), (4, 0x4000)]), "no", "{oif}: never that many");
        assert_eq!(by("jhash", oif, &[(0, 0x4000), (1, 0x4000), (2, 0x4000), (3, 0x4000)]), "yes", "{oif}");
    }
    assert_eq!(by("jhash", "flannel.1", &[(0, 0x1), (3, 0x4000)]), "yes", "some packet has it");
    assert_eq!(by("jhash", "eth0", &[(0, 0x1), (3, 0x4000)]), "maybe", "the tunnel's packets may all have another");
    // Another hash yields another number.
    let pair = |second: &str| {
        let rules = format!(
            "ip m O: filter output 0\n oif flannel.1, map m jhash => mark-of m jhash 0xff\n \
             oif flannel.1, mark 0x1, map m {second} => mark-of m {second} 0xff00\n \
             oif flannel.1, mark 0x4001 => set-mark 0x4000\n"
        );
        let map = marks(&[(number(0), 0x1), (number(1), 0x4000), (number(2), 0x4000), (number(3), 0x4000)]);
        rewritten(&[&rules, MASQUERADE].concat(), Some(map))
    };
    assert_eq!(pair("jhash"), "no", "the same packet has the same number");
    assert_eq!(pair("jhash-of-dst"), "yes");
    // Each lookup draws another number.
    let twice = "ip m O: filter output 0
        oif eth0, map m numgen => mark-of m numgen 0xffffffff
        oif eth0, mark 0x1, map m numgen => mark-of m numgen 0xffffffff
        oif eth0, mark 0x4000 => xor 0x4000\n";
    let map = marks(&[(number(0), 0x4000), (number(1), 0x1), (number(2), 0x1), (number(3), 0x1)]);
    assert_eq!(rewritten(&[twice, MASQUERADE].concat(), Some(map.clone())), "no");
    let kept = twice.replace("oif eth0, mark 0x4000 => xor 0x4000", "mark 0x2 => return");
    let first = kept.replacen("map m numgen => mark-of m numgen 0xffffffff", "=> or 0x1", 1);
    assert_eq!(rewritten(&[&first, MASQUERADE].concat(), Some(map)), "yes");
}

/// Queries of a socket have equal headers: `numgen` still yields another number for each, a hash does not.
#[test]
fn name_servers_by_number_are_several() {
    let several = |by: &str, servers: &[[u8; 4]]| {
        let text = format!("ip nat O: nat output -100\n dst 10.96.0.10, map m {by} => dnat of m {by}\n");
        let mut written = rules(&text);
        let data = servers.iter().zip(0..).map(|(server, number)| (vec![(number, number)], *server));
        written.nftables.sets.insert(language::set("m"), map(&data.collect::<Vec<_>>()));
        word(&dns_to_several(&written.network(), &effort()).happens)
    };
    let (one, other) = ([10, 0, 0, 1], [10, 0, 0, 2]);
    assert_eq!(several("numgen", &[one, other]), "yes");
    assert_eq!(several("numgen", &[one, one]), "no");
    assert_eq!(several("numgen", &[one]), "no");
    assert_eq!(several("jhash", &[one, other]), "no");
}

/// As kube-proxy writes it: `numgen random mod 4 vmap { 0 : goto A, 1 : goto B, … }`.
#[test]
fn a_number_leads_the_queries_of_a_socket_to_several_chains() {
    let several = |by: &str, [a, b]: [&str; 2]| {
        let text = format!(
            "ip nat O: nat output -100\n dst 10.96.0.10 => vmap m {by} A B\n\
             ip nat A:\n => dnat to {a}\nip nat B:\n => dnat to {b}\n"
        );
        let mut written = rules(&text);
        let verdicts = ["A", "A", "A", "B"].map(|chain| Verdict::Goto(chain.into())).to_vec();
        let numbers = (0..4).map(|number| (vec![(number, number)], [0; 4]));
        let known = Set { verdicts, data: vec![], ..map(&numbers.collect::<Vec<_>>()) };
        written.nftables.sets.insert(language::set("m"), known);
        word(&dns_to_several(&written.network(), &effort()).happens)
    };
    let servers = ["10.0.0.1", "10.0.0.2"];
    assert_eq!(several("numgen", servers), "yes");
    assert_eq!(several("numgen", ["10.0.0.1"; 2]), "no");
    assert_eq!(several("jhash", servers), "no", "the queries are alike");
    assert_eq!(several("unknown", servers), "maybe");
}

#[test]
fn a_mark_that_is_drawn_leads_the_queries_of_a_socket_to_several() {
    let several = |marker: &str| {
        let text = format!(
            "ip m O: filter output -150\n {marker}\nip nat O: nat output -100\n \
             dst 10.96.0.10, mark 0x1 => dnat to 10.0.0.1\n dst 10.96.0.10 => dnat to 10.0.0.2\n"
        );
        word(&dns_to_several(&rules(&text).network(), &effort()).happens)
    };
    assert_eq!(several("=> one-of 0 1"), "yes");
    assert_eq!(several("sometimes => set-mark 0x1"), "yes");
    assert_eq!(several("src 10.5.0.0/16 => set-mark 0x1"), "no");
    assert_eq!(several("=> set-mark 0x1"), "no");
    assert_eq!(several("opaque => set-mark 0x1"), "maybe");
}

#[test]
fn a_map_that_is_not_known_is_a_question() {
    let text = ["ip m O: filter output 0\n map m dst => mark-of m dst 0xffffffff\n", MASQUERADE].concat();
    let known = || marks(&[(net("10.42.0.0", "10.42.255.255"), 0x1)]);
    assert_eq!(rewritten(&text, Some(known())), "no");
    assert_eq!(rewritten(&text, None), "maybe");
    assert_eq!(rewritten(&text, Some(Set { stable: false, ..known() })), "maybe");
    assert_eq!(rewritten(&text, Some(Set { elements: Reading::Failed("too large".into()), ..known() })), "maybe");
    assert_eq!(rewritten(&text, Some(Set { data: vec![], ..known() })), "maybe");
    assert_eq!(rewritten(&text, Some(Set { data: vec![vec![1]], ..known() })), "maybe", "too short");
    let translated = "ip n P: nat postrouting 100\n oif eth0, map m src => snat of m src\n";
    assert_eq!(rewritten(translated, None), "maybe");
}

#[test]
fn an_exposure_by_a_map_names_the_rule_that_looks_up() {
    let marker = "ip m O: filter output 0\n map m dst => mark-of m dst 0xffffffff\n";
    let map = marks(&[(one("10.42.1.1"), 0x1), (one("10.42.1.2"), 0x4000)]);
    let how = walk(&[marker, MASQUERADE].concat(), Some(map)).how;
    assert!(how.ends_with("; rule 1 of chain O (table ip m) sets it on packets of this host"), "{how}");
}

#[test]
fn a_source_is_what_a_map_has_for_the_packet() {
    let by = |all: &[(Element, [u8; 4])]| {
        rewritten("ip n P: nat postrouting 100\n oif eth0, map m src => snat of m src\n", Some(map(all)))
    };
    assert_eq!(by(&[(one("192.0.2.10"), [192, 0, 2, 99])]), "yes");
    assert_eq!(by(&[(one("192.0.2.10"), [192, 0, 2, 10])]), "no", "its own");
    assert_eq!(by(&[(one("192.0.2.11"), [192, 0, 2, 99])]), "no", "another source's");
    let both = [(one("192.0.2.10"), [192, 0, 2, 10]), (vec![ALL], [192, 0, 2, 99])];
    assert_eq!(by(&both), "no");
}

#[test]
fn what_a_map_gives_the_source_that_it_has_keeps_it() {
    let published = "ip nat O: nat output -100\n proto 6, dport 8080 => dnat to 172.17.0.2 ports 80\n";
    let translated = |map: Option<Set>| {
        let mut written = rules(&format!("{published}ip nat S: nat postrouting 100\n map m src => snat of m src\n"));
        written.nftables.sets.extend(map.map(|map| (language::set("m"), map)));
        let mut network = written.network();
        (network.own, network.host, network.devices) = (own(), routed(), devices(DEVICES));
        word(&bypass(&network, &effort()).translated.happens)
    };
    assert_eq!(translated(Some(map(&[(one("192.0.2.1"), [192, 0, 2, 1])]))), "yes");
    assert_eq!(translated(Some(map(&[(one("192.0.2.1"), [192, 0, 2, 7])]))), "no");
    assert_eq!(translated(Some(map(&[(one("192.0.2.9"), [192, 0, 2, 7])]))), "yes", "no source of this host's");
    assert_eq!(translated(None), "maybe");
}

#[test]
fn sources_compete_that_a_map_gives_one_address() {
    let by = |map: Option<Set>| {
        let mut written = rules("ip n P: nat postrouting 100\n map m src => snat of m src\n");
        written.nftables.sets.extend(map.map(|map| (language::set("m"), map)));
        let found = reached(&written.network(), &effort());
        found.rules.first().map_or("one to one", |rule| word(&rule.happens))
    };
    let [one, other] = [[192, 0, 2, 10], [192, 0, 2, 11]];
    let each = [(self::one("10.42.0.1"), one), (self::one("10.42.0.2"), other)];
    assert_eq!(by(Some(map(&each))), "one to one");
    assert_eq!(by(Some(map(&each.clone().map(|(source, _)| (source, one))))), "yes");
    assert_eq!(by(Some(map(&[(net("10.42.0.0", "10.42.0.255"), one)]))), "yes");
    assert_eq!(by(None), "maybe");
}

#[test]
fn a_destination_by_a_map_leads_into_the_tunnel_or_not() {
    let by = |target: [u8; 4]| {
        let text = "ip n O: nat output -100
             dst 10.96.0.1 => or 0x4000
             map m dst => dnat of m dst
            ip n P: nat postrouting 100
             mark 0x4000/0x4000 => masquerade random-fully";
        rewritten(text, Some(map(&[(one("10.96.0.1"), target)])))
    };
    assert_eq!(by([10, 42, 1, 5]), "yes");
    assert_eq!(by([203, 0, 113, 5]), "no");
}
