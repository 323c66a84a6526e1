//! Results of earlier probes: where they are searched for, when they are used, and the message when they are not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::capture::CaptureDir;
use crate::support::exposition::Exposition;
use crate::support::netns::Netns;
use crate::support::program::{NATWATCH, Run, natwatch_as, natwatch_in};
use crate::support::server::Server;
use crate::support::wait::{PATIENCE, eventually};

/// A defect that an experiment can decide, and that no build machine's kernel has by its number.
const DEFECT: &str = "nat-udp-zero-checksum";
/// Mounts the file that follows at the default path, in a mount namespace that ends with the program.
const USUAL: &str =
    "mount -t tmpfs none /run && mkdir /run/natwatch && cp -a \"$0\" /run/natwatch/probe.json && exec \"$@\"";

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}")).trim_end().to_owned()
}

/// A possible result of probing the running kernel: a defect that its number excludes.
fn result() -> Value {
    let livepatches: Vec<String> = fs::read_dir("/sys/kernel/livepatch")
        .map(|names| names.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect())
        .unwrap_or_default();
    json!({
        "schema_version": 1, "natwatch_version": "0.1.0", "probed_at": "2026-01-01T00:00:00Z", "duration_ms": 90,
        "identity": {
            "boot_id": line("/proc/sys/kernel/random/boot_id"),
            "kernel_release": line("/proc/sys/kernel/osrelease"),
            "kernel_version": line("/proc/sys/kernel/version"),
        },
        "livepatches": livepatches,
        "defects": [{"id": DEFECT, "state": "present", "detail": "seen"}],
    })
}

/// A file with a result.
struct Saved {
    directory: TempDir,
}

impl Saved {
    fn new(result: &Value) -> Self {
        let saved = Self { directory: tempfile::tempdir().expect("a directory") };
        fs::set_permissions(saved.directory.path(), Permissions::from_mode(0o755)).expect("permissions");
        fs::write(saved.file(), result.to_string()).expect("written");
        saved.mode(0o644);
        saved
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("probe.json")
    }

    fn mode(&self, mode: u32) {
        fs::set_permissions(self.file(), Permissions::from_mode(mode)).expect("permissions");
    }

    fn flag(&self) -> String {
        format!("--probe-result={}", self.file().display())
    }

    /// With the result at the default path.
    fn usual(&self, ns: &Netns, args: &[&str]) -> Run {
        natwatch_as(ns, &["sh", "-c", USUAL, self.file().to_str().expect("UTF-8"), NATWATCH], args)
    }
}

/// The defect's basis, and why a result was not used.
#[track_caller]
fn basis(run: Run) -> (String, Option<String>) {
    assert_eq!(run.stderr, "");
    let json: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let defects = json["kernel"]["defects"].as_array().expect("a list");
    let defect = defects.iter().find(|defect| defect["id"] == DEFECT).expect("the defect");
    let why = json["kernel"]["probe_not_used"].as_str().map(str::to_owned);
    assert!(json["kernel"].get("probe_not_used").is_some());
    (defect["basis"].as_str().expect("a basis").to_owned(), why)
}

const JSON: [&str; 3] = ["check", "--format", "json"];

#[test]
fn check_and_serve_look_in_the_same_place() {
    let (ns, saved) = (Netns::new(), Saved::new(&result()));
    assert_eq!(basis(saved.usual(&ns, &JSON)), ("probe".into(), None));
    let none = saved.usual(&ns, &[&JSON[..], &["--probe-result="]].concat());
    assert_eq!(basis(none), ("upstream_version".into(), None));
    let words = ["sh", "-c", USUAL, saved.file().to_str().expect("UTF-8"), NATWATCH].map(str::to_owned);
    let served = |flags: &[&str]| {
        let server = Server::start_as(&ns, &words.each_ref().map(String::as_str), flags);
        let metrics = Exposition::parse(&server.ok("/metrics"));
        server.stop();
        let with = |basis| metrics.find("natwatch_kernel_defect_info", &[("defect", DEFECT), ("basis", basis)]);
        (with("probe").is_some(), with("upstream_version").is_some())
    };
    assert_eq!(served(&[]), (true, false));
    assert_eq!(served(&["--probe-result="]), (false, true));
    // A missing file is not reported.
    let empty = ["sh", "-c", "mount -t tmpfs none /run && exec \"$@\"", "sh", NATWATCH];
    assert_eq!(basis(natwatch_as(&ns, &empty, &JSON)), ("upstream_version".into(), None));
}

