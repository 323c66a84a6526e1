//! `limit`: ends the rule above a rate.
//!
//! `net/netfilter/nft_limit.c`: `nft_limit_dump`.

crate::netfilter::attributes! {
    /// A rate.
    Limit {
        /// Packets or bytes per unit
        NFTA_LIMIT_RATE = 1 => rate: Option<u64>,
        /// Length of the unit, seconds
        NFTA_LIMIT_UNIT = 2 => unit: Option<u64>,
        /// Packets or bytes allowed beyond the rate
        NFTA_LIMIT_BURST = 3 => burst: Option<u32>,
        /// `NFT_LIMIT_PKTS` (0) or `NFT_LIMIT_PKT_BYTES` (1)
        NFTA_LIMIT_TYPE = 4 => kind: Option<u32>,
        /// `NFT_LIMIT_F_INV`: inverts the result
        NFTA_LIMIT_FLAGS = 5 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Limit { plain: [rate, unit, burst, kind, flags] });
