//! The natwatch binary from outside: runs, captures to edit, servers, and what it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::http::{self, Response};
use super::netns::Netns;
use super::process::{Daemon, free_port};

/// The program under test.
pub const NATWATCH: &str = env!("CARGO_BIN_EXE_natwatch");

/// How one run ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs a command to its end; panics if a signal killed it or if it panicked.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}: {stderr}", output.status));
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
        Self { code, stdout: String::from_utf8(output.stdout).expect("stdout in UTF-8"), stderr }
    }

    /// Panics unless it ended with that code and wrote nothing to stderr.
    #[track_caller]
    pub fn expect(self, code: i32) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (code, ""), "{}", self.stdout);
        self.stdout
    }

    /// Stdout as JSON; panics unless it ended with that code.
    #[track_caller]
    pub fn json(self, code: i32) -> Value {
        serde_json::from_str(&self.expect(code)).expect("a JSON document")
    }

    /// Panics unless it failed with that code, nothing on stdout, and one line on stderr with all these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert!(self.stderr.starts_with("natwatch: "), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "said once, in one line: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {}", self.stderr);
        }
    }
}

/// Runs natwatch where the test runs.
#[track_caller]
pub fn natwatch(args: &[&str]) -> Run {
    Run::of(Command::new(NATWATCH).args(args).env_remove("NO_COLOR"))
}

/// Runs natwatch in a namespace.
#[track_caller]
pub fn natwatch_in(ns: &Netns, args: &[&str]) -> Run {
    Run::of(ns.command(NATWATCH).args(args))
}

/// A capture that a test may change.
#[derive(Debug)]
pub struct CaptureDir {
    temporary: TempDir,
}

impl CaptureDir {
    /// `natwatch capture` in `ns`; the copy says that the namespace is the node's, so that verdicts are given.
    pub fn of(ns: &Netns, flags: &[&str]) -> Self {
        let capture = Self { temporary: TempDir::new().expect("a directory") };
        let path = capture.path();
        let args = [&["capture", path.to_str().expect("UTF-8")], flags].concat();
        natwatch_in(ns, &args).expect(0);
        capture.edit_meta(|meta| meta["network_namespace"] = "initial".into());
        capture
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.temporary.path().join("capture")
    }

    /// A copy of its own.
    pub fn copy(&self) -> Self {
        let temporary = TempDir::new().expect("a directory");
        let status = Command::new("cp").arg("-a").arg(self.path()).arg(temporary.path()).status();
        assert!(status.expect("cp").success());
        Self { temporary }
    }

    /// Names of all answers, sorted, without `meta.json`.
    pub fn answers(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(), &mut found);
        let root = self.path();
        let name = |path: &PathBuf| path.strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_owned();
        let mut names: Vec<String> = found.iter().map(name).filter(|name| name != "meta.json").collect();
        names.sort();
        names
    }

    /// The bytes of an answer.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Replaces or adds an answer.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Removes an answer.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Changes `meta.json`.
    pub fn edit_meta(&self, edit: impl FnOnce(&mut Value)) {
        let mut meta: Value = serde_json::from_slice(&self.read("meta.json")).expect("JSON");
        edit(&mut meta);
        self.write("meta.json", meta.to_string());
    }

    /// `natwatch check --from` it.
    #[track_caller]
    pub fn check(&self, args: &[&str]) -> Run {
        let path = self.path();
        natwatch(&[&["check", "--from", path.to_str().expect("UTF-8")], args].concat())
    }

    /// How full the table is: entries, limit and buckets.
    pub fn conntrack(&self, entries: u64, limit: u64, buckets: u64) {
        for (name, value) in [("count", entries), ("max", limit), ("buckets", buckets)] {
            self.write(&format!("procfs/sys/net/netfilter/nf_conntrack_{name}"), format!("{value}\n"));
        }
    }
}

/// All files below a directory.
pub fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}

/// A natwatch that serves in a namespace.
#[derive(Debug)]
pub struct Server<'a> {
    pub ns: &'a Netns,
    pub daemon: Daemon,
    pub port: u16,
}

