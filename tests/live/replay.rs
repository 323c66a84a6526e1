//! Captures: contents, replay elsewhere, redaction, and broken ones.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

use crate::support::capture::{CaptureDir, walk};
use crate::support::exposition::Exposition;
use crate::support::netns::Netns;
use crate::support::program::{NATWATCH, Run, natwatch_in};
use crate::support::report::LEVELS;
use crate::support::rules::nft;
use crate::support::vxlan::{Vxlan, VxlanPair};

/// Makes the verdicts independent of the kernel that runs the tests.
const DEFECT: &str = "--kernel-defect=conntrack-chain-limit=present";

/// Both address families, a host name to search for and all kinds of responses.
fn tunnel() -> VxlanPair {
    let pair = Vxlan::default().build();
    pair.nodes[0].address("eth0", "2001:db8:1234:5678::abcd/64");
    pair.nodes[0].route("198.51.100.0/24 via 192.168.88.2");
    pair.nodes[0].route("2001:db8:9999::/48 via 2001:db8:1234:5678::1");
    pair
}

fn json(run: Run) -> Value {
    assert!(matches!(run.code, 0 | 2 | 3), "{run:?}");
    assert_eq!(run.stderr, "");
    serde_json::from_str(&run.stdout).expect("JSON")
}

/// Without what changes between two readings.
fn still(mut report: Value) -> Value {
    report["node"]["captured_at"].take();
    report["node"]["network_namespace"].take();
    report["conntrack"]["counters"].take();
    report["conntrack"]["entries"].take();
    // A capture has no entries unless requested.
    report["flows"].take();
    report["sources"].as_array_mut().expect("sources").retain(|source| source["name"] != "ctnetlink_entries");
    for advisory in report["advisories"].as_array_mut().expect("a list") {
        advisory["evidence"].take();
        if LEVELS.iter().chain(&["conntrack-chain-limit"]).any(|id| advisory["id"] == *id) {
            advisory["summary"].take();
            for condition in advisory["conditions"].as_array_mut().expect("a list") {
                condition["detail"].take();
            }
        }
    }
    report
}

#[test]
fn a_replay_says_what_the_node_said() {
    let pair = tunnel();
    let live = natwatch_in(&pair.nodes[0], &["check", "--format", "json", "--network-namespace", "current", DEFECT]);
    let capture = CaptureDir::of(&pair.nodes[0], &[]);
    let replayed = json(capture.check(&["--format", "json", DEFECT]));
    assert_eq!(replayed["tunnels"].as_array().map(Vec::len), Some(1));
    assert_eq!(still(json(live)), still(replayed.clone()));
    // The same twice, byte for byte, in every format; and the metrics agree with the JSON.
    for format in ["text", "json", "prometheus", "nagios", "npd"] {
        let run = || capture.check(&["--format", format, DEFECT]).stdout;
        assert_eq!(run(), run(), "{format}");
    }
    let metrics = Exposition::parse(&capture.check(&["--format", "prometheus", DEFECT]).stdout);
    assert_eq!(metrics.find("natwatch_conntrack_entries", &[]), replayed["conntrack"]["entries"].as_f64());
    for (name, value) in replayed["conntrack"]["counters"].as_object().expect("counters") {
        let name = format!("natwatch_conntrack_{name}_total");
        assert_eq!(metrics.find(&name, &[]), value.as_f64(), "{name}");
    }
}

