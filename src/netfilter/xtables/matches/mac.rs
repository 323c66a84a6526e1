//! `mac`: the hardware address of the sender.
//!
//! `include/uapi/linux/netfilter/xt_mac.h`; `xt_mac.c`: `mac_mt`.

crate::netfilter::layout! {
    /// `struct xt_mac_info`
    XtMacInfo = 12 {
        0 srcaddr: [u8; 6] => hardware, 8 invert: u32 => plain,
    }
}
