//! The command line: sub-commands, exit codes, streams, flags, reports.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::capture::CaptureDir;
use crate::support::exposition::{Exposition, metrics_table};
use crate::support::netns::Netns;
use crate::support::program::{NATWATCH, Run, natwatch, natwatch_in};
use crate::support::server::Server;
use crate::support::tools::expect_success;
use crate::support::vxlan::Vxlan;

const COLLECTORS: [&str; 5] = ["conntrack", "links", "kernel", "netstat", "verdict"];
/// States the defect, so that the tests do not depend on the running kernel.
const DEFECT: &str = "--kernel-defect=conntrack-chain-limit=present";
const NO_DEFECT: &str = "--kernel-defect=conntrack-chain-limit=absent";

/// Captures in each state; flags state the kernel defect.
struct States {
    fine: CaptureDir,
    critical: CaptureDir,
    warning: CaptureDir,
    unknown: CaptureDir,
}

impl States {
    fn new() -> Self {
        let ns = Netns::new();
        let fine = CaptureDir::of(&ns, &[]);
        let filled = |entries| {
            let capture = fine.copy();
            capture.conntrack(entries, 1000, 1000);
            capture
        };
        let (critical, warning, unknown) = (filled(990), filled(600), filled(990));
        unknown.remove("procfs/sys/net/netfilter/nf_conntrack_count");
        Self { fine, critical, warning, unknown }
    }
}

fn state_of<'a>(report: &'a Value, id: &str) -> &'a str {
    let advisories = report["advisories"].as_array().expect("a list");
    let found = advisories.iter().find(|advisory| advisory["id"] == id);
    found.unwrap_or_else(|| panic!("no {id}"))["state"].as_str().expect("a state")
}

/// Each state has its exit code in each format, and the text names it.
#[test]
fn exit_codes_are_those_of_the_contract() {
    let states = States::new();
    for format in ["text", "json", "html", "prometheus"] {
        let flags = ["--format", format, DEFECT];
        states.fine.check(&flags).expect(0);
        states.critical.check(&flags).expect(2);
        states.warning.check(&flags).expect(2);
        states.unknown.check(&flags).expect(3);
    }
    let line = |capture: &CaptureDir, format: &str, code| {
        let text = capture.check(&["--format", format, DEFECT]).expect(code);
        assert_eq!(text.lines().count(), 1, "{text:?}");
        text
    };
    assert!(line(&states.fine, "nagios", 0).starts_with("NATWATCH OK - "));
    assert!(line(&states.warning, "nagios", 1).starts_with("NATWATCH WARNING - exposed: conntrack-chain-limit"));
    assert!(line(&states.critical, "nagios", 2).starts_with("NATWATCH CRITICAL - exposed: conntrack-table-full"));
    assert!(line(&states.unknown, "nagios", 3).starts_with("NATWATCH UNKNOWN - unknown: "));
    for (capture, code) in [(&states.fine, 0), (&states.warning, 1), (&states.critical, 1), (&states.unknown, 2)] {
        let text = line(capture, "npd", code);
        assert!(text.trim_end().len() <= 80, "{text}");
    }
    // Exposed takes precedence over unknown.
    let both = states.critical.copy();
    both.remove("netlink/route/links");
    let report = both.check(&["--format", "json", DEFECT]).json(2);
    assert_eq!(state_of(&report, "vmxnet3-tunnel-offload"), "unknown");
    line(&both, "nagios", 2);
    line(&both, "npd", 1);
}

/// Perfdata after the bar: `label=value[unit];warn;crit;min;max`, separated by blanks.
#[test]
fn the_nagios_line_has_parseable_performance_data() {
    let states = States::new();
    let text = states.critical.check(&["--format", "nagios", DEFECT]).expect(2);
    let (_, data) = text.trim_end().split_once(" | ").expect("performance data");
    let mut names = BTreeSet::new();
    for item in data.split(' ') {
        let (name, rest) = item.split_once('=').expect("name=value");
        let value: String = rest.chars().take_while(char::is_ascii_digit).collect();
        assert!(!value.is_empty() && names.insert(name), "{item}");
        assert!(rest[value.len()..].chars().all(|c| c == 'c' || c == ';' || c.is_ascii_digit()), "{item}");
    }
    assert!(data.contains("conntrack_entries=990;;;0;1000"), "{data}");
}