/// As `nobody`, in an empty namespace: only the capture is read, and no socket is opened.
#[test]
fn a_replay_looks_at_nothing_but_the_capture() {
    let pair = tunnel();
    let capture = CaptureDir::of(&pair.nodes[0], &[]);
    let expected = capture.check(&["--format", "json", DEFECT]).stdout;
    let dir = tempfile::tempdir().expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).expect("permissions");
    let (binary, place, log) = (dir.path().join("natwatch"), dir.path().join("place"), dir.path().join("log"));
    expect(Command::new("cp").arg(NATWATCH).arg(&binary)); // by another process, see PublicCopy
    expect(Command::new("cp").arg("-r").arg(capture.path()).arg(&place));
    expect(Command::new("chmod").args(["-R", "a+rX"]).arg(&place));
    let elsewhere = Netns::new();
    let mut command = elsewhere.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "strace", "-f", "-o"]);
    command.arg(&log).args(["-e", "trace=%file,%network,%process"]).arg(&binary);
    command.args(["check", "--format", "json", DEFECT, "--from"]).arg(&place).current_dir("/");
    // Set by cargo for tests; the loader would search there too.
    let run = Run::of(command.env_remove("LD_LIBRARY_PATH"));
    assert_eq!(run.stdout, expected, "{}", run.stderr);
    let log = fs::read_to_string(&log).expect("the log of strace");
    let allowed = |path: &str| {
        path.starts_with(place.to_str().expect("UTF-8"))
            || path == binary.to_str().expect("UTF-8")
            // The dynamic loader.
            || path.starts_with("/etc/ld.so.")
            || path.starts_with("/lib/")
            || path.starts_with("/lib64/")
            || path.starts_with("/usr/lib/")
            // Rust's runtime reads the main thread's stack.
            || path == "/proc/self/maps"
            // The allocator, before it returns a thread's memory.
            || path == "/proc/sys/vm/overcommit_memory"
            || path == "/dev/null"
            // Names relative to an open directory of the capture.
            || (!path.starts_with('/') && !path.contains(".."))
    };
    let mut calls = 0;
    for line in log.lines() {
        let call = line.split_once(' ').map_or(line, |(_, rest)| rest.trim_start());
        assert!(!call.starts_with("socket") && !call.starts_with("connect"), "{line}");
        assert!(!call.starts_with("execve") || call.contains(binary.to_str().expect("UTF-8")), "{line}");
        if let Some(path) = call.split('"').nth(1).filter(|_| call.starts_with(|c: char| c.is_ascii_lowercase())) {
            assert!(allowed(path), "{line}");
            calls += 1;
        }
    }
    assert!(calls > 20, "{log}");
}

fn expect(command: &mut Command) {
    let status = command.status().expect("a tool");
    assert!(status.success(), "{command:?}");
}

/// The hostname, and every address in the namespace as text and as bytes.
fn secrets(ns: &Netns) -> Vec<(String, Vec<u8>)> {
    let mut secrets = Vec::new();
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for word in ns.cmd("ip -o addr").split_whitespace().chain(ns.cmd("ip -4 route show table all").split_whitespace()) {
        addresses.extend(word.split('/').next().and_then(|word| word.parse::<IpAddr>().ok()));
    }
    for list in ["ip -6 route show table all", "bridge fdb", "ip neigh"] {
        let text = ns.cmd(list);
        addresses.extend(text.split_whitespace().filter_map(|word| word.split('/').next()?.parse::<IpAddr>().ok()));
    }
    addresses.retain(|address| match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_unspecified() && !address.is_multicast(),
        // The link-local prefix alone identifies nobody.
        IpAddr::V6(address) => {
            !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_multicast()
                && *address != Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)
        }
    });
    assert!(addresses.len() > 8, "{addresses:?}");
    for address in addresses {
        let bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        secrets.push((address.to_string(), bytes));
    }
    for device in ["eth0", "flannel.1"] {
        let mac = ns.mac(device);
        let bytes = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
        secrets.push((mac, bytes));
    }
    secrets
}

