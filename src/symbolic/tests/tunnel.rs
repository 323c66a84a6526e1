//! What happens to a tunnel's outer packets: measured facts, one per line.

use super::language::{Written, address, effort, host, rules};
use crate::facts::netfilter::{Family, name_key};
use crate::facts::{Failure, OuterHeader, Reading};
use crate::symbolic::facts::{Arrival, Arrivals, OuterPath, TunnelFacts};
use crate::symbolic::network::host::{HostFacts, OwnAddresses};
use crate::symbolic::scenarios::tunnel::outer_packets;
use crate::symbolic::values::Numbers;
use crate::symbolic::{Happens, OuterPackets};

/// VXLAN on port 8472 over eth0 (192.0.2.10) to 192.0.2.20; 10.42.0.0/16 is routed into it.
pub(super) fn facts() -> TunnelFacts {
    let path = OuterPath {
        family: Family::Ipv4,
        mark: 0,
        remotes: Some(Numbers::of(&[address("192.0.2.20")])),
        device: name_key("eth0"),
        next_hop: None,
        source: Some(address("192.0.2.10")),
        primary: Ok(address("192.0.2.10")),
    };
    let prefix = |first: &str, last: &str| Numbers::ranges(vec![(address(first), address(last))]);
    TunnelFacts {
        device: "flannel.1".into(),
        upper_devices: Numbers::of(&[name_key("flannel.1").unwrap()]),
        above: vec![],
        inner: [prefix("10.42.0.0", "10.42.255.255"), prefix("fd42::", "fd42::ffff")],
        bridged: false,
        bridges_call_rules: [Err("not read".into()), Err("not read".into())],
        ports: Some(Numbers::of(&[8472])),
        source_ports: Some(Numbers::ranges(vec![(32768, 60999)])),
        paths: vec![path],
        vague: None,
        fwmarks: [vec![], vec![]],
        past: [vec![], vec![]],
        header: OuterHeader::default(),
        arrivals: Arrivals {
            ways: vec![Arrival {
                addresses: Some(Numbers::of(&[address("192.0.2.10")])),
                ports: Some(Numbers::of(&[8472])),
                devices: Numbers::of(&[name_key("flannel.1").unwrap()]),
                nested: false,
            }],
            marking: Numbers::of(&[]),
        },
        is_rerouted: false,
    }
}

pub(super) fn walk_with(text: &str, facts: &TunnelFacts) -> OuterPackets {
    walk_on(text, facts, host())
}

pub(super) fn walk_on(text: &str, facts: &TunnelFacts, host: HostFacts) -> OuterPackets {
    walk_written(&rules(text), facts, host)
}

fn walk_written(written: &Written, facts: &TunnelFacts, host: HostFacts) -> OuterPackets {
    let mut network = written.network();
    network.host = host;
    let own = ["192.0.2.10", "192.0.2.11", "10.42.0.0"].map(|own| (2, (address(own), address(own)), None));
    let own6 = vec![(2, (address("fd42::1"), address("fd42::1")), None)];
    network.own = [Some(OwnAddresses { typed: own.to_vec() }), Some(OwnAddresses { typed: own6 })];
    outer_packets(&network, facts, &effort())
}

/// `yes`, `no`, or `maybe`.
pub(super) fn rewritten(text: &str) -> &'static str {
    verdict(&walk_with(text, &facts()))
}

pub(super) fn verdict(outer: &OuterPackets) -> &'static str {
    match outer.rewritten {
        Happens::Must => "yes",
        Happens::Never => "no",
        Happens::May(_) => "maybe",
    }
}

pub(super) const MARK: &str = "
    ip nat OUTPUT: nat output -100
      dst 10.96.0.1 => or 0x4000, dnat to 10.42.1.5";
pub(super) const OLD: &str = "
    ip nat POSTROUTING: nat postrouting 100
      mark 0x4000/0x4000 => masquerade random-fully";
