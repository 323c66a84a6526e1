//! Requests about sets, and decoding of responses, with a simulated kernel.

mod bytes;
mod ipset;

use std::collections::BTreeMap;
use std::net::IpAddr;

use bytes::*;
use ipset::nodes;

use super::*;
use crate::capture::{RequestKind as Asked, Response, Root};
use crate::facts::netfilter::{
    Chain, ChainId, Element, End, Family, Field, Match, Rule, Ruleset, SetId, Step, address_key, name_key,
};
use crate::facts::{Collector, FdbEntry, Link, SourceState, Tunnel, TunnelKind, UdpChecksum};
use crate::netfilter::netlink::{MessageWriter, NLM_F_MULTI, NLMSG_DONE, frame};
use crate::netfilter::nfnetlink::{NFGENMSG, Nfgenmsg};
use crate::netfilter::nftables::uapi::{
    NF_DROP, NFPROTO_IPV4, NFT_SET_ELEM_CATCHALL, NFT_SET_EVAL, NFT_SET_MAP, NFT_SET_OBJECT, NFT_SET_TIMEOUT,
};
use crate::netfilter::nftables::{self, Data, SetElement};
use crate::read::lookups::Lookups;
use crate::read::nftables::sets::{SetsFound, read as read_nftables};
use crate::read::testing::played;

/// The generation that the captured bytes belong to.
const GENERATION: u32 = 2;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(address: &str) -> Vec<u128> {
    vec![address_key(ip(address))]
}

