//! Reads files, directories and symlinks of procfs, sysfs and the host's root file system.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, FileType, FsWord, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags};
use rustix::io::{Errno, pread};
use rustix::process::{Resource, getrlimit};

use super::Paths;
use crate::capture::{Response, Root};
use crate::facts::{Failure, Reading, SystemCall};

/// Size limit, bytes, of a file that is read whole; `/proc/thread-self/net/stat/nf_conntrack` of 4096 CPUs has 640 KiB.
const MAX_FILE: u64 = 4 << 20;
/// Size limit, bytes, of a file that is searched for lines; kallsyms has 10 to 20 MiB.
const MAX_SEARCHED: u64 = 128 << 20;
/// Number of names in a directory.
const MAX_NAMES: u64 = 10_000;
/// Number of files kept open between readings; a node has some 25. With a low descriptor limit, a sixteenth of that.
const MAX_KEPT: u64 = 32;

/// The files of one thread, since `/proc/thread-self` differs by thread.
///
/// Kernel files stay open between readings, because opening costs more than reading: the kernel generates their
/// contents anew on each read from offset 0. Only a non-empty result from a kept descriptor counts. On any error
/// (`ENOENT`, `ENODEV`, `EIO`, because the object was removed) or an empty result, it is closed, the path is opened
/// anew, and that result counts.
#[derive(Debug)]
pub(crate) struct Files {
    paths: Paths,
    kept: BTreeMap<Root, HashMap<String, OwnedFd>>,
    /// How many more files may be kept open.
    room: u64,
    /// Whether the kernel has `/proc/thread-self` (since 3.17).
    thread_self: bool,
}

impl Files {
    /// Opens nothing yet.
    pub(crate) fn new(paths: Paths) -> Self {
        let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let thread_self = paths.root(Root::Procfs).join("thread-self").exists();
        Self { paths, kept: BTreeMap::new(), room: MAX_KEPT.min(descriptors / 16), thread_self }
    }

    /// Contents of a regular file.
    pub(crate) fn content(&mut self, root: Root, path: &str) -> Response {
        self.read(root, path, &mut |file| {
            let mut bytes = Vec::with_capacity(8 << 10); // enough for most, so that the second read is at the end
            file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_FILE {
                return Err(too_large(MAX_FILE, "bytes"));
            }
            Ok(bytes)
        })
    }

    /// The lines that contain any of `words`.
    pub(crate) fn lines(
        &mut self,
        root: Root,
        path: &str,
        words: &[String],
        in_time: &dyn Fn() -> io::Result<()>,
    ) -> Response {
        self.read(root, path, &mut |file| lines(file, path, words, in_time))
    }

