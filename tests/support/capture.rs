//! A capture that a test may modify.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use super::netns::Netns;
use super::program::{Run, natwatch, natwatch_in};

/// The recorded nodes of `tests/nodes`, one text file each, sorted.
pub fn recorded_nodes() -> Vec<PathBuf> {
    let nodes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes");
    let files = fs::read_dir(nodes).expect("nodes").map(|entry| entry.expect("an entry").path());
    let mut texts: Vec<PathBuf> = files.filter(|path| path.extension().is_some_and(|end| end == "txt")).collect();
    texts.sort();
    texts
}

/// A capture that a test may modify.
#[derive(Debug)]
pub struct CaptureDir {
    temporary: TempDir,
}

impl CaptureDir {
    /// Runs `natwatch capture` in `ns`; the copy claims that the namespace is the node's, so that it gets verdicts.
    pub fn of(ns: &Netns, flags: &[&str]) -> Self {
        let capture = Self { temporary: TempDir::new().expect("a directory") };
        let path = capture.path();
        let args = [&["capture", path.to_str().expect("UTF-8")], flags].concat();
        natwatch_in(ns, &args).expect(0);
        capture.edit_meta(|meta| meta["network_namespace"] = "initial".into());
        capture
    }

    /// The directory.
    pub fn path(&self) -> PathBuf {
        self.temporary.path().join("capture")
    }

    /// An independent copy.
    pub fn copy(&self) -> Self {
        let temporary = TempDir::new().expect("a directory");
        let status = Command::new("cp").arg("-a").arg(self.path()).arg(temporary.path()).status();
        assert!(status.expect("cp").success());
        Self { temporary }
    }

    /// Names of all recorded responses, sorted, without `meta.json`.
    pub fn answers(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(), &mut found);
        let root = self.path();
        let name = |path: &PathBuf| path.strip_prefix(&root).expect("below").to_str().expect("UTF-8").to_owned();
        let mut names: Vec<String> = found.iter().map(name).filter(|name| name != "meta.json").collect();
        names.sort();
        names
    }

    /// The bytes of one response.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Replaces or adds a response.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Removes a response.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    /// Modifies `meta.json`.
    pub fn edit_meta(&self, edit: impl FnOnce(&mut Value)) {
        let mut meta: Value = serde_json::from_slice(&self.read("meta.json")).expect("JSON");
        edit(&mut meta);
        self.write("meta.json", meta.to_string());
    }

    /// `natwatch check --from` this capture.
    #[track_caller]
    pub fn check(&self, args: &[&str]) -> Run {
        let path = self.path();
        natwatch(&[&["check", "--from", path.to_str().expect("UTF-8")], args].concat())
    }

    /// Sets the fill level of the conntrack table: entries, limit and buckets.
    pub fn conntrack(&self, entries: u64, limit: u64, buckets: u64) {
        for (name, value) in [("count", entries), ("max", limit), ("buckets", buckets)] {
            self.write(&format!("procfs/sys/net/netfilter/nf_conntrack_{name}"), format!("{value}\n"));
        }
    }
}

/// All files below a directory.
pub fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display())) {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found.push(path);
        }
    }
}
