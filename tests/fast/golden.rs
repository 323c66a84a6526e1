//! Complete outputs for every recorded node in `tests/nodes`, in every format, with exit codes.
//!
//! `make golden` rewrites `tests/golden`; review the diff.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::Parser as _;
use natwatch::inside::cli::{Action, Cli};
use natwatch::inside::cli::{CheckAnswer, answer};
use natwatch::inside::facts::Collector;
use natwatch::inside::facts::netfilter::ChainId;
use natwatch::inside::report::Style;

use crate::support::capture::recorded_nodes;

const FORMATS: [&str; 6] = ["text", "json", "prometheus", "nagios", "npd", "rules"];

/// The decoded rules, one step a line.
fn rules(node: &Path) -> String {
    let capture = natwatch::inside::capture::archive::load(node).unwrap();
    let collectors = Collector::ALL.iter().copied().collect();
    let reading = natwatch::inside::read::replay(&capture, &collectors).nftables;
    let Some(ruleset) = reading.ok() else { return format!("{reading:?}\n") };
    let mut out = format!("generation {:?}, devices {:?}\n", ruleset.generation, ruleset.devices);
    for (ChainId { family, table, chain }, found) in &ruleset.chains {
        writeln!(out, "\n{family} {table} {chain}: {:?}", found.base).unwrap();
        for rule in found.known_rules() {
            writeln!(out, "  {} {:?} {:?}", rule.position, rule.comment, rule.counter).unwrap();
            rule.steps.iter().for_each(|step| writeln!(out, "    {step:?}").unwrap());
        }
        if found.rules.ok().is_none() {
            writeln!(out, "  {:?}", found.rules).unwrap();
        }
    }
    writeln!(out, "\n{:?}", ruleset.mark_writers).unwrap();
    ruleset.sets.iter().for_each(|(id, set)| writeln!(out, "{id:?}\n  {set:?}").unwrap());
    out
}

/// The report and its exit code; what differs from build to build is masked.
fn check(node: &Path, format: &str) -> String {
    if format == "rules" {
        return rules(node);
    }
    let words = ["natwatch", "check", "--format", format, "--from", node.to_str().unwrap()];
    let Some(Action::Check(flags)) = Cli::parse_from(words).action else { panic!("these are the words of check") };
    let CheckAnswer { text, beside, code } = answer(&flags, Style { colour: false }).unwrap();
    assert_eq!(beside, None, "{}", node.display());
    let version = env!("CARGO_PKG_VERSION");
    let stdout = text
        .replace(&format!("\"natwatch_version\": \"{version}\""), "\"natwatch_version\": \"VERSION\"")
        .replace(&format!("version=\"{version}\",arch=\"{}\"", std::env::consts::ARCH), "version=\"VERSION\"");
    // docs/metrics.md has the texts and types, once.
    let lines = stdout.split_inclusive('\n').filter(|line| format != "prometheus" || !line.starts_with("# "));
    format!("{}exit code {}\n", lines.collect::<String>(), code)
}

#[test]
fn whole_outputs_stay_as_reviewed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let write = std::env::var_os("GOLDEN").is_some_and(|value| value == "write");
    let (mut wrong, mut expected_files) = (Vec::new(), Vec::new());
    for node in recorded_nodes() {
        for format in FORMATS {
            let file = golden.join(format!("{}.{format}", node.file_stem().unwrap().to_str().unwrap()));
            let actual = check(&node, format);
            // Rules are shown as decoded.
            let debug = crate::support::debug_text::debug_text(&actual).filter(|_| format != "rules");
            assert_eq!(debug, None, "{}", file.display());
            if write {
                fs::create_dir_all(&golden).unwrap();
                fs::write(&file, &actual).unwrap();
            } else if fs::read_to_string(&file).unwrap_or_default() != actual {
                wrong.push(format!("{}:\n{actual}", file.display()));
            }
            expected_files.push(file);
        }
    }
    assert!(wrong.is_empty(), "run `make golden` and review the diff:\n{}", wrong.join("\n"));
    let present = fs::read_dir(&golden).unwrap().map(|entry| entry.unwrap().path());
    let stale: Vec<_> = present.filter(|file| !expected_files.contains(file)).collect();
    assert!(stale.is_empty(), "no node produces these any more: {stale:?}");
}

/// Every state of every advisory is shown by at least one captured node.
#[test]
fn every_state_of_every_advisory_is_shown_by_a_node() {
    let mut seen = Vec::new();
    for node in recorded_nodes() {
        let report = check(&node, "json");
        let (json, _) = report.rsplit_once("exit code").unwrap();
        let report: serde_json::Value = serde_json::from_str(json).unwrap();
        for advisory in report["advisories"].as_array().unwrap() {
            seen.push((advisory["id"].clone(), advisory["state"].clone()));
        }
    }
    for advisory in &natwatch::inside::advisory::Catalogue::built_in().advisories {
        let safeguard = natwatch::inside::advisory::ConditionKind::Safeguard;
        let safeguarded = advisory.conditions.iter().any(|condition| condition.kind == safeguard);
        let possible = |state: &&natwatch::inside::advisory::State| {
            safeguarded || **state != natwatch::inside::advisory::State::Mitigated
        };
        for state in natwatch::inside::advisory::State::ALL.iter().filter(possible) {
            // Every kernel with IPv4 has a table of neighbours.
            let impossible =
                advisory.id == "neighbour-table-full" && *state == natwatch::inside::advisory::State::NotAffected;
            let wanted = (advisory.id.as_str().into(), state.name().into());
            assert!(impossible || seen.contains(&wanted), "no node is {wanted:?}");
        }
    }
}

#[test]
fn debug_text_is_told_from_a_report() {
    for text in [
        "because rule 1: Ipv4Destination 0xa600001/0xffffffff",
        "because meta 22 is not known",
        "a test of Other(\"1 bytes at 8\")",
        "1 bytes at 8 of header 1 & 0xff == 0x40",
        "chain ChainId { family: Ipv4 }",
        "whether Some(3) is",
        "ip daddr 0xa600001/0xffffffff",
    ] {
        assert!(crate::support::debug_text::debug_text(text).is_some(), "{text}");
    }
    for text in [
        "rule 3 of chain KUBE-POSTROUTING (legacy table ip nat): meta mark & 0x4000 == 0x4000",
        "match u32 revision 0",
        "@nh,64,8 & 0xf == 0x4",
        "packets with mark 0x4000/0x4000 past the tunnel",
        "IPv4 (10 rules)",
        "Open vSwitch (device ovs0) sends packets",
        "{\"summary\": \"vmxnet3 GitHub https://a/b\"}",
        "DaemonSet of hostNetwork (chart)",
    ] {
        assert_eq!(crate::support::debug_text::debug_text(text), None);
    }
}
