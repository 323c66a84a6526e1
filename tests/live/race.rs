//! The verdict about lost races for source ports compared with real lost races.

use std::time::Duration;

use crate::support::connection_lab::{ConnectionLab, services};
use crate::support::counters::conntrack_stats;
use crate::support::hold::Hold;
use crate::support::race::{Limits, Race, race};
use crate::support::report::{Report, check_here};
use crate::support::router::{Backend, CLIENTS, NatRule, Ports, Proto, ROUTER_WAN, Router, WAN};
use crate::support::rules::{load, nft};
use crate::support::wait::exclusive;

const ADVISORY: &str = "snat-port-race";

/// Enough for hundreds of collisions; the time is only used up on a very busy machine.
const RACE: Limits = Limits { rounds: 400, time: Duration::from_secs(10) };

/// See `lab.rs`: random ports lose one in 30,000 such rounds.
const RANDOM_FAILURES: u64 = 3;

/// Number of races after which to give up: on a busy machine packets compete less often.
const MAX_RACES: usize = 20;

/// Races until this many connections are lost; returns their number and the report afterwards.
fn lost(lab: &Router, proto: Proto, wanted: u64) -> (u64, Report) {
    if proto == Proto::Udp {
        lab.sink(proto);
    }
    for _ in 0..MAX_RACES {
        let report = race(lab, Race::Ports(proto), RACE);
        assert!(report.rounds > 0);
        if conntrack_stats(&lab.router).total("insert_failed") >= wanted {
            break;
        }
    }
    let stats = conntrack_stats(&lab.router);
    assert_eq!(stats.total("insert_failed"), stats.total("drop"));
    (stats.total("insert_failed"), check_here(&lab.router, &[]))
}

fn condition<'a>(report: &'a Report, id: &str) -> &'a str {
    let conditions = report.advisory(ADVISORY)["conditions"].as_array().unwrap();
    conditions.iter().find(|condition| condition["id"] == id).unwrap()["state"].as_str().unwrap()
}

#[test]
fn what_loses_connections_is_exposed_and_what_does_not_is_mitigated() {
    let _machine = exclusive();
    for backend in [Backend::IptablesLegacy, Backend::IptablesNft, Backend::Nft] {
        for (ports, proto) in [
            (Ports::Kept, Proto::Tcp),
            (Ports::Kept, Proto::Udp),
            (Ports::Random, Proto::Udp),
            (Ports::RandomFully, Proto::Tcp),
            (Ports::RandomFully, Proto::Udp),
        ] {
            let rule = NatRule::masquerade(backend, ports);
            let lab = Router::with(if proto == Proto::Tcp { rule } else { rule.to_source(ROUTER_WAN) });
            // This kernel has no port rover: `random` is as good as `random_fully`.
            let predictable = ports == Ports::Kept;
            let (lost, report) = lost(&lab, proto, if predictable { RANDOM_FAILURES + 1 } else { 0 });
            println!("{backend:?} {ports:?} {proto:?}: {lost} lost, {}", report.state(ADVISORY));
            assert_eq!(report.state(ADVISORY), if predictable { "exposed" } else { "mitigated" }, "{}", report.json);
            assert_eq!(report.advisory(ADVISORY)["severity"], "info");
            assert!(if predictable { lost > RANDOM_FAILURES } else { lost <= RANDOM_FAILURES }, "{lost} lost");
            let evidence = report.advisory(ADVISORY)["evidence"].to_string();
            assert!(evidence.contains(&format!("insert_failed since boot: {lost} ")), "{evidence}");
        }
    }
}

/// Rules of iptables for both of its backends, and the same for nft, to [`FORCED`].
const FORCED: [(&str, &str, &str, &str); 6] = [
    ("masqueraded", "POSTROUTING -j MASQUERADE", "masquerade", "exposed"),
    ("at random", "POSTROUTING -j MASQUERADE --random-fully", "masquerade fully-random", "mitigated"),
    ("to one address", "POSTROUTING -j SNAT --to-source NOBODY", "snat to NOBODY", "exposed"),
    ("UDP alone", "POSTROUTING -p udp -j SNAT --to-source NOBODY", "meta l4proto udp snat to NOBODY", "exposed"),
    (
        "one to one",
        "POSTROUTING -s CLIENT -j SNAT --to-source NOBODY",
        "FAMILY saddr CLIENT snat to NOBODY",
        "not_affected",
    ),
    (
        "a network for another",
        "POSTROUTING -s LAN -j NETMAP --to OTHER",
        "snat FAMILY prefix to FAMILY saddr map { LAN : OTHER }",
        "not_affected",
    ),
];

