//! Readings, one after the other on a thread of their own, and judging one in time: for `check` as for `serve`.

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

/// What a reading reads: the kernel, or a test's idea of one.
pub(crate) trait NodeAccess: std::fmt::Debug + Send + Sync + 'static {
    /// Who looks, from where, and when, as far as that can be told without opening a file.
    fn meta(&self) -> Meta;

    /// Opens the door to the node, on the thread that is going to read.
    fn open(&self) -> Box<dyn NodeSession + '_>;
}

/// The door to the node, for one reading after the other.
pub(crate) trait NodeSession: Ask {
    /// Begins a reading, and tells what [`NodeAccess::meta`] could not.
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

/// The kernel, for readings that take over what still stands.
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

/// Before its first reading.
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
    /// Who looks, from where, and when.
    pub meta: Meta,
    /// The parts that are whole.
    pub parts: Parts,
    /// How many there are.
    pub count: usize,
}

/// A reading on its way.
#[derive(Clone, Debug)]
pub(crate) struct Underway {
    /// How far it is, and until when it may go on.
    pub progress: Arc<Progress>,
    published: Arc<Mutex<Published>>,
}

/// What the reading thread does next.
type Job = Box<dyn FnOnce(&mut dyn NodeSession) + Send>;

/// The thread that reads. It is one for all readings, because what it holds open belongs to it, and so that memory of one
/// reading serves the next. One that is stuck inside the kernel keeps whatever is asked of it waiting.
#[derive(Debug)]
pub(crate) struct ReadingThread {
    node: Arc<dyn NodeAccess>,
    /// `None`: it has not been begun.
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
}

impl ReadingThread {
    /// No thread is begun yet.
    pub(crate) fn new(node: Arc<dyn NodeAccess>) -> Self {
        Self { node, jobs: Mutex::default() }
    }

    /// Begins a reading. `then` is called on its thread when it has come to its end.
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

    /// Has the thread do this; a new one, where there is none or it has panicked.
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
    /// The parts so far.
    pub(crate) fn so_far(&self) -> Published {
        lock(&self.published).clone()
    }

    /// Why the other parts are not there, for somebody who has waited so long.
    pub(crate) fn missing(&self, waited: Duration) -> Failure {
        let failure = Failure::NotAnswered(Unanswered::in_time(waited));
        match self.progress.current() {
            Some(request) => failure.within(request),
            None => failure,
        }
    }
}

/// Judges until the deadline; what is not judged by then is unknown.
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
            // Without a second thread nobody could stop it: it stops at once.
            return judge::judge(Catalogue::built_in(), facts, options, &AtomicBool::new(true));
        };
        let _ = finished.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
        judged.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
