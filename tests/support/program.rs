//! The program under test, run in any namespace as any user.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::netns::Netns;
use super::report::Report;
use super::tools::{expect_success, require};

/// Path of the program that cargo has built.
pub const NATWATCH: &str = env!("CARGO_BIN_EXE_natwatch");

/// Test namespaces are not the node's; these arguments have them judged nevertheless.
pub const HERE: [&str; 2] = ["--network-namespace", "current"];

/// How one run ended.
#[derive(Clone, Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    /// Runs a command to its end, whatever its exit code; panics if a signal killed it or if it panicked.
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        let code = output.status.code().unwrap_or_else(|| panic!("{command:?}: {}: {stderr}", output.status));
        assert!(!stderr.contains("panicked"), "{command:?}: {stderr}");
        let stdout = String::from_utf8(output.stdout).unwrap_or_else(|e| panic!("{command:?}: {e}"));
        Self { code, stdout, stderr }
    }

    /// Panics unless it ended with that code and wrote nothing to stderr.
    #[track_caller]
    pub fn expect(self, code: i32) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (code, ""), "{}", self.stdout);
        self.stdout
    }

    /// Stdout as JSON; panics unless it ended with that code and wrote nothing to stderr.
    #[track_caller]
    pub fn json(self, code: i32) -> Value {
        serde_json::from_str(&self.expect(code)).expect("a JSON document")
    }

    /// Stdout as a report; the exit code may be any.
    #[track_caller]
    pub fn report(&self) -> Report {
        let json = serde_json::from_str(&self.stdout);
        Report { code: self.code, json: json.unwrap_or_else(|e| panic!("{e} in {self:?}")) }
    }

    /// Panics unless it failed with that code, without stdout, and with one line on stderr that has all these words.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) {
        assert_eq!((self.code, self.stdout.as_str()), (code, ""), "{}", self.stderr);
        assert!(self.stderr.starts_with("natwatch: "), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "said once, in one line: {}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?}: {}", self.stderr);
        }
    }
}

/// Runs natwatch where the test runs.
#[track_caller]
pub fn natwatch(args: &[&str]) -> Run {
    Run::of(Command::new(NATWATCH).args(args).env_remove("NO_COLOR"))
}

/// Runs natwatch in a namespace.
#[track_caller]
pub fn natwatch_in(ns: &Netns, args: &[&str]) -> Run {
    natwatch_as(ns, &[NATWATCH], args)
}

/// Runs natwatch in a namespace through other programs, whose last argument it is: see [`command_as`].
#[track_caller]
pub fn natwatch_as(ns: &Netns, words: &[&str], args: &[&str]) -> Run {
    Run::of(command_as(ns, words).args(args))
}

/// The command that starts natwatch in a namespace through programs that change its identity or trace it, such as
/// `["setpriv", "--reuid=65534", NATWATCH]`.
#[track_caller]
pub fn command_as(ns: &Netns, words: &[&str]) -> Command {
    let (program, more) = words.split_first().expect("a program to run");
    require(program);
    let mut command = ns.command(program);
    command.args(more);
    command
}

/// A copy of the program that every user may execute, wherever the build directory is.
#[derive(Debug)]
pub struct PublicCopy {
    directory: TempDir,
}

impl PublicCopy {
    /// Copies the program.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let copy = Self { directory };
        // Copied by another process: a child that a test forks at this moment would inherit a descriptor open for
        // writing, and such a file cannot be executed (`ETXTBSY`).
        expect_success(Command::new("cp").arg(NATWATCH).arg(copy.path()));
        for path in [copy.directory.path().to_owned(), copy.path()] {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
        }
        copy
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("natwatch")
    }
}
