//! Files, directories and symbolic links of procfs, sysfs and the host's root file system.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::capture::Answer;
use crate::snapshot::Reading;

/// Largest file that is kept whole; `/proc/thread-self/net/stat/nf_conntrack` of 4096 CPUs has 640 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Largest file that is searched for lines; kallsyms has 10 to 20 MiB.
const MAX_SEARCHED: u64 = 128 << 20;
/// Names kept of a directory.
const MAX_NAMES: usize = 10_000;

/// The content of a regular file.
pub fn content(root: &Path, path: &str) -> Answer {
    answer(root, path, |file| {
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(io::Error::other(format!("larger than {MAX_FILE} bytes")));
        }
        Ok(bytes)
    })
}

/// The lines that contain one of `words`.
pub fn lines(root: &Path, path: &str, words: &[String], deadline: Instant) -> Answer {
    answer(root, path, |file| {
        let mut kept = Vec::new();
        let mut line = Vec::new();
        let mut searched = 0;
        let mut reader = BufReader::with_capacity(64 << 10, file);
        loop {
            line.clear();
            searched += reader.by_ref().take(MAX_FILE).read_until(b'\n', &mut line)? as u64;
            if line.is_empty() {
                return Ok(kept);
            }
            if words.iter().any(|word| contains(&line, word.as_bytes())) {
                kept.extend_from_slice(&line);
            }
            if searched > MAX_SEARCHED {
                return Err(io::Error::other(format!("larger than {MAX_SEARCHED} bytes")));
            }
            if Instant::now() >= deadline {
                return Err(io::Error::other("the deadline passed while it was searched"));
            }
        }
    })
}

fn contains(line: &[u8], word: &[u8]) -> bool {
    line.windows(word.len()).any(|window| window == word)
}

/// The names in a directory, sorted, one per line.
pub fn directory(root: &Path, path: &str) -> Answer {
    let full = root.join(path);
    let names = std::fs::read_dir(&full).and_then(|entries| {
        let names = entries.take(MAX_NAMES + 1).map(|entry| entry.map(|entry| entry.file_name()));
        let mut names: Vec<_> = names.collect::<io::Result<_>>()?;
        if names.len() > MAX_NAMES {
            return Err(io::Error::other(format!("more than {MAX_NAMES} names")));
        }
        names.sort();
        Ok(names.iter().flat_map(|name| [name.as_encoded_bytes(), b"\n"].concat()).collect())
    });
    classify(&full, names)
}

/// The target of a symbolic link.
pub fn link(root: &Path, path: &str) -> Answer {
    let full = root.join(path);
    let target = std::fs::read_link(&full).map(|target| target.into_os_string().into_encoded_bytes());
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
            _ => Reading::Failed(super::failure("read", &error).within(path)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn what_is_not_a_regular_file_is_refused_and_never_blocks() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("directory")).unwrap();
        fs::mknodat(fs::CWD, dir.path().join("pipe"), FileType::Fifo, Mode::RUSR, 0).unwrap();
        for name in ["pipe", "directory"] {
            assert!(content(dir.path(), name).why().contains("not a regular file"), "{name}");
            assert!(lines(dir.path(), name, &["x".into()], soon()).why().contains("not a regular file"), "{name}");
        }
        assert!(matches!(content(Path::new("/dev"), "null"), Reading::Failed(_)));
        assert!(matches!(content(dir.path(), "nothing"), Reading::Absent(_)));
        assert!(matches!(content(&dir.path().join("nowhere"), "nothing"), Reading::Absent(_)));
    }

    #[test]
    fn only_lines_with_a_word_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "one two\nthree\ntwo").unwrap();
        assert_eq!(lines(dir.path(), "f", &["two".into()], soon()), Reading::Ok(b"one two\ntwo".to_vec()));
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
        assert!(content(dir.path(), "big").why().contains("larger than"));
        file.set_len(MAX_FILE).unwrap();
        assert!(content(dir.path(), "big").ok().is_some());
    }
}
