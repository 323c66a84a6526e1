//! `connmark`: the mark of the connection.
//!
//! `include/uapi/linux/netfilter/xt_connmark.h`; `xt_connmark.c`: `connmark_mt`.

crate::netfilter::layout! {
    /// `struct xt_connmark_mtinfo1`
    XtConnmarkMtinfo1 = 12 {
        0 mark: u32 => plain, 4 mask: u32 => plain, 8 invert: u8 => plain,
    }
}
