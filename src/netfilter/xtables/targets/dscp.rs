//! `DSCP`: sets the upper 6 bits of the type of service.
//!
//! `include/uapi/linux/netfilter/xt_DSCP.h`; `xt_DSCP.c`: `dscp_tg`, `dscp_tg6`.

crate::netfilter::layout! {
    /// `struct xt_DSCP_info`
    XtDscpInfo = 1 {
        0 dscp: u8 => plain,
    }
}