fn values(own: &[&str], peers: &[&str]) -> OuterValues {
    OuterValues {
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

/// A rule for each match.
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
    Ruleset { chains: BTreeMap::from([(id, chain)]).into(), ..Ruleset::default() }
}

/// What was read, and the requests.
struct Seen {
    sets: BTreeMap<SetId, Set>,
    /// Netlink requests, in order.
    requests: Vec<Request>,
    nftables: SetsFound,
    states: BTreeMap<Source, (SourceState, String)>,
}

impl Seen {
    /// Names of the requests that are not for whole sets.
    fn names(&self) -> Vec<&str> {
        self.all_names().into_iter().filter(|name| !is_whole(name)).collect()
    }

    fn all_names(&self) -> Vec<&str> {
        let names = self.requests.iter().map(|request| request.name.strip_prefix("netlink/netfilter/").unwrap());
        names.collect()
    }

    /// Why a source failed; empty if it did not.
    fn failure(&self, source: Source) -> &str {
        match &self.states[&source] {
            (SourceState::Failed, why) => why,
            _ => "",
        }
    }

    fn is_all_right(&self) -> bool {
        self.states.values().all(|(state, _)| *state == SourceState::Ok)
    }
}

/// Whether a request is for all elements of a set.
fn is_whole(name: &str) -> bool {
    ["-elements", "-list"].iter().any(|end| name.ends_with(end))
}

/// Reads sets of both kinds; `answer` plays a kernel in which everything is loaded.
fn read(ruleset: &Ruleset, values: &OuterValues, answer: impl Fn(&str) -> Vec<u8>) -> Seen {
    read_with(ruleset, values, |request| match request.name.as_str() {
        "sysfs/module/ip_set.list" => Reading::Ok(b"initstate\n".to_vec()),
        // Sets are too large to be read whole, unless a test provides them.
        name if is_whole(name) => Reading::Failed(Failure::too_large(64 << 10, "bytes")),
        name => Reading::Ok(answer(name)),
    })
}

/// The same with a function for every response.
fn read_with(ruleset: &Ruleset, values: &OuterValues, mut answer: impl FnMut(&Request) -> Response) -> Seen {
    let mut requests = Vec::new();
    let play = |request: &Request| {
        if matches!(request.kind, Asked::Netlink(_)) {
            requests.push(request.clone());
        }
        answer(request)
    };
    let ((nftables, ipsets), sources) = played(play, |node| {
        let lookups = Lookups::of(ruleset);
        let nftables = read_nftables(node, "netfilter/nft-2", GENERATION, &lookups, &ruleset.sets, values);
        (nftables, read_ipsets(node, [&lookups], values))
    });
    let states = sources.statuses(&Collector::ALL.iter().copied().collect(), |_| None);
    let states = states.into_iter().map(|status| (status.source, (status.state, status.detail))).collect();
    let sets = nftables.sets.clone().into_iter().chain(ipsets).collect();
    Seen { sets, requests, nftables, states }
}

/// An error, acknowledged as the kernel does it.
fn refusal(errno: i32) -> Vec<u8> {
    let mut bytes = hex(IN);
    bytes[16..20].copy_from_slice(&(-errno).to_ne_bytes());
    bytes
}

fn link(index: u32, name: &str, tunnel: Option<Tunnel>) -> Link {
    Link { tunnel, ..Link::new(index, name) }
}

fn tunnel() -> Tunnel {
    let entry = |remote, port| FdbEntry { remote: Some(ip(remote)), via: None, port, nexthop_group: None };
    Tunnel {
        id: Some(1),
        port: Some(8472),
        local: Some(ip("192.0.2.10")),
        udp_checksum: UdpChecksum::On,
        fdb: Reading::Ok(vec![entry("192.0.2.30", None), entry("192.0.2.20", Some(4789)), entry("192.0.2.30", None)]),
        underlay: Reading::Ok(vec![2]),
        ..Tunnel::new(TunnelKind::Vxlan)
    }
}

#[test]
fn values_keep_the_order_in_which_they_appear() {
    let address = |link, address, scope| crate::facts::Address {
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
    let found = OuterValues::of(&links, &[], &addresses);
    let own = ["192.0.2.10", "192.0.2.11", "10.1.0.0", "172.17.0.1"].map(ip);
    assert_eq!(found.own, own, "tunnel end points, then what is near, then the rest");
    assert_eq!(found.peers, ["192.0.2.30", "192.0.2.20"].map(ip), "not sorted");
    assert_eq!(found.ports, [8472, 4789]);
    assert_eq!(found.devices, [(7, "flannel.1".to_owned()), (2, "eth0".to_owned())]);
    assert_eq!(OuterValues::of(&links[..2], &[], &addresses), OuterValues::default(), "no tunnel, nothing to ask");
    let mut down = links;
    down[2].up = false;
    assert_eq!(OuterValues::of(&down, &[], &addresses), OuterValues::default());
}

#[test]
fn without_values_no_value_is_asked_about() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    let answer = |name: &str| if name.contains("ipset") { nodes(name) } else { plain(name) };
    let seen = read(&rules, &OuterValues::default(), answer);
    let whole = [
        "nft-2/set-0-header",
        "nft-2/set-0-elements",
        "ipset/protocol",
        "ipset/0-name",
        "ipset/0-header",
        "ipset/0-size",
        "ipset/0-list",
    ];
    assert_eq!(seen.all_names(), whole);
    assert!(seen.sets.len() == 2 && seen.sets.values().all(|set| set.members.is_empty()) && seen.is_all_right());
    let nothing = read(&ruleset(&[]), &values(&["192.0.2.1"], &[]), |name| panic!("nobody should ask {name}"));
    assert!(nothing.sets.is_empty() && nothing.is_all_right() && !nothing.nftables.asked);
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
    let seen = read(&rules, &values, plain);
    let expected = ["nft-2/set-0-header", "nft-2/set-0-catch-all", "nft-2/set-0-element-0", "nft-2/set-0-element-1"];
    assert_eq!(seen.names(), expected, "both ends are asked about once, other fields not at all");
    let members = [(key("192.0.2.1"), Reading::Ok(true)), (key("192.0.2.9"), Reading::Ok(false))].into();
    let found = Set {
        name: "plain".into(),
        kind: "4 bytes".into(),
        stable: true,
        members,
        elements: Reading::Failed(Failure::too_large(64 << 10, "bytes")),
        verdicts: vec![],
        data: vec![],
        family: None,
        sets: Vec::new(),
    };
    assert_eq!(seen.sets, [(set("plain"), found)].into());
    assert_eq!(seen.failure(Source::Nftables), "");
    let nftables = &seen.nftables;
    assert_eq!((nftables.asked, nftables.mismatch, nftables.failed), (true, false, false));
}

#[test]
fn requests_are_those_that_the_kernel_echoed() {
    let body = |request: &Request| match &request.kind {
        Asked::Netlink(request) if request.ack => request.body.clone(),
        other => panic!("{other:?}"),
    };
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.9"], &["198.51.100.1"]);
    let seen = read(&rules, &values, |name| if name.contains("ipset") { nodes(name) } else { plain(name) });
    let sent = |name: &str| body(seen.requests.iter().find(|request| request.name.ends_with(name)).unwrap());
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
        let seen = read(&rules, &values, answer);
        let found = seen.sets[&set("plain")].members[&key("192.0.2.9")].clone();
        (found, seen.failure(Source::Nftables).to_owned())
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
    let seen = read(&rules, &values, |_| hex(NO_SET));
    assert_eq!(seen.names(), ["nft-2/set-0-header"]);
    let set = seen.sets.values().next().expect("it says why it was not read");
    assert!(seen.nftables.failed && set.members.is_empty() && set.elements.failure().is_some());
    let why = "netlink/netfilter/nft-2/set-0-header: the kernel answered errno 2 (ENOENT)";
    assert_eq!(seen.failure(Source::Nftables), why);
    let seen = read(&rules, &values, |_| hex(RANGES));
    assert!(seen.failure(Source::Nftables).contains("another set"));
}

#[test]
fn a_key_of_another_length_is_not_asked() {
    let rules = ruleset(&[look_up("plain", &[Field::DestinationPort])]);
    let values = values(&["192.0.2.1"], &[]);
    let seen = read(&rules, &values, |_| hex(PLAIN));
    let set = &seen.sets[&set("plain")];
    assert_eq!((seen.all_names(), set.members.len()), (vec!["nft-2/set-0-header"], 0));
    assert!(matches!(set.elements.failure(), Some(Failure::Unsupported(_))), "{:?}", set.elements);
    let ranges = ruleset(&[look_up("ranges", &[Field::InputIndex])]);
    let seen = read(&ranges, &values, |_| hex(RANGES));
    assert_eq!(seen.all_names().len(), 1, "the rule turns the index round before it looks it up");
}

#[test]
fn too_many_combinations_are_not_asked() {
    assert_eq!(combinations(&[vec![1, 2], vec![3], vec![4, 5]]), [[1, 3, 4], [1, 3, 5], [2, 3, 4], [2, 3, 5]]);
    assert_eq!(combinations(&[vec![0; 1000], vec![0; 1000]]).len(), MAX_QUESTIONS + 1);
    assert!(combinations::<u8>(&[]).is_empty() && combinations(&[vec![1], vec![]]).is_empty());
    let mut budget = Budget { left: 3, ..Budget::default() };
    let one = || ElementRequest { key: vec![], request: Request::file(Source::Ipset, Root::Procfs, "x") };
    assert_eq!(within(&mut budget, vec![one(), one()]).len(), 2);
    assert_eq!(within(&mut budget, vec![one(), one()]).len(), 1);
    assert_eq!((budget.left, budget.cut), (0, true));
}

#[test]
fn more_sets_than_the_limit_are_not_asked() {
    let matches: Vec<Match> = (0..MAX_SETS + 1).map(|at| look_up(&format!("s{at}"), &[Field::Ipv4Source])).collect();
    let values = values(&["192.0.2.1"], &[]);
    let all = |matches: &[Match]| {
        read_with(&ruleset(matches), &values, |request| match &request.kind {
            Asked::Netlink(asked) if request.name.ends_with("-header") => {
                let asked = crate::netfilter::netlink::Attributes::after(&asked.body, NFGENMSG, "request").unwrap();
                Reading::Ok(header(&asked.get(2).map(crate::facts::Name::from_bytes).unwrap(), 0, 4))
            }
            _ => elements([]),
        })
    };
    let seen = all(&matches);
    assert_eq!(seen.names().len(), MAX_SETS);
    assert_eq!(seen.sets.len(), MAX_SETS);
    assert!(
        seen.failure(Source::Nftables).starts_with("there are more than 512 sets"),
        "{}",
        seen.failure(Source::Nftables)
    );
    assert!(all(&matches[1..]).is_all_right());
}

#[test]
fn keys_are_what_fields_hold() {
    assert_eq!(name_key("eth0"), Some(u128::from(u32::from_be_bytes(*b"eth0")) << 96));
    assert_eq!(name_key("et\\x01"), None);
    assert_eq!(name_key("sixteen-bytes-it"), None);
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
    let good = read(&rules, &values, whole);
    assert!(good.is_all_right() && good.sets.len() == 2);
    for asked in good.requests.iter().filter(|request| !is_whole(&request.name)) {
        let bytes = whole(&asked.name);
        for cut in 0..bytes.len() {
            let answer = |name: &str| if name == asked.name { bytes[..cut].to_vec() } else { whole(name) };
            let seen = read(&rules, &values, answer);
            assert!(!seen.failure(asked.source).is_empty(), "{} cut at {cut}", asked.name);
            for (id, set) in &seen.sets {
                let known = &good.sets[id].members;
                let is_same =
                    |(key, found): (&Vec<u128>, &Reading<bool>)| *found == known[key] || found.failure().is_some();
                assert!(set.members.iter().all(is_same), "{} cut at {cut}", asked.name);
            }
        }
    }
}

/// What is not known whole is looked up value by value, and nothing of the cut list is kept.
#[test]
fn lists_of_elements_cut_anywhere_are_no_lists() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source]), in_ipset(0, &[End::Source])]);
    let values = values(&["192.0.2.1"], &["192.0.2.9"]);
    let list = elements([element(&[192, 0, 2, 1]), element(&[192, 0, 2, 2])]).ok().unwrap().clone();
    let nodes_list = ipset::list_of_nodes();
    let small = |name: &str| match name {
        name if name.ends_with("-elements") => list.clone(),
        name if name.ends_with("-list") => nodes_list.clone(),
        "netlink/netfilter/ipset/0-test-s-1" => hex(OUT),
        name if name.contains("ipset") => nodes(name),
        name => plain(name),
    };
    let answer = |cut: Option<(&str, usize)>| {
        read_with(&rules, &values, |request| match (request.name.as_str(), cut) {
            ("sysfs/module/ip_set.list", _) => Reading::Ok(b"initstate\n".to_vec()),
            (name, Some((end, cut))) if name.ends_with(end) => Reading::Ok(small(name)[..cut].to_vec()),
            (name, _) => Reading::Ok(small(name)),
        })
    };
    let good = answer(None);
    assert!(good.is_all_right() && good.sets.values().all(|set| set.elements.ok().is_some() && set.members.is_empty()));
    assert_eq!(good.sets[&set("plain")].elements.ok().map(Vec::len), Some(2));
    for (end, whole, id) in [("-elements", &list, set("plain")), ("-list", &nodes_list, SetId::Ipset(0))] {
        for cut in 0..whole.len() {
            let seen = answer(Some((end, cut)));
            let set = &seen.sets[&id];
            assert!(set.elements.failure().is_some() && set.members.len() == 2, "{end} cut at {cut}: {set:?}");
            assert_eq!(set.members[&key("192.0.2.1")], Reading::Ok(true));
            assert!(seen.sets.iter().all(|(other, set)| *other == id || *set == good.sets[other]));
        }
    }
}

