//! `addrtype`: types of addresses.
//!
//! `include/uapi/linux/netfilter/xt_addrtype.h`; `xt_addrtype.c`: `addrtype_mt_v0`, `addrtype_mt_v1`.

crate::netfilter::layout! {
    /// `struct xt_addrtype_info`
    XtAddrtypeInfo = 12 {
        /// `RTN_*` as bits; 0: any
        0 source: u16 => plain, 2 dest: u16 => plain, 4 invert_source: u32 => plain, 8 invert_dest: u32 => plain,
    }
    /// `struct xt_addrtype_info_v1`
    XtAddrtypeInfoV1 = 8 {
        /// `RTN_*` as bits; 0: any
        0 source: u16 => plain, 2 dest: u16 => plain, 4 flags: u32 => plain,
    }
}
