//! Connection tracking on a live kernel: natwatch reports what `conntrack -S` and sysctls do, after real races,
//! exhausted ports and full tables; and why, if the kernel's files are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::support::counters::{Counters, CtStats, conntrack_stats};
use crate::support::exposition::{Exposition, metrics_here};
use crate::support::fake::{CONNTRACK_SYSCTLS, NEIGHBOURS, Tree};
use crate::support::netns::Netns;
use crate::support::program::{HERE, NATWATCH, PublicCopy, Run, natwatch_as, natwatch_in};
use crate::support::race::{Limits, Race, race};
use crate::support::report::{NOT_THE_NODES, Report, check, check_here};
use crate::support::router::{Backend, NatRule, Ports, Proto, Router};
use crate::support::strace::{Call, Strace};
use crate::support::traffic::{conntrack_count, conntrack_limit, exhaust, fill_assured, fill_unassured};
use crate::support::wait::{PATIENCE, eventually, exclusive};

const RACE: Limits = Limits { rounds: 400, time: Duration::from_secs(10) };
const FULL: &str = "conntrack-table-full";
/// Arguments of `setpriv` for a user without any privilege.
const NOBODY: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn masquerade(ports: Ports) -> Router {
    Router::with(NatRule::masquerade(Backend::IptablesLegacy, ports))
}

/// Counters of `conntrack -S`, summed over CPUs.
fn totals(stats: &CtStats) -> Counters {
    let names = stats.per_cpu.iter().flat_map(|cpu| cpu.keys());
    names.map(|name| (name.clone(), stats.total(name))).collect()
}

/// Values of the sysctls: entries, limit, buckets.
fn sizes(ns: &Netns) -> [u64; 3] {
    ["count", "max", "buckets"].map(|name| {
        let key = format!("net.netfilter.nf_conntrack_{name}");
        ns.read_sysctl(&key).parse().unwrap_or_else(|e| panic!("{key}: {e}"))
    })
}

/// Runs `look` between two runs of the standard tools with equal results, so that its result has to agree with them.
fn between<T>(ns: &Netns, look: impl Fn() -> T) -> (CtStats, [u64; 3], T) {
    eventually(PATIENCE, || {
        let before = (conntrack_stats(ns), sizes(ns));
        let seen = look();
        let after = (conntrack_stats(ns), sizes(ns));
        if before == after { Ok((before.0, before.1, seen)) } else { Err("the counters do not rest") }
    })
}

/// Asserts that JSON, metrics and per-CPU metrics of the namespace equal what conntrack and sysctl print.
fn assert_agrees(ns: &Netns) -> (Counters, Report) {
    let look = || {
        let per_cpu = metrics_here(ns, &["--collector.conntrack.per-cpu"]);
        (check_here(ns, &[]), metrics_here(ns, &[]), per_cpu)
    };
    let (stats, sizes, (report, metrics, per_cpu)) = between(ns, look);
    let expected = totals(&stats);
    assert!(expected.len() >= 10, "{expected:?}");
    assert_counters(&expected, &report.counters().expect("counters"));
    assert_counters(&expected, &metrics.conntrack_counters());
    assert_counters(&expected, &per_cpu.conntrack_counters());
    assert_sizes(sizes, &report, &metrics);
    assert_per_cpu(&stats, &per_cpu);
    assert_eq!(metrics.series("natwatch_conntrack_cpu_drop_total"), [], "only with the flag");
    assert_eq!(metrics.series("natwatch_conntrack_cpu_insert_failed_total"), [], "only with the flag");
    assert_eq!(report.source("proc_conntrack").map(|(state, _)| state), Some("ok"));
    assert_eq!(
        report.source("ctnetlink"),
        Some(("ok", "not needed")),
        "not asked where the file is there: {}",
        report.json
    );
    (expected, report)
}

/// Asserts every counter that conntrack prints; natwatch may know more.
fn assert_counters(expected: &Counters, seen: &BTreeMap<String, u64>) {
    for (name, value) in expected {
        assert_eq!(seen.get(name), Some(value), "{name}: conntrack -S {expected:?}, natwatch {seen:?}");
    }
}

