//! `masq`: translates the source to an address of the output device.
//!
//! `net/netfilter/nft_masq.c`: `nft_masq_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Source NAT.
    Masq {
        /// `NF_NAT_RANGE_*`; missing if 0
        NFTA_MASQ_FLAGS = 1 => flags: Option<u32>,
        /// Register with the first port, network byte order
        NFTA_MASQ_REG_PROTO_MIN = 2 => reg_proto_min: Option<u32>,
        /// Register with the last port
        NFTA_MASQ_REG_PROTO_MAX = 3 => reg_proto_max: Option<u32>,
    }
}

impl Visit for Masq<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { flags: _, reg_proto_min, reg_proto_max, layout } = self;
        [reg_proto_min, reg_proto_max].into_iter().flatten().for_each(|register| visitor.number(register, 2));
        layout.visit(visitor);
    }
}
