//! Families of x_tables.

use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

/// Family of a table, entry or address: `ip_tables` or `ip6_tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XtFamily {
    /// `NFPROTO_IPV4`
    Ipv4,
    /// `NFPROTO_IPV6`
    Ipv6,
}

impl XtFamily {
    /// From `NFPROTO_*` of an nf_tables rule; IPv4 for all others.
    pub const fn of(nfproto: u8) -> Self {
        if nfproto == NFPROTO_IPV6 { Self::Ipv6 } else { Self::Ipv4 }
    }

    /// `NFPROTO_*`
    pub const fn nfproto(self) -> u8 {
        match self {
            Self::Ipv4 => NFPROTO_IPV4,
            Self::Ipv6 => NFPROTO_IPV6,
        }
    }
}
