//! `mark`: the packet's mark.
//!
//! `include/uapi/linux/netfilter/xt_mark.h`; `xt_mark.c`: `mark_mt`.

crate::netfilter::layout! {
    /// `struct xt_mark_mtinfo1`
    XtMarkMtinfo1 = 12 {
        0 mark: u32 => plain, 4 mask: u32 => plain, 8 invert: u8 => plain,
    }
}
