//! Who looks, from where, and when: what `meta.json` holds.

use std::path::Path;

use rustix::thread::CapabilitySet;

use super::{Paths, files};
use crate::capture::{BYTE_ORDER, FORMAT, Meta};
use crate::snapshot::{NetworkNamespace, Reading};

pub fn meta(paths: &Paths) -> Meta {
    Meta {
        format: FORMAT,
        natwatch_version: env!("CARGO_PKG_VERSION").into(),
        byte_order: BYTE_ORDER.into(),
        hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        captured_at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        online_cpus: online_cpus(&paths.sysfs),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        capabilities: capabilities(),
        network_namespace: network_namespace(&paths.procfs).name().into(),
        redacted: false,
    }
}

/// A list like `0-3,8`.
fn online_cpus(sysfs: &Path) -> Option<u32> {
    let list = files::content(sysfs, "devices/system/cpu/online");
    let list = String::from_utf8_lossy(list.ok()?).trim().to_owned();
    list.split(',').try_fold(0u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
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
