//! Values about conntrack entries compared with the kernel's own list and with packets.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::counters::proc_netstat;
use crate::support::exposition::metrics_here;
use crate::support::netns::{Netns, fixed_neighbour, veth_within};
use crate::support::program::{NATWATCH, natwatch_as};
use crate::support::report::{Report, check_here};
use crate::support::router::{Backend, NatRule, Ports, Proto, ROUTER_WAN, Router, TARGET};
use crate::support::server::Server;
use crate::support::traffic::{conntrack_count, exhaust, fill_assured};
use crate::support::vxlan::VxlanPair;
use crate::support::wait::{PATIENCE, eventually};

const EXHAUSTION: &str = "snat-port-exhaustion";
const STALE: &str = "udp-stale-translation";
/// Runs natwatch without the right to read rules and entries.
const WITHOUT: [&str; 4] = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", NATWATCH];

fn flows(report: &Report) -> &Value {
    &report.json["flows"]
}

/// Number of entries that `conntrack -L` lists with these arguments.
fn listed(ns: &Netns, words: &str) -> usize {
    ns.cmd(&format!("conntrack -L {words}")).lines().count()
}

#[test]
fn ports_are_counted_as_conntrack_lists_them_and_run_out_where_the_verdict_says() {
    for proto in [Proto::Udp, Proto::Tcp] {
        for (backend, range, percent, expected) in [
            (Backend::IptablesNft, 512, 30, "mitigated"),
            (Backend::Nft, 512, 60, "mitigated"),
            (Backend::IptablesLegacy, 512, 85, "mitigated"),
            (Backend::Nft, 512, 97, "exposed"),
            (Backend::IptablesLegacy, 512, 100, "exposed"),
            (Backend::Nft, 128, 85, "mitigated"),
            (Backend::Nft, 128, 95, "mitigated"),
            (Backend::IptablesNft, 128, 100, "exposed"),
            (Backend::IptablesNft, 2048, 85, "mitigated"),
            (Backend::Nft, 2048, 98, "exposed"),
        ] {
            let ports = Ports::Range { proto, low: 2000, high: 2000 + range - 1 };
            let lab = Router::with(NatRule::masquerade(backend, ports));
            lab.sink(proto);
            let opened = u32::from(range) * percent / 100;
            exhaust(&lab, proto, opened as u16);
            let what = format!("{proto:?} {backend:?} {percent} % of {range}");
            let used = eventually(PATIENCE, || match listed(&lab.router, &format!("-q {ROUTER_WAN}")) {
                // The search for the last free ports gives up.
                used if used as u32 >= opened * 97 / 100 => Ok(used),
                used => Err(format!("{what}: {used} of {opened}")),
            });
            let report = check_here(&lab.router, &["--collector.flows.sample", "16384"]);
            assert_eq!(report.state(EXHAUSTION), expected, "{what}: {}", report.advisory(EXHAUSTION));
            // Below half of a range's ports no verdict depends on entries, and a table as small as this is not read.
            if flows(&report).is_null() {
                assert!(percent < 50, "{what}");
                continue;
            }
            let fullest = &flows(&report)["snat_ports"][0];
            assert_eq!(fullest["used"], used, "{what}: {fullest}");
            assert_eq!((&fullest["available"], &fullest["estimated"]), (&range.into(), &false.into()), "{what}");
            assert_eq!(fullest["source"], ROUTER_WAN.to_string());
            assert_eq!(fullest["destination"], TARGET.ip().to_string());
            assert_eq!((&fullest["port"], &fullest["protocol"]), (&TARGET.port().into(), &proto.name().into()));
            let metrics = metrics_here(&lab.router, &["--collector.flows.destinations", "3"]);
            let (source, destination, port) =
                (ROUTER_WAN.to_string(), TARGET.ip().to_string(), TARGET.port().to_string());
            let labels = [("source", &*source), ("destination", &*destination), ("port", &*port)];
            let labels = [&labels[..], &[("protocol", proto.name())]].concat();
            for ratio in [
                metrics.get("natwatch_snat_ports_used_ratio", &[]),
                metrics.get("natwatch_snat_destination_ports_used_ratio", &labels),
            ] {
                assert!((ratio.expect("a series") - used as f64 / f64::from(range)).abs() < 1e-9, "{what}: {ratio:?}");
            }
        }
    }
}

