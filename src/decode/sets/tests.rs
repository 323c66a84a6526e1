//! What is asked, and how answers are read, with a kernel that is played.

mod bytes;
mod ipset;

use std::net::IpAddr;

use bytes::*;
use ipset::nodes;

use super::*;
use crate::decode::test_capture;
use crate::snapshot::netfilter::{Chain, ChainId, Family, Rule};
use crate::snapshot::{Failure, FdbEntry, Link, Reading, Source, SourceState, Tunnel, TunnelKind, UdpChecksum};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(address: &str) -> Vec<u128> {
    vec![crate::snapshot::netfilter::address_key(ip(address))]
}

fn values(own: &[&str], peers: &[&str]) -> Values {
    Values {
        own: own.iter().copied().map(ip).collect(),
        peers: peers.iter().copied().map(ip).collect(),
        ports: vec![8472],
        devices: vec![(7, "flannel.1".into()), (2, "eth0".into())],
        cut: false,
    }
}

fn set(name: &str) -> SetId {
    SetId::Nftables { family: Family::Ipv4, table: "t".into(), set: name.into() }
}

fn look_up(name: &str, fields: &[Field]) -> Match {
    Match::Set { fields: fields.to_vec(), set: set(name), inverted: false }
}

fn in_ipset(index: u16, ends: &[End]) -> Match {
    Match::Ipset { index, ends: ends.to_vec(), inverted: false }
}

/// One rule for each match.
fn ruleset(matches: &[Match]) -> Ruleset {
    let rules = matches.iter().zip(1..).map(|(one, position)| Rule {
        position,
        comment: String::new(),
        steps: vec![Step::Match(one.clone())],
        counter: None,
        from_xtables: false,
        fingerprint: 0,
    });
    let chain = Chain::new(None, Reading::Ok(std::sync::Arc::new(rules.collect())));
    let id = ChainId { family: Family::Ipv4, table: "t".into(), chain: "c".into() };
    Ruleset { chains: [(id, chain)].into(), ..Ruleset::default() }
}

/// Asks until nothing is left; `answer` plays the kernel.
fn converse(ruleset: &Ruleset, values: &Values, answer: impl Fn(&str) -> Vec<u8>) -> Capture {
    let mut capture = test_capture();
    capture.answers.insert("procfs/modules".into(), Reading::Ok(b"ip_set 61440 3 - Live 0x0\n".to_vec()));
    for _ in 0..16 {
        let mut requests = requests(&capture, "nft-1", ruleset, values);
        requests.retain(|request| !capture.has(request));
        for request in requests {
            // Sets are too large to be read whole, unless a test says otherwise.
            let whole = ["-elements", "-list"].iter().any(|end| request.name.ends_with(end));
            let answer = if whole {
                Reading::Failed(Failure::too_large(64 << 10, "bytes"))
            } else {
                Reading::Ok(answer(&request.name))
            };
            capture.answers.insert(request.name.clone(), answer);
        }
    }
    capture
}

fn read(capture: &Capture, ruleset: &Ruleset, values: &Values) -> (BTreeMap<SetId, Set>, Problems) {
    let mut problems = Problems::default();
    (decode(capture, "nft-1", ruleset, values, &mut problems), problems)
}

fn failure(problems: &Problems, source: Source) -> String {
    problems.failed.get(&source).cloned().unwrap_or_default()
}

fn names(capture: &Capture) -> Vec<&str> {
    let whole = |name: &&str| !name.ends_with("-elements") && !name.ends_with("-list");
    capture.answers.keys().filter_map(|name| name.strip_prefix("netlink/")).filter(whole).collect()
}

/// A refusal, acknowledged as the kernel does it.
fn refusal(errno: i32) -> Vec<u8> {
    let mut bytes = hex(IN);
    bytes[16..20].copy_from_slice(&(-errno).to_ne_bytes());
    bytes
}