/// Marks and states are never looked up one by one.
#[test]
fn a_list_that_is_cut_is_a_failure_of_the_source_if_there_is_no_value_to_ask_about() {
    let rules = ruleset(&[look_up("marks", &[Field::Mark])]);
    let all = |whole: Response| {
        read_with(&rules, &values(&["192.0.2.1"], &[]), move |request| match request.name.ends_with("-header") {
            true => Reading::Ok(header("marks", 0, 4)),
            false => whole.clone(),
        })
    };
    let list = elements([element(&1u32.to_ne_bytes())]);
    let seen = all(list.clone());
    assert_eq!(seen.sets[&set("marks")].elements, Reading::Ok(vec![vec![(1, 1)]]));
    let cut = all(list.map(|mut bytes| bytes.split_off(0).into_iter().take(40).collect()));
    assert!(cut.sets[&set("marks")].elements.failure().is_some());
    assert!(!cut.failure(Source::Nftables).is_empty());
    let large = all(Reading::Failed(Failure::too_large(MAX_ELEMENTS, "bytes")));
    assert!(large.sets[&set("marks")].elements.failure().is_some());
    assert!(large.is_all_right() && !large.nftables.failed, "that it is large is understood, and stays so");
}

#[test]
fn elements_of_another_generation_are_a_mismatch() {
    let rules = ruleset(&[look_up("plain", &[Field::Ipv4Source])]);
    let values = values(&["192.0.2.1"], &[]);
    let stamped = |mut bytes: Vec<u8>| {
        bytes[19] = 3;
        bytes
    };
    for late in ["-header", "-elements"] {
        let seen = read_with(&rules, &values, |request| {
            let answer = if is_whole(&request.name) {
                elements([element(&[192, 0, 2, 1])])
            } else {
                Reading::Ok(plain(&request.name))
            };
            answer.map(|bytes| if request.name.ends_with(late) { stamped(bytes) } else { bytes })
        });
        assert!(seen.nftables.mismatch && seen.nftables.failed, "{late}");
    }
}

