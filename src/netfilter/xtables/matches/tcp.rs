//! `tcp`: ports, flags and options of TCP.
//!
//! `include/uapi/linux/netfilter/xt_tcpudp.h`; `xt_tcpudp.c`: `tcp_mt`.

crate::netfilter::layout! {
    /// `struct xt_tcp`
    XtTcp = 12 {
        0 spts: [u16; 2] => plain, 4 dpts: [u16; 2] => plain, 8 option: u8 => plain, 9 flg_mask: u8 => plain,
        10 flg_cmp: u8 => plain, 11 invflags: u8 => plain,
    }
}
