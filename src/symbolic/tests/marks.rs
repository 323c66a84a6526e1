//! Marks that enter a tunnel on unusual paths, each measured with real packets.

use super::language::{self, address, effort, rules};
use super::tunnel::{FIXED, OLD, facts, rewritten, verdict, walk_with};
use crate::facts::netfilter::{Field, Match, Set, Step, name_key};
use crate::facts::{Failure, Reading};
use crate::symbolic::facts::OuterPath;
use crate::symbolic::past::PastTunnel;
use crate::symbolic::scenarios::tunnel::outer_packets;
use crate::symbolic::values::Numbers;

#[test]
fn marks_of_connections_that_came_out_of_the_tunnel_are_restored_on_answers() {
    let answers = |save: &str| format!("{save}\nip m O: filter output -150\n oif flannel.1 => restore\n{OLD}");
    let save = "ip m P: filter prerouting -150\n iif flannel.1 => or 0x4000, save, xor 0x4000";
    assert_eq!(rewritten(&answers(save)), "yes");
    assert_eq!(rewritten(&answers(&save.replace("prerouting", "input"))), "yes");
    assert_eq!(rewritten(&answers(&save.replace("flannel.1", "eth0"))), "no", "they come out of the tunnel");
}

#[test]
fn later_packets_go_where_rules_send_the_first() {
    let translated = |action: &str| {
        let nat = format!("ip nat O: nat output -100\n dst 10.96.0.1 => {action}\n");
        rewritten(&format!("{nat}ip m O: filter output -150\n dst 10.96.0.1, state 2 => or 0x4000\n{OLD}"))
    };
    assert_eq!(translated("dnat to 10.42.0.5"), "yes");
    assert_eq!(translated("dnat to 10.42.0.5-10.42.0.9"), "yes");
    assert_eq!(translated("dnat to 172.16.0.9"), "no", "that is not in the tunnel");
    assert_eq!(translated("redirect"), "no");
    assert_eq!(translated("dnat to 172.16.0.9\n => odd"), "maybe");
    assert_eq!(translated("dnat by-chance"), "maybe");
}

#[test]
fn answers_are_sent_to_the_sources_that_rules_give() {
    let marked = |to: &str, nat: &str| {
        let mark = format!("ip m P: filter prerouting -150\n dst {to} => or 0x4000\n");
        let nat = format!("ip n S: nat postrouting 50\n oif eth1 => {nat}\nip n O: nat postrouting 60\n");
        rewritten(&format!("{mark}{nat} mark 0x4000/0x4000, oif eth0 => masquerade random-fully"))
    };
    assert_eq!(marked("203.0.113.0/24", "masquerade"), "no", "no address of this host");
    assert_eq!(marked("203.0.113.0/24", "snat to 203.0.113.7"), "yes");
    assert_eq!(marked("203.0.113.8/32", "snat to 203.0.113.7"), "no");
    assert_eq!(marked("192.0.2.10", "masquerade"), "yes");
    let dnat = |hook: &str| {
        let rule = format!("masquerade\nip n D: nat {hook} -100\n dst 203.0.113.0/24 => dnat to 10.42.0.5");
        marked("203.0.113.0/24", &rule)
    };
    assert_eq!(dnat("prerouting"), "yes");
    assert_eq!(dnat("output"), "no", "what is forwarded never gets there");
}

#[test]
fn a_later_packet_may_leave_a_mark_for_those_after_it() {
    let later = "ip m O: filter output -150\n oif flannel.1 => restore\n state 2, !mark 0x4000/0x4000 => or 0x4000, save, xor 0x4000";
    assert_eq!(rewritten(&[later, OLD].concat()), "yes");
}

#[test]
fn what_a_map_has_nothing_for_keeps_its_connection_mark() {
    let marked = |peers: &str| {
        let rules = "ip m O: filter output -150\n oif flannel.1, state 8 => or 0x4000, save, xor 0x4000\nip r O: filter output 150\n";
        let own = format!(" oif flannel.1, dst {peers} => xor 0x800000, save, clear 0xffffffff\n");
        rewritten(&[rules, &own, " oif flannel.1 => restore\n", FIXED].concat())
    };
    // NAT rules clear it on first packets, and never see later ones.
    assert_eq!(marked("10.42.0.2"), "yes", "on later packets to others than this one");
    assert_eq!(marked("10.42.0.0/16"), "no");
}

#[test]
fn on_output_a_packet_still_has_the_device_of_its_first_route() {
    let marked = |device: &str| format!("ip m O: filter output -150\n oif {device} => or 0x4000\n{OLD}");
    let dnat = "\nip nat OUTPUT: nat output -100\n dst 10.96.0.10 => dnat to 10.42.1.5";
    assert_eq!(rewritten(&[&marked("lan0"), dnat].concat()), "yes", "before its destination is translated");
    assert_eq!(rewritten(&marked("lan0")), "no", "nothing leads such packets into the tunnel");
    let mut by_mark = facts();
    by_mark.fwmarks = [vec![(0x4000, 0x4000)], vec![]];
    by_mark.paths.push(OuterPath { mark: 0x4000, ..by_mark.paths[0].clone() });
    assert_eq!(verdict(&walk_with(&marked("lan0"), &by_mark)), "yes", "a policy rule may");
}