fn link(index: u32, name: &str, tunnel: Option<Tunnel>) -> Link {
    Link {
        index,
        name: name.into(),
        kind: None,
        loopback: false,
        up: true,
        mtu: None,
        lower: None,
        master: None,
        link_netnsid: None,
        tunnel,
        xdp: false,
        filters: Reading::Failed("not looked up".into()),
        driver: Reading::Failed(Failure::not_needed("")),
        features: Reading::Failed(Failure::not_needed("")),
    }
}

fn tunnel() -> Tunnel {
    let entry = |remote, port| FdbEntry { remote: Some(ip(remote)), via: None, port, nexthop_group: None };
    Tunnel {
        kind: TunnelKind::Vxlan,
        id: Some(1),
        port: Some(8472),
        source_ports: None,
        link: None,
        local: Some(ip("192.0.2.10")),
        remote: None,
        udp_checksum: UdpChecksum::On,
        flow_based: false,
        fdb: Reading::Ok(vec![entry("192.0.2.30", None), entry("192.0.2.20", Some(4789)), entry("192.0.2.30", None)]),
        outer: Reading::Failed("not looked up".into()),
        underlay: Reading::Ok(vec![2]),
    }
}

#[test]
fn values_keep_the_order_in_which_they_appear() {
    let address = |link, address, scope| crate::snapshot::Address {
        link,
        address: ip(address),
        prefix_length: 24,
        scope,
        peer: ip(address),
        unpreferred: false,
        secondary: false,
    };
    let addresses = Reading::Ok(vec![
        address(1, "127.0.0.1", 254),
        address(9, "172.17.0.1", 0),
        address(2, "192.0.2.11", 0),
        address(2, "192.0.2.10", 0),
        address(2, "fe80::1", 253),
        address(7, "10.1.0.0", 0),
    ]);
    let links = [link(1, "lo", None), link(2, "eth0", None), link(7, "flannel.1", Some(tunnel())), link(9, "d", None)];
    let found = Values::of(&links, &addresses);
    let own = ["192.0.2.10", "192.0.2.11", "10.1.0.0", "172.17.0.1"].map(ip);
    assert_eq!(found.own, own, "tunnel end points, then what is near, then the rest");
    assert_eq!(found.peers, ["192.0.2.30", "192.0.2.20"].map(ip), "not sorted");
    assert_eq!(found.ports, [8472, 4789]);
    assert_eq!(found.devices, [(7, "flannel.1".to_owned()), (2, "eth0".to_owned())]);
    assert!(Values::of(&links[..2], &addresses).is_empty(), "no tunnel, nothing to ask");
    let mut down = links;
    down[2].up = false;
    assert!(Values::of(&down, &addresses).is_empty());
    assert!(Values::default().is_empty(), "nothing is known yet");
}

#[test]
fn without_values_nothing_is_asked() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    assert_eq!(requests(&test_capture(), "nft-1", &rules, &Values::default()), []);
    let (sets, problems) = read(&test_capture(), &rules, &Values::default());
    assert!(sets.is_empty() && problems.failed.is_empty() && problems.set.is_empty());
}

fn plain(name: &str) -> Vec<u8> {
    hex(match name.rsplit_once("set-0-").map(|(_, what)| what) {
        Some("header") => PLAIN,
        Some("element-0") => PLAIN_1,
        Some("element-1") => PLAIN_9,
        Some("catch-all") => NO_CATCH_ALL,
        _ => panic!("nobody should ask {name}"),
    })
}