fn assert_sizes(sizes: [u64; 3], report: &Report, metrics: &Exposition) {
    for (name, expected) in ["entries", "entries_limit", "buckets"].into_iter().zip(sizes) {
        assert_eq!(report.json["conntrack"][name], expected, "{name}");
        assert_eq!(metrics.get(&format!("natwatch_conntrack_{name}"), &[]), Some(expected as f64), "{name}");
    }
}

fn assert_per_cpu(stats: &CtStats, metrics: &Exposition) {
    for counter in ["insert_failed", "drop"] {
        let name = format!("natwatch_conntrack_cpu_{counter}_total");
        assert_eq!(metrics.series(&name).len(), stats.per_cpu.len(), "{name}");
        for (cpu, counters) in stats.per_cpu.iter().enumerate() {
            let value = metrics.get(&name, &[("cpu", &cpu.to_string())]);
            assert_eq!(value, Some(counters[counter] as f64), "{name} of CPU {cpu}: {stats:?}");
        }
    }
}

/// A port race is lost on two CPUs, and natwatch counts every loss.
#[test]
fn lost_port_races_are_counted_as_conntrack_counts_them() {
    let _machine = exclusive();
    for proto in [Proto::Tcp, Proto::Udp] {
        let lab = masquerade(Ports::Kept);
        let report = race(&lab, Race::Ports(proto), RACE);
        let (counters, report_json) = assert_agrees(&lab.router);
        assert!(counters["insert_failed"] > 0, "no race was lost: {report:?} {counters:?}");
        // Refused TCP connections leave no entry behind.
        let expected = if report_json.json["conntrack"]["entries"] == 0 { "not_affected" } else { "mitigated" };
        assert_eq!(report_json.state(FULL), expected, "{}", report_json.json);
    }
}

/// Two threads on one socket: nothing is lost, and `clash_resolve` counts the clashes.
#[test]
fn clashes_of_the_same_socket_are_counted_as_resolved() {
    let _machine = exclusive();
    let lab = masquerade(Ports::Kept);
    lab.sink(Proto::Udp);
    let report = race(&lab, Race::SameSocket, RACE);
    lab.settle(report.sent);
    let (counters, _) = assert_agrees(&lab.router);
    assert!(counters["clash_resolve"] > 0, "no clash: {report:?} {counters:?}");
    assert_eq!(counters["insert_failed"], 0);
}

/// 50 flows through a rule with 10 ports: exactly 40 insertions fail.
#[test]
fn exhausted_ports_are_counted_exactly() {
    for (backend, proto) in
        [(Backend::IptablesLegacy, Proto::Udp), (Backend::IptablesNft, Proto::Tcp), (Backend::Nft, Proto::Udp)]
    {
        let lab = Router::with(NatRule::masquerade(backend, Ports::Range { proto, low: 4001, high: 4010 }));
        lab.sink(proto);
        lab.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 600);
        let sent = exhaust(&lab, proto, 50);
        assert_eq!(lab.settle(sent), 10, "{backend:?} {proto:?}");
        let (counters, report) = assert_agrees(&lab.router);
        assert_eq!((counters["insert_failed"], counters["drop"]), (40, 40), "{backend:?} {proto:?}");
        assert_eq!(report.json["conntrack"]["counters"]["insert_failed"], 40);
        assert_eq!(report.json["conntrack"]["entries"], 10);
    }
}

/// A table full of entries that may be evicted is a full table, too.
#[test]
fn a_table_full_of_unassured_entries_is_exposed() {
    let _machine = exclusive();
    let lab = masquerade(Ports::Kept);
    lab.sink(Proto::Udp);
    let sent = fill_unassured(&lab, conntrack_limit(&lab.router) + 20_000);
    lab.settle_evicting(sent);
    let (counters, _) = assert_agrees(&lab.router);
    assert!(counters["early_drop"] > 0, "{counters:?}");
    assert_full(&lab.router);
    assert_emptied(&lab.router);
}

