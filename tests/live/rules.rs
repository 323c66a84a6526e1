//! Reading rules: during changes, with owners, without changing them, and their counters.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::Value;

use crate::support::capture::CaptureDir;
use crate::support::exposition::{Exposition, metrics_here};
use crate::support::fake::{CONNTRACK_SYSCTLS, NEIGHBOURS, Tree};
use crate::support::grammar::services;
use crate::support::netns::{Netns, veth};
use crate::support::nfnetlink::{generation, questions};
use crate::support::program::{HERE, NATWATCH, PublicCopy, Run, natwatch_as};
use crate::support::report::{Report, check_here, traced};
use crate::support::router::{Proto, Router};
use crate::support::rules::{assert_rules, assert_same, assert_series, expected, load, nft, reported, try_load};
use crate::support::server::Server;
use crate::support::strace::Call;
use crate::support::traffic::exhaust;
use crate::support::wait::{PATIENCE, eventually};

/// One of two alternating rule sets; `filler` rules make the listing of a chain longer than one datagram.
fn variant(chains: usize, rule: &str, filler: usize) -> String {
    let mut text = String::from("table ip t { }\ndelete table ip t\ntable ip t {\n");
    for number in 1..=chains {
        let _ = write!(text, " chain x{number} {{\n  {rule}\n }}\n");
    }
    text += " chain post {\n  type nat hook postrouting priority 100\n  oifname \"lo\" accept\n";
    for number in 0..filler {
        let _ = writeln!(text, "  ip saddr 10.0.{}.{} accept", number / 250, number % 250);
    }
    for number in 1..=chains {
        let _ = writeln!(text, "  jump x{number}");
    }
    text + " }\n}\n"
}

/// While two rule sets alternate, `look` returns one of them or that it is unknown, never a mixture.
fn never_mixes(ns: &Netns, filler: usize, mut look: impl FnMut() -> Report) {
    const REPORTS: usize = 60;
    let variants = [
        variant(3, "masquerade fully-random", filler),
        variant(5, "counter packets 3 bytes 4 snat to 192.0.2.1", filler),
    ];
    let sets = variants.each_ref().map(|text| {
        nft(ns, text);
        expected(ns)
    });
    assert_eq!(sets.each_ref().map(|rules| rules.values().map(Vec::len).sum::<usize>()), [3, 5]);
    let (first, ended) = (generation(ns), AtomicBool::new(false));
    let mut seen = [0; 2];
    let mut failed = 0;
    thread::scope(|scope| {
        // Also ends when the other thread panics.
        let _end = SetOnDrop(&ended);
        scope.spawn(|| {
            for text in variants.iter().cycle() {
                if ended.load(Ordering::Relaxed) {
                    break;
                }
                nft(ns, text);
            }
        });
        for _ in 0..REPORTS {
            let report = look();
            let (state, detail) = report.source("nftables").expect("it was asked");
            match (state, reported(&report)) {
                ("ok", Some(rules)) => {
                    let which = sets.iter().position(|set| *set == rules);
                    seen[which.unwrap_or_else(|| panic!("a mixture: {rules:?}"))] += 1;
                }
                ("failed", None) => {
                    assert!(detail.contains("changed"), "{detail}");
                    failed += 1;
                }
                other => panic!("{other:?}: {detail}"),
            }
        }
    });
    let changes = generation(ns).wrapping_sub(first);
    println!("{filler} more rules: {seen:?} and {failed} failed, {changes} changes");
    assert!(changes as usize >= REPORTS / 4, "the rules stood still: {changes} changes");
    // A long reading can be interrupted by a change eight times in a row.
    let enough = if filler == 0 { REPORTS / 2 } else { 1 };
    assert!(seen.iter().sum::<usize>() >= enough, "{seen:?} and {failed} failed");
}

/// Short and long listings, in single readings.
#[test]
fn a_report_never_mixes_two_rule_sets() {
    for filler in [0, 300] {
        let ns = Netns::new();
        never_mixes(&ns, filler, || check_here(&ns, &[]));
    }
}

/// By an exporter, which reuses what it has read.
#[test]
fn a_served_report_never_mixes_two_rule_sets() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    never_mixes(&ns, 0, || Report { code: 0, json: serde_json::from_str(&server.ok("/report.json")).expect("JSON") });
    server.stop();
}

