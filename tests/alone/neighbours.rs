//! Fill level of the neighbour tables, with real entries. All network namespaces of a machine share the tables.

use std::fmt::Write as _;
use std::fs;

use serde_json::Value;

use crate::support::netns::{Netns, veth_within};
use crate::support::program::natwatch_in;
use crate::support::report::Report;
use crate::support::rules::load;
use crate::support::server::Server;
use crate::support::wait::exclusive;

const ADVISORY: &str = "neighbour-table-full";

fn checked(ns: &Netns) -> Report {
    natwatch_in(ns, &["check", "--network-namespace", "current", "--format", "json"]).report()
}

fn state(ns: &Netns) -> (String, String) {
    let report = checked(ns);
    let found = report.advisory(ADVISORY);
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    (text(&found["state"]), text(&found["summary"]))
}

/// `gc_thresh3`, which only the initial network namespace shows as a file.
fn limit() -> u32 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/neigh/default/gc_thresh3").expect("the limit");
    text.trim().parse().expect("a number")
}

/// That many entries in a namespace, each with a state.
fn fill(ns: &Netns, count: u32, state: &str) {
    let mut batch = String::new();
    for at in 0..count {
        let [_, _, high, low] = at.to_be_bytes();
        writeln!(batch, "neigh add 10.77.{high}.{low} lladdr 02:00:00:00:{high:02x}:{low:02x} dev eth0 nud {state}")
            .expect("text");
    }
    load(ns, &["ip", "-batch", "-"], &batch);
}

fn node() -> Netns {
    let ns = Netns::new();
    veth_within(&ns, "eth0", "peer0");
    ns.address("eth0", "10.77.255.254/16");
    ns
}

#[test]
fn entries_that_count_fill_the_table_and_permanent_ones_do_not() {
    let _machine = exclusive();
    let limit = limit();
    assert!(limit <= 32_768, "the limit of this machine is too high to be reached here");
    let (ns, other) = (node(), node());
    let (before, _) = state(&ns);
    assert_eq!(before, "mitigated", "this machine's own neighbours are too many");
    fill(&ns, limit * 3, "permanent");
    let (found, summary) = state(&ns);
    assert_eq!(found, "mitigated", "{summary}");
    assert!(summary.contains("do not count"), "{summary}");
    let (found, summary) = state(&other);
    assert_eq!(found, "unknown", "another namespace's entries cannot be seen: {summary}");
    ns.cmd("ip neigh flush dev eth0 nud permanent");
    fill(&ns, limit * 97 / 100, "stale");
    let (found, summary) = state(&ns);
    assert_eq!(found, "exposed", "{summary}");
    assert_eq!(state(&other).0, "unknown");
    ns.cmd("ip neigh flush dev eth0");
    assert_eq!(state(&ns).0, "mitigated");
    assert_eq!(state(&other).0, "mitigated");
}

/// `serve` does not read them again while the kernel notifies of no change, and it does of every one.
#[test]
fn a_server_knows_how_many_do_not_count_after_each_change() {
    let _machine = exclusive();
    let ns = node();
    veth_within(&ns, "eth1", "peer1");
    ns.address("eth1", "10.78.255.254/16");
    let count = limit() * 3;
    fill(&ns, count, "permanent");
    let server = Server::start(&ns, &["--network-namespace", "current"]);
    let exempt = || {
        let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
        let advisories = report["advisories"].as_array().expect("a list");
        let found = advisories.iter().find(|found| found["id"] == ADVISORY).expect("the advisory");
        assert_eq!(found["state"], "mitigated", "{found}");
        let summary = found["summary"].as_str().expect("a text");
        let (before, _) = summary.split_once(" of them do not count").unwrap_or_else(|| panic!("{summary}"));
        before.rsplit(' ').next().expect("a word").parse::<u32>().expect("a number")
    };
    assert_eq!(exempt(), count);
    let mut expected = count;
    for (change, difference) in [
        ("ip neigh change 10.77.0.1 dev eth0 nud reachable", -1), // by whom is in the message
        ("ip neigh del 10.77.0.2 dev eth0", -1),
        ("ip neigh add 10.77.200.1 lladdr 02:00:00:00:00:01 dev eth0 nud permanent", 1),
        ("ip neigh add 10.77.200.2 lladdr 02:00:00:00:00:01 dev eth0 nud reachable", 0),
        ("ip neigh change 10.77.200.2 lladdr 02:00:00:00:00:01 dev eth0 nud stale extern_learn", 1),
        ("ip neigh change 10.77.200.2 lladdr 02:00:00:00:00:01 dev eth0 nud permanent", 0),
        ("ip neigh del 10.77.200.2 dev eth0", -1),
        ("ip neigh add 10.78.0.1 lladdr 02:00:00:00:00:01 dev eth1 nud permanent", 1),
        ("ip link del eth1", -1),
        ("ip neigh change 10.77.0.1 dev eth0 nud permanent", 1),
        ("true", 0),
    ] {
        ns.cmd(change);
        expected = expected.checked_add_signed(difference).expect("a number");
        assert_eq!(exempt(), expected, "{change}");
    }
}