/// A table full of entries that are never evicted: new flows are dropped and counted.
#[test]
fn a_table_full_of_assured_entries_is_exposed_and_its_drops_are_counted() {
    let _machine = exclusive();
    let lab = masquerade(Ports::Kept);
    lab.sink(Proto::Udp);
    let limit = conntrack_limit(&lab.router);
    assert_eq!(fill_assured(&lab.router, limit + 100), limit);
    let before = conntrack_stats(&lab.router).total("drop");
    let sent = exhaust(&lab, Proto::Udp, 200);
    assert_eq!(lab.settle(sent + before), 0);
    let (counters, report) = assert_agrees(&lab.router);
    assert_eq!(counters["drop"] - before, 200);
    let evidence = report.advisory(FULL)["evidence"].to_string();
    assert!(evidence.contains(&format!("drop since boot: {}", counters["drop"])), "{evidence}");
    assert_full(&lab.router);
    assert_emptied(&lab.router);
}

/// Asserts that every format reports a full table, and that without the namespace flag nothing is claimed.
fn assert_full(ns: &Netns) {
    let report = check_here(ns, &[]);
    assert_eq!((report.state(FULL), report.code), ("exposed", 2), "{}", report.json);
    assert_eq!(report.json["verdict"], "exposed");
    let metrics = metrics_here(ns, &[]);
    assert_eq!(metrics.get("natwatch_exposure", &[("advisory", FULL)]), Some(1.0));
    let state = metrics.one_state("natwatch_advisory_info", &[("advisory", FULL)]);
    assert_eq!(state.as_deref(), Some("exposed"));
    // The kernel's garbage collector sometimes evicts unassured entries of a table this full.
    let before = conntrack_count(ns);
    let nagios = natwatch_in(ns, &["check", "--format", "nagios", HERE[0], HERE[1]]);
    let after = conntrack_count(ns);
    assert_eq!(nagios.code, 2, "{nagios:?}");
    assert!(nagios.stdout.starts_with("NATWATCH CRITICAL - ") && nagios.stdout.contains(FULL), "{nagios:?}");
    let perfdata = nagios.stdout.split_once(" | ").expect("performance data").1;
    let entries = perfdata.split_once("conntrack_entries=").expect("entries").1;
    let (entries, limit) = entries.split_once(";;;0;").expect("a limit");
    let entries: u64 = entries.parse().expect("a number");
    assert!((after..=before).contains(&entries), "{before} to {after}: {perfdata}");
    assert_eq!(limit.split_whitespace().next(), Some(conntrack_limit(ns).to_string().as_str()), "{perfdata}");
    let npd = natwatch_in(ns, &["check", "--format", "npd", HERE[0], HERE[1]]);
    assert_eq!(npd.code, 1, "{npd:?}");
    assert_one_short_line(&npd);
    assert!(npd.stdout.contains(FULL), "{npd:?}");
    assert_unknown_elsewhere(ns);
}

/// Asserts that without the flag the namespace is not the node's: unknown in every format.
fn assert_unknown_elsewhere(ns: &Netns) {
    let report = check(ns, &[]);
    assert_eq!((report.state(FULL), report.code), ("unknown", 3), "{}", report.json);
    assert_eq!(report.json["node"]["network_namespace"], "other");
    for condition in report.advisory(FULL)["conditions"].as_array().expect("conditions") {
        assert_eq!(condition["state"], "unknown", "{condition}");
        assert_eq!(condition["detail"], NOT_THE_NODES);
    }
    let nagios = natwatch_in(ns, &["check", "--format", "nagios"]);
    assert_eq!(nagios.code, 3, "{nagios:?}");
    assert!(nagios.stdout.starts_with("NATWATCH UNKNOWN - "), "{nagios:?}");
    let npd = natwatch_in(ns, &["check", "--format", "npd"]);
    assert_eq!(npd.code, 2, "{npd:?}");
    assert_one_short_line(&npd);
    let metrics = Exposition::parse(&natwatch_in(ns, &["check", "--format", "prometheus"]).stdout);
    assert_eq!(metrics.get("natwatch_exposure", &[("advisory", FULL)]), None, "no series while unknown");
    assert_eq!(metrics.one_state("natwatch_advisory_info", &[("advisory", FULL)]).as_deref(), Some("unknown"));
    assert_eq!(metrics.get("natwatch_network_namespace_info", &[("kind", "other")]), Some(1.0));
}

