//! `ipcomp`: the CPI of compressed packets.
//!
//! `include/uapi/linux/netfilter/xt_ipcomp.h`; `xt_ipcomp.c`: `comp_mt`.

crate::netfilter::layout! {
    /// `struct xt_ipcomp`
    XtIpcomp = 12 {
        0 spis: [u32; 2] => plain, 8 invflags: u8 => plain, 9 hdrres: u8 => plain,
    }
}
