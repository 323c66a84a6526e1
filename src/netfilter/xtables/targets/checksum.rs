//! `CHECKSUM`: fills in the checksum of a packet.
//!
//! `include/uapi/linux/netfilter/xt_CHECKSUM.h`; `xt_CHECKSUM.c`: `checksum_tg`.

crate::netfilter::layout! {
    /// `struct xt_CHECKSUM_info`
    XtChecksumInfo = 1 {
        0 operation: u8 => plain,
    }
}