/// A message about table `t`.
fn message(body: nftables::Body<'_>) -> Vec<u8> {
    let header = Nfgenmsg { family: NFPROTO_IPV4, res_id: GENERATION as u16, ..Nfgenmsg::default() };
    let (kind, mut out) = (body.kind(), MessageWriter::kernel());
    nftables::NftMessage { header, body }.emit(&mut out);
    framed(kind, &out.finish())
}

/// One element of a set: its key, and its other attributes.
fn element_with(key: &[u8], rest: SetElement<'_>) -> Vec<u8> {
    let element = SetElement { key: Some(Data::of(key)).filter(|_| !key.is_empty()), ..rest };
    let elements = Some(vec![element].into());
    message(nftables::SetElements { table: "t".into(), elements, ..Default::default() }.into())
}

fn element(key: &[u8]) -> Vec<u8> {
    element_with(key, SetElement::default())
}

fn framed(kind: u16, body: &[u8]) -> Vec<u8> {
    frame(kind, NLM_F_MULTI, body)
}

/// A dump of elements.
fn elements(all: impl IntoIterator<Item = Vec<u8>>) -> Response {
    let end = framed(NLMSG_DONE, &[0; 4]);
    Reading::Ok(all.into_iter().chain([end]).collect::<Vec<_>>().concat())
}

