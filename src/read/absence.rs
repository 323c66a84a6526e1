//! Absences that readers believe, and the witness of each.
//!
//! ENOENT is the errno of a system call, and a sandbox that hides files causes it too. So a missing file counts as
//! absent only if it is in this table and its witness, a file in the same place that every kernel has, can be read; any
//! other missing file is `Failure::Hidden`. For netlink and legacy tables the kernel's own response counts; see
//! `Node::try_ask`.

/// A believed absence.
#[derive(Debug)]
pub struct Absence {
    /// Name of the request; with a trailing `/`, of all requests below.
    pub request: &'static str,
    /// Name of the file in procfs or sysfs that must be readable. `None`: no verdict depends on the absence.
    pub witness: Option<&'static str>,
    /// Whether the source itself is then absent (a module that is not loaded); else it counts as complete without the
    /// file.
    pub is_fact: bool,
}

const fn fact(request: &'static str, witness: &'static str) -> Absence {
    Absence { request, witness: Some(witness), is_fact: true }
}

const fn expected(request: &'static str, witness: &'static str) -> Absence {
    Absence { request, witness: Some(witness), is_fact: false }
}

/// The table.
pub(crate) const ABSENCES: &[Absence] = &[
    // nf_conntrack is not loaded.
    fact("procfs/thread-self/net/stat/nf_conntrack", "procfs/thread-self/net/stat/rt_cache"),
    fact("procfs/sys/net/netfilter/", "procfs/sys/net/core/somaxconn"),
    // ip_tables, ip6_tables are not loaded.
    fact("procfs/thread-self/net/ip_tables_names", "procfs/thread-self/net/stat/rt_cache"),
    fact("procfs/thread-self/net/ip6_tables_names", "procfs/thread-self/net/stat/rt_cache"),
    // IPVS is not loaded.
    expected("procfs/thread-self/net/ip_vs", "procfs/thread-self/net/stat/rt_cache"),
    // br_netfilter is not loaded.
    expected("procfs/sys/net/bridge/", "procfs/sys/net/core/somaxconn"),
    // IPv6 is off.
    expected("procfs/thread-self/net/snmp6", "procfs/thread-self/net/snmp"),
    expected("procfs/thread-self/net/udp6", "procfs/thread-self/net/udp"),
    // The kernel has no loadable modules.
    expected("procfs/modules", "procfs/version"),
    // Traces of a module: where one is missing, the next is checked.
    expected("sysfs/module/", "procfs/version"),
    Absence { request: "rootfs/lib/modules/", witness: None, is_fact: false },
    expected("procfs/kallsyms", "procfs/version"),
    // Ubuntu only.
    expected("procfs/version_signature", "procfs/version"),
    // The kernel has no live patching.
    expected("sysfs/kernel/livepatch.list", "sysfs/kernel/uevent_seqnum"),
    // For display only.
    Absence { request: "rootfs/etc/os-release", witness: None, is_fact: false },
    Absence { request: "rootfs/usr/lib/os-release", witness: None, is_fact: false },
    // Without it rows have no CPU number, and are not checked for completeness.
    Absence { request: "sysfs/devices/system/cpu/possible", witness: None, is_fact: false },
    // Virtual devices have no driver; the reader checks that sysfs shows the right device.
    Absence { request: "sysfs/class/net/", witness: None, is_fact: false },
];

/// The table's entry for a request, by name; `None`: its absence is not believed.
pub fn believed(request: &str) -> Option<&'static Absence> {
    ABSENCES.iter().find(|absence| match absence.request.strip_suffix('/') {
        Some(_) => request.starts_with(absence.request),
        None => request == absence.request,
    })
}
