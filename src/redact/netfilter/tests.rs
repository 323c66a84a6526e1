//! Redaction of dumps from a kernel (6.18) with rules as kube-proxy, flannel, Docker and others write them, by
//! iptables-nft 1.8.9 and nft 1.0.6.

use std::hash::RandomState;

use super::*;
use crate::capture::Capture;
use crate::facts::Reading;
use crate::netfilter::netlink::{self, MessageWriter, Text, put};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::expr::{
    Bitwise, Byteorder, Cmp, Ct, Dynset, Expr, Exthdr, Hash, Immediate, Lookup, Meta, Nat, Payload,
};
use crate::netfilter::nftables::uapi::{
    NFPROTO_BRIDGE, NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_NETDEV, NFT_MSG_NEWRULE, NFT_MSG_NEWSET,
    NFT_MSG_NEWSETELEM,
};
use crate::netfilter::nftables::{
    Body, Data, Expression, NFTA_EXPR_DATA, NFTA_EXPR_NAME, NFTA_RULE_EXPRESSIONS, NftMessage, Rule, Set, SetElement,
    SetElements,
};
use crate::read::testing;
use crate::redact::{each_message, redact};

macro_rules! dumps {
    ($($request:literal => $file:literal,)*) => {
        &[$((concat!("netlink/netfilter/nft-1/", $request), include_bytes!(concat!("../testdata/", $file)),)),*]
    };
}

/// Responses by request.
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

/// Addresses that occur in rules, whole or as a prefix.
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

/// All responses about rules, concatenated.
fn rules(capture: &Capture) -> Vec<u8> {
    let netfilter = capture.answers.keys().filter(|name| name.starts_with("netlink/netfilter/"));
    netfilter.flat_map(|name| ok(capture, name).to_vec()).collect()
}

/// What the address response has instead of [`KNOWN`] and [`KNOWN6`].
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
    // An address may happen to be mapped to itself, but not each time.
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
        b"name: \"xxxxxx\" id: \"xxxxxxxx\"\0",
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
        // Two addresses loaded together are compared together.
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
    let redactor = &mut Redactor::new(RandomState::new(), String::new());
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

/// Types and lengths of attributes, down to those of expressions' data, and the expressions' names.
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
fn what_cannot_be_mapped_is_understood_by_nobody() {
    let mut capture = capture();
    let name = "netlink/netfilter/nft-1/rules/inet/t/holes";
    capture.answers.insert(name.into(), Reading::Ok(HOLES.to_vec()));
    redact(&mut capture);
    let bytes = ok(&capture, name);
    assert!(!holds(bytes, &[10, 9, 9]) && compared(bytes).contains(&(0, vec![0; 4])), "{:?}", compared(bytes));
}

/// Registers and values of all comparisons.
fn compared(bytes: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut found = Vec::new();
    for message in netlink::messages(bytes).map(|message| message.expect("whole")) {
        let Ok(NftMessage { body: Body::Rule(rule), .. }) = NftMessage::parse(message.kind, message.body) else {
            continue;
        };
        for Expression { expr, .. } in rule.expressions() {
            match expr {
                Expr::Cmp(cmp) => found.push((cmp.sreg, cmp.data.value().expect("a value").to_vec())),
                Expr::Lookup(lookup) => found.push((lookup.sreg, Vec::new())),
                _ => {}
            }
        }
    }
    found
}

fn plain_rule(family: u8, expressions: Vec<Expression<'_>>) -> Vec<u8> {
    let rule = Rule { table: "t".into(), expressions: Some(expressions.into()), ..Rule::default() };
    let header = Nfgenmsg { family, ..Nfgenmsg::default() };
    let mut out = MessageWriter::kernel();
    NftMessage { header, body: Body::Rule(rule) }.emit(&mut out);
    message(NFT_MSG_NEWRULE, &out.finish())
}

