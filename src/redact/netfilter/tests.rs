//! The dumps were taken from a kernel (6.18) with rules as kube-proxy, flannel, Docker and others write them, by
//! iptables-nft 1.8.9 and nft 1.0.6.

use std::hash::RandomState;

use super::*;
use crate::capture::Capture;
use crate::decode::testing;
use crate::netfilter::netlink::{self, Writer, put};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::expr::{Bitwise, Cmp, Expr, Immediate, Payload};
use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_NETDEV, NFT_MSG_NEWRULE};
use crate::netfilter::nftables::{
    Body, Data, Expression, Message, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_RULE_EXPRESSIONS, Rule,
};
use crate::redact::{each_message, redact};
use crate::snapshot::Reading;

macro_rules! dumps {
    ($($request:literal => $file:literal,)*) => {
        &[$((concat!("netlink/netfilter/nft-1/", $request), include_bytes!(concat!("../testdata/", $file)),)),*]
    };
}

/// Answers by request.
const DUMPS: &[(&str, &[u8])] = dumps! {
    "tables" => "tables",
    "chains-inet" => "chains-inet",
    "rules/ipv4/nat/POSTROUTING" => "nat-POSTROUTING",
    "rules/ipv4/nat/KUBE-SERVICES" => "nat-KUBE-SERVICES",
    "rules/ipv4/nat/KUBE-SEP-O3T4XKWBZBTXSXRG" => "nat-KUBE-SEP",
    "rules/ipv4/nat/CNI-0b9a2c0f2ea8f8bb2b8b6d1f" => "nat-CNI",
    "rules/ipv4/mangle/POSTROUTING" => "mangle-POSTROUTING",
    "rules/ipv4/flannel-ipv4/postrtg" => "flannel-postrtg",
    "rules/ipv4/kube-proxy/masquerading" => "kube-proxy-masquerading",
    "rules/ipv6/nat/POSTROUTING" => "nat6-POSTROUTING",
    "rules/inet/t/c" => "inet-rules",
    "rules/inet/netavark/POSTROUTING" => "netavark-POSTROUTING",
    "map/inet/t/vm" => "map-vm",
    "set-0-header" => "set-s",
    "set-0-element-0" => "elements-set0",
};
const HOLES: &[u8] = include_bytes!("../testdata/inet-holes");

const ADDRESSES: &str = "netlink/route/addresses";

/// Addresses that stand in rules as a whole or by their prefix.
const KNOWN: [[u8; 4]; 12] = [
    [10, 244, 1, 10],
    [10, 96, 0, 1],
    [172, 17, 0, 0],
    [10, 88, 0, 5],
    [10, 210, 2, 7],
    [10, 210, 2, 1],
    [10, 210, 2, 9],
    [10, 66, 6, 6],
    [10, 66, 6, 7],
    [10, 1, 2, 0],
    [10, 8, 0, 1],
    [10, 1, 1, 1],
];
const KNOWN6: [u8; 16] = [0xfd, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];

fn capture() -> Capture {
    let mut capture = testing::capture();
    for (name, bytes) in DUMPS {
        capture.answers.insert((*name).into(), Reading::Ok(bytes.to_vec()));
    }
    let mut addresses = Vec::new();
    let mut add = |family: u8, address: &[u8]| {
        let mut body = vec![family, 24, 0, 0, 1, 0, 0, 0];
        put(&mut body, 2, address);
        addresses.extend(message(20, &body));
    };
    KNOWN.iter().for_each(|address| add(2, address));
    add(10, &KNOWN6);
    capture.answers.insert(ADDRESSES.into(), Reading::Ok(addresses));
    capture
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend([0; 10]);
    bytes.extend(body);
    bytes
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

fn ok<'a>(capture: &'a Capture, name: &str) -> &'a [u8] {
    capture.answers[name].ok().unwrap_or_else(|| panic!("{name}: {}", capture.answers[name].why()))
}

fn redacted() -> Capture {
    let mut capture = capture();
    redact(&mut capture);
    capture
}

/// All answers about rules, one after the other.
fn rules(capture: &Capture) -> Vec<u8> {
    let netfilter = capture.answers.keys().filter(|name| name.starts_with("netlink/netfilter/"));
    netfilter.flat_map(|name| ok(capture, name).to_vec()).collect()
}

