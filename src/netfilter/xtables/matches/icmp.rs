//! `icmp`: type and code of ICMP.
//!
//! `include/uapi/linux/netfilter_ipv4/ip_tables.h`; `ip_tables.c`: `icmp_match` (since 6.5 `xt_icmp.c`).

crate::netfilter::layout! {
    /// `struct ipt_icmp`
    IptIcmp = 4 {
        0 r#type: u8 => plain, 1 code: [u8; 2] => plain, 3 invflags: u8 => plain,
    }
}