/// One packet from each of this many ports.
fn open_from(ns: &Netns, source: &str, first: u16, flows: u16, target: &str) {
    ns.enter(|| {
        for port in first..first + flows {
            let address: std::net::IpAddr = source.parse().expect("an address");
            let socket = UdpSocket::bind((address, port)).expect("a socket");
            socket.send_to(b"x", target).expect("a packet");
        }
    });
}

#[test]
fn sources_families_and_zones_are_counted_apart() {
    let lab = Router::plain();
    let (router, client, server) = (&lab.router, &lab.client, &lab.server);
    lab.sink(Proto::Udp);
    for (ns, device, address) in [
        (client, "eth0", "fd77:1::11/64"),
        (router, "lan0", "fd77:1::1/64"),
        (router, "wan0", "fd77:2::1/64"),
        (server, "eth0", "fd77:2::2/64"),
    ] {
        ns.cmd(&format!("ip addr add {address} dev {device} nodad"));
    }
    fixed_neighbour(client, "eth0", "fd77:1::1", (router, "lan0"));
    fixed_neighbour(router, "wan0", "fd77:2::2", (server, "eth0"));
    client.cmd("ip -6 route add default via fd77:1::1");
    router.sysctl("net.ipv6.conf.all.forwarding", 1);
    router.cmd("ip addr add 10.77.2.9/24 dev wan0");
    let rules = "
        table ip nat {
            chain zones { type filter hook prerouting priority -300; udp sport >= 50000 ct zone set 7; }
            chain post {
                type nat hook postrouting priority 100;
                ip saddr 10.77.1.12 meta l4proto udp snat to 10.77.2.9:2000-2511
                oifname wan0 meta l4proto udp masquerade to :2000-2511
            }
        }
        table ip6 nat {
            chain post { type nat hook postrouting priority 100; oifname wan0 meta l4proto udp masquerade to :2000-2511; }
        }";
    router.run(&["nft", rules]);
    let to = TARGET.to_string();
    open_from(client, "10.77.1.11", 30_000, 300, &to);
    open_from(client, "10.77.1.11", 50_000, 270, &to);
    open_from(client, "10.77.1.12", 30_000, 280, &to);
    open_from(client, "fd77:1::11", 30_000, 290, "[fd77:2::2]:7777");
    let of = |words: &str, zone: &str| {
        let listed = router.cmd(&format!("conntrack -L {words}"));
        listed.lines().filter(|line| line.contains("zone=7") == (zone == "7")).count()
    };
    let expected = [
        ("10.77.2.1", of("-q 10.77.2.1", "0")),
        ("10.77.2.1", of("-q 10.77.2.1", "7")),
        ("10.77.2.9", of("-q 10.77.2.9", "0")),
        ("fd77:2::1", of("-f ipv6 -q fd77:2::1", "0")),
    ];
    assert_eq!(expected.map(|(_, used)| used), [300, 270, 280, 290], "what was sent");
    let report = check_here(router, &[]);
    let rows = flows(&report)["snat_ports"].as_array().expect("ports").clone();
    let mut found: Vec<(String, usize)> = rows
        .iter()
        .map(|row| {
            (row["source"].as_str().expect("an address").to_owned(), row["used"].as_u64().expect("a number") as usize)
        })
        .collect();
    found.sort();
    let mut expected = expected.map(|(source, used)| (source.to_owned(), used)).to_vec();
    expected.sort();
    assert_eq!(found, expected, "{rows:?}");
    assert!(rows.iter().all(|row| row["estimated"] == false && row["available"] == 512), "{rows:?}");
}

