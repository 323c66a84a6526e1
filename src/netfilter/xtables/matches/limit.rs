//! `limit`: a rate.
//!
//! `include/uapi/linux/netfilter/xt_limit.h`; `xt_limit.c`: `limit_mt`.

crate::netfilter::layout! {
    /// `struct xt_rateinfo`
    XtRateinfo = 8 {
        0 avg: u32 => plain, 4 burst: u32 => plain,
    }
}