/// A rule of these expressions after redaction.
fn redacted_rule(family: u8, expressions: Vec<Expression<'_>>) -> Vec<u8> {
    let mut bytes = plain_rule(family, expressions);
    let redactor = &mut Redactor::new(RandomState::new(), String::new());
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

/// Whatever the order of loads, what was loaded earlier is still known.
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
    capture.answers.insert("netlink/netfilter/ipset/1-name".into(), Reading::Ok(ipset(b"kube-router-pod-subnets\0")));
    capture.answers.insert("netlink/netfilter/ipset/2-name".into(), Reading::Ok(ipset(b"customers\0")));
    capture.answers.insert("netlink/netfilter/ipset/3-name".into(), Reading::Ok(ipset(b"kube-router-customers\0")));
    capture.answers.insert("netlink/netfilter/nft-1/generation".into(), Reading::Ok(message(0xa0f, &generation)));
    redact(&mut capture);
    let first = ok(&capture, "netlink/netfilter/ipset/1-name");
    assert!(holds(first, b"kube-router-pod-subnets\0") && holds(first, b"hash:net\0"));
    assert!(!holds(ok(&capture, "netlink/netfilter/ipset/2-name"), b"customers"));
    assert!(!holds(ok(&capture, "netlink/netfilter/ipset/3-name"), b"kube-router-customers"));
    let generation = ok(&capture, "netlink/netfilter/nft-1/generation");
    assert!(holds(generation, &7u32.to_be_bytes()) && !holds(generation, b"nft-secret"));
}

fn load(base: u32, offset: u32, len: u32) -> Expression<'static> {
    Payload { dreg: Some(1), base, offset, len, ..Payload::default() }.into()
}

fn equal(value: &[u8]) -> Expression<'static> {
    Cmp { sreg: 1, data: Data::of(value.to_vec()), ..Cmp::default() }.into()
}

fn constant(dreg: u32, value: &[u8]) -> Expression<'static> {
    Immediate { dreg, data: Data::of(value.to_vec()), ..Immediate::default() }.into()
}

/// Panics if any three consecutive bytes of the secret occur.
fn nothing_of(secret: &[u8], bytes: &[u8], what: &str) {
    let left = secret.windows(3).find(|part| *part != [0; 3] && holds(bytes, part));
    assert_eq!(left, None, "{what} of {secret:?}");
}

const V4: [u8; 4] = [203, 113, 77, 99];
const V6: [u8; 16] = [0x20, 0x01, 0x0d, 0xb8, 0xfe, 0xed, 0xab, 0xcd, 0xca, 0xfe, 0xbe, 0xef, 0xde, 0xad, 0x72, 0x71];
const MAC: [u8; 6] = [0x02, 0x5e, 0xc4, 0xe7, 0x9a, 0x77];

#[test]
fn bytes_of_which_nobody_can_tell_are_mapped() {
    let of = |family, first: Expression<'static>, value: &[u8]| {
        (format!("{family}: {:?}", first.expr), redacted_rule(family, vec![first, equal(value)]), value.to_vec())
    };
    let ct = |key| Ct { dreg: Some(1), key, direction: Some(0), ..Ct::default() }.into();
    let option = |op, kind, offset, len| {
        let (dreg, kind, offset, len, op) = (Some(1), Some(kind), Some(offset), Some(len), Some(op));
        Exthdr { dreg, kind, offset, len, op, ..Exthdr::default() }.into()
    };
    let hardware: Expression<'_> = Meta { dreg: Some(1), key: 36, ..Meta::default() }.into();
    let rules = [
        of(NFPROTO_IPV6, load(2, 8, 16), &V6), // target of neighbour discovery
        of(NFPROTO_IPV4, load(2, 4, 4), &V4),  // gateway of a redirect
        of(NFPROTO_IPV4, load(2, 12, 4), &V4), // source within a tunnel
        of(NFPROTO_IPV4, load(2, 20, 16), b"\x09SecretAkm\x03com\0\0"), // a name
        of(NFPROTO_IPV4, load(2, 36, 6), &MAC), // DHCP
        of(NFPROTO_IPV4, load(1, 20, 4), &V4), // behind the header
        of(NFPROTO_IPV4, load(1, 32, 4), &V4),
        of(NFPROTO_IPV6, load(1, 40, 16), &V6),
        of(NFPROTO_NETDEV, load(0, 26, 4), &V4),
        of(NFPROTO_NETDEV, load(0, 12, 4), &V4), // a device without an Ethernet header
        of(NFPROTO_INET, load(1, 16, 8), &V6[8..]), // halves
        of(NFPROTO_INET, load(1, 20, 4), &V6[12..]),
        of(NFPROTO_INET, load(1, 8, 16), &V6),
        of(NFPROTO_INET, load(1, 12, 4), &V4),
        of(NFPROTO_NETDEV, load(1, 24, 4), &V4), // ARP
        of(NFPROTO_NETDEV, load(1, 8, 6), &MAC),
        of(NFPROTO_INET, ct(8), &V6),
        of(NFPROTO_IPV4, ct(8), &V4),
        of(NFPROTO_IPV4, ct(6), b"secrethelper\0\0\0\0"),
        of(NFPROTO_IPV6, option(0, 60, 4, 16), &V6),
        of(NFPROTO_IPV4, option(1, 254, 2, 4), &V4),
        of(NFPROTO_BRIDGE, hardware, &MAC),
        of(NFPROTO_BRIDGE, Meta { dreg: Some(1), key: 99, ..Meta::default() }.into(), &V6),
    ];
    for (what, bytes, secret) in rules {
        nothing_of(&secret, &bytes, &what);
    }
}

