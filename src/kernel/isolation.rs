//! A child process in a network namespace of its own, which is destroyed with it. Used by `probe`.
//!
//! A process rather than a thread, because a multi-threaded process cannot enter a user namespace, and because only
//! killing the caller ends a system call that never returns.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::linux::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe};

use super::readable::readable;

/// Capabilities needed to build in a network namespace; a process with all of them needs no user namespace.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::NET_RAW);

/// Maximum number of bytes that a child may write.
const MAX_ANSWER: usize = 1 << 20;

/// A running child.
#[derive(Debug)]
pub(crate) struct Child {
    process: Pid,
    answer: PipeReader,
    said: Vec<u8>,
}

/// The child's side.
#[derive(Debug)]
pub(crate) struct Inside {
    answer: PipeWriter,
}

impl Inside {
    /// Enters a new network namespace, and a user namespace if capabilities are missing.
    ///
    /// # Errors
    /// Why the child is still in the node's namespace.
    pub(crate) fn enter_own_network(&self) -> Result<(), String> {
        own_network()
    }

    /// Writes a line to the parent. If the parent has ended, this process gets killed.
    pub(crate) fn say(&mut self, line: &str) {
        let _ = self.answer.write_all(format!("{line}\n").as_bytes());
    }
}

/// Runs `work` in a child. The process must be single-threaded.
///
/// # Errors
/// The child could not be created.
pub(crate) fn spawn(work: impl FnOnce(&mut Inside)) -> Result<Child, String> {
    let (answer, writer) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    match fork()? {
        None => {
            drop(answer);
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let mut inside = Inside { answer: writer };
            let _ = catch_unwind(AssertUnwindSafe(|| work(&mut inside)));
            std::process::exit(0);
        }
        Some(process) => Ok(Child { process, answer, said: Vec::new() }),
    }
}

impl Child {
    /// What the child has written until it ended or the deadline passed; `true`: it has ended.
    pub(crate) fn wait(&mut self, deadline: Instant) -> (&[u8], bool) {
        let mut part = [0; 4096];
        while self.said.len() < MAX_ANSWER {
            match readable(&self.answer, deadline) {
                Ok(false) => return (&self.said, false),
                Ok(true) => match self.answer.read(&mut part) {
                    Ok(0) => break,
                    Ok(length) => self.said.extend_from_slice(&part[..length]),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => break,
                },
                Err(_) => break,
            }
        }
        (&self.said, true)
    }
}

impl Drop for Child {
    /// Kills the child and waits until it and the last user of its namespace have ended, unless it is stuck inside the
    /// kernel.
    fn drop(&mut self) {
        let _ = kill_process(self.process, Signal::KILL);
        let deadline = Instant::now() + Duration::from_secs(1);
        while matches!(waitpid(Some(self.process), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR))
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[allow(unsafe_code, reason = "no safe interface forks")]
fn fork() -> Result<Option<Pid>, String> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    match threads {
        Ok(1) => {}
        Ok(threads) => return Err(format!("cannot make a process: this one has {threads} threads")),
        Err(error) => return Err(format!("cannot make a process: /proc/self/task: {error}")),
    }
    // SAFETY: the process has one thread, so the child's memory is whole: no lock is held by a thread that it lacks.
    match unsafe { libc::fork() } {
        -1 => Err(format!("cannot make a process: {}", io::Error::last_os_error())),
        child => Ok(Pid::from_raw(child)),
    }
}

#[allow(unsafe_code, reason = "rustix calls all of unshare unsafe because of one flag")]
fn own_network() -> Result<(), String> {
    let has_all = || capabilities(None).is_ok_and(|sets| sets.effective.contains(NEEDED));
    let before = namespace()?;
    let user = !has_all();
    let flags = if user { UnshareFlags::NEWUSER | UnshareFlags::NEWNET } else { UnshareFlags::NEWNET };
    // SAFETY: descriptors are not unshared, which is what the function is unsafe for.
    let result = unsafe { unshare_unsafe(flags) };
    let instead = "; CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW together would do without one";
    let kind = if user { "user namespaces" } else { "network namespaces" };
    let why = match result {
        // A seccomp filter may report success without an effect.
        Ok(()) if namespace()? == before => format!("{kind} are forbidden here (unshare does nothing)"),
        Ok(()) if has_all() => return Ok(()),
        Ok(()) => {
            "a user namespace gives no capabilities here (an AppArmor profile, or another security module)".into()
        }
        // Every supported kernel has this call, so ENOSYS comes from a filter.
        Err(Errno::PERM | Errno::ACCESS | Errno::NOSYS) => {
            format!(
                "{kind} are forbidden here (a seccomp profile, RestrictNamespaces, kernel.unprivileged_userns_clone)"
            )
        }
        Err(Errno::NOSPC | Errno::USERS) => {
            "no more namespaces are allowed (user.max_user_namespaces, user.max_net_namespaces)".into()
        }
        Err(Errno::INVAL) => format!("this kernel has no {kind}"),
        Err(error) => format!("unshare failed: {error}"),
    };
    Err(format!("no network namespace of its own: {why}{}", if user { instead } else { "" }))
}

/// Identity (device and inode) of this thread's network namespace.
fn namespace() -> Result<(u64, u64), String> {
    let path = "/proc/thread-self/ns/net";
    let metadata = std::fs::metadata(path);
    metadata
        .map(|it| (it.st_dev(), it.st_ino()))
        .map_err(|error| format!("cannot tell namespaces apart: {path}: {error}"))
}