/// What became of [`KNOWN`] and [`KNOWN6`] in the answer about addresses.
fn mapped(capture: &Capture) -> (Vec<[u8; 4]>, [u8; 16]) {
    let (v4, v6) = ok(capture, ADDRESSES).split_at(KNOWN.len() * 32);
    (v4.chunks(32).map(|message| message[28..32].try_into().unwrap()).collect(), v6[28..44].try_into().unwrap())
}

#[test]
fn no_address_comment_or_name_remains() {
    let secrets: &[&[u8]] = &[
        &[10, 244],
        &[10, 244, 1, 10],
        &[10, 96, 0, 1],
        &[10, 88, 0, 5],
        &[10, 7, 7],
        &[10, 66, 0, 0],
        &[10, 66, 255, 255],
        &[10, 66, 6, 6],
        &[10, 66, 6, 7],
        &[10, 210, 2],
        &[10, 1, 2],
        &[10, 8, 0, 1],
        &[10, 9, 9, 9],
        &[10, 1, 1, 1],
        &[10, 2, 2, 2],
        &[0xfd, 0, 0, 0x10],
        &KNOWN6,
        &[2, 0, 0xde, 0xad, 0xbe, 0xef],
        b"secret",
        b"podman",
        b"0123abcd",
        b"default/kubernetes",
        b"snatm",
        b"vm\0",
        b"10.11.12.13",
        b"10_88",
    ];
    let plain = rules(&capture());
    // An address may be mapped to itself, but not each time.
    let redacted: Vec<Vec<u8>> = (0..8).map(|_| rules(&redacted())).collect();
    for secret in secrets {
        assert!(holds(&plain, secret), "{secret:?} is not there anyway");
        assert!(redacted.iter().any(|bytes| !holds(bytes, secret)), "{secret:?} {}", String::from_utf8_lossy(secret));
    }
    for kept in [
        b"kubernetes postrouting rules".as_slice(),
        b"KUBE-POSTROUTING",
        b"docker0",
        b"__set0",
        &[0xe0, 0, 0, 0],
        b"name: \"xxxxxx\"xxxxx\"xxxxxxxx\"\0",
        b"ip-masq-agent:xxx",
    ] {
        assert!(redacted.iter().all(|bytes| holds(bytes, kept)), "{}", String::from_utf8_lossy(kept));
    }
}

#[test]
fn addresses_in_rules_are_those_of_devices() {
    let capture = redacted();
    let (v4, v6) = mapped(&capture);
    let of = |octets: [u8; 4]| v4[KNOWN.iter().position(|known| *known == octets).unwrap()];
    let postrouting = ok(&capture, "netlink/netfilter/nft-1/rules/ipv4/nat/POSTROUTING");
    let inet = ok(&capture, "netlink/netfilter/nft-1/rules/inet/t/c");
    // NFTA_DATA_VALUE
    let value = |prefix: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, 1, prefix);
        bytes
    };
    assert!(holds(postrouting, &value(&of([10, 244, 1, 10])[..2])), "/16");
    assert!(holds(postrouting, &value(&of([10, 244, 1, 10])[..3])), "/24");
    assert!(holds(postrouting, &value(&of([172, 17, 0, 0])[..2])), "/16 of another kind");
    assert!(holds(postrouting, &value(&of([10, 88, 0, 5]))), "/32");
    assert!(holds(ok(&capture, "netlink/netfilter/nft-1/rules/ipv4/nat/KUBE-SERVICES"), &of([10, 96, 0, 1])));
    let endpoint = ok(&capture, "netlink/netfilter/nft-1/rules/ipv4/nat/KUBE-SEP-O3T4XKWBZBTXSXRG");
    assert!(holds(endpoint, &of([10, 244, 1, 10])), "DNAT");
    let [a, b, ..] = of([10, 66, 6, 6]);
    assert!(holds(postrouting, &[a, b, 0, 0]) && holds(postrouting, &[a, b, 255, 255]), "NETMAP");
    for octets in [[10, 210, 2, 7], [10, 66, 6, 6], [10, 66, 6, 7], [10, 8, 0, 1], [10, 210, 2, 1], [10, 210, 2, 9]] {
        // Two addresses that were loaded at once are compared at once.
        assert!(holds(inet, &of(octets)), "{octets:?}");
    }
    let [a, b, c, _] = of([10, 1, 2, 0]);
    assert!(holds(inet, &value(&[a, b, c & 0xfe, 0])), "/23");
    assert!(holds(ok(&capture, "netlink/netfilter/nft-1/set-0-element-0"), &of([10, 1, 1, 1])), "set");
    assert!(holds(inet, &value(&v6[..6])), "/48");
    let six = ok(&capture, "netlink/netfilter/nft-1/rules/ipv6/nat/POSTROUTING");
    assert!(holds(six, &value(&v6[..6])) && holds(six, &v6), "IPv6");
}

