//! `NFQUEUE`: hands the packet to user space.
//!
//! `include/uapi/linux/netfilter/xt_NFQUEUE.h`; `xt_NFQUEUE.c`: `nfqueue_tg`, `nfqueue_tg_v1`, `nfqueue_tg_v3`.

crate::netfilter::layout! {
    /// `struct xt_NFQ_info`
    XtNfqInfo = 2 {
        0 queuenum: u16 => plain,
    }
    /// `struct xt_NFQ_info_v1`
    XtNfqInfoV1 = 4 {
        0 queuenum: u16 => plain, 2 queues_total: u16 => plain,
    }
    /// `struct xt_NFQ_info_v2`, `struct xt_NFQ_info_v3`
    XtNfqInfoV3 = 6 {
        0 queuenum: u16 => plain, 2 queues_total: u16 => plain, 4 flags: u16 => plain,
    }
}
