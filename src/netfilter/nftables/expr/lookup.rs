//! `lookup`: looks registers up in a set, or in a map.
//!
//! `net/netfilter/nft_lookup.c`: `nft_lookup_dump`. Where a map has no element the rule ends (`NFT_BREAK`).

use crate::netfilter::netlink::Text;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Goes on if the set has the key, and loads what a map has for it.
    Lookup {
        /// Name
        NFTA_LOOKUP_SET = 1 => set: Text<'a>,
        /// First register of the key
        NFTA_LOOKUP_SREG = 2 => sreg: u32,
        /// Register for what the map has: 0 is a verdict; none for sets
        NFTA_LOOKUP_DREG = 3 => dreg: Option<u32>,
        /// `NFT_LOOKUP_F_INV`: goes on if the set has not
        NFTA_LOOKUP_FLAGS = 5 => flags: Option<u32>,
    }
}

impl Visit for Lookup<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { set, sreg, dreg: _, flags: _, layout } = self;
        visitor.looked_up(sreg, set);
        layout.visit(visitor);
    }
}
