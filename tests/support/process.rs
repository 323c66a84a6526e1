//! Programs that run during a test.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::netns::Netns;
use super::wait::{PATIENCE, eventually};

/// A started program: killed on drop, its output kept in files and shown if the test panics.
///
/// Files instead of pipes, so that it never blocks on a reader.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    stdout: NamedTempFile,
    stderr: NamedTempFile,
    exited: Option<ExitStatus>,
}

impl Daemon {
    /// Starts `command`, for example one made by [`Netns::command`].
    pub fn start(mut command: Command) -> Self {
        let stdout = NamedTempFile::new().expect("a file for stdout");
        let stderr = NamedTempFile::new().expect("a file for stderr");
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.reopen().expect("stdout"))
            .stderr(stderr.reopen().expect("stderr"))
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {command:?}: {e}"));
        Self { child, stdout, stderr, exited: None }
    }

    /// The process id; in a namespace it is the program's own, not that of `ip`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        text_of(&self.stdout)
    }

    /// What it has written to stderr so far.
    pub fn stderr(&self) -> String {
        text_of(&self.stderr)
    }

    /// The status if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.exited.is_none() {
            self.exited = self.child.try_wait().expect("waiting for a child");
        }
        self.exited
    }

    /// Sends a signal, such as `Signal::TERM`. Panics if the program has ended already.
    pub fn signal(&mut self, signal: Signal) {
        assert_eq!(self.status(), None, "it has ended: {}", self.stderr());
        kill_process(Pid::from_child(&self.child), signal).expect("a signal to a child");
    }

    /// Waits until it ends; panics if it still runs after `deadline`.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, || self.status().ok_or("the program still runs"))
    }

    /// Waits until `TCP 127.0.0.1:port` in `ns` accepts; panics at once if the program ends.
    pub fn wait_listening(&mut self, ns: &Netns, port: u16) {
        eventually(PATIENCE, || {
            let connected = ns.enter(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
            if connected.is_err() {
                assert_eq!(self.status(), None, "it has ended: {}", self.stderr());
            }
            connected
        });
    }

    /// Waits until stderr contains `needle` and returns all of it.
    pub fn wait_stderr(&mut self, needle: &str) -> String {
        eventually(PATIENCE, || {
            let text = self.stderr();
            if text.contains(needle) {
                return Ok(text);
            }
            assert_eq!(self.status(), None, "it ended without {needle:?}: {text}");
            Err(format!("no {needle:?} in {text:?}"))
        })
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("stdout:\n{}\nstderr:\n{}", self.stdout(), self.stderr());
        }
    }
}

fn text_of(file: &NamedTempFile) -> String {
    let bytes = fs::read(file.path()).expect("the program's output");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A TCP port that nothing uses in a namespace of the test's own.
///
/// It lies below the ephemeral ports and is handed out once. Binding port 0 to find one would not do: a process that
/// another test starts at that moment holds a copy of the listener until it executes its program.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