/// A set of table `t`, with its acknowledgement.
fn header(name: &str, flags: u32, key_length: u32) -> Vec<u8> {
    let (flags, key_len) = (Some(flags), key_length);
    let set = nftables::Set { table: "t".into(), name: name.into(), flags, key_len, ..Default::default() };
    [message(set.into()), hex(IN)].concat()
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
    let real = [PLAIN, PLAIN_1, PLAIN_9, RANGES_9, PAIRS_9, SLOW_1, ANY, PROTOCOL, NAME, HEADER, SIZE, OUT].map(hex);
    proptest::proptest!(|(noise: Vec<u8>, which in 0..real.len(), at: usize, byte: u8)| {
        let mut damaged = real[which].clone();
        let at = at % damaged.len();
        damaged[at] = byte;
        for answer in [&noise, &damaged] {
            read(&rules, &values, |_| answer.clone());
            read_with(&rules, &values, |request| match request.name.as_str() {
                "sysfs/module/ip_set.list" => Reading::Ok(b"initstate\n".to_vec()),
                name if is_whole(name) => Reading::Ok(answer.clone()),
                name if name.contains("ipset/0-") || name.ends_with("protocol") => Reading::Ok(nodes(name)),
                "netlink/netfilter/nft-2/set-1-header" => Reading::Ok(hex(PAIRS)),
                _ => Reading::Ok(hex(PLAIN)),
            });
        }
    });
}

/// Whether each of these addresses is in set `name`, given the responses for header and element, and the source's
/// failure.
fn members(name: &str, fields: &[Field], own: &str, header: &str, element: &[u8]) -> (Vec<Reading<bool>>, String) {
    let rules = ruleset(&[look_up(name, fields)]);
    let seen = read(&rules, &values(&[own], &[]), |name| match name.rsplit_once('-').map(|(_, what)| what) {
        Some("header") => hex(header),
        Some("all") => hex(NO_CATCH_ALL),
        _ => element.to_vec(),
    });
    (seen.sets[&set(name)].members.values().cloned().collect(), seen.failure(Source::Nftables).to_owned())
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
        elements: Reading::Failed(Failure::too_large(64 << 10, "bytes")),
        verdicts: vec![],
        data: vec![],
        family: None,
        sets: Vec::new(),
    };
    rules.sets.insert(set("plain"), found.clone());
    let seen = read(&rules, &values, |name| panic!("nobody should ask {name}"));
    assert_eq!((seen.requests.len(), seen.nftables.asked), (0, false));
    assert_eq!(seen.sets[&set("plain")], found);
    let more = self::values(&["192.0.2.1", "192.0.2.2"], &[]);
    let again = read(&rules, &more, plain);
    assert!(again.nftables.asked && !again.requests.is_empty(), "another address matters now");
    found.stable = false;
    rules.sets.insert(set("plain"), found);
    assert!(read(&rules, &values, plain).nftables.asked, "elements come and go by themselves");
}

