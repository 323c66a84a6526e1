//! Tests by experiment which known defects the running kernel has. Called by `natwatch probe` and `serve --probe`.
//!
//! Unlike all other code, it creates devices and rules and sends packets, but in a private network namespace of a child
//! process, which removes it all when it ends. No module is loaded for it (`needs`). An experiment whose controls fail
//! is `unknown`, never `absent`.
//!
//! `datagram`, `messages`, `legacy`, `needs` and `outcome` are pure; `lab` builds the network, in which the experiments
//! `tunnel`, `ports` and `clash` send packets. `saved` finds earlier results.
//!
//! Why a child process: a multi-threaded process cannot enter a user namespace, a system call that never returns ends
//! only by killing its caller, and root and others take the same path. It is forked before any thread exists and
//! refuses otherwise; it reports each finding at once, so that one that hangs costs no other; and it verifies that it
//! is in another namespace. `serve` waits 2 s for it and then starts without its result.
//!
//! Controls: a tunnel's packet is sent without NAT first, must then be translated, and its inner checksum must be left
//! to an offload (`PACKET_VNET_HDR` shows where). Two senders have clashed only if their packets arrive at two
//! destinations, or one is refused that was not refused alone; a rule that chooses the destination by CPU makes every
//! clash visible.

mod clash;
mod datagram;
mod lab;
mod legacy;
mod messages;
mod needs;
mod outcome;
mod ports;
pub(crate) mod saved;
mod tunnel;

use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use outcome::{Outcome, ProbeFinding, RunningKernel};
use serde::{Deserialize, Serialize};

use crate::advisory::defects::DefectState;
use crate::capture::{Request, Root};
use crate::facts::{Collector, Reading, Source};
use crate::kernel::isolation::{self, Child, Inside};
use crate::kernel::{Live, Paths, Progress};
use crate::read::{self, Collectors, Known, Node};
use lab::Lab;
use needs::Means;

/// Time limit for reading files.
const READING: Duration = Duration::from_secs(5);
/// Time limit of all experiments.
const EXPERIMENTS: Duration = Duration::from_secs(10);

const TIME: &str = "%Y-%m-%dT%H:%M:%SZ";

/// An experiment.
struct Experiment {
    /// Id of the defect that it tests for.
    defect: &'static str,
    /// Whether it affects the exit code if no defect is named: no, if every kernel has it.
    counts: bool,
    run: fn(&mut Lab) -> Result<(DefectState, String), String>,
}

const ALL: &[Experiment] = &[
    Experiment { defect: "nat-port-rover", counts: true, run: |lab| ports::experiment(lab, false) },
    Experiment { defect: "nat-random-port-hash", counts: true, run: |lab| ports::experiment(lab, true) },
    Experiment { defect: "nat-udp-lco-checksum", counts: false, run: |lab| tunnel::experiment(lab, true) },
    Experiment { defect: "nat-udp-zero-checksum", counts: true, run: |lab| tunnel::experiment(lab, false) },
    Experiment { defect: "udp-clash-drop", counts: true, run: clash::experiment },
];

/// Ids of the defects that have an experiment.
pub(crate) fn decidable() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|experiment| experiment.defect)
}

/// Whether a defect has an experiment.
pub(crate) fn is_decidable(defect: &str) -> bool {
    decidable().any(|id| id == defect)
}

/// Whether a defect affects the exit code; `named` are those on the command line.
pub(crate) fn counts(defect: &str, named: &[String]) -> bool {
    match named {
        [] => ALL.iter().any(|experiment| experiment.defect == defect && experiment.counts),
        named => named.iter().any(|name| name == defect),
    }
}

fn boot_id() -> Request {
    Request::file(Source::Kernel, Root::Procfs, "sys/kernel/random/boot_id")
}

fn version() -> Request {
    Request::file(Source::Kernel, Root::Procfs, "sys/kernel/version")
}

/// What is read from files before the experiments.
struct Before {
    probed_at: String,
    identity: Option<RunningKernel>,
    livepatches: Option<Vec<String>>,
    means: Means,
}