/// `serve` uses a result that appears later, and no longer one that disappears.
#[test]
fn serve_follows_the_file() {
    let (ns, saved) = (Netns::new(), Saved::new(&result()));
    let file = saved.file();
    let later = file.with_extension("later");
    fs::rename(&file, &later).expect("moved away");
    let server = Server::start(&ns, &[&saved.flag()]);
    let basis = |basis: &str| {
        let metrics = Exposition::parse(&server.ok("/metrics"));
        metrics.find("natwatch_kernel_defect_info", &[("defect", DEFECT), ("basis", basis)])
    };
    assert_eq!(basis("upstream_version"), Some(1.0), "there is no such file yet");
    fs::rename(&later, &file).expect("there it is");
    eventually(PATIENCE, || basis("probe"));
    fs::rename(&file, &later).expect("moved away");
    eventually(PATIENCE, || basis("upstream_version"));
    server.stop();
}

#[test]
fn a_file_that_others_could_have_written_does_not_count() {
    let (ns, saved) = (Netns::new(), Saved::new(&result()));
    let named = |flag: &str| basis(natwatch_in(&ns, &[&JSON[..], &[flag]].concat()));
    let refused = |flag: &str, word: &str| {
        let (basis, why) = named(flag);
        let why = why.unwrap_or_default();
        assert_eq!(basis, "upstream_version", "{why}");
        assert!(why.starts_with("the probe's result /") && why.contains(word), "{word}: {why}");
    };
    let flag = saved.flag();
    assert_eq!(named(&flag), ("probe".into(), None));
    for mode in [0o664, 0o646] {
        saved.mode(mode);
        refused(&flag, "chmod go-w");
    }
    saved.mode(0o644);
    chown(saved.file(), Some(1234), None).expect("chown");
    refused(&flag, "belongs to uid 1234");
    // A user's own file is used for that user.
    let owner = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups", NATWATCH];
    assert_eq!(basis(natwatch_as(&ns, &owner, &[&JSON[..], &[&flag]].concat())).0, "probe");
    chown(saved.file(), Some(0), None).expect("chown");
    let link = saved.directory.path().join("link");
    symlink(saved.file(), &link).expect("a link");
    refused(&format!("--probe-result={}", link.display()), "symbolic link");
    refused(&format!("--probe-result={}", saved.directory.path().display()), "not a regular file");
    refused("--probe-result=/nonexistent/probe.json", "no such file");
    // The same holds at the default path.
    saved.mode(0o666);
    let (basis, why) = basis(saved.usual(&ns, &JSON));
    assert_eq!(basis, "upstream_version");
    assert!(why.expect("a reason").starts_with("the probe's result /run/natwatch/probe.json is not used: "));
}

