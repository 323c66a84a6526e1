//! A real Prometheus, promtool and reference parsers accept what natwatch serves.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::exposition::{Exposition, Row, metrics_table};
use crate::support::netns::Netns;
use crate::support::process::free_port;
use crate::support::program::NATWATCH;
use crate::support::prometheus::Prometheus;
use crate::support::server::Server;
use crate::support::tools::require;
use crate::support::vxlan::Vxlan;
use crate::support::wait::{PATIENCE, eventually};

const FLAGS: [&str; 3] = ["--network-namespace", "current", "--collector.conntrack.per-cpu"];
const OPENMETRICS: (&str, &str) = ("Accept", "application/openmetrics-text;version=1.0.0");
/// Metrics that differ between two scrapes.
const MOVING: [&str; 12] = [
    "natwatch_flows_timestamp_seconds",
    "natwatch_report_timestamp_seconds",
    "natwatch_scrape_collector_duration_seconds",
    "natwatch_netstat_tcp_syn_retransmits_total",
    "natwatch_conntrack_entries",
    "natwatch_neighbour_entries", // of all network namespaces
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_virtual_memory_bytes",
    "process_threads",
    "natwatch_http_connections",
];

/// Served, scraped, stored, and queried: the same families, types, help and values.
#[test]
fn a_real_prometheus_scrapes_all_of_it() {
    let pair = Vxlan::default().build();
    let ns = &pair.nodes[0];
    let mut server = Server::start(ns, &FLAGS);
    let mut prometheus = Prometheus::scraping(ns, &[server.address().to_string()]);
    eventually(PATIENCE, || prometheus.query("up").first().filter(|(_, value)| *value == 1.0).map(|_| ()));
    let direct = Exposition::parse(&server.ok("/metrics"));

    let scraped = prometheus.query("scrape_samples_scraped")[0].1;
    assert_eq!(scraped as usize, direct.len());
    assert!(scraped <= 500.0, "{scraped} series");

    let stored = prometheus.query("{job=\"natwatch\"}");
    for (name, labels, value) in direct.samples() {
        let found = stored.iter().find(|(stored, _)| {
            stored["__name__"] == name && labels.iter().all(|(key, value)| stored.get(key) == Some(value))
        });
        let (stored, found) = found.unwrap_or_else(|| panic!("{name} {labels:?} is not stored"));
        assert_eq!(stored.len(), labels.len() + 3, "name, job, instance and its own: {stored:?}");
        if !MOVING.contains(&name) {
            assert_eq!(*found, value, "{name} {labels:?}");
        }
    }
    check_metadata(&prometheus.api("/api/v1/targets/metadata"), &metrics_table(), &direct.families());

    prometheus.daemon.signal(Signal::TERM);
    assert_eq!(prometheus.daemon.wait(PATIENCE).code(), Some(0));
    server.daemon.signal(Signal::TERM);
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
    assert!(!server.daemon.stderr().contains("error"), "{}", server.daemon.stderr());
}

fn check_metadata(metadata: &Value, table: &BTreeMap<String, Row>, served: &BTreeSet<String>) {
    let entries = metadata.as_array().expect("a list");
    for name in served {
        let row = &table[name];
        // OpenMetrics gives the metadata of a counter under its name without the suffix.
        let stem = name.strip_suffix("_total").unwrap_or(name);
        let entry = entries.iter().find(|entry| entry["metric"] == stem || entry["metric"] == name.as_str());
        let entry = entry.unwrap_or_else(|| panic!("no metadata of {name}"));
        assert_eq!(entry["type"], row.kind.as_str(), "{name}");
        let help = entry["help"].as_str().expect("text");
        assert_eq!(help.trim_end_matches('.'), row.help, "{name}");
    }
}

/// The help names the kernel object, or says that the value is derived.
#[test]
fn every_help_names_its_source() {
    let table = metrics_table();
    let sources = [
        "nf_conntrack",
        "ctnetlink",
        "nf_tables",
        "rtnetlink",
        "ethtool",
        "/proc/",
        "derived",
        "netdev_max_backlog",
        "monotonic clock",
        "system clock",
        "osrelease",
        "os-release",
    ];
    let without: Vec<_> = table.iter().filter(|(_, row)| !sources.iter().any(|s| row.help.contains(s))).collect();
    let names: Vec<&String> = without.iter().map(|(name, _)| *name).collect();
    // Metrics about natwatch itself, its advisories and tables have no kernel object.
    let own = |name: &str| name == "natwatch_build_info";
    let missing: Vec<_> = names.into_iter().filter(|name| !own(name)).map(|name| (name, &table[name].help)).collect();
    assert!(missing.is_empty(), "{missing:#?}");
    for (name, row) in &table {
        assert_eq!(name.ends_with("_total"), row.kind == "counter", "{name}");
    }
}

