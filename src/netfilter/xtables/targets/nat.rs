//! NAT targets: SNAT, DNAT, MASQUERADE, REDIRECT, NETMAP.
//!
//! `include/uapi/linux/netfilter/nf_nat.h`; `xt_nat.c`, `xt_MASQUERADE.c`, `xt_REDIRECT.c`, `xt_NETMAP.c`.

use crate::netfilter::xtables::{Be16, Inet};

crate::netfilter::layout! {
    /// `struct nf_nat_ipv4_multi_range_compat`
    NfNatIpv4MultiRangeCompat = 20 {
        0 rangesize: u32 => plain, 4 flags: u32 => plain, 8 min_ip: [u8; 4] => range(max_ip),
        12 max_ip: [u8; 4] => plain, 16 min: Be16 => plain, 18 max: Be16 => plain,
    }
    /// `struct nf_nat_range`
    NfNatRange = 40 {
        0 flags: u32 => plain, 4 min_addr: Inet => range(max_addr), 20 max_addr: Inet => plain,
        36 min_proto: Be16 => plain, 38 max_proto: Be16 => plain,
    }
    /// `struct nf_nat_range2`
    NfNatRange2 = 44 {
        0 flags: u32 => plain, 4 min_addr: Inet => range(max_addr), 20 max_addr: Inet => plain,
        36 min_proto: Be16 => plain, 38 max_proto: Be16 => plain,
        /// First port before translation, for `NF_NAT_RANGE_PROTO_OFFSET`
        40 base_proto: Be16 => plain,
    }
}

impl From<NfNatIpv4MultiRangeCompat<'_>> for NfNatRange2<'_> {
    fn from(old: NfNatIpv4MultiRangeCompat<'_>) -> Self {
        let NfNatIpv4MultiRangeCompat { flags, min_ip, max_ip, min: min_proto, max: max_proto, .. } = old;
        Self { flags, min_addr: min_ip.into(), max_addr: max_ip.into(), min_proto, max_proto, ..Self::default() }
    }
}

impl From<NfNatRange<'_>> for NfNatRange2<'_> {
    fn from(old: NfNatRange<'_>) -> Self {
        let NfNatRange { flags, min_addr, max_addr, min_proto, max_proto, .. } = old;
        Self { flags, min_addr, max_addr, min_proto, max_proto, ..Self::default() }
    }
}