fn assert_one_short_line(run: &Run) {
    let line = run.stdout.strip_suffix('\n').expect("a line");
    assert!(!line.is_empty() && !line.contains('\n') && line.len() <= 80, "{run:?}");
}

/// Asserts that after `conntrack -F` nothing is exposed.
fn assert_emptied(ns: &Netns) {
    ns.cmd("conntrack -F");
    eventually(PATIENCE, || (conntrack_count(ns) == 0).then_some(()));
    let (_, report) = assert_agrees(ns);
    assert_eq!((report.state(FULL), report.code), ("not_affected", 0), "{}", report.json);
    let nagios = natwatch_in(ns, &["check", "--format", "nagios", HERE[0], HERE[1]]);
    assert_eq!(nagios.code, 0, "{nagios:?}");
    assert!(nagios.stdout.starts_with("NATWATCH OK - "), "{nagios:?}");
    let npd = natwatch_in(ns, &["check", "--format", "npd", HERE[0], HERE[1]]);
    assert_eq!(npd.code, 0, "{npd:?}");
    assert_one_short_line(&npd);
    let metrics = metrics_here(ns, &[]);
    assert_eq!(metrics.get("natwatch_exposure", &[("advisory", FULL)]), Some(0.0));
}

/// Just below and at 95 % of the limit, entry by entry.
#[test]
fn the_table_is_nearly_full_from_exactly_95_percent_on() {
    let _machine = exclusive();
    let ns = Netns::new();
    let limit = conntrack_limit(&ns);
    let threshold = (limit * 95).div_ceil(100);
    fill_assured(&ns, threshold - 1);
    assert_eq!(conntrack_count(&ns), threshold - 1);
    let report = check_here(&ns, &[]);
    assert_eq!((report.state(FULL), report.code), ("mitigated", 0), "{}", report.json);
    ns.cmd("conntrack -I -p udp -s 10.1.1.1 -d 10.1.1.2 --sport 1 --dport 2 -t 600");
    assert_eq!(conntrack_count(&ns), threshold);
    let report = check_here(&ns, &[]);
    assert_eq!((report.state(FULL), report.code), ("exposed", 2), "{}", report.json);
    let only = check_here(&ns, &["--advisory", "conntrack-chain-limit"]);
    assert_ne!(only.code, 2, "it was not asked about: {}", only.json);
    ns.cmd("conntrack -F");
}

/// A procfs without the module's files, as of a kernel where only netlink is available.
fn without_stat_file(ns: &Netns) -> Tree {
    let procfs = Tree::procfs(ns);
    procfs.copy_proc(ns, NEIGHBOURS);
    procfs.copy_proc(ns, CONNTRACK_SYSCTLS);
    procfs
}

/// An idle router that has counted 40 failures.
fn counted() -> Router {
    let lab = masquerade(Ports::Range { proto: Proto::Udp, low: 4001, high: 4010 });
    lab.sink(Proto::Udp);
    lab.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 600);
    let sent = exhaust(&lab, Proto::Udp, 50);
    assert_eq!(lab.settle(sent), 10);
    lab
}

/// Without the file in procfs the same counters come from netlink.
#[test]
fn without_the_procfs_file_the_counters_come_from_ctnetlink() {
    let lab = counted();
    let ns = &lab.router;
    let procfs = without_stat_file(ns);
    let flags = ["--path.procfs", procfs.path(), "--collector.conntrack.per-cpu"];
    let look = || (check_here(ns, &flags[..2]), metrics_here(ns, &flags));
    let (stats, sizes, (report, metrics)) = between(ns, look);
    let expected = totals(&stats);
    assert_eq!(expected["insert_failed"], 40);
    assert_eq!(report.counters().as_ref(), Some(&expected), "exactly what conntrack -S prints");
    assert_eq!(metrics.conntrack_counters(), expected);
    assert_per_cpu(&stats, &metrics);
    assert_sizes(sizes, &report, &metrics);
    assert_eq!(report.source("ctnetlink"), Some(("ok", "")), "{}", report.json);
    assert_eq!(report.source("proc_conntrack").map(|(state, _)| state), Some("absent"));
    let state = metrics.one_state("natwatch_source_info", &[("source", "ctnetlink")]);
    assert_eq!(state.as_deref(), Some("ok"));
    assert_eq!(report.state(FULL), "mitigated");
}

