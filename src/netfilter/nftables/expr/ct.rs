//! `ct`: loads or writes a property of the packet's connection.
//!
//! `net/netfilter/nft_ct.c`: `nft_ct_get_dump`, `nft_ct_set_dump`. Without a connection, a load ends the rule
//! (`NFT_BREAK`), except for `NFT_CT_STATE`.

use crate::netfilter::nftables::uapi::NFT_REG_1;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Loads into `dreg` or writes from `sreg`.
    Ct {
        /// Register
        NFTA_CT_DREG = 1 => dreg: Option<u32>,
        /// Register
        NFTA_CT_SREG = 4 => sreg: Option<u32>,
        /// `NFT_CT_*`
        NFTA_CT_KEY = 2 => key: u32,
        /// `IP_CT_DIR_ORIGINAL` (0) or `IP_CT_DIR_REPLY` (1), for keys that depend on it
        NFTA_CT_DIRECTION = 3 => direction: Option<u8>,
    }
}

impl Visit for Ct<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { dreg: _, sreg, key, direction: _, layout } = self;
        if let Some(register) = sreg {
            visitor.stored(register, &Ct { dreg: Some(NFT_REG_1), key: *key, ..Ct::default() }.into());
        }
        layout.visit(visitor);
    }
}
