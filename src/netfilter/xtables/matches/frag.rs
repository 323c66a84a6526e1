//! `frag`: the fragment header.
//!
//! `include/uapi/linux/netfilter_ipv6/ip6t_frag.h`; `ip6t_frag.c`: `frag_mt6`.

crate::netfilter::layout! {
    /// `struct ip6t_frag`
    Ip6tFrag = 16 {
        0 ids: [u32; 2] => plain, 8 hdrlen: u32 => plain, 12 flags: u8 => plain, 13 invflags: u8 => plain,
    }
}
