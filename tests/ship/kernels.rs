//! `make test-kernels KERNELS=DIR`: for each kernel in a directory, the probe's findings, the version tables'
//! decisions, the verdict about nodes connected by a tunnel, and what happens to their packets.
//!
//! `bzImage-*` is a kernel without modules (built by tests/kernels/build.sh), `vmlinuz-RELEASE` one with modules in
//! `lib/modules/RELEASE` (fetched by tests/kernels/debian.sh).

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels");
const ADVISORY: &str = "vxlan-double-snat-checksum";
/// In seconds. Without hardware virtualisation a guest takes three minutes, five on a busy machine.
const PATIENCE: &str = "900";
/// Nodes: rules, offload, outer checksum, and a description.
const NODES: [(&str, bool, bool, &str); 5] = [
    ("marked", true, true, "old rules"),
    ("marked", true, false, "old rules, no outer checksum"),
    ("plain", true, true, "old rules, ports not random"),
    ("cleared", true, true, "rules that clear the mark"),
    ("marked", false, true, "old rules, tunnel's offload off"),
];
/// Number of pairs of nodes in a guest for each rule backend: over IPv4 and over IPv6.
const PAIRS: usize = 2 * NODES.len();

/// The output of a guest.
struct Guest {
    lines: BTreeMap<String, String>,
    tunnels: Vec<Tunnel>,
    stuck: Vec<String>,
}

/// One tunnel between two nodes of a guest.
#[derive(Debug)]
struct Tunnel {
    backend: String,
    rules: String,
    offload: bool,
    family: String,
    checksum: bool,
    connected: bool,
    centiseconds: u64,
    wrong: u64,
    /// Flows of the tunnel that left with another port; `None`: not read.
    rewritten: Option<usize>,
    probe: Verdict,
    tables: Verdict,
}

/// Verdict of `natwatch check` on the sending node before packets were sent, and its exit code.
#[derive(Clone, Debug, Default)]
struct Verdict {
    state: String,
    code: String,
    why: String,
}

impl Verdict {
    fn of(code: &str, text: &str) -> Self {
        Self::of_advisory(code, text, ADVISORY)
    }

    fn of_advisory(code: &str, text: &str, id: &str) -> Self {
        let json: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("a report: {e}: {text}"));
        let list = json["advisories"].as_array().expect("advisories");
        let advisory = list.iter().find(|advisory| advisory["id"] == id).expect("the advisory");
        let state = advisory["state"].as_str().expect("a state").to_owned();
        Self { state, code: code.to_owned(), why: advisory["conditions"].to_string() }
    }

    /// Whether this is the verdict for a node whose packets are wrong (or are right). Unknown is neither.
    fn says(&self, wrong: bool) -> bool {
        match self.state.as_str() {
            "exposed" => wrong && self.code == "2",
            "mitigated" | "not_affected" => !wrong && self.code == "0",
            _ => false,
        }
    }
}

impl Guest {
    fn json(&self, name: &str) -> Value {
        let text = self.lines.get(name).unwrap_or_else(|| panic!("the guest said no {name}"));
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
    }