/// A capture holds one rule set, or says that it could not be read.
#[test]
fn a_capture_never_mixes_two_rule_sets() {
    let ns = Netns::new();
    never_mixes(&ns, 0, || CaptureDir::of(&ns, &[]).check(&["--format", "json"]).report());
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A router whose server swallows UDP.
fn router() -> Router {
    let lab = Router::plain();
    lab.sink(Proto::Udp);
    lab
}

/// New flows through the router, each of one packet of 29 bytes.
fn send(lab: &Router, flows: u16) {
    let before = lab.delivered();
    // Packets of known flows do not traverse the rules again.
    lab.router.cmd("conntrack -F");
    exhaust(lab, Proto::Udp, flows);
    eventually(PATIENCE, || {
        let arrived = lab.delivered() - before;
        if arrived == u64::from(flows) { Ok(()) } else { Err(format!("{arrived} of {flows} have arrived")) }
    });
}

/// Packets are counted as the standard tools count them.
#[test]
fn counters_are_those_of_the_kernel() {
    let lab = router();
    let ns = &lab.router;
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -p udp -o wan0 -j MASQUERADE");
    nft(
        ns,
        "table ip own {
        chain post {
            type nat hook postrouting priority 90
            counter masquerade comment \"unused: the next rule is another's\"
        }
    }",
    );
    ns.run(&["nft", "insert", "rule", "ip", "own", "post", "oifname", "lo", "counter", "masquerade"]);
    send(&lab, 20);
    let report = assert_rules(ns);
    assert_series(&report, &metrics_here(ns, &[]));
    let counted = report.json["source_nat_rules"].as_array().expect("rules").iter().map(|rule| &rule["packets"]);
    assert_eq!(counted.filter_map(Value::as_u64).sum::<u64>(), 20, "{}", report.json["source_nat_rules"]);
}

/// Sums of packets and bytes over all kinds in an exporter's metrics, and the number of rules.
fn totals(metrics: &Exposition) -> [u64; 3] {
    ["rule_packets_total", "rule_bytes_total", "rules"].map(|name| {
        let series = metrics.series(&format!("natwatch_source_nat_{name}"));
        series.iter().map(|(_, value)| *value as u64).sum()
    })
}

/// Rules are added and removed; the counters grow with the packets, and never fall.
#[test]
fn served_counters_never_fall() {
    let lab = router();
    let ns = &lab.router;
    let rule = "POSTROUTING -p udp -o wan0 -j MASQUERADE";
    let iptables = |words: &str| ns.cmd(&format!("iptables-nft -w -t nat {words}"));
    iptables(&format!("-A {rule}"));
    let server = Server::start(ns, &HERE);
    let mut sent = 0;
    let mut shown = |flows: u16, rules: u64, what: &str| {
        sent += u64::from(flows);
        let metrics = Exposition::parse(&server.ok("/metrics"));
        assert_eq!(totals(&metrics), [sent, sent * 29, rules], "{what}");
        let families = metrics.families();
        assert!(families.contains("natwatch_source_nat_rules"), "a kind that was there keeps its series: {what}");
    };
    shown(0, 1, "at first");
    send(&lab, 10);
    shown(10, 1, "after 10 flows");
    iptables(&format!("-D {rule}"));
    shown(0, 0, "deleted");
    iptables(&format!("-A {rule}"));
    shown(0, 1, "added again, at 0");
    send(&lab, 5);
    shown(5, 1, "after 5 more");
    iptables("-R POSTROUTING 1 -p udp -o wan0 -j MASQUERADE --random-fully");
    shown(0, 1, "replaced by another kind");
    send(&lab, 7);
    shown(7, 1, "after 7 more");
    iptables("-I POSTROUTING 1 -p udp -o nowhere -j MASQUERADE --random-fully");
    shown(0, 2, "one in front of it");
    iptables("-Z POSTROUTING");
    shown(0, 2, "zeroed");
    send(&lab, 3);
    shown(3, 2, "after 3 more");
    let saved = ns.cmd("iptables-nft-save -c -t nat");
    iptables("-F POSTROUTING");
    shown(0, 0, "flushed");
    load(ns, &["iptables-nft-restore", "-w", "--counters"], &saved);
    shown(0, 2, "restored with its counters");
    send(&lab, 4);
    shown(4, 2, "after 4 more");
    load(ns, &["iptables-nft-restore", "-w"], &saved);
    shown(0, 2, "restored without them");
    send(&lab, 6);
    shown(6, 2, "after 6 more");
    // Rewritten all the time, as by kube-proxy.
    for round in 0..20 {
        load(ns, &["iptables-nft-restore", "-w"], &saved);
        shown(0, 2, &format!("written anew, {round}"));
        send(&lab, 1);
        shown(1, 2, &format!("and one flow, {round}"));
    }
    server.stop();
}

