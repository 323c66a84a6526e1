//! `MARK`: sets the packet's mark.
//!
//! `include/uapi/linux/netfilter/xt_mark.h`; `xt_mark.c`: `mark_tg`.

crate::netfilter::layout! {
    /// `struct xt_mark_tginfo2`
    XtMarkTginfo2 = 8 {
        /// Bits to invert after those of `mask` are cleared
        0 mark: u32 => plain, 4 mask: u32 => plain,
    }
}