#[test]
fn numbers_of_headers_stay() {
    let tcp = Meta { dreg: Some(1), key: 16, ..Meta::default() };
    let flags = Bitwise {
        sreg: 1,
        dreg: 1,
        len: 1,
        mask: Some(Data::of(vec![0x12])),
        xor: Some(Data::of(vec![0])),
        ..Bitwise::default()
    };
    let tag =
        Bitwise { len: 2, mask: Some(Data::of(vec![0x0f, 0xff])), xor: Some(Data::of(vec![0; 2])), ..flags.clone() };
    let rules = [
        (NFPROTO_IPV4, vec![tcp.into(), equal(&[6]), load(2, 13, 1), flags.into(), equal(&[2])]),
        (NFPROTO_BRIDGE, vec![load(0, 12, 2), equal(&[0x81, 0]), load(0, 14, 2), tag.into(), equal(&[0, 7])]),
        (NFPROTO_IPV4, vec![load(1, 8, 1), equal(&[64]), load(2, 2, 2), equal(&[0x12, 0xb5])]),
        (NFPROTO_IPV6, vec![load(1, 6, 1), equal(&[58]), load(2, 0, 2), equal(&[135, 0])]),
    ];
    for (family, rule) in rules {
        let kept = compared(&plain_rule(family, rule.clone()));
        assert_eq!(compared(&redacted_rule(family, rule)), kept);
    }
}

#[test]
fn behind_the_tag_of_a_vlan_is_a_type() {
    let of = |tag: [u8; 2]| {
        let rule = vec![load(0, 12, 2), equal(&tag), load(0, 16, 2), equal(&[8, 0]), load(1, 8, 1), equal(&[77])];
        redacted_rule(NFPROTO_BRIDGE, rule)
    };
    assert!(compared(&of([0x81, 0])).contains(&(1, vec![77])));
    assert!(compared(&of([0x12, 0])).iter().all(|(_, value)| *value != [0, 0]), "{:?}", compared(&of([0x12, 0])));
}

