//! Runs readings on a thread of their own, and judges within a deadline; for `check` and `serve`.
//!
//! The reading thread may block in the kernel. Its caller waits until its own deadline, and takes the parts that were
//! published by then.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::advisory::Catalogue;
use crate::capture::{Ask, Meta};
use crate::facts::{Facts, Failure, NetworkNamespace, Unanswered};
use crate::judge::{self, Report};
use crate::kernel::{self, Live, Paths, Progress};
use crate::read::{self, Collectors, Known, Parts};
use crate::serve::sync::lock;

/// The node to be read: this machine, or a test double.
pub(crate) trait NodeAccess: std::fmt::Debug + Send + Sync + 'static {
    /// The environment, as far as it is known without opening a file.
    fn meta(&self) -> Meta;

    /// Opens access to the node, on the reading thread.
    fn open(&self) -> Box<dyn NodeSession + '_>;
}

/// Access to the node for successive readings.
pub(crate) trait NodeSession: Ask {
    /// Starts a reading; returns the network namespace, which [`NodeAccess::meta`] does not know.
    fn begin(&mut self, progress: Arc<Progress>) -> NetworkNamespace;
}

impl NodeAccess for Paths {
    fn meta(&self) -> Meta {
        kernel::meta()
    }

    fn open(&self) -> Box<dyn NodeSession + '_> {
        Box::new(live(self))
    }
}

/// This machine, with notifications, for readings that take over earlier results.
#[derive(Debug)]
pub(crate) struct LiveNode(pub Paths);

impl NodeAccess for LiveNode {
    fn meta(&self) -> Meta {
        self.0.meta()
    }

    fn open(&self) -> Box<dyn NodeSession + '_> {
        Box::new(live(&self.0).watching())
    }
}

/// Access for the first reading.
fn live(paths: &Paths) -> Live {
    Live::new(paths.clone(), Arc::new(Progress::new(Duration::ZERO)))
}

impl NodeSession for Live {
    fn begin(&mut self, progress: Arc<Progress>) -> NetworkNamespace {
        Live::begin(self, progress);
        self.network_namespace()
    }
}

/// What a reading has published so far.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// Environment of the reading.
    pub meta: Meta,
    /// The complete parts.
    pub parts: Parts,
    /// Number of complete parts.
    pub count: usize,
}

/// A running reading.
#[derive(Clone, Debug)]
pub(crate) struct Underway {
    /// Its progress and deadline.
    pub progress: Arc<Progress>,
    published: Arc<Mutex<Published>>,
}

/// Work for the reading thread.
type Job = Box<dyn FnOnce(&mut dyn NodeSession) + Send>;

/// The reading thread. There is one for all readings, because open files and sockets belong to it, and to reuse memory.
/// While it is stuck inside the kernel, further work waits.
#[derive(Debug)]
pub(crate) struct ReadingThread {
    node: Arc<dyn NodeAccess>,
    /// `None`: not started.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl ReadingThread {
    /// Starts no thread yet.
    pub(crate) fn new(node: Arc<dyn NodeAccess>) -> Self {
        Self { node, jobs: Mutex::default() }
    }

    /// Starts a reading. `then` is called on the reading thread at its end.
    pub(crate) fn begin(
        &self,
        collectors: Collectors,
        known: Known,
        patience: Duration,
        then: impl FnOnce(Published, Known, &Progress) + Send + 'static,
    ) -> Underway {
        let progress = Arc::new(Progress::new(patience));
        let published = Published { meta: self.node.meta(), parts: Parts::default(), count: 0 };
        let published = Arc::new(Mutex::new(published));
        let (mine, shown) = (Arc::clone(&progress), Arc::clone(&published));
        self.run(Box::new(move |door| {
            let namespace = door.begin(Arc::clone(&mine));
            let meta = {
                let mut shown = lock(&shown);
                shown.meta.network_namespace = namespace.name().into();
                shown.meta.clone()
            };
            let mut count = 0;
            let mut publish = |parts: &Parts| {
                count += 1;
                let mut shown = lock(&shown);
                (shown.parts, shown.count) = (parts.clone(), count);
            };
            let (parts, left) = read::all(door, &collectors, &known, &mut publish);
            then(Published { meta, parts, count: count + 1 }, left, &mine);
        }));
        Underway { progress, published }
    }

    /// Runs a job on the thread; starts a new thread if there is none or it has panicked.
    fn run(&self, job: Job) {
        let mut jobs = lock(&self.jobs);
        let job = match jobs.as_ref() {
            None => job,
            Some(jobs) => match jobs.send(job) {
                Ok(()) => return,
                Err(mpsc::SendError(job)) => job,
            },
        };
        let (sender, receiver) = mpsc::channel::<Job>();
        let node = Arc::clone(&self.node);
        let work = move || {
            let mut door = node.open();
            receiver.into_iter().for_each(|job| job(door.as_mut()));
        };
        match std::thread::Builder::new().name("reading".into()).spawn(work) {
            Ok(_) => {
                let _ = sender.send(job);
                *jobs = Some(sender);
            }
            Err(error) => {
                tracing::error!(%error, "cannot start a thread to read the kernel");
                *jobs = None;
            }
        }
    }
}

impl Underway {
    /// The parts published so far.
    pub(crate) fn so_far(&self) -> Published {
        lock(&self.published).clone()
    }

    /// Failure for the parts that are missing after waiting this long.
    pub(crate) fn missing(&self, waited: Duration) -> Failure {
        let failure = Failure::NotAnswered(Unanswered::in_time(waited));
        match self.progress.current() {
            Some(request) => failure.within(request),
            None => failure,
        }
    }
}

/// Judges until the deadline; conditions not evaluated by then are unknown.
pub(crate) fn judge_until(deadline: Instant, facts: &Facts, options: &judge::Options) -> Report {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, finished) = mpsc::channel::<()>();
        let (stop, judging) = (&stop, std::thread::Builder::new().name("judging".into()));
        let judged = judging.spawn_scoped(scope, move || {
            let report = judge::judge(Catalogue::built_in(), facts, options, stop);
            drop(done);
            report
        });
        let Ok(judged) = judged else {
            // Without a second thread nothing could stop it, so it stops at once.
            return judge::judge(Catalogue::built_in(), facts, options, &AtomicBool::new(true));
        };
        let _ = finished.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
        judged.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
