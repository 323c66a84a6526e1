//! Source-NAT rules in legacy x_tables: natwatch reports what `iptables-legacy-save` lists, rule by rule, and creates
//! no table by reading.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::capture::CaptureDir;
use crate::support::exposition::{Exposition, metrics_here};
use crate::support::grammar::{random_rule_sets, services};
use crate::support::netns::Netns;
use crate::support::program::{HERE, NATWATCH, PublicCopy, natwatch_as};
use crate::support::report::{Report, check_here};
use crate::support::rules::{assert_rules, assert_same_legacy, assert_series, expected_legacy, load, owners};
use crate::support::server::Server;
use crate::support::strace::{Call, Strace};
use crate::support::wait::{PATIENCE, eventually};

const RESTORE: &[&str] = &["iptables-legacy-restore", "-w", "--noflush"];
const RESTORE6: &[&str] = &["ip6tables-legacy-restore", "-w", "--noflush"];

fn shapes() -> Vec<PathBuf> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rules");
    let files = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("a file").path());
    let of_iptables = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "rules" || kind == "rules6");
    let mut files: Vec<_> = files.filter(of_iptables).collect();
    files.sort();
    files
}

fn load_shape(ns: &Netns, path: &Path) {
    let text = |path: PathBuf| fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let six = path.extension().is_some_and(|kind| kind == "rules6");
    let sets = path.with_extension("ipset");
    if !six && sets.exists() {
        load(ns, &["ipset", "restore"], &text(sets));
    }
    load(ns, if six { RESTORE6 } else { RESTORE }, &text(path.to_owned()));
}

fn rules(report: &Report) -> &Vec<Value> {
    report.json["source_nat_rules"].as_array().expect("rules")
}

/// The same rules as in the other backend, with the same owners.
#[test]
fn each_shape_is_reported_as_listed() {
    let shapes = shapes();
    assert!(shapes.len() > 18, "{shapes:?}");
    for path in &shapes {
        println!("{}", path.display());
        let ns = Netns::new();
        load_shape(&ns, path);
        let report = assert_rules(&ns);
        assert_series(&report, &metrics_here(&ns, &[]));
        assert!(!rules(&report).is_empty());
        assert!(rules(&report).iter().all(|rule| rule["backend"] == "legacy"), "{}", report.json);
        let other = Netns::new();
        let six = path.extension().is_some_and(|kind| kind == "rules6");
        let sets = path.with_extension("ipset");
        if !six && sets.exists() {
            load(&other, &["ipset", "restore"], &fs::read_to_string(sets).expect("text"));
        }
        let program = if six { "ip6tables-nft-restore" } else { "iptables-nft-restore" };
        load(&other, &[program, "-w", "--noflush"], &fs::read_to_string(path).expect("text"));
        assert_eq!(owners(&report), owners(&check_here(&other, &[])), "the backend does not matter to the owner");
    }
}

/// All of them on one node, in both backends at once.
#[test]
fn shapes_of_both_backends_on_one_node_keep_apart() {
    let ns = Netns::new();
    for path in shapes() {
        let text = fs::read_to_string(&path).expect("text");
        load_shape(&ns, &path);
        let six = path.extension().is_some_and(|kind| kind == "rules6");
        let program = if six { "ip6tables-nft-restore" } else { "iptables-nft-restore" };
        load(&ns, &[program, "-w", "--noflush"], &text);
    }
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    let of = |backend: &str| rules(&report).iter().filter(|rule| rule["backend"] == backend).count();
    assert!(of("legacy") > 20 && of("iptables_nft") > 20, "{}", report.json);
}

/// Random rule sets.
#[test]
fn random_rule_sets_are_reported_as_listed() {
    let found = random_rule_sets(["iptables-legacy-restore", "ip6tables-legacy-restore"]);
    assert!(found.len() >= 6, "every kind came up: {found:?}");
}

const NAMES: [&str; 2] = ["ip_tables_names", "ip6_tables_names"];

fn names(ns: &Netns) -> [String; 2] {
    NAMES.map(|name| ns.proc_net(name))
}

/// Reading creates no table: neither where there is none nor beside existing ones.
#[test]
fn looking_makes_no_table() {
    let fresh = Netns::new();
    let one = Netns::new();
    one.cmd("iptables-legacy -w -t mangle -A FORWARD -j ACCEPT");
    let expected = [String::from("mangle\n"), String::new()];
    for (ns, before) in [(&fresh, Default::default()), (&one, expected)] {
        assert_eq!(names(ns), before);
        for format in ["text", "json", "prometheus", "nagios", "npd"] {
            natwatch_as(ns, &[NATWATCH], &["check", "--format", format, HERE[0], HERE[1]]);
        }
        CaptureDir::of(ns, &[]);
        let server = Server::start(ns, &HERE);
        for path in ["/metrics", "/report.json", "/"] {
            server.ok(path);
        }
        server.stop();
        assert_eq!(names(ns), before);
        assert_eq!(*rules(&assert_rules(ns)), Vec::<Value>::new());
        assert_eq!(names(ns), before);
    }
}

