//! `multiport`: up to 15 ports.
//!
//! `include/uapi/linux/netfilter/xt_multiport.h`; `xt_multiport.c`: `multiport_mt`.

crate::netfilter::layout! {
    /// `struct xt_multiport`
    XtMultiport = 32 {
        /// `XT_MULTIPORT_*`: source, destination or both
        0 flags: u8 => plain, 1 count: u8 => plain, 2 ports: [u16; 15] => plain,
    }
    /// `struct xt_multiport_v1`
    XtMultiportV1 = 48 {
        /// `XT_MULTIPORT_*`: source, destination or both
        0 flags: u8 => plain, 1 count: u8 => plain, 2 ports: [u16; 15] => plain,
        /// Whether the port begins a range that the next one ends
        32 pflags: [u8; 15] => plain, 47 invert: u8 => plain,
    }
}
