//! `redir`: translates the destination to this host.
//!
//! `net/netfilter/nft_redir.c`: `nft_redir_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Destination NAT.
    Redir {
        /// Register with the first port, network byte order
        NFTA_REDIR_REG_PROTO_MIN = 1 => reg_proto_min: Option<u32>,
        /// Register with the last port
        NFTA_REDIR_REG_PROTO_MAX = 2 => reg_proto_max: Option<u32>,
        /// `NF_NAT_RANGE_*`; missing if 0
        NFTA_REDIR_FLAGS = 3 => flags: Option<u32>,
    }
}

impl Visit for Redir<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { reg_proto_min, reg_proto_max, flags: _, layout } = self;
        [reg_proto_min, reg_proto_max].into_iter().flatten().for_each(|register| visitor.number(register, 2));
        layout.visit(visitor);
    }
}