#[test]
fn redaction_keeps_the_verdict_and_no_address() {
    let pair = tunnel();
    let ns = &pair.nodes[0];
    let host = "node-with-a-name";
    // With the host name in the kernel's version, as in a kernel built on the node.
    let dir = tempfile::tempdir().expect("a directory");
    let take = |name: &str, flags: &[&str]| {
        let path = dir.path().join(name);
        let mut command = ns.command("unshare");
        command.args(["--uts", "sh", "-c", "hostname \"$0\" && exec \"$@\"", host, NATWATCH, "capture"]);
        Run::of(command.arg(&path).args(flags)).expect(0);
        path
    };
    let (plain, redacted) = (take("plain", &[]), take("redacted", &["--redact"]));
    let check = |path: &Path| {
        let mut command = Command::new(NATWATCH);
        command.args(["check", "--format", "json", "--network-namespace", "current", DEFECT, "--from"]);
        let mut report = still(json(Run::of(command.arg(path))));
        report["node"]["hostname"].take();
        report
    };
    assert_eq!(check(&plain), check(&redacted));
    let contains = |bytes: &[u8], secret: &[u8]| bytes.windows(secret.len()).any(|window| window == secret);
    let search = |root: &Path, secret: &[u8]| -> Vec<PathBuf> {
        let mut files = Vec::new();
        walk(root, &mut files);
        files.retain(|file| {
            contains(&fs::read(file).expect("readable"), secret) || file.to_string_lossy().as_bytes() == secret
        });
        files
    };
    let mut seen = 0;
    for (text, bytes) in secrets(ns).into_iter().chain([(host.to_owned(), host.as_bytes().to_vec())]) {
        seen += usize::from(!search(&plain, &bytes).is_empty());
        for form in [text.as_bytes(), &bytes] {
            assert_eq!(search(&redacted, form), Vec::<PathBuf>::new(), "{text} remains");
        }
    }
    assert!(seen > 8, "the unredacted capture should hold what is searched for; found {seen}");
    let meta: Value = serde_json::from_slice(&fs::read(redacted.join("meta.json")).expect("meta")).expect("JSON");
    assert_eq!(meta["redacted"], true);
}

/// Device names that are hardware addresses are redacted, also in file names.
#[test]
fn redaction_covers_names_made_of_hardware_addresses() {
    let ns = Netns::new();
    ns.cmd("ip link add enx0200deadbeef address 02:00:de:ad:be:ef type veth peer name other0");
    ns.cmd("ip link set enx0200deadbeef up");
    ns.cmd("ip link add vx7 type vxlan id 7 dstport 4789 local 203.0.113.9 remote 203.0.113.77 dev enx0200deadbeef");
    ns.address("enx0200deadbeef", "203.0.113.9/24");
    ns.up("vx7");
    let capture = CaptureDir::of(&ns, &["--redact"]);
    for name in capture.answers() {
        let bytes = capture.read(&name);
        let found = bytes.windows(12).any(|window| window == b"0200deadbeef");
        assert!(!found && !name.contains("0200deadbeef"), "{name}");
        for secret in [[203, 0, 113, 9], [203, 0, 113, 77]] {
            assert!(!bytes.windows(4).any(|window| window == secret), "{secret:?} in {name}");
        }
    }
    let report = json(capture.check(&["--format", "json", DEFECT]));
    let underlay = report["tunnels"][0]["underlay"].as_str().expect("still known");
    assert!(underlay.starts_with("enx") && underlay != "enx0200deadbeef", "{underlay}");
}

#[test]
fn captures_go_only_where_nothing_is() {
    let ns = Netns::new();
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_str().expect("UTF-8").to_owned();
    let full = path("full");
    fs::create_dir(&full).expect("a directory");
    fs::write(format!("{full}/mine"), "precious").expect("a file");
    natwatch_in(&ns, &["capture", &full]).fails(1, &[&full, "not empty"]);
    assert_eq!(fs::read(format!("{full}/mine")).expect("still there"), b"precious");
    assert_eq!(fs::read_dir(&full).expect("readable").count(), 1);
    let empty = path("empty");
    fs::create_dir(&empty).expect("a directory");
    for target in [&empty, &path("new")] {
        let text = natwatch_in(&ns, &["capture", target]).expect(0);
        assert!(text.contains("netlink/route/links") && text.contains(&format!("check --from {target}")), "{text}");
        assert!(Path::new(target).join("meta.json").is_file());
    }
    natwatch_in(&ns, &["capture", &empty]).fails(1, &["not empty"]);
    let deep = path("no/such/parent");
    natwatch_in(&ns, &["capture", &deep]).fails(1, &[&deep]);
    assert!(!dir.path().join("no").exists());
    // Not writable for users other than root.
    let closed = path("closed");
    fs::DirBuilder::new().mode(0o555).create(&closed).expect("a directory");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let binary = path("natwatch");
    expect(Command::new("cp").arg(NATWATCH).arg(&binary));
    for target in [format!("{closed}/x"), closed.clone()] {
        let mut command = ns.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", &binary, "capture", &target]);
        Run::of(&mut command).fails(1, &[&closed, "denied"]);
    }
    assert_eq!(fs::read_dir(&closed).expect("readable").count(), 0, "nothing is left");
}