    /// Names in a directory, sorted, one per line.
    pub(crate) fn directory(&self, root: Root, path: &str) -> Response {
        let full = self.paths.root(root).join(path);
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

    /// Target of a symlink, with a line feed.
    pub(crate) fn link(&self, root: Root, path: &str) -> Response {
        let full = self.paths.root(root).join(path);
        let target = std::fs::read_link(&full).map(|target| {
            let mut target = target.into_os_string().into_encoded_bytes();
            target.push(b'\n'); // so that a truncated one can be recognised
            target
        });
        classify(&full, target)
    }

    fn read(
        &mut self,
        root: Root,
        path: &str,
        read: &mut dyn FnMut(&mut FromStart<'_>) -> io::Result<Vec<u8>>,
    ) -> Response {
        let kept = self.kept.entry(root).or_default();
        if let Some(descriptor) = kept.get(path) {
            let mut file = FromStart { whole: whole_length(root, path), ..FromStart::of(descriptor) };
            match read(&mut file) {
                Ok(bytes) if file.offset > 0 => return Reading::Ok(bytes),
                _ => {
                    kept.remove(path);
                    self.room += 1;
                }
            }
        }
        let tree = self.paths.root(root);
        let place = if self.thread_self { PathBuf::from(path) } else { without_thread_self(path) };
        let bytes = open(tree, &place).and_then(|descriptor| {
            let mut file = FromStart::of(&descriptor);
            let bytes = read(&mut file)?;
            // An empty file would be opened anew anyway.
            if self.room > 0 && file.offset > 0 && stays_the_same(root, path, &descriptor) {
                self.room -= 1;
                kept.insert(path.to_owned(), descriptor);
            }
            Ok(bytes)
        });
        classify(&tree.join(path), bytes)
    }
}

/// Kernels before 3.17 lack `thread-self`; there the same directory has a longer name.
fn without_thread_self(path: &str) -> PathBuf {
    match path.strip_prefix("thread-self/") {
        Some(rest) => {
            let thread = rustix::thread::gettid();
            PathBuf::from(format!("self/task/{}/{rest}", thread.as_raw_nonzero()))
        }
        None => PathBuf::from(path),
    }
}

/// A read shorter than this, with a larger buffer, has returned all of a kernel file. Sysctls (`proc_sys_call_handler`)
/// and sysfs attributes (`sysfs_kf_seq_show`): any length. Lists below `net/`: half a page, because `seq_read_iter`
/// continues until its buffer of at least a page has no room for another of their short lines. A further read would
/// walk all sockets again to find the end.
fn whole_length(root: Root, path: &str) -> usize {
    match root {
        Root::Sysfs => usize::MAX,
        Root::Procfs if path.starts_with("sys/") => usize::MAX,
        Root::Procfs if path.starts_with("thread-self/net/") => 2048,
        Root::Procfs | Root::Rootfs => 0,
    }
}

/// Whether an open file stays the one at its path while it is readable: true for kernel file systems, except for sysfs
/// files of network devices, which move along when a device is renamed.
fn stays_the_same(root: Root, path: &str, file: &OwnedFd) -> bool {
    const SYSFS_MAGIC: FsWord = 0x6265_6572;
    let expected = match root {
        Root::Procfs => PROC_SUPER_MAGIC,
        Root::Sysfs => SYSFS_MAGIC,
        Root::Rootfs => return false,
    };
    !path.starts_with("class/") && fs::fstatfs(file).is_ok_and(|found| found.f_type == expected)
}

/// Reads a file from offset 0 with `pread`, independent of earlier reads.
struct FromStart<'f> {
    file: BorrowedFd<'f>,
    offset: u64,
    /// See [`whole_length`].
    whole: usize,
    /// Whether the end was reached.
    ended: bool,
}

impl<'f> FromStart<'f> {
    fn of(file: &'f OwnedFd) -> Self {
        Self { file: file.as_fd(), offset: 0, whole: 0, ended: false }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let length = pread(self.file, &mut *buffer, self.offset)?;
        self.ended = length <= self.whole && length < buffer.len();
        self.offset += length as u64;
        Ok(length)
    }
}

/// The lines of a file that contain any of `words`.
fn lines(
    file: &mut FromStart<'_>,
    path: &str,
    words: &[String],
    in_time: &dyn Fn() -> io::Result<()>,
) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let mut line = Vec::new();
    let mut searched = 0;
    let mut reader = BufReader::with_capacity(64 << 10, file);
    loop {
        line.clear();
        searched += reader.by_ref().take(MAX_FILE).read_until(b'\n', &mut line)? as u64;
        match line.last() {
            // Only the list of modules may be empty; other searched files always have lines.
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

/// Opens a regular file for reading. Other types (a FIFO would block, a device may mask the file) are rejected.
fn open(root: &Path, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = if is_our_own(root) {
        fs::open(root.join(path), flags, Mode::empty())?
    } else {
        // Absolute symlinks below a host root mounted elsewhere must not escape it.
        let directory = fs::open(root, flags | OFlags::DIRECTORY, Mode::empty())?;
        match fs::openat2(&directory, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
            Err(Errno::NOSYS | Errno::PERM) => fs::open(root.join(path), flags, Mode::empty())?,
            other => other?,
        }
    };
    if FileType::from_raw_mode(fs::fstat(&fd)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("not a regular file; is it masked?"));
    }
    Ok(fd)
}

fn is_our_own(root: &Path) -> bool {
    ["/proc", "/sys", "/"].map(Path::new).contains(&root)
}

fn classify(path: &Path, result: io::Result<Vec<u8>>) -> Response {
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
    use std::fs::File;

    use super::*;

    fn in_time() -> io::Result<()> {
        Ok(())
    }

    fn files(root: &Path) -> Files {
        Files::new(Paths { procfs: root.into(), sysfs: root.into(), rootfs: root.into() })
    }

    fn content(root: &Path, path: &str) -> Response {
        files(root).content(Root::Rootfs, path)
    }

    fn lines(root: &Path, path: &str, words: &[String], in_time: &dyn Fn() -> io::Result<()>) -> Response {
        files(root).lines(Root::Rootfs, path, words, in_time)
    }

    fn directory(root: &Path, path: &str) -> Response {
        files(root).directory(Root::Rootfs, path)
    }

    fn link(root: &Path, path: &str) -> Response {
        files(root).link(Root::Rootfs, path)
    }

    #[test]
    fn files_of_the_kernel_stay_open_until_what_they_belong_to_is_gone() {
        let mut files = files(Path::new("/proc"));
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
            let _ = ended.recv();
        });
        let path = format!("self/task/{}/comm", told.recv().unwrap());
        let read = |files: &mut Files| files.content(Root::Procfs, &path);
        let first = read(&mut files);
        assert!(first.ok().is_some_and(|name| name.ends_with(b"\n")), "{first:?}");
        let number = |files: &Files| files.kept[&Root::Procfs].get(&path).map(|file| format!("{file:?}"));
        let kept = number(&files);
        assert!(kept.is_some());
        assert_eq!((read(&mut files), number(&files)), (first, kept), "by the same descriptor");
        drop(end);
        thread.join().unwrap();
        // A thread is joined a moment before the kernel forgets it.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while read(&mut files).ok().is_some() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        assert!(matches!(read(&mut files), Reading::Absent(_)), "{:?}", read(&mut files));
        assert_eq!(number(&files), None);
    }

    #[test]
    fn a_large_file_is_read_whole_through_a_kept_descriptor() {
        let mut files = files(Path::new("/proc"));
        let words = ["Vm".to_owned(), "Threads".to_owned()];
        let search = |files: &mut Files| files.lines(Root::Procfs, "self/status", &words, &in_time);
        let names = |answer: &Response| {
            let text = String::from_utf8(answer.ok().unwrap().clone()).unwrap();
            text.lines().map(|line| line.split(':').next().unwrap().to_owned()).collect::<Vec<_>>()
        };
        let first = names(&search(&mut files));
        assert!(first.iter().any(|name| name == "Threads"), "{first:?}");
        assert_eq!(names(&search(&mut files)), first);
        assert_eq!(files.kept[&Root::Procfs].len(), 1);
    }

    #[test]
    fn what_is_no_file_of_the_kernels_is_opened_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut files = files(dir.path());
        for content in ["one", "two"] {
            let new = dir.path().join("new");
            std::fs::write(&new, content).unwrap();
            std::fs::rename(new, dir.path().join("file")).unwrap();
            assert_eq!(files.content(Root::Procfs, "file"), Reading::Ok(content.into()));
        }
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
        let not_answered = Failure::NotAnswered(crate::facts::Unanswered::InTime { milliseconds: 1 });
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
