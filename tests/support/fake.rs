//! Substitutes for procfs, sysfs or a root file system: real files, copied on request.
//!
//! natwatch resolves paths below the given root, so symlinks out of the tree would be broken.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use tempfile::TempDir;

use super::netns::Netns;

/// Files of procfs that natwatch reads besides those of connection tracking.
const ORDINARY: &[&str] = &[
    "version",
    "sys/kernel/osrelease",
    "sys/kernel/version",
    "thread-self/net/snmp",
    "thread-self/net/snmp6",
    "thread-self/net/netstat",
];
/// Files that every kernel has, next to those of a module.
pub const NEIGHBOURS: &[&str] = &[
    "thread-self/net/stat/rt_cache",
    "thread-self/net/udp",
    "sys/net/core/somaxconn",
    "sys/net/ipv4/ip_local_port_range",
    "sys/net/ipv4/tcp_fwmark_accept",
];
/// The sysctls of the connection tracking module.
pub const CONNTRACK_SYSCTLS: &[&str] = &[
    "sys/net/netfilter/nf_conntrack_count",
    "sys/net/netfilter/nf_conntrack_max",
    "sys/net/netfilter/nf_conntrack_buckets",
    "sys/net/netfilter/nf_conntrack_tcp_be_liberal",
    "sys/net/netfilter/nf_conntrack_tcp_timeout_established",
];

/// A tree that every user may read.
#[derive(Debug)]
pub struct Tree {
    directory: TempDir,
}

impl Tree {
    /// An empty tree.
    pub fn empty() -> Self {
        let tree = Self { directory: tempfile::tempdir().expect("a directory") };
        open_to_all(tree.directory.path(), 0o755);
        tree
    }

    /// A procfs as `ns` sees it, without anything of connection tracking.
    pub fn procfs(ns: &Netns) -> Self {
        let tree = Self::empty();
        tree.copy_proc(ns, ORDINARY);
        tree
    }

    /// Adds real files of procfs.
    pub fn copy_proc(&self, ns: &Netns, paths: &[&str]) {
        for path in paths {
            let real = format!("/proc/{path}");
            let content = ns.enter(|| fs::read(&real)).unwrap_or_else(|e| panic!("{real}: {e}"));
            self.write(path, &content);
        }
    }

    /// Adds or replaces a file.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let full = self.directory.path().join(path);
        self.directories(Path::new(path).parent().expect("a file in the tree"));
        fs::write(&full, content).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
        open_to_all(&full, 0o444);
    }

    /// Adds a directory and those above it.
    pub fn directories(&self, path: impl AsRef<Path>) {
        let mut full = self.directory.path().to_owned();
        for part in path.as_ref() {
            full.push(part);
            if !full.exists() {
                fs::create_dir(&full).unwrap_or_else(|e| panic!("{}: {e}", full.display()));
                open_to_all(&full, 0o755);
            }
        }
    }

    /// Removes a file.
    pub fn remove(&self, path: &str) {
        fs::remove_file(self.directory.path().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    /// Its root.
    pub fn path(&self) -> &str {
        self.directory.path().to_str().expect("a UTF-8 path")
    }
}

/// Sets the mode whatever the umask is.
fn open_to_all(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}
