//! `tos`: the type of service.
//!
//! `include/uapi/linux/netfilter/xt_dscp.h`; `xt_dscp.c`: `tos_mt`.

crate::netfilter::layout! {
    /// `struct xt_tos_match_info`
    XtTosMatchInfo = 3 {
        0 tos_mask: u8 => plain, 1 tos_value: u8 => plain, 2 invert: u8 => plain,
    }
}