/// First packets of all hosts are held until all were translated: colliding ones are lost, however busy the machine is.
#[test]
fn a_forced_race_is_lost_where_the_verdict_says_so() {
    let play = |backend: Backend, six: bool, (name, iptables, native, state): (&str, &str, &str, &str)| {
        let lab = ConnectionLab::new(None);
        let family = if six { "ip6" } else { "ip" };
        let words: [(&str, &str); 5] = match six {
            true => [
                ("NOBODY", "fd80::7"),
                ("CLIENT", "fd77:1::12"),
                ("LAN", "fd77:1::/64"),
                ("OTHER", "fd80:1::/64"),
                ("FAMILY", "ip6"),
            ],
            false => [
                ("NOBODY", "10.80.0.7"),
                ("CLIENT", "10.77.1.12"),
                ("LAN", "10.77.1.0/24"),
                ("OTHER", "10.80.1.0/24"),
                ("FAMILY", "ip"),
            ],
        };
        let filled = |text: &str| words.iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, value));
        let program = |kind: &str| format!("{family}tables-{kind} -w -t nat -A {}", filled(iptables));
        match backend {
            Backend::IptablesLegacy => drop(lab.router.cmd(&program("legacy"))),
            Backend::IptablesNft => drop(lab.router.cmd(&program("nft"))),
            Backend::Nft => nft(
                &lab.router,
                &format!(
                    "table {family} t {{ chain c {{ type nat hook postrouting priority 100; {}; }}\n }}",
                    filled(native)
                ),
            ),
        }
        let report = check_here(&lab.router, &["--advisory", ADVISORY]);
        let found = lab.same_ports(&Hold::new(&lab.router), &[six]);
        let told = format!("{name} by {backend:?}, IPv6 {six}: {} lost, {:?}\n{}", found.lost, found.told, report.json);
        assert_eq!(report.state(ADVISORY), state, "{told}");
        assert_eq!(found.collide, state == "exposed", "{told}");
        // Two randomly chosen ports may be equal.
        match state {
            "exposed" => assert!(found.lost > 100, "{told}"),
            "mitigated" => assert!(found.lost < 10, "{told}"),
            _ => assert_eq!(found.lost, 0, "{told}"),
        }
    };
    let play = &play;
    std::thread::scope(|scope| {
        for backend in [Backend::IptablesLegacy, Backend::IptablesNft, Backend::Nft] {
            scope.spawn(move || {
                for (at, case) in FORCED.into_iter().enumerate() {
                    // The first three in both families, the others in one.
                    for six in [false, true].into_iter().filter(|six| at < 3 || *six == (at % 2 == 0)) {
                        play(backend, six, case);
                    }
                }
            });
        }
    });
}

/// Queries of one socket are held until all were translated. This kernel resolves clashes (`nf_ct_resolve_clash`); one
/// with the defect drops them.
#[test]
fn queries_of_one_socket_clash_where_the_verdict_says_so() {
    for six in [false, true] {
        let (family, one, other) =
            if six { ("ip6", "fd77:1::2", "fd77:1::3") } else { ("ip", "10.77.1.2", "10.77.1.3") };
        let service = services(six)[0];
        for (choice, several) in [
            (format!("dnat to numgen inc mod 2 map {{ 0 : {one}, 1 : {other} }}"), true),
            ("numgen random mod 2 vmap { 0 : goto one, 1 : goto other }".into(), true),
            (format!("dnat to jhash {family} saddr . udp sport mod 2 map {{ 0 : {one}, 1 : {other} }}"), false),
            ("goto one".into(), false),
        ] {
            let lab = ConnectionLab::new(None);
            nft(
                &lab.router,
                &format!(
                    "table {family} t {{ chain one {{ dnat to {one}; }}\n chain other {{ dnat to {other}; }}\n \
                     chain c {{ type nat hook prerouting priority -100; {family} daddr {service} udp dport 53 {choice}; }}\n }}"
                ),
            );
            let report = check_here(&lab.router, &["--kernel-defect", "udp-clash-drop=present"]);
            let before = conntrack_stats(&lab.router);
            let queries = lab.ask(&Hold::new(&lab.router), &[six]);
            let after = conntrack_stats(&lab.router);
            let told = format!("{choice}: {queries:?}\n{}", report.json);
            assert!(!queries.is_empty());
            assert_eq!(queries.iter().any(|(.., servers)| servers.len() > 1), several, "{told}");
            assert_eq!(report.state("dns-conntrack-race"), if several { "exposed" } else { "not_affected" }, "{told}");
            let rise = |name: &str| after.total(name) - before.total(name);
            assert!(rise("clash_resolve") > 0, "{told}");
            assert_eq!(rise("insert_failed"), 0, "{told}");
        }
    }
}

