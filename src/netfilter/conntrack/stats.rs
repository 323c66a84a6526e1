//! Conntrack counters: one message per CPU, with its number in `nfgenmsg.res_id`.
//!
//! `net/netfilter/nf_conntrack_netlink.c`: `ctnetlink_ct_stat_cpu_fill_info`, read in 5.4, 6.1, 6.12.

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET_STATS_CPU`; the responses have the same type.
pub const IPCTNL_MSG_CT_GET_STATS_CPU: u16 = 1 << 8 | 4;

crate::netfilter::attributes! {
    /// Counters of one CPU. Further attributes of kernels before 5.10 are unknown.
    CpuStats {
        /// Candidate NAT tuples that were already in use (`nf_conntrack_tuple_taken`)
        CTA_STATS_FOUND = 2 => found: Option<u32>,
        /// Packets that cannot be tracked
        CTA_STATS_INVALID = 4 => invalid: Option<u32>,
        /// Entries inserted into the table
        CTA_STATS_INSERT = 8 => insert: Option<u32>,
        /// Entries not inserted because of a clash
        CTA_STATS_INSERT_FAILED = 9 => insert_failed: Option<u32>,
        /// Packets dropped for lack of room or memory
        CTA_STATS_DROP = 10 => drop: Option<u32>,
        /// Entries evicted to make room
        CTA_STATS_EARLY_DROP = 11 => early_drop: Option<u32>,
        /// Malformed packets
        CTA_STATS_ERROR = 12 => error: Option<u32>,
        /// Lookups restarted because the table changed
        CTA_STATS_SEARCH_RESTART = 13 => search_restart: Option<u32>,
        /// Clashes resolved (since Linux 5.10)
        CTA_STATS_CLASH_RESOLVE = 14 => clash_resolve: Option<u32>,
        /// Entries not inserted because the hash chain was too long (since Linux 5.15)
        CTA_STATS_CHAIN_TOOLONG = 15 => chain_toolong: Option<u32>,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter};

    #[test]
    fn what_linux_6_18_wrote_is_written_again() {
        let attribute = |kind: u8| [8, 0, kind, 0, 0, 0, 0, kind]; // values edited to tell them apart
        let bytes = [2, 4, 8, 9, 10, 11, 12, 13, 14, 15].map(attribute).concat();
        let stats = CpuStats::parse(&bytes).expect("whole");
        assert_eq!((stats.insert_failed, stats.chain_toolong), (Some(9), Some(15)));
        assert_eq!(stats.layout, Default::default(), "nothing is left over");
        let mut out = MessageWriter::kernel();
        stats.emit(&mut out);
        assert_eq!(out.finish(), bytes);
    }
}