pub(super) const FIXED: &str = "
    ip nat POSTROUTING: nat postrouting 100
      !mark 0x4000/0x4000 => return
      => xor 0x4000
      => masquerade random-fully";

#[test]
fn what_has_no_connection_meets_no_test_of_one() {
    let mark = |rule: &str| rewritten(&format!("ip m O: filter output -140\n {rule}\n{OLD}"));
    assert_eq!(mark("state 1 => or 0x4000"), "yes");
    assert_eq!(mark("status 0x8, state 1 => or 0x4000"), "no");
    assert_eq!(mark("!status 0x8, state 1 => or 0x4000"), "no", "nor the opposite");
    // Packets of TCP are inside the tunnel.
    assert_eq!(mark("proto 6, state 1 => or 0x4000\n proto 6 => restore"), "yes", "nor is a mark taken from none");
    assert_eq!(mark("proto 6, state 8 => or 0x4000\n proto 6 => restore"), "no");
}

#[test]
fn kube_proxy_before_and_after_its_cure() {
    assert_eq!(rewritten(&[MARK, OLD].concat()), "yes");
    assert_eq!(rewritten(&[MARK, FIXED].concat()), "no");
    assert_eq!(rewritten(&[MARK, &OLD.replace(" random-fully", "")].concat()), "no", "plain: the port is kept");
    assert_eq!(rewritten(&[MARK, &OLD.replace("random-fully", "random")].concat()), "yes");
    assert_eq!(rewritten(OLD), "no", "nothing sets the mark");
    let outer = walk_with(&[MARK, OLD].concat(), &facts());
    assert_eq!(
        outer.how,
        "an outer packet with mark 0x4000 gets a random source port from rule 1 of chain POSTROUTING (table ip nat); rule 1 of chain OUTPUT (table ip nat) sets it on packets of this host"
    );
    assert_eq!(outer.tracked, Happens::Must);
}

#[test]
fn another_programs_rule_before_the_cure_keeps_the_mark_alive() {
    let first = |exempt: &str| {
        FIXED.replace(
            "100\n",
            &format!("100\n {exempt}\n src 10.42.0.0/16, !dst 10.42.0.0/16 => masquerade random-fully\n !src 10.42.0.0/16, dst 10.42.0.0/16 => masquerade random-fully\n"),
        )
    };
    assert_eq!(rewritten(&[MARK, &first("")].concat()), "yes");
    assert_eq!(rewritten(&[MARK, &first("mark 0x4000/0x4000 => return")].concat()), "no", "flannel 0.20.2");
    let stale = FIXED.replace("100\n", "100\n mark 0x4000/0x4000 => masquerade random-fully\n");
    assert_eq!(rewritten(&[MARK, &stale].concat()), "yes", "stale rules above the cured ones");
}

#[test]
fn marks_of_every_packet_come_back_when_nat_is_skipped() {
    for (name, marker) in [
        ("mangle", "ip m O: filter output -150\n dst 10.42.0.0/16 => or 0x4000"),
        ("filter", "ip m O: filter output 0\n => or 0x4000"),
        ("forward", "ip m F: filter forward 0\n oif flannel.1 => or 0x4000"),
        ("connmark", "ip m O: filter output -150\n state 8 => or 0x4000, save\n state 2 => restore"),
        ("egress", "netdev m E: filter egress 0 flannel.1\n => or 0x4000"),
        ("new but not first", "ip m O: filter output -150\n state 8 => or 0x4000"),
    ] {
        let text = format!("{marker}\n{FIXED}");
        assert_eq!(rewritten(&text), "yes", "{name}");
    }
    let elsewhere = format!("netdev m E: filter egress 0 eth0\n => or 0x4000\n{FIXED}");
    assert_eq!(rewritten(&elsewhere), "no", "egress of the card comes after NAT");
    let outside = format!("ip m O: filter output -150\n dst 8.8.8.8 => or 0x4000\n{OLD}");
    assert_eq!(rewritten(&outside), "no", "nothing there is routed into the tunnel");
    let cured = format!("ip m O: filter output -150\n proto 17, dport 8472 => clear 0x4000\n{MARK}{OLD}");
    assert_eq!(rewritten(&cured), "no", "cleared on the outer packet");
}