/// A disk that fills up: no partial capture is left.
#[test]
fn a_full_disk_leaves_nothing() {
    let ns = Netns::new();
    let dir = tempfile::tempdir().expect("a directory");
    let script = "mount -t tmpfs -o size=8k,nr_inodes=64 tmpfs \"$0\" && mkdir \"$0/there\" && for d in there new; do \
                  \"$1\" capture \"$0/$d\" >&2; echo $?; done; find \"$0\" -mindepth 1 -printf '%P\\n'";
    let mut command = ns.command("sh");
    command.args(["-c", script]).arg(dir.path()).arg(NATWATCH);
    let run = Run::of(&mut command);
    assert_eq!(run.stdout, "1\n1\nthere\n", "{}", run.stderr);
    assert_eq!(run.stderr.lines().count(), 2, "{}", run.stderr);
    assert!(run.stderr.contains("cannot write") && run.stderr.contains("No space left"), "{}", run.stderr);
}

#[test]
fn what_is_no_capture_is_refused() {
    let capture = CaptureDir::of(&Netns::new(), &[]);
    let path = capture.path().to_str().expect("UTF-8").to_owned();
    let broken = |meta: &[u8], words: &[&str]| {
        let copy = capture.copy();
        copy.write("meta.json", meta);
        copy.check(&[]).fails(1, words);
    };
    let edited = |edit: &dyn Fn(&mut Value)| {
        let copy = capture.copy();
        copy.edit_meta(edit);
        copy.read("meta.json")
    };
    broken(b"", &["meta.json"]);
    broken(b"{", &["meta.json"]);
    broken(b"\xff\xfe\0garbage", &["meta.json"]);
    broken(b"[]", &["meta.json"]);
    broken(&b"[".repeat(100_000), &["meta.json"]);
    broken(&edited(&|meta| meta["format"] = 2.into()), &["format 2"]);
    broken(&edited(&|meta| meta["format"] = (-1).into()), &["meta.json"]);
    broken(&edited(&|meta| meta["byte_order"] = "big".into()), &["big-endian"]);
    broken(&edited(&|meta| meta["hostname"] = Value::Null), &["meta.json"]);
    broken(&edited(&|meta| meta["byte_order"].take().as_null().unwrap_or_default()), &["meta.json"]);
    let none = capture.copy();
    none.remove("meta.json");
    none.check(&[]).fails(1, &["meta.json", "no capture"]);
    assert!(capture.check(&[]).code != 1, "{path}");
}

/// Each response removed in turn: its source fails, is never absent or empty, and no verdict improves.
#[test]
fn a_missing_answer_is_a_failed_reading() {
    let capture = CaptureDir::of(&tunnel().nodes[0], &[]);
    capture.conntrack(990, 1000, 1000);
    let before = json(capture.check(&["--format", "json", DEFECT]));
    for name in capture.answers() {
        if name.ends_with(".absent") || name.ends_with("cpu/possible") {
            continue; // optional by nature
        }
        if name.starts_with("bpf/") || name.ends_with("/qdiscs") || name.ends_with("-root") {
            continue; // older captures have none; what is assumed then, verdicts say
        }
        let copy = capture.copy();
        copy.remove(&name);
        let after = json(copy.check(&["--format", "json", DEFECT]));
        let failed = after["sources"].as_array().expect("a list").iter().find(|source| source["state"] == "failed");
        let source = failed.unwrap_or_else(|| panic!("{name} is gone and nothing failed: {:#}", after["sources"]));
        let detail = source["detail"].as_str().expect("text");
        assert!(detail.contains("captured before natwatch asked for this"), "{name}: {source}");
        no_better(&before, &after, &name);
    }
}

