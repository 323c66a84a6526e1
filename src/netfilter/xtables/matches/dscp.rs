//! `dscp`: the upper 6 bits of the type of service.
//!
//! `include/uapi/linux/netfilter/xt_dscp.h`; `xt_dscp.c`: `dscp_mt`, `dscp_mt6`.

crate::netfilter::layout! {
    /// `struct xt_dscp_info`
    XtDscpInfo = 2 {
        0 dscp: u8 => plain, 1 invert: u8 => plain,
    }
}
