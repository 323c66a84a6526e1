//! `ah`: the SPI of an authentication header.
//!
//! `include/uapi/linux/netfilter_ipv4/ipt_ah.h`, `include/uapi/linux/netfilter_ipv6/ip6t_ah.h`; `ipt_ah.c`: `ah_mt`,
//! `ip6t_ah.c`: `ah_mt6`.

crate::netfilter::layout! {
    /// `struct ipt_ah`
    IptAh = 12 {
        0 spis: [u32; 2] => plain, 8 invflags: u8 => plain,
    }
    /// `struct ip6t_ah`
    Ip6tAh = 16 {
        0 spis: [u32; 2] => plain, 8 hdrlen: u32 => plain, 12 hdrres: u8 => plain, 13 invflags: u8 => plain,
    }
}
