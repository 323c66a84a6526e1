//! natwatch as root, as nobody, and in between: the same values, no failure, and sources that say which permission is
//! missing.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::support::counters::{conntrack_stats, parse_conntrack_stats};
use crate::support::exposition::Exposition;
use crate::support::fake::{CONNTRACK_SYSCTLS, NEIGHBOURS, Tree};
use crate::support::links::features;
use crate::support::netns::{Netns, veth};
use crate::support::program::{HERE, PublicCopy, Run, natwatch_as};
use crate::support::report::Report;
use crate::support::router::{Backend, NatRule, Ports, Proto, Router};
use crate::support::server::Server;
use crate::support::traffic::exhaust;
use crate::support::wait::{PATIENCE, eventually};

/// Commands that run their arguments with fewer rights, by name.
fn identities() -> Vec<(&'static str, Vec<&'static str>)> {
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let without = ["--bounding-set=-all", "--inh-caps=-all"];
    let ambient = ["--inh-caps=+net_admin", "--ambient-caps=+net_admin"];
    vec![
        ("root", vec!["setpriv"]),
        ("uid 0 without capabilities", [&["setpriv"][..], &without].concat()),
        ("uid 65534", [&nobody[..], &without].concat()),
        ("uid 65534 that may never gain any", [&nobody[..], &without, &["--no-new-privs"]].concat()),
        ("uid 65534 with CAP_NET_ADMIN", [&nobody[..], &ambient].concat()),
        ("root of a user namespace", vec!["unshare", "-Ur"]),
    ]
}

/// A router with 40 failed insertions and a tunnel.
fn busy() -> Router {
    let range = Ports::Range { proto: Proto::Udp, low: 4001, high: 4010 };
    let lab = Router::with(NatRule::masquerade(Backend::IptablesLegacy, range));
    lab.sink(Proto::Udp);
    lab.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 600);
    let sent = exhaust(&lab, Proto::Udp, 50);
    assert_eq!(lab.settle(sent), 10);
    lab.router.cmd("ip link add flannel.1 type vxlan id 1 dstport 8472 remote 10.77.2.2");
    // No router solicitations, which would be tracked and translated.
    lab.router.sysctl("net/ipv6/conf/flannel.1/disable_ipv6", 1);
    lab.router.up("flannel.1");
    lab
}

fn check(ns: &Netns, wrapper: &[&str], format: &str, more: &[&str]) -> Run {
    natwatch_as(ns, wrapper, &[&["check", "--format", format], more].concat())
}

/// The document without what differs from run to run.
fn facts(report: &Report) -> Value {
    let mut json = report.json.clone();
    json["node"]["captured_at"] = Value::Null;
    json["source_nat_rules"] = Value::Null;
    json["verdict"] = Value::Null;
    let without_rules = ["vmxnet3-tunnel-offload", "conntrack-table-full", "conntrack-chain-limit"];
    let advisories = json["advisories"].as_array_mut().expect("advisories");
    advisories.retain(|advisory| without_rules.iter().any(|id| advisory["id"] == *id));
    json["source_nat_rules_omitted"] = Value::Null;
    json["flows"] = Value::Null;
    let rules = ["nftables", "xtables_ipv4", "xtables_ipv6", "ctnetlink_entries"];
    json["sources"].as_array_mut().expect("sources").retain(|source| rules.iter().all(|name| source["name"] != *name));
    json
}

/// The identities are as described; otherwise the other tests prove nothing.
#[test]
fn the_identities_have_the_rights_that_their_names_say() {
    let ns = Netns::new();
    for (name, wrapper) in identities() {
        let status = ns.run(&[&wrapper[..], &["cat", "/proc/self/status"]].concat());
        let field = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
            line.expect("a field").split_whitespace().next().expect("a value").to_owned()
        };
        let capabilities = u64::from_str_radix(&field("CapEff"), 16).expect("a mask");
        const NET_ADMIN: u64 = 1 << 12;
        match name {
            "root" | "root of a user namespace" => assert_ne!(capabilities & NET_ADMIN, 0, "{name}"),
            "uid 65534 with CAP_NET_ADMIN" => assert_eq!(capabilities, NET_ADMIN, "{name}"),
            _ => assert_eq!(capabilities, 0, "{name}"),
        }
        let uid = if name.starts_with("uid 65534") { "65534" } else { "0" };
        assert_eq!(field("Uid"), uid, "{name}");
    }
}

