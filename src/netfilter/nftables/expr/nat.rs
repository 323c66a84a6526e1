//! `nat`: source or destination NAT.
//!
//! `net/netfilter/nft_nat.c`: `nft_nat_dump`; `nft_nat_inet_eval` ignores packets of the other family.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Source or destination NAT.
    Nat {
        /// `NFT_NAT_*`
        NFTA_NAT_TYPE = 1 => kind: u32,
        /// `NFPROTO_*`
        NFTA_NAT_FAMILY = 2 => family: u32,
        /// Register with the first address
        NFTA_NAT_REG_ADDR_MIN = 3 => reg_addr_min: Option<u32>,
        /// Register with the last address
        NFTA_NAT_REG_ADDR_MAX = 4 => reg_addr_max: Option<u32>,
        /// Register with the first port, network byte order
        NFTA_NAT_REG_PROTO_MIN = 5 => reg_proto_min: Option<u32>,
        /// Register with the last port
        NFTA_NAT_REG_PROTO_MAX = 6 => reg_proto_max: Option<u32>,
        /// `NF_NAT_RANGE_*`; missing if 0
        NFTA_NAT_FLAGS = 7 => flags: Option<u32>,
    }
}

impl Visit for Nat<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { kind: _, family, reg_addr_min, reg_addr_max, reg_proto_min, reg_proto_max, flags: _, layout } = self;
        visitor.translated(*family, reg_addr_min.as_mut(), reg_addr_max.as_mut());
        [reg_proto_min, reg_proto_max].into_iter().flatten().for_each(|register| visitor.number(register, 2));
        layout.visit(visitor);
    }
}
