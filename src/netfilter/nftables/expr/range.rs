//! `range`: ends the rule unless a register is inside, or outside, of a range.
//!
//! `net/netfilter/nft_range.c`: `nft_range_dump`.

use crate::netfilter::nftables::Data;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Compares bytes as a big-endian number with both ends.
    Range {
        /// Register
        NFTA_RANGE_SREG = 1 => sreg: u32,
        /// `NFT_RANGE_EQ` (0) or `NFT_RANGE_NEQ` (1)
        NFTA_RANGE_OP = 2 => op: u32,
        /// First value
        NFTA_RANGE_FROM_DATA = 3 => from_data: Data<'a>,
        /// Last value
        NFTA_RANGE_TO_DATA = 4 => to_data: Data<'a>,
    }
}

impl Visit for Range<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { sreg, op: _, from_data, to_data, layout } = self;
        from_data.with_value(visitor, |visitor, from| {
            to_data.with_value(visitor, |visitor, to| visitor.in_range(sreg, from, to));
        });
        layout.visit(visitor);
    }
}
