//! `ecn`: congestion bits.
//!
//! `include/uapi/linux/netfilter/xt_ecn.h`; `xt_ecn.c`: `ecn_mt4`, `ecn_mt6`.

crate::netfilter::layout! {
    /// `struct xt_ecn_info`
    XtEcnInfo = 4 {
        0 operation: u8 => plain, 1 invert: u8 => plain, 2 ip_ect: u8 => plain, 3 ect: u8 => plain,
    }
}
