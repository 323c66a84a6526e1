//! Replies to connections whose source was translated.

use super::bypass::{DEVICES, devices, own, routed};
use super::language::{effort, rules};
use super::unread::word;
use crate::symbolic::network::host::HostFacts;
use crate::symbolic::{Happens, source_nat_replies};

/// Whether connections are translated to an address of this host, and whether invalid segments reach it: `yes`, `no`,
/// `maybe`.
fn answered(text: &str, local: &[(&str, bool)]) -> [&'static str; 2] {
    let written = rules(text);
    let mut network = written.network();
    network.local_sources = local.iter().map(|(address, local)| (address.parse().unwrap(), *local)).collect();
    (network.own, network.host, network.devices) = (own(), routed(), devices(DEVICES));
    let found = source_nat_replies(&network, &effort());
    [found.translated.happens, found.arrive.happens].map(|happens| match happens {
        Happens::Must => "yes",
        Happens::Never => "no",
        Happens::May(_) => "maybe",
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
        ("ip filter OUTPUT: filter output 0\n state 1 => drop", "no"), // this host's reset
        ("ip filter OUTPUT: filter output 0 drop\n state 0xe => accept", "no"),
        ("ip m POSTROUTING: filter postrouting -150\n oif docker0, state 1 => drop", "yes"),
        ("ip filter INPUT: filter input 0\n dst 192.0.2.1, state 1 => drop", "no"),
        // A rule that rejects with a reset resets.
        ("ip filter INPUT: filter input 0\n state 1 => reset", "yes"),
        ("ip filter INPUT: filter input 0 drop\n proto 6 => jump R\nip filter R:\n state 1 => reset", "yes"),
        ("ip filter INPUT: filter input 0\n state 1 => drop\n state 1 => reset", "no"),
        (
            "ip filter INPUT: filter input 0\n state 1 => reset\nip filter OUTPUT: filter output 0\n state 1 => drop",
            "no",
        ),
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
        ("=> snat to 192.0.2.1", &[], "yes"), // among the addresses that were read
        ("=> accept\n => masquerade", &[], "no"),
    ] {
        assert_eq!(answered(&postrouting(rule), local)[0], translated, "{rule}");
    }
    assert_eq!(answered("ip nat PREROUTING: nat prerouting -100\n => dnat to 10.0.0.1", &[]), ["no", "no"]);
}

/// Its source is translated before it gets back to where it came from.
#[test]
fn a_client_that_is_its_own_server_is_masqueraded() {
    let hairpin = "ip nat PREROUTING: nat prerouting -100
          proto 6, dst 192.0.2.1 => dnat to 10.244.0.5
        ip nat POSTROUTING: nat postrouting 100
          src 10.244.0.5, dst 10.244.0.5 => masquerade";
    assert_eq!(answered(hairpin, &[]), ["yes", "yes"]);
}

#[test]
fn connections_are_walked_to_the_translation() {
    let to = "ip nat POSTROUTING: nat postrouting 100\n src 172.17.0.0/16, dst 198.51.100.9 => masquerade\n";
    for (rules, expected) in [
        ("", ["yes", "yes"]),
        // Invalid segments come from where connections go to.
        ("ip filter INPUT: filter input 0\n src 198.51.100.9, state 1 => drop", ["yes", "no"]),
        ("ip filter INPUT: filter input 0\n src 198.51.100.8, state 1 => drop", ["yes", "yes"]),
        ("ip filter FORWARD: filter forward 0 drop\n state 6 => accept", ["no", "no"]),
        ("ip filter FORWARD: filter forward 0\n src 172.16.0.0/12 => drop", ["no", "no"]),
        ("ip raw P: filter prerouting -300\n dst 198.51.100.9 => notrack", ["no", "no"]),
    ] {
        assert_eq!(answered(&format!("{to}{rules}"), &[]), expected, "{rules}");
    }
    let translated = "ip nat POSTROUTING: nat postrouting 100\n status 0x20, src 172.17.0.0/16 => masquerade\n";
    let service = "ip nat P: nat prerouting -100\n dst 10.96.0.1, proto 6 => dnat to 10.244.0.5";
    assert_eq!(answered(translated, &[]), ["no", "no"]);
    assert_eq!(answered(&format!("{translated}{service}"), &[]), ["yes", "yes"]);
    let own = |rule: &str| format!("ip nat POSTROUTING: nat postrouting 100\n {rule}");
    assert_eq!(answered(&own("src 192.0.2.1, oif eth0 => snat to 192.0.2.1"), &[("192.0.2.1", true)]), ["no", "no"]);
}

#[test]
fn a_segment_without_a_connection_has_a_state_but_no_status() {
    // `! --ctstate DNAT` matches it; `ct status & dnat == 0` does not.
    for (test, arrives) in
        [("!no-state 0 0x20", "no"), ("no-state 0 0x20", "yes"), ("no-state 1 0x20", "no"), ("!status 0x20", "no")]
    {
        let chain = format!("ip filter INPUT: filter input 0 drop\n {test} => accept");
        assert_eq!(answered(&format!("{MASQUERADE}\n{chain}"), &[])[1], arrives, "{test}");
    }
}

/// The first of [`answered`], with the host's facts changed by `change`.
fn answered_by(text: &str, change: impl Fn(&mut HostFacts)) -> &'static str {
    let written = rules(text);
    let mut network = written.network();
    (network.own, network.host, network.devices) = (own(), routed(), devices(DEVICES));
    change(&mut network.host);
    word(&source_nat_replies(&network, &effort()).translated.happens)
}

