//! A capture on disk: a directory, written by `natwatch capture` and read by `check --from`, or one text file (`text`),
//! which `check --from` also reads.
//!
//! Each response is a file named after its request. It has the kernel's bytes if `ok`; otherwise the reason, with
//! suffix `.absent`, `.denied` or `.failed`. `meta.json` is written last, so a directory without it is not a capture.

#[cfg(test)]
pub mod testing;
mod text;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;

use crate::capture::{BYTE_ORDER, Capture, FORMAT, Meta, Response};
use crate::facts::{Failure, Reading, SourceState};

const META: &str = "meta.json";
/// Size limit, bytes, of a response that is loaded, equal to the limit for writing.
const MAX_FILE: u64 = 65 << 20;
/// Size limit of all responses together, bytes.
const MAX_TOTAL: usize = 256 << 20;
/// Size limit of a text file, bytes: each byte may take two digits.
const MAX_TEXT: u64 = 2 * MAX_TOTAL as u64 + (16 << 20);
/// Number of files that are loaded.
const MAX_FILES: usize = 16_384;
/// Depth of directories: `sysfs/class/net/eth0/device/driver` has six levels.
const MAX_DEPTH: usize = 12;

/// Checks that a capture can be written to `dir`: it must not exist, or be empty.
///
/// # Errors
/// The reason.
pub fn check_target(dir: &Path) -> Result<(), String> {
    match fs::read_dir(dir) {
        Ok(mut entries) => match entries.next() {
            None => Ok(()),
            Some(_) => Err(format!("{} is not empty; name a directory that is empty or not there yet", dir.display())),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(format!("cannot write to {}: {error}", dir.display())),
    }
}

/// Writes a capture to `dir`, which must not exist, or be empty.
///
/// It is written to a temporary directory and renamed, so that `dir` is never incomplete. If that is not possible (a
/// mount point, a parent without write permission) it is written in place, `meta.json` last, and removed on failure.
///
/// # Errors
/// What could not be written.
pub fn save(capture: &Capture, dir: &Path) -> Result<(), String> {
    check_target(dir)?;
    let mut beside = dir.as_os_str().to_owned();
    beside.push(format!(".partial-{}", std::process::id()));
    let beside = Path::new(&beside);
    if fs::create_dir(beside).is_ok() {
        let written = write_all(capture, beside);
        if written.is_ok() && fs::rename(beside, dir).is_ok() {
            return Ok(());
        }
        let _ = fs::remove_dir_all(beside);
        written?;
    }
    let existed = dir.exists();
    if !existed {
        fs::create_dir(dir).map_err(|error| format!("cannot create {}: {error}", dir.display()))?;
    }
    write_all(capture, dir).inspect_err(|_| {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let _ = fs::remove_dir_all(entry.path()).or_else(|_| fs::remove_file(entry.path()));
        }
        if !existed {
            let _ = fs::remove_dir(dir);
        }
    })
}

fn write_all(capture: &Capture, dir: &Path) -> Result<(), String> {
    for (name, answer) in &capture.answers {
        let (name, bytes) = match answer {
            // A device may be named eth0.failed.
            Reading::Ok(bytes) if state_suffix(name).is_some() => (format!("{name}.ok"), Cow::from(bytes)),
            Reading::Ok(bytes) => (name.clone(), Cow::from(bytes)),
            other => (format!("{name}.{}", other.state()), reason(other).into()),
        };
        write_file(&dir.join(name), &bytes)?;
    }
    let mut meta = serde_json::to_vec_pretty(&capture.meta).map_err(|error| format!("cannot write {META}: {error}"))?;
    meta.push(b'\n');
    write_file(&dir.join(META), &meta)
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), String> {
    let describe = |error| format!("cannot write {}: {error}", path.display());
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(describe)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(path).map_err(describe)?;
    file.write_all(bytes).map_err(describe)
}

/// Loads a capture from a directory or text file.
///
/// # Errors
/// Not a capture, or of a format or byte order that is not supported.
pub fn load(path: &Path) -> Result<Capture, String> {
    let mut loading = Loading { at: path, total: 0, answers: BTreeMap::new() };
    let unfinished = |why: &str| format!("{why}; {} is no capture, or one that was not finished", path.display());
    if !path.is_file() {
        let meta = meta(path, &read_file(&path.join(META)).map_err(|error| unfinished(&error))?)?;
        loading.directory(path, String::new(), 0)?;
        return Ok(Capture { meta, answers: loading.answers });
    }
    let text = String::from_utf8(read_all(path, MAX_TEXT)?).map_err(|_| unfinished("not a text"))?;
    let mut files = text::files(&text).map_err(|error| format!("{}: {error}", path.display()))?;
    let index =
        files.iter().position(|(name, _)| *name == META).ok_or_else(|| unfinished(&format!("no {META} in it")))?;
    let meta = meta(path, &files.remove(index).1)?;
    for (name, bytes) in files {
        loading.file(name.to_owned(), bytes)?;
    }
    Ok(Capture { meta, answers: loading.answers })
}

