//! `TOS`: sets the type of service.
//!
//! `include/uapi/linux/netfilter/xt_DSCP.h`; `xt_DSCP.c`: `tos_tg`.

crate::netfilter::layout! {
    /// `struct xt_tos_target_info`
    XtTosTargetInfo = 2 {
        0 tos_value: u8 => plain, 1 tos_mask: u8 => plain,
    }
}
