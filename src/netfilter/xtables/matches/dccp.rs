//! `dccp`: ports, types and options of DCCP.
//!
//! `include/uapi/linux/netfilter/xt_dccp.h`; `xt_dccp.c`: `dccp_mt`.

crate::netfilter::layout! {
    /// `struct xt_dccp_info`
    XtDccpInfo = 16 {
        0 dpts: [u16; 2] => plain, 4 spts: [u16; 2] => plain, 8 flags: u16 => plain, 10 invflags: u16 => plain,
        12 typemask: u16 => plain, 14 option: u8 => plain,
    }
}
