//! The families of x_tables.

use crate::netfilter::nftables::uapi::{NFPROTO_IPV4, NFPROTO_IPV6};

/// Of which of two sorts a table, an entry and an address are: `ip_tables` or `ip6_tables`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XtFamily {
    /// `NFPROTO_IPV4`
    Ipv4,
    /// `NFPROTO_IPV6`
    Ipv6,
}

impl XtFamily {
    /// Of a rule of nf_tables: IPv4's for all that is not IPv6 (`NFPROTO_*`).
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
