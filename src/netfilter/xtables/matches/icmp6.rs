//! `icmp6`: type and code of ICMPv6.
//!
//! `include/uapi/linux/netfilter_ipv6/ip6_tables.h`; `ip6_tables.c`: `icmp6_match` (since 6.5 `xt_icmp.c`).

crate::netfilter::layout! {
    /// `struct ip6t_icmp`
    Ip6tIcmp = 4 {
        0 r#type: u8 => plain, 1 code: [u8; 2] => plain, 3 invflags: u8 => plain,
    }
}