#[test]
fn names_of_sets_change_everywhere_at_once() {
    let mut capture = capture();
    capture.answers.insert(
        "netlink/netfilter/nft-1/map/inet/t/vm%2Fx".into(),
        Reading::Failed("netlink/netfilter/nft-1/map/inet/t/vm%2Fx: interrupted".into()),
    );
    redact(&mut capture);
    let maps: Vec<&str> = capture.answers.keys().filter_map(|name| name.split("/map/inet/t/").nth(1)).collect();
    let alias = |length: usize| maps.iter().find(|name| name.len() == length).expect("renamed");
    let (short, long) = (alias(2), alias(4));
    assert!(short.bytes().chain(long.bytes()).all(|byte| byte.is_ascii_lowercase()), "{short} {long}");
    let name = format!("{short}\0");
    assert!(holds(ok(&capture, "netlink/netfilter/nft-1/rules/inet/t/c"), name.as_bytes()));
    assert!(holds(ok(&capture, &format!("netlink/netfilter/nft-1/map/inet/t/{short}")), name.as_bytes()));
    let request = format!("netlink/netfilter/nft-1/map/inet/t/{long}");
    assert_eq!(capture.answers[&request].why(), format!("{request}: interrupted"));
}

#[test]
fn names_of_sets_stay_different() {
    let redactor = &mut Redactor::new(RandomState::new());
    let mut seen = std::collections::BTreeSet::new();
    for name in b'A'..=b'Z' {
        let mut name = [name, 0];
        redactor.set_name(&mut name);
        assert!(seen.insert(name));
    }
}

#[test]
fn chains_named_after_networks_are_renamed() {
    let mut capture = capture();
    let netavark = "netlink/netfilter/nft-1/rules/inet/netavark";
    capture.answers.insert(format!("{netavark}/nv_10_88_0_0_nm16"), Reading::Ok(message(3, &[0; 4])));
    redact(&mut capture);
    let new = capture.answers.keys().filter_map(|name| name.strip_prefix(netavark)).find(|name| name.contains("nv_"));
    let new = format!("{}\0", &new.expect("still there")[1..]);
    assert!(new.starts_with("nv_") && new.ends_with("_nm16\0") && new.len() == 18 && !new.contains("10_88"), "{new}");
    assert!(holds(ok(&capture, &format!("{netavark}/POSTROUTING")), new.as_bytes()));
}

/// Types and lengths of attributes, as deep as expressions have names, and those names.
fn framing(bytes: &[u8]) -> Vec<(u16, usize, Vec<u8>)> {
    let list = |bytes| netlink::attributes(bytes, "test").map(|attribute| attribute.expect("whole"));
    let mut found = Vec::new();
    for message in netlink::messages(bytes).map(|message| message.expect("whole")) {
        found.push((message.kind, message.body.len(), Vec::new()));
        for attribute in list(message.body.get(4..).unwrap_or_default()) {
            found.push((attribute.kind, attribute.body.len(), Vec::new()));
            let expressions = if attribute.kind == NFTA_RULE_EXPRESSIONS { attribute.body } else { &[] };
            for part in list(expressions).flat_map(|expression| list(expression.body)) {
                let name = if part.kind == NFTA_EXPR_NAME { part.body } else { &[] };
                found.push((part.kind, part.body.len(), name.to_vec()));
                let data = if part.kind == NFTA_EXPR_DATA { part.body } else { &[] };
                found.extend(list(data).map(|field| (field.kind, field.body.len(), Vec::new())));
            }
        }
    }
    found
}