/// Only the rules need a privilege: counters, tunnels, features and sources are the same for everyone.
#[test]
fn everyone_sees_the_same() {
    let lab = busy();
    let ns = &lab.router;
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let expected = conntrack_stats(ns);
    let mut first: Option<Value> = None;
    for (name, identity) in identities() {
        let wrapper = [&identity[..], &[binary]].concat();
        let run = check(ns, &wrapper, "json", &HERE);
        let report = run.report();
        // With the right to read rules the translation of the tunnel's packets is seen; the tunnel leaves by a veth,
        // whose lower device cannot be seen.
        let exposed = report.state("vxlan-double-snat-checksum") == "exposed";
        assert_eq!(exposed, report.json["source_nat_rules"].is_array(), "{name}: {}", report.json);
        assert_eq!(report.code, if exposed { 2 } else { 3 }, "{name}: {}", report.json);
        assert_eq!(report.state("vmxnet3-tunnel-offload"), "unknown", "{name}");
        assert_eq!(report.state("conntrack-table-full"), "mitigated", "{name}");
        let counters = report.counters().unwrap_or_else(|| panic!("{name}: {}", report.json));
        assert_eq!(counters["insert_failed"], 40, "{name}");
        for counter in ["found", "invalid", "insert", "drop", "early_drop", "error", "search_restart", "clash_resolve"]
        {
            assert_eq!(counters[counter], expected.total(counter), "{name}: {counter}");
        }
        for (source, state) in report.source_states() {
            let denied = match source {
                "nftables" | "ctnetlink_entries" => !["root", "uid 65534 with CAP_NET_ADMIN"].contains(&name),
                "xtables_ipv4" => name != "root",
                // With the right to read that there are no tables none is requested.
                "xtables_ipv6" => name.starts_with("uid 65534"),
                _ => false,
            };
            assert_eq!(state, if denied { "denied" } else { "ok" }, "{name}: {source}: {}", report.json);
        }
        assert_eq!(report.json["source_nat_rules"].is_array(), name == "root", "{name}");
        let tunnel = report.tunnels().expect("tunnels")["flannel.1"].clone();
        assert_eq!((&tunnel["underlay"], &tunnel["udp_checksum"]), (&"wan0".into(), &"on".into()), "{name}");
        let facts = facts(&report);
        assert_eq!(*first.get_or_insert_with(|| facts.clone()), facts, "{name}");
        let metrics = Exposition::parse(&check(ns, &wrapper, "prometheus", &HERE).stdout);
        assert_eq!(metrics.get("natwatch_conntrack_insert_failed_total", &[]), Some(40.0), "{name}");
        let labels = [("device", "wan0"), ("feature", "tx-checksum-ip-generic")];
        let on = features(ns, "wan0")["tx-checksum-ip-generic"].on;
        assert_eq!(metrics.get("natwatch_interface_feature_enabled", &labels), Some(f64::from(u8::from(on))), "{name}");
    }
}

/// natwatch never fails, in every format and with or without the namespace flag.
#[test]
fn nobody_makes_natwatch_fail() {
    let ns = Netns::new();
    veth(&ns, "eth0", &ns, "eth1");
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    for (name, identity) in identities() {
        let wrapper = [&identity[..], &[binary]].concat();
        for (format, elsewhere) in [("text", 3), ("json", 3), ("prometheus", 3), ("nagios", 3), ("npd", 2)] {
            let run = check(&ns, &wrapper, format, &HERE);
            // No problem here, as far as the rules can be read.
            assert!([0, elsewhere].contains(&run.code), "{name} {format}: {run:?}");
            assert!(name != "root" || run.code == 0, "{name} {format}: {run:?}");
            let run = check(&ns, &wrapper, format, &[]);
            assert_eq!(run.code, elsewhere, "{name} {format}: {run:?}");
            assert!(!run.stdout.is_empty() && run.stderr.is_empty(), "{name} {format}: {run:?}");
        }
    }
}

/// `unshare -Urn`: root of a user namespace with a network of its own that is still empty.
#[test]
fn root_of_a_user_namespace_sees_the_network_that_it_owns() {
    let ns = Netns::new();
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let insert = "for port in 1 2 3; do conntrack -I -p udp -s 10.1.1.1 -d 10.1.1.2 --sport $port --dport 9 -t 600 \
                  >/dev/null 2>&1 || exit 9; done; ip link set lo up; \
                  ip link add tun type vxlan id 7 dstport 8472 remote 127.0.0.1; ip link set tun up; conntrack -S; echo ---; ";
    let script = format!("{insert} exec {binary} check --format json --network-namespace current");
    let run = natwatch_as(&ns, &["unshare", "-Urn", "sh", "-c"], &[&script]);
    assert_eq!(run.code, 0, "{run:?}");
    let (stats, json) = run.stdout.split_once("---\n").expect("two parts");
    let stats = parse_conntrack_stats(stats);
    assert_eq!(stats.total("insert"), 3, "the entries of the test: {run:?}");
    let report = Run { code: run.code, stdout: json.to_owned(), stderr: String::new() }.report();
    let counters = report.counters().expect("counters");
    let names = stats.per_cpu[0].keys();
    let expected: BTreeMap<String, u64> = names.map(|name| (name.clone(), stats.total(name))).collect();
    for (name, value) in expected {
        assert_eq!(counters[&name], value, "{name}");
    }
    assert_eq!(report.json["conntrack"]["entries"], 3);
    assert_eq!(report.tunnels().expect("tunnels")["tun"]["underlay"], "lo");
    assert_eq!(report.json["node"]["network_namespace"], "other");
    assert!(report.source_states().values().all(|state| *state == "ok"), "{}", report.json);
}