/// Without CAP_NET_ADMIN no rules are seen, and the report says so; with it alone they are seen.
#[test]
fn the_capability_decides_over_the_rules() {
    let ns = Netns::new();
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully");
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let without = ["--bounding-set=-all", "--inh-caps=-all"];
    // The second capability shows that there are no legacy tables; without it there is no list.
    let ambient = ["--inh-caps=+net_admin,+dac_read_search", "--ambient-caps=+net_admin,+dac_read_search"];
    let identities: [(&str, Vec<&str>, bool); 6] = [
        ("root", vec!["setpriv"], true),
        ("root without CAP_NET_ADMIN", vec!["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"], false),
        ("uid 0 without capabilities", [&["setpriv"][..], &without].concat(), false),
        ("uid 65534", [&nobody[..], &without].concat(), false),
        ("uid 65534 with CAP_NET_ADMIN and CAP_DAC_READ_SEARCH", [&nobody[..], &ambient].concat(), true),
        ("root of a user namespace", vec!["unshare", "-Ur"], false),
    ];
    let wanted = expected(&ns);
    for (name, identity, sees) in identities {
        let wrapper = [&identity[..], &[binary]].concat();
        let run = |format: &str| natwatch_as(&ns, &wrapper, &[&["check", "--format", format], &HERE[..]].concat());
        let (report, metrics) = (run("json").report(), Exposition::parse(&run("prometheus").stdout));
        let state = metrics.one_state("natwatch_source_info", &[("source", "nftables")]);
        if sees {
            println!("{name}");
            assert_same(&wanted, &report);
            assert_series(&report, &metrics);
            assert_eq!(state.as_deref(), Some("ok"), "{name}");
        } else {
            let (found, detail) = report.source("nftables").expect("it was asked");
            assert_eq!((found, state.as_deref()), ("denied", Some("denied")), "{name}: {detail}");
            assert!(detail.contains("CAP_NET_ADMIN"), "{name}: {detail}");
            assert_no_rules(&report, &metrics, name);
        }
        assert!(run("text").stderr.is_empty(), "{name}");
    }
}

#[track_caller]
fn assert_no_rules(report: &Report, metrics: &Exposition, name: &str) {
    assert_eq!(report.json["source_nat_rules"], Value::Null, "{name}");
    let series: BTreeSet<String> =
        metrics.families().into_iter().filter(|family| family.starts_with("natwatch_source_nat_")).collect();
    assert_eq!(series, BTreeSet::new(), "{name}");
}

/// `unshare -Urn`: root of a user namespace sees the rules of its own network.
#[test]
fn root_of_a_user_namespace_sees_the_rules_that_it_made() {
    let ns = Netns::new();
    let copy = PublicCopy::new();
    let binary = copy.path();
    let rules = "iptables-nft -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully && \
                 nft 'table ip own { chain post { type nat hook postrouting priority 90; masquerade; }; }'";
    let script = format!("{rules} && exec {} check --format json {} {}", binary.display(), HERE[0], HERE[1]);
    let run = natwatch_as(&ns, &["unshare", "-Urn", "sh", "-c"], &[&script]);
    let report = Run { stderr: String::new(), ..run }.report();
    assert_eq!(report.source("nftables"), Some(("ok", "")), "{}", report.json);
    let tables: Vec<&Value> =
        report.json["source_nat_rules"].as_array().expect("rules").iter().map(|rule| &rule["table"]).collect();
    assert_eq!(tables, ["own", "nat"]);
}

/// A kernel that could load nf_tables and has not: no request is sent that would load it.
#[test]
fn a_module_that_is_not_loaded_is_not_loaded_by_looking() {
    let ns = Netns::new();
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE");
    let (procfs, sysfs, rootfs) = (Tree::procfs(&ns), Tree::empty(), Tree::empty());
    procfs.copy_proc(&ns, NEIGHBOURS);
    procfs.copy_proc(&ns, CONNTRACK_SYSCTLS);
    procfs.copy_proc(&ns, &["thread-self/net/stat/nf_conntrack"]);
    procfs.write("modules", "nf_conntrack 180224 1 nf_nat, Live 0x0\nnf_tables_x 1 0 - Live 0x0\n");
    procfs.write("kallsyms", "0000000000000000 T nf_conntrack_init_net\n");
    sysfs.directories("module/nf_conntrack");
    sysfs.directories("kernel");
    let paths = ["--path.procfs", procfs.path(), "--path.sysfs", sysfs.path(), "--path.rootfs", rootfs.path()];
    let (report, calls) = traced(&ns, &paths);
    let sockets = |calls: &[Call]| calls.iter().filter(|call| call.makes_netlink(libc::NETLINK_NETFILTER)).count();
    assert!(calls.iter().any(|call| call.makes_netlink(libc::NETLINK_ROUTE)), "strace saw nothing: {calls:?}");
    assert_eq!((sockets(&calls), questions(&calls)), (0, Vec::new()), "{calls:?}");
    let (state, detail) = report.source("nftables").expect("it says why not");
    assert_eq!(state, "absent", "{detail}");
    assert!(detail.contains("nf_tables"), "{detail}");
    assert_eq!(report.json["source_nat_rules"], Value::Array(Vec::new()), "a fact: {}", report.json);
    // Where nothing indicates either, no request is sent, and the rules are unknown.
    procfs.remove("kallsyms");
    let (report, calls) = traced(&ns, &paths);
    assert_eq!((sockets(&calls), questions(&calls)), (0, Vec::new()), "{calls:?}");
    assert_eq!(report.source("nftables").map(|(state, _)| state), Some("failed"), "{}", report.json);
    assert_eq!(report.json["source_nat_rules"], Value::Null, "{}", report.json);
    // Loaded.
    procfs.write("modules", "nf_tables 372736 120 nft_compat, Live 0x0\n");
    let (report, calls) = traced(&ns, &paths);
    assert_eq!(sockets(&calls), 1, "{calls:?}");
    assert_same(&expected(&ns), &report);
}

