//! Segments that answer connections whose source was translated.

use super::language::{effort, rules};
use crate::symbolic::{Certainty, answers};

/// Whether connections are translated to an address of this host's, and whether invalid segments get to it: `yes`, `no`,
/// `maybe`.
fn answered(text: &str, local: &[(&str, bool)]) -> [&'static str; 2] {
    let written = rules(text);
    let mut world = written.world();
    world.local_sources = local.iter().map(|(address, local)| (address.parse().unwrap(), *local)).collect();
    let found = answers(&world, &effort());
    [found.translated.certainty, found.arrive.certainty].map(|certainty| match certainty {
        Certainty::Happens => "yes",
        Certainty::DoesNot => "no",
        Certainty::Unknown(_) => "maybe",
    })
}

const MASQUERADE: &str = "
    ip nat POSTROUTING: nat postrouting 100
      src 172.17.0.0/16, !oif docker0 => masquerade";

#[test]
fn a_segment_for_this_host_passes_prerouting_and_input() {
    for (chain, arrives) in [
        ("", "yes"),
        ("ip filter FORWARD: filter forward 0\n state 1 => drop", "yes"),
        ("ip filter INPUT: filter input 0\n state 1 => drop", "no"),
        ("ip mangle PREROUTING: filter prerouting -150\n state 1 => drop", "no"),
        ("ip mangle PREROUTING: filter prerouting -150\n state 1, proto 17 => drop", "yes"),
        ("ip mangle PREROUTING: filter prerouting -150\n iif docker0, state 1 => drop", "yes"),
        ("ip mangle PREROUTING: filter prerouting -150\n !iif docker0, state 1 => drop", "no"),
        ("ip filter INPUT: filter input 0 drop\n iif lo => accept\n dport 22 => accept", "no"),
        ("ip filter INPUT: filter input 0 drop\n dport 30000-32767 => accept", "yes"),
        ("ip filter INPUT: filter input 0\n sometimes, state 1 => drop", "yes"),
        ("ip6 filter INPUT: filter input 0\n state 1 => drop", "yes"),
    ] {
        assert_eq!(answered(&format!("{MASQUERADE}\n{chain}"), &[]), ["yes", arrives], "{chain}");
    }
}

#[test]
fn only_tcp_with_an_address_of_this_host_is_answered_here() {
    let postrouting = |rule: &str| format!("ip nat POSTROUTING: nat postrouting 100\n {rule}");
    for (rule, local, translated) in [
        ("proto 17 => masquerade", &[][..], "no"),
        ("proto 6 => masquerade", &[], "yes"),
        ("=> snat to 192.0.2.1", &[("192.0.2.1", true)], "yes"),
        ("=> snat to 192.0.2.1", &[("192.0.2.1", false)], "no"),
        ("=> snat to 192.0.2.1", &[], "maybe"),
        ("=> accept\n => masquerade", &[], "no"),
    ] {
        assert_eq!(answered(&postrouting(rule), local)[0], translated, "{rule}");
    }
    assert_eq!(answered("ip nat PREROUTING: nat prerouting -100\n => dnat to 10.0.0.1", &[]), ["no", "no"]);
}
