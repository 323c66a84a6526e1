//! Files, directories and symbolic links of procfs, sysfs and the host's root file system.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::capture::Answer;
use crate::snapshot::{Failure, Reading, SystemCall};

/// Largest file that is kept whole; `/proc/thread-self/net/stat/nf_conntrack` of 4096 CPUs has 640 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Largest file that is searched for lines; kallsyms has 10 to 20 MiB.
const MAX_SEARCHED: u64 = 128 << 20;
/// Names kept of a directory.
const MAX_NAMES: u64 = 10_000;

/// The content of a regular file.
pub fn content(root: &Path, path: &str) -> Answer {
    answer(root, path, |file| {
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(too_large(MAX_FILE, "bytes"));
        }
        Ok(bytes)
    })
}

/// The lines that contain one of `words`.
pub fn lines(root: &Path, path: &str, words: &[String], in_time: &dyn Fn() -> io::Result<()>) -> Answer {
    answer(root, path, |file| {
        let mut kept = Vec::new();
        let mut line = Vec::new();
        let mut searched = 0;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        loop {
            line.clear();
            searched += reader.by_ref().take(MAX_FILE).read_until(b'\n', &mut line)? as u64;
            match line.last() {
                // Only the list of modules may be empty: in any other file that is searched there are lines.
                None if searched == 0 && path != "modules" => return Err(failed(Failure::Hidden { witness: None })),
                None => return Ok(kept),
                Some(b'\n') => {}
                Some(_) => {
                    let (what, have) = ("the last line is cut off".to_owned(), line.len());
                    return Err(failed(Failure::Malformed { what, at: 0, need: have + 1, have }));
                }
            }
            if words.iter().any(|word| contains(&line, word.as_bytes())) {
                kept.extend_from_slice(&line);
            }
            if searched > MAX_SEARCHED {
                return Err(too_large(MAX_SEARCHED, "bytes"));
            }
            in_time()?;
        }
    })
}

fn too_large(limit: u64, unit: &str) -> io::Error {
    failed(Failure::TooLarge { limit, unit: unit.to_owned() })
}

fn failed(failure: Failure) -> io::Error {
    io::Error::other(failure)
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|window| window == word)
}

/// The names in a directory, sorted, one per line.
pub fn directory(root: &Path, path: &str) -> Answer {
    let full = root.join(path);
    let names = std::fs::read_dir(&full).and_then(|entries| {
        let names = entries.take(MAX_NAMES as usize + 1).map(|entry| entry.map(|entry| entry.file_name()));
        let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
        if names.len() as u64 > MAX_NAMES {
            return Err(too_large(MAX_NAMES, "names"));
        }
        names.sort();
        Ok(names.iter().flat_map(|name| [name.as_encoded_bytes(), b"\n"].concat()).collect())
    });
    classify(&full, names)
}

/// The target of a symbolic link, as a line.
pub fn link(root: &Path, path: &str) -> Answer {
    let full = root.join(path);
    let target = std::fs::read_link(&full).map(|target| {
        let mut target = target.into_os_string().into_encoded_bytes();
        target.push(b'\n'); // so that one that was cut off does not look whole
        target
    });
    classify(&full, target)
}

fn answer(root: &Path, path: &str, read: impl FnOnce(File) -> io::Result<Vec<u8>>) -> Answer {
    let full = root.join(thread_self(root, path));
    classify(&full, open(root, path).and_then(|file| read(File::from(file))))
}

/// Opens a regular file for reading. Anything else (a pipe that would block, a device that masks the file) is
/// refused.
fn open(root: &Path, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let path = thread_self(root, path);
    // Below a host's root that is mounted elsewhere, absolute symbolic links must not leave it.
    let fd = match fs::open(root, flags | OFlags::DIRECTORY, Mode::empty()) {
        Ok(directory) => match fs::openat2(&directory, &path, flags, Mode::empty(), resolve(root)) {
            Err(Errno::NOSYS | Errno::PERM) => fs::open(root.join(&path), flags, Mode::empty())?,
            other => other?,
        },
        Err(error) => return Err(error.into()),
    };
    if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file; is it masked?"));
    }
    Ok(fd)
}

fn resolve(root: &Path) -> ResolveFlags {
    if root == Path::new("/proc") || root == Path::new("/sys") || root == Path::new("/") {
        ResolveFlags::empty()
    } else {
        ResolveFlags::IN_ROOT
    }
}

