//! Who looks, from where, and when: what `meta.json` holds.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Paths, files};
use crate::capture::{BYTE_ORDER, FORMAT, Meta, cpu_list};
use crate::snapshot::{NetworkNamespace, Reading};

/// What can be told without opening a file: a tree may hang, and then so would whoever begins a look.
pub fn meta() -> Meta {
    Meta {
        format: FORMAT,
        natwatch_version: env!("CARGO_PKG_VERSION").into(),
        byte_order: BYTE_ORDER.into(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        captured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        online_cpus: None,
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        capabilities: capabilities(),
        network_namespace: NetworkNamespace::Unknown.name().into(),
        redacted: false,
    }
}

/// The rest, which stands in files: CPUs online and whose network namespace this is.
pub fn from_files(paths: &Paths) -> (Option<u32>, NetworkNamespace) {
    (online_cpus(&paths.sysfs), network_namespace(&paths.procfs))
}

fn online_cpus(sysfs: &Path) -> Option<u32> {
    let list = files::content(sysfs, "devices/system/cpu/online");
    let cpus = cpu_list(&String::from_utf8_lossy(list.ok()?))?;
    u32::try_from(cpus.len()).ok()
}

fn capabilities() -> Vec<String> {
    let effective = rustix::thread::capabilities(None).map(|sets| sets.effective).unwrap_or(CapabilitySet::empty());
    effective.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// Some sysctls exist only in the namespace that the kernel booted with; others exist in each.
fn network_namespace(procfs: &Path) -> NetworkNamespace {
    match (files::content(procfs, "sys/net/core/netdev_max_backlog"), files::content(procfs, "sys/net/core/somaxconn"))
    {
        (Reading::Ok(_), _) => NetworkNamespace::Initial,
        (Reading::Absent(_), Reading::Ok(_)) => NetworkNamespace::Other,
        _ => NetworkNamespace::Unknown,
    }
}