/// A set with a timeout, or one that packets fill, is read whole like any other.
#[test]
fn sets_are_read_whole_whatever_they_are() {
    let field = [Field::Ipv4Source];
    let with = |data: Option<Data<'static>>, expiration| SetElement { data, expiration, ..SetElement::default() };
    let (drop, value) = (Data::to(NF_DROP, None), Data::of(vec![0, 0, 0, 1]));
    let (one, two) = ([192, 0, 2, 1], [192, 0, 2, 2]);
    let range = |address: &str| -> Element { key(address).into_iter().map(|key| (key, key)).collect() };
    let both = vec![range("192.0.2.1"), range("192.0.2.2")];
    for (flags, stable, all, expected, verdicts) in [
        (0u32, true, vec![with(None, None); 2], both.clone(), 0),
        (NFT_SET_TIMEOUT, false, vec![with(None, Some(1)), with(None, Some(9))], both.clone(), 0),
        (NFT_SET_TIMEOUT, false, vec![with(None, Some(0)), with(None, Some(9))], both[1..].to_vec(), 0),
        (NFT_SET_EVAL, false, vec![with(None, None)], both[..1].to_vec(), 0),
        (NFT_SET_MAP, true, vec![with(Some(value), None); 2], both.clone(), 0),
        (NFT_SET_MAP, true, vec![with(Some(drop.clone()), None); 2], both.clone(), 2),
        (NFT_SET_MAP | NFT_SET_TIMEOUT, false, vec![with(Some(drop), Some(0))], vec![], 0),
    ] {
        let whole = elements([one, two].iter().zip(all).map(|(key, rest)| element_with(key, rest)));
        let rules = ruleset(&[look_up("one", &field)]);
        let seen = read_with(&rules, &values(&["192.0.2.9"], &[]), |request| match request.name.ends_with("-header") {
            true => Reading::Ok(header("one", flags, 4)),
            false => whole.clone(),
        });
        assert_eq!(seen.all_names(), ["nft-2/set-0-header", "nft-2/set-0-elements"], "no value is asked about");
        let set = &seen.sets[&set("one")];
        assert_eq!(
            (set.stable, &set.elements, set.verdicts.len()),
            (stable, &Reading::Ok(expected), verdicts),
            "{flags:#x}"
        );
        assert!(set.members.is_empty() && seen.is_all_right());
    }
    // Data, and the element for all other keys.
    let mark = |mark: u32| Some(Data::of(mark.to_ne_bytes().to_vec()));
    let catch_all = SetElement { flags: Some(NFT_SET_ELEM_CATCHALL), data: mark(2), ..SetElement::default() };
    let whole = elements([element_with(&one, with(mark(1), None)), element_with(&[], catch_all)]);
    let rules = ruleset(&[look_up("one", &field)]);
    let seen = read_with(&rules, &OuterValues::default(), |request| match request.name.ends_with("-header") {
        true => Reading::Ok(header("one", NFT_SET_MAP, 4)),
        false => whole.clone(),
    });
    let known = &seen.sets[&set("one")];
    assert_eq!(known.elements, Reading::Ok(vec![range("192.0.2.1"), vec![(0, u32::MAX.into())]]));
    assert_eq!(known.data, [1u32, 2].map(|mark| mark.to_ne_bytes().to_vec()));
    // A map to objects has no values.
    let rules = ruleset(&[look_up("one", &field)]);
    let seen = read(&rules, &OuterValues::default(), |_| header("one", NFT_SET_OBJECT | NFT_SET_MAP, 4));
    assert_eq!(seen.all_names(), ["nft-2/set-0-header"]);
}

/// An element with a statement of its own matches some packets only, however it is read.
#[test]
fn a_set_with_an_element_that_decides_by_packet_is_asked_about_value_by_value() {
    let rules = ruleset(&[look_up("slow", &[Field::Ipv4Source])]);
    let seen = read_with(&rules, &values(&["192.0.2.1"], &[]), |request| match request.name.rsplit_once("set-0-") {
        Some((_, "header")) => Reading::Ok(header("slow", NFT_SET_EVAL, 4)),
        Some((_, "catch-all")) => Reading::Ok(hex(NO_CATCH_ALL)),
        Some((_, "elements")) => elements([hex(SLOW_1)[..0x80].to_vec()]),
        _ => Reading::Ok(hex(SLOW_1)),
    });
    let slow = &seen.sets[&set("slow")];
    assert!(matches!(slow.elements.failure().map(Failure::root), Some(Failure::Unsupported(_))), "{slow:?}");
    assert!(slow.members[&key("192.0.2.1")].why().contains("limit"), "{slow:?}");
    assert!(seen.is_all_right(), "that is understood");
    assert!(!seen.nftables.failed, "and stays so");
}
