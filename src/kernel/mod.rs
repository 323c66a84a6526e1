//! The only code that asks the operating system about the node. It executes requests and decodes nothing.
//!
//! A look runs on a thread of its own, because `/proc/thread-self/net` and netlink sockets belong to the
//! network namespace of the thread, and because a request can block inside the kernel for longer than the
//! caller may wait.

mod environment;
mod files;
pub mod isolation;
pub mod netlink;
pub mod packet;
mod readable;
pub mod xtables;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::capture::{Answer, Capture, Question, Request, Root};
use crate::snapshot::{Collector, Failure, Reading, Unanswered};

/// Where the trees are mounted.
#[derive(Clone, Debug)]
pub struct Paths {
    /// `--path.procfs`
    pub procfs: PathBuf,
    /// `--path.sysfs`
    pub sysfs: PathBuf,
    /// `--path.rootfs`
    pub rootfs: PathBuf,
}

impl Paths {
    fn root(&self, root: Root) -> &PathBuf {
        match root {
            Root::Procfs => &self.procfs,
            Root::Sysfs => &self.sysfs,
            Root::Rootfs => &self.rootfs,
        }
    }
}

/// What a look has found so far.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The answers.
    pub capture: Capture,
    /// Time spent per collector.
    pub durations: BTreeMap<Collector, Duration>,
    /// The request that is being executed now.
    pub current: Option<String>,
    /// The answers were taken away, to be read.
    finished: bool,
}

/// Asks the kernel of this machine.
#[derive(Debug)]
pub struct Kernel {
    paths: Paths,
    /// Answers that hold until the next boot.
    until_reboot: Mutex<BTreeMap<String, Answer>>,
}

/// The longest chain of questions that depend on each other: generation, tables, base chains, 16 jumps with a verdict
/// map between each two, the search for a mark's setter as deep again, sets; eight times while the rules change.
const MAX_ROUNDS: usize = 640;

impl Kernel {
    /// A kernel whose trees are mounted there.
    pub fn new(paths: Paths) -> Self {
        Self { paths, until_reboot: Mutex::default() }
    }

    /// The start of a look: who looks, from where, when. `unanswered` is what a request means that is never
    /// answered.
    pub fn begin(&self, unanswered: Unanswered) -> Progress {
        Progress::new(Capture::new(environment::meta(), unanswered))
    }

    /// Answers requests into `progress` until the planner names no more or the deadline has passed.
    pub fn look(&self, plan: impl Fn(&Capture) -> Vec<Request>, deadline: Instant, progress: &Mutex<Progress>) {
        let (online_cpus, namespace) = environment::from_files(&self.paths);
        {
            let meta = &mut lock(progress).capture.meta;
            meta.online_cpus = online_cpus;
            meta.network_namespace = namespace.name().into();
        }
        let mut sockets = netlink::Sockets::default();
        for _ in 0..MAX_ROUNDS {
            let requests = plan(&lock(progress).capture);
            if requests.is_empty() {
                return;
            }
            for request in requests {
                let start = Instant::now();
                if start >= deadline {
                    return;
                }
                lock(progress).current = Some(request.name.clone());
                let answer = self.answer(&request, deadline, &mut sockets);
                let mut progress = lock(progress);
                progress.current = None;
                *progress.durations.entry(request.source.collector()).or_default() += start.elapsed();
                progress.capture.answers.insert(request.name, answer);
            }
        }
    }

    fn answer(&self, request: &Request, deadline: Instant, sockets: &mut netlink::Sockets) -> Answer {
        if !request.until_reboot {
            return self.ask(request, deadline, sockets);
        }
        if let Some(answer) = lock(&self.until_reboot).get(&request.name) {
            return answer.clone();
        }
        let answer = self.ask(request, deadline, sockets);
        if !matches!(answer, Reading::Failed(_)) {
            lock(&self.until_reboot).insert(request.name.clone(), answer.clone());
        }
        answer
    }

    fn ask(&self, request: &Request, deadline: Instant, sockets: &mut netlink::Sockets) -> Answer {
        match &request.question {
            Question::File(root, path) => files::content(self.paths.root(*root), path),
            Question::Lines(root, path, words) => files::lines(self.paths.root(*root), path, words, deadline),
            Question::Directory(root, path) => files::directory(self.paths.root(*root), path),
            Question::Link(root, path) => files::link(self.paths.root(*root), path),
            Question::Netlink(question) => {
                let answer = sockets.ask(question, deadline);
                answer.within(&request.name)
            }
            Question::Xtables(question) => {
                let answer = xtables::table(question, deadline);
                answer.within(&request.name)
            }
        }
    }
}

/// What went wrong inside a system call, or with what it gave.
fn failure(call: &str, error: &std::io::Error) -> Failure {
    match error.raw_os_error() {
        Some(errno) => Failure::SystemCall { call: call.into(), errno },
        None => Failure::unexpected(error.to_string()),
    }
}

/// Locks; a thread that panicked while holding the lock leaves the answers that it had, which are whole.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Progress {
    /// The start of a look.
    pub fn new(capture: Capture) -> Self {
        Self { capture, durations: BTreeMap::new(), current: None, finished: false }
    }

    /// Takes everything away. Nothing stays behind: a table of rules alone may have tens of megabytes.
    pub fn finish(&mut self) -> Self {
        let capture = Capture::new(self.capture.meta.clone(), self.capture.unanswered.clone());
        std::mem::replace(self, Self { finished: true, ..Self::new(capture) })
    }

    /// What there is of a look that is on its way; `None` when it has come to its end.
    pub fn so_far(&self) -> Option<Self> {
        (!self.finished).then(|| self.clone())
    }

    /// What there is when nobody waits any longer: the rest failed for this reason.
    pub fn given_up(mut self, why: Unanswered) -> Self {
        if let Some(current) = self.current.take() {
            self.capture
                .answers
                .insert(current.clone(), Reading::Failed(Failure::NotAnswered(why.clone()).within(current)));
        }
        self.capture.unanswered = why;
        self
    }
}
