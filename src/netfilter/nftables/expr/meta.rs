//! `meta`: something about the packet that stands in none of its headers, loaded or written.
//!
//! `net/netfilter/nft_meta.c`: `nft_meta_get_dump`, `nft_meta_set_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Loads into `dreg` or writes from `sreg`.
    Meta {
        /// `NFT_META_*`
        NFTA_META_KEY = 2 => key: u32,
        /// Register
        NFTA_META_DREG = 1 => dreg: Option<u32>,
        /// Register
        NFTA_META_SREG = 3 => sreg: Option<u32>,
    }
}

impl Visit for Meta<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { key: _, dreg: _, sreg, layout } = self;
        sreg.iter().for_each(|register| visitor.used(*register));
        layout.visit(visitor);
    }
}