#[test]
fn a_result_of_another_kernel_is_not_used_and_every_format_says_so() {
    let ns = Netns::new();
    for (key, word) in [("boot_id", "boot id"), ("kernel_release", "release"), ("kernel_version", "version")] {
        let mut other = result();
        other["identity"][key] = "other".into();
        let saved = Saved::new(&other);
        let (basis, why) = basis(saved.usual(&ns, &JSON));
        assert_eq!(basis, "upstream_version");
        assert!(why.clone().expect("a reason").contains(word), "{why:?}");
        let text = saved.usual(&ns, &["check"]);
        let flat = text.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(text.stderr.is_empty() && flat.contains(&format!("Note: {}.", why.expect("a reason"))), "{flat}");
        let nagios = saved.usual(&ns, &["check", "--format", "nagios"]);
        assert!(
            nagios.stderr.is_empty() && nagios.stdout.contains("; the probe's result /run/natwatch/"),
            "{nagios:?}"
        );
        for format in ["npd", "prometheus"] {
            let run = saved.usual(&ns, &["check", "--format", format]);
            assert!(
                run.stderr.contains("/run/natwatch/probe.json is not used: ") && run.stderr.contains(word),
                "{run:?}"
            );
            assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        }
    }
    let saved = Saved::new(&json!({}));
    let server = Server::start(&ns, &[&saved.flag()]);
    let why = "is not used: it is not what natwatch probe --output writes";
    assert!(server.ok("/").contains(why) && server.ok("/report.json").contains(why));
    assert!(server.daemon.stderr().contains(why), "{}", server.daemon.stderr());
    server.stop();
    assert!(basis(saved.usual(&ns, &JSON)).1.expect("a reason").contains("natwatch probe"), "no document");
}

/// A capture contains the result that was used, or why it was not; old captures contain neither.
#[test]
fn a_capture_keeps_the_result() {
    let (ns, saved) = (Netns::new(), Saved::new(&result()));
    let replayed =
        |capture: &CaptureDir, flags: &[&str]| basis(capture.check(&[&["--format", "json"], flags].concat()));
    for flags in [&[][..], &["--redact"]] {
        let capture = CaptureDir::of(&ns, &[flags, &[saved.flag().as_str()]].concat());
        assert!(capture.answers().contains(&"probe/result.json".to_owned()));
        assert_eq!(replayed(&capture, &[]), ("probe".into(), None), "{flags:?}");
        assert_eq!(replayed(&capture, &["--probe-result="]), ("upstream_version".into(), None));
        let mut absent = result();
        absent["defects"][0]["state"] = "absent".into();
        let named = Saved::new(&absent);
        let report = capture.check(&["--format", "json", &named.flag()]).report();
        let defect = report.json["kernel"]["defects"].as_array().expect("a list").iter().find(|d| d["id"] == DEFECT);
        assert_eq!((&defect.expect("it")["state"], &defect.expect("it")["basis"]), (&json!("absent"), &json!("probe")));
    }
    // What was not used is not used in the replay either, for the same reason.
    saved.mode(0o666);
    let capture = CaptureDir::of(&ns, &[&saved.flag()]);
    let (basis, why) = replayed(&capture, &[]);
    assert_eq!(basis, "upstream_version");
    assert!(why.expect("a reason").starts_with("the probe's result in the capture is not used: others"));
    capture.write("probe/result.json.failed", "\x1b[2Jred");
    let npd = capture.check(&["--format", "npd"]);
    assert!(npd.stderr.contains("not used: [2Jred\n"), "{npd:?}");
    saved.mode(0o644);
    let capture = CaptureDir::of(&ns, &["--probe-result="]);
    assert_eq!(replayed(&capture, &[]), ("upstream_version".into(), None));
    // A result of another boot is not this capture's, whatever kernel runs here; one without a boot is compared by
    // kernel.
    let mut other = result();
    other["identity"]["boot_id"] = "other".into();
    let other = Saved::new(&other);
    assert!(replayed(&capture, &[&other.flag()]).1.expect("a reason").contains("boot id"));
    capture.edit_meta(|meta| drop(meta.as_object_mut().expect("an object").remove("boot_id")));
    assert_eq!(replayed(&capture, &[&other.flag()]), ("probe".into(), None));
    capture.write("procfs/sys/kernel/version", "#2 another build\n");
    assert!(replayed(&capture, &[&other.flag()]).1.expect("a reason").contains("version"));
}