/// User nobody may not use ctnetlink: denied, the capability is named, and no counter is invented.
#[test]
fn without_the_procfs_file_nobody_sees_no_counters_and_is_told_why() {
    let lab = counted();
    let ns = &lab.router;
    let procfs = without_stat_file(ns);
    let copy = PublicCopy::new();
    let binary = copy.path();
    let wrapper = [&NOBODY[..], &[binary.to_str().expect("UTF-8")]].concat();
    let flags = [HERE[0], HERE[1], "--path.procfs", procfs.path(), "--collector.conntrack.per-cpu"];
    let run_with = |format: &str| natwatch_as(ns, &wrapper, &[&["check", "--format", format], &flags[..4]].concat());
    let report = run_with("json").report();
    assert_no_counters(&report);
    let (state, detail) = report.source("ctnetlink").expect("it was asked");
    assert_eq!(state, "denied", "{detail}");
    assert!(detail.contains("CAP_NET_ADMIN"), "{detail}");
    assert_eq!(report.json["conntrack"]["entries"], 10, "the sysctls are still there");
    assert_eq!(report.state(FULL), "mitigated", "it needs no counters");
    let text = natwatch_as(ns, &wrapper, &[&["check", "--format", "prometheus"], &flags[..]].concat());
    let metrics = Exposition::parse(&text.stdout);
    assert_no_series(&metrics);
    let state = metrics.one_state("natwatch_source_info", &[("source", "ctnetlink")]);
    assert_eq!(state.as_deref(), Some("denied"));
    let success = metrics.get("natwatch_scrape_collector_success", &[("collector", "conntrack")]);
    assert_eq!(success, Some(0.0));
    let nagios = run_with("nagios");
    assert!(!nagios.stdout.contains("insert_failed"), "{nagios:?}");
}

fn assert_no_counters(report: &Report) {
    assert_eq!(report.counters(), None, "{}", report.json);
    let advisories = report.json["advisories"].as_array().expect("a list").iter();
    let evidence = advisories.flat_map(|advisory| advisory["evidence"].as_array().expect("a list"));
    let mut lines = evidence.map(|line| line.as_str().expect("a text"));
    // A hint how to see what is unknown is no counter.
    assert!(lines.all(|line| line.starts_with("what could not be told is shown by: ")), "{}", report.json);
}

fn assert_no_series(metrics: &Exposition) {
    let mut families = metrics.families();
    families.retain(|name| name.starts_with("natwatch_conntrack_") && name.ends_with("_total"));
    assert_eq!(families, BTreeSet::new());
}

/// Files that tell whether `nf_conntrack_netlink` is a module that is not loaded.
struct Modular {
    procfs: Tree,
    sysfs: Tree,
    rootfs: Tree,
    release: String,
}

impl Modular {
    /// A modular kernel that lists modules, but not this one.
    fn new(ns: &Netns) -> Self {
        let modular = Self {
            procfs: without_stat_file(ns),
            sysfs: Tree::empty(),
            rootfs: Tree::empty(),
            release: ns.read_sysctl("kernel.osrelease"),
        };
        let line = "nf_conntrack 180224 1 nf_nat, Live 0x0000000000000000\nnf_conntrack_netlink_x 1 0 - Live 0x0\n";
        modular.procfs.write("modules", line);
        modular.sysfs.directories("module/nf_conntrack");
        modular.sysfs.directories("kernel");
        modular.built_in("kernel/net/netfilter/nf_conntrack.ko\n");
        modular
    }

    fn built_in(&self, lines: &str) {
        self.rootfs.write(&format!("lib/modules/{}/modules.builtin", self.release), lines);
    }

    /// The report, and the system calls.
    fn check(&self, ns: &Netns) -> (Report, Vec<Call>) {
        let strace = Strace::of("%network");
        let words = [strace.words(), vec![NATWATCH]].concat();
        let paths = ["--path.procfs", self.procfs.path(), "--path.sysfs", self.sysfs.path()];
        let roots = ["--path.rootfs", self.rootfs.path()];
        let report =
            natwatch_as(ns, &words, &[&["check", "--format", "json"], &HERE[..], &paths, &roots].concat()).report();
        (report, strace.calls())
    }
}