fn read(paths: &Paths, means: impl FnOnce(&mut Node<'_>) -> Means) -> Before {
    let mut live = Live::new(paths.clone(), Arc::new(Progress::new(READING)));
    let probed_at = live.meta().captured_at;
    let (collectors, memory) = (Collectors::from([Collector::Kernel]), Known::default());
    let mut node = Node::new(&mut live, &collectors, &memory);
    let livepatches = match read::identity(&mut node).livepatches {
        Reading::Ok(names) => Some(names),
        Reading::Absent(_) => Some(Vec::new()),
        Reading::Denied(_) | Reading::Failed(_) => None,
    };
    Before { probed_at, identity: identity(&mut node, None), livepatches, means: means(&mut node) }
}

/// Identity of a node's kernel; `boot` replaces the boot id if that cannot be requested.
fn identity(node: &mut Node<'_>, boot: Option<String>) -> Option<RunningKernel> {
    let release = Request::file(Source::Kernel, Root::Procfs, "sys/kernel/osrelease");
    let mut line = |request: &Request| node.line(request).ok().cloned();
    let boot_id = boot.or_else(|| line(&boot_id()));
    Some(RunningKernel { boot_id: boot_id?, kernel_release: line(&release)?, kernel_version: line(&version())? })
}

/// Identity of the running kernel; `None` if /proc does not show it.
pub(crate) fn running(paths: &Paths) -> Option<RunningKernel> {
    read(paths, |_| Means::none("nothing is tried")).identity
}

/// A running probe in a child process.
#[derive(Debug)]
pub(crate) struct Probe {
    child: Result<Child, String>,
    start: Instant,
    wanted: Vec<&'static str>,
}

/// The child's first line; a line for each finding follows.
#[derive(Deserialize, Serialize)]
struct Preface {
    probed_at: String,
    identity: Option<RunningKernel>,
    livepatches: Option<Vec<String>>,
}

/// Starts the experiments for these defects, or all. The process must be single-threaded.
pub(crate) fn start(paths: &Paths, named: &[String], allow_module_load: bool) -> Probe {
    let is_named = |defect: &str| named.is_empty() || named.iter().any(|name| name == defect);
    let wanted: Vec<&Experiment> = ALL.iter().filter(|experiment| is_named(experiment.defect)).collect();
    let child = isolation::spawn(|inside| work(inside, paths, &wanted, allow_module_load));
    Probe { child, start: Instant::now(), wanted: wanted.iter().map(|experiment| experiment.defect).collect() }
}

impl Probe {
    /// When it has ended at the latest.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + READING + EXPERIMENTS + Duration::from_secs(1)
    }

    /// Waits until it ends or the deadline passes; `true`: it has ended.
    pub(crate) fn wait(&mut self, deadline: Instant) -> bool {
        self.child.as_mut().map_or(true, |child| child.wait(deadline).1)
    }

    /// Findings until the deadline; missing ones are unknown. Ends the child.
    pub(crate) fn finish(mut self, deadline: Instant) -> Outcome {
        let (said, missing) = match &mut self.child {
            Ok(child) => {
                let (said, ended) = child.wait(deadline);
                let why =
                    if ended { "the experiments ended without an answer" } else { "it took too long and was stopped" };
                (String::from_utf8_lossy(said).into_owned(), why.to_owned())
            }
            Err(why) => (String::new(), why.clone()),
        };
        let mut lines = said.lines();
        let preface = lines.next().and_then(|line| serde_json::from_str(line).ok());
        let Preface { probed_at, identity, livepatches } = preface.unwrap_or_else(Preface::unknown);
        let mut outcome = Outcome::new(probed_at, identity, livepatches);
        let mut findings: Vec<ProbeFinding> = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        for defect in &self.wanted {
            let found = findings.iter().position(|finding| finding.id == *defect).map(|at| findings.swap_remove(at));
            outcome.defects.push(found.unwrap_or_else(|| finding(defect, Err(missing.clone()))));
        }
        drop(self.child); // which destroys its namespace
        outcome.duration_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        outcome
    }
}

impl Preface {
    fn unknown() -> Self {
        Self { probed_at: jiff::Timestamp::now().strftime(TIME).to_string(), identity: None, livepatches: None }
    }
}

/// Runs in the child.
fn work(inside: &mut Inside, paths: &Paths, wanted: &[&Experiment], allow_module_load: bool) {
    let means = |node: &mut Node<'_>| if allow_module_load { Means::all() } else { needs::means(node) };
    let Before { probed_at, identity, livepatches, means } = read(paths, means);
    say(inside, &Preface { probed_at, identity, livepatches });
    let ready = means.backend.clone().and_then(|_| inside.enter_own_network());
    let mut lab = ready.and_then(|()| Lab::build(means, Instant::now() + EXPERIMENTS));
    for experiment in wanted {
        let result = match &mut lab {
            Ok(lab) => (experiment.run)(lab),
            Err(why) => Err(why.clone()),
        };
        say(inside, &finding(experiment.defect, result));
    }
}

fn say(inside: &mut Inside, value: &impl Serialize) {
    // Strings and numbers always serialize.
    inside.say(&serde_json::to_string(value).unwrap_or_default());
}

fn finding(defect: &str, result: Result<(DefectState, String), String>) -> ProbeFinding {
    let (state, detail) = result.unwrap_or_else(|why| (DefectState::Unknown, why));
    ProbeFinding { id: defect.to_owned(), state, detail }
}