#[test]
fn no_packet_is_lost_whose_mark_no_route_was_asked_for() {
    let mut facts = facts();
    facts.fwmarks = [vec![(1, 1), (0x4000, 0x4000)], vec![]];
    let path = facts.paths[0].clone();
    facts.paths.extend([1, 0x4000].map(|mark| OuterPath { mark, ..path.clone() }));
    let marker = "ip m P: filter postrouting -150\n oif flannel.1 => or 0x4001\n";
    assert_eq!(verdict(&walk_with(&[marker, OLD].concat(), &facts)), "maybe");
    facts.paths.push(OuterPath { mark: 0x4001, ..path });
    assert_eq!(verdict(&walk_with(&[marker, OLD].concat(), &facts)), "yes");
}

#[test]
fn only_some_chains_route_a_marked_packet_again() {
    let mut facts = facts();
    facts.fwmarks = [vec![(0x100, 0x100)], vec![]];
    let device = name_key("eth1");
    facts.paths.push(OuterPath { mark: 0x100, device, ..facts.paths[0].clone() });
    let rules = |kind: &str, device: &str| {
        format!(
            "ip m O: {kind} output -150\n src 192.0.2.10, dst 192.0.2.20 => or 0x100
             ip nat P: nat postrouting 100\n oif {device} => masquerade random-fully"
        )
    };
    let found = |kind, device| verdict(&walk_with(&rules(kind, device), &facts));
    assert_eq!((found("route", "eth1"), found("route", "eth0")), ("yes", "no"));
    assert_eq!((found("filter", "eth1"), found("filter", "eth0")), ("no", "yes"));
    facts.is_rerouted = true;
    let found = verdict(&walk_with(&rules("route", "lan0"), &facts));
    assert_eq!(found, "maybe", "routed again, it is not bound to the tunnel's device");
}

#[test]
fn a_device_that_is_not_known_any_more_is_another_one_in_sets_too() {
    let text = "
        ip m O: route output -150
          set s => or 0x100
        ip nat P: nat postrouting 100
          set s => masquerade random-fully";
    let mut facts = facts();
    facts.is_rerouted = true;
    let found = |device: &str| {
        let mut written = rules(text);
        for chain in written.nftables.chains.values_mut() {
            let mut changed = chain.known_rules().to_vec();
            let set = language::set("s");
            changed[0].steps[0] = Step::Match(Match::Set { fields: vec![Field::OutputName], set, inverted: false });
            chain.rules = Reading::Ok(changed.into());
        }
        let names = [device, "eth0"].map(|name| vec![(name_key(name).unwrap(), name_key(name).unwrap())]);
        let known = Set {
            name: "s".into(),
            kind: "16 bytes".into(),
            stable: true,
            members: [].into(),
            elements: Reading::Ok(names.to_vec()),
            verdicts: vec![],
            data: vec![],
            family: None,
            sets: Vec::new(),
        };
        written.nftables.sets.insert(language::set("s"), known);
        verdict(&outer_packets(&written.network(), &facts, &effort()))
    };
    assert_eq!(found("eth1"), "maybe", "routed again, it may leave by eth2");
}

#[test]
fn chains_that_no_packet_is_followed_through_may_mark() {
    assert_eq!(rewritten(&["netdev m I: filter ingress 0 lan0\n => or 0x4000\n", OLD].concat()), "maybe");
    assert_eq!(rewritten(&["netdev m I: filter ingress 0 lan0\n => drop\n", OLD].concat()), "no");
    let mut bridged = facts();
    bridged.bridged = true;
    bridged.upper_devices = Numbers::of(&[name_key("br0").unwrap()]);
    let marker = "ip m P: filter prerouting -150\n iif br0 => or 0x4000\n";
    assert_eq!(verdict(&walk_with(&[marker, OLD].concat(), &bridged)), "yes");
    bridged.inner = [Numbers::of(&[]), Numbers::of(&[])];
    assert_eq!(verdict(&walk_with(&[marker, OLD].concat(), &bridged)), "maybe", "only with br_netfilter");
    for (calls, expected) in [(true, "yes"), (false, "no")] {
        bridged.bridges_call_rules = [Ok(calls), Ok(calls)];
        assert_eq!(verdict(&walk_with(&[marker, OLD].concat(), &bridged)), expected, "{calls}");
    }
}

#[test]
fn a_template_keeps_a_packet_from_being_untracked() {
    let raw = |rules: &str| {
        format!(
            "ip raw O: filter output -300\n{rules}\nip nat P: nat postrouting 100\n oif eth0 => masquerade random-fully"
        )
    };
    assert_eq!(rewritten(&raw("=> notrack")), "no");
    assert_eq!(rewritten(&raw("=> template\n => notrack")), "yes");
}

