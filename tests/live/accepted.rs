//! Accepted risks: `--accept` excludes them from what counts and changes nothing else.

use serde_json::{Value, json};

use crate::support::capture::CaptureDir;
use crate::support::exposition::Exposition;
use crate::support::netns::Netns;
use crate::support::program::{HERE, Run, natwatch};
use crate::support::server::Server;

/// States the defect, so that the tests do not depend on the running kernel.
const DEFECT: &str = "--kernel-defect=conntrack-chain-limit=present";
/// Advisories that only depend on the number of entries.
const ONLY: [&str; 4] = ["--advisory", "conntrack-table-full", "--advisory", "conntrack-chain-limit"];
const CHAIN: &str = "--accept=conntrack-chain-limit=short chains come with 6.9";
const FULL: &str = "--accept=conntrack-table-full:critical=it is a test";
const FULL_UP_TO_WARNING: &str = "--accept=conntrack-table-full=it is a test";

struct States {
    /// conntrack-chain-limit is exposed.
    warning: CaptureDir,
    /// conntrack-table-full too.
    critical: CaptureDir,
    /// Both are unknown.
    unknown: CaptureDir,
}

impl States {
    fn new() -> Self {
        let warning = CaptureDir::of(&Netns::new(), &["--probe-result="]);
        warning.conntrack(600, 1000, 1000);
        let critical = warning.copy();
        critical.conntrack(990, 1000, 1000);
        let unknown = warning.copy();
        unknown.remove("procfs/sys/net/netfilter/nf_conntrack_count");
        Self { warning, critical, unknown }
    }
}

#[track_caller]
fn check(capture: &CaptureDir, format: &str, flags: &[&str]) -> Run {
    let run = capture.check(&[&["--format", format, DEFECT], &ONLY[..], flags].concat());
    assert_eq!(run.stderr, "");
    run
}

#[track_caller]
fn codes(capture: &CaptureDir, flags: &[&str], text: i32, nagios: i32, npd: i32) {
    for (format, code) in [("text", text), ("json", text), ("prometheus", text), ("nagios", nagios), ("npd", npd)] {
        assert_eq!(check(capture, format, flags).code, code, "{format} {flags:?}");
    }
}

#[test]
fn what_is_accepted_does_not_count() {
    let States { warning, critical, unknown } = States::new();
    codes(&warning, &[], 2, 1, 1);
    codes(&warning, &[CHAIN], 0, 0, 0);
    codes(&warning, &[CHAIN, "--min-severity=info"], 0, 0, 0);
    // Critical ones only if the flag says so.
    codes(&critical, &[CHAIN], 2, 2, 1);
    codes(&critical, &[CHAIN, FULL_UP_TO_WARNING], 2, 2, 1);
    codes(&critical, &[FULL], 2, 1, 1);
    codes(&critical, &[CHAIN, FULL], 0, 0, 0);
    codes(&critical, &[CHAIN, FULL, FULL_UP_TO_WARNING], 2, 2, 1); // the last counts
    // Accepting an advisory also accepts its unknown state.
    codes(&unknown, &[], 3, 3, 2);
    codes(&unknown, &[CHAIN], 3, 3, 2);
    codes(&unknown, &[CHAIN, FULL], 0, 0, 0);
    codes(&unknown, &[CHAIN, FULL_UP_TO_WARNING], 3, 3, 2);
}

/// State, conditions and remedies are unchanged.
#[test]
fn the_document_says_the_same_and_that_it_is_accepted() {
    let States { critical, .. } = States::new();
    let report =
        |flags: &[&str]| -> Value { serde_json::from_str(&check(&critical, "json", flags).stdout).expect("JSON") };
    let (plain, mut marked) = (report(&[]), report(&[CHAIN]));
    assert_eq!((&plain["verdict"], &plain["known_risks_left_out"]), (&json!("exposed"), &json!(0)));
    assert_eq!((&marked["verdict"], &marked["known_risks_left_out"]), (&json!("exposed"), &json!(1)));
    let position = |report: &Value| {
        let advisories = report["advisories"].as_array().expect("a list");
        advisories.iter().position(|advisory| advisory["id"] == "conntrack-chain-limit").expect("it")
    };
    let at = position(&marked);
    assert_eq!(marked["advisories"][at]["accepted"], json!({"reason": "short chains come with 6.9"}));
    assert_eq!(plain["advisories"][at].get("accepted"), Some(&Value::Null));
    marked["advisories"][at]["accepted"] = Value::Null;
    assert_eq!(plain["advisories"], marked["advisories"]);
    let all = report(&[CHAIN, FULL]);
    assert_eq!((&all["verdict"], &all["known_risks_left_out"]), (&json!("not_affected"), &json!(2)));
    let no_reason = report(&["--accept=conntrack-chain-limit"]);
    assert_eq!(no_reason["advisories"][at]["accepted"], json!({"reason": ""}));
    // While critical, an advisory accepted up to warning is not accepted, and its summary says so.
    let worse = report(&[FULL_UP_TO_WARNING]);
    let full = worse["advisories"].as_array().expect("a list").iter().find(|a| a["id"] == "conntrack-table-full");
    assert_eq!(full.expect("it")["accepted"], Value::Null);
    assert!(
        full.expect("it")["summary"].as_str().expect("text").ends_with("It is accepted only while it is not critical.")
    );
}