#[test]
fn framing_stays() {
    let capture = redacted();
    let dumps: Vec<_> = DUMPS.iter().filter(|(name, _)| name.contains("/rules/")).collect();
    for (name, bytes) in dumps {
        assert_eq!(framing(bytes), framing(ok(&capture, name)), "{name}");
    }
    // Marks, ports and masks are no addresses.
    let kube = "netlink/netfilter/nft-1/rules/ipv4/kube-proxy/masquerading";
    assert_eq!(DUMPS.iter().find(|(name, _)| *name == kube).expect("there").1, ok(&capture, kube));
}

#[test]
fn what_cannot_be_mapped_is_removed() {
    let mut capture = capture();
    let name = "netlink/netfilter/nft-1/rules/inet/t/holes";
    capture.answers.insert(name.into(), Reading::Ok(HOLES.to_vec()));
    redact(&mut capture);
    let why = capture.answers[name].why();
    assert!(why.starts_with("removed by --redact: ") && why.contains("address"), "{why}");
}

/// A rule of these expressions, redacted.
fn redacted_rule(family: u8, expressions: Vec<Expression<'_>>) -> Vec<u8> {
    let rule = Rule { table: "t".into(), expressions: Some(expressions.into()), ..Rule::default() };
    let header = Nfgenmsg { family, ..Nfgenmsg::default() };
    let mut out = Writer::kernel();
    Message { header, body: Body::Rule(rule) }.emit(&mut out);
    let mut bytes = message(NFT_MSG_NEWRULE, &out.finish());
    let redactor = &mut Redactor::new(RandomState::new());
    each_message(&mut bytes, |kind, body| redactor.netfilter(kind, body)).expect("framing");
    bytes
}

/// `ether saddr & MASK == ADDRESS`
#[test]
fn hardware_addresses_are_mapped_or_zeroed() {
    let of = |mask: [u8; 6]| {
        let load = Payload { dreg: Some(1), base: 0, offset: 6, len: 6, ..Payload::default() };
        let (mask, xor) = (Some(Data::of(mask.to_vec())), Some(Data::of(vec![0; 6])));
        let masked = Bitwise { sreg: 1, dreg: 1, len: 6, mask, xor, ..Bitwise::default() };
        let address = Data::of(vec![2, 0x55, 0x66, 0x77, 0x88, 0x99]);
        let compared = Cmp { sreg: 1, data: address, ..Cmp::default() };
        redacted_rule(NFPROTO_NETDEV, vec![load.into(), masked.into(), compared.into()])
    };
    assert!(!holds(&of([0xff; 6]), &[0x66, 0x77]));
    assert!(!holds(&of([0xff, 0xff, 0xff, 0, 0, 0]), &[0x55, 0x66]));
}

/// In whatever order registers are loaded, what was loaded earlier is still there.
#[test]
fn keys_that_are_loaded_backwards_are_followed() {
    let load = |dreg, offset| Payload { dreg: Some(dreg), base: 1, offset, len: 4, ..Payload::default() };
    let key = Data::of(vec![10, 9, 9, 8, 10, 9, 9, 7]);
    let compared = Cmp { sreg: 8, data: key, ..Cmp::default() };
    let rule = redacted_rule(NFPROTO_IPV4, vec![load(9, 16).into(), load(8, 12).into(), compared.into()]);
    assert!(!holds(&rule, &[9, 9, 8]) && !holds(&rule, &[9, 9, 7]));
}

#[test]
fn errors_keep_their_number_only() {
    let mut body = (-2i32).to_ne_bytes().to_vec();
    body.extend(message(0xa0d, &[2, 0, 0, 0, 10, 9, 9, 9]));
    let names = ["netlink/netfilter/nft-1/set-0-element-1", "netlink/netfilter/ipset/0-test-0", "netlink/route/get-1"];
    let mut capture = capture();
    for name in names {
        capture.answers.insert(name.into(), Reading::Ok(message(2, &body)));
    }
    redact(&mut capture);
    for name in names {
        let bytes = ok(&capture, name);
        assert!(!holds(bytes, &[10, 9, 9, 9]) && holds(bytes, &(-2i32).to_ne_bytes()), "{name}");
    }
}