#[test]
fn rules_that_put_packets_into_sets_leave_membership_open() {
    let text = |update: &str| {
        format!("ip t O: filter output 0\n => {update}\nip t P: nat postrouting 100\n set s => masquerade random-fully")
    };
    let found = |update: &str, member: bool| {
        let mut written = rules(&text(update));
        let members = [(vec![address("192.0.2.10")], Reading::Ok(member))].into();
        let known = Set {
            name: "s".into(),
            kind: "4 bytes".into(),
            stable: true,
            members,
            elements: Reading::Failed(Failure::not_needed("too many")),
            verdicts: vec![],
            data: vec![],
            family: None,
            sets: Vec::new(),
        };
        written.nftables.sets.insert(language::set("s"), known);
        verdict(&outer_packets(&written.network(), &facts(), &effort()))
    };
    assert_eq!((found("or 0", false), found("or 0", true)), ("no", "yes"));
    assert_eq!((found("add s", false), found("add s", true)), ("maybe", "yes"));
    assert_eq!((found("delete s", false), found("delete s", true)), ("no", "maybe"));
}

#[test]
fn a_mark_that_grows_with_every_packet_is_not_given_up_silently() {
    let mut text = String::from("ip m O: filter output -150\n oif flannel.1 => restore\n");
    for bit in (0..12).rev() {
        let (low, high) = (1 << bit, 2 << bit);
        text.push_str(&format!(" state 2, mark {low:#x}/{low:#x} => or {high:#x}, save\n"));
    }
    text.push_str(" state 2 => or 1, save\n oif flannel.1 => clear 0xfff\n");
    let masked = OLD.replace("0x4000", "0x1000");
    assert_eq!(rewritten(&[&text, &*masked].concat()), "maybe");
}

#[test]
fn numbers_by_chance_and_by_hash_are_within_their_range() {
    let mark = |what: &str| rewritten(&format!("ip m O: filter output 0\n => {what}\n{OLD}"));
    for (what, expected) in [
        ("one-of 0x4000 0x4007", "yes"),
        ("one-of 0x3fff 0x4000", "yes"),
        ("one-of 0x8000 0x8fff", "no"),
        ("hash-of 0x4000 0x4007", "yes"),
        ("hash-of 0x3fff 0x4000", "maybe"),
        ("hash-of 0x8000 0x8fff", "no"),
    ] {
        assert_eq!(mark(what), expected, "{what}");
    }
}

#[test]
fn a_mark_that_leads_past_the_tunnel_is_a_question() {
    let everything = (0, u128::from(u32::MAX));
    let past = PastTunnel { mark: (0x4000, 0x4000), routes: vec![(everything, true)], earlier: Numbers::of(&[]) };
    let found = |marker: &str, past: &[PastTunnel]| {
        let mut facts = facts();
        facts.past[0] = past.to_vec();
        facts.paths.push(OuterPath { mark: 0x4000, ..facts.paths[0].clone() });
        facts.fwmarks[0] = past.iter().map(|past| (past.mark.1, past.mark.0)).collect();
        verdict(&walk_with(&[marker, OLD].concat(), &facts))
    };
    let mangle = "ip m O: route output -150\n dst 10.42.0.0/16 => or 0x4000\n";
    let filter = "ip m O: filter output 0\n dst 10.42.0.0/16 => or 0x4000\n";
    let forwarded = "ip m P: filter prerouting -150\n dst 10.42.0.0/16 => or 0x4000\n";
    assert_eq!([mangle, filter, forwarded].map(|marker| found(marker, &[])), ["yes"; 3]);
    let one = [past.clone()];
    assert_eq!(found(mangle, &one), "maybe");
    assert_eq!(found(forwarded, &one), "maybe");
    assert_eq!(found(filter, &one), "yes", "it is routed already");
    let translated =
        "ip m O: route output -150\n dport 53 => or 0x4000\nip n O: nat output -100\n dport 53 => dnat to 192.0.2.9\n";
    assert_eq!(
        [found(translated, &[]), found(translated, &one)],
        ["yes", "maybe"],
        "translated, it is routed with its mark"
    );
    let earlier = PastTunnel { earlier: Numbers::ranges(vec![everything]), ..past };
    assert_eq!(found(mangle, &[earlier]), "yes");
}

#[test]
fn an_exposure_names_who_sets_the_mark() {
    let how = |marker: &str| walk_with(&[marker, OLD].concat(), &facts()).how;
    let of_host = how(
        "ip nat OUTPUT: nat output -100\n dst 10.96.0.1 => jump M\n dst 10.96.0.1 => dnat to 10.42.1.5\nip nat M:\n => or 0x4000\n",
    );
    assert!(of_host.ends_with("; rule 1 of chain M (table ip nat) sets it on packets of this host"), "{of_host}");
    let two = how("ip m F: filter forward -150\n dst 203.0.113.0/24 => or 0x4000\n dst 10.42.0.0/16 => or 0x4000\n");
    assert!(two.ends_with("; rule 2 of chain F (table ip m) sets it on packets that this host forwards"), "{two}");
    let later = how("ip m O: filter output -150\n state 2 => or 0x4000\n");
    assert!(later.ends_with("sets it on later packets of connections of this host"), "{later}");
    let all = walk_with("ip nat P: nat postrouting 100\n => masquerade random-fully", &facts()).how;
    assert!(!all.contains("sets it"), "{all}");
}
