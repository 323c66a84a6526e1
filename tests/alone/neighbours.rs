//! How full the neighbour tables are, with real entries. The tables are one for all network namespaces of this machine.

use std::fmt::Write as _;
use std::fs;

use crate::support::netns::{Netns, veth_within};
use crate::support::program::natwatch_in;
use crate::support::report::Report;
use crate::support::rules::load;
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
