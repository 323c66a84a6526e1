//! `cmp`: ends the rule unless a register compares to a value as given.
//!
//! `net/netfilter/nft_cmp.c`: `nft_cmp_dump`, `nft_cmp_fast_dump`, `nft_cmp16_fast_dump`.

use crate::netfilter::nftables::Data;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Compares bytes as a big-endian number.
    Cmp {
        /// Register
        NFTA_CMP_SREG = 1 => sreg: u32,
        /// `NFT_CMP_*`
        NFTA_CMP_OP = 2 => op: u32,
        /// The value
        NFTA_CMP_DATA = 3 => data: Data<'a>,
    }
}

impl Visit for Cmp<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { sreg, op, data, layout } = self;
        data.with_value(visitor, |visitor, value| visitor.compared(sreg, *op, value));
        layout.visit(visitor);
    }
}