    /// State and basis by defect, from a report or a probe.
    fn defects(&self, name: &str) -> BTreeMap<String, (String, String)> {
        let json = self.json(name);
        let list = json["kernel"].get("defects").or_else(|| json.get("defects"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let defects = list.and_then(Value::as_array).unwrap_or_else(|| panic!("{name}: {json}")).iter();
        defects.map(|defect| (text(&defect["id"]), (text(&defect["state"]), text(&defect["basis"])))).collect()
    }

    /// The pairs of nodes with these rules.
    fn nodes(&self, rules: &str, offload: bool, checksum: bool) -> impl Iterator<Item = &Tunnel> {
        let is =
            move |tunnel: &&Tunnel| tunnel.rules == rules && tunnel.offload == offload && tunnel.checksum == checksum;
        self.tunnels.iter().filter(is)
    }

    /// Whether NAT corrupts a tunnel's checksums.
    fn spoils(&self, checksum: bool) -> bool {
        self.nodes("marked", true, checksum).any(|tunnel| tunnel.wrong > 0)
    }
}

/// Disagreements, reported after all kernels were booted.
#[derive(Default)]
struct Disagreements(Vec<String>);

impl Disagreements {
    fn unless(&mut self, agrees: bool, what: impl FnOnce() -> String) {
        if !agrees {
            self.0.push(what());
        }
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Boots a kernel, with a time limit in seconds.
fn qemu(kernel: &Path, accelerator: &str, seconds: &str) -> Command {
    let mut qemu = Command::new("timeout");
    qemu.args([seconds, "qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-machine", "q35"]);
    qemu.args(["-smp", "2", "-m", "768", "-nographic", "-no-reboot", "-nic", "none", "-kernel"]).arg(kernel);
    qemu.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    qemu
}

/// Hardware virtualisation if it works. On a virtual machine the existence of /dev/kvm is not enough: a kernel without
/// a root must reach its panic.
fn accelerator(kernel: &Path) -> &'static str {
    let opens = OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    let works = opens && qemu(kernel, "kvm", "30").output().is_ok_and(|output| output.status.success());
    if works { "kvm" } else { "tcg,thread=multi" }
}

fn boot(kernel: &Path, accelerator: &str, natwatch: &str) -> Guest {
    let initramfs = tempfile::NamedTempFile::new().expect("a file");
    let name = kernel.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let mut pack = Command::new("bash");
    pack.arg(format!("{SCRIPTS}/initramfs.sh")).arg(initramfs.path()).arg(format!("{SCRIPTS}/guest.sh"));
    match name.strip_prefix("vmlinuz-") {
        Some(release) => pack.arg(kernel.with_file_name("lib").join("modules").join(release)),
        None => pack.arg(""),
    };
    pack.args([natwatch, "bash", "conntrack"]);
    run(&mut pack);
    let mut qemu = qemu(kernel, accelerator, PATIENCE);
    qemu.arg("-initrd").arg(initramfs.path());
    let said = run(&mut qemu);
    let guest = listen(&said);
    assert!(guest.lines.contains_key("end"), "{name} did not come to its end:\n{said}");
    guest
}

fn listen(said: &str) -> Guest {
    let mut guest = Guest { lines: BTreeMap::new(), tunnels: Vec::new(), stuck: Vec::new() };
    let (mut verdicts, mut after) = (BTreeMap::new(), Value::Null);
    // The console's first line begins with the firmware's escape sequences.
    let said_lines = said.lines().filter_map(|line| Some(line.split_once("== ")?.1.trim()));
    for line in said_lines {
        let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
        match name {
            "verdict" => {
                let [basis, code, report] = rest.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                verdicts.insert(basis.to_owned(), Verdict::of(code, report));
            }
            "after" => after = serde_json::from_str(rest).unwrap_or_else(|e| panic!("a report: {e}: {rest}")),
            "tunnel" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let [
                    backend,
                    rules,
                    "offload",
                    offload,
                    family,
                    checksum,
                    "exit",
                    code,
                    "centiseconds",
                    time,
                    "wrong",
                    wrong,
                ] = words[..]
                else {
                    panic!("{line}")
                };
                guest.tunnels.push(Tunnel {
                    backend: backend.to_owned(),
                    rules: rules.to_owned(),
                    offload: offload == "on",
                    family: family.to_owned(),
                    checksum: checksum == "on",
                    connected: code == "0",
                    centiseconds: time.parse().expect("a number"),
                    wrong: wrong.parse().expect("a number"),
                    rewritten: after["flows"]["rewritten_tunnel_flows"].as_array().map(Vec::len),
                    probe: verdicts.remove("probe").expect("a verdict"),
                    tables: verdicts.remove("tables").expect("a verdict"),
                });
            }
            "stuck" => guest.stuck.push(rest.to_owned()),
            _ => {
                guest.lines.insert(name.to_owned(), rest.to_owned());
            }
        }
    }
    guest
}

/// All pairs of nodes exist, and no packet is wrong where something prevents that.
fn judge_nodes(name: &str, kernel: &Path, guest: &Guest, wrong: &mut Disagreements) {
    wrong.unless(guest.stuck.is_empty(), || format!("{name}: {:?}", guest.stuck));
    let mut backends = vec!["nftables"];
    if let Some(release) = name.strip_prefix("vmlinuz-") {
        backends.push("iptables-nft");
        let modules = kernel.with_file_name("lib").join("modules").join(release);
        if modules.join("kernel/net/ipv4/netfilter/iptable_nat.ko").exists() {
            backends.push("iptables-legacy");
        }
    }
    let (told, expected) = (&guest.lines["backends"], backends.join(" "));
    wrong.unless(*told == expected, || format!("{name}: rules of {told}, not of {expected}"));
    for backend in backends {
        let pairs = guest.tunnels.iter().filter(|tunnel| tunnel.backend == backend).count();
        wrong.unless(pairs == PAIRS, || format!("{name}: {pairs} pairs of nodes with {backend}, not {PAIRS}"));
    }
    for tunnel in &guest.tunnels {
        wrong.unless(tunnel.connected, || format!("{name}: no connection: {tunnel:?}"));
        // A lost SYN is sent again after a second. Slow may also be the machine.
        let in_time = tunnel.wrong == 0 || tunnel.centiseconds > 90;
        wrong.unless(in_time, || format!("{name}: packets were wrong, and nothing took a second: {tunnel:?}"));
        // Whatever the checksum: the flows have other ports, or keep theirs.
        let rewritten = tunnel.rewritten.map(|flows| flows > 0);
        wrong.unless(rewritten == Some(tunnel.rules == "marked"), || {
            format!("{name}: flows with another port: {tunnel:?}")
        });
        let spoiled = tunnel.rules == "marked" && tunnel.offload && guest.spoils(tunnel.checksum);
        wrong.unless((tunnel.wrong > 0) == spoiled, || format!("{name}: unlike other nodes: {tunnel:?}"));
    }
}

/// A node is exposed if and only if its packets are wrong. Kernels of `build.sh` claim another release, so that the
/// tables cannot know them; Debian's own they know, or the verdict says that they do not.
fn judge_verdicts(name: &str, guest: &Guest, wrong: &mut Disagreements) {
    let tables = guest.defects("tables");
    for tunnel in &guest.tunnels {
        let spoiled = tunnel.wrong > 0;
        let told = |basis: &str, verdict: &Verdict| {
            let Verdict { state, code, why } = verdict;
            let Tunnel { backend, rules, offload, family, checksum, wrong, .. } = tunnel;
            format!(
                "{name}: {state} by {basis} with exit code {code}, and {wrong} wrong packets: {backend} {rules}, offload {offload}, \
                 {family}, outer checksum {checksum}: {why}"
            )
        };
        wrong.unless(tunnel.probe.says(spoiled), || told("the probe", &tunnel.probe));
        let defect = if tunnel.checksum { "nat-udp-lco-checksum" } else { "nat-udp-zero-checksum" };
        let unread = tables[defect].0 == "unknown" && tunnel.tables.state == "unknown";
        if name.starts_with("vmlinuz-") {
            wrong.unless(unread || tunnel.tables.says(spoiled), || told("the tables", &tunnel.tables));
        }
    }
}

/// The probe finds what two real nodes see, whatever the version.
fn judge_probe(name: &str, guest: &Guest, wrong: &mut Disagreements) {
    let (probe, served) = (guest.defects("probe"), guest.defects("served"));
    let expected = |present| if present { "present" } else { "absent" };
    let old = name.contains("old-nat");
    for (defect, state) in [
        ("nat-udp-zero-checksum", expected(guest.spoils(false))),
        ("nat-udp-lco-checksum", expected(guest.spoils(true))),
        ("nat-port-rover", expected(old)),
        ("nat-random-port-hash", expected(old)),
        ("udp-clash-drop", expected(old)),
    ] {
        wrong.unless(probe[defect].0 == state, || format!("{name}: {defect} is {state}: {}", guest.json("probe")));
        let outranks = served[defect] == (state.to_owned(), "probe".to_owned());
        wrong.unless(outranks, || format!("{name}: the probe outranks the tables: {defect}: {:?}", served[defect]));
    }
    let (code, expected) = (&guest.lines["probe-exit"], if old || guest.spoils(false) { "2" } else { "0" });
    wrong.unless(code == expected, || format!("{name}: the probe's exit code is {code}, not {expected}"));
}

/// Connection tracking entries are as `conntrack -L` lists them: of 128 ports, some and all, and a UDP translation
/// whose rule exists, then no longer exists.
fn judge_entries(name: &str, guest: &Guest, wrong: &mut Disagreements) {
    for (when, advisory, state) in [
        ("some", "snat-port-exhaustion", "mitigated"),
        ("all", "snat-port-exhaustion", "exposed"),
        ("current", "udp-stale-translation", "mitigated"),
        ("stale", "udp-stale-translation", "exposed"),
    ] {
        let said = &guest.lines[&format!("entries-{when}")];
        let (listed, report) = said.split_once(' ').expect("a number and a report");
        let verdict = Verdict::of_advisory("", report, advisory);
        wrong.unless(verdict.state == state, || format!("{name}: {when}: {advisory} is not {state}: {}", verdict.why));
        let report: Value = serde_json::from_str(report).expect("a report");
        let fullest = &report["flows"]["snat_ports"][0];
        let is_listed = fullest["used"].as_u64() == listed.parse().ok() && fullest["available"] == 128;
        wrong.unless(is_listed, || format!("{name}: {when}: {fullest}, and conntrack lists {listed}"));
    }
    println!(
        "| {name} | {} | entries: {} |  |  |  |",
        guest.lines["release"],
        ["some", "all", "current", "stale"]
            .map(|when| { guest.lines[&format!("entries-{when}")].split_once(' ').map_or("", |(listed, _)| listed) })
            .join(", ")
    );
}

/// natwatch makes a kernel load no modules unless that is allowed.
fn judge_modules(name: &str, guest: &Guest, wrong: &mut Disagreements) {
    let modules = &guest.lines["modules"];
    wrong.unless(modules == "same", || format!("{name}: asking loads modules: {modules}"));
    let (unloaded, allowed) = (guest.json("unloaded"), guest.defects("allowed"));
    for defect in unloaded["defects"].as_array().expect("a list") {
        let told = defect["state"] == "unknown" && defect["detail"].to_string().contains("--allow-module-load");
        wrong.unless(told, || format!("{name}: without modules: {defect}"));
    }
    let all = allowed.values().all(|(state, _)| state != "unknown");
    wrong.unless(all, || format!("{name}: with modules: {}", guest.json("allowed")));
}

fn print_rows(name: &str, guest: &Guest) {
    let (probe, tables) = (guest.defects("probe"), guest.defects("tables"));
    let release = &guest.lines["release"];
    for (defect, (state, _)) in &probe {
        println!("| {name} | {release} | {defect} | {state} | {} |  |", tables[defect].0);
    }
    let (milliseconds, code) = (&guest.json("probe")["duration_ms"], &guest.lines["probe-exit"]);
    let tries =
        if guest.lines["probe-tries"] == "1" { String::new() } else { format!(", try {}", guest.lines["probe-tries"]) };
    println!("| {name} | {release} | all, in {milliseconds} ms | exit {code}{tries} |  |  |");
    for (rules, offload, checksum, words) in NODES {
        let nodes: Vec<&Tunnel> = guest.nodes(rules, offload, checksum).collect();
        let states = |of: fn(&Tunnel) -> &Verdict| {
            let mut states: Vec<&str> = nodes.iter().map(|tunnel| of(tunnel).state.as_str()).collect();
            states.sort_unstable();
            states.dedup();
            states.join(", ")
        };
        let (by_probe, by_tables) = (states(|tunnel| &tunnel.probe), states(|tunnel| &tunnel.tables));
        println!("| {name} | {release} | {words} | {by_probe} | {by_tables} | {} |", seen(&nodes));
    }
}

/// Number of wrong packets of the nodes, and how long connections took.
fn seen(nodes: &[&Tunnel]) -> String {
    let families = ["ipv4", "ipv6"].map(|family| {
        let of: Vec<&&Tunnel> = nodes.iter().filter(|tunnel| tunnel.family == family).collect();
        let wrong: Vec<String> = of.iter().map(|tunnel| tunnel.wrong.to_string()).collect();
        let slowest = of.iter().map(|tunnel| tunnel.centiseconds).max().unwrap_or_default();
        format!("{family}: {} wrong, {:.2} s", wrong.join("+"), slowest as f64 / 100.0)
    });
    families.join("; ")
}

/// Output as of a guest without modules; `state` and `wrong` depend on the rules and the offload of a node.
fn transcript(state: impl Fn(&str, bool, bool) -> &'static str, wrong: impl Fn(&str, bool, bool) -> u64) -> String {
    let mut lines = vec!["\u{1b}[2J== release 6.1.0".to_owned(), "== backends nftables".to_owned()];
    let defects = [
        ("nat-udp-zero-checksum", "absent"),
        ("nat-udp-lco-checksum", "present"),
        ("nat-port-rover", "absent"),
        ("nat-random-port-hash", "absent"),
        ("udp-clash-drop", "absent"),
    ]
    .map(|(id, state)| serde_json::json!({"id": id, "state": state, "basis": "probe"}));
    let document = serde_json::json!({ "defects": defects });
    lines.extend(["probe", "served", "tables"].map(|name| format!("== {name} {document}")));
    lines.push("== probe-exit 0".to_owned());
    for (family, (rules, offload, checksum, _)) in ["ipv4", "ipv6"].into_iter().flat_map(|f| NODES.map(|n| (f, n))) {
        let on = |yes| if yes { "on" } else { "off" };
        let state = state(rules, offload, checksum);
        let code = if state == "exposed" { 2 } else { 0 };
        let report = serde_json::json!({"advisories": [{"id": ADVISORY, "state": state, "conditions": []}]});
        lines.extend(["probe", "tables"].map(|basis| format!("== verdict {basis} {code} {report}")));
        let rewritten = if rules == "marked" { vec![0] } else { vec![] };
        lines.push(format!("== after {}", serde_json::json!({"flows": {"rewritten_tunnel_flows": rewritten}})));
        let (offload, checksum, wrong) = (on(offload), on(checksum), wrong(rules, offload, checksum));
        let time = if wrong > 0 { 110 } else { 10 };
        lines.push(format!(
            "== tunnel nftables {rules} offload {offload} {family} {checksum} exit 0 centiseconds {time} wrong {wrong}"
        ));
    }
    lines.join("\r\n")
}

/// The test that boots kernels fails if verdict, probe or packets disagree.
#[test]
fn what_disagrees_is_told() {
    let is_spoiled = |rules: &str, offload: bool, checksum: bool| rules == "marked" && offload && checksum;
    let right = |rules: &str, offload: bool, checksum: bool| {
        if is_spoiled(rules, offload, checksum) { "exposed" } else { "mitigated" }
    };
    let packets = |rules: &str, offload: bool, checksum: bool| u64::from(is_spoiled(rules, offload, checksum));
    let judge = |name: &str, said: &str| {
        let (guest, mut wrong) = (listen(said), Disagreements::default());
        judge_nodes(name, Path::new(name), &guest, &mut wrong);
        judge_verdicts(name, &guest, &mut wrong);
        judge_probe(name, &guest, &mut wrong);
        wrong.0
    };
    assert_eq!(judge("bzImage-a", &transcript(right, packets)), Vec::<String>::new());
    for (what, said) in [
        ("exposed, and no packet wrong", transcript(|_, _, _| "exposed", packets)),
        ("mitigated, and packets wrong", transcript(|_, _, _| "mitigated", packets)),
        ("unknown", transcript(|_, _, _| "unknown", packets)),
        ("the probe found a defect, and no packet is wrong", transcript(|_, _, _| "mitigated", |_, _, _| 0)),
        ("a cure that does not cure", transcript(|_, _, _| "exposed", |_, _, _| 1)),
        ("a pair of nodes less", transcript(right, packets).replacen("== tunnel", "== other", 1)),
        ("a flow that has another port, and is not seen", transcript(right, packets).replacen("[0]", "[]", 1)),
        ("flows that were not read", transcript(right, packets).replacen(r#"flows":[]"#, r#"flows":null"#, 1)),
    ] {
        assert!(!judge("bzImage-a", &said).is_empty(), "{what}");
    }
}

#[test]
#[ignore = "boots kernels in qemu: make test-kernels KERNELS=DIR"]
fn verdict_probe_and_packets_agree_on_each_kernel() {
    let variable = |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: make test-kernels"));
    let (directory, natwatch) = (variable("NATWATCH_KERNELS"), variable("NATWATCH_STATIC"));
    let entries = fs::read_dir(&directory).unwrap_or_else(|e| panic!("{directory}: {e}"));
    let mut kernels: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    let is_kernel = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("bzImage-") || name.starts_with("vmlinuz-")
    };
    kernels.retain(is_kernel);
    kernels.sort();
    assert!(!kernels.is_empty(), "{directory}: no bzImage-* and no vmlinuz-*");
    let accelerator = accelerator(&kernels[0]);
    println!("in qemu, with {accelerator}");
    println!(
        "| kernel | release | defect, or node | by the probe | by the tables | packets |\n|---|---|---|---|---|---|"
    );
    let mut wrong = Disagreements::default();
    for kernel in kernels {
        let name = kernel.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let guest = boot(&kernel, accelerator, &natwatch);
        print_rows(name, &guest);
        judge_nodes(name, &kernel, &guest, &mut wrong);
        judge_verdicts(name, &guest, &mut wrong);
        judge_probe(name, &guest, &mut wrong);
        judge_entries(name, &guest, &mut wrong);
        if name.starts_with("vmlinuz-") {
            judge_modules(name, &guest, &mut wrong);
        }
    }
    assert!(wrong.0.is_empty(), "{} disagreements:\n{}", wrong.0.len(), wrong.0.join("\n"));
}
