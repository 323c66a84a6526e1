//! `TTL`: sets the time to live.
//!
//! `include/uapi/linux/netfilter_ipv4/ipt_TTL.h`; `xt_HL.c`: `ttl_tg`.

crate::netfilter::layout! {
    /// `struct ipt_TTL_info`
    IptTtlInfo = 2 {
        0 mode: u8 => plain, 1 ttl: u8 => plain,
    }
}
