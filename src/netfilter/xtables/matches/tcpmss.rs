//! `tcpmss`: the largest segment that a SYN announces.
//!
//! `include/uapi/linux/netfilter/xt_tcpmss.h`; `xt_tcpmss.c`: `tcpmss_mt`.

crate::netfilter::layout! {
    /// `struct xt_tcpmss_match_info`
    XtTcpmssMatchInfo = 6 {
        0 mss_min: u16 => plain, 2 mss_max: u16 => plain, 4 invert: u8 => plain,
    }
}
