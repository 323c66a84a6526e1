//! `capture`: records all responses of one reading in a directory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::{BETWEEN_READINGS, PATIENCE, print};
use crate::capture::{Capture, Meta, Recorder, archive};
use crate::cli::{self, Common};
use crate::facts::{Collector, Failure, Unanswered};
use crate::judge;
use crate::kernel::{self, Live, Progress};
use crate::probe::{self, saved};
use crate::read::{self, Known};
use crate::redact;
use crate::serve::reading::judge_until;

/// All requests of one reading with the responses received before the deadline.
fn record(common: &Common) -> Capture {
    let deadline = Instant::now() + PATIENCE;
    let (paths, collectors) = (common.trees.paths(), common.captured());
    let probe = saved::of_this_node(common.probe_choice(), paths.clone());
    let (keep, answers) = mpsc::channel();
    let (tell, meta) = mpsc::channel();
    std::thread::spawn(move || {
        let boot_id = probe::running(&paths).map(|kernel| kernel.boot_id);
        let mut live = Live::new(paths, Arc::new(Progress::new(PATIENCE)));
        let meta = Meta { boot_id, ..live.meta() };
        let _ = tell.send(meta.clone());
        let mut recorder = Recorder::new(live, |name, answer| drop(keep.send((name, answer))));
        let (parts, mut left) = read::all(&mut recorder, &collectors, &Known::default(), &mut |_| ());
        if !collectors.contains(&Collector::Flows) {
            return;
        }
        // The verdict says whether a second reading of entries is needed.
        let facts = parts.facts(&meta, &collectors, &Failure::NotAnswered(Unanswered::NotCaptured));
        let options = judge::Options { this_namespace: true, ..judge::Options::default() };
        if judge_until(deadline, &facts, &options).has_seen_once() {
            std::thread::sleep(BETWEEN_READINGS);
            left.read_again(BETWEEN_READINGS);
            read::all(&mut recorder, &collectors, &left, &mut |_| ());
        }
    });
    let meta = meta.recv_timeout(PATIENCE).unwrap_or_else(|_| kernel::meta());
    let mut capture = Capture { meta, answers: BTreeMap::new() };
    while let Ok((name, answer)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        capture.answers.insert(name, answer);
    }
    saved::keep(probe.wait(deadline), &mut capture);
    capture
}

/// Runs `natwatch capture`.
pub(super) fn run(flags: &cli::CaptureFlags) -> Result<(), String> {
    archive::check_target(&flags.directory)?;
    let mut capture = record(&flags.common);
    // Requests that were not made before the deadline are missing in the directory; a replay reports that.
    if flags.redact {
        redact::redact(&mut capture);
    }
    archive::save(&capture, &flags.directory)?;
    print(&archive::listing(&capture))?;
    let directory: &Path = &flags.directory;
    print(&format!("\nReplay it with: natwatch check --from {}\n", directory.display()))
}