/// Sets and maps are read whatever the rules are, so redaction has to cover their contents.
#[test]
fn redaction_reaches_sets_and_maps_of_every_kind() {
    let ns = Netns::new();
    nft(
        &ns,
        "table ip t {\n\
         map m { type ipv4_addr : ipv4_addr; elements = { 203.0.113.77 comment \"secretcomment\" : 198.51.100.99 }; }\n\
         map p { type ipv4_addr . inet_service : ipv4_addr . inet_service; \
         elements = { 203.0.113.79 . 80 : 198.51.100.97 . 8080 }; }\n\
         map k { type ipv4_addr : mark; elements = { 203.0.113.76 : 0x1234 }; }\n\
         set d { type ipv4_addr; flags timeout,dynamic; elements = { 203.0.113.75 timeout 1h }; }\n\
         chain pre { type nat hook prerouting priority -100; dnat to ip daddr map @m; \
         dnat ip to ip daddr . tcp dport map @p; meta mark set ip saddr map @k; }\n\
         chain out { type filter hook output priority 0; add @d { ip daddr timeout 1m }; }\n\
         chain post { type nat hook postrouting priority 100; ip saddr @d masquerade; }\n\
         }\n\
         table ip6 t {\n\
         set s { type ipv6_addr; flags interval; elements = { 2001:db8:feed::/64 }; }\n\
         chain post { type nat hook postrouting priority 100; ip6 saddr @s masquerade; }\n\
         }\n",
    );
    let capture = CaptureDir::of(&ns, &["--redact"]);
    let names = capture.answers();
    assert_eq!(names.iter().filter(|name| name.ends_with("-elements")).count(), 5, "{names:?}");
    let mut secrets: Vec<Vec<u8>> = vec![b"secretcomment".to_vec(), vec![0x20, 0x01, 0x0d, 0xb8, 0xfe, 0xed]];
    secrets.extend([75, 76, 77, 79].map(|last| vec![203, 0, 113, last]));
    secrets.extend([97, 99].map(|last| vec![198, 51, 100, last]));
    for name in names {
        let bytes = capture.read(&name);
        for secret in &secrets {
            let turned: Vec<u8> = secret.iter().rev().copied().collect();
            let holds = |what: &[u8]| bytes.windows(what.len()).any(|window| window == what);
            assert!(!holds(secret) && !holds(&turned), "{name} holds {secret:?}");
        }
    }
    let (before, after) = (json(check_of(&ns)), json(capture.check(&["--format", "json"])));
    no_better(&before, &after, "redaction");
    no_better(&after, &before, "redaction");
}

fn check_of(ns: &Netns) -> Run {
    natwatch_in(ns, &["check", "--format", "json", "--network-namespace", "current"])
}

/// A verdict may become unknown for lack of data; it must not become better.
fn no_better(before: &Value, after: &Value, what: &str) {
    let advisories = |report: &Value| report["advisories"].as_array().expect("a list").clone();
    for (old, new) in advisories(before).iter().zip(advisories(after)) {
        // An ingredient that can no longer be seen leaves the safeguard.
        let protected = old["state"] == "not_affected" && new["state"] == "mitigated";
        let kept = new["state"] == old["state"] || new["state"] == "unknown" || protected;
        assert!(kept, "{what}: {} was {}, is {}", old["id"], old["state"], new["state"]);
    }
    for field in ["entries_limit", "buckets"] {
        let (old, new) = (&before["conntrack"][field], &after["conntrack"][field]);
        assert!(new == old || new.is_null(), "{what}: {field} was {old}, is {new}");
    }
    let (old, new) = (&before["tunnels"], &after["tunnels"]);
    assert!(new.is_null() || new.as_array().map(Vec::len) == old.as_array().map(Vec::len), "{what}: {new}");
}

