//! `rateest`: an estimated rate.
//!
//! `include/uapi/linux/netfilter/xt_rateest.h`; `xt_rateest.c`: `xt_rateest_mt`.

crate::netfilter::layout! {
    /// `struct xt_rateest_match_info`
    XtRateestMatchInfo = 56 {
        0 name1: [u8; 16] => hidden, 16 name2: [u8; 16] => hidden, 32 flags: u16 => plain, 34 mode: u16 => plain,
        36 bps1: u32 => plain, 40 pps1: u32 => plain, 44 bps2: u32 => plain, 48 pps2: u32 => plain,
    }
}
