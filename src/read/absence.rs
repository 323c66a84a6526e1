//! What readers believe is not there, and what else shows that.
//!
//! That a file is missing is an errno of a system call, which a sandbox gives too. So it counts only for the files in this
//! table, and only while its witness, a file beside it that every kernel has, is there. Everything else that is missing is
//! hidden. Of netlink and of legacy tables the kernel's own word counts; see `Node::try_ask`.

/// An absence that is believed.
#[derive(Debug)]
pub struct Absence {
    /// Name of the request, or its beginning.
    pub request: &'static str,
    /// Name of the file below procfs or sysfs that has to be there meanwhile. `None`: nothing rests on it.
    pub witness: Option<&'static str>,
    /// Whether the source is absent then: a module that is not loaded. If not, it is complete without it.
    pub is_fact: bool,
}

const fn fact(request: &'static str, witness: &'static str) -> Absence {
    Absence { request, witness: Some(witness), is_fact: true }
}

const fn expected(request: &'static str, witness: &'static str) -> Absence {
    Absence { request, witness: Some(witness), is_fact: false }
}

/// All of them.
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
    // The kernel can load no modules.
    expected("procfs/modules", "procfs/version"),
    // Signs of a module: what is not found by one is looked for by the next.
    expected("sysfs/module/", "procfs/version"),
    Absence { request: "rootfs/lib/modules/", witness: None, is_fact: false },
    expected("procfs/kallsyms", "procfs/version"),
    // Only Ubuntu has it.
    expected("procfs/version_signature", "procfs/version"),
    // The kernel can load no live patches.
    expected("sysfs/kernel/livepatch.list", "sysfs/kernel/uevent_seqnum"),
    // Names for people.
    Absence { request: "rootfs/etc/os-release", witness: None, is_fact: false },
    Absence { request: "rootfs/usr/lib/os-release", witness: None, is_fact: false },
    // Where it is missing the lines have no numbers, and are not counted.
    Absence { request: "sysfs/devices/system/cpu/possible", witness: None, is_fact: false },
    // A virtual device has no driver; the reader makes sure that sysfs shows this device.
    Absence { request: "sysfs/class/net/", witness: None, is_fact: false },
];

/// The entry for a request.
pub fn believed(request: &str) -> Option<&'static Absence> {
    ABSENCES.iter().find(|absence| match absence.request.strip_suffix('/') {
        Some(_) => request.starts_with(absence.request),
        None => request == absence.request,
    })
}
