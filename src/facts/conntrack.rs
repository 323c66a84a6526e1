//! Connection tracking of one network namespace: table sizes, sysctls that verdicts need, and the kernel's per-CPU
//! counters. Filled by `read::conntrack` from `/proc/sys/net/netfilter` and `/proc/net/stat/nf_conntrack`, or ctnetlink
//! where that file is missing.

use std::collections::BTreeMap;

use super::{Failure, Reading, names};

names! {
    /// A live per-CPU counter of connection tracking: `struct ip_conntrack_stat`, 32 bits each.
    ///
    /// Retired members of that structure (`searched`, `new`, `ignore`, `delete`, `delete_list`) are not
    /// counters any more although the file still prints a 0 for them, so they have no name here.
    ConntrackCounter {
        /// Candidate NAT tuples that were already in use (before 4.9 also every successful lookup)
        Found = "found",
        /// Packets that belong to no connection and cannot start one
        Invalid = "invalid",
        /// Entries inserted by user space (before 4.13 every new connection)
        Insert = "insert",
        /// Entries that could not be inserted
        InsertFailed = "insert_failed",
        /// Packets dropped by connection tracking itself
        Drop = "drop",
        /// Entries evicted to make room
        EarlyDrop = "early_drop",
        /// Error packets that could not be handled
        Error = "error",
        /// Lookups restarted because the table changed meanwhile
        SearchRestart = "search_restart",
        /// Clashes resolved without losing a packet (5.10 and later)
        ClashResolve = "clash_resolve",
        /// Insertions refused because the hash chain was too long (5.15 and later)
        ChainTooLong = "chaintoolong",
        /// Expectations added after a new one was found
        ExpectNew = "expect_new",
        /// Expectations created
        ExpectCreate = "expect_create",
        /// Expectations deleted
        ExpectDelete = "expect_delete",
    }
}

/// Counters by name; a counter that this kernel does not have is missing.
pub(crate) type CounterRow = BTreeMap<ConntrackCounter, u64>;

/// One row of the per-CPU counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackCpu {
    /// CPU number; `None` if the row does not say.
    pub cpu: Option<u16>,
    /// As read these are the kernel's 32-bit values, which wrap; [`crate::monotonic`] extends them to 64 bits.
    pub counters: CounterRow,
}

/// Connection tracking of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// One row per possible CPU. Absent: nf_conntrack is not loaded.
    pub cpus: Reading<Vec<ConntrackCpu>>,
    /// Entries in the table (`nf_conntrack_count`).
    pub entries: Reading<u64>,
    /// Maximum number of entries (`nf_conntrack_max`); 0 means no limit.
    pub entries_limit: Reading<u64>,
    /// Buckets of the hash table, which all network namespaces share (`nf_conntrack_buckets`).
    pub buckets: Reading<u64>,
    /// `nf_conntrack_tcp_be_liberal`: not 0 if out-of-window TCP segments other than RSTs are not marked invalid.
    pub tcp_be_liberal: Reading<u64>,
    /// Seconds of silence after which the entry of an established TCP connection expires
    /// (`nf_conntrack_tcp_timeout_established`).
    pub tcp_timeout_established: Reading<u64>,
}

impl Conntrack {
    /// Counters summed over CPUs.
    pub fn totals(&self) -> Reading<CounterRow> {
        self.cpus.as_ref().map(|cpus| {
            let mut totals = CounterRow::new();
            for (counter, value) in cpus.iter().flat_map(|cpu| &cpu.counters) {
                *totals.entry(*counter).or_default() += value;
            }
            totals
        })
    }

    /// All fields `Failed` for this reason.
    pub fn unread(why: &Failure) -> Self {
        Self {
            cpus: Reading::Failed(why.clone()),
            entries: Reading::Failed(why.clone()),
            entries_limit: Reading::Failed(why.clone()),
            buckets: Reading::Failed(why.clone()),
            tcp_be_liberal: Reading::Failed(why.clone()),
            tcp_timeout_established: Reading::Failed(why.clone()),
        }
    }
}
