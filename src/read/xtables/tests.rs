//! Structures of matches and targets as a kernel returned them, and their decoded steps.

use std::net::IpAddr;

use super::*;
use crate::facts::Failure;
use crate::facts::netfilter::{
    BridgePort, Chosen, Counted, DeviceProperty, End, MarkWrite, Nat, NatAction, PortRandomization as Random, SetId,
    TypeScope, Verdict,
};
use crate::netfilter::xtables::Structure as _;
use crate::netfilter::xtables::matches::ipvs::XtIpvsMtinfo;

mod semantics_tests;

/// A match or target as the kernel returned it.
struct Captured {
    command: &'static str,
    target: bool,
    name: &'static str,
    revision: u8,
    size: usize,
    blob: Vec<u8>,
}

impl Captured {
    fn decode(&self, data: &[u8]) -> Result<Vec<Step>, Failure> {
        let family = if self.command.starts_with("ip6") { Family::Ipv6 } else { Family::Ipv4 };
        let extension = Extension { name: self.name, revision: self.revision, family, data };
        if self.target { decode_target(&extension) } else { decode_match(&extension) }
    }
}

fn captured() -> Vec<Captured> {
    let mut found = Vec::new();
    let mut command = "";
    for line in include_str!("captured.txt").lines().filter(|line| !line.starts_with('#')) {
        let Some(line) = line.strip_prefix("  ") else {
            command = line;
            continue;
        };
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap();
        let (target, name) = (word() == "target", word());
        let (revision, size) = (word().parse().unwrap(), word().parse().unwrap());
        found.push(Captured { command, target, name, revision, size, blob: words.flat_map(bytes).collect() });
    }
    found
}

fn bytes(word: &str) -> Vec<u8> {
    match word.strip_prefix('z') {
        Some(zeros) => vec![0; zeros.parse().unwrap()],
        None => (0..word.len()).step_by(2).map(|at| u8::from_str_radix(&word[at..at + 2], 16).unwrap()).collect(),
    }
}

