//! `length`: bytes of the packet.
//!
//! `include/uapi/linux/netfilter/xt_length.h`; `xt_length.c`: `length_mt`, `length_mt6`.

crate::netfilter::layout! {
    /// `struct xt_length_info`
    XtLengthInfo = 6 {
        0 min: u16 => plain, 2 max: u16 => plain, 4 invert: u8 => plain,
    }
}
