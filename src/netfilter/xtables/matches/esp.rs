//! `esp`: the SPI of encrypted packets.
//!
//! `include/uapi/linux/netfilter/xt_esp.h`; `xt_esp.c`: `esp_mt`.

crate::netfilter::layout! {
    /// `struct xt_esp`
    XtEsp = 12 {
        0 spis: [u32; 2] => plain, 8 invflags: u8 => plain,
    }
}
