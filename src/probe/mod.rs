//! Finds out by experiment which known defects the running kernel has.
//!
//! An island: unlike everything else, it builds and sends, but in a network namespace of its own, in a child process, and
//! all of it vanishes with that. Nothing is loaded that was not there (`needs`). An experiment whose controls fail says
//! `unknown`, never `absent`.
//!
//! `datagram`, `messages`, `legacy`, `needs` and `outcome` are pure; `lab` builds, and the experiments
//! send and watch.

mod clash;
mod datagram;
mod lab;
mod legacy;
mod messages;
mod needs;
mod outcome;
mod ports;
mod tunnel;

use std::sync::Mutex;
use std::time::{Duration, Instant};

pub use outcome::{Finding, Identity, Outcome};

use crate::advisory::defects::DefectState;
use crate::capture::{Capture, Request, Root};
use crate::decode::{self, Collectors};
use crate::kernel::{Kernel, Paths, isolation, lock};
use crate::snapshot::{Collector, Reading, Source};
use lab::Lab;
use needs::Means;

/// How long the kernel may take to answer files.
const READING: Duration = Duration::from_secs(5);
/// How long all experiments together may take.
const EXPERIMENTS: Duration = Duration::from_secs(10);

/// One experiment.
struct Experiment {
    /// The defect that it decides.
    defect: &'static str,
    /// Whether it counts for the exit code when nothing is named: not if every kernel has it.
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

/// The defects that an experiment can decide.
pub fn decidable() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|experiment| experiment.defect)
}

/// Whether a defect decides the exit code; `named` are those that were asked for.
pub fn counts(defect: &str, named: &[String]) -> bool {
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

/// Reads what files tell: which kernel this is, and what `also` asks.
fn read(paths: &Paths, also: impl Fn(&Capture) -> Vec<Request>) -> Capture {
    let kernel = Kernel::new(paths.clone());
    let progress = Mutex::new(kernel.begin("no answer"));
    let plan = |capture: &Capture| {
        let mut requests = decode::plan(capture, &Collectors::from([Collector::Kernel]));
        requests.extend([boot_id(), version()].into_iter().chain(also(capture)));
        requests.retain(|request| !capture.has(request));
        requests
    };
    kernel.look(plan, Instant::now() + READING, &progress);
    let progress = lock(&progress).finish();
    progress.capture
}

fn identity_in(capture: &Capture) -> Option<Identity> {
    let line = |request: Request| capture.line(&request).ok().cloned();
    let release = Request::file(Source::Kernel, Root::Procfs, "sys/kernel/osrelease");
    Some(Identity { boot_id: line(boot_id())?, kernel_release: line(release)?, kernel_version: line(version())? })
}

/// The kernel that runs now; `None` where /proc does not tell.
pub fn running(paths: &Paths) -> Option<Identity> {
    identity_in(&read(paths, |_| Vec::new()))
}

/// Runs the experiments for these defects, all if none is named. The process must have one thread.
pub fn run(paths: &Paths, named: &[String], allow_module_load: bool) -> Outcome {
    let start = Instant::now();
    let means = |capture: &Capture| if allow_module_load { Ok(Means::all()) } else { needs::means(capture) };
    let capture = read(paths, |capture| means(capture).err().unwrap_or_default());
    let livepatches = match decode::snapshot(&capture, &Collectors::from([Collector::Kernel])).livepatches {
        Reading::Ok(names) => Some(names),
        Reading::Absent(_) => Some(Vec::new()), // this kernel cannot load any
        Reading::Denied(_) | Reading::Failed(_) => None,
    };
    let mut outcome = Outcome::new(capture.meta.captured_at.clone(), identity_in(&capture), livepatches);
    let means =
        means(&capture).unwrap_or_else(|_| Means::none("files that tell what would be loaded were not answered"));
    outcome.defects = experiments(named, means);
    outcome.duration_ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    outcome
}

fn experiments(named: &[String], means: Means) -> Vec<Finding> {
    let wanted = || ALL.iter().filter(|experiment| named.is_empty() || counts(experiment.defect, named));
    let unknown = |why: &str| wanted().map(|experiment| finding(experiment.defect, Err(why.to_owned()))).collect();
    if let Err(why) = &means.backend {
        return unknown(why);
    }
    let work = |isolated: Result<(), String>| {
        let lab = isolated.and_then(|()| Lab::build(means, Instant::now() + EXPERIMENTS));
        let findings: Vec<Finding> = match lab {
            Ok(mut lab) => wanted().map(|experiment| finding(experiment.defect, (experiment.run)(&mut lab))).collect(),
            Err(why) => unknown(&why),
        };
        serde_json::to_vec(&findings).unwrap_or_default()
    };
    let answer = isolation::in_own_network(EXPERIMENTS + Duration::from_secs(1), work);
    match answer.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string())) {
        Ok(findings) => findings,
        Err(why) => unknown(&why),
    }
}

fn finding(defect: &str, result: Result<(DefectState, String), String>) -> Finding {
    let (state, detail) = result.unwrap_or_else(|why| (DefectState::Unknown, why));
    Finding { id: defect.to_owned(), state, detail }
}