/// If only netlink has the counters, CAP_NET_ADMIN over the namespace decides; without it they are missing, not 0.
#[test]
fn the_capability_decides_over_ctnetlink() {
    let lab = busy();
    let ns = &lab.router;
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let procfs = Tree::procfs(ns);
    procfs.copy_proc(ns, NEIGHBOURS);
    procfs.copy_proc(ns, CONNTRACK_SYSCTLS);
    let flags = [HERE[0], HERE[1], "--path.procfs", procfs.path()];
    let own = ("root of a user namespace with its own network", vec!["unshare", "-Urn"]);
    for (name, identity) in identities().into_iter().chain([own]) {
        let expected = match name {
            "root" | "uid 65534 with CAP_NET_ADMIN" => Some(40),
            "root of a user namespace with its own network" => Some(0),
            _ => None,
        };
        let wrapper = [&identity[..], &[binary]].concat();
        let run = check(ns, &wrapper, "json", &flags);
        // Over a veth, whose lower device cannot be seen; the user namespace's own network has no tunnel at all.
        let report = run.report();
        let exposed = report.state("vxlan-double-snat-checksum") == "exposed";
        let fine = if name.contains("its own network") { 0 } else { 3 };
        assert_eq!(report.code, if exposed { 2 } else { fine }, "{name}: {}", report.json);
        assert_eq!(report.counters().map(|counters| counters["insert_failed"]), expected, "{name}: {}", report.json);
        let (state, detail) = report.source("ctnetlink").expect("it was asked");
        assert_eq!(state, if expected.is_some() { "ok" } else { "denied" }, "{name}: {detail}");
        assert_eq!(detail.contains("CAP_NET_ADMIN"), expected.is_none(), "{name}: {detail}");
        for source in ["rtnetlink", "routing", "ethtool", "kernel", "sysctl", "netstat", "neighbours"] {
            let state = report.source(source).map_or("not needed", |(state, _)| state);
            assert!(["ok", "not needed"].contains(&state), "{name}: {source}: {}", report.json);
        }
        assert_eq!(report.json["conntrack"]["entries"], 10, "{name}: the sysctls need no privilege");
    }
}

/// The exporter runs for nobody as for root, to its orderly end.
#[test]
fn everyone_can_serve() {
    let lab = busy();
    let ns = &lab.router;
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    for (name, identity) in identities() {
        let wrapper = [&identity[..], &[binary]].concat();
        let mut server = Server::start_as(ns, &wrapper, &HERE);
        let get = |path: &str| server.get(path, &[]);
        for _ in 0..3 {
            let response = get("/metrics");
            assert_eq!(response.status, 200, "{name}");
            let metrics = Exposition::parse(response.text());
            assert_eq!(metrics.get("natwatch_conntrack_insert_failed_total", &[]), Some(40.0), "{name}");
            assert_eq!(metrics.one_state("natwatch_source_info", &[("source", "ethtool")]).as_deref(), Some("ok"));
            assert!(metrics.get("process_start_time_seconds", &[]).is_some(), "{name}");
            let unseen = |id: &str| metrics.find("natwatch_advisory_unseen", &[("advisory", id)]);
            assert_eq!(unseen("vxlan-double-snat-checksum").is_some(), name != "root", "{name}");
            assert_eq!(unseen("vmxnet3-tunnel-offload"), None, "{name}: unknown, and no permission would tell");
        }
        let report: Value = serde_json::from_str(get("/report.json").text()).expect("JSON");
        assert_eq!(report["conntrack"]["counters"]["insert_failed"], 40, "{name}");
        assert_eq!(get("/").status, 200, "{name}");
        assert_eq!(get("/-/healthy").status, 200, "{name}");
        eventually(PATIENCE, || (get("/-/ready").status == 200).then_some(()));
        server.daemon.signal(rustix::process::Signal::TERM);
        assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0), "{name}: {}", server.daemon.stderr());
    }
}

/// User nobody can save a capture, which is replayed to the same report.
#[test]
fn nobody_can_save_a_capture() {
    let lab = busy();
    let ns = &lab.router;
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let home = Tree::empty();
    std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).expect("chown");
    for (number, (name, identity)) in identities().into_iter().enumerate() {
        let wrapper = [&identity[..], &[binary]].concat();
        let directory = format!("{}/{number}", home.path());
        let saved = natwatch_as(ns, &wrapper, &["capture", &directory]);
        if ["uid 0 without capabilities", "root of a user namespace"].contains(&name) {
            // The directory is not theirs, and they have no capability to write there: the only thing they cannot do.
            assert_eq!(saved.code, 1, "{saved:?}");
            assert!(!std::path::Path::new(&directory).exists());
            continue;
        }
        assert_eq!(saved.code, 0, "{name}: {saved:?}");
        let live = check(ns, &wrapper, "json", &HERE).report();
        let replayed = check(ns, &wrapper, "json", &[&HERE[..], &["--from", &directory]].concat()).report();
        assert_eq!(facts(&live), facts(&replayed), "{name}");
    }
}