/// Failures of natwatch itself exit with 1, and for monitors with their code for "the check failed".
#[test]
fn failures_have_their_own_codes_and_are_said_once() {
    let run = |format: &str| natwatch(&["check", "--from", "/nonexistent/capture", "--format", format]);
    for format in ["text", "json", "html", "prometheus"] {
        run(format).fails(1, &["cannot read", "/nonexistent/capture", "No such file"]);
    }
    for (format, code) in [("nagios", 3), ("npd", 2)] {
        let run = run(format);
        assert_eq!(run.code, code, "{run:?}");
        assert_eq!((run.stdout.lines().count(), run.stderr.lines().count()), (1, 1), "{run:?}");
        assert!(run.stdout.trim_end().len() <= 80 || format == "nagios", "{run:?}");
    }
    natwatch(&["explain", "no-such-advisory"]).fails(1, &["no-such-advisory"]);
    let file = tempfile::NamedTempFile::new().expect("a file");
    let path = file.path().to_str().expect("UTF-8");
    natwatch(&["check", "--from", path]).fails(1, &[path]);
    natwatch(&["capture", path]).fails(1, &[path]);
    natwatch(&["capture", "/proc/none"]).fails(1, &["/proc/none"]);
    natwatch(&["serve", "--web.listen-address", "nonsense"]).fails(1, &["nonsense"]);
    natwatch(&["serve", "--web.listen-address", ":99999"]).fails(1, &["99999"]);
}

/// Usage errors exit with 1 and name the error; help and version exit with 0 and go to stdout.
#[test]
fn usage_errors_are_1_and_help_is_0() {
    let wrong: &[(&[&str], &str)] = &[
        (&["nonsense"], "nonsense"),
        (&["--nonsense"], "--nonsense"),
        (&["check", "--format", "xml"], "xml"),
        (&["check", "--advisory", "nonsense"], "nonsense"),
        (&["check", "--min-severity", "fatal"], "fatal"),
        (&["check", "--kernel-defect", "nonsense=present"], "nonsense"),
        (&["check", "--kernel-defect", "nat-port-rover"], "nat-port-rover"),
        (&["check", "--kernel-defect", "nat-port-rover=perhaps"], "perhaps"),
        (&["check", "--network-namespace", "other"], "other"),
        (&["check", "--accept", "nonsense"], "nonsense"),
        (&["check", "--accept", "conntrack-table-full:warning"], "warning"),
        (&["serve", "--accept", "conntrack-table-full=two\nlines"], "one line"),
        (&["check", "--network-namespace"], "--network-namespace"),
        (&["check", "--no-collector.nonsense"], "--no-collector.nonsense"),
        (&["check", "--collector.nonsense"], "--collector.nonsense"),
        (&["check", "--from", "x", "--path.procfs", "/proc"], "--path.procfs"),
        (&["check", "superfluous"], "superfluous"),
        (&["capture"], "DIR"),
        (&["completions"], "SHELL"),
        (&["completions", "csh"], "csh"),
        (&["explain", "a", "b"], "b"),
        (&["serve", "--web.max-requests", "-1"], "-1"),
        (&["serve", "--web.telemetry-path", "metrics"], "metrics"),
        (&["serve", "--web.telemetry-path", "/report.json"], "/report.json"),
        (&["serve", "--web.telemetry-path", "/runbooks/x"], "/runbooks/x"),
        (&["--web.systemd-socket", "--web.listen-address", "127.0.0.1:0"], "cannot be used with"),
        (&["serve", "--log.level", "loud"], "loud"),
        (&["serve", "--log.format", "xml"], "xml"),
    ];
    for (args, word) in wrong {
        let run = natwatch(args);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{args:?}: {}", run.stderr);
        assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
    }
    for command in [None, Some("serve"), Some("check"), Some("capture"), Some("explain"), Some("metrics")] {
        let args: Vec<&str> = command.into_iter().chain(["--help"]).collect();
        let text = natwatch(&args).expect(0);
        assert!(text.contains("Usage: natwatch"), "{text}");
        assert!(!text.contains('\x1b'), "{text:?}");
    }
    let help = natwatch(&["--help"]).expect(0);
    for word in ["serve", "check", "capture", "explain", "metrics", "completions", "--web.listen-address", ":10077"] {
        assert!(help.contains(word), "no {word}: {help}");
    }
    assert_eq!(natwatch(&["--version"]).expect(0), format!("natwatch {}\n", env!("CARGO_PKG_VERSION")));
}