#[test]
fn headers_are_also_written_outside_nat_chains() {
    for (name, rules, expected) in [
        ("on output", "ip m O: filter output 0\n proto 17, dport 8472 => write sport 5555", "yes"),
        ("on postrouting", "ip m P: filter postrouting 300\n => write source 1", "yes"),
        ("routed again", "ip m O: route output -150\n => write sport 5555", "yes"),
        ("by the card", "netdev m E: filter egress 0 eth0\n => write sport 5555", "yes"),
        ("by another device", "netdev m E: filter egress 0 eth1\n => write sport 5555", "no"),
        ("other packets", "ip m O: filter output 0\n proto 17, dport 53 => write sport 5555", "no"),
        ("completed before", "ip m O: filter output 0\n => fill\n => write sport 5555", "no"),
        ("no number", "ip m O: filter output 0\n => write sport any", "maybe"),
        ("anything", "ip m O: filter output 0\n proto 17, dport 8472 => odd", "maybe"),
    ] {
        let found = rewritten(&format!("{rules}\n{FIXED}"));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn catch_alls_addresses_and_ports() {
    let post = |rule: &str| format!("ip nat P: nat postrouting 100\n {rule}");
    for (rule, expected) in [
        ("oif eth0 => masquerade random-fully", "yes"),
        ("oif eth1 => masquerade random-fully", "no"),
        ("oif eth0 => masquerade", "no"),
        ("oif eth0, proto 17 => masquerade ports 1024-65535", "no"),
        ("oif eth0, proto 17 => masquerade ports 1024-2048", "yes"),
        ("oif eth0, proto 17 => masquerade ports 40000-50000", "yes"),
        ("proto 17, sport 40000-50000 => masquerade ports 40000-50000", "no"),
        ("proto 17, sport 1-1023 => masquerade random-fully", "no"),
        ("dst 192.0.2.20 => snat to 192.0.2.10", "no"),
        ("dst 192.0.2.20 => snat to 192.0.2.10 random-fully", "yes"),
        ("dst 192.0.2.20 => snat to 192.0.2.11", "yes"),
        ("dst 192.0.2.21 => snat to 192.0.2.11", "no"),
        ("=> snat to 192.0.2.1-192.0.2.20", "no"),
        ("=> netmap to 192.0.2.0-192.0.2.255", "no"),
        ("=> netmap to 198.51.100.0-198.51.100.255", "yes"),
        ("dport 8472 => accept\n oif eth0 => masquerade random-fully", "no"),
        ("dport 8473 => accept\n oif eth0 => masquerade random-fully", "yes"),
        ("iif flannel.1 => masquerade random-fully", "yes"),
        ("sometimes => masquerade random-fully", "yes"),
        ("opaque => masquerade random-fully", "maybe"),
        ("opaque => return\n oif eth0 => masquerade random-fully", "maybe"),
        ("opaque => masquerade random-fully\n oif eth0 => masquerade random-fully", "yes"),
        ("=> odd", "maybe"),
        ("=> queue", "no"),
        ("set s => masquerade random-fully", "maybe"),
        ("=> any-mark\n mark 0x1/0x1 => masquerade random-fully", "maybe"),
        ("=> drop", "no"),
    ] {
        assert_eq!(rewritten(&post(rule)), expected, "{rule}");
    }
    let mut secondary = facts();
    secondary.paths[0].source = Some(address("192.0.2.11"));
    assert_eq!(verdict(&walk_with(&post("oif eth0 => masquerade"), &secondary)), "yes", "another address is written");
    secondary.paths[0].primary = Err("not known".into());
    assert_eq!(verdict(&walk_with(&post("oif eth0 => masquerade"), &secondary)), "maybe");
}

#[test]
fn destinations_that_are_translated_break_the_checksum_too() {
    let output = |rule: &str| format!("ip nat O: nat output -100\n {rule}");
    for (rule, expected) in [
        ("dport 8472 => dnat to 192.0.2.21", "yes"),
        ("dport 8472 => dnat to 192.0.2.20", "no"),
        ("dport 8472 => dnat to 192.0.2.20 ports 8472", "no"),
        ("dport 8472 => dnat to 192.0.2.20 ports 8473", "yes"),
        ("dport 8472 => redirect", "yes"),
        ("dport 53 => redirect", "no"),
        ("dsttype 2-2 => redirect", "no"), // the peer is not local
    ] {
        assert_eq!(rewritten(&output(rule)), expected, "{rule}");
    }
}

#[test]
fn not_tracking_protects_where_it_comes_before_connection_tracking() {
    let all = "ip nat P: nat postrouting 100\n oif eth0 => masquerade random-fully";
    for (hook, expected) in [
        ("output -300", "no"),
        ("output -201", "no"),
        ("output -200", "maybe"),
        ("output -150", "yes"),
        ("prerouting -300", "yes"),
    ] {
        let text = format!("ip raw R: filter {hook}\n dport 8472 => notrack\n{all}");
        assert_eq!(rewritten(&text), expected, "{hook}");
    }
    let text = format!("ip raw R: filter output -300\n dport 8472 => notrack\n{all}");
    assert_eq!(walk_with(&text, &facts()).tracked, Happens::Never);
}

#[test]
fn nat_chains_run_together_whatever_their_priority() {
    let chain = |priority: i32| format!("ip c C: nat postrouting {priority}\n oif eth0 => masquerade random-fully");
    let clearing = |priority: i32| format!("ip f F: filter postrouting {priority}\n dport 8472 => clear 0x4000");
    let marked =
        |priority: i32| format!("ip c C: nat postrouting {priority}\n mark 0x4000/0x4000 => masquerade random-fully");
    assert_eq!(rewritten(&chain(-50)), "yes");
    assert_eq!(rewritten(&[MARK, "\n", &clearing(50), "\n", &marked(-50)].concat()), "no", "50 is before the NAT core");
    assert_eq!(rewritten(&[MARK, "\n", &clearing(150), "\n", &marked(200)].concat()), "yes", "150 is after it");
    assert_eq!(rewritten(&[MARK, "\n", &clearing(100), "\n", &marked(200)].concat()), "maybe", "the same priority");
    let equal = format!("{}\nip d D: nat postrouting 100\n oif eth0 => masquerade", chain(100));
    assert_eq!(rewritten(&equal), "maybe");
    let outer = walk_with(&equal, &facts());
    let Happens::May(why) = outer.rewritten else { panic!("{outer:?}") };
    assert!(
        why.text.contains("chain C (table ip c) and chain D (table ip d) have priority 100 in postrouting"),
        "{why}"
    );
    let earlier = equal.replace("postrouting 100", "postrouting 99");
    assert_eq!(rewritten(&earlier.replacen("99", "98", 1)), "yes");
}

#[test]
fn families_are_independent() {
    let six = "
        ip6 nat OUTPUT: nat output -100
          => or 0x4000
        ip6 nat POSTROUTING: nat postrouting 100
          src fd42::/16 => masquerade";
    assert_eq!(rewritten(&[FIXED, six].concat()), "yes", "IPv6 inside, IPv4 outside");
    let no_nat = "ip6 nat OUTPUT: nat output -100\n => or 0x4000";
    assert_eq!(
        rewritten(&[FIXED, "\n", no_nat].concat()),
        "no",
        "nothing tracks connections of IPv6, so nat chains do not run"
    );
    let mut no_six = facts();
    no_six.inner[1] = Numbers::ranges(vec![]);
    assert_eq!(verdict(&walk_with(&[FIXED, six].concat(), &no_six)), "no", "no IPv6 goes into the tunnel");
    let inet = "inet t P: nat postrouting 100\n oif eth0 => masquerade random-fully";
    assert_eq!(rewritten(inet), "yes");
    let only_six = "ip6 t P: nat postrouting 100\n oif eth0 => masquerade random-fully";
    assert_eq!(rewritten(only_six), "no");
}

#[test]
fn the_mark_decides_the_way() {
    let mut routed = facts();
    routed.fwmarks[0] = vec![(0x4000, 0x4000)];
    let other = OuterPath { mark: 0x4000, device: name_key("eth1"), ..routed.paths[0].clone() };
    routed.paths.push(other);
    let text =
        |device: &str| format!("{MARK}\nip nat P: nat postrouting 100\n oif {device} => masquerade random-fully");
    assert_eq!(verdict(&walk_with(&text("eth1"), &routed)), "yes", "marked packets leave by eth1");
    assert_eq!(verdict(&walk_with(&text("eth1"), &facts())), "no");
}

#[test]
fn what_is_not_known_of_a_tunnel_matters_only_where_a_rule_asks() {
    let mut vague = facts();
    let path = &mut vague.paths[0];
    (path.remotes, path.device, path.source) = (None, None, None);
    path.primary = Err("which device it leaves by is not known".into());
    vague.vague = Some("flow-based".into());
    let post = |rule: &str| format!("ip nat P: nat postrouting 100\n {rule}");
    assert_eq!(verdict(&walk_with(&post("oif eth0 => masquerade random-fully"), &vague)), "maybe");
    assert_eq!(verdict(&walk_with(&post("=> masquerade random-fully"), &vague)), "yes");
    assert_eq!(verdict(&walk_with(&post("proto 6 => masquerade random-fully"), &vague)), "no");
    assert_eq!(verdict(&walk_with(&post("=> masquerade"), &vague)), "maybe");
}

#[test]
fn loops_and_thousands_of_chains_come_to_an_end() {
    let circle =
        "ip nat P: nat postrouting 100\n => jump C\nip nat C:\n sport 1 => masquerade random-fully\n => jump C";
    assert_eq!(rewritten(circle), "maybe");
    let mut many = String::from("ip f F: filter forward 0\n");
    for pod in 0..400 {
        many += &format!(" iif cali{pod} => jump W{pod}\n");
    }
    for pod in 0..400 {
        many += &format!("ip f W{pod}:\n proto 6, dport {} => or 0x10000, return\n => or 0x20000\n", pod + 1);
    }
    many += OLD;
    assert_eq!(rewritten(&many), "no");
    assert_eq!(rewritten(&many.replace("or 0x20000", "or 0x4000")), "yes");
}

#[test]
fn what_every_outer_packet_has_is_known() {
    let post = |rule: &str| format!("ip nat P: nat postrouting 100\n {rule} => masquerade random-fully");
    for (rule, expected) in [
        ("!fragment", "yes"),
        ("fragment", "no"),
        ("version 4", "yes"),
        ("version 6", "no"),
        ("length 1-65535", "yes"),
        ("!length 1-65535", "no"),
        ("!length 70-1000, !length 1001-70000", "no"),
        ("length 0-70", "no"), // around the headers of two packets
        ("length 100", "yes"),
        ("ttl 1-255", "yes"),
        ("ttl 0", "no"),
        ("ttl 64", "maybe"),
        ("id 0-65535", "yes"),
        ("!bridged", "yes"),
        ("bridged", "no"),
        ("status 0x8", "no"), // it is the first of its connection
        ("status 0x1", "no"), // and nobody expected it
    ] {
        assert_eq!(rewritten(&post(rule)), expected, "{rule}");
    }
    let zones = |rule: &str| {
        let template = "ip raw O: filter output -300\n oif eth0 => template\n";
        [post(rule), [template, &post(rule)].concat()].map(|text| rewritten(&text))
    };
    assert_eq!(zones("zone 0"), ["yes", "maybe"], "which zone a template gives is not read");
    assert_eq!(zones("zone 5"), ["no", "maybe"]);
    assert_eq!(zones("zone 0-65535"), ["yes", "yes"]);
    let first = "ip a P: nat postrouting 90\n length 1-65535 => masquerade\n";
    assert_eq!(rewritten(&[first, &post("")].concat()), "no", "it keeps the port, and none is left for the second");
    let inner = |rule: &str| format!("ip m F: filter forward 0\n {rule}, oif flannel.1 => or 0x4000\n{OLD}");
    assert_eq!(
        (rewritten(&inner("bridged")), rewritten(&inner("iif lo"))),
        ("no", "no"),
        "what is routed is not bridged"
    );
}

#[test]
fn checksums_that_are_filled_in_are_not_broken() {
    let catch_all = "\nip nat P: nat postrouting 100\n oif eth0 => masquerade random-fully";
    let fill = |rule: &str| format!("inet m M: filter postrouting -150\n {rule} => fill{catch_all}");
    assert_eq!(rewritten(&fill("oif eth0, proto 17, dport 8472")), "no", "those of the outer packets");
    assert_eq!(rewritten(&fill("oif flannel.1")), "no", "those of the packets inside");
    assert_eq!(rewritten(&fill("oif flannel.1, proto 17, dport 68")), "yes", "those of DHCP only");
    assert_eq!(rewritten(&fill("oif eth1")), "yes");
    assert!(walk_with(&fill("oif eth0"), &facts()).kept.contains("filled in"));
}

#[test]
fn marks_of_packets_without_a_connection_and_of_foreign_sources_get_into_the_tunnel() {
    let marker = |hook: &str, rule: &str| format!("ip m M: filter {hook} -150\n {rule} => or 0x4000\n{MARK}{OLD}");
    let cleared = |text: String| text.replace("dst 10.96.0.1 => or 0x4000, dnat", "dst 10.96.0.1 => dnat");
    for (hook, rule) in [("output", "state 1"), ("forward", "state 1"), ("output", "src 10.55.0.0/16")] {
        assert_eq!(rewritten(&cleared(marker(hook, rule))), "yes", "{hook} {rule}");
    }
}

#[test]
fn a_match_that_sorts_the_packets_makes_neither_branch_certain() {
    let sorted = "
        ip m O: filter output -150
          opaque, dst 10.42.1.0/24 => or 0x4000
          !dst 10.42.1.0/24 => jump OTHERS
        ip m OTHERS:
          opaque => return
          => or 0x4000";
    assert_eq!(rewritten(&[sorted, OLD].concat()), "maybe", "it may hold for those it marks, or for none");
}

#[test]
fn what_comes_out_of_a_tunnel_keeps_the_mark_of_the_packet_around_it() {
    for (name, marker, expected) in [
        ("on input", "ip m I: filter input -150\n proto 17, dport 8472 => or 0x4000", "maybe"),
        ("of another port", "ip m I: filter input -150\n proto 17, dport 53 => or 0x4000", "no"),
        ("of TCP", "ip m I: filter input -150\n proto 6 => or 0x4000", "no"),
        (
            "cleared",
            "ip m I: filter input -150\n => or 0x4000\nip c P: filter prerouting -150\n => clear 0x4000\nip6 c P: filter prerouting -150\n => clear 0x4000",
            "no",
        ),
        (
            "saved and restored",
            "ip m I: filter input -150\n proto 17 => or 0x4000\nip c P: filter prerouting -150\n iif flannel.1, mark 0x4000/0x4000 => save, clear 0x4000\nip6 c P: filter prerouting -150\n => clear 0x4000\nip r O: filter output -150\n dst 10.42.0.0/16 => restore",
            "yes",
        ),
    ] {
        assert_eq!(rewritten(&format!("{marker}\n{OLD}")), expected, "{name}");
    }
    let mut facts = facts();
    assert_eq!(verdict(&walk_with(OLD, &facts)), "no");
    facts.arrivals.marking = Numbers::of(&[name_key("flannel.1").unwrap()]);
    assert_eq!(verdict(&walk_with(OLD, &facts)), "maybe", "its sender chooses the mark");
    let restored = "ip s P: filter prerouting -150\n iif flannel.1 => save\nip r O: filter output -150\n dst 10.42.0.0/16 => restore\n";
    assert_eq!(verdict(&walk_with(&[restored, OLD].concat(), &facts)), "yes", "answers have it");
    assert_eq!(verdict(&walk_with(&OLD.replace("0x4000", "0x1000000"), &facts)), "no", "beyond a group policy");
}

#[test]
fn packets_come_out_of_tunnels_of_ip_with_marks_too() {
    let mut facts = facts();
    let with = |facts: &TunnelFacts, test: &str| {
        let own = ["192.0.2.10", "192.0.2.11"].map(|own| super::race::address((2, own, 0))).to_vec();
        let text = format!("ip m I: filter input -150\n {test} => or 0x4000\n{OLD}");
        verdict(&walk_on(&text, facts, HostFacts { addresses: Ok(own), ..host() }))
    };
    assert_eq!(with(&facts, "dst 192.0.2.10, proto 47"), "no");
    assert_eq!(with(&facts, "dst 192.0.2.10, proto 17, dport 8472"), "maybe");
    assert_eq!(with(&facts, "dst 192.0.2.11, proto 17, dport 8472"), "maybe", "peers may send there");
    assert_eq!(with(&facts, "dst 192.0.2.12, proto 17, dport 8472"), "no");
    let devices = Numbers::of(&[name_key("gre1").unwrap()]);
    facts.arrivals.ways.push(Arrival { addresses: None, ports: None, devices, nested: false });
    assert_eq!(with(&facts, "dst 192.0.2.10, proto 47"), "maybe");
}

#[test]
fn what_a_proxy_takes_is_not_forwarded() {
    let take =
        |step: &str| rewritten(&format!("ip m P: filter prerouting -150\n dst 10.42.0.0/16 => or 0x4000{step}\n{OLD}"));
    assert_eq!((take(""), take(", to-socket")), ("yes", "no"));
    let answers = "ip m P: filter prerouting -150\n => or 0x4000, save, to-socket\nip m O: filter output -150\n dst 10.42.0.0/16 => restore\n";
    assert_eq!(rewritten(&format!("{answers}{OLD}")), "yes", "answers of the proxy have the mark of the connection");
}

#[test]
fn only_tcp_and_udp_leave_a_checksum_to_the_device() {
    let mark = |protocol: u8| rewritten(&format!("ip m O: filter output -150\n proto {protocol} => or 0x4000\n{OLD}"));
    assert_eq!([6, 17, 1, 47, 50, 132].map(mark), ["yes", "yes", "no", "no", "no", "no"]);
}

#[test]
fn one_next_hop_of_several_is_a_question() {
    let mut facts = facts();
    let path = facts.paths[0].clone();
    let by = |number, device| OuterPath { next_hop: Some((number, 2)), device: name_key(device), ..path.clone() };
    facts.paths = vec![by(0, "eth0"), by(1, "eth1")];
    let found = |rule: &str| verdict(&walk_with(&format!("ip nat P: nat postrouting 100\n {rule}"), &facts));
    assert_eq!(found("oif eth0 => masquerade random-fully"), "maybe");
    assert_eq!(found("oif eth2 => masquerade random-fully"), "no");
    assert_eq!(found("=> masquerade random-fully"), "yes");
}

#[test]
fn what_a_tunnels_settings_make_of_headers_is_known() {
    let header = OuterHeader { dscp: Some(8), ttl: Some(5), dont_fragment: Some(false) };
    let with = |header: OuterHeader, text: &str| verdict(&walk_with(text, &TunnelFacts { header, ..facts() }));
    let rule = |test: &str| format!("ip nat P: nat postrouting 100\n {test} => masquerade random-fully");
    for (test, expected, unset) in [
        ("dscp 8", "yes", "maybe"),
        ("dscp 9", "no", "maybe"),
        ("!dscp 8", "no", "maybe"),
        ("ttl 5", "yes", "maybe"),
        ("ttl 6", "no", "maybe"),
        ("df", "no", "maybe"),
        ("!df", "yes", "maybe"),
        ("bytes @nh;96;32 192.0.2.10", "yes", "yes"),
        ("bytes @nh;96;32 192.0.2.11", "no", "no"),
        ("bytes @nh;128;32 192.0.2.20", "yes", "yes"),
        ("has ip-option-7", "no", "no"),
        ("!has tcp-option-2", "yes", "yes"),
    ] {
        assert_eq!(with(header, &rule(test)), expected, "{test}");
        assert_eq!(with(OuterHeader::default(), &rule(test)), unset, "{test}, not known");
    }
    let written = |test: &str| with(header, &format!("ip m O: filter output 0\n => write-dscp\n{}", rule(test)));
    assert_eq!([written("dscp 9"), written("ttl 6")], ["maybe", "no"], "a rule writes one");
    let inside = |test: &str| rewritten(&format!("ip m O: filter output -150\n {test} => or 0x4000\n{OLD}"));
    assert_eq!(["has tcp-option-2", "!has tcp-option-2"].map(inside), ["yes"; 2], "some packets inside have one");
}

/// With a quota it matches some packets, without one all.
#[test]
fn whether_an_accounting_object_has_a_quota_matters_only_where_the_others_go_elsewhere() {
    let post = |rule: &str| {
        rewritten(&format!("ip nat P: nat postrouting 100\n {rule}\n oif eth0 => masquerade random-fully"))
    };
    assert_eq!(post("accounting a => accept"), "maybe", "with a quota some packets come by");
    assert_eq!(post("accounting a => log"), "yes");
    assert_eq!(rewritten("ip nat P: nat postrouting 100\n accounting a => masquerade random-fully"), "yes");
    let mark = "ip m O: filter output -150\n dst 10.42.0.0/16, accounting a => or 0x4000\n";
    let both = format!("{mark}\n{OLD}");
    assert_eq!(rewritten(&both), "yes");
    let dropped = "ip f O: filter output 0\n accounting a => drop\n";
    assert_eq!(rewritten(&format!("{dropped}{mark}{OLD}")), "maybe");
    let twice = "ip f O: filter output 0\n accounting a => drop\n accounting a => drop\n";
    assert_eq!(rewritten(&format!("{twice}{mark}{OLD}")), "maybe");
}

#[test]
fn services_that_are_too_many_to_be_read_mark_no_packet_for_a_tunnels_socket() {
    let verdict_with = |marking: &str| {
        let mut written = rules(&format!(
            "ip nat PREROUTING: nat prerouting -100\nip nat {marking}:\n => or 0x4000
             ip nat POSTROUTING: nat postrouting 100\n !mark 0x4000/0x4000 => return\n => xor 0x4000\n => masquerade random-fully"
        ));
        let searched = written.nftables.chains.iter_mut().find(|(id, _)| id.chain.as_str() == "PREROUTING");
        searched.unwrap().1.rules = Reading::Failed(Failure::not_needed("too many"));
        let marks = written.nftables.chains.iter_mut().find(|(id, _)| id.chain.as_str() == marking);
        marks.unwrap().1.rules = Reading::Failed(Failure::not_needed("too many"));
        verdict(&walk_written(&written, &facts(), host()))
    };
    assert_eq!(verdict_with("KUBE-MARK-MASQ"), "no");
    assert_eq!(verdict_with("mine"), "maybe");
}