fn netfilter_sockets(calls: &[Call]) -> usize {
    assert!(calls.iter().any(|call| call.makes_netlink(libc::NETLINK_ROUTE)), "strace saw nothing: {calls:?}");
    calls.iter().filter(|call| call.makes_netlink(libc::NETLINK_NETFILTER)).count()
}

/// A request would load the module: none is sent, and no socket is opened.
#[test]
fn a_module_that_is_not_loaded_is_not_loaded_by_looking() {
    let lab = counted();
    let ns = &lab.router;
    let modular = Modular::new(ns);
    let (report, calls) = modular.check(ns);
    assert_eq!(netfilter_sockets(&calls), 0, "{calls:?}");
    let (state, detail) = report.source("ctnetlink").expect("it says why not");
    assert_eq!(state, "absent", "{detail}");
    assert!(detail.contains("nf_conntrack_netlink"), "{detail}");
    assert_no_counters(&report);
    assert_eq!(report.state(FULL), "mitigated", "the sysctls are there: {}", report.json);

    // The kernel's symbols are as good as the list of built-in modules.
    modular.procfs.write("kallsyms", "0000000000000000 T nf_conntrack_init_net\n");
    modular.rootfs.remove(&format!("lib/modules/{}/modules.builtin", modular.release));
    let (report, calls) = modular.check(ns);
    assert_eq!(netfilter_sockets(&calls), 0, "{calls:?}");
    assert_eq!(report.source("ctnetlink").map(|(state, _)| state), Some("absent"), "{}", report.json);

    // Without either it is unknown.
    modular.procfs.remove("kallsyms");
    let (report, calls) = modular.check(ns);
    assert_eq!(netfilter_sockets(&calls), 0, "{calls:?}");
    assert_eq!(report.source("ctnetlink").map(|(state, _)| state), Some("failed"), "{}", report.json);
    assert_no_counters(&report);
}

/// Each sign that the code is in the kernel suffices for a request.
#[test]
fn each_sign_of_the_module_is_enough_to_ask() {
    let lab = counted();
    let ns = &lab.router;
    let expected = totals(&conntrack_stats(ns));
    type Make = fn(&Modular);
    let signs: [(&str, Make); 4] = [
        ("loaded", |m| m.procfs.write("modules", "nf_conntrack_netlink 57344 0 - Live 0x0000000000000000\n")),
        ("in sysfs", |m| m.sysfs.directories("module/nf_conntrack_netlink")),
        ("built in", |m| m.built_in("kernel/net/netfilter/nf_conntrack_netlink.ko\n")),
        ("symbol", |m| {
            m.procfs.write("kallsyms", "0000000000000000 t ctnetlink_net_init\n");
            m.rootfs.remove(&format!("lib/modules/{}/modules.builtin", m.release));
        }),
    ];
    for (what, make) in signs {
        let modular = Modular::new(ns);
        make(&modular);
        let (report, calls) = modular.check(ns);
        assert_eq!(netfilter_sockets(&calls), 1, "{what}: {calls:?}");
        assert_eq!(report.source("ctnetlink"), Some(("ok", "")), "{what}: {}", report.json);
        assert_eq!(report.counters().as_ref(), Some(&expected), "{what}");
    }
}

/// Neither file exists, but their neighbours do: the kernel has no connection tracking, for certain.
#[test]
fn a_kernel_without_connection_tracking_is_not_affected() {
    let ns = Netns::new();
    let procfs = Tree::procfs(&ns);
    procfs.copy_proc(&ns, NEIGHBOURS);
    let sysfs = Tree::empty(); // the real one says that the module is in this kernel
    let paths = ["--path.procfs", procfs.path(), "--path.sysfs", sysfs.path()];
    let report = check_here(&ns, &paths);
    assert_eq!(report.source("proc_conntrack").map(|(state, _)| state), Some("absent"), "{}", report.json);
    assert_eq!(report.source("sysctl").map(|(state, _)| state), Some("absent"), "{}", report.json);
    assert_eq!(report.source("ctnetlink"), Some(("ok", "not needed")), "nothing to ask: {}", report.json);
    assert_eq!((report.state(FULL), report.code), ("not_affected", 0), "{}", report.json);
    assert_no_counters(&report);
    assert!(report.json["conntrack"]["entries"].is_null());
    let metrics = metrics_here(&ns, &paths);
    assert_no_series(&metrics);
    assert_eq!(metrics.get("natwatch_conntrack_entries", &[]), None);
    let success = metrics.get("natwatch_scrape_collector_success", &[("collector", "conntrack")]);
    assert_eq!(success, Some(1.0), "absent is an answer");
}