#[test]
fn names_of_ipsets_and_processes_go() {
    let mut capture = capture();
    let ipset = |set: &[u8]| {
        let mut body = vec![2, 0, 0, 0];
        put(&mut body, 1, &[7]);
        put(&mut body, 2, set);
        put(&mut body, 3, b"hash:net\0");
        message(0x60f, &body)
    };
    let mut generation = vec![0, 0, 0, 0];
    put(&mut generation, 1, &7u32.to_be_bytes());
    put(&mut generation, 2, &4711u32.to_be_bytes());
    put(&mut generation, 3, b"nft-secret\0");
    capture.answers.insert("netlink/netfilter/ipset/1-name".into(), Reading::Ok(ipset(b"kube-router-pods\0")));
    capture.answers.insert("netlink/netfilter/ipset/2-name".into(), Reading::Ok(ipset(b"customers\0")));
    capture.answers.insert("netlink/netfilter/nft-1/generation".into(), Reading::Ok(message(0xa0f, &generation)));
    redact(&mut capture);
    let first = ok(&capture, "netlink/netfilter/ipset/1-name");
    assert!(holds(first, b"kube-router-") && !holds(first, b"kube-router-pods") && holds(first, b"hash:net\0"));
    assert!(!holds(ok(&capture, "netlink/netfilter/ipset/2-name"), b"customers"));
    let generation = ok(&capture, "netlink/netfilter/nft-1/generation");
    assert!(holds(generation, &7u32.to_be_bytes()) && !holds(generation, b"nft-secret"));
}

#[test]
fn an_unknown_expression_takes_its_constants_along() {
    let constant = Immediate { dreg: 1, data: Data::of(vec![10, 9, 9, 9]), ..Immediate::default() };
    let novel = Expr::Unsupported { name: b"novel".into(), data: vec![8, 0, 5, 0, 10, 9, 9, 8].into() };
    let rule = redacted_rule(NFPROTO_IPV4, vec![constant.into(), novel.into()]);
    assert!(!holds(&rule, &[10, 9, 9]) && holds(&rule, b"novel\0"));
}

#[test]
fn ranges_keep_their_order_and_prefixes_stay_prefixes() {
    proptest::proptest!(|(a: u32, b: u32, length in 0u32..=32)| {
        let redactor = Redactor::new(RandomState::new());
        let (mut min, mut max) = (a.min(b).to_be_bytes(), a.max(b).to_be_bytes());
        redactor.range(&mut min, &mut max);
        proptest::prop_assert!(min <= max);
        let host = u32::MAX.checked_shr(length).unwrap_or(0);
        let (mut min, mut max) = ((a & !host).to_be_bytes(), (a | host).to_be_bytes());
        redactor.range(&mut min, &mut max);
        proptest::prop_assert_eq!(u32::from_be_bytes(min) ^ u32::from_be_bytes(max), host);
        proptest::prop_assert_eq!(u32::from_be_bytes(min) & host, 0);
    });
}

fn try_to(bytes: &[u8]) {
    let redactor = &mut Redactor::new(RandomState::new());
    let _ = each_message(&mut bytes.to_vec(), |kind, body| redactor.netfilter(kind, body));
}

#[test]
fn cut_and_broken_dumps_never_panic() {
    for (_, dump) in DUMPS {
        (0..dump.len()).step_by(1 + dump.len() / 2000).for_each(|end| try_to(&dump[..end]));
        // As one message that ends anywhere, so that its attributes are cut.
        let kind = u16::from_ne_bytes([dump[4], dump[5]]);
        (0..dump.len().min(700) - 16).for_each(|end| try_to(&message(kind, &dump[16..16 + end])));
    }
    proptest::proptest!(|(bytes: Vec<u8>, which in 0..DUMPS.len(), changes: [(usize, u8); 3])| {
        let mut dump = DUMPS[which].1.to_vec();
        let length = dump.len();
        changes.iter().for_each(|(at, byte)| dump[at % length] = *byte);
        try_to(&dump);
        try_to(&bytes);
        (0xa00..0xa10).for_each(|kind| try_to(&message(kind, &bytes)));
    });
}
