//! `statistic`: random or every nth packet.
//!
//! `include/uapi/linux/netfilter/xt_statistic.h`; `xt_statistic.c`: `statistic_mt`.

crate::netfilter::layout! {
    /// `struct xt_statistic_info`
    XtStatisticInfo = 16 {
        0 mode: u16 => plain, 2 flags: u16 => plain,
        /// `u.nth.every`, or `u.random.probability` of 2^31
        4 every: u32 => plain, 8 packet: u32 => plain, 12 count: u32 => plain,
    }
}
