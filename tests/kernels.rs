//! `make test-kernels KERNELS=DIR`: on each kernel of a directory, what the probe finds, what the version tables say, and what
//! two real nodes with a tunnel between them see.
//!
//! `bzImage-*` is a kernel without modules (tests/kernels/build.sh makes some), `vmlinuz-RELEASE` one whose modules are in
//! `lib/modules/RELEASE` (tests/kernels/debian.sh).

#![allow(clippy::disallowed_types, reason = "tests boot kernels in qemu")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/kernels");
/// A guest takes 20 seconds without hardware virtualisation, twice that on a busy machine.
const PATIENCE: &str = "300";

/// What a guest said.
struct Guest {
    lines: BTreeMap<String, String>,
    tunnels: Vec<Tunnel>,
}

/// One tunnel between two nodes of a guest.
#[derive(Debug)]
struct Tunnel {
    family: String,
    checksum: bool,
    connected: bool,
    centiseconds: u64,
    wrong: u64,
}

impl Guest {
    fn json(&self, name: &str) -> Value {
        let text = self.lines.get(name).unwrap_or_else(|| panic!("the guest said no {name}"));
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{name}: {e}: {text}"))
    }

    /// State and basis by defect, of a report or of a probe.
    fn defects(&self, name: &str) -> BTreeMap<String, (String, String)> {
        let json = self.json(name);
        let list = json["kernel"].get("defects").or_else(|| json.get("defects"));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let defects = list.and_then(Value::as_array).unwrap_or_else(|| panic!("{name}: {json}")).iter();
        defects.map(|defect| (text(&defect["id"]), (text(&defect["state"]), text(&defect["basis"])))).collect()
    }

    /// Whether NAT spoils a tunnel's checksums.
    fn spoils(&self, checksum: bool) -> bool {
        self.tunnels.iter().any(|tunnel| tunnel.checksum == checksum && tunnel.wrong > 0)
    }
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn boot(kernel: &Path, natwatch: &str) -> Guest {
    let initramfs = tempfile::NamedTempFile::new().expect("a file");
    let name = kernel.file_name().and_then(|name| name.to_str()).expect("UTF-8");
    let mut pack = Command::new("bash");
    pack.arg(format!("{SCRIPTS}/initramfs.sh")).arg(initramfs.path()).arg(natwatch);
    if let Some(release) = name.strip_prefix("vmlinuz-") {
        pack.arg(kernel.with_file_name("lib").join("modules").join(release));
    }
    run(&mut pack);
    let mut qemu = Command::new("timeout");
    qemu.args([PATIENCE, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35"]);
    qemu.args(["-smp", "2", "-m", "768", "-nographic", "-no-reboot", "-nic", "none", "-kernel"]).arg(kernel);
    qemu.arg("-initrd").arg(initramfs.path());
    qemu.args(["-append", "console=ttyS0 quiet loglevel=3 panic=-1"]);
    let said = run(&mut qemu);
    let mut guest = Guest { lines: BTreeMap::new(), tunnels: Vec::new() };
    // The console's first line has the firmware's escape sequences in front.
    let said_lines = said.lines().filter_map(|line| Some(line.split_once("== ")?.1.trim()));
    for line in said_lines {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["tunnel", family, checksum, "exit", code, "centiseconds", time, "wrong", wrong] = words.as_slice() {
            guest.tunnels.push(Tunnel {
                family: (*family).to_owned(),
                checksum: *checksum == "on",
                connected: *code == "0",
                centiseconds: time.parse().expect("a number"),
                wrong: wrong.parse().expect("a number"),
            });
        } else {
            let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
            guest.lines.insert(name.to_owned(), rest.to_owned());
        }
    }
    assert!(guest.lines.contains_key("end") && guest.tunnels.len() == 4, "{name} did not come to its end:\n{said}");
    guest
}

/// The probe says what two real nodes see, whatever the version says.
fn assert_probe_is_right(name: &str, guest: &Guest) {
    for tunnel in &guest.tunnels {
        assert!(tunnel.connected, "{name}: {tunnel:?}");
        // A lost SYN is sent again after a second.
        assert_eq!(tunnel.wrong > 0, tunnel.centiseconds > 90, "{name}: {tunnel:?}");
    }
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
        assert_eq!(probe[defect].0, state, "{name}: {defect}: {}", guest.json("probe"));
        assert_eq!(served[defect], (state.to_owned(), "probe".to_owned()), "{name}: the probe outranks the tables");
    }
    let present = old || guest.spoils(false);
    assert_eq!(guest.lines["probe-exit"], if present { "2" } else { "0" }, "{name}");
}

/// A kernel that loads modules has none more by being asked, unless that is allowed.
fn assert_loads_nothing(name: &str, guest: &Guest) {
    assert_eq!(guest.lines["modules"], "same", "{name}");
    let (unloaded, allowed) = (guest.json("unloaded"), guest.defects("allowed"));
    for defect in unloaded["defects"].as_array().expect("a list") {
        assert_eq!(defect["state"], "unknown", "{name}: {defect}");
        assert!(defect["detail"].to_string().contains("--allow-module-load"), "{name}: {defect}");
    }
    assert!(allowed.values().all(|(state, _)| state != "unknown"), "{name}: {}", guest.json("allowed"));
}

#[test]
#[ignore = "boots kernels in qemu: make test-kernels KERNELS=DIR"]
fn the_probe_says_what_two_real_nodes_see_on_each_kernel() {
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
    println!("| kernel | release | defect | probe | tables | two real nodes |\n|---|---|---|---|---|---|");
    for kernel in kernels {
        let name = kernel.file_name().and_then(|name| name.to_str()).expect("UTF-8");
        let guest = boot(&kernel, &natwatch);
        let (probe, tables) = (guest.defects("probe"), guest.defects("tables"));
        for (defect, (state, _)) in &probe {
            let seen = match defect.as_str() {
                "nat-udp-zero-checksum" => seen(&guest, false),
                "nat-udp-lco-checksum" => seen(&guest, true),
                _ => String::new(),
            };
            let release = &guest.lines["release"];
            println!("| {name} | {release} | {defect} | {state} | {} | {seen} |", tables[defect].0);
        }
        println!(
            "| {name} | | all, in {} ms | exit {} | | |",
            guest.json("probe")["duration_ms"],
            guest.lines["probe-exit"]
        );
        assert_probe_is_right(name, &guest);
        if name.starts_with("vmlinuz-") {
            assert_loads_nothing(name, &guest);
        }
    }
}

fn seen(guest: &Guest, checksum: bool) -> String {
    let tunnels = guest.tunnels.iter().filter(|tunnel| tunnel.checksum == checksum);
    let words = tunnels.map(|tunnel| {
        format!("{}: {} wrong, {:.2} s", tunnel.family, tunnel.wrong, tunnel.centiseconds as f64 / 100.0)
    });
    words.collect::<Vec<_>>().join("; ")
}