impl<'a> Server<'a> {
    /// Serves on the loopback address; returns when it accepts.
    pub fn start(ns: &'a Netns, flags: &[&str]) -> Self {
        let port = free_port(ns);
        let mut command = ns.command(NATWATCH);
        command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]).args(flags);
        Self::from_command(ns, command, port)
    }

    /// The same with a command of the test's own.
    pub fn from_command(ns: &'a Netns, command: Command, port: u16) -> Self {
        let mut daemon = Daemon::start(command);
        daemon.wait_listening(ns, port);
        Self { ns, daemon, port }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// GETs a path.
    #[track_caller]
    pub fn get(&self, path: &str, headers: &[(&str, &str)]) -> Response {
        http::get(self.ns, self.address(), path, headers)
    }

    /// GETs a path that must be answered with 200.
    #[track_caller]
    pub fn ok(&self, path: &str) -> String {
        let response = self.get(path, &[]);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.text().to_owned()
    }

    /// Sends raw bytes and returns all that comes back.
    pub fn raw(&self, request: &str) -> Result<Response, std::io::Error> {
        let address = self.address();
        self.ns.enter(|| http::parse(&http::exchange(address, request.as_bytes())?))
    }
}

/// Label names and values of one sample.
pub type Labels = BTreeMap<String, String>;

/// A parsed exposition in text format 0.0.4.
#[derive(Clone, Debug, Default)]
pub struct Exposition {
    pub help: BTreeMap<String, String>,
    pub kind: BTreeMap<String, String>,
    pub samples: Vec<(String, Labels, f64)>,
}

impl Exposition {
    /// Parses; panics at what is not the format.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut out = Self::default();
        assert!(text.is_empty() || text.ends_with('\n'), "the last line has no end");
        for line in text.lines() {
            if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
                assert!(out.help.insert(name.into(), help.into()).is_none(), "twice: {line}");
            } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                assert!(out.kind.insert(name.into(), kind.into()).is_none(), "twice: {line}");
            } else {
                out.samples.push(sample(line).unwrap_or_else(|| panic!("no sample: {line}")));
            }
        }
        let keys: BTreeSet<_> = out.samples.iter().map(|(name, labels, _)| (name, labels)).collect();
        assert_eq!(keys.len(), out.samples.len(), "a series is there twice");
        out
    }

    /// Names that have samples.
    pub fn families(&self) -> BTreeSet<String> {
        self.samples.iter().map(|(name, ..)| name.clone()).collect()
    }

    /// Value of the one series with this name and these labels, others ignored.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let fits = |found: &Labels| labels.iter().all(|(key, value)| found.get(*key).is_some_and(|v| v == value));
        let mut found = self.samples.iter().filter(|(n, l, _)| n == name && fits(l));
        let value = found.next().map(|(.., value)| *value);
        assert!(found.next().is_none(), "{name} {labels:?} is ambiguous");
        value
    }
}

fn sample(line: &str) -> Option<(String, Labels, f64)> {
    let mut labels = Labels::new();
    let Some((name, mut rest)) = line.split_once('{') else {
        let (name, value) = line.split_once(' ')?;
        return Some((name.into(), labels, value.parse().ok()?));
    };
    loop {
        let (key, after) = rest.split_once("=\"")?;
        let (mut value, mut chars) = (String::new(), after.char_indices());
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => value.push(match chars.next()?.1 {
                    'n' => '\n',
                    same @ ('\\' | '"') => same,
                    _ => return None,
                }),
                (_, other) => value.push(other),
            }
        };
        assert!(labels.insert(key.into(), value).is_none(), "a label twice: {line}");
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(more) => rest = more,
            None => return Some((name.into(), labels, rest.strip_prefix("} ")?.parse().ok()?)),
        }
    }
}

/// One row of `natwatch metrics`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub kind: String,
    pub labels: BTreeSet<String>,
    pub help: String,
}

/// `natwatch metrics` by metric name.
pub fn metrics_table() -> BTreeMap<String, Row> {
    let text = natwatch(&["metrics"]).expect(0);
    let mut rows = BTreeMap::new();
    for line in text.lines().skip(2) {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [name, kind, labels, _unit, help] = cells[..] else { panic!("not five cells: {line}") };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let row = Row {
            kind: kind.into(),
            labels: labels.filter(|label| !label.is_empty()).collect(),
            help: help.replace("\\|", "|"),
        };
        assert!(rows.insert(name.trim_matches('`').to_owned(), row).is_none(), "twice: {line}");
    }
    assert!(rows.len() > 40, "{text}");
    rows
}
