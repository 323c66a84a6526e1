//! `meta`: loads or writes packet metadata, which is not in headers.
//!
//! `net/netfilter/nft_meta.c`: `nft_meta_get_dump`, `nft_meta_set_dump`.

use crate::netfilter::nftables::uapi::NFT_REG_1;
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
        let Self { key, dreg: _, sreg, layout } = self;
        if let Some(register) = sreg {
            visitor.stored(register, &Meta { dreg: Some(NFT_REG_1), key: *key, ..Meta::default() }.into());
        }
        layout.visit(visitor);
    }
}
