//! `physdev`: ports of a bridge.
//!
//! `include/uapi/linux/netfilter/xt_physdev.h`; `xt_physdev.c`: `physdev_mt`.

crate::netfilter::layout! {
    /// `struct xt_physdev_info`
    XtPhysdevInfo = 66 {
        0 physindev: [u8; 16] => device, 16 in_mask: [u8; 16] => plain, 32 physoutdev: [u8; 16] => device,
        48 out_mask: [u8; 16] => plain, 64 invert: u8 => plain, 65 bitmask: u8 => plain,
    }
}