/// A response that is cut anywhere is a failed one.
#[test]
fn truncated_answers_are_never_shorter_lists() {
    let capture = CaptureDir::of(&tunnel().nodes[0], &[]);
    capture.conntrack(990, 1000, 1000);
    let before = json(capture.check(&["--format", "json", DEFECT]));
    let copy = capture.copy();
    for name in capture.answers() {
        let bytes = capture.read(&name);
        let lengths = [0, 1, 3, 4, 15, 16, 17, bytes.len() / 3, (bytes.len() / 2) & !3, (bytes.len() * 3 / 4) & !3];
        let ends = [4, 20, 36].map(|tail| bytes.len().saturating_sub(tail));
        for length in lengths.into_iter().chain(ends).filter(|length| *length < bytes.len()) {
            copy.write(&name, &bytes[..length]);
            let after = json(copy.check(&["--format", "json", DEFECT]));
            let what = format!("{name} cut to {length} of {} bytes", bytes.len());
            // A decimal number that is cut is a smaller number; sysctl files end in a line feed, which reveals it.
            no_better(&before, &after, &what);
            if name.starts_with("netlink/") {
                let failed = |source: &Value| source["state"] == "failed";
                assert!(after["sources"].as_array().expect("a list").iter().any(failed), "{what}: nothing failed");
            }
        }
        copy.write(&name, &bytes);
    }
}

/// A release that was cut is another, older kernel: no verdict may be based on it.
#[test]
fn a_cut_kernel_release_is_not_another_kernel() {
    let capture = CaptureDir::of(&Netns::new(), &[]);
    let release = "procfs/sys/kernel/osrelease";
    capture.write(release, "6.18.44\n");
    let states = |capture: &CaptureDir| {
        let report = json(capture.check(&["--format", "json"]));
        let defects = report["kernel"]["defects"].as_array().expect("a list").clone();
        defects.iter().map(|defect| defect["state"].as_str().expect("a state").to_owned()).collect::<Vec<_>>()
    };
    let whole = states(&capture);
    for length in 0.."6.18.44".len() {
        capture.write(release, &"6.18.44"[..length]);
        for (old, new) in whole.iter().zip(states(&capture)) {
            assert!(new == *old || new == "unknown", "cut to {length}: was {old}, is {new}");
        }
    }
}

/// A pseudo-random generator.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % below.max(1)
    }
}

#[test]
fn two_hundred_corruptions_end_in_an_orderly_way() {
    let capture = CaptureDir::of(&tunnel().nodes[0], &[]);
    let names: Vec<String> = capture.answers().into_iter().chain(["meta.json".into()]).collect();
    let copy = capture.copy();
    let mut random = Random(1);
    for round in 0..200 {
        let name = &names[random.next(names.len())];
        let original = capture.read(name);
        let mut bytes = original.clone();
        match random.next(5) {
            0 => bytes.truncate(random.next(original.len())),
            1 => bytes = (0..random.next(2000)).map(|_| random.next(256) as u8).collect(),
            2 => bytes.extend_from_slice(&original),
            _ => {
                for _ in 0..=random.next(8) {
                    let at = random.next(bytes.len());
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = random.next(256) as u8;
                    }
                }
            }
        }
        copy.write(name, &bytes);
        let format = ["text", "json", "prometheus"][random.next(3)];
        // `Run` panics at a signal and at "panicked".
        let run = copy.check(&["--format", format]);
        assert!(matches!(run.code, 0..=3), "round {round}, {name}: {run:?}");
        assert_eq!(run.code == 1, !run.stderr.is_empty(), "round {round}, {name}: {run:?}");
        copy.write(name, &original);
    }
}

