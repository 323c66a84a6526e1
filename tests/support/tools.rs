//! Programs that live tests use, and messages if one is missing or fails.

use std::process::{Command, Output};

/// Panics unless the test runs as root: a skipped live test would look like a passed one.
pub fn require_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "live tests make network namespaces and need root: run `make test-deps` once, then the tests as root"
    );
}

/// Panics unless `tool` can be started from `PATH`.
pub fn require(tool: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|dir| dir.join(tool).is_file());
    assert!(found, "live tests need the program `{tool}`: run `make test-deps`");
}

/// Runs a command of the test's own; panics with its stderr if it fails.
#[track_caller]
pub fn expect_success(command: &mut Command) -> String {
    let what = format!("{command:?}");
    checked(&what, command.output().unwrap_or_else(|e| panic!("{what}: {e}")))
}

/// The stdout of a finished command; panics with its stderr if it failed.
#[track_caller]
pub fn checked(what: &str, output: Output) -> String {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}: {errors}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
