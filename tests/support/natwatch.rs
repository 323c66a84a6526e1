//! The program under test: run in a namespace, and what it prints taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

use super::netns::Netns;
use super::process::{Daemon, free_port};
use super::tools::require;

/// Where cargo has put the program.
pub const BINARY: &str = env!("CARGO_BIN_EXE_natwatch");

/// Test namespaces are not the node's; this flag has them judged all the same.
pub const HERE: [&str; 2] = ["--network-namespace", "current"];

/// What the contract says of a namespace that is not the node's.
pub const NOT_THE_NODES: &str = "this is not the node's network namespace; is hostNetwork set?";

/// A finished run.
#[derive(Clone, Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Panics if it ended by a signal, panicked, or failed itself (exit code 1).
    #[track_caller]
    pub fn of(what: &str, output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let stdout = String::from_utf8(output.stdout).unwrap_or_else(|e| panic!("{what}: {e}"));
        let code = output.status.code().unwrap_or_else(|| panic!("{what}: {}: {stderr}", output.status));
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        Self { code, stdout, stderr }
    }

    /// The JSON document.
    #[track_caller]
    pub fn report(&self) -> Report {
        let json = serde_json::from_str(&self.stdout);
        Report { code: self.code, json: json.unwrap_or_else(|e| panic!("{e} in {self:?}")) }
    }
}

/// Runs a sub-command, `argv` being all words after the program's name; any exit code is returned.
#[track_caller]
pub fn run(ns: &Netns, argv: &[&str]) -> Run {
    run_as(ns, &[], argv)
}

/// `run` through a program that changes identity, such as `["setpriv", "--reuid", "65534"]`.
#[track_caller]
pub fn run_as(ns: &Netns, wrapper: &[&str], argv: &[&str]) -> Run {
    let mut words: Vec<&str> = wrapper.to_vec();
    if wrapper.is_empty() {
        words.push(BINARY);
    } else {
        require(wrapper[0]);
    }
    let mut command = ns.command(words[0]);
    command.args(&words[1..]).args(argv);
    let output = command.output().unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
    Run::of(&format!("{wrapper:?} {argv:?}"), output)
}

/// `natwatch check --format json` with more words, namespace flag not included.
#[track_caller]
pub fn check(ns: &Netns, more: &[&str]) -> Report {
    run(ns, &[&["check", "--format", "json"], more].concat()).report()
}

/// `check` that judges this namespace.
#[track_caller]
pub fn check_here(ns: &Netns, more: &[&str]) -> Report {
    check(ns, &[&HERE[..], more].concat())
}

/// `natwatch check --format prometheus` of this namespace with more words.
#[track_caller]
pub fn metrics_here(ns: &Netns, more: &[&str]) -> Metrics {
    Metrics::parse(&run(ns, &[&["check", "--format", "prometheus"], &HERE[..], more].concat()).stdout)
}

/// The JSON report and the exit code that it came with.
#[derive(Clone, Debug)]
pub struct Report {
    pub code: i32,
    pub json: Value,
}

impl Report {
    /// The advisory with this id.
    #[track_caller]
    pub fn advisory(&self, id: &str) -> &Value {
        let list = self.json["advisories"].as_array().expect("a list of advisories");
        list.iter().find(|advisory| advisory["id"] == id).unwrap_or_else(|| panic!("no {id} in {}", self.json))
    }

    /// The advisory's state.
    #[track_caller]
    pub fn state(&self, id: &str) -> &str {
        self.advisory(id)["state"].as_str().expect("a state")
    }

    /// State and detail of a source; None if it was not needed.
    pub fn source(&self, name: &str) -> Option<(&str, &str)> {
        let list = self.json["sources"].as_array().expect("a list of sources");
        let source = list.iter().find(|source| source["name"] == name)?;
        Some((source["state"].as_str()?, source["detail"].as_str()?))
    }

    /// State of each source.
    pub fn source_states(&self) -> BTreeMap<&str, &str> {
        let list = self.json["sources"].as_array().expect("a list of sources");
        list.iter().map(|s| (s["name"].as_str().expect("a name"), s["state"].as_str().expect("a state"))).collect()
    }

    /// Conntrack counters; None where the document says null.
    pub fn counters(&self) -> Option<BTreeMap<String, u64>> {
        let counters = self.json["conntrack"]["counters"].as_object()?;
        Some(counters.iter().map(|(name, value)| (name.clone(), value.as_u64().expect("a number"))).collect())
    }

    /// Tunnels by device; None where the document says null.
    pub fn tunnels(&self) -> Option<BTreeMap<String, Value>> {
        let list = self.json["tunnels"].as_array()?;
        let by_name: BTreeMap<String, Value> =
            list.iter().map(|t| (t["device"].as_str().expect("a name").to_owned(), t.clone())).collect();
        assert_eq!(by_name.len(), list.len(), "a device twice: {}", self.json);
        Some(by_name)
    }

