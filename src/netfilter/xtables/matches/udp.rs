//! `udp`: ports of UDP and UDP-Lite.
//!
//! `include/uapi/linux/netfilter/xt_tcpudp.h`; `xt_tcpudp.c`: `udp_mt`.

crate::netfilter::layout! {
    /// `struct xt_udp`
    XtUdp = 10 {
        0 spts: [u16; 2] => plain, 4 dpts: [u16; 2] => plain, 8 invflags: u8 => plain,
    }
}