/// Two tables of equal size alternate. Each result is one of them, never the chains of one with the rules of the other.
#[test]
fn a_table_that_is_replaced_meanwhile_is_never_mixed() {
    let ns = Netns::new();
    // Equal in size and number, with chains at other positions.
    let table = |first: &str, second: &str| {
        let chain = |name: &str, rules: &str| (0..40).map(|_| format!("-A {name} {rules}\n")).collect::<String>();
        let rule = |port: u16| format!("-s 10.0.0.0/8 -p udp -j MASQUERADE --to-ports {port}");
        format!(
            "*nat\n:{first} - [0:0]\n:{second} - [0:0]\n{}{}-A POSTROUTING -j {first}\n-A POSTROUTING -j {second}\nCOMMIT\n",
            chain(first, &rule(if first == "AAAA" { 1000 } else { 2000 })),
            chain(second, "-j RETURN")
        )
    };
    let tables = [table("AAAA", "BBBB"), table("BBBB", "AAAA")];
    load(&ns, &["iptables-legacy-restore", "-w"], &tables[0]);
    let stop = AtomicBool::new(false);
    let mut seen = BTreeMap::new();
    std::thread::scope(|scope| {
        let rewrite = scope.spawn(|| {
            for table in tables.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                load(&ns, &["iptables-legacy-restore", "-w"], table);
            }
        });
        for _ in 0..150 {
            let report = check_here(&ns, &[]);
            let Some(rules) = report.json["source_nat_rules"].as_array() else {
                let why = report.source("xtables_ipv4").map_or("", |(_, why)| why);
                assert!(why.contains("changed 64 times in a row"), "{why}");
                continue;
            };
            assert_eq!(rules.len(), 40, "{}", report.json);
            let first = (rules[0]["chain"].to_string(), rules[0]["to_ports"].to_string());
            for (position, rule) in (1..).zip(rules) {
                assert_eq!((rule["chain"].to_string(), rule["to_ports"].to_string()), first);
                assert_eq!(rule["position"], Value::from(position));
            }
            *seen.entry(first).or_insert(0) += 1;
        }
        stop.store(true, Ordering::Relaxed);
        rewrite.join().expect("the tables were loaded");
    });
    let both = [("\"AAAA\"", "\"1000-1000\""), ("\"BBBB\"", "\"2000-2000\"")];
    assert_eq!(seen.keys().map(|(chain, ports)| (&**chain, &**ports)).collect::<Vec<_>>(), both, "{seen:?}");
}

/// 50,000 rules of Services, one of which translates sources.
#[test]
fn a_large_table_is_reported_as_listed() {
    let ns = Netns::new();
    load(&ns, &["iptables-legacy-restore", "-w"], &services(25_000));
    let wanted = expected_legacy(&ns);
    let start = Instant::now();
    let report = check_here(&ns, &[]);
    println!("{:?}", start.elapsed());
    assert_same_legacy(&wanted, &report);
    assert_eq!(rules(&report).len(), 1, "{}", report.json);
}

/// CAP_NET_ADMIN reads tables, and uid 0 the list of tables; without either the rules are unknown, not empty.
#[test]
fn without_privilege_there_is_no_list() {
    let ns = Netns::new();
    ns.cmd("iptables-legacy -w -t nat -A POSTROUTING -o eth9 -j MASQUERADE");
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let without = ["--bounding-set=-all", "--inh-caps=-all"];
    let admin = ["--inh-caps=+net_admin", "--ambient-caps=+net_admin"];
    let both = ["--inh-caps=+net_admin,+dac_read_search", "--ambient-caps=+net_admin,+dac_read_search"];
    for (identity, state, word) in [
        (vec!["setpriv"], "ok", ""),
        ([&["setpriv"][..], &without].concat(), "denied", "CAP_NET_ADMIN"),
        ([&nobody[..], &without].concat(), "denied", "CAP_DAC_READ_SEARCH"),
        ([&nobody[..], &admin].concat(), "denied", "CAP_DAC_READ_SEARCH"),
        ([&nobody[..], &both].concat(), "ok", ""),
    ] {
        let run = natwatch_as(
            &ns,
            &[&identity[..], &[binary]].concat(),
            &[&["check", "--format", "json"][..], &HERE].concat(),
        );
        let report = run.report();
        let (found, detail) = report.source("xtables_ipv4").expect("it was asked");
        assert_eq!(found, state, "{identity:?}: {detail}");
        assert!(detail.contains(word), "{identity:?}: {detail}");
        assert_eq!(report.json["source_nat_rules"].is_array(), state == "ok", "{identity:?}");
    }
}

