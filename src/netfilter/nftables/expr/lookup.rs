//! `lookup`: looks up registers in a set or map.
//!
//! `net/netfilter/nft_lookup.c`: `nft_lookup_dump`. Without an element the rule ends (`NFT_BREAK`).

use crate::netfilter::netlink::Text;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Ends the rule unless the set has the key; loads a map's data for it.
    Lookup {
        /// Name of the set
        NFTA_LOOKUP_SET = 1 => set: Text<'a>,
        /// First register of the key
        NFTA_LOOKUP_SREG = 2 => sreg: u32,
        /// Destination register for a map's data, 0 for verdicts; none for sets
        NFTA_LOOKUP_DREG = 3 => dreg: Option<u32>,
        /// `NFT_LOOKUP_F_INV`: inverts the result
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
