//! `connbytes`: how much a connection has transferred.
//!
//! `include/uapi/linux/netfilter/xt_connbytes.h`; `xt_connbytes.c`: `connbytes_mt`.

crate::netfilter::layout! {
    /// `struct xt_connbytes_info`
    XtConnbytesInfo = 24 {
        0 from: u64 => plain, 8 to: u64 => plain, 16 what: u8 => plain, 17 direction: u8 => plain,
    }
}
