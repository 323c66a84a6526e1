//! One reading, on a thread of its own, and judging it in time: for `check` as for `serve`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use crate::advisory::Catalogue;
use crate::capture::{Ask, Meta};
use crate::decode::{self, Collectors, Known, Parts};
use crate::judge::{self, Report};
use crate::kernel::{self, Live, Paths, Progress};
use crate::snapshot::{Failure, Snapshot, Unanswered};
use crate::sync::lock;

/// What a reading reads: the kernel, or a test's idea of one.
pub trait World: std::fmt::Debug + Send + Sync + 'static {
    /// Who looks, from where, and when, as far as that can be told without opening a file.
    fn meta(&self) -> Meta;

    /// Opens the door to the node, on the thread that is going to read, and tells the rest about who looks.
    fn open(&self, progress: Arc<Progress>) -> (Meta, Box<dyn Ask + '_>);
}

impl World for Paths {
    fn meta(&self) -> Meta {
        kernel::meta()
    }

    fn open(&self, progress: Arc<Progress>) -> (Meta, Box<dyn Ask + '_>) {
        let live = Live::new(self.clone(), progress);
        (live.meta(), Box::new(live))
    }
}

/// What a reading has published so far.
#[derive(Clone, Debug)]
pub struct Published {
    /// Who looks, from where, and when.
    pub meta: Meta,
    /// The parts that are whole.
    pub parts: Parts,
    /// How many there are.
    pub count: usize,
}

/// A reading on its way, on a thread of its own.
#[derive(Clone, Debug)]
pub struct Underway {
    /// How far it is, and until when it may go on.
    pub progress: Arc<Progress>,
    published: Arc<Mutex<Published>>,
}

impl Underway {
    /// Begins a reading. `then` is called on its thread when it has come to its end.
    pub fn begin(
        world: Arc<dyn World>,
        collectors: Collectors,
        known: Known,
        patience: Duration,
        then: impl FnOnce(Published, Known, &Progress) + Send + 'static,
    ) -> Self {
        let progress = Arc::new(Progress::new(patience));
        let published = Published { meta: world.meta(), parts: Parts::default(), count: 0 };
        let published = Arc::new(Mutex::new(published));
        let (mine, shown) = (Arc::clone(&progress), Arc::clone(&published));
        let work = move || {
            let (meta, mut ask) = world.open(Arc::clone(&mine));
            lock(&shown).meta = meta.clone();
            let mut count = 0;
            let mut publish = |parts: &Parts| {
                count += 1;
                let mut shown = lock(&shown);
                (shown.parts, shown.count) = (parts.clone(), count);
            };
            let (parts, left) = decode::read(ask.as_mut(), &collectors, &known, &mut publish);
            then(Published { meta, parts, count: count + 1 }, left, &mine);
        };
        if let Err(error) = std::thread::Builder::new().name("reading".into()).spawn(work) {
            tracing::error!(%error, "cannot start a thread to read the kernel");
        }
        Self { progress, published }
    }

    /// The parts so far.
    pub fn so_far(&self) -> Published {
        lock(&self.published).clone()
    }

    /// Why the other parts are not there, for somebody who has waited so long.
    pub fn missing(&self, waited: Duration) -> Failure {
        let failure = Failure::NotAnswered(Unanswered::in_time(waited));
        match self.progress.current() {
            Some(request) => failure.within(request),
            None => failure,
        }
    }
}

/// Judges until the deadline; what is not judged by then is unknown.
pub fn judge_until(deadline: Instant, snapshot: &Snapshot, options: &judge::Options) -> Report {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (done, finished) = mpsc::channel::<()>();
        let (stop, judging) = (&stop, std::thread::Builder::new().name("judging".into()));
        let judged = judging.spawn_scoped(scope, move || {
            let report = judge::judge(Catalogue::built_in(), snapshot, options, stop);
            drop(done);
            report
        });
        let Ok(judged) = judged else {
            // Without a second thread nobody could stop it: it stops at once.
            return judge::judge(Catalogue::built_in(), snapshot, options, &AtomicBool::new(true));
        };
        let _ = finished.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        stop.store(true, Ordering::Relaxed);
        judged.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
