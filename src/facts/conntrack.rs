//! Connection tracking: its table, and what it counts.

use std::collections::BTreeMap;

use super::{Failure, Reading, names};

names! {
    /// A live per-CPU counter of connection tracking: `struct ip_conntrack_stat`, 32 bits each.
    ///
    /// Retired members of that structure (`searched`, `new`, `ignore`, `delete`, `delete_list`) are not
    /// counters any more although the file still prints a 0 for them, so they have no name here.
    ConntrackCounter {
        /// Candidate NAT tuples that were taken already (before 4.9 also every successful look-up)
        Found = "found",
        /// Packets that belong to no connection and cannot start one
        Invalid = "invalid",
        /// Entries injected by user space (before 4.13 every new connection)
        Insert = "insert",
        /// Entries that could not be inserted
        InsertFailed = "insert_failed",
        /// Packets dropped by connection tracking itself
        Drop = "drop",
        /// Entries evicted to make room
        EarlyDrop = "early_drop",
        /// Error packets that could not be handled
        Error = "error",
        /// Look-ups restarted because the table changed under them
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

/// Counters by name; a counter that this kernel does not have is not in the map.
pub(crate) type CounterRow = BTreeMap<ConntrackCounter, u64>;

/// One CPU's share of the counters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConntrackCpu {
    /// CPU number; `None` where it is not known which one it is.
    pub cpu: Option<u16>,
    /// One reading gives the kernel's values, which wrap at 2³²; [`crate::monotonic`] undoes the wraps.
    pub counters: CounterRow,
}

/// Connection tracking of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// One row per possible CPU. Absent: the module is not loaded.
    pub cpus: Reading<Vec<ConntrackCpu>>,
    /// Entries in the table (`nf_conntrack_count`).
    pub entries: Reading<u64>,
    /// Most entries that the table takes (`nf_conntrack_max`); 0 is no limit.
    pub entries_limit: Reading<u64>,
    /// Buckets of the hash table that all namespaces share (`nf_conntrack_buckets`).
    pub buckets: Reading<u64>,
    /// Out-of-window TCP segments are not invalid, but for RSTs (`nf_conntrack_tcp_be_liberal`).
    pub tcp_be_liberal: Reading<u64>,
    /// Seconds without a packet after which the entry of an established connection is lost
    /// (`nf_conntrack_tcp_timeout_established`).
    pub tcp_timeout_established: Reading<u64>,
}

impl Conntrack {
    /// The counters, summed over CPUs.
    pub fn totals(&self) -> Reading<CounterRow> {
        self.cpus.as_ref().map(|cpus| {
            let mut totals = CounterRow::new();
            for (counter, value) in cpus.iter().flat_map(|cpu| &cpu.counters) {
                *totals.entry(*counter).or_default() += value;
            }
            totals
        })
    }

    /// Nothing of it was read.
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