/// A closed pipe is no failure; a full disk must not pass for a report.
#[test]
fn a_closed_pipe_is_no_error_and_a_full_disk_is_one() {
    let states = States::new();
    let capture = states.fine.path();
    let capture = capture.to_str().expect("UTF-8");
    let mut commands: Vec<Vec<&str>> =
        vec![vec!["metrics"], vec!["explain"], vec!["explain", "conntrack-table-full"], vec!["completions", "bash"]];
    for format in ["text", "json", "html", "prometheus", "nagios", "npd"] {
        commands.push(vec!["check", "--from", capture, "--format", format, NO_DEFECT]);
    }
    for args in commands {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(NATWATCH).args(&args).stdout(writer).stderr(Stdio::piped()).output();
        let output = output.expect("natwatch starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), stderr.as_ref()), (Some(0), ""), "{args:?} with a closed pipe");

        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = Command::new(NATWATCH).args(&args).stdout(full).stderr(Stdio::piped()).output();
        let output = output.expect("natwatch starts");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let code = match args.last().copied() {
            _ if args.contains(&"nagios") => 3,
            _ if args.contains(&"npd") => 2,
            _ => 1,
        };
        assert_eq!(output.status.code(), Some(code), "{args:?} on a full disk: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{args:?}: {stderr}");
        assert!(stderr.starts_with("natwatch: ") && stderr.contains("stdout"), "{args:?}: {stderr}");
    }
}

/// Help and version are output like any other.
#[test]
fn help_on_a_full_disk_is_an_error_too() {
    for args in [&["--help"][..], &["--version"], &["check", "--help"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let output = Command::new(NATWATCH).args(args).stdout(writer).output().expect("natwatch starts");
        assert_eq!(output.status.code(), Some(0), "{args:?} with a closed pipe");
        let full = OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
        let output = Command::new(NATWATCH).args(args).stdout(full).output().expect("natwatch starts");
        assert_eq!(output.status.code(), Some(1), "{args:?} on a full disk");
    }
}

/// As in a shell: `natwatch check | true` with pipefail.
#[test]
fn a_reader_that_leaves_is_no_error_in_a_shell() {
    let line = format!("set -o pipefail; {NATWATCH} metrics | true; {NATWATCH} explain | head -1 >/dev/null");
    assert_eq!(Run::of(Command::new("bash").args(["-c", &line])).expect(0), "");
}

/// The operator's flag decides in JSON and metrics alike, whatever it says.
#[test]
fn the_operators_word_beats_the_tables() {
    let states = States::new();
    for (flag, state) in [(DEFECT, "present"), (NO_DEFECT, "absent")] {
        let report = states.fine.check(&["--format", "json", flag]).json(0);
        let defects = report["kernel"]["defects"].as_array().expect("a list");
        let defect = defects.iter().find(|defect| defect["id"] == "conntrack-chain-limit").expect("the defect");
        assert_eq!((defect["state"].as_str(), defect["basis"].as_str()), (Some(state), Some("operator")));
        let text = states.fine.check(&["--format", "prometheus", flag]).expect(0);
        let metrics = Exposition::parse(&text);
        let id = ("defect", "conntrack-chain-limit");
        let labels = [id, ("state", state), ("basis", "operator")];
        assert_eq!(metrics.get("natwatch_kernel_defect_info", &labels), Some(1.0));
        assert_eq!(metrics.one_state("natwatch_kernel_defect_info", &[id]).as_deref(), Some(state));
    }
    // The table would say otherwise about this release, or the release cannot be read.
    for release in ["5.15.1", "6.18.0", "nonsense"] {
        let capture = states.warning.copy();
        capture.write("procfs/sys/kernel/osrelease", format!("{release}\n"));
        assert_eq!(state_of(&capture.check(&["--format", "json", DEFECT]).json(2), "conntrack-chain-limit"), "exposed");
        let report = capture.check(&["--format", "json", NO_DEFECT]).json(0);
        assert_eq!(state_of(&report, "conntrack-chain-limit"), "not_affected", "{release}");
    }
}

/// With a collector off there are no series and no values of it, and every verdict that needs it is unknown.
#[test]
fn what_needs_a_collector_that_is_off_is_unknown() {
    let states = States::new();
    let prefixes: [&[&str]; 5] = [
        &["natwatch_conntrack_"],
        &["natwatch_tunnel", "natwatch_interface_"],
        &["natwatch_kernel_"],
        &["natwatch_netstat_"],
        &["natwatch_exposure", "natwatch_advisory_"],
    ];
    let sources: [&[&str]; 5] = [
        &["proc_conntrack", "ctnetlink", "sysctl"],
        &["rtnetlink", "routing", "ethtool"],
        &["kernel"],
        &["netstat"],
        &[],
    ];
    let affected: [&[&str]; 5] = [
        &["conntrack-table-full", "conntrack-chain-limit"],
        &["vmxnet3-tunnel-offload"],
        &["conntrack-chain-limit"],
        &[],
        &[],
    ];
    for (at, collector) in COLLECTORS.iter().enumerate() {
        let off = format!("--no-collector.{collector}");
        // The tables decide about the defect only where their collector is tested.
        let defect: &[&str] = if *collector == "kernel" { &[] } else { &[DEFECT] };
        let flags = |format| [&["--format", format, &off], defect].concat();
        let run = states.warning.check(&flags("json"));
        let code = run.code;
        let report = run.json(code);
        for advisory in report["advisories"].as_array().expect("a list") {
            let id = advisory["id"].as_str().expect("an id");
            if affected[at].contains(&id) {
                assert_eq!(advisory["state"], "unknown", "{id} without {collector}: {advisory:#}");
                assert!(advisory["summary"].as_str().expect("text").contains(collector), "{advisory:#}");
            }
        }
        let text = states.warning.check(&flags("prometheus"));
        assert_eq!(text.code, code);
        let metrics = Exposition::parse(&text.stdout);
        for (name, labels, _) in metrics.samples() {
            let of_it = prefixes[at].iter().any(|prefix| name.starts_with(prefix));
            let source = labels.get("source").is_some_and(|source| sources[at].contains(&source.as_str()));
            let named = labels.get("collector").is_some_and(|name| name == collector);
            assert!(!of_it && !source && !named, "{name} {labels:?} without {collector}");
        }
        for source in report["sources"].as_array().expect("a list") {
            assert!(!sources[at].contains(&source["name"].as_str().expect("a name")), "{source}");
        }
        match *collector {
            "conntrack" => {
                for field in ["entries", "entries_limit", "buckets", "counters"] {
                    assert_eq!(report["conntrack"][field], Value::Null, "{field}");
                }
            }
            "links" => assert_eq!(report["tunnels"], Value::Null),
            "kernel" => assert_eq!(report["kernel"]["release"], Value::Null),
            _ => {}
        }
        // The last flag counts.
        let on = format!("--collector.{collector}");
        assert_eq!(
            Exposition::parse(&states.fine.check(&["--format", "prometheus", &off, &on, DEFECT]).expect(0)).families(),
            Exposition::parse(&states.fine.check(&["--format", "prometheus", DEFECT]).expect(0)).families(),
        );
    }
}

/// `--min-severity` affects the exit code but not the report; `--advisory` restricts both.
#[test]
fn severity_and_filter_choose_what_counts() {
    let states = States::new();
    states.warning.check(&["--min-severity", "warning", DEFECT]).expect(2);
    states.warning.check(&["--min-severity", "info", DEFECT]).expect(2);
    let critical = states.warning.check(&["--min-severity", "critical", "--format", "json", DEFECT]).json(0);
    assert_eq!(state_of(&critical, "conntrack-chain-limit"), "exposed");
    assert_eq!(critical["verdict"], "exposed", "the verdict is of at least warning, whatever the exit code");
    states.critical.check(&["--min-severity", "critical", DEFECT]).expect(2);
    states.warning.check(&["--min-severity", "critical", "--format", "nagios", DEFECT]).expect(0);
    states.warning.check(&["--min-severity", "critical", "--format", "npd", DEFECT]).expect(0);

    let one = states.warning.check(&["--advisory", "conntrack-table-full", "--format", "json", DEFECT]).json(0);
    assert_eq!(one["advisories"].as_array().map(Vec::len), Some(1));
    assert_eq!(one["verdict"], "mitigated");
    let flags = ["--advisory", "conntrack-table-full", "--advisory", "conntrack-chain-limit", "--format", "json"];
    let two = states.warning.check(&[&flags[..], &[DEFECT]].concat()).json(2);
    assert_eq!(two["advisories"].as_array().map(Vec::len), Some(2));
    states.unknown.check(&["--advisory", "vmxnet3-tunnel-offload"]).expect(0);
}

/// In a namespace that is not the node's every verdict about it is unknown, with that reason, unless a flag says
/// otherwise.
#[test]
fn another_namespace_is_not_judged_unless_told() {
    let ns = Netns::new();
    let report = natwatch_in(&ns, &["check", "--format", "json", NO_DEFECT]).json(3);
    assert_eq!(report["node"]["network_namespace"], "other");
    for id in ["conntrack-table-full", "vmxnet3-tunnel-offload"] {
        assert_eq!(state_of(&report, id), "unknown");
    }
    assert_eq!(state_of(&report, "conntrack-chain-limit"), "not_affected");
    assert!(report.to_string().contains("is hostNetwork set?"));
    natwatch_in(&ns, &["check", "--network-namespace", "current", NO_DEFECT]).expect(0);
}

/// Information is shown by every format for people, and decides an exit code only if requested.
#[test]
fn information_is_shown_and_not_counted() {
    let node = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nodes/nat-nftables.txt");
    for (format, shown) in [
        ("text", "\nINFO  snat-port-race (exposed)\n"),
        ("html", "For information, not counted: snat-port-race"),
        ("nagios", "not counted: snat-port-race (info)"),
        ("npd", "not counted: snat-port-race (info)"),
    ] {
        let run = natwatch(&["check", "--from", node, "--format", format, "--advisory", "snat-port-race"]);
        assert_eq!((run.code, run.stdout.contains(shown)), (0, true), "{run:?}");
        let run = natwatch(&[
            "check",
            "--from",
            node,
            "--format",
            format,
            "--advisory",
            "snat-port-race",
            "--min-severity",
            "info",
        ]);
        assert_eq!(run.code, if ["nagios", "npd"].contains(&format) { 1 } else { 2 }, "{run:?}");
    }
}

/// The page of a capture is self-contained: it links to its own parts and to the web, not to endpoints.
#[test]
fn the_page_of_a_capture_is_a_file_of_its_own() {
    let states = States::new();
    let page = states.critical.check(&["--format", "html", DEFECT]).expect(2);
    assert!(page.starts_with("<!DOCTYPE html><html lang=\"en\">") && page.ends_with("</html>\n"), "{page}");
    assert!(page.contains("990 of 1000 entries"), "{page}");
    let links: Vec<&str> = page.split("href=\"").skip(1).map(|rest| rest.split('"').next().expect("a quote")).collect();
    assert!(links.iter().all(|link| link.starts_with('#') || link.starts_with("https://")), "{links:?}");
    assert!(links.contains(&"#conntrack-table-full"), "{links:?}");
}

/// For a terminal of 80 columns; only commands may be longer, as they are copied.
#[test]
fn the_text_report_fits_80_columns() {
    let states = States::new();
    for (capture, code) in [(&states.fine, 0), (&states.critical, 2), (&states.warning, 2), (&states.unknown, 3)] {
        check_width(&capture.check(&[DEFECT]).expect(code));
    }
    let all = natwatch(&["explain"]).expect(0);
    check_width(&all);
    for id in ["conntrack-table-full", "conntrack-chain-limit", "vmxnet3-tunnel-offload"] {
        check_width(&natwatch(&["explain", id]).expect(0));
    }
    let exposed = states.critical.check(&[DEFECT]).expect(2);
    assert!(exposed.starts_with("natwatch: exposed\n"), "{exposed}");
    for part in ["EXPOSED  conntrack-table-full (critical)", "990 of 1000 entries", "sysctl -w", "Fix"] {
        assert!(exposed.contains(part), "no {part:?}: {exposed}");
    }
}

fn check_width(text: &str) {
    for line in text.lines() {
        let command = line.starts_with("      ");
        let link = line.trim_start().starts_with("https://");
        assert!(command || link || line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
        assert_eq!(line, line.trim_end(), "white space at the end");
        assert!(!line.contains('\x1b'), "colour in a pipe: {line:?}");
    }
}

/// Colours only on a terminal that supports them.
#[test]
fn colours_are_for_terminals() {
    let states = States::new();
    let path = states.critical.path();
    let line = format!("{NATWATCH} check --from {} {DEFECT}", path.display());
    let on_terminal = |variables: &[(&str, &str)]| {
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_remove("NO_COLOR").env("TERM", "xterm");
        let run = Run::of(command.envs(variables.iter().copied()));
        assert_eq!(run.code, 2, "{run:?}");
        run.stdout
    };
    assert!(on_terminal(&[]).contains("\x1b[1;31m"));
    assert!(on_terminal(&[("NO_COLOR", "")]).contains("\x1b[1;31m"), "an empty NO_COLOR is none");
    for plain in [on_terminal(&[("NO_COLOR", "1")]), on_terminal(&[("TERM", "dumb")])] {
        assert!(!plain.contains('\x1b'), "{plain:?}");
        assert!(plain.contains("EXPOSED"), "{plain}");
    }
}

/// Names of devices and hosts cannot send escape sequences to the terminal.
#[test]
fn nothing_from_a_capture_reaches_the_terminal_raw() {
    let states = States::new();
    let capture = states.fine.copy();
    capture.edit_meta(|meta| {
        meta["hostname"] = "evil\u{1b}[31m\u{7}\u{9b}2J\u{202e}".into();
        meta["captured_at"] = "\u{1b}]0;x\u{7}".into();
    });
    capture.remove("netlink/route/links");
    capture.write("netlink/route/links.failed", "no\x1b[2J way\nnext | line");
    for format in ["text", "html", "nagios", "npd"] {
        let run = capture.check(&["--format", format, DEFECT]);
        let odd = |c: char| c.is_control() && c != '\n';
        assert!(!run.stdout.contains(odd), "{format}: {:?}", run.stdout);
        if !["text", "html"].contains(&format) {
            assert_eq!(run.stdout.lines().count(), 1, "{:?}", run.stdout);
        }
    }
}

/// Every advisory is explained.
#[test]
fn advisories_are_explained() {
    let list = natwatch(&["explain"]).expect(0);
    let catalogue = concat!(env!("CARGO_MANIFEST_DIR"), "/src/advisory/catalogue");
    let files = fs::read_dir(catalogue).expect("the catalogue").map(|entry| entry.expect("an entry").path());
    let ids: Vec<String> = files.map(|file| file.file_stem().expect("a name").to_string_lossy().into_owned()).collect();
    assert!(ids.len() > 10, "{ids:?}");
    for id in &ids {
        let line = list.lines().find(|line| line.starts_with(&format!("{id} "))).unwrap_or_else(|| panic!("no {id}"));
        let text = natwatch(&["explain", id]).expect(0);
        assert!(text.starts_with(id), "{text}");
        assert!(line.ends_with(')'), "{line}: the severity");
        for part in ["Conditions", "Remedies", "References", "https://"] {
            assert!(text.contains(part), "{id}: no {part}");
        }
    }
}

/// The table has exactly the metrics that are served.
#[test]
fn the_table_of_metrics_is_what_is_served() {
    let table = metrics_table();
    let pair = Vxlan::default().build();
    pair.nodes[0].cmd("iptables-nft -w -t nat -A POSTROUTING -o nowhere -j MASQUERADE --random-fully");
    // Creates an entry, without which none is read.
    pair.nodes[0].run(&["bash", "-c", "echo > /dev/udp/127.0.0.1/9"]);
    let empty = tempfile::NamedTempFile::new().expect("a web configuration without anything");
    let web = empty.path().to_str().expect("UTF-8");
    let flags = ["--network-namespace", "current", "--collector.conntrack.per-cpu", "--web.config.file", web];
    let flags = [&flags[..], &["--accept=snat-port-race", "--collector.verdict.conditions"]].concat();
    let server = Server::start(&pair.nodes[0], &flags);
    let served = Exposition::parse(&server.ok("/metrics"));
    for (name, labels, _) in served.samples() {
        let row = table.get(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        let labels: BTreeSet<String> = labels.keys().cloned().collect();
        assert_eq!(labels, row.labels, "{name}");
        assert_eq!(served.kind[name], row.kind, "{name}");
        assert_eq!(served.help[name], row.help, "{name}");
        assert_eq!(name.ends_with("_total"), row.kind == "counter", "{name}");
    }
    let missing: Vec<&String> = table.keys().filter(|name| !served.families().contains(*name)).collect();
    // These two are served elsewhere: everything can be read here (see tests/live/privileges.rs), and no destination
    // takes a quarter of its ports (see tests/live/flows.rs).
    let elsewhere = ["natwatch_advisory_unseen", "natwatch_snat_destination_ports_used_ratio"];
    assert_eq!(missing, elsewhere, "in the table, not served");
    let documented: BTreeSet<&String> = served.help.keys().collect();
    assert_eq!(documented, served.families().iter().collect::<BTreeSet<_>>(), "families without samples");
}

/// Completion scripts name the subcommands and are accepted by their shells.
#[test]
fn completions_are_scripts() {
    let dir = tempfile::tempdir().expect("a directory");
    for shell in ["bash", "zsh", "fish"] {
        let script = natwatch(&["completions", shell]).expect(0);
        for word in ["check", "capture", "explain", "metrics", "no-collector.netstat", "min-severity"] {
            assert!(script.contains(word), "{shell}: no {word}");
        }
        fs::write(dir.path().join(shell), script).expect("a script");
    }
    let bash = dir.path().join("bash");
    expect_success(Command::new("bash").arg("-n").arg(&bash));
    let words = "COMP_WORDS=(natwatch che); COMP_CWORD=1; _natwatch natwatch che natwatch; echo \"${COMPREPLY[*]}\"";
    let line = format!("source {}; {words}", bash.display());
    assert_eq!(expect_success(Command::new("bash").args(["-c", &line])).trim(), "check");
}