#[test]
fn a_set_is_asked_for_its_header_and_then_value_by_value() {
    let rules = ruleset(&[
        look_up("plain", &[Field::Ipv4Source]),
        look_up("plain", &[Field::Ipv4Destination]),
        look_up("other", &[Field::Other("dscp".into())]),
    ]);
    let values = values(&["192.0.2.1"], &["192.0.2.9", "2001:db8::9"]);
    let capture = converse(&rules, &values, plain);
    let expected = ["nft-1/set-0-catch-all", "nft-1/set-0-element-0", "nft-1/set-0-element-1", "nft-1/set-0-header"];
    assert_eq!(names(&capture), expected, "both ends are asked about once, other fields not at all");
    let (sets, problems) = read(&capture, &rules, &values);
    let members = [(key("192.0.2.1"), Reading::Ok(true)), (key("192.0.2.9"), Reading::Ok(false))].into();
    let found =
        Set { name: "plain".into(), kind: "4 bytes".into(), stable: true, members, elements: None, verdicts: vec![] };
    assert_eq!(sets, [(set("plain"), found)].into());
    assert_eq!(failure(&problems, Source::Nftables), "");
}

#[test]
fn requests_are_those_that_the_kernel_echoed() {
    let body = |request: &Request| match &request.question {
        crate::capture::Question::Netlink(request) if request.ack => request.body.clone(),
        other => panic!("{other:?}"),
    };
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.9"], &["198.51.100.1"]);
    let capture = converse(&rules, &values, |name| if name.contains("ipset") { nodes(name) } else { plain(name) });
    let all = requests(&capture, "nft-1", &rules, &values);
    let sent = |name: &str| body(all.iter().find(|request| request.name.ends_with(name)).unwrap());
    assert_eq!(sent("set-0-element-0"), hex(PLAIN_9)[36..]);
    assert_eq!(sent("set-0-catch-all"), hex(NO_CATCH_ALL)[36..]);
    assert_eq!(sent("ipset/0-test-s-1"), hex(OUT)[36..]);
}

#[test]
fn a_catch_all_element_makes_every_value_a_member() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source])]);
    let values = values(&["192.0.2.1"], &["192.0.2.9"]);
    let any = |name: &str| if name.ends_with("catch-all") { hex(ANY) } else { plain(name) };
    let members = |answer: &dyn Fn(&str) -> Vec<u8>| {
        let (sets, problems) = read(&converse(&rules, &values, answer), &rules, &values);
        (sets[&set("plain")].members[&key("192.0.2.9")].clone(), failure(&problems, Source::Nftables))
    };
    assert_eq!(members(&any).0, Reading::Ok(true));
    let old = |name: &str| if name.ends_with("catch-all") { refusal(22) } else { plain(name) };
    assert_eq!(members(&old), (Reading::Ok(false), String::new()), "kernels before 5.13 have none");
    let odd = |name: &str| if name.ends_with("catch-all") { refusal(12) } else { plain(name) };
    let (found, why) = members(&odd);
    assert!(matches!(found, Reading::Failed(_)) && why.contains("errno 12"), "{why}");
}

#[test]
fn a_set_that_is_not_there_has_no_members_and_no_strangers() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source])]);
    let values = values(&["192.0.2.1"], &[]);
    let capture = converse(&rules, &values, |_| hex(NO_SET));
    assert_eq!(names(&capture), ["nft-1/set-0-header"]);
    let (sets, problems) = read(&capture, &rules, &values);
    assert!(sets.is_empty());
    assert_eq!(failure(&problems, Source::Nftables), "nf_tables set: the kernel answered errno 2 (ENOENT)");
    let capture = converse(&rules, &values, |_| hex(RANGES));
    assert!(failure(&read(&capture, &rules, &values).1, Source::Nftables).contains("another set"));
}

#[test]
fn a_key_of_another_length_is_not_asked() {
    let rules = ruleset(&[look_up("plain", &[Field::DestinationPort])]);
    let values = values(&["192.0.2.1"], &[]);
    let capture = converse(&rules, &values, |_| hex(PLAIN));
    let (sets, _) = read(&capture, &rules, &values);
    assert_eq!((names(&capture), sets[&set("plain")].members.len()), (vec!["nft-1/set-0-header"], 0));
    let ranges = ruleset(&[look_up("ranges", &[Field::InputIndex])]);
    let capture = converse(&ranges, &values, |_| hex(RANGES));
    assert_eq!(names(&capture).len(), 1, "the rule turns the index round before it looks it up");
}