#[test]
fn of_constants_stays_what_is_used_as_something_known() {
    let set = |sreg_key, sreg_data| Dynset { sreg_key, sreg_data, set_name: "s".into(), ..Dynset::default() }.into();
    let mark = |sreg| -> Expression<'static> { Meta { sreg: Some(sreg), key: 3, ..Meta::default() }.into() };
    let nat =
        |register| -> Expression<'static> { Nat { family: 2, reg_addr_min: Some(register), ..Nat::default() }.into() };
    let all: [u8; 4] = [0xff; 4];
    let masked = |dreg, mask: [u8; 4], xor: [u8; 4]| -> Expression<'static> {
        let (mask, xor) = (Some(Data::of(mask.to_vec())), Some(Data::of(xor.to_vec())));
        Bitwise { sreg: 1, dreg, len: 4, mask, xor, ..Bitwise::default() }.into()
    };
    let swapped = Byteorder { sreg: 1, dreg: 2, len: 4, size: 4, ..Byteorder::default() };
    let hashed = Hash { sreg: Some(1), dreg: 2, len: Some(8), ..Hash::default() };
    let novel = Expr::Unsupported { name: b"novel".into(), data: vec![8, 0, 5, 0, 10, 9, 9, 8].into() };
    let lookup = Lookup { set: "s".into(), sreg: 1, ..Lookup::default() };
    let port = Payload { dreg: Some(2), base: 2, offset: 2, len: 2, ..Payload::default() };
    let teid = Payload { sreg: Some(1), base: 2, offset: 12, len: 4, ..Payload::default() };
    let address = Payload { sreg: Some(1), base: 1, offset: 16, len: 4, ..Payload::default() };
    let secrets = [
        vec![constant(1, &V4)],
        vec![constant(1, &V4), novel.into()],
        vec![constant(1, &V4), lookup.clone().into()],
        vec![constant(1, &V4), lookup.into(), nat(1)],
        vec![constant(1, &V4), port.into(), set(2, Some(1))],
        vec![constant(1, &V4), set(1, None)],
        vec![load(1, 12, 4), constant(9, &V4), set(1, None)],
        vec![constant(1, &V4), nat(1)],
        vec![constant(1, &V4), swapped.into(), nat(2)],
        vec![constant(1, &V4), masked(2, all, [0; 4]), nat(2)],
        vec![constant(1, &V4), masked(2, all, V4), nat(2)],
        vec![load(1, 12, 4), masked(1, V4, [0; 4]), nat(1)],
        vec![load(1, 12, 4), masked(1, all, V4), nat(1)],
        vec![constant(1, &V4), hashed.into(), mark(2)],
        vec![constant(1, &V4), teid.into()],
        vec![constant(1, &V4), address.into()],
        vec![constant(1, &V4), equal(&V4)],
    ];
    for rule in secrets {
        let what = format!("{rule:?}");
        nothing_of(&V4, &redacted_rule(NFPROTO_IPV4, rule), &what);
    }
    let kept = redacted_rule(NFPROTO_IPV4, vec![constant(1, &V4), mark(1)]);
    assert!(holds(&kept, &V4));
    // A constant used as an address and as a mark: no replacement suits both.
    let both = redacted_rule(NFPROTO_IPV4, vec![constant(1, &V4), mark(1), nat(1)]);
    nothing_of(&V4, &both, "a mark and an address");
    let parsed = NftMessage::parse(NFT_MSG_NEWRULE, &both[16..]).expect("a message");
    let Body::Rule(rule) = parsed.body else { panic!("a rule") };
    let registers = rule.expressions().iter().map(|expression| match &expression.expr {
        Expr::Meta(meta) => meta.sreg,
        Expr::Nat(nat) => nat.reg_addr_min,
        _ => None,
    });
    assert_eq!(registers.collect::<Vec<_>>(), [None, Some(0), Some(0)]);
}

/// A redacted set with one element that rules of two chains look up.
fn looked_up(first: Vec<Expression<'_>>, last: Vec<Expression<'_>>) -> Capture {
    let mut capture = capture();
    let lookup = || Lookup { set: "both".into(), sreg: 1, ..Lookup::default() }.into();
    for (chain, mut rule) in [("a", first), ("z", last)] {
        rule.push(lookup());
        let bytes = plain_rule(NFPROTO_IPV4, rule);
        capture.answers.insert(format!("netlink/netfilter/nft-1/rules/ipv4/t/{chain}"), Reading::Ok(bytes));
    }
    let element = SetElement { key: Some(Data::of(V4.to_vec())), ..SetElement::default() };
    let elements = SetElements {
        table: "t".into(),
        set: Some("both".into()),
        elements: Some(vec![element].into()),
        ..SetElements::default()
    };
    let header = Nfgenmsg { family: NFPROTO_IPV4, ..Nfgenmsg::default() };
    let mut out = MessageWriter::kernel();
    NftMessage { header, body: Body::SetElements(elements) }.emit(&mut out);
    let bytes = message(NFT_MSG_NEWSETELEM, &out.finish());
    for name in ["map/ipv4/t/both", "set-0-element-0"] {
        capture.answers.insert(format!("netlink/netfilter/nft-1/{name}"), Reading::Ok(bytes.clone()));
    }
    redact(&mut capture);
    capture
}