#[test]
fn a_kernel_with_the_rover_makes_random_a_warning() {
    let lab = Router::with(NatRule::masquerade(Backend::Nft, Ports::Random));
    let with = |state: &str| check_here(&lab.router, &["--kernel-defect", &format!("nat-port-rover={state}")]);
    assert_eq!(with("absent").state(ADVISORY), "mitigated");
    let report = with("present");
    assert_eq!((report.state(ADVISORY), report.code), ("exposed", 2));
    assert_eq!(report.advisory(ADVISORY)["severity"], "warning");
    assert_eq!(condition(&report, "port_not_random"), "holds");
}

/// The rule that decides is not the first one, or is in the other backend.
#[test]
fn only_rules_that_connections_get_to_count() {
    let _machine = exclusive();
    for (name, legacy, native, loses) in [
        ("a random rule before a plain one", "-j MASQUERADE --random-fully\n-A POSTROUTING -j MASQUERADE", "", false),
        (
            "a plain one for others",
            "-o lan0 -j ACCEPT\n-A POSTROUTING -o lan0 -j MASQUERADE\n-A POSTROUTING -j MASQUERADE --random-fully",
            "",
            false,
        ),
        (
            "an earlier chain of the other backend",
            "-j MASQUERADE",
            "chain early { type nat hook postrouting priority 99; masquerade fully-random\n}",
            false,
        ),
        (
            "a later chain of the other backend",
            "-o lan0 -j RETURN",
            "chain late { type nat hook postrouting priority 101; masquerade\n}",
            true,
        ),
        (
            "a mark of one backend, a rule of the other",
            "-m mark --mark 0x10/0x10 -j MASQUERADE",
            "chain marks { type filter hook forward priority 0; meta mark set meta mark or 0x10\n}",
            true,
        ),
        (
            "a mark that nothing sets",
            "-m mark --mark 0x20/0x20 -j MASQUERADE\n-A POSTROUTING -j MASQUERADE --random-fully",
            "chain marks { type filter hook forward priority 0; meta mark set meta mark or 0x10\n}",
            false,
        ),
    ] {
        let lab = Router::plain();
        load(&lab.router, &["iptables-legacy-restore"], &format!("*nat\n-A POSTROUTING {legacy}\nCOMMIT\n"));
        nft(&lab.router, &format!("table ip t {{\n{native}\n}}"));
        let (lost, report) = lost(&lab, Proto::Udp, if loses { RANDOM_FAILURES + 1 } else { 0 });
        println!("{name}: {lost} lost, {}", report.state(ADVISORY));
        assert_eq!(report.state(ADVISORY), if loses { "exposed" } else { "mitigated" }, "{name}: {}", report.json);
        assert!(if loses { lost > RANDOM_FAILURES } else { lost <= RANDOM_FAILURES }, "{name}: {lost} lost");
    }
}

