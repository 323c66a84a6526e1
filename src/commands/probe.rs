//! `probe`: runs the experiments, and converts their result for the judge.

use std::fs::Permissions;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::print;
use crate::cli::{self, ProbeFormat};
use crate::judge;
use crate::probe;
use crate::probe::saved::Saved;

/// Runs `natwatch probe`; returns the exit code.
pub(super) fn run(flags: &cli::ProbeFlags) -> Result<u8, String> {
    let probe = probe::start(&flags.trees.paths(), &flags.defects, flags.allow_module_load);
    let deadline = probe.deadline();
    let outcome = probe.finish(deadline);
    let usual = if flags.output.is_some() { ProbeFormat::Json } else { ProbeFormat::Text };
    let text = match flags.format.unwrap_or(usual) {
        ProbeFormat::Text => outcome.text(),
        ProbeFormat::Json => outcome.json(),
    };
    match &flags.output {
        Some(file) => replace(file, &text)?,
        None => print(&text)?,
    }
    Ok(if flags.exit_zero { 0 } else { outcome.exit_code(|defect| probe::counts(defect, &flags.defects)) })
}

/// Replaces a file atomically, since another process may be reading it. If it is not a regular file (a pipe, a device),
/// writes to it instead.
fn replace(file: &Path, text: &str) -> Result<(), String> {
    let failed = |error: io::Error| format!("cannot write {}: {error}", file.display());
    // Target of a symlink.
    let target = match std::fs::canonicalize(file) {
        Ok(target) => target,
        Err(error) if std::fs::symlink_metadata(file).is_ok() => return Err(failed(error)),
        Err(_) => file.to_owned(), // does not exist yet
    };
    let old = std::fs::metadata(&target).ok();
    if old.as_ref().is_some_and(|old| !old.is_file()) {
        let mut open = std::fs::OpenOptions::new().write(true).open(&target).map_err(failed)?;
        return open.write_all(text.as_bytes()).map_err(failed);
    }
    let now = jiff::Timestamp::now().as_nanosecond();
    let mut name = target.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidFilename.into()))?.to_owned();
    name.push(format!(".{}-{now}", std::process::id()));
    let new = target.with_file_name(name);
    // A result that others can write is not trusted.
    let mut options = std::fs::OpenOptions::new();
    let written = options.write(true).create_new(true).mode(0o644).open(&new).and_then(|mut open| {
        if let Some(old) = old {
            open.set_permissions(Permissions::from_mode(old.mode() & 0o755))?;
        }
        open.write_all(text.as_bytes())?;
        std::fs::rename(&new, &target)
    });
    written.map_err(|error| {
        let _ = std::fs::remove_file(&new);
        failed(error)
    })
}

/// A saved result, for the judge.
pub(super) fn known(saved: Option<Saved>) -> judge::Probed {
    let Some(Saved { origin, outcome }) = saved else { return judge::Probed::default() };
    let refused = |why: String| {
        // A capture comes from an untrusted source.
        let why: String = why.chars().filter(|c| !c.is_control()).take(500).collect();
        let refused = Some(format!("the probe's result {origin} is not used: {why}"));
        judge::Probed { refused, ..judge::Probed::default() }
    };
    outcome.map_or_else(refused, found)
}

/// A probe's outcome, for the judge; without defects that no experiment decides.
pub(super) fn found(outcome: probe::Outcome) -> judge::Probed {
    let mine = outcome.defects.into_iter().filter(|finding| probe::is_decidable(&finding.id));
    let findings = mine.map(|probe::ProbeFinding { id, state, detail }| {
        tracing::info!(defect = id, %state, detail, "probed");
        (id, (state, detail))
    });
    judge::Probed { findings: findings.collect(), livepatches: outcome.livepatches, refused: None }
}