#[test]
fn ports_that_a_map_gives_run_out_for_each_source() {
    let lab = Router::plain();
    let (router, client) = (&lab.router, &lab.client);
    lab.sink(Proto::Udp);
    router.cmd("ip addr add 10.77.2.9/24 dev wan0");
    let rules = "
        table ip nat {
            map sources {
                type ipv4_addr : interval ipv4_addr . inet_service
                flags interval
                elements = {
                    10.77.1.11 : 10.77.2.1-10.77.2.1 . 2000-2127,
                    10.77.1.12 : 10.77.2.9-10.77.2.9 . 2000-2511,
                }
            }
            chain post { type nat hook postrouting priority 100; meta l4proto udp snat to ip saddr map @sources; }
        }";
    router.run(&["nft", rules]);
    let to = TARGET.to_string();
    for (more, expected) in [(100, "mitigated"), (28, "exposed")] {
        open_from(client, "10.77.1.11", 30_000 + more, more, &to);
        open_from(client, "10.77.1.12", 30_000 + more, more, &to);
        let report = check_here(router, &[]);
        assert_eq!(report.state(EXHAUSTION), expected, "{}", report.advisory(EXHAUSTION));
        // Each source has an address of its own, and the kernel chooses among its ports.
        assert_eq!(report.state("snat-port-race"), "not_affected", "{}", report.advisory("snat-port-race"));
        for (source, available) in [("10.77.2.1", 128), ("10.77.2.9", 512)] {
            let rows = flows(&report)["snat_ports"].as_array().expect("ports");
            let row = rows.iter().find(|row| row["source"] == source).expect("a row");
            assert_eq!(
                (&row["used"], &row["available"]),
                (&listed(router, &format!("-q {source}")).into(), &available.into())
            );
        }
    }
}

/// A node with an address that masquerades, and entries of these kinds (benches/entries.py).
fn filled(masquerade: &str, kinds: &Value, seed: usize) -> Netns {
    let ns = Netns::new();
    veth_within(&ns, "out", "in");
    ns.address("out", "192.0.2.1/24");
    ns.sysctl("net.ipv4.ip_forward", 1);
    let chain = "add chain ip nat post { type nat hook postrouting priority 100; }";
    let rule = format!("add rule ip nat post oifname out meta l4proto tcp masquerade {masquerade}");
    ns.run(&["nft", &format!("add table ip nat; {chain}; {rule}")]);
    let filler = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/entries.py");
    ns.run(&["/usr/bin/python3", "-I", "-S", filler, &kinds.to_string(), &seed.to_string()]);
    ns
}

/// Without a port range in the rule, connections from a port below 1024 stay below it, where there are few.
#[test]
fn ports_below_1024_run_out_apart() {
    let others = json!({"count": 30_000, "destination": ["198.19.0.0", 20_000], "protocol": "udp", "status": 8});
    let low =
        |count| json!({"count": count, "translated": "192.0.2.1", "source_ports": [600, 1023], "ports": [600, 1023]});
    for (kinds, sample, expected) in [
        (json!([low(410)]), "16384", "exposed"),
        (json!([low(390)]), "16384", "mitigated"),
        (json!([others]), "4096", "mitigated"),
        (json!([others]), "256", "unknown"),            // 7 times 117 may be low ones
        (json!([others, low(410)]), "4096", "exposed"), // counted exactly
    ] {
        let report = check_here(&filled("", &kinds, 1), &["--collector.flows.sample", sample]);
        assert_eq!(report.state(EXHAUSTION), expected, "{kinds} {sample}: {}", report.advisory(EXHAUSTION));
    }
}