fn feed(mut command: Command, text: &str) -> Output {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    child.stdin.take().expect("stdin").write_all(text.as_bytes()).expect("written");
    child.wait_with_output().expect("an end")
}

#[test]
fn promtool_has_nothing_to_say() {
    require("promtool");
    let pair = Vxlan::default().build();
    let server = Server::start(&pair.nodes[0], &FLAGS);
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]);
    let output = feed(command, &server.ok("/metrics"));
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""));
}

/// Samples by the reference parser: name, labels and value, one JSON list.
fn reference(format: &str, text: &str) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let script = format!(
        "import sys, json\nfrom prometheus_client.{format} import text_string_to_metric_families as parse\n\
         print(json.dumps([[s.name, s.labels, s.value, m.type] for m in parse(sys.stdin.read()) for s in m.samples]))"
    );
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", &script]);
    let output = feed(command, text);
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
    let list: Vec<(String, BTreeMap<String, String>, f64, String)> =
        serde_json::from_slice(&output.stdout).expect("JSON");
    for (name, _, _, kind) in &list {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name} is a {kind}");
        assert!(kind == "counter" || kind == "gauge", "{name} is a {kind}");
    }
    let mut samples: Vec<_> = list.into_iter().map(|(name, labels, value, _)| (name, labels, value)).collect();
    samples.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    samples
}

fn both_formats(server: &Server<'_>) -> Vec<(String, BTreeMap<String, String>, f64)> {
    let open = server.get("/metrics", &[OPENMETRICS]);
    assert!(open.header("content-type").expect("a type").starts_with("application/openmetrics-text"));
    let plain = server.ok("/metrics");
    let own = Exposition::parse(&plain);
    let own: BTreeSet<_> = own.samples().map(|(name, labels, _)| (name.to_owned(), labels.clone())).collect();
    let (open, plain) = (reference("openmetrics.parser", open.text()), reference("parser", &plain));
    assert_eq!(open.len(), plain.len());
    for (a, b) in open.iter().zip(&plain) {
        assert_eq!((&a.0, &a.1), (&b.0, &b.1));
        assert!(a.2 == b.2 || MOVING.contains(&a.0.as_str()), "{} {:?}: {} and {}", a.0, a.1, a.2, b.2);
    }
    let theirs: BTreeSet<_> = plain.iter().map(|(name, labels, _)| (name.clone(), labels.clone())).collect();
    assert_eq!(theirs, own, "the tests' own parser agrees");
    open
}

#[test]
fn the_reference_parsers_read_the_same_from_both_formats() {
    let pair = Vxlan::default().build();
    let server = Server::start(&pair.nodes[0], &FLAGS);
    let samples = both_formats(&server);
    assert!(samples.len() > 100 && samples.len() <= 500, "{}", samples.len());
}

/// Label values that would end a label, a line or a document come through both formats unharmed.
#[test]
fn hostile_label_values_survive_both_formats() {
    let ns = Netns::new();
    let dir = tempfile::tempdir().expect("a directory");
    let write = |path: &str, text: &str| {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("a file");
    };
    let evil = "a\\\"b\\n\\\\ {x=\"y\"} 1 # EOF é";
    write("root/etc/os-release", &format!("ID={evil}\nVERSION_ID=1\\\n"));
    let release = "6.1.0-\"\\n\\{},=#";
    write("proc/sys/kernel/osrelease", &format!("{release}\n"));
    write("proc/sys/kernel/version", "#1 SMP\n");
    write("proc/version", "Linux version 6.1.0\n");
    let port = free_port();
    let mut command = ns.command(NATWATCH);
    command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]);
    command.arg("--path.rootfs").arg(dir.path().join("root")).arg("--path.procfs").arg(dir.path().join("proc"));
    let server = Server::from_command(&ns, command, port);
    let samples = both_formats(&server);
    let info = samples.iter().find(|(name, ..)| name == "natwatch_kernel_info").expect("kernel info");
    assert_eq!(info.1["release"], release);
    assert_eq!(info.1["distro"], format!("{evil} 1\\"));
    // An impossible release is a failed source, and the exposition remains complete.
    for odd in ["6.1.0\n6.2.0\n", "6.1.0 x\n", "\"\\\n", "é\n", ""] {
        write("proc/sys/kernel/osrelease", odd);
        let samples = both_formats(&server);
        assert!(!samples.iter().any(|(name, ..)| name == "natwatch_kernel_info"), "{odd:?}");
    }
}