#[test]
fn all_rules_tell_what_keys_of_a_set_are() {
    let mark = || -> Vec<Expression<'static>> { vec![Meta { dreg: Some(1), key: 3, ..Meta::default() }.into()] };
    let (source, inner) = (|| vec![load(1, 12, 4)], || vec![load(1, 20, 4)]);
    let element = |capture: &Capture| ok(capture, "netlink/netfilter/nft-1/set-0-element-0").to_vec();
    let registers = |capture: &Capture| {
        ["a", "z"].map(|chain| compared(ok(capture, &format!("netlink/netfilter/nft-1/rules/ipv4/t/{chain}")))[0].0)
    };
    for (first, last) in [(source(), inner()), (inner(), source()), (source(), mark()), (mark(), source())] {
        let capture = looked_up(first, last);
        nothing_of(&V4, &rules(&capture), "a set");
        // Two rules use the same key differently: neither is understood.
        assert_eq!(registers(&capture), [0, 0]);
    }
    let capture = looked_up(source(), vec![constant(1, &V4)]);
    nothing_of(&V4, &rules(&capture), "a set");
    assert_eq!(registers(&capture), [1, 1]);
    assert!(!holds(&element(&capture), &[0; 4]) || holds(&element(&capture), &V4[..1]));
    let capture = looked_up(mark(), mark());
    assert!(holds(&element(&capture), &V4), "a mark");
}

/// A map keyed by the packet's source, with a rule for each of these uses of its data. Returns the redacted data, and
/// the register of each rule's last expression.
fn of_map(kind: u32, data: &[u8], uses: Vec<Vec<Expression<'static>>>) -> (Vec<u8>, Vec<Option<u32>>) {
    let mut capture = testing::capture();
    let name = |what: &str| format!("netlink/netfilter/nft-1/{what}");
    let count = uses.len();
    for (number, after) in uses.into_iter().enumerate() {
        let lookup = Lookup { set: "m".into(), sreg: 1, dreg: Some(1), ..Lookup::default() };
        let rule = [load(1, 12, 4), lookup.into()].into_iter().chain(after).collect();
        capture.answers.insert(name(&format!("rules/ipv4/t/{number}")), Reading::Ok(plain_rule(NFPROTO_IPV4, rule)));
    }
    let header = Nfgenmsg { family: NFPROTO_IPV4, ..Nfgenmsg::default() };
    let element = SetElement {
        key: Some(Data::of(vec![10, 1, 1, 1])),
        data: Some(Data::of(data.to_vec())),
        ..SetElement::default()
    };
    let (table, set, elements) = (Text::from("t"), Some("m".into()), Some(vec![element].into()));
    let elements = SetElements { table: table.clone(), set, elements, ..SetElements::default() };
    let map = Set { table, name: "m".into(), key_len: 4, data_type: Some(kind), ..Set::default() };
    let messages = [
        ("set-0-header", NFT_MSG_NEWSET, Body::Set(map)),
        ("set-0-elements", NFT_MSG_NEWSETELEM, Body::SetElements(elements)),
    ];
    for (what, kind, body) in messages {
        let mut out = MessageWriter::kernel();
        NftMessage { header, body }.emit(&mut out);
        capture.answers.insert(name(what), Reading::Ok(message(kind, &out.finish())));
    }
    redact(&mut capture);
    let parsed =
        NftMessage::parse(NFT_MSG_NEWSETELEM, &ok(&capture, &name("set-0-elements"))[16..]).expect("a message");
    let Body::SetElements(list) = parsed.body else { panic!("elements") };
    let data = list.elements()[0].data.as_ref().expect("data").value().expect("a value").to_vec();
    let registers = (0..count).map(|number| {
        let bytes = ok(&capture, &name(&format!("rules/ipv4/t/{number}")));
        let Body::Rule(rule) = NftMessage::parse(NFT_MSG_NEWRULE, &bytes[16..]).expect("a message").body else {
            panic!()
        };
        match &rule.expressions().last().expect("expressions").expr {
            Expr::Meta(meta) => meta.sreg,
            Expr::Nat(nat) => nat.reg_addr_min,
            other => panic!("{other:?}"),
        }
    });
    (data, registers.collect())
}

