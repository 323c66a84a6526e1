//! `helper`: the helper of the connection.
//!
//! `include/uapi/linux/netfilter/xt_helper.h`; `xt_helper.c`: `helper_mt`.

crate::netfilter::layout! {
    /// `struct xt_helper_info`
    XtHelperInfo = 36 {
        0 invert: u32 => plain, 4 name: [u8; 30] => hidden,
    }
}