#[test]
fn too_many_combinations_are_not_asked() {
    assert_eq!(combinations(&[vec![1, 2], vec![3], vec![4, 5]]), [[1, 3, 4], [1, 3, 5], [2, 3, 4], [2, 3, 5]]);
    assert_eq!(combinations(&[vec![0; 1000], vec![0; 1000]]).len(), MAX_QUESTIONS + 1);
    assert!(combinations::<u8>(&[]).is_empty() && combinations(&[vec![1], vec![]]).is_empty());
    let mut budget = Budget { left: 3, cut: false };
    let question =
        || Question { key: vec![], request: Request::file(Source::Ipset, crate::capture::Root::Procfs, "x") };
    assert_eq!(within(&mut budget, vec![question(), question()]).len(), 2);
    assert_eq!(within(&mut budget, vec![question(), question()]).len(), 1);
    assert_eq!((budget.left, budget.cut), (0, true));
}

#[test]
fn more_sets_than_the_limit_are_not_asked() {
    let matches: Vec<Match> = (0..MAX_SETS + 1).map(|at| look_up(&format!("s{at}"), &[Field::Ipv4Source])).collect();
    assert_eq!(requests(&test_capture(), "nft-1", &ruleset(&matches), &values(&["192.0.2.1"], &[])).len(), MAX_SETS);
}

#[test]
fn keys_are_what_fields_hold() {
    assert_eq!(crate::snapshot::netfilter::name_key("eth0"), Some(u128::from(u32::from_be_bytes(*b"eth0")) << 96));
    assert_eq!(crate::snapshot::netfilter::name_key("et\\x01"), None);
    assert_eq!(crate::snapshot::netfilter::name_key("sixteen-bytes-it"), None);
    assert_eq!(values::port_key(17, 8472), 0x11_2118);
}

