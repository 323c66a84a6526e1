//! `ttl`: the time to live.
//!
//! `include/uapi/linux/netfilter_ipv4/ipt_ttl.h`; `xt_hl.c`: `ttl_mt`.

crate::netfilter::layout! {
    /// `struct ipt_ttl_info`
    IptTtlInfo = 2 {
        0 mode: u8 => plain, 1 ttl: u8 => plain,
    }
}