#[test]
fn of_the_data_of_maps_stays_what_is_used_as_something_known() {
    const ADDRESS: u32 = 7;
    const PORT: u32 = 13;
    const MARK: u32 = 19;
    let mark = || -> Expression<'static> { Meta { sreg: Some(1), key: 3, ..Meta::default() }.into() };
    let nat = |min, max, port| -> Expression<'static> {
        let (reg_addr_min, reg_addr_max, reg_proto_min) = (Some(min), Some(max), port);
        Nat { family: 2, reg_addr_min, reg_addr_max, reg_proto_min, ..Nat::default() }.into()
    };
    let masked = |mask: [u8; 4]| -> Expression<'static> {
        let (mask, xor) = (Some(Data::of(mask.to_vec())), Some(Data::of(vec![0; 4])));
        Bitwise { sreg: 1, dreg: 1, len: 4, mask, xor, ..Bitwise::default() }.into()
    };
    let bytes = [0x40, 0x11, 0x22, 0x33];
    assert_eq!(of_map(MARK, &bytes, vec![vec![mark()]]), (bytes.to_vec(), vec![Some(1)]));
    let some_bits = vec![masked([0, 0xff, 0, 0]), mark()];
    assert_eq!(of_map(MARK, &bytes, vec![some_bits]), (bytes.to_vec(), vec![Some(1)]));

    let (data, registers) = of_map(ADDRESS, &V4, vec![vec![nat(1, 1, None)]]);
    nothing_of(&V4, &data, "an address");
    assert!(data[0] == V4[0] && registers == [Some(1)], "{data:?} {registers:?}");
    let with_port = [V4.as_slice(), &[0x12, 0x34, 0, 0]].concat();
    let (data, registers) = of_map(ADDRESS << 6 | PORT, &with_port, vec![vec![nat(1, 1, Some(9))]]);
    nothing_of(&V4, &data, "an address and a port");
    assert!(data[4..] == with_port[4..] && registers == [Some(1)], "{data:?} {registers:?}");

    // Its use is unknown or ambiguous; a range would not remain one, nor would single bits remain those of the address.
    let range = [V4, [10, 9, 9, 200]].concat();
    let lost = [
        (ADDRESS, V4.to_vec(), vec![vec![mark()]]),
        (0, V4.to_vec(), vec![vec![mark()], vec![nat(1, 1, None)]]),
        (0, V4.to_vec(), vec![vec![masked([0xff, 0xff, 0, 0]), nat(1, 1, None)]]),
        (ADDRESS, range, vec![vec![nat(1, 9, None)]]),
    ];
    for (kind, data, uses) in lost {
        let what = format!("{uses:?}");
        let (left, registers) = of_map(kind, &data, uses);
        nothing_of(&V4, &left, &what);
        assert!(registers.iter().all(|register| *register == Some(0)), "{what}: {registers:?}");
    }
    assert_eq!(of_map(0, &V4, vec![]).0, [0; 4]);
}

#[test]
fn of_user_data_stays_what_tells_the_writer() {
    let of = |data: &[u8]| {
        let mut data = data.to_vec();
        user_data(&mut data);
        data
    };
    assert_eq!(of(b"\x00\x16cali:0123456789abcdef\0"), b"\x00\x16cali:xxxxxxxxxxxxxxxx\0");
    assert_eq!(of(b"\x00\x10cali:0123456789\0"), b"\x00\x10xxxxxxxxxxxxxxx\0");
    assert_eq!(of(b"\x01\x04\0\0\0\x01\x00\x03abc"), b"\x01\x04\0\0\0\0\x00\x03xxx");
    for raw in [b"raw user data of a program".as_slice(), b"\x00\x40cut", b"\x02", b"a\x02bc\x00\x02de"] {
        assert!(of(raw).iter().all(|byte| *byte <= 2), "{:?}", of(raw));
    }
}

#[test]
fn ranges_keep_their_order_and_prefixes_stay_prefixes() {
    proptest::proptest!(|(a: u32, b: u32, length in 0u32..=32)| {
        let redactor = Redactor::new(RandomState::new(), String::new());
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
    let redactor = &mut Redactor::new(RandomState::new(), String::new());
    let _ = each_message(&mut bytes.to_vec(), |kind, body| redactor.netfilter(kind, body));
}

#[test]
fn cut_and_broken_dumps_never_panic() {
    for (_, dump) in DUMPS {
        (0..dump.len()).step_by(1 + dump.len() / 2000).for_each(|end| try_to(&dump[..end]));
        // As one message cut anywhere, so that its attributes are cut.
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