/// `thread-self` came with 3.17; before that the same directory has a longer name.
fn thread_self(root: &Path, path: &str) -> PathBuf {
    match path.strip_prefix("thread-self/") {
        Some(rest) if !root.join("thread-self").exists() => {
            let thread = rustix::thread::gettid();
            PathBuf::from(format!("self/task/{}/{rest}", thread.as_raw_nonzero()))
        }
        _ => PathBuf::from(path),
    }
}

fn classify(path: &Path, result: io::Result<Vec<u8>>) -> Answer {
    let path = path.display();
    match result {
        Ok(bytes) => Reading::Ok(bytes),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::NOENT | Errno::NOTDIR) => Reading::Absent(format!("{path} does not exist")),
            Some(Errno::ACCESS | Errno::PERM) => {
                Reading::Denied(format!("cannot read {path}: run as uid 0, or with CAP_DAC_READ_SEARCH"))
            }
            _ => Reading::Failed(super::failure(SystemCall::File, &error).within(path)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_time() -> io::Result<()> {
        Ok(())
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_and_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        fs::mknodat(fs::CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        for name in ["pipe", "directory"] {
            assert!(content(dir.path(), name).why().contains("not a regular file"), "{name}");
            assert!(lines(dir.path(), name, &["x".into()], &in_time).why().contains("not a regular file"), "{name}");
        }
        assert!(matches!(content(Path::new("/dev"), "null"), Reading::Failed(_)));
        assert!(matches!(content(dir.path(), "nothing"), Reading::Absent(_)));
        assert!(matches!(content(&dir.path().join("nowhere"), "nothing"), Reading::Absent(_)));
    }

    #[test]
    fn only_lines_with_a_word_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "one two\nthree\ntwo\n").unwrap();
        assert_eq!(lines(dir.path(), "f", &["two".into()], &in_time), Reading::Ok(b"one two\ntwo\n".to_vec()));
        std::fs::write(dir.path().join("f"), "one two\nthr").unwrap();
        let cut = lines(dir.path(), "f", &["two".into()], &in_time);
        assert!(matches!(cut.failure().map(Failure::root), Some(Failure::Malformed { .. })), "{cut:?}");
        std::fs::write(dir.path().join("f"), "").unwrap();
        let empty = lines(dir.path(), "f", &["two".into()], &in_time);
        assert!(matches!(empty.failure().map(Failure::root), Some(Failure::Hidden { .. })), "{empty:?}");
        std::fs::write(dir.path().join("modules"), "").unwrap();
        assert_eq!(lines(dir.path(), "modules", &["two".into()], &in_time), Reading::Ok(Vec::new()));
    }

    #[test]
    fn a_search_that_takes_too_long_was_not_answered() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "two\ntwo\n").unwrap();
        let not_answered = Failure::NotAnswered(crate::snapshot::Unanswered::InTime { milliseconds: 1 });
        let over = || Err(io::Error::other(not_answered.clone()));
        let read = lines(dir.path(), "f", &["two".into()], &over);
        assert_eq!(read.failure().map(Failure::root), Some(&not_answered), "{read:?}");
    }

    #[test]
    fn names_and_targets_are_lines() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../drivers/vmxnet3", dir.path().join("driver")).unwrap();
        std::fs::write(dir.path().join("b"), "").unwrap();
        assert_eq!(link(dir.path(), "driver"), Reading::Ok(b"../drivers/vmxnet3\n".to_vec()));
        assert_eq!(directory(dir.path(), ""), Reading::Ok(b"b\ndriver\n".to_vec()));
        assert!(matches!(link(dir.path(), "nothing"), Reading::Absent(_)));
        assert!(matches!(directory(dir.path(), "nothing"), Reading::Absent(_)));
    }

    #[test]
    fn absolute_links_stay_below_another_root() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("real"), "inside").unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("link")).unwrap();
        assert_eq!(content(dir.path(), "link"), Reading::Ok(b"inside".to_vec()));
    }

    #[test]
    fn a_file_beyond_the_limit_is_a_failure_not_a_cut() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("big")).unwrap();
        file.set_len(MAX_FILE + 1).unwrap();
        let failure = content(dir.path(), "big").failure().map(|failure| failure.root().clone());
        assert_eq!(failure, Some(Failure::TooLarge { limit: MAX_FILE, unit: "bytes".into() }));
        file.set_len(MAX_FILE).unwrap();
        assert!(content(dir.path(), "big").ok().is_some());
    }
}