#[test]
fn older_kernels_do_not_tell_postrouting_where_packets_came_in() {
    let older = |host: &mut HostFacts| host.input_in_postrouting = Ok(false);
    let unread = |host: &mut HostFacts| host.input_in_postrouting = Err("not read".into());
    for (rule, now, before) in [
        ("iif docker0 => masquerade", "yes", "no"),
        ("!iif docker0, src 172.17.0.0/16 => masquerade", "yes", "yes"),
        ("iif docker0 => accept\n oif eth0, src 172.17.0.2 => masquerade", "yes", "yes"),
    ] {
        let text = format!("ip nat POSTROUTING: nat postrouting 100\n {rule}");
        let maybe = if now == before { now } else { "maybe" };
        let found = [answered_by(&text, |_| {}), answered_by(&text, older), answered_by(&text, unread)];
        assert_eq!(found, [now, before, maybe], "{rule}");
    }
}

#[test]
fn ipvs_sends_elsewhere_what_gets_to_this_host() {
    let nat = "ip nat POSTROUTING: nat postrouting 100\n src 10.244.0.0/16, status 0x20 => masquerade\n";
    let by_ipvs = |host: &mut HostFacts| host.ipvs_in_use = Ok(true);
    let unread = |host: &mut HostFacts| host.ipvs_in_use = Err("not read".into());
    for (chain, expected) in [
        ("", ["no", "yes", "maybe"]),
        ("ip filter INPUT: filter input 0\n src 10.244.0.0/16 => drop", ["no", "no", "no"]),
    ] {
        let text = format!("{nat}{chain}");
        let found = [answered_by(&text, |_| {}), answered_by(&text, by_ipvs), answered_by(&text, unread)];
        assert_eq!(found, expected, "{chain}");
    }
}

#[test]
fn what_comes_in_may_be_marked_outside_of_the_hooks_of_ip() {
    let nat = "ip nat POSTROUTING: nat postrouting 100\n mark 0x10/0x10 => masquerade\n";
    for (chain, expected) in [
        ("", "no"),
        ("netdev m I: filter ingress 0 docker0\n => or 0x10", "yes"),
        ("netdev m I: filter ingress 0 docker0\n => or 0x20", "maybe"),
        ("bridge m F: filter prerouting 0\n => or 0x10", "yes"),
        ("unread bridge prerouting", "maybe"),
    ] {
        assert_eq!(answered_by(&format!("{nat}{chain}"), |_| {}), expected, "{chain}");
    }
}

#[test]
fn what_no_rule_translates_is_not_followed_through_forward() {
    let nat = "ip nat POSTROUTING: nat postrouting 100\n src 172.17.0.0/16, dst 198.51.100.9 => masquerade\n";
    let policy = |number: u32| {
        format!("\n src 10.{}.{}.0/24, dport {number} => or 1\n mark 1 => accept", number / 256, number % 256)
    };
    let policies: String = (1..=200).map(policy).collect();
    let work = |text: &str| {
        let (written, effort) = (rules(text), effort());
        let mut network = written.network();
        (network.own, network.host, network.devices) = (own(), routed(), devices(DEVICES));
        effort.measure(|| assert_eq!(word(&source_nat_replies(&network, &effort).translated.happens), "yes")).1
    };
    let few = work(nat);
    let many = work(&format!("{nat}ip f F: filter forward 0 drop{policies}\n src 172.17.0.0/16 => accept"));
    assert!(many < 20 * few, "{many} units of work with policies, {few} without");
}

#[test]
fn whatever_is_written_on_the_way_is_followed_through_forward() {
    for (rules, expected) in [
        ("ip m F: filter forward -150\n src 172.17.0.2 => or 4", "yes"),
        ("ip m F: filter forward -150\n src 172.17.0.2 => or 4\n dst 198.51.100.9 => drop", "yes"),
        ("ip m F: filter forward -150\n src 172.17.0.2 => or 4\n src 172.17.0.2 => drop", "no"),
        ("ip m F: filter forward -150\n src 172.17.0.2 => or 8", "no"),
        ("ip m F: filter forward -150\n opaque => or 4", "maybe"),
        ("ip m F: filter forward -150\n => restore\nip m P: filter prerouting -150\n => or 4\n => save", "yes"),
        (
            "ip m P: filter prerouting -150\n => or 4\nip m F: filter forward -150\n src 172.16.0.0/12 => drop\n => write saddr 2887385089",
            "yes",
        ),
        (
            "ip m P: filter prerouting -150\n => or 4
             ip m F: filter forward -150\n src 172.16.0.0/12 => drop
             ip m O: filter postrouting -150\n => write saddr 2887385089",
            "yes",
        ),
    ] {
        let nat = "ip nat POSTROUTING: nat postrouting 100\n src 172.16.0.0/12, mark 4 => masquerade\n";
        assert_eq!(answered_by(&format!("{nat}{rules}"), |_| {}), expected, "{rules}");
    }
}
