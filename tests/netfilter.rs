//! What kernels have written is written again byte for byte from what was made of it.

#![allow(clippy::disallowed_types, reason = "its support runs the standard tools")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::capture::walk;
use support::round_trip::round_trips;

#[test]
fn what_kernels_wrote_is_written_again() {
    let mut count = 0;
    let dirs = std::env::var("CORPUS").unwrap_or("tests/fixtures".into());
    let mut files: Vec<PathBuf> = Vec::new();
    walk(Path::new(&dirs), &mut files);
    for path in files {
        let bytes = fs::read(&path).expect("a file");
        count += round_trips(&path.to_string_lossy(), &bytes).unwrap_or(0);
    }
    println!("{count} messages");
    assert!(count > 100, "{count} messages");
}
