//! What a program asks of the kernel, as strace writes it down.

use std::fs;
use std::time::Duration;

use tempfile::NamedTempFile;

use super::tools::require;
use super::wait::eventually;

/// strace slows a program down and writes the end of its log after the program's own end.
const LOG_PATIENCE: Duration = Duration::from_secs(60);

/// A log that strace writes.
#[derive(Debug)]
pub struct Strace {
    log: NamedTempFile,
    filter: String,
}

impl Strace {
    /// All system calls.
    pub fn all() -> Self {
        Self::of("all")
    }

    /// Only these, comma-separated.
    pub fn of(calls: &str) -> Self {
        require("strace");
        Self { log: NamedTempFile::new().expect("a file for strace"), filter: format!("trace={calls}") }
    }

    /// The words before the program's name. With `-D` the tracer is not the parent: pid, exit code and signals are
    /// the program's own, and it is not left behind when it is killed.
    pub fn words(&self) -> Vec<&str> {
        let path = self.log.path().to_str().expect("a UTF-8 path");
        // -v: whole messages; -x: bytes that are no text; -yy: what descriptors are; -s: whole netlink requests
        vec!["strace", "-D", "-f", "-v", "-x", "-yy", "-s", "256", "-e", &self.filter, "-e", "signal=none", "-o", path]
    }

    /// All calls, once the first program traced has ended.
    pub fn calls(&self) -> Vec<Call> {
        let text = eventually(LOG_PATIENCE, || {
            let text = fs::read(self.log.path()).map_err(|e| e.to_string())?;
            let text = String::from_utf8_lossy(&text).into_owned();
            let first = text.split_whitespace().next().unwrap_or_default().to_owned();
            let last = text.lines().rev().find(|line| line.split_whitespace().next() == Some(&first));
            let ended = last.is_some_and(|line| line.contains("+++ ") && text.ends_with('\n'));
            if ended { Ok(text) } else { Err(format!("the program {first} still runs: {last:?}")) }
        });
        text.lines().filter_map(call).collect()
    }
}

/// One system call, or the first half of one that another thread's call interrupts in the log.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    /// Everything after the opening parenthesis.
    pub rest: String,
}

impl Call {
    /// Whether it is one of these.
    pub fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }

    /// Whether its arguments contain this.
    pub fn has(&self, text: &str) -> bool {
        self.rest.contains(text)
    }
}

/// `PID name(arguments…`; the second half of an interrupted call and notes about threads are none.
fn call(line: &str) -> Option<Call> {
    let (_, line) = line.split_once(char::is_whitespace)?;
    let line = line.trim_start();
    if line.starts_with(['<', '+', '-']) {
        return None;
    }
    let (name, rest) = line.split_once('(')?;
    Some(Call { name: name.to_owned(), rest: rest.to_owned() })
}
