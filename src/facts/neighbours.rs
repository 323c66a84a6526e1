//! Neighbour tables: `struct neigh_table` of ARP and of IPv6's neighbour discovery, each shared by all network namespaces.

use super::{Failure, Reading};

/// The table of each family: IPv4, IPv6. Absent: the kernel was built without IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbours(pub [Reading<NeighbourTable>; 2]);

/// One table, as any network namespace sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeighbourTable {
    /// Entries of all network namespaces (`ndt_config.ndtc_entries`), those included that do not count for the limit.
    pub entries: u32,
    /// Entries that count, beyond which none is added (`NDTA_THRESH3`, `neigh/default/gc_thresh3`).
    pub limit: u32,
    /// Entries that were refused since boot because the table was full (`ndt_stats.ndts_table_fulls`). Some kernels refuse without
    /// counting: of 6.1 it was seen. `None`: before Linux 4.3 they are not counted.
    pub refused: Option<u64>,
    /// How many of them since the reading before; `None`: there is none.
    pub refused_since: Option<u64>,
    /// Those of this network namespace. Read only while `entries` is near the limit; where it is not without those that are exempt,
    /// they may be of an earlier reading, since when no other was exempt.
    pub own: Reading<OwnNeighbours>,
}

/// Entries of this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OwnNeighbours {
    /// Those that count for the limit.
    pub counted: u32,
    /// Those that do not since Linux 5.0: permanent (`NUD_PERMANENT`) or learned by another program (`NTF_EXT_LEARNED`).
    pub exempt: u32,
}

impl Neighbours {
    /// Nothing of it was read.
    pub fn unread(why: &Failure) -> Self {
        Self([Reading::Failed(why.clone()), Reading::Failed(why.clone())])
    }
}

impl NeighbourTable {
    /// Whether this many entries are at least so much of the limit.
    pub fn is_filled_by(&self, entries: u32, ratio: f64) -> bool {
        f64::from(entries) >= f64::from(self.limit) * ratio
    }
}
