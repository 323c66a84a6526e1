//! `capture --redact` on rules with every feature and on rules of real programs: nothing identifies anyone, and source
//! NAT is reported as before.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use natwatch::netfilter::netlink;
use serde_json::Value;

use crate::support::capture::CaptureDir;
use crate::support::fuzz_targets::TARGETS;
use crate::support::netns::{Netns, veth_within};
use crate::support::nfnetlink::accounting;
use crate::support::report::Report;
use crate::support::round_trip::round_trips;
use crate::support::rules::load;
use crate::support::secrets::{self, Secret};

fn rules() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

fn read(file: &str) -> String {
    fs::read_to_string(rules().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"))
}

/// The rule files of a directory, without the files of sets that are loaded along with them, sorted.
fn files(directory: &str) -> Vec<String> {
    let entries = fs::read_dir(rules().join(directory)).expect("a directory");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> =
        names.filter(|name| [".nft", ".rules", ".rules6"].iter().any(|end| name.ends_with(end))).collect();
    names.sort();
    assert!(!names.is_empty(), "{directory}");
    names.into_iter().map(|name| format!("{directory}{name}")).collect()
}

/// The devices that `every/` names, and a tunnel, without which natwatch reads only what source NAT needs.
fn node() -> Netns {
    let ns = Netns::new();
    veth_within(&ns, "nicword1", "nicword2");
    veth_within(&ns, "wlx025ec4e70091", "wwx025ec4e70092");
    ns.address("nicword1", "192.0.2.10/24");
    ns.cmd("ip link add vx7 type vxlan id 7 dstport 4789 local 192.0.2.10 remote 192.0.2.77 dev nicword1");
    ns.address("vx7", "10.42.0.0/32");
    ns.up("vx7");
    ns.cmd("ip route add 10.42.1.0/24 via 10.42.1.0 dev vx7 onlink");
    ns
}

/// A node with the rules of a file.
fn node_with(file: &str, legacy: bool) -> Netns {
    let ns = node();
    let (stem, kind) = file.rsplit_once('.').expect("an extension");
    let sets = rules().join(format!("{stem}.ipset"));
    if kind != "nft" && sets.exists() {
        load(&ns, &["ipset", "restore"], &read(&format!("{stem}.ipset")));
    }
    if stem == "every/every" {
        accounting(&ns, "secretacct1", None);
    }
    let program: &[&str] = match (kind, legacy) {
        ("nft", _) => &["nft", "-f", "-"],
        ("rules", false) => &["iptables-nft-restore", "-w"],
        ("rules", true) => &["iptables-legacy-restore", "-w"],
        (_, false) => &["ip6tables-nft-restore", "-w"],
        (_, true) => &["ip6tables-legacy-restore", "-w"],
    };
    load(&ns, program, &read(file));
    ns
}

/// Every file with each program that loads it.
fn every_load(directory: &str) -> Vec<(String, bool)> {
    let both = |file: String| {
        let legacy = (!file.ends_with(".nft")).then(|| (file.clone(), true));
        [(file, false)].into_iter().chain(legacy)
    };
    files(directory).into_iter().flat_map(both).collect()
}

/// Responses that redaction has removed, with the reason.
fn removed(capture: &CaptureDir) -> Vec<String> {
    let failed = capture.answers().into_iter().filter(|name| name.ends_with(".failed"));
    let told = failed.map(|name| format!("{name}: {}", String::from_utf8_lossy(&capture.read(&name))));
    told.filter(|line| line.contains("--redact")).collect()
}

/// All errors in the redacted captures of one node, and the responses that were removed.
fn redacts(title: &str, ns: &Netns, secrets: &[Secret]) -> (Vec<String>, Vec<String>) {
    let plain = CaptureDir::of(ns, &[]);
    let mut checked = 0;
    for name in plain.answers() {
        let bytes = plain.read(&name);
        let counts = round_trips(&name, &bytes).unwrap_or_default();
        checked += counts.messages + counts.entries;
        // The parts of each message keep the same promise.
        for target in TARGETS {
            (target.seeds)(&name, &bytes).iter().for_each(|input| (target.run)(input));
        }
    }
    let redacted = CaptureDir::of(ns, &["--redact"]);
    let mut leaks = secrets::found(&redacted.path(), secrets);
    if !leaks.is_empty() {
        // An address that is in two captures was not mapped onto another by chance.
        let again = secrets::found(&CaptureDir::of(ns, &["--redact"]).path(), secrets);
        leaks.retain(|leak| again.contains(leak));
    }
    let mut wrong: Vec<String> =
        leaks.into_iter().map(|(secret, file)| format!("{title}: {secret} is left in {file}")).collect();
    let removed = removed(&redacted);
    let [plain_report, report] = [&plain, &redacted].map(|capture| capture.check(&["--format", "json"]).report());
    let (before, after) = (still(&plain_report), still(&report));
    wrong.extend(broken(&plain_report, &report).into_iter().map(|source| format!("{title}: {source}")));
    // If a chain was removed the list is unknown, unless the chain was not needed.
    if before != after && (removed.is_empty() || after != Value::Null) {
        wrong.push(format!("{title}: source-NAT rules were {before:#}, are {after:#}"));
    }
    let seen: BTreeSet<String> = secrets::found(&plain.path(), secrets).into_iter().map(|(secret, _)| secret).collect();
    println!(
        "{title}: {checked} messages and entries, {} of {} secrets in the plain capture",
        seen.len(),
        secrets.len()
    );
    removed.iter().for_each(|line| println!("  {line}"));
    let unseen = secrets.iter().filter(|secret| !seen.contains(&secret.text));
    unseen.for_each(|secret| println!("  not read at all: {}", secret.text));
    (wrong, removed)
}

/// Without what changes between two captures, and without networks, which Netavark names chains after: they are
/// redacted.
fn still(report: &Report) -> Value {
    let mut rules = report.json["source_nat_rules"].clone();
    for rule in rules.as_array_mut().into_iter().flatten() {
        rule["packets"].take();
        rule["bytes"].take();
        if rule["chain"].as_str().is_some_and(|chain| chain.starts_with("nv_")) {
            rule["chain"] = "nv_".into();
        }
    }
    rules
}

/// Sources that fail only in the redacted capture. Ranges that are no prefixes may have their ends swapped; natwatch
/// would then look up values that the recorded kernel was not asked for.
fn broken(plain: &Report, redacted: &Report) -> Vec<String> {
    let failed = |report: &Report| -> BTreeSet<String> {
        let sources = report.json["sources"].as_array().expect("sources").iter();
        let failed = sources.filter(|source| source["state"] == "failed").map(Value::to_string);
        failed.filter(|source| !source.contains("captured before natwatch asked for this")).collect()
    };
    failed(redacted).difference(&failed(plain)).cloned().collect()
}

fn nothing_is_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn nothing_is_left_of_rules_that_use_everything() {
    let secrets = secrets::of_every();
    let mut wrong = Vec::new();
    for (file, legacy) in every_load("every/") {
        let title = if legacy { format!("{file}, legacy") } else { file.clone() };
        let ns = node_with(&file, legacy);
        let (more, removed) = redacts(&title, &ns, &secrets);
        wrong.extend(more);
        wrong.extend(removed.into_iter().map(|line| format!("{title}: {line}")));
    }
    nothing_is_wrong(&wrong);
}

#[test]
fn nothing_is_left_of_rules_in_the_wild() {
    let mut wrong = Vec::new();
    for (file, legacy) in every_load("") {
        let title = if legacy { format!("{file}, legacy") } else { file.clone() };
        let sets = format!("{}.ipset", file.rsplit_once('.').expect("an extension").0);
        let sets = fs::read_to_string(rules().join(sets)).unwrap_or_default();
        let ns = node_with(&file, legacy);
        let (more, removed) = redacts(&title, &ns, &secrets::of_rules(&(read(&file) + "\n" + &sets)));
        wrong.extend(more);
        wrong.extend(removed.into_iter().map(|line| format!("{title}: {line}")));
    }
    nothing_is_wrong(&wrong);
}

/// The search works: all secrets are found in captures that are not redacted.
#[test]
fn secrets_are_found_where_they_are() {
    let secrets = secrets::of_every();
    let mut seen = BTreeSet::new();
    for (file, legacy) in every_load("every/") {
        let plain = CaptureDir::of(&node_with(&file, legacy), &[]);
        seen.extend(secrets::found(&plain.path(), &secrets).into_iter().map(|(secret, _)| secret));
    }
    let all: BTreeSet<String> = secrets.into_iter().map(|secret| secret.text).collect();
    assert_eq!(seen, all);
}

/// Writes the seeds of fuzzing (`tests/fuzz-seeds`) anew: all messages about `every/`, each once, and the legacy
/// tables. `cargo test --test live redaction::seeds -- --ignored`
#[test]
#[ignore = "it writes into the repository"]
fn seeds_of_fuzzing_are_written_anew() {
    let directory = rules().with_file_name("fuzz-seeds");
    let mut messages = BTreeSet::new();
    for (file, legacy) in every_load("every/") {
        let plain = CaptureDir::of(&node_with(&file, legacy), &[]);
        for name in plain.answers().into_iter().filter(|name| !name.ends_with(".failed")) {
            let bytes = plain.read(&name);
            if name.contains("netlink/netfilter/nft-") {
                let parsed = netlink::messages(&bytes).map(|message| message.expect("a whole message"));
                messages.extend(parsed.map(|message| netlink::frame(message.kind, message.flags, message.body)));
            } else if name.starts_with("xtables/") && file.starts_with("every/every.") {
                fs::write(directory.join(name.replace('/', "-")), &bytes).expect("a file");
            }
        }
    }
    fs::write(directory.join("nftables"), messages.into_iter().collect::<Vec<_>>().concat()).expect("a file");
}