/// Without collisions: no packet reaches the rule, or each client has an address of its own.
#[test]
fn only_sources_that_are_given_one_address_race() {
    let _machine = exclusive();
    let to = |client: usize, last: u8| {
        format!("-A POSTROUTING -s {}/32 -o {WAN} -j SNAT --to-source 10.77.2.{last}", CLIENTS[client])
    };
    let masquerade = format!("-A POSTROUTING -s 10.77.1.0/24 -o {WAN} -j MASQUERADE");
    let both = |first: u8, second: u8| format!("{}\n{}", to(0, first), to(1, second));
    for (name, nat, others, state) in [
        ("one address for each", both(21, 22), "", "not_affected"),
        ("one of them this host's", both(1, 22), "", "not_affected"),
        ("one address for both", both(21, 21), "", "exposed"),
        (
            "a network for another",
            format!("-A POSTROUTING -s 10.77.1.0/24 -o {WAN} -j NETMAP --to 10.77.2.0/24"),
            "",
            "not_affected",
        ),
        ("a device that is not there", format!("-A POSTROUTING -o {WAN}0 -j MASQUERADE"), "", "not_affected"),
        ("nothing is forwarded", masquerade.clone(), "*filter\n:FORWARD DROP\nCOMMIT\n", "not_affected"),
        (
            "something is",
            masquerade.clone(),
            "*filter\n:FORWARD DROP\n-A FORWARD -i lan0 -j ACCEPT\nCOMMIT\n",
            "exposed",
        ),
        ("nothing is tracked", masquerade.clone(), "*raw\n-A PREROUTING -j NOTRACK\nCOMMIT\n", "not_affected"),
        (
            "an empty set",
            format!("-A POSTROUTING -m set --match-set none src -o {WAN} -j MASQUERADE"),
            "",
            "not_affected",
        ),
        (
            "a set of 10,000 networks",
            format!("-A POSTROUTING -m set --match-set large src -o {WAN} -j MASQUERADE"),
            "",
            "exposed",
        ),
        (
            "10,000 others",
            format!(
                "-A POSTROUTING -m set --match-set large src -j RETURN\n-A POSTROUTING -s 10.77.1.0/24 -o {WAN} -j MASQUERADE"
            ),
            "",
            "not_affected",
        ),
        (
            "a set that a rule fills",
            format!("-A POSTROUTING -m set --match-set seen src -o {WAN} -j MASQUERADE"),
            "*mangle\n-A PREROUTING -i lan0 -j SET --add-set seen src\nCOMMIT\n",
            "exposed",
        ),
    ] {
        let lab = Router::plain();
        for set in ["none", "large"] {
            lab.router.run(&["ipset", "create", set, "hash:net"]);
        }
        lab.router.run(&["ipset", "create", "seen", "hash:ip", "timeout", "300"]);
        let elsewhere =
            (0..10_000).map(|at| format!("add large 172.{}.{}.{}/28\n", at >> 12, at >> 4 & 255, (at & 15) * 16));
        load(&lab.router, &["ipset", "restore"], &(elsewhere.collect::<String>() + "add large 10.77.1.0/24\n"));
        load(&lab.router, &["iptables-nft-restore"], &format!("*nat\n{nat}\nCOMMIT\n{others}"));
        let races = state == "exposed";
        let (lost, report) = lost(&lab, Proto::Udp, if races { RANDOM_FAILURES + 1 } else { 0 });
        println!("{name}: {lost} lost, {}", report.state(ADVISORY));
        assert_eq!(report.state(ADVISORY), state, "{name}: {}", report.json);
        assert_eq!(lost > 0, races, "{name}: {lost} lost");
    }
    let lab = Router::with(NatRule::masquerade(Backend::Nft, Ports::Kept));
    assert_eq!(check_here(&lab.router, &[]).state(ADVISORY), "exposed");
    let behind = "table ip z { chain c { type filter hook postrouting priority 150; ip saddr 10.77.2.1 drop; }; }";
    lab.router.run(&["nft", behind]);
    let (lost, report) = lost(&lab, Proto::Udp, 0);
    assert_eq!((lost, report.state(ADVISORY)), (0, "not_affected"), "dropped behind its translation");
    lab.router.run(&["nft", "delete table ip z"]);
    lab.router.sysctl("net.ipv4.ip_forward", 0);
    assert_eq!(check_here(&lab.router, &[]).state(ADVISORY), "not_affected", "it forwards nothing");
}

#[test]
fn a_small_range_of_ports_says_that_it_runs_out() {
    let lab =
        Router::with(NatRule::masquerade(Backend::Nft, Ports::Range { proto: Proto::Udp, low: 1024, high: 1029 }));
    let report = check_here(&lab.router, &[]);
    let text = report.advisory(ADVISORY)["conditions"].to_string();
    assert!(
        text.contains("it has only 6 ports: connections to one destination are lost once these are used up"),
        "{text}"
    );
}

#[test]
fn without_source_nat_or_with_one_cpu_nothing_competes() {
    let lab = Router::plain();
    lab.track_without_nat();
    let report = check_here(&lab.router, &[]);
    assert_eq!(report.state(ADVISORY), "not_affected");
    assert_eq!(condition(&report, "source_nat_reachable"), "fails");
    NatRule::masquerade(Backend::IptablesLegacy, Ports::Kept).apply(&lab.router, "lan0");
    assert_eq!(check_here(&lab.router, &[]).state(ADVISORY), "exposed");
    assert_eq!(WAN, "wan0");
}

#[test]
fn service_rules_in_both_backends_are_told() {
    let lab = Router::plain();
    let state = || check_here(&lab.router, &[]).state("iptables-backend-split").to_owned();
    let shape = |name: &str| {
        std::fs::read_to_string(format!("{}/tests/rules/{name}.rules", env!("CARGO_MANIFEST_DIR"))).unwrap()
    };
    assert_eq!(state(), "not_affected");
    load(&lab.router, &["iptables-legacy-restore"], &shape("kube-proxy-1.16"));
    assert_eq!(state(), "not_affected", "legacy alone");
    load(&lab.router, &["iptables-nft-restore", "--noflush"], &shape("docker"));
    assert_eq!(state(), "not_affected", "Docker beside it is no split");
    load(&lab.router, &["iptables-nft-restore", "--noflush"], &shape("kube-proxy-1.19"));
    assert_eq!(state(), "exposed");
    load(&lab.router, &["iptables-legacy-restore"], "*nat\nCOMMIT\n");
    assert_eq!(state(), "not_affected", "the stale half is gone");
}