#[test]
fn the_first_line_of_every_report_counts_what_is_left_out() {
    let States { critical, unknown, .. } = States::new();
    let first = |capture: &CaptureDir, format: &str, flags: &[&str]| {
        let text = check(capture, format, flags).stdout;
        text.lines().next().expect("a line").to_owned()
    };
    assert_eq!(first(&critical, "text", &[]), "natwatch: exposed");
    assert_eq!(first(&critical, "text", &[CHAIN]), "natwatch: exposed (1 known risk left out)");
    assert_eq!(first(&critical, "text", &[CHAIN, FULL]), "natwatch: nothing else exposed (2 known risks left out)");
    assert_eq!(first(&unknown, "text", &[CHAIN]), "natwatch: unknown (1 known risk left out)");
    let nagios = first(&critical, "nagios", &[CHAIN]);
    assert!(
        nagios.starts_with("NATWATCH CRITICAL - exposed: conntrack-table-full, 1 known risk left out | "),
        "{nagios}"
    );
    assert!(nagios.contains(" exposed=1 unknown=0 accepted=1 "), "{nagios}");
    let nagios = first(&critical, "nagios", &[CHAIN, FULL]);
    assert!(nagios.starts_with("NATWATCH OK - nothing else exposed (2 advisories judged), 2 known risks left out | "));
    assert!(nagios.contains(" exposed=0 unknown=0 accepted=2 "), "{nagios}");
    assert_eq!(first(&critical, "npd", &[CHAIN]), "exposed: conntrack-table-full, 1 known risk left out");
    let text = check(&critical, "text", &[CHAIN]).stdout;
    let (accepted, counted) =
        (text.find("ACCEPTED  conntrack-chain-limit"), text.find("EXPOSED  conntrack-table-full"));
    assert!(counted < accepted && counted.is_some(), "{text}");
    assert!(text.contains("\n  Left out of the verdict, accepted: short chains come with 6.9\n"), "{text}");
    let text = check(&unknown, "text", &[CHAIN]).stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(text.contains("conntrack-chain-limit (accepted: short chains come with 6.9)"), "{text}");
    // The line has the number however long the list is.
    let many = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/container-without-host-network.txt");
    let npd = natwatch(&["check", "--from", many, "--format", "npd", "--accept=iptables-backend-split"]).expect(2);
    assert!(npd.ends_with("…, 1 known risk left out\n") && (78..=80).contains(&npd.trim_end().len()), "{npd}");
}

#[test]
fn metrics_stay_and_the_accepted_have_one_more() {
    let States { critical, .. } = States::new();
    let metrics = |flags: &[&str]| check(&critical, "prometheus", flags).stdout;
    let (plain, marked) = (metrics(&[]), metrics(&[CHAIN, FULL_UP_TO_WARNING]));
    assert!(!plain.contains("natwatch_advisory_accepted"), "{plain}");
    let others: Vec<&str> = marked.lines().filter(|line| !line.contains("natwatch_advisory_accepted")).collect();
    assert_eq!(others, plain.lines().collect::<Vec<_>>());
    let series = |text: &str| Exposition::parse(text).series("natwatch_advisory_accepted").to_vec();
    let [(labels, value)] = &series(&marked)[..] else { panic!("{marked}") };
    assert_eq!((labels["advisory"].as_str(), labels.len(), *value), ("conntrack-chain-limit", 1, 1.0));
}

/// serve accepts the same flag.
#[test]
fn serve_accepts_too() {
    let ns = Netns::new();
    let accept = "--accept=conntrack-chain-limit:critical=<b>known</b>";
    // Without this sysctl's file nothing is counted: unknown, and so left out.
    let flags = [&HERE[..], &["--no-collector.conntrack", DEFECT, accept]].concat();
    let server = Server::start(&ns, &flags);
    let metrics = Exposition::parse(&server.ok("/metrics"));
    assert_eq!(metrics.get("natwatch_advisory_accepted", &[("advisory", "conntrack-chain-limit")]), Some(1.0));
    let page = server.ok("/");
    assert!(page.contains("(1 known risk left out)</h1>"), "{page}");
    assert!(page.contains("accepted: &lt;b&gt;known&lt;/b&gt;"), "{page}");
    let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
    assert_eq!(report["known_risks_left_out"], 1);
    server.stop();
}
