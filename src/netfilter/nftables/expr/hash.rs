//! `hash`: a hash of registers (`jhash`) or of the flow (`symhash`), modulo a number.
//!
//! `net/netfilter/nft_hash.c`: `nft_jhash_dump`, `nft_symhash_dump`.

crate::netfilter::attributes! {
    /// `dreg = hash % modulus + offset`
    Hash {
        /// First source register; none for a symmetric hash
        NFTA_HASH_SREG = 1 => sreg: Option<u32>,
        /// Register
        NFTA_HASH_DREG = 2 => dreg: u32,
        /// Length of the input, bytes
        NFTA_HASH_LEN = 3 => len: Option<u32>,
        /// At least 1
        NFTA_HASH_MODULUS = 4 => modulus: Option<u32>,
        /// Seed, if configured
        NFTA_HASH_SEED = 5 => seed: Option<u32>,
        /// Added to the result
        NFTA_HASH_OFFSET = 6 => offset: Option<u32>,
        /// `NFT_HASH_JENKINS` (0) or `NFT_HASH_SYM` (1)
        NFTA_HASH_TYPE = 7 => kind: Option<u32>,
    }
}

crate::netfilter::visit!(Hash { plain: [sreg, dreg, len, modulus, offset, kind], hidden: [seed] });
