//! Neighbour tables (`struct neigh_table`) of ARP and NDP; each is shared by all network namespaces. Filled by
//! `read::neighbours`.

use super::{Failure, Reading};

/// Tables by family (IPv4, IPv6). Absent: the kernel has no IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbours(pub [Reading<NeighbourTable>; 2]);

/// One table, the same seen from any network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourTable {
    /// Entries of all network namespaces (`ndt_config.ndtc_entries`), including those exempt from the limit.
    pub entries: u32,
    /// Limit on entries that are not exempt (`NDTA_THRESH3`, `neigh/default/gc_thresh3`).
    pub limit: u32,
    /// Entries refused since boot because the table was full (`ndt_stats.ndts_table_fulls`). Some kernels refuse
    /// without counting, as seen on 6.1. `None`: before Linux 4.3, which has no such counter.
    pub refused: Option<u64>,
    /// Entries refused since the previous reading; `None` if there was none.
    pub refused_since: Option<u64>,
    /// Entries of this network namespace, read only while `entries` is near the limit. If it is no longer near with
    /// exempt entries subtracted, the value may be that of an earlier reading since which no other entry became exempt.
    pub own: Reading<OwnNeighbours>,
}

/// Entries of this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnNeighbours {
    /// Entries that the limit applies to.
    pub counted: u32,
    /// Entries exempt since Linux 5.0: permanent (`NUD_PERMANENT`) or learned externally (`NTF_EXT_LEARNED`).
    pub exempt: u32,
}

impl Neighbours {
    /// Both tables `Failed` for this reason.
    pub fn unread(why: &Failure) -> Self {
        Self([Reading::Failed(why.clone()), Reading::Failed(why.clone())])
    }
}

impl NeighbourTable {
    /// Whether `entries` is at least this ratio of the limit.
    pub fn is_filled_by(&self, entries: u32, ratio: f64) -> bool {
        f64::from(entries) >= f64::from(self.limit) * ratio
    }
}