/// Estimates for tables of several sizes, and for destinations that use several shares of several ranges, lie within
/// the stated error: of many fills (`make test-estimates`: 50) most within three times it, and none beyond four.
#[test]
fn estimates_lie_within_the_error_that_they_state() {
    const SOURCE: &str = "192.0.2.1";
    let fills = std::env::var("NATWATCH_FILLS").map_or(3, |fills| fills.parse().expect("NATWATCH_FILLS is a number"));
    let mut within = 0;
    for fill in 0..fills {
        let (low, high) = [(1024, 65535), (10_000, 29_999), (40_000, 48_191)][fill % 3];
        let ports = if low == 1024 { String::new() } else { format!("to :{low}-{high}") };
        let range = high - low + 1;
        let destinations = [(1, 10), (2, 20), (3, 35)];
        let others = [20_000, 40_000, 80_000, 160_000][fill % 4];
        let mut kinds: Vec<Value> = destinations
            .iter()
            .map(|(host, percent)| {
                let count = (range * percent / 100).min(25_000);
                json!({"count": count, "translated": SOURCE, "ports": [low, high], "destination": format!("198.18.0.{host}")})
            })
            .collect();
        kinds.push(json!({"count": others, "destination": ["198.19.0.0", 20_000], "protocol": "udp", "status": 8}));
        let ns = filled(&ports, &Value::from(kinds), fill);
        let listed = ns.cmd(&format!("conntrack -L -p tcp -q {SOURCE}"));
        let report = check_here(&ns, &[]);
        let rows = flows(&report)["snat_ports"].as_array().expect("ports").clone();
        let mut worst = 0.0_f64;
        for (host, percent) in destinations {
            let destination = format!("198.18.0.{host}");
            let row = rows.iter().find(|row| row["destination"] == *destination).expect("a row");
            let real = listed.lines().filter(|line| line.contains(&format!(" dst={destination} sport"))).count() as f64;
            assert_eq!(row["estimated"], true, "{percent} %: {row}");
            let (used, error) = (row["used"].as_f64().expect("a number"), row["error"].as_f64().expect("a number"));
            worst = worst.max((used - real).abs() / error);
        }
        println!("fill {fill}: {others} others, ports {low}-{high}: at most {worst:.2} times the error");
        assert!(worst <= 4.0, "fill {fill}: {worst} times the error: {rows:?}");
        within += usize::from(worst <= 3.0);
    }
    println!("{within} of {fills} within three times the error");
}

/// A sample agrees with the whole count within its stated error; a filter counts the fullest destination exactly.
#[test]
fn a_sample_stands_for_a_table_that_is_larger() {
    const RANGE: u16 = 1000;
    let lab = Router::with(NatRule::masquerade(
        Backend::Nft,
        Ports::Range { proto: Proto::Udp, low: 3000, high: 3000 + RANGE - 1 },
    ));
    lab.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 120);
    lab.sink(Proto::Udp);
    exhaust(&lab, Proto::Udp, RANGE * 6 / 10);
    let entries = fill_assured(&lab.router, 20_000);
    let report = check_here(&lab.router, &["--collector.flows.sample", "4096"]);
    let found = flows(&report);
    assert_eq!(found["sampled"], 4096);
    let of = |list: &str| found["composition"].as_array().expect(list).clone();
    let all: u64 = of("composition").iter().map(|row| row["entries"].as_u64().expect("a number")).sum();
    assert!(all.abs_diff(entries) <= 4, "{all} of {entries}: {found}");
    let one_way = of("one way").into_iter().find(|row| row["state"] == "one_way").expect("unanswered ones");
    let (estimated, real) =
        (one_way["entries"].as_u64().expect("a number") as f64, listed(&lab.router, "-u UNREPLIED"));
    let share = real as f64 / entries as f64;
    // Six times the error of a sample of this size: six fills of one boot share the region that is read.
    let error = (share * (1.0 - share) / 4096.0).sqrt() * entries as f64;
    assert!((estimated - real as f64).abs() <= 6.0 * error, "{estimated}, {real} ± {error}");
    // The range is far too small for the sample, so its fullest destination is counted by a kernel filter, or unknown.
    let fullest = &found["snat_ports"][0];
    if fullest["estimated"] == false {
        assert_eq!(fullest["used"], listed(&lab.router, &format!("-q {ROUTER_WAN}")), "{fullest}");
    }
    assert_eq!(report.state(EXHAUSTION), "unknown", "{}", report.advisory(EXHAUSTION));
}