#[test]
fn answers_cut_anywhere_are_failures() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.1"], &["198.51.100.1", "192.0.2.9"]);
    let whole = |name: &str| match name.rsplit_once('/').map(|(_, what)| what) {
        Some("set-0-element-1") => hex(PLAIN_9),
        Some("set-0-element-2") => hex(PLAIN_9),
        Some("0-test-s-2") => hex(OUT),
        _ if name.contains("ipset") => nodes(name),
        _ => plain(name),
    };
    let capture = converse(&rules, &values, whole);
    let (good, problems) = read(&capture, &rules, &values);
    assert!(problems.failed.is_empty() && good.len() == 2);
    for (name, answer) in &capture.answers {
        let Some(bytes) = answer.ok().filter(|_| name.starts_with("netlink/")) else { continue };
        for cut in 0..bytes.len() {
            let mut capture = capture.clone();
            capture.answers.insert(name.clone(), Reading::Ok(bytes[..cut].to_vec()));
            let (_, problems) = read(&capture, &rules, &values);
            assert!(!problems.failed.is_empty(), "{name} cut at {cut}");
            let _ = requests(&capture, "nft-1", &rules, &values);
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let fields = [Field::Ipv4Source, Field::DestinationPort];
    let rules = ruleset(&[
        look_up("plain", &fields[..1]),
        look_up("pairs", &fields),
        in_ipset(0, &[End::Source]),
        in_ipset(1, &[]),
    ]);
    let values = values(&["192.0.2.1"], &["198.51.100.1"]);
    let real = [PLAIN, PLAIN_1, PLAIN_9, RANGES_9, PAIRS_9, SLOW_1, ANY, PROTOCOL, NAME, HEADER, OUT].map(hex);
    proptest::proptest!(|(noise: Vec<u8>, which in 0..real.len(), at: usize, byte: u8)| {
        let mut damaged = real[which].clone();
        let at = at % damaged.len();
        damaged[at] = byte;
        for answer in [&noise, &damaged] {
            read(&converse(&rules, &values, |_| answer.clone()), &rules, &values);
        }
    });
}

/// Members of `name` among these addresses, with these answers to header and elements.
fn members(name: &str, fields: &[Field], own: &str, header: &str, element: &[u8]) -> (Vec<Reading<bool>>, String) {
    let rules = ruleset(&[look_up(name, fields)]);
    let values = values(&[own], &[]);
    let capture = converse(&rules, &values, |name| match name.rsplit_once('-').map(|(_, what)| what) {
        Some("header") => hex(header),
        Some("all") => hex(NO_CATCH_ALL),
        _ => element.to_vec(),
    });
    let (sets, problems) = read(&capture, &rules, &values);
    (sets[&set(name)].members.values().cloned().collect(), failure(&problems, Source::Nftables))
}

#[test]
fn the_element_that_the_kernel_returns_must_be_the_one_asked_for() {
    let source = [Field::Ipv4Source];
    let pair = [Field::Ipv4Source, Field::DestinationPort];
    let yes = (vec![Reading::Ok(true)], String::new());
    assert_eq!(members("ranges", &source, "192.0.2.9", RANGES, &hex(RANGES_9)), yes);
    assert_eq!(members("pairs", &pair, "192.0.2.9", PAIRS, &hex(PAIRS_9)), yes);
    for (name, fields, own, header, element) in
        [("plain", &source[..], "192.0.2.9", PLAIN, PLAIN_1), ("ranges", &source, "192.0.2.9", RANGES, ANY)]
    {
        let (found, why) = members(name, fields, own, header, &hex(element));
        assert!(matches!(found.as_slice(), [Reading::Failed(_)]), "{name} {own}");
        assert!(why.contains("another element") || why.contains("no key"), "{why}");
    }
}

#[test]
fn an_expired_element_does_not_count_and_a_limited_one_counts_for_some() {
    let source = [Field::Ipv4Source];
    let mut expired = hex(RANGES_9);
    let left = expired.windows(4).position(|bytes| bytes == [0x0c, 0, 5, 0]).unwrap() + 4;
    expired[left..left + 8].fill(0);
    assert_eq!(members("ranges", &source, "192.0.2.9", RANGES, &expired).0, [Reading::Ok(false)]);
    let (found, why) = members("plain", &source, "192.0.2.1", PLAIN, &hex(SLOW_1));
    assert!(matches!(found.as_slice(), [Reading::Failed(why)] if why.to_string().contains("limit")), "{found:?}");
    assert_eq!(why, "", "that is understood: the source did not fail");
}

#[test]
fn a_set_that_cannot_have_changed_is_not_asked_again() {
    let mut rules = ruleset(&[look_up("plain", &[Field::Ipv4Source])]);
    let values = values(&["192.0.2.1"], &[]);
    let known = BTreeMap::from([(vec![0xc000_0201], Reading::Ok(true))]);
    let mut found = Set {
        name: "plain".into(),
        kind: "4 bytes".into(),
        stable: true,
        members: known,
        elements: None,
        verdicts: vec![],
    };
    rules.sets.insert(set("plain"), found.clone());
    let capture = test_capture();
    assert_eq!(requests(&capture, "nft-1", &rules, &values), []);
    let sets = decode(&capture, "nft-1", &rules, &values, &mut Problems::default());
    assert_eq!(sets[&set("plain")], found);
    let more = self::values(&["192.0.2.1", "192.0.2.2"], &[]);
    assert!(!requests(&capture, "nft-1", &rules, &more).is_empty(), "another address matters now");
    found.stable = false;
    rules.sets.insert(set("plain"), found);
    assert!(!requests(&capture, "nft-1", &rules, &values).is_empty(), "elements come and go by themselves");
}
