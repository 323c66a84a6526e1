//! Which source-NAT rules new connections reach.

use super::language::{effort, rules};
use crate::symbolic::{Happens, reached};

/// Rules that are reached, as `CHAIN POSITION`, with `?` if only possibly.
fn reach(text: &str) -> Vec<String> {
    let written = rules(text);
    let found = reached(&written.network(), &effort());
    let mut names: Vec<String> = found
        .rules
        .iter()
        .map(|rule| {
            let sure = if rule.happens == Happens::Must { "" } else { "?" };
            match &rule.at {
                Some((_, at)) => format!("{} {}{sure}", at.chain.chain, at.position),
                None => format!("unread{sure}"),
            }
        })
        .collect();
    names.sort();
    names
}

#[test]
fn marks_that_something_sets_lead_to_the_rule() {
    let kube = "
        ip nat OUTPUT: nat output -100
          dst 10.96.0.1 => jump MARK
        ip nat MARK:
          => or 0x4000
        ip nat POSTROUTING: nat postrouting 100
          => jump KUBE
        ip nat KUBE:
          !mark 0x4000/0x4000 => return
          => xor 0x4000
          => masquerade random-fully";
    assert_eq!(reach(kube), ["KUBE 3"]);
    assert_eq!(reach(&kube.replace("or 0x4000\n        ip nat P", "or 0x8000\n        ip nat P")), [""; 0]);
}

#[test]
fn rules_behind_others_are_reached_by_what_these_leave() {
    for (chain, expected) in [
        ("=> masquerade\n => snat to 192.0.2.1", &["P 1"][..]),
        ("oif eth0 => masquerade\n => snat to 192.0.2.1", &["P 1", "P 2"]),
        ("oif eth0 => accept\n oif eth0 => masquerade", &[]),
        ("oif eth+ => accept\n oif eth0 => masquerade", &[]),
        ("oif eth+ => accept\n oif en0 => masquerade", &["P 2"]),
        ("oif eth0 => accept\n !oif eth0 => masquerade", &["P 2"]),
        ("src 10.0.0.0/8 => return\n src 10.1.0.0/16 => masquerade", &[]),
        ("src 10.1.0.0/16 => return\n src 10.0.0.0/8 => masquerade", &["P 2"]),
        ("src 10.0.0.0/9 => return\n src 10.128.0.0/9 => return\n src 10.0.0.0/8 => masquerade", &[]),
        ("dport 1-100 => accept\n dport 50 => masquerade", &[]),
        ("dport 1-100 => accept\n dport 50-101 => masquerade", &["P 2"]),
        ("=> drop\n => masquerade", &[]),
        ("proto 1 => masquerade", &["P 1"]), // echo requests have identifiers instead of ports
        ("proto 6 => return\n proto 17 => masquerade", &["P 2"]),
        ("sometimes => accept\n => masquerade", &["P 2"]),
        ("sometimes => masquerade", &["P 1"]),
        ("opaque => masquerade", &["P 1?"]),
        ("opaque => masquerade\n => masquerade", &["P 1?", "P 2?"]),
        ("opaque => log\n => masquerade", &["P 2"]),
        ("=> odd\n => masquerade", &["P 1?", "P 2?"]),
        ("=> log", &[]),
        ("set s => masquerade", &["P 1"]),
        ("set s => accept\n set s => masquerade", &[]),
        ("set s => accept\n !set s => masquerade", &["P 2"]),
        ("=> dnat to 192.0.2.1", &[]),
        ("=> netmap to 192.0.2.0-192.0.2.255", &["P 1"]),
        ("state 2 => accept\n => masquerade", &["P 2"]),
        ("!state 12 => masquerade", &[]),
    ] {
        assert_eq!(reach(&format!("ip nat P: nat postrouting 100\n {chain}")), expected, "{chain}");
    }
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let base = "ip nat P: nat postrouting 100\n";
    assert_eq!(reach(&format!("{base} => jump C\n => masquerade\nip nat C:\n => return")), ["P 2"]);
    assert_eq!(reach(&format!("{base} => goto C\n => masquerade\nip nat C:\n => return")), [""; 0]);
    let nested = "=> jump A\n => masquerade\nip nat A:\n => goto B\n => masquerade\nip nat B:\n oif x => masquerade";
    assert_eq!(reach(&format!("{base} {nested}")), ["B 1", "P 2"]);
    assert_eq!(reach(&format!("{base} => jump MISSING\n => masquerade")), ["MISSING 0?", "P 2?"]);
}

#[test]
fn base_chains_follow_each_other_by_priority() {
    let chains = |first: i32, second: i32| {
        format!("ip a A: nat postrouting {first}\n => masquerade\nip b B: nat postrouting {second}\n => masquerade")
    };
    assert_eq!(reach(&chains(99, 100)), ["A 1"]);
    assert_eq!(reach(&chains(101, 100)), ["B 1"]);
    assert_eq!(reach(&chains(100, 100)), ["A 1", "B 1?"], "which was created last is not known, but one of them was");
    assert_eq!(reach("ip a A: nat postrouting 99\n => accept\nip b B: nat postrouting 100\n => masquerade"), ["B 1"]);
    assert_eq!(reach("ip a A: nat postrouting 99 drop\n\nip b B: nat postrouting 100\n => masquerade"), [""; 0]);
    let mixed =
        "legacy ip nat L: nat postrouting 100\n oif a => masquerade\nip b B: nat postrouting 100\n oif b => masquerade";
    assert_eq!(reach(mixed), ["B 1", "L 1"], "they are about different packets, so the order does not matter");
}

#[test]
fn a_mark_that_one_backend_sets_leads_to_the_other_ones_rule() {
    let text =
        "ip m M: filter forward 0\n => or 0x10\nlegacy ip nat P: nat postrouting 100\n mark 0x10/0x10 => masquerade";
    assert_eq!(reach(text), ["P 1"]);
}

#[test]
fn thousands_of_chains_and_circles_come_to_an_end() {
    let mut many = String::from("ip nat P: nat postrouting 100\n");
    for pod in 0..1000 {
        many += &format!(" src 10.{}.{}.1 => jump C{pod}\n", pod / 256, pod % 256);
    }
    for pod in 0..1000 {
        many += &format!("ip nat C{pod}:\n dst 10.0.0.0/8 => accept\n !dst 224.0.0.0/4 => masquerade\n");
    }
    assert_eq!(reach(&many).len(), 1000);
    let circle = "ip nat P: nat postrouting 100\n => jump C\n => masquerade\nip nat C:\n => jump C";
    assert!(reach(circle).iter().all(|rule| rule.ends_with('?')), "{:?}", reach(circle));
    let mut doubling = String::from("ip nat P: nat postrouting 100\n");
    for bit in 0..24 {
        doubling += &format!(" sometimes => or {}\n", 1u32 << bit);
    }
    doubling += " mark 0x7 => masquerade";
    assert!(reach(&doubling).len() <= 1);
}

#[test]
fn after_giving_up_nothing_is_seen_to_happen() {
    let written = rules("ip n P: nat postrouting 100\n proto 6 => return\n => masquerade");
    let network = written.network();
    let walked = |steps: usize| {
        let effort = effort();
        assert_eq!(effort.spend(steps), steps == 0);
        let found = reached(&network, &effort);
        (found.rules.iter().map(|rule| rule.happens.clone()).collect::<Vec<_>>(), found.gave_up.is_some())
    };
    assert_eq!(walked(0), (vec![Happens::Must], false));
    assert_eq!(walked(usize::MAX), (vec![], true));
}