/// The steps of a rule's x_tables matches and target.
fn steps(command: &str) -> Vec<Step> {
    let captured = captured();
    let of_rule: Vec<_> = captured.iter().filter(|captured| captured.command == command).collect();
    assert!(!of_rule.is_empty(), "{command}");
    of_rule.into_iter().flat_map(|captured| captured.decode(&captured.blob).unwrap()).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn number(text: &str) -> u128 {
    match ip(text) {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn addresses(first: &str, last: &str) -> Chosen<IpAddr> {
    Chosen::Range(ip(first), ip(last))
}

fn nat(action: NatAction, addresses: Chosen<IpAddr>, ports: Chosen<u16>, randomization: Random) -> Vec<Step> {
    vec![Step::Nat(Nat { action, addresses, ports, randomization, persistent: false, map: None })]
}

fn persistent(mut steps: Vec<Step>) -> Vec<Step> {
    for step in &mut steps {
        if let Step::Nat(nat) = step {
            nat.persistent = true;
        }
    }
    steps
}

#[test]
fn source_nat() {
    use Chosen::{Range, Unset};
    use NatAction::{Masquerade, Netmap, Snat};
    for (command, wanted) in [
        ("iptables -t nat -A POSTROUTING -j MASQUERADE", nat(Masquerade, Unset, Unset, Random::None)),
        ("iptables -t nat -A POSTROUTING -j MASQUERADE --random", nat(Masquerade, Unset, Unset, Random::Random)),
        (
            "iptables -t nat -A POSTROUTING -j MASQUERADE --random-fully",
            nat(Masquerade, Unset, Unset, Random::RandomFully),
        ),
        (
            "iptables -t nat -A POSTROUTING -p tcp -j MASQUERADE --to-ports 1024-65535 --random",
            nat(Masquerade, Unset, Range(1024, 65535), Random::Random),
        ),
        (
            "ip6tables -t nat -A POSTROUTING -j MASQUERADE --random-fully",
            nat(Masquerade, Unset, Unset, Random::RandomFully),
        ),
        (
            "ip6tables -t nat -A POSTROUTING -p udp -j MASQUERADE --to-ports 4000-5000",
            nat(Masquerade, Unset, Range(4000, 5000), Random::None),
        ),
        (
            "iptables -t nat -A POSTROUTING -j SNAT --to-source 192.0.2.7-192.0.2.9 --persistent",
            persistent(nat(Snat, addresses("192.0.2.7", "192.0.2.9"), Unset, Random::None)),
        ),
        (
            "iptables -t nat -A POSTROUTING -p tcp -j SNAT --to-source 192.0.2.7:1000-2000 --random-fully",
            nat(Snat, addresses("192.0.2.7", "192.0.2.7"), Range(1000, 2000), Random::RandomFully),
        ),
        (
            "ip6tables -t nat -A POSTROUTING -j SNAT --to-source 2001:db8::1-2001:db8::4 --random --persistent",
            persistent(nat(Snat, addresses("2001:db8::1", "2001:db8::4"), Unset, Random::Random)),
        ),
        (
            "ip6tables -t nat -A POSTROUTING -p tcp -j SNAT --to-source [2001:db8::1]:1000-2000",
            nat(Snat, addresses("2001:db8::1", "2001:db8::1"), Range(1000, 2000), Random::None),
        ),
        (
            "iptables -t nat -A POSTROUTING -s 10.0.0.0/24 -j NETMAP --to 192.0.2.0/24",
            nat(Netmap, addresses("192.0.2.0", "192.0.2.255"), Unset, Random::None),
        ),
        (
            "ip6tables -t nat -A POSTROUTING -j NETMAP --to 2001:db8:1::/64",
            nat(Netmap, addresses("2001:db8:1::", "2001:db8:1::ffff:ffff:ffff:ffff"), Unset, Random::None),
        ),
    ] {
        assert_eq!(steps(command), wanted, "{command}");
    }
}

#[test]
fn destination_nat() {
    use Chosen::{Range, Unset};
    use NatAction::{Dnat, Redirect};
    for (command, wanted) in [
        (
            "iptables -t nat -A PREROUTING -p tcp -j DNAT --to-destination 10.0.0.2:8080",
            nat(Dnat, addresses("10.0.0.2", "10.0.0.2"), Range(8080, 8080), Random::None),
        ),
        (
            "iptables -t nat -A PREROUTING -p tcp -m tcp --dport 8000:8010 -j DNAT --to-destination \
             10.0.0.2-10.0.0.5:9000-9010/8000 --persistent",
            persistent(nat(Dnat, addresses("10.0.0.2", "10.0.0.5"), Range(9000, 9010), Random::None)),
        ),
        (
            "iptables -t nat -A PREROUTING -p tcp -j DNAT --to-destination :8080",
            nat(Dnat, Unset, Range(8080, 8080), Random::None),
        ),
        (
            "ip6tables -t nat -A PREROUTING -p tcp -j DNAT --to-destination [2001:db8::2]:80",
            nat(Dnat, addresses("2001:db8::2", "2001:db8::2"), Range(80, 80), Random::None),
        ),
        (
            "iptables -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15001-15003 --random",
            nat(Redirect, Unset, Range(15001, 15003), Random::Random),
        ),
        (
            "ip6tables -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15001",
            nat(Redirect, Unset, Range(15001, 15001), Random::None),
        ),
    ] {
        assert_eq!(steps(command), wanted, "{command}");
    }
}

fn set_mark(keep: u32, take: u32, xor: u32) -> Step {
    Step::SetMark(MarkWrite::Exact { keep, take, xor })
}

fn set_connection_mark(keep: u32, take: u32, xor: u32) -> Step {
    Step::SetConnectionMark(MarkWrite::Exact { keep, take, xor })
}

/// Holds for packets with a connection: without one there is nothing to restore, and the mark is kept.
fn has_connection() -> Step {
    test(super::conntrack::has_connection(), false)
}

#[test]
fn marks_are_written() {
    let accept = || Step::Verdict(Verdict::Accept);
    for (arguments, wanted) in [
        ("MARK --set-mark 0x4000/0xff00", vec![set_mark(!0xff00, 0, 0x4000)]),
        ("MARK --or-mark 0x4000", vec![set_mark(!0x4000, 0, 0x4000)]),
        ("MARK --and-mark 0xffffbfff", vec![set_mark(!0x4000, 0, 0)]),
        ("MARK --xor-mark 0x4000", vec![set_mark(u32::MAX, 0, 0x4000)]),
        ("CONNMARK --set-xmark 0x80/0xff", vec![set_connection_mark(!0xff, 0, 0x80)]),
        ("CONNMARK --save-mark --nfmask 0xff00 --ctmask 0xff", vec![set_connection_mark(!0xff, 0xff00, 0)]),
        ("CONNMARK --save-mark", vec![set_connection_mark(0, u32::MAX, 0)]),
        ("CONNMARK --restore-mark --nfmask 0x80 --ctmask 0x80", vec![has_connection(), set_mark(!0x80, 0x80, 0)]),
        (
            "CONNMARK --restore-mark --left-shift-mark 4 --nfmask 0xff --ctmask 0xff",
            vec![has_connection(), Step::SetMark(MarkWrite::Unknown("shifted by 4 bits".into()))],
        ),
        (
            "HMARK --hmark-tuple src,dst --hmark-mod 10 --hmark-rnd 7",
            vec![Step::SetMark(MarkWrite::Unknown("hash of the flow".into()))],
        ),
        ("TPROXY --on-port 15001 --tproxy-mark 0x1/0xff", vec![set_mark(!0xff, 0, 1), Step::ToSocket, accept()]),
    ] {
        let protocol = if arguments.starts_with("TPROXY") { "-p tcp " } else { "" };
        let command = format!("iptables -t mangle -A PREROUTING {protocol}-j {arguments}");
        assert_eq!(steps(&command), wanted, "{command}");
    }
    assert_eq!(
        steps("ip6tables -t mangle -A PREROUTING -p tcp -j TPROXY --on-port 15001 --on-ip ::1 --tproxy-mark 0x1"),
        [set_mark(0, 0, 1), Step::ToSocket, accept()]
    );
    let of_element = MarkWrite::Unknown("mark of an ipset's element".into());
    assert_eq!(steps("iptables -t mangle -A FORWARD -j SET --map-set m dst --map-mark"), [Step::SetMark(of_element)]);
    let of_socket = MarkWrite::Unknown("mark of the socket".into());
    let wanted = [non_deterministic("socket"), Step::SetMark(of_socket)];
    assert_eq!(steps("iptables -t mangle -A PREROUTING -m socket --nowildcard --restore-skmark"), wanted);
    assert_eq!(steps("iptables -t mangle -A PREROUTING -m socket --transparent"), [non_deterministic("socket")]);
}

#[test]
fn other_targets() {
    for (command, wanted) in [
        ("iptables -t raw -A PREROUTING -j CT --notrack", Step::Notrack),
        ("ip6tables -t raw -A PREROUTING -j NOTRACK", Step::Notrack),
        ("iptables-legacy -t raw -A PREROUTING -j NOTRACK", Step::Notrack),
        ("iptables -t raw -A PREROUTING -j CT --zone 5", Step::Template),
        ("iptables -t raw -A PREROUTING -j CT --zone mark", Step::Template),
        ("iptables -A INPUT -j REJECT --reject-with icmp-port-unreachable", Step::Verdict(Verdict::Drop)),
        ("ip6tables -A INPUT -j REJECT", Step::Verdict(Verdict::Drop)),
        ("iptables -t mangle -A PREROUTING -j CHECKSUM --checksum-fill", Step::FillChecksum),
        ("iptables -A INPUT -j NFQUEUE --queue-num 3", Step::Verdict(Verdict::Stolen("NFQUEUE".into()))),
    ] {
        assert_eq!(steps(command), [wanted], "{command}");
    }
    let added = steps("iptables -A FORWARD -j SET --add-set dummy src --exist --timeout 5");
    assert!(matches!(added.as_slice(), [Step::UpdateSet { set: SetId::Ipset(_), adds: true, .. }]), "{added:?}");
    assert_eq!(steps("iptables -t mangle -A FORWARD -j SET --map-set m dst --map-prio"), []);
    let names: Vec<&str> = "AUDIT CLASSIFY CONNSECMARK DSCP ECN HL IDLETIMER LOG NFLOG RATEEST TCPMSS \
                            TCPOPTSTRIP TEE TOS TRACE TTL"
        .split_whitespace()
        .collect();
    for name in names {
        let captured: Vec<_> = captured().into_iter().filter(|captured| captured.name == name).collect();
        assert!(!captured.is_empty(), "{name}");
        for captured in captured {
            assert_eq!(captured.decode(&captured.blob).unwrap(), [Step::NoEffect(name.into())]);
        }
    }
    let timeout = steps("iptables -t raw -A PREROUTING -p tcp -j CT --timeout pol");
    assert_eq!(timeout, [Step::Template, Step::OwnTimeout]);
}

#[test]
fn marks_are_tested() {
    let connection = || test(masked(Field::ConnectionState, 0x41u8, 0u8), false);
    let mark = |mask: u32, value: u32, inverted| test(masked(Field::Mark, mask, value), inverted);
    let ct_mark = |mask: u32, value: u32, inverted| test(masked(Field::ConnectionMark, mask, value), inverted);
    let inverted = "iptables-legacy -t nat -A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN";
    assert_eq!(steps(inverted), [mark(0x4000, 0x4000, true)]);
    assert_eq!(steps("iptables-legacy -t mangle -A INPUT -m mark --mark 0x80"), [mark(u32::MAX, 0x80, false)]);
    let command = "iptables -t mangle -A PREROUTING -m connmark --mark 0x80/0x80";
    assert_eq!(steps(command), [connection(), ct_mark(0x80, 0x80, false)]);
    let command = "iptables -t mangle -A PREROUTING -m connmark ! --mark 0x80";
    assert_eq!(steps(command), [connection(), ct_mark(u32::MAX, 0x80, true)]);
}

fn ranges(field: Field, ranges: &[(u128, u128)]) -> FieldTest {
    FieldTest { field, condition: Comparison::Ranges(ranges.to_vec()) }
}

#[test]
fn types_of_addresses_are_tested() {
    use Field::{DestinationType, Ipv6Destination, Ipv6Source, SourceType};
    let local = |field| masked(field, u32::MAX, 2u8);
    for (command, wanted) in [
        (
            "iptables -t nat -A OUTPUT -m addrtype --dst-type LOCAL",
            vec![test(local(DestinationType(TypeScope::Any)), false)],
        ),
        (
            "iptables -t nat -A POSTROUTING -m addrtype --src-type LOCAL ! --dst-type LOCAL,BROADCAST \
             --limit-iface-out",
            vec![
                test(local(SourceType(TypeScope::Output)), false),
                test(ranges(DestinationType(TypeScope::Output), &[(2, 2), (3, 3)]), true),
            ],
        ),
        (
            "iptables -A INPUT -m addrtype ! --src-type UNICAST --limit-iface-in",
            vec![test(masked(SourceType(TypeScope::Input), u32::MAX, 1u8), true)],
        ),
        (
            "ip6tables -t nat -A OUTPUT -m addrtype --dst-type LOCAL",
            vec![test(local(DestinationType(TypeScope::Any)), false)],
        ),
        (
            "ip6tables -t nat -A OUTPUT -m addrtype ! --dst-type MULTICAST",
            vec![test(masked(Ipv6Destination, number("ff00::"), number("ff00::")), true)],
        ),
        (
            "ip6tables -t nat -A OUTPUT -m addrtype --src-type UNICAST --dst-type ANYCAST",
            vec![
                test(ranges(Ipv6Source, &[(1, number("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))]), false),
                Step::Match(Match::Unsupported("match addrtype revision 1".into())),
            ],
        ),
    ] {
        assert_eq!(steps(command), wanted, "{command}");
    }
}

#[test]
fn ipsets_are_asked() {
    use End::{Destination, Source};
    let ipset = |index, ends: &[End], inverted| Step::Match(Match::Ipset { index, ends: ends.to_vec(), inverted });
    let unsupported = || Step::Match(Match::Unsupported("match set revision 4".into()));
    for (arguments, wanted) in [
        ("--match-set a dst,dst,src", vec![ipset(1, &[Destination, Destination, Source], false)]),
        ("! --match-set dummy src", vec![ipset(0, &[Source], true)]),
        (
            "--match-set c src --packets-gt 5",
            vec![ipset(3, &[Source], false), non_deterministic("set: counters of an element")],
        ),
        (
            "--match-set c src ! --bytes-eq 5 ! --update-counters",
            vec![ipset(3, &[Source], false), non_deterministic("set: counters of an element")],
        ),
        ("--match-set dummy src --return-nomatch", vec![unsupported()]),
    ] {
        assert_eq!(steps(&format!("iptables -A FORWARD -m set {arguments}")), wanted, "{arguments}");
    }
    assert_eq!(steps("ip6tables -A FORWARD -m set --match-set b dst"), [ipset(2, &[Destination], false)]);
    let decode =
        |revision, data: &[u8]| decode_match(&Extension { name: "set", revision, family: Family::Ipv4, data }).unwrap();
    // struct xt_set_info_match_v0: index 9, flags src|inverted, dst
    let v0 = bytes("0900000005000000020000000000000000000000000000000000000000000000");
    assert_eq!(decode(0, &v0), [ipset(9, &[Source, Destination], true)]);
    assert_eq!(decode(1, &bytes("09000203")), [ipset(9, &[Source, Destination], true)]);
    // struct ip_set_counter_match0: the comparison comes first
    let mut v3 = bytes("0900010200000000");
    v3.resize(48, 0);
    assert_eq!(decode(3, &v3), [ipset(9, &[Source], false)]);
    v3[24] = 4;
    assert_eq!(decode(3, &v3), [ipset(9, &[Source], false), non_deterministic("set: counters of an element")]);
}

#[test]
fn ports_are_tested() {
    use Field::{DestinationPort, SourcePort};
    let flags = |mask: u8, value: u8, inverted| test(masked(other("tcp flags"), mask, value), inverted);
    let port = |field, first: u128, last, inverted| match first == last {
        true => test(masked(field, u16::MAX, first), inverted), // as nf_tables compares one
        false => test(ranges(field, &[(first, last)]), inverted),
    };
    for (command, wanted) in [
        (
            "iptables-legacy -A INPUT -p tcp -m tcp --sport 1000:2000 ! --dport 80",
            vec![port(SourcePort, 1000, 2000, false), port(DestinationPort, 80, 80, true)],
        ),
        ("iptables-legacy -A INPUT -p tcp -m tcp --syn", vec![flags(0x17, 0x02, false)]),
        ("iptables-legacy -A INPUT -p tcp -m tcp ! --syn", vec![flags(0x17, 0x02, true)]),
        ("iptables -A INPUT -p tcp -m tcp --tcp-option 8", vec![non_deterministic("tcp option 8")]),
        ("iptables-legacy -A INPUT -p udp -m udp --dport 53", vec![port(DestinationPort, 53, 53, false)]),
        ("iptables-legacy -A INPUT -p udp -m udp ! --sport 53:60", vec![port(SourcePort, 53, 60, true)]),
        (
            "iptables -A INPUT -p sctp -m sctp --dport 100:200 ! --sport 5",
            vec![port(SourcePort, 5, 5, true), port(DestinationPort, 100, 200, false)],
        ),
        ("iptables -A INPUT -p sctp -m sctp --chunk-types any DATA,INIT", vec![non_deterministic("sctp chunks")]),
        (
            "iptables -A INPUT -p dccp -m dccp --dport 100:200 ! --sport 5",
            vec![port(SourcePort, 5, 5, true), port(DestinationPort, 100, 200, false)],
        ),
        (
            "iptables -A INPUT -p tcp -m multiport --dports 80,443,8000:8080",
            vec![test(ranges(DestinationPort, &[(80, 80), (443, 443), (8000, 8080)]), false)],
        ),
        (
            "iptables -A INPUT -p tcp -m multiport ! --sports 80,443",
            vec![test(ranges(SourcePort, &[(80, 80), (443, 443)]), true)],
        ),
        ("iptables -A INPUT -p tcp -m multiport --ports 80,1000:2000", {
            let neither = [(0, 79), (81, 999), (2001, 65535)];
            vec![all(vec![ranges(SourcePort, &neither), ranges(DestinationPort, &neither)], true)]
        }),
        ("iptables -A INPUT -p tcp -m multiport ! --ports 80", {
            let neither = [(0, 79), (81, 65535)];
            vec![all(vec![ranges(SourcePort, &neither), ranges(DestinationPort, &neither)], false)]
        }),
    ] {
        assert_eq!(steps(command), wanted, "{command}");
    }
}

#[test]
fn connections_are_tested() {
    use Field::{ConnectionDirection, ConnectionState, ConnectionStatus};
    let state = |bits: u8| masked(ConnectionState, bits, 0u8);
    let status = |bits: u8| masked(ConnectionStatus, bits, 0u8);
    let connection = || test(state(0x41), false);
    for (arguments, wanted) in [
        ("conntrack --ctstate RELATED,ESTABLISHED", vec![test(state(6), true)]),
        ("conntrack ! --ctstate NEW,INVALID", vec![test(state(9), false)]),
        ("conntrack --ctstate DNAT", vec![all(vec![state(0), status(0x20)], true)]),
        ("conntrack --ctstate NEW,SNAT,DNAT", vec![all(vec![state(8), status(0x30)], true)]),
        ("conntrack ! --ctstate UNTRACKED,DNAT", vec![all(vec![state(0x40), status(0x20)], false)]),
        ("conntrack --ctstatus ASSURED,CONFIRMED", vec![connection(), test(status(0xc), true)]),
        ("conntrack ! --ctstatus ASSURED", vec![connection(), test(status(0x4), false)]),
        ("conntrack --ctstatus NONE", vec![connection(), test(status(0), true)]),
        (
            "conntrack --ctstate NEW --ctdir REPLY",
            vec![test(state(8), true), test(masked(ConnectionDirection, 0xffu8, 0u8), true)],
        ),
        ("conntrack --ctproto tcp --ctorigdst 10.96.0.1/32 --ctorigdstport 443", {
            let address = masked(other("ct original daddr"), u32::MAX, number("10.96.0.1"));
            let protocol = masked(other("ct protocol"), u16::MAX, 6u8);
            let port = within(other("ct original proto-dst"), 443u16, 443u16);
            vec![connection(), test(address, false), test(protocol, false), test(port, false)]
        }),
        ("state --state NEW,UNTRACKED", vec![test(state(0x48), true)]),
    ] {
        assert_eq!(steps(&format!("iptables -A INPUT -m {arguments}")), wanted, "{arguments}");
    }
    let command =
        "ip6tables -A INPUT -m conntrack ! --ctreplsrc 2001:db8::/64 --ctorigsrcport 100:200 --ctexpire 10:20";
    let address = masked(other("ct reply saddr"), u128::MAX << 64, number("2001:db8::"));
    let port = within(other("ct original proto-src"), 100u16, 200u16);
    let expiration = within(other("ct expiration"), 10u32, 20u32);
    assert_eq!(steps(command), [connection(), test(address, true), test(port, false), test(expiration, false)]);
}

#[test]
fn headers_are_tested() {
    let bridged = BridgePort { field: "physdev is bridged", mask: 0, value: 0, inverted: false };
    use Field::{Ipv4Destination, Ipv4Source, Ipv6Destination};
    let field = |name: &str, first: u32, last: u32| within(other(name), first, last);
    for (command, wanted) in [
        (
            "iptables -A INPUT -m iprange --src-range 10.0.0.1-10.0.0.9 ! --dst-range 10.1.0.0-10.1.0.5",
            vec![
                test(within(Ipv4Source, number("10.0.0.1"), number("10.0.0.9")), false),
                test(within(Ipv4Destination, number("10.1.0.0"), number("10.1.0.5")), true),
            ],
        ),
        (
            "ip6tables -A INPUT -m iprange --dst-range 2001:db8::1-2001:db8::9",
            vec![test(within(Ipv6Destination, number("2001:db8::1"), number("2001:db8::9")), false)],
        ),
        ("iptables -A INPUT -m length ! --length 100:200", vec![test(field("meta length", 100, 200), true)]),
        ("iptables -A INPUT -m ttl --ttl-lt 5", vec![test(field("ip ttl", 5, 255), true)]),
        ("iptables -A INPUT -m ttl ! --ttl-eq 5", vec![test(field("ip ttl", 5, 5), true)]),
        ("ip6tables -A INPUT -m hl --hl-gt 200", vec![test(field("ip6 hoplimit", 0, 200), true)]),
        ("iptables -A INPUT -m dscp ! --dscp 10", vec![test(masked(other("ip dscp"), 0xfcu8, 40u8), true)]),
        ("iptables -A INPUT -m tos --tos 0x10/0x3f", vec![test(masked(other("ip dscp"), 0x3fu8, 0x10u8), false)]),
        ("iptables -A INPUT -p esp -m esp ! --espspi 100:200", vec![test(field("esp spi", 100, 200), true)]),
        ("iptables -A INPUT -p ah -m ah --ahspi 100", vec![test(field("ah spi", 100, 100), false)]),
        ("ip6tables -A INPUT -p ah -m ah --ahspi 100", vec![non_deterministic("ah")]),
        (
            "iptables -A INPUT -p icmp -m icmp --icmp-type echo-request",
            vec![all(vec![field("icmp type", 8, 8), field("icmp code", 0, 255)], false)],
        ),
        (
            "iptables -A INPUT -p icmp -m icmp ! --icmp-type network-unreachable",
            vec![all(vec![field("icmp type", 3, 3), field("icmp code", 0, 0)], true)],
        ),
        ("iptables -A INPUT -p icmp -m icmp --icmp-type any", vec![test(masked(other("icmp type"), 0u8, 0u8), false)]),
        (
            "ip6tables -A INPUT -p icmpv6 -m icmp6 --icmpv6-type router-advertisement",
            vec![all(vec![field("icmpv6 type", 134, 134), field("icmpv6 code", 0, 255)], false)],
        ),
        (
            "iptables -A INPUT -m pkttype ! --pkt-type broadcast",
            vec![test(masked(other("meta pkttype"), u32::MAX, 1u8), true)],
        ),
        (
            "iptables -A FORWARD -m physdev --physdev-is-bridged",
            vec![Step::Match(Match::OfBridged { holds: false, ports: vec![bridged] })],
        ),
        (
            "iptables -A INPUT -m helper --helper ftp",
            vec![test(masked(Field::ConnectionStatus, 1u8, 1u8), false), non_deterministic("helper")],
        ),
        (
            "iptables -A INPUT -m connbytes --connbytes 10:20 --connbytes-dir both --connbytes-mode packets",
            vec![
                test(masked(Field::ConnectionState, 0x41u8, 0u8), false),
                test(within(Field::Counted { what: Counted::Packets, direction: None }, 1u8, u64::MAX), false),
                test(within(Field::Counted { what: Counted::Packets, direction: None }, 10u8, 20u8), false),
            ],
        ),
        (
            "iptables -A INPUT -m time --timestart 10:00 --timestop 11:00",
            vec![test(within(Field::Time, 0u8, u64::MAX), false), non_deterministic("time")],
        ),
        ("iptables -A INPUT -m realm --realm 3/255", vec![test(masked(other("realm"), 255u8, 3u8), false)]),
        (
            "iptables -A INPUT -m devgroup --src-group 3",
            vec![test(
                masked(Field::Device { outgoing: false, property: DeviceProperty::Group }, u32::MAX, 3u8),
                false,
            )],
        ),
        (
            "iptables -t nat -A POSTROUTING -m policy --dir out --pol none",
            vec![test(masked(Field::Ipsec { outgoing: true }, 1u8, 0u8), false)],
        ),
    ] {
        assert_eq!(steps(command), wanted, "{command}");
    }
}

/// Bytes as in `struct xt_ipvs_mtinfo`; what iptables writes into it is in `libxt_ipvs.c`.
#[test]
fn what_is_asked_of_ipvs_is_told() {
    let asked = |bitmask, invert, fwd_method| {
        let info = XtIpvsMtinfo { bitmask, invert, fwd_method, ..XtIpvsMtinfo::default() }.emit();
        let found = decode_match(&Extension { name: "ipvs", revision: 0, family: Family::Ipv4, data: &info }).unwrap();
        let [Step::Match(Match::NonDeterministic(text))] = found.as_slice() else { panic!("{found:?}") };
        text.clone()
    };
    assert_eq!(asked(0x31, 0, 0), "ipvs --ipvs --vdir ORIGINAL --vmethod MASQ");
    assert_eq!(asked(0x31, 0x10, 0), "ipvs --ipvs --vdir REPLY --vmethod MASQ");
    assert_eq!(asked(0x31, 0x20, 2), "ipvs --ipvs --vdir ORIGINAL ! --vmethod");
    assert_eq!(asked(0x0d, 0, 0), "ipvs --ipvs --vaddr --vport");
}

#[test]
fn what_is_not_decoded_is_said() {
    let names = "cgroup cluster connlimit cpu dst ecn eui64 frag hashlimit hbh ipcomp ipv6header limit \
                 mac mh osf owner recent rpfilter rt srh statistic tcpmss";
    for name in names.split_whitespace() {
        let captured: Vec<_> = captured().into_iter().filter(|captured| captured.name == name).collect();
        assert!(!captured.is_empty(), "{name}");
        for captured in captured {
            assert_eq!(captured.decode(&captured.blob).unwrap(), [non_deterministic(name)], "{}", captured.command);
        }
    }
    for (command, text) in [
        ("iptables -A INPUT -m u32 --u32 0=1", "match u32 revision 0"),
        (r#"iptables -A INPUT -m bpf --bytecode "1,6 0 0 1""#, "match bpf revision 1"),
        ("iptables -A INPUT -m string --algo bm --string abc", "match string revision 1"),
    ] {
        assert_eq!(steps(command), [Step::Match(Match::Unsupported(text.into()))]);
    }
    let dnpt = "ip6tables -t mangle -A PREROUTING -s 2001:db8:1::/64 -j DNPT --src-pfx 2001:db8:1::/64 \
                --dst-pfx 2001:db8:2::/64";
    assert_eq!(steps(dnpt), [Step::Unsupported { what: "target DNPT revision 0".into(), may_translate: true }]);
    for family in [Family::Ipv4, Family::Ipv6, Family::Inet] {
        for name in ["mark", "MARK", "never-heard-of"] {
            let unknown = Extension { name, revision: 9, family, data: &[] };
            let text = format!("{name} revision 9");
            assert_eq!(decode_match(&unknown).unwrap(), [Step::Match(Match::Unsupported(format!("match {text}")))]);
            assert_eq!(
                decode_target(&unknown).unwrap(),
                [Step::Unsupported { what: format!("target {text}"), may_translate: true }]
            );
        }
    }
}

#[test]
fn comments_are_read() {
    let mut found = Vec::new();
    for Captured { name, revision, blob, .. } in captured() {
        found.extend(comment(&Extension { name, revision, family: Family::Ipv4, data: &blob }));
    }
    assert_eq!(found, ["kubernetes service traffic requiring SNAT", "hello"]);
    assert_eq!(steps("iptables-legacy -A INPUT -m comment --comment hello"), []);
}

#[test]
fn every_blob_is_needed_up_to_its_size() {
    for captured in captured() {
        let Captured { command, name, size, blob, .. } = &captured;
        assert!(captured.decode(&blob[..*size]).is_ok(), "{command}: {name}");
        for cut in 0..*size {
            let error = captured.decode(&blob[..cut]).unwrap_err().to_string();
            assert!(error.contains(&format!("need {size} bytes, have {cut}")), "{command}: {name}: {error}");
        }
    }
}

/// kube-proxy's counters match every packet; other accounting objects may have a quota.
#[test]
fn accounting_is_no_test_where_it_has_no_quota() {
    for (name, expected) in [("ct_state_invalid_dropped_pkts", 0), ("ct_state_invalid_dropped_pkts2", 1), ("", 1)] {
        let mut data = vec![0; 40];
        data[..name.len()].copy_from_slice(name.as_bytes());
        for revision in [0, 1] {
            let steps =
                decode_match(&Extension { name: "nfacct", revision, family: Family::Ipv4, data: &data }).unwrap();
            assert_eq!(steps.len(), expected, "{name} revision {revision}: {steps:?}");
            assert!(steps.iter().all(|step| *step == Step::Match(Match::Accounting(name.into()))), "{steps:?}");
        }
    }
}