    /// The devices that carry a tunnel; None where they are not known.
    #[track_caller]
    pub fn underlay(&self, device: &str) -> Option<BTreeSet<String>> {
        let tunnels = self.tunnels().expect("tunnels");
        let tunnel = tunnels.get(device).unwrap_or_else(|| panic!("no {device} in {}", self.json));
        Some(tunnel["underlay"].as_str()?.split(',').map(str::to_owned).collect())
    }
}

/// Labels and value of one series.
pub type Series = (BTreeMap<String, String>, f64);

/// Samples in text format 0.0.4.
#[derive(Clone, Debug)]
pub struct Metrics {
    samples: BTreeMap<String, Vec<Series>>,
}

impl Metrics {
    /// Panics unless every line is a comment or a sample, and every series is there once.
    #[track_caller]
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self { samples: BTreeMap::new() };
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (name, labels, value) = sample(line).unwrap_or_else(|| panic!("no sample: {line:?}"));
            let series = metrics.samples.entry(name).or_default();
            assert!(series.iter().all(|(other, _)| *other != labels), "twice: {line}");
            series.push((labels, value));
        }
        metrics
    }

    /// All series of a metric.
    pub fn series(&self, name: &str) -> &[Series] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// The value of the one series with exactly these labels.
    pub fn get(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let wanted: BTreeMap<String, String> = labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        self.series(name).iter().find(|(labels, _)| *labels == wanted).map(|(_, value)| *value)
    }

    /// Names of the metrics that have series.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.samples.keys().map(String::as_str)
    }

    /// Number of series of all metrics together.
    pub fn len(&self) -> usize {
        self.samples.values().map(Vec::len).sum()
    }

    /// Of a metric with a `state` label: the state that has the 1. Panics unless exactly one has it.
    #[track_caller]
    pub fn one_state(&self, name: &str, labels: &[(&str, &str)]) -> Option<String> {
        let matching =
            |series: &&Series| labels.iter().all(|(key, value)| series.0.get(*key).is_some_and(|found| found == value));
        let all: Vec<_> = self.series(name).iter().filter(matching).collect();
        let set: Vec<_> = all.iter().filter(|(_, value)| *value == 1.0).collect();
        assert!(all.is_empty() || set.len() == 1, "{name} {labels:?}: {all:?}");
        set.first().map(|(labels, _)| labels["state"].clone())
    }

    /// The conntrack counters, by the names that `conntrack -S` gives them.
    pub fn conntrack_counters(&self) -> BTreeMap<String, u64> {
        let counters = self.samples.iter().filter_map(|(name, series)| {
            let counter = name.strip_prefix("natwatch_conntrack_")?.strip_suffix("_total")?;
            let alone = series.len() == 1 && series[0].0.is_empty();
            alone.then(|| (counter.to_owned(), series[0].1 as u64))
        });
        counters.collect()
    }
}

fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
    let mut labels = BTreeMap::new();
    let (name, mut rest) = line.split_at(line.find(['{', ' '])?);
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        while !rest.starts_with('}') {
            let (key, after) = rest.trim_start_matches(',').split_once("=\"")?;
            let mut value = String::new();
            let mut characters = after.char_indices();
            let end = loop {
                match characters.next()? {
                    (at, '"') => break at,
                    (_, '\\') => value.push(match characters.next()?.1 {
                        'n' => '\n',
                        escaped @ ('\\' | '"') => escaped,
                        _ => return None,
                    }),
                    (_, plain) => value.push(plain),
                }
            };
            if labels.insert(key.to_owned(), value).is_some() {
                return None;
            }
            rest = &after[end + 1..];
        }
        rest = &rest[1..];
    }
    Some((name.to_owned(), labels, rest.strip_prefix(' ')?.parse().ok()?))
}

/// `natwatch serve` in a namespace, on a free port of its loopback device.
#[derive(Debug)]
pub struct Server {
    pub daemon: Daemon,
    pub address: SocketAddr,
}

/// Starts `wrapper` + natwatch + `serve`; without a wrapper the program itself.
pub fn serve(ns: &Netns, wrapper: &[&str], more: &[&str]) -> Server {
    let port = free_port(ns);
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listen = format!("--web.listen-address={address}");
    let words = if wrapper.is_empty() { vec![BINARY] } else { wrapper.to_vec() };
    let mut command: Command = ns.command(words[0]);
    command.args(&words[1..]).args(["serve", &listen]).args(more);
    let mut daemon = Daemon::start(command);
    daemon.wait_listening(ns, port);
    Server { daemon, address }
}

/// A copy of the program that every user may start, wherever the build directory is.
#[derive(Debug)]
pub struct PublicCopy {
    directory: TempDir,
}

impl PublicCopy {
    /// Copies the program.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let copy = Self { directory };
        fs::copy(BINARY, copy.path()).unwrap_or_else(|e| panic!("copying {BINARY}: {e}"));
        for path in [copy.directory.path().to_owned(), copy.path()] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        copy
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("natwatch")
    }
}
