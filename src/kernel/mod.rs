//! The only module that accesses the operating system for information about the node. It executes requests (`Live`
//! implements `Ask`) and decodes nothing.
//!
//! A reading runs on a thread of its own, because `/proc/thread-self/net` and netlink sockets belong to the thread's
//! network namespace, and because a request may block inside the kernel for longer than the caller can wait.

pub(crate) mod bounded;
mod bpf;
mod environment;
mod files;
pub(crate) mod heap;
pub(crate) mod isolation;
pub(crate) mod netlink;
mod notifications;
pub(crate) mod packet;
mod progress;
mod readable;
pub(crate) mod xtables;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::capture::{Ask, Meta, Request, RequestKind, Response, Root, Take};
use crate::facts::{Failure, NetworkNamespace, Reading, SystemCall};
pub use environment::without_files as meta;
use files::Files;
use notifications::Notifications;
pub use progress::Progress;
pub(crate) use progress::Whereabouts;

/// Mount points.
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

/// The running kernel, used by one thread for successive readings. Each reading has a deadline that can be extended;
/// files and sockets stay open in between.
pub struct Live {
    files: Files,
    progress: Arc<Progress>,
    sockets: netlink::Sockets,
    /// `None`: epochs are not reported, because nothing is remembered.
    notifications: Option<Notifications>,
}

impl Live {
    /// Opens nothing yet.
    pub fn new(paths: Paths, progress: Arc<Progress>) -> Self {
        Self { files: Files::new(paths), progress, sockets: netlink::Sockets::default(), notifications: None }
    }

    /// Listens to notifications, so that epochs show whether earlier results are still valid.
    pub fn watching(self) -> Self {
        Self { notifications: Some(Notifications::default()), ..self }
    }

    /// Starts another reading.
    pub fn begin(&mut self, progress: Arc<Progress>) {
        self.progress = progress;
    }

    /// The environment, including the network namespace.
    pub fn meta(&mut self) -> Meta {
        Meta { network_namespace: self.network_namespace().name().into(), ..meta() }
    }

    /// The network namespace of this thread.
    pub fn network_namespace(&mut self) -> NetworkNamespace {
        environment::network_namespace(&mut self.files)
    }

    fn answer(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        let progress = &self.progress;
        let in_time = || match progress.is_over() {
            true => Err(io::Error::other(progress.not_answered())),
            false => Ok(()),
        };
        let answer: Response = match &request.kind {
            RequestKind::File(root, path) => self.files.content(*root, path),
            RequestKind::Lines(root, path, words) => self.files.lines(*root, path, words, &in_time),
            RequestKind::Directory(root, path) => self.files.directory(*root, path),
            RequestKind::Link(root, path) => self.files.link(*root, path),
            RequestKind::Netlink(asked) => {
                return self.sockets.ask(asked, &self.progress, take).within(&request.name);
            }
            RequestKind::Programs(asked) => bpf::programs(asked, &in_time).within(&request.name),
            RequestKind::Xtables(asked) => xtables::table(asked, &in_time).within(&request.name),
        };
        answer.map(|bytes| {
            progress.outside(|| take(&bytes));
        })
    }
}

impl Ask for Live {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        if self.progress.is_over() {
            return Reading::Failed(self.progress.not_answered()).within(&request.name);
        }
        let start = Instant::now();
        let progress = Arc::clone(&self.progress);
        progress.begin(&request.name);
        let reading = self.answer(request, take);
        self.progress.end(request.source.collector(), start.elapsed());
        reading
    }

    fn epoch(&mut self) -> Option<u64> {
        self.notifications.as_mut()?.epoch()
    }

    fn cpu_time(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.try_into().unwrap_or(0))
    }

    fn neighbours_epoch(&mut self) -> Option<u64> {
        self.notifications.as_mut()?.neighbours_epoch()
    }

    fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        self.notifications.as_mut().is_some_and(|notifications| notifications.watch_fdb(devices))
    }
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("files", &self.files).field("progress", &self.progress).finish_non_exhaustive()
    }
}

/// Failure of a system call, or the [`Failure`] that the error was made from.
fn failure(call: SystemCall, error: &io::Error) -> Failure {
    let ours = || error.get_ref().and_then(|inner| inner.downcast_ref::<Failure>()).cloned();
    match error.raw_os_error() {
        Some(errno) => Failure::SystemCall { call, errno },
        None => ours().unwrap_or_else(|| Failure::unexpected(error.to_string())),
    }
}
