//! The environment of a reading, as recorded in `meta.json`: user, capabilities, time, network namespace.

use rustix::thread::CapabilitySet;

use super::Files;
use crate::capture::{BYTE_ORDER, FORMAT, Meta, Root};
use crate::facts::{NetworkNamespace, Reading};

/// What is known without opening a file, since a hanging file system would block the start of a reading.
pub fn without_files() -> Meta {
    Meta {
        format: FORMAT,
        natwatch_version: env!("CARGO_PKG_VERSION").into(),
        byte_order: BYTE_ORDER.into(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        captured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        capabilities: capabilities(),
        network_namespace: NetworkNamespace::Unknown.name().into(),
        redacted: false,
        boot_id: None,
    }
}

fn capabilities() -> Vec<String> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// The network namespace. Some sysctls exist only in the initial one, others in all.
pub(crate) fn network_namespace(files: &mut Files) -> NetworkNamespace {
    let mut sysctl = |name: &str| files.content(Root::Procfs, &format!("sys/net/core/{name}"));
    match (sysctl("netdev_max_backlog"), sysctl("somaxconn")) {
        (Reading::Ok(_), _) => NetworkNamespace::Initial,
        (Reading::Absent(_), Reading::Ok(_)) => NetworkNamespace::Other,
        _ => NetworkNamespace::Unknown,
    }
}
