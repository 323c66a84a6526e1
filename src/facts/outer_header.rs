//! Outer IP header fields that a tunnel's settings fix: `vxlan_xmit_one`, `geneve_xmit_skb`.

/// Fields that are the same in all of a tunnel's outer packets. `None`: they vary (inherited from the inner packet or
/// the route), or are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterHeader {
    /// Upper six bits of TOS or traffic class: `IFLA_*_TOS`, where 1 means inherit from the inner packet.
    pub dscp: Option<u8>,
    /// TTL or hop limit: `IFLA_*_TTL`, where 0 means the route's default.
    pub ttl: Option<u8>,
    /// Don't Fragment: `IFLA_*_DF`.
    pub dont_fragment: Option<bool>,
}

impl OuterHeader {
    /// From the values of these device attributes; `None` if the kernel did not report one.
    pub fn of(tos: Option<u8>, ttl: Option<u8>, ttl_inherit: Option<u8>, df: Option<u8>) -> Self {
        /// `VXLAN_DF_UNSET`, `VXLAN_DF_SET`; other values inherit from the inner packet.
        const DF: [bool; 2] = [false, true];
        Self {
            dscp: tos.filter(|tos| *tos != 1).map(|tos| tos >> 2),
            ttl: ttl.filter(|ttl| *ttl != 0 && ttl_inherit.unwrap_or(0) == 0),
            dont_fragment: df.and_then(|df| DF.get(usize::from(df)).copied()),
        }
    }
}