/// A capture is replayed to the same rules; so is a redacted one, which contains no address and no secret.
#[test]
fn a_capture_has_the_same_rules() {
    for path in shapes() {
        println!("{}", path.display());
        let ns = Netns::new();
        load_shape(&ns, &path);
        let secret = "*nat\n-A POSTROUTING -s 10.11.2.0/24 -m comment --comment secret -j SNAT --to-source 203.0.113.77\n\
                      -A POSTROUTING -m iprange --src-range 10.11.3.1-10.11.3.9 -j MASQUERADE\nCOMMIT\n";
        load(&ns, RESTORE, secret);
        let live = assert_rules(&ns);
        let replayed = CaptureDir::of(&ns, &[]).check(&["--format", "json"]).report();
        assert_eq!(replayed.json["source_nat_rules"], live.json["source_nat_rules"]);
        let redacted = CaptureDir::of(&ns, &["--redact"]);
        let replayed = redacted.check(&["--format", "json"]).report();
        assert_eq!(replayed.json["source_nat_rules"], live.json["source_nat_rules"], "{:?}", replayed.json["sources"]);
        let bytes = redacted.read("xtables/ipv4-nat");
        for word in [&b"secret"[..], &[203, 0, 113, 77], &[10, 11, 2, 0], &[10, 11, 3, 1]] {
            assert!(!bytes.windows(word.len()).any(|window| window == word), "{word:?} is still there");
        }
    }
}

/// What served metrics say about rules with counters.
#[test]
fn counters_are_those_of_the_tables() {
    let ns = Netns::new();
    let counted = "*nat\n[7:420] -A POSTROUTING -o eth9 -j MASQUERADE\n\
                   [18446744073709551615:1] -A POSTROUTING -o eth8 -j MASQUERADE --random-fully\nCOMMIT\n";
    load(&ns, &["iptables-legacy-restore", "-w", "--counters"], counted);
    let report = assert_rules(&ns);
    assert_eq!((&rules(&report)[0]["packets"], &rules(&report)[0]["bytes"]), (&7.into(), &420.into()));
    assert_series(&report, &metrics_here(&ns, &[]));
}

/// `IPT_BASE_CTL`
const IPT_SO_GET_INFO: i32 = 64;
const IPT_SO_GET_ENTRIES: i32 = 65;

/// An exporter notices every change of a table at once, and requests the entries of a large one only then.
#[test]
fn a_large_table_is_read_again_when_it_has_changed_and_a_small_one_each_time() {
    // The info of each table is requested before and after its entries, and at each reading for a large one.
    let (infos, entries) = asked_while_served(1);
    assert!(entries >= 15 && infos >= entries, "{infos} and {entries}");
    // 168 bytes each: more than 1 MiB.
    let start = Instant::now();
    let (infos, entries) = asked_while_served(7000);
    let in_time = start.elapsed() < Duration::from_secs(20);
    assert!(infos >= 15, "{infos} and {entries}");
    // One reading at the start and three changes; a slow machine reads once more after 30 s.
    assert!(!in_time || entries <= 4, "{infos} and {entries}");
}

/// Number of requests for the info and for the entries of table nat, over fifteen scrapes and three changes.
fn asked_while_served(rules: u64) -> (usize, usize) {
    let ns = Netns::new();
    let text = "-A POSTROUTING -o eth9 -j MASQUERADE\n".repeat(usize::try_from(rules).expect("few"));
    load(&ns, &["iptables-legacy-restore", "-w"], &format!("*nat\n{text}COMMIT\n"));
    let strace = Strace::of("getsockopt");
    let server = Server::start_as(&ns, &[strace.words(), vec![NATWATCH]].concat(), &HERE);
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
    for more in 1..=3 {
        ns.cmd("iptables-legacy -w -t nat -A POSTROUTING -o eth9 -j MASQUERADE");
        for _ in 0..5 {
            let metrics = Exposition::parse(&server.ok("/metrics"));
            let series = metrics.series("natwatch_source_nat_rules");
            let found: Vec<u64> = series.iter().map(|(_, rules)| *rules as u64).collect();
            assert_eq!(found, [rules + more]);
        }
    }
    server.stop();
    let calls = strace.calls();
    let asked = |option: i32| {
        let ipv4 = |call: &&Call| (call.number(1), call.number(2)) == (libc::SOL_IP.into(), option.into());
        calls.iter().filter(|call| call.is(&["getsockopt"])).filter(ipv4).count()
    };
    (asked(IPT_SO_GET_INFO), asked(IPT_SO_GET_ENTRIES))
}