/// Everything about rules that the standard tools print.
fn state(ns: &Netns) -> Vec<(String, String)> {
    let commands = [
        "nft -a list ruleset",
        "nft -j -a list ruleset",
        "iptables-nft-save -c",
        "ip6tables-nft-save -c",
        "iptables-legacy-save -c -t filter",
        "ipset list",
    ];
    let run = |line: &str| (line.to_owned(), without_dates(&ns.cmd(line)));
    commands.iter().map(|line| run(line)).chain(state_without_counters(ns)).collect()
}

/// The same without counters.
fn state_without_counters(ns: &Netns) -> Vec<(String, String)> {
    let mut state = vec![("nft".to_owned(), ns.cmd("nft -s -a list ruleset"))];
    for name in ["ip_tables_names", "ip6_tables_names", "ip_tables_targets", "ip_tables_matches", "ip6_tables_targets"]
    {
        state.push((name.to_owned(), ns.proc_net(name)));
    }
    state.push(("modules".to_owned(), fs::read_to_string("/proc/modules").unwrap_or_default()));
    state.push(("generation".to_owned(), generation(ns).to_string()));
    state
}

#[track_caller]
fn assert_unchanged(before: &[(String, String)], after: &[(String, String)]) {
    for ((what, before), (_, after)) in before.iter().zip(after) {
        assert_eq!(before, after, "{what} has changed");
    }
    assert_eq!(before.len(), after.len());
}

fn without_dates(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with("# ")).collect::<Vec<_>>().join("\n")
}

/// Reading rules changes none of them, nor their generation, and creates no table.
#[test]
fn looking_changes_nothing() {
    let ns = Netns::new();
    ns.cmd("iptables-legacy -w -t filter -A FORWARD -j ACCEPT");
    load(&ns, &["iptables-nft-restore", "-w"], &services(20));
    // A tunnel, whose addresses are looked up in sets; without packets that the kernel sends by itself.
    for scope in ["all", "default"] {
        ns.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), 1);
    }
    veth(&ns, "eth0", &ns, "eth1");
    ns.address("eth0", "192.0.2.1/24");
    ns.cmd("ip link add flannel.1 type vxlan id 1 dstport 8472 remote 192.0.2.2 dev eth0");
    ns.up("flannel.1");
    load(&ns, &["ipset", "restore"], "create pods hash:net counters\nadd pods 192.0.2.0/24 packets 5 bytes 300\n");
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -m set --match-set pods src -m limit --limit 1/s -j MASQUERADE");
    nft(
        &ns,
        "table inet own {
        map jumps { type ifname : verdict; elements = { \"eth0\" : jump one }; }
        set seen { type ipv4_addr; flags dynamic; }
        chain one { counter masquerade; }
        chain post { type nat hook postrouting priority 90; oifname vmap @jumps; ip saddr @seen accept; oifname \"eth0\" quota 25 mbytes masquerade; }
    }",
    );
    let before = state(&ns);
    let report = assert_rules(&ns);
    assert_eq!(report.source("ipset"), Some(("ok", "")), "{}", report.json);
    for format in ["text", "json", "prometheus", "nagios", "npd"] {
        natwatch_as(&ns, &[NATWATCH], &["check", "--format", format, HERE[0], HERE[1]]);
    }
    let home = tempfile::tempdir().expect("a directory");
    let capture = home.path().join("capture");
    natwatch_as(&ns, &[NATWATCH], &["capture", capture.to_str().expect("UTF-8")]).expect(0);
    assert_unchanged(&before, &state(&ns));
    // The test's own connections are counted by rules.
    let before = state_without_counters(&ns);
    let server = Server::start(&ns, &HERE);
    for path in ["/metrics", "/report.json", "/", "/metrics"] {
        server.ok(path);
    }
    server.stop();
    assert_unchanged(&before, &state_without_counters(&ns));
    // A change raises the generation.
    let last = generation(&ns);
    assert!(try_load(&ns, &["nft", "-f", "-"], "add table ip more").status.success());
    assert_eq!(generation(&ns), last + 1);
}