/// Sends to the address while `work` runs.
fn while_sending<T: Send>(from: &Netns, to: &str, work: impl FnOnce() -> T + Send) -> T {
    /// Also when a test panics: otherwise the sender would be waited for without end.
    struct Stopped<'s>(&'s AtomicBool);
    impl Drop for Stopped<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let (stop, started) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let stopped = Stopped(&stop);
        let sender = scope.spawn(|| {
            from.enter(|| {
                let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
                while !stop.load(Ordering::Relaxed) {
                    let _ = socket.send_to(b"x", to);
                    started.store(true, Ordering::Relaxed);
                    thread::sleep(Duration::from_millis(100));
                }
            });
        });
        eventually(PATIENCE, || if started.load(Ordering::Relaxed) { Ok(()) } else { Err("nothing was sent") });
        let done = work();
        drop(stopped);
        sender.join().expect("the sender");
        done
    })
}

#[test]
fn udp_that_no_rule_sends_there_any_more_is_told_from_what_rules_give() {
    for (add, replace) in [
        (
            "iptables-legacy -w -t nat -A PREROUTING -d 10.96.0.10 -p udp --dport 8125 -j DNAT --to 10.77.2.2:9000",
            "iptables-legacy -w -t nat -R PREROUTING 1 -d 10.96.0.10 -p udp --dport 8125 -j DNAT --to 10.77.2.2:9001",
        ),
        (
            "iptables-nft -w -t nat -A PREROUTING -d 10.96.0.10 -p udp -j DNAT --to 10.77.2.2:9000-9010",
            "iptables-nft -w -t nat -R PREROUTING 1 -d 10.96.0.10 -p udp -s 10.1.1.1 -j DNAT --to 10.77.2.2:9000-9010",
        ),
    ] {
        let lab = Router::plain();
        lab.router.cmd(add);
        let untouched = check_here(&lab.router, &[]);
        assert_eq!(conntrack_count(&lab.router), 0);
        assert_eq!(untouched.state(STALE), "mitigated", "nothing is tracked: {}", untouched.advisory(STALE));
        while_sending(&lab.client, "10.96.0.10:8125", || {
            eventually(PATIENCE, || match listed(&lab.router, "-p udp --dst-nat") {
                0 => Err("no entry yet"),
                _ => Ok(()),
            });
            let right = check_here(&lab.router, &[]);
            assert_eq!(right.state(STALE), "mitigated", "{}", right.advisory(STALE));
            lab.router.cmd(replace);
            let stale = check_here(&lab.router, &[]);
            assert_eq!(stale.state(STALE), "exposed", "{replace}: {}", stale.advisory(STALE));
            let flow = &flows(&stale)["stale_translations"][0];
            assert_eq!((&flow["destination"], &flow["port"]), (&"10.96.0.10".into(), &8125.into()), "{flow}");
            assert_eq!((&flow["translated_to"], &flow["confirmed"]), (&"10.77.2.2".into(), &true.into()), "{flow}");
            // Runs the remedy's command as it is shown.
            let remedies = stale.advisory(STALE)["remedies"].as_array().expect("remedies").clone();
            let command = remedies.iter().find_map(|remedy| remedy["command"].as_str()).expect("a command");
            lab.router.cmd(command);
        });
        let healed = check_here(&lab.router, &[]);
        assert_ne!(healed.state(STALE), "exposed", "{}", healed.advisory(STALE));
    }
}