/// Both files are hidden, but sysfs shows that the module is in the kernel.
#[test]
fn a_hidden_table_is_unknown_while_the_module_shows() {
    let ns = Netns::new();
    let procfs = Tree::procfs(&ns);
    procfs.copy_proc(&ns, NEIGHBOURS);
    let sysfs = Tree::empty();
    sysfs.directories("module/nf_conntrack");
    let report = check_here(&ns, &["--path.procfs", procfs.path(), "--path.sysfs", sysfs.path()]);
    let (state, detail) = report.source("sysctl").expect("it was asked");
    assert!(state == "failed" && detail.contains("masked"), "{state}: {detail}");
    assert_eq!((report.state(FULL), report.code), ("unknown", 3), "{}", report.json);
}

/// The neighbours are missing too, so that something hides files: nothing is claimed.
#[test]
fn hidden_files_are_never_taken_for_a_kernel_without_connection_tracking() {
    let ns = Netns::new();
    for (hidden, source) in [(1, "sysctl"), (0, "proc_conntrack")] {
        let procfs = Tree::procfs(&ns);
        procfs.copy_proc(&ns, &[NEIGHBOURS[1 - hidden]]);
        let report = check_here(&ns, &["--path.procfs", procfs.path()]);
        assert_eq!(report.source(source).map(|(state, _)| state), Some("failed"), "{}", report.json);
        assert_no_counters(&report);
        let metrics = metrics_here(&ns, &["--path.procfs", procfs.path()]);
        let success = metrics.get("natwatch_scrape_collector_success", &[("collector", "conntrack")]);
        assert_eq!(success, Some(0.0), "{source}");
    }
    let procfs = Tree::procfs(&ns);
    let report = check_here(&ns, &["--path.procfs", procfs.path()]);
    assert_eq!((report.state(FULL), report.code), ("unknown", 3), "{}", report.json);
    assert_eq!(report.source("sysctl").map(|(state, _)| state), Some("failed"), "{}", report.json);
    let empty = Tree::empty();
    let report = check_here(&ns, &["--path.procfs", empty.path()]);
    assert_eq!((report.state(FULL), report.code), ("unknown", 3), "{}", report.json);
    assert_eq!(report.state("conntrack-chain-limit"), "unknown", "not even the release is known: {}", report.json);
    assert_eq!(report.json["node"]["network_namespace"], "unknown");
    let report = check(&ns, &["--path.procfs", empty.path()]);
    assert_eq!((report.state(FULL), report.code), ("unknown", 3), "{}", report.json);
}

/// A test namespace is not the node's: only the kernel's version decides anything.
#[test]
fn a_namespace_that_is_not_the_nodes_is_unknown() {
    let ns = Netns::new();
    assert_unknown_elsewhere(&ns);
    let report = check(&ns, &[]);
    let absent = report.json["kernel"]["defects"].as_array().expect("defects").iter();
    let absent = absent.filter(|defect| defect["id"] == "conntrack-chain-limit" && defect["state"] == "absent").count();
    let expected = if absent == 1 { "not_affected" } else { "unknown" };
    assert_eq!(report.state("conntrack-chain-limit"), expected, "{}", report.json);
    let told = check(&ns, &["--kernel-defect", "conntrack-chain-limit=present"]);
    assert_eq!(told.state("conntrack-chain-limit"), "unknown", "{}", told.json);
    let told = check(&ns, &["--kernel-defect", "conntrack-chain-limit=absent"]);
    assert_eq!(told.state("conntrack-chain-limit"), "not_affected", "{}", told.json);
}