/// Parses `meta.json` of the capture at `path`.
fn meta(path: &Path, bytes: &[u8]) -> Result<Meta, String> {
    let meta: Meta = serde_json::from_slice(bytes).map_err(|error| format!("{META} of {}: {error}", path.display()))?;
    if meta.format != FORMAT {
        return Err(format!("the capture has format {}, this natwatch reads {FORMAT}", meta.format));
    }
    if meta.byte_order != BYTE_ORDER {
        return Err(format!(
            "the capture comes from a {}-endian machine; replay it on one (this one is {BYTE_ORDER}-endian)",
            meta.byte_order
        ));
    }
    Ok(meta)
}

/// A capture being loaded.
struct Loading<'a> {
    at: &'a Path,
    total: usize,
    answers: BTreeMap<String, Response>,
}

impl Loading<'_> {
    fn directory(&mut self, dir: &Path, prefix: String, depth: usize) -> Result<(), String> {
        if depth > MAX_DEPTH {
            return Err(format!("{}: more than {MAX_DEPTH} directories deep", dir.display()));
        }
        let describe = |error| format!("cannot read {}: {error}", dir.display());
        for entry in fs::read_dir(dir).map_err(describe)? {
            let entry = entry.map_err(describe)?;
            let path = entry.path();
            let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
                return Err(format!("{}: the name is not UTF-8", path.display()));
            };
            let kind = entry.file_type().map_err(describe)?;
            if kind.is_dir() {
                self.directory(&path, format!("{name}/"), depth + 1)?;
            } else if depth > 0 {
                self.file(name, read_file(&path)?)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, name: String, bytes: Vec<u8>) -> Result<(), String> {
        if self.answers.len() >= MAX_FILES {
            return Err(format!("{} has more than {MAX_FILES} files", self.at.display()));
        }
        self.total += bytes.len();
        if self.total > MAX_TOTAL {
            return Err(format!("{} has more than {MAX_TOTAL} bytes", self.at.display()));
        }
        let (name, answer) = parse_answer(name, bytes);
        match self.answers.insert(name.clone(), answer) {
            Some(_) => Err(format!("{} answers {name} twice", self.at.display())),
            None => Ok(()),
        }
    }
}

fn state_suffix(name: &str) -> Option<(&str, SourceState)> {
    let (name, suffix) = name.rsplit_once('.')?;
    Some((name, SourceState::from_name(suffix)?))
}

fn parse_answer(name: String, bytes: Vec<u8>) -> (String, Response) {
    let Some((request, state)) = state_suffix(&name) else { return (name, Reading::Ok(bytes)) };
    let why = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim().to_owned();
    let answer = match state {
        SourceState::Ok => Reading::Ok(bytes),
        SourceState::Absent => Reading::Absent(why(bytes)),
        SourceState::Denied => Reading::Denied(why(bytes)),
        SourceState::Failed => Reading::Failed(failure(bytes)),
    };
    (request.to_owned(), answer)
}

/// The reason file's contents: a text, or a failure as JSON.
fn reason(answer: &Response) -> Vec<u8> {
    match answer {
        // Strings and numbers always serialize.
        Reading::Failed(failure) => serde_json::to_vec(failure).unwrap_or_default(),
        other => other.why().into_bytes(),
    }
}

/// Parses a failure written by [`reason`]; anything else is kept as text.
fn failure(bytes: Vec<u8>) -> Failure {
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|_| Failure::Recorded(String::from_utf8_lossy(&bytes).trim().to_owned()))
}

/// Reads a regular file, never a symlink: captures come from untrusted sources.
fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    if !fs::symlink_metadata(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?.is_file() {
        return Err(format!("{}: not a regular file", path.display()));
    }
    read_all(path, MAX_FILE)
}

fn read_all(path: &Path, most: u64) -> Result<Vec<u8>, String> {
    let describe = |error| format!("cannot read {}: {error}", path.display());
    let mut bytes = Vec::new();
    File::open(path).map_err(describe)?.take(most + 1).read_to_end(&mut bytes).map_err(describe)?;
    if bytes.len() as u64 > most {
        return Err(format!("{}: larger than {most} bytes", path.display()));
    }
    Ok(bytes)
}

/// One line per response, printed by `natwatch capture`.
pub fn listing(capture: &Capture) -> String {
    let width = capture.answers.keys().map(String::len).max().unwrap_or(0);
    let mut text = String::new();
    for (name, answer) in &capture.answers {
        let what = match answer {
            Reading::Ok(bytes) => format!("{} bytes", bytes.len()),
            other => format!("{}: {}", other.state(), other.why()),
        };
        text.push_str(&format!("{name:width$}  {what}\n"));
    }
    text
}