#[test]
fn serve_sees_a_stale_translation_in_its_second_reading_and_hides_addresses() {
    // Another rule, or none.
    for rule in [Some("iptables-nft -w -t nat -A PREROUTING -d 10.96.0.10 -p udp -j DNAT --to 10.77.2.9"), None] {
        serve_sees_a_stale_translation_when(rule);
    }
}

fn serve_sees_a_stale_translation_when(rule: Option<&str>) {
    let lab = Router::plain();
    lab.track_without_nat();
    lab.router.cmd("iptables-nft -w -t nat -A PREROUTING -d 10.96.0.10 -p udp -j DNAT --to 10.77.2.2");
    while_sending(&lab.client, "10.96.0.10:8125", || {
        let flags = ["--network-namespace", "current", "--collector.flows.interval", "2"];
        let server = Server::start(&lab.router, &flags);
        let report = || -> Value { serde_json::from_str(&server.ok("/report.json")).expect("JSON") };
        eventually(PATIENCE, || match report()["flows"].is_null() {
            true => Err("no entry yet"),
            false => Ok(()),
        });
        lab.router.cmd("iptables-nft -w -t nat -F PREROUTING");
        rule.map(|rule| lab.router.cmd(rule));
        let state = |report: &Value| {
            let all = report["advisories"].as_array().expect("advisories").clone();
            all.into_iter().find(|advisory| advisory["id"] == STALE).expect(STALE)["state"].clone()
        };
        let stale = eventually(PATIENCE, || match report() {
            found if state(&found) == "exposed" => Ok(found),
            found => Err(found.to_string()),
        });
        assert!(!stale.to_string().contains("10.96.0.10"), "addresses of flows: {stale}");
        assert_eq!(stale["flows"]["stale_translations"][0]["destination"], Value::Null);
        server.stop();
    });
}

#[test]
fn flows_that_a_broken_tunnel_sends_are_counted_where_they_leave() {
    let pair = VxlanPair::behind_old_kube_proxy(true);
    let [a, b] = &pair.nodes;
    pair.connect();
    assert_eq!(proc_netstat(b)["UdpInCsumErrors"], 1, "the tunnel was not broken");
    let report = check_here(a, &[]);
    let rewritten = &flows(&report)["rewritten_tunnel_flows"];
    assert_eq!(rewritten.as_array().map(Vec::len), Some(1), "{}", report.json["flows"]);
    assert_eq!(
        (&rewritten[0]["device"], &rewritten[0]["peer"]),
        (&"flannel.1".into(), &pair.spec.node(1).to_string().into())
    );
    assert_ne!(rewritten[0]["port"], rewritten[0]["rewritten_port"]);
    let evidence = report.advisory("vxlan-double-snat-checksum")["evidence"].to_string();
    assert!(evidence.contains("now: 1 flow to 1 peer leaves with another port"), "{evidence}");
    assert_eq!(metrics_here(a, &[]).get("natwatch_tunnel_rewritten_flows", &[]), Some(1.0));
}

#[test]
fn without_permission_nothing_is_read_and_nothing_is_zero() {
    let lab = Router::plain();
    lab.router.cmd("iptables-nft -w -t nat -A PREROUTING -d 10.96.0.10 -p udp -j DNAT --to 10.77.2.2");
    while_sending(&lab.client, "10.96.0.10:8125", || {
        eventually(PATIENCE, || match conntrack_count(&lab.router) {
            0 => Err("no entry yet"),
            _ => Ok(()),
        });
        let words = ["check", "--format", "json", "--network-namespace", "current"];
        let report = natwatch_as(&lab.router, &WITHOUT, &words).report();
        assert_eq!(flows(&report), &Value::Null, "{}", report.json["flows"]);
        assert_eq!(report.state(STALE), "unknown");
        assert_eq!(report.source("ctnetlink_entries").map(|(state, _)| state), Some("denied"));
    });
}
