//! A child process in a network namespace of its own, which vanishes with it.
//!
//! A process and not a thread: a process that has threads cannot enter a user namespace, and a kernel that never answers
//! can be left behind only by killing who asked.

use std::io::{self, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, set_parent_process_death_signal, waitpid};
use rustix::thread::{CapabilitySet, UnshareFlags, capabilities, unshare_unsafe};

/// What building in a network namespace takes; who has it all needs no user namespace.
const NEEDED: CapabilitySet = CapabilitySet::SYS_ADMIN.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::NET_RAW);

/// Runs `work` in a child and returns its bytes. The child is in a network namespace of its own, in a user namespace too if
/// privileges are missing; or `work` is told why it is not.
///
/// # Errors
/// Why there is no answer: no child could be made, it took longer than `patience` and was killed, or it died.
pub fn in_own_network(patience: Duration, work: impl FnOnce(Result<(), String>) -> Vec<u8>) -> Result<Vec<u8>, String> {
    let (mut answer, mut writer) = io::pipe().map_err(|error| format!("cannot make a pipe: {error}"))?;
    let parent = rustix::process::getpid();
    match fork()? {
        None => {
            drop(answer);
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            if rustix::process::getppid() == Some(parent)
                && let Ok(bytes) = catch_unwind(AssertUnwindSafe(|| work(own_network())))
            {
                let _ = writer.write_all(&bytes);
            }
            std::process::exit(0);
        }
        Some(child) => {
            drop(writer);
            let bytes = read_until(&mut answer, Instant::now() + patience);
            let _ = kill_process(child, Signal::KILL);
            reap(child);
            bytes
        }
    }
}

#[allow(unsafe_code, reason = "no safe interface forks")]
fn fork() -> Result<Option<Pid>, String> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if threads.as_ref().ok() != Some(&1) {
        return Err(format!("cannot make a process: this one has not one thread ({threads:?})"));
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
    let user = !has_all();
    let flags = if user { UnshareFlags::NEWUSER | UnshareFlags::NEWNET } else { UnshareFlags::NEWNET };
    // SAFETY: descriptors are not unshared, which is what the function is unsafe for.
    let result = unsafe { unshare_unsafe(flags) };
    let instead = "; CAP_SYS_ADMIN, CAP_NET_ADMIN and CAP_NET_RAW together would do without one";
    let kind = if user { "user namespaces" } else { "network namespaces" };
    let why = match result {
        Ok(()) if has_all() => return Ok(()),
        Ok(()) => {
            "a user namespace gives no capabilities here (an AppArmor profile, or another security module)".into()
        }
        // The call is older than any kernel that this runs on: whoever says that it is missing hides it.
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

/// Waits for a child that was killed; one that is stuck inside the kernel is left to itself.
fn reap(child: Pid) {
    let deadline = Instant::now() + Duration::from_secs(1);
    while matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(None) | Err(Errno::INTR)) && Instant::now() < deadline
    {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// What the child writes until it closes the pipe.
fn read_until(answer: &mut io::PipeReader, deadline: Instant) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(answer, PollFlags::IN)], Some(&timeout)) {
            Ok(0) => return Err("the experiment did not come to its end in time and was stopped".into()),
            Ok(_) => {}
            Err(Errno::INTR) => continue,
            Err(error) => return Err(format!("cannot wait for the experiment: {error}")),
        }
        match answer.read(&mut part) {
            Ok(0) if bytes.is_empty() => return Err("the experiment ended without an answer".into()),
            Ok(0) => return Ok(bytes),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(format!("cannot read what the experiment found: {error}")),
        }
    }
}
