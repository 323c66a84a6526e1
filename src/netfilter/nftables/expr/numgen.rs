//! `numgen`: a sequential or random number.
//!
//! `net/netfilter/nft_numgen.c`: `nft_ng_dump`.

crate::netfilter::attributes! {
    /// `dreg = number % modulus + offset`
    Numgen {
        /// Register
        NFTA_NG_DREG = 1 => dreg: u32,
        /// At least 1
        NFTA_NG_MODULUS = 2 => modulus: Option<u32>,
        /// `NFT_NG_INCREMENTAL` (0) or `NFT_NG_RANDOM` (1)
        NFTA_NG_TYPE = 3 => kind: Option<u32>,
        /// Added to the number
        NFTA_NG_OFFSET = 4 => offset: Option<u32>,
    }
}

crate::netfilter::visit!(Numgen { plain: [dreg, modulus, kind, offset] });
