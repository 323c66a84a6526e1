//! `ipv6header`: which extension headers there are.
//!
//! `include/uapi/linux/netfilter_ipv6/ip6t_ipv6header.h`; `ip6t_ipv6header.c`: `ipv6header_mt6`.

crate::netfilter::layout! {
    /// `struct ip6t_ipv6header_info`
    Ip6tIpv6headerInfo = 3 {
        0 matchflags: u8 => plain, 1 invertflags: u8 => plain, 2 modeflag: u8 => plain,
    }
}
