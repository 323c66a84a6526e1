//! Results of earlier probes: which file to use, whether it is valid, and how captures contain it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Instant;

use super::{Outcome, RunningKernel, identity, running};
use crate::capture::{Capture, Replay};
use crate::facts::{Collector, Failure, Reading};
use crate::kernel::{Paths, bounded};
use crate::read::{Collectors, Known, Node};

/// Default file, shared by `probe`, `check` and `serve`. It does not survive a reboot.
const USUAL_FILE: &str = "/run/natwatch/probe.json";
/// Size limit of the document, bytes.
const LARGEST: u64 = 64 << 10;
/// Name in a capture, which no request has.
const CAPTURED: &str = "probe/result.json";

/// Which result to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// `/run/natwatch/probe.json` if it exists; for a capture, the one in it.
    Usual,
    /// This file.
    Named(PathBuf),
    /// None.
    Nothing,
}

/// A result, or why it is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Saved {
    /// Where it comes from, for messages.
    pub origin: String,
    /// The result.
    pub outcome: Result<Outcome, String>,
}

impl Saved {
    /// From this text, if it is about the kernel returned by `kernel`.
    fn new(
        origin: String,
        text: Result<String, String>,
        kernel: impl FnOnce(&Outcome) -> Option<RunningKernel>,
    ) -> Self {
        let read = |text: String| {
            let outcome =
                Outcome::parse(&text).map_err(|why| format!("it is not what natwatch probe --output writes: {why}"))?;
            outcome.is_of(kernel(&outcome).as_ref())?;
            Ok(outcome)
        };
        Self { origin, outcome: text.and_then(read) }
    }
}

fn named(file: &Path) -> Result<String, String> {
    bounded::read_trusted(file, LARGEST)?.ok_or_else(|| "there is no such file".into())
}

/// A result being read on a thread, since the kernel may not answer.
#[derive(Debug)]
pub(crate) struct Pending {
    /// `None`: no result is wanted.
    file: Option<PathBuf>,
    found: mpsc::Receiver<Option<Saved>>,
}

impl Choice {
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::Usual => Some(PathBuf::from(USUAL_FILE)),
            Self::Named(file) => Some(file.clone()),
            Self::Nothing => None,
        }
    }
}

/// The result for the running kernel; blocks until the kernel answers.
pub(crate) fn read(choice: &Choice, paths: &Paths) -> Option<Saved> {
    let file = choice.file()?;
    let text = match choice {
        Choice::Named(_) => named(&file).map(Some),
        _ => bounded::read_trusted(&file, LARGEST),
    };
    text.transpose().map(|text| Saved::new(file.display().to_string(), text, |_| running(paths)))
}

/// Starts reading it.
pub(crate) fn of_this_node(choice: Choice, paths: Paths) -> Pending {
    let (done, found) = mpsc::channel();
    // Nearly always there is none, as is known at once: it would lie in memory.
    let is_absent = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let is_none = choice == Choice::Usual && fs::symlink_metadata(USUAL_FILE).is_err_and(is_absent);
    let file = choice.file().filter(|_| !is_none);
    if file.is_some() {
        // If the thread cannot be started, nothing is sent, which `wait` reports.
        let read_it = move || drop(done.send(read(&choice, &paths)));
        let _ = std::thread::Builder::new().name("probe result".into()).spawn(read_it);
    }
    Pending { file, found }
}

impl Pending {
    /// The result, or why there is none by the deadline.
    pub(crate) fn wait(self, deadline: Instant) -> Option<Saved> {
        let origin = self.file?.display().to_string();
        let why = match self.found.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(saved) => return saved,
            Err(mpsc::RecvTimeoutError::Timeout) => "it was not read in time",
            Err(mpsc::RecvTimeoutError::Disconnected) => "no thread could be started to read it",
        };
        Some(Saved { origin, outcome: Err(why.into()) })
    }
}

/// The result for the kernel of a capture.
pub(crate) fn of_capture(choice: &Choice, capture: &Capture) -> Option<Saved> {
    let (origin, text) = match choice {
        Choice::Nothing => return None,
        Choice::Named(file) => (file.display().to_string(), named(file)),
        Choice::Usual => {
            let text = match capture.answers.get(CAPTURED)? {
                Reading::Ok(bytes) => String::from_utf8(bytes.clone()).map_err(|_| "it is not UTF-8".into()),
                other => Err(other.why()),
            };
            ("in the capture".into(), text)
        }
    };
    Some(Saved::new(origin, text, |outcome| captured(capture, outcome)))
}

/// The kernel of a capture. Without a boot id it is compared by release and version.
fn captured(capture: &Capture, outcome: &Outcome) -> Option<RunningKernel> {
    let mut replay = Replay::new(capture);
    let (collectors, known) = (Collectors::from([Collector::Kernel]), Known::default());
    let mut node = Node::new(&mut replay, &collectors, &known);
    let boot_id = capture.meta.boot_id.as_ref().or(outcome.identity.as_ref().map(|probed| &probed.boot_id));
    identity(&mut node, boot_id.cloned())
}

/// Stores the result that is used, or why it is not, in a capture; reduced to the fields that natwatch knows.
pub(crate) fn keep(saved: Option<Saved>, capture: &mut Capture) {
    let Some(saved) = saved else { return };
    let answer = match saved.outcome {
        Ok(outcome) => Reading::Ok(outcome.json().into_bytes()),
        Err(why) => Reading::Failed(Failure::Recorded(why)),
    };
    capture.answers.insert(CAPTURED.into(), answer);
}