/// Files that strangers may put into a directory: rejected, or a failed source, in bounded time.
#[test]
fn odd_files_are_refused_quickly() {
    let capture = CaptureDir::of(&Netns::new(), &[]);
    let start = Instant::now();
    let odd = |name: &str, make: &dyn Fn(&Path), words: &[&str]| {
        let copy = capture.copy();
        let path = copy.path().join(name);
        let _ = fs::remove_file(&path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        make(&path);
        copy.check(&[]).fails(1, words);
    };
    let links = "netlink/route/links";
    for name in [links, "meta.json", "procfs/new"] {
        let fifo = |path: &Path| mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("a pipe");
        odd(name, &fifo, &[name, "not a regular file"]);
        odd(name, &|path| symlink("/etc/passwd", path).expect("a link"), &[name, "not a regular file"]);
        odd(name, &|path| symlink("/dev/zero", path).expect("a link"), &[name, "not a regular file"]);
        odd(
            name,
            &|path| File::create(path).and_then(|file| file.set_len(1 << 40)).expect("sparse"),
            &[name, "larger"],
        );
    }
    odd("procfs/loop", &|path| symlink(".", path).expect("a link"), &["procfs/loop"]);
    let deep = format!("{}x", "d/".repeat(100));
    odd(&format!("procfs/{deep}"), &|path| fs::write(path, "").expect("a file"), &["deep"]);
    odd("procfs/version.ok", &|path| fs::write(path, "x").expect("a file"), &["twice"]);
    let many = |path: &Path| {
        for number in 0..20_000 {
            fs::write(path.with_file_name(format!("file{number}")), "").expect("a file");
        }
    };
    odd("procfs/file", &many, &["more than"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    // Garbage is a failed source, and no verdict is based on it.
    let garbage = capture.copy();
    garbage.write(links, b"\xffgarbage".repeat(1000));
    let report = json(garbage.check(&["--format", "json", DEFECT]));
    assert_eq!(report["tunnels"], Value::Null);
    let vmxnet3 = |advisory: &&Value| advisory["id"] == "vmxnet3-tunnel-offload";
    let advisory = report["advisories"].as_array().expect("a list").iter().find(vmxnet3).expect("it").clone();
    assert_eq!(advisory["state"], "unknown", "{advisory:#}");
}

/// The files of a capture, and a single text with all of them, are read alike, whatever tool packed them.
#[test]
fn a_capture_as_one_text_is_the_same_capture() {
    let temporary = tempfile::tempdir().expect("a directory");
    let at = |name: &str| temporary.path().join(name);
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes/archive.py");
    let packed = |action: &str, from: &Path, to: &Path| {
        let status = Command::new("python3").arg(&tool).arg(action).args([from, to]).status();
        assert!(status.expect("python3").success());
    };
    let ns = Netns::new();
    nft(&ns, "table ip t { chain c { type nat hook postrouting priority 100;\nmasquerade\n}\n}\n");
    let live = CaptureDir::of(&ns, &[]);
    packed("pack", &live.path(), &at("live.txt"));
    packed("unpack", &at("live.txt"), &at("live"));
    let shown = |path: &Path| {
        let path = path.to_str().expect("UTF-8");
        json(natwatch_in(&ns, &["check", "--from", path, "--format", "json"]))
    };
    let report = shown(&live.path());
    assert_eq!(report["source_nat_rules"].as_array().map(Vec::len), Some(1), "{report}");
    assert_eq!(shown(&at("live.txt")), report);
    assert_eq!(shown(&at("live")), report);

    let text = fs::read_to_string(at("live.txt")).expect("a text");
    let refused = |text: &[u8], why: &str| {
        fs::write(at("broken.txt"), text).expect("written");
        natwatch_in(&ns, &["check", "--from", at("broken.txt").to_str().expect("UTF-8")])
            .fails(1, &["broken.txt", why]);
    };
    refused(b"", "no meta.json in it");
    refused(&[0xff], "not a text");
    let version = "-- procfs/version --\n";
    assert!(text.contains(version));
    let twice = text.clone() + version + "Linux version 1\n";
    refused(twice.as_bytes(), "answers procfs/version twice");
    let cut = &text[..text.find(" hex --\n").expect("bytes") + 11];
    refused(cut.as_bytes(), "not pairs of hexadecimal digits");
}
