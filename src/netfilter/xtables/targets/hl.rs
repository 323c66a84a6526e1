//! `HL`: sets the hop limit.
//!
//! `include/uapi/linux/netfilter_ipv6/ip6t_HL.h`; `xt_HL.c`: `hl_tg6`.

crate::netfilter::layout! {
    /// `struct ip6t_HL_info`
    Ip6tHlInfo = 2 {
        0 mode: u8 => plain, 1 hop_limit: u8 => plain,
    }
}
