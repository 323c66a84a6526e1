//! Connections whose source is translated to a random port, and whose entries have a timeout of their own.

use super::bypass::{DEVICES, devices, own, routed};
use super::language::{effort, rules};
use super::unread::word;
use crate::symbolic::source_nat_replies;

/// Whether sources are translated, whether to random ports, and whether some certainly have the sysctl's timeout, or
/// possibly another one.
fn idle(text: &str) -> [&'static str; 4] {
    let written = rules(text);
    let mut network = written.network();
    (network.own, network.host, network.devices) = (own(), routed(), devices(DEVICES));
    let found = source_nat_replies(&network, &effort()).idle;
    let all = [found.translated.happens, found.random.happens, found.by_sysctl, found.own_timeout.happens];
    all.map(|happens| word(&happens))
}

#[test]
fn only_tcp_whose_port_is_drawn_depends_on_its_entry() {
    let postrouting = |rule: &str| format!("ip nat POSTROUTING: nat postrouting 100\n {rule}");
    for (rule, translated, random) in [
        ("=> masquerade", "yes", "no"),
        ("=> masquerade random", "yes", "yes"),
        ("=> masquerade random-fully", "yes", "yes"),
        ("proto 17 => masquerade random-fully", "no", "no"),
        ("oif down0 => masquerade random-fully", "no", "no"),
        ("oif eth9 => masquerade random-fully", "no", "no"),
        // One to one, and to an address that no host has.
        ("src 10.244.0.5 => snat to 198.51.100.7 random", "yes", "yes"),
        ("=> netmap to 198.51.100.0-198.51.100.255 random", "yes", "no"),
        ("=> snat to 198.51.100.7 ports 1024-2047 random", "yes", "yes"),
        ("=> snat to 198.51.100.7 ports 1024-1024 random", "yes", "no"),
        ("=> snat to 198.51.100.7 ports 1024-2047", "yes", "no"),
        ("proto 6 => masquerade\n => masquerade random", "yes", "no"),
        ("sometimes => masquerade\n => masquerade random", "yes", "yes"),
        ("=> odd", "maybe", "maybe"),
        // Connections of this host keep their address, but not their port.
        ("src 192.0.2.1 => masquerade random", "yes", "yes"),
        ("src 192.0.2.1 => snat to 192.0.2.1", "no", "no"),
    ] {
        assert_eq!(idle(&postrouting(rule))[..2], [translated, random], "{rule}");
    }
    let marked = "ip nat S: nat postrouting 100\n mark 0x4000/0x4000 => masquerade random-fully\n";
    assert_eq!(idle(marked)[0], "no");
    assert_eq!(idle(&format!("{marked}ip m F: filter forward -150\n proto 6 => or 0x4000"))[..2], ["yes", "yes"]);
    assert_eq!(idle("ip nat P: nat prerouting -100\n => dnat to 10.244.0.5 random"), ["no"; 4]);
}

#[test]
fn timeouts_of_their_own_count_where_such_connections_get_to_them() {
    let nat = "ip nat S: nat postrouting 100\n src 10.244.0.0/16, proto 6 => masquerade random-fully\n => masquerade\n";
    for (chain, by_sysctl, own) in [
        ("", "yes", "no"),
        ("ip raw P: filter prerouting -300\n proto 6 => template, timeout", "no", "yes"),
        ("ip raw P: filter prerouting -300\n proto 17 => template, timeout", "yes", "no"),
        ("ip raw P: filter prerouting -300\n proto 6, dport 5432 => template, timeout", "yes", "yes"),
        ("ip raw P: filter prerouting -300\n src 10.245.0.0/16 => template, timeout", "yes", "no"),
        ("ip raw O: filter output -300\n => template, timeout", "yes", "no"),
        ("ip6 raw P: filter prerouting -300\n => template, timeout", "yes", "no"),
        ("inet f F: filter forward 0\n => timeout", "no", "yes"),
        // Later packets of either direction, whatever their marks.
        ("inet f F: filter forward 0\n state 2 => timeout", "no", "yes"),
        ("inet f F: filter forward 0\n state 2, src 10.244.0.0/16 => timeout", "no", "yes"),
        ("inet f F: filter forward 0\n state 2, dst 10.244.0.0/16 => timeout", "no", "yes"),
        ("inet f F: filter forward 0\n state 2, mark 0x10/0x10 => timeout", "no", "yes"),
        ("inet f F: filter forward 0\n state 2, proto 17 => timeout", "yes", "no"),
        ("inet f F: filter forward 0\n state 2, dport 443 => timeout", "yes", "yes"),
        ("inet f F: filter forward 0\n opaque => timeout", "no", "yes"),
        ("inet f I: filter input 0\n => timeout", "yes", "no"),
        // Beside another chain of the same priority.
        (
            "inet f F: filter forward 0\n state 2 => timeout\nip g F: filter forward 0\n src 10.244.0.5 => drop",
            "no",
            "yes",
        ),
        ("inet f F: filter forward 0\n state 2 => timeout\nip g F: filter forward 0\n state 2 => accept", "no", "yes"),
    ] {
        assert_eq!(idle(&format!("{nat}{chain}"))[1..], ["yes", by_sysctl, own], "{chain}");
    }
    // An unread list may set a timeout.
    for unread in ["unread inet forward", "ip raw P: filter prerouting -300\n => odd"] {
        assert_eq!(idle(&format!("{nat}{unread}"))[3], "maybe", "{unread}");
    }
    let host = "ip nat S: nat postrouting 100\n src 192.0.2.1 => masquerade random\n";
    assert_eq!(
        idle(&format!("{host}inet f F: filter forward 0\n => timeout"))[2..],
        ["yes", "no"],
        "nobody forwards these"
    );
    assert_eq!(idle(&format!("{host}ip f O: filter output 0\n => timeout"))[2..], ["no", "yes"]);
}
