//! What the settings of a tunnel make of outer headers: `vxlan_xmit_one`, `geneve_xmit_skb`.

/// Fields of a tunnel's outer IP header that are the same in all of its packets. `None`: they differ (inherited from the packet
/// inside, or from the route), or that is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OuterHeader {
    /// The upper six bits of TOS or traffic class: `IFLA_*_TOS`, where 1 stands for that of the packet inside.
    pub dscp: Option<u8>,
    /// TTL or hop limit: `IFLA_*_TTL`, where 0 stands for that of the route.
    pub ttl: Option<u8>,
    /// DF: `IFLA_*_DF`
    pub dont_fragment: Option<bool>,
}

impl OuterHeader {
    /// Of these attributes of a device.
    pub fn of(tos: Option<u8>, ttl: Option<u8>, ttl_inherit: Option<u8>, df: Option<u8>) -> Self {
        /// `VXLAN_DF_UNSET`, `VXLAN_DF_SET`; another one is that of the packet inside.
        const DF: [bool; 2] = [false, true];
        Self {
            dscp: tos.filter(|tos| *tos != 1).map(|tos| tos >> 2),
            ttl: ttl.filter(|ttl| *ttl != 0 && ttl_inherit.unwrap_or(0) == 0),
            dont_fragment: df.and_then(|df| DF.get(usize::from(df)).copied()),
        }
    }
}
