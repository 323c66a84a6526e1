//! `cluster`: which node of a cluster a connection is for, by its hash.
//!
//! `include/uapi/linux/netfilter/xt_cluster.h`; `xt_cluster.c`: `xt_cluster_mt`.

crate::netfilter::layout! {
    /// `struct xt_cluster_match_info`
    XtClusterMatchInfo = 16 {
        0 total_nodes: u32 => plain, 4 node_mask: u32 => plain, 8 hash_seed: u32 => plain, 12 flags: u32 => plain,
    }
}
