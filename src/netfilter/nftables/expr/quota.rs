//! `quota`: ends the rule once a number of bytes has passed.
//!
//! `net/netfilter/nft_quota.c`: `nft_quota_do_dump`.

crate::netfilter::attributes! {
    /// Counts bytes.
    Quota {
        /// Limit, bytes
        NFTA_QUOTA_BYTES = 1 => bytes: Option<u64>,
        /// Bytes so far
        NFTA_QUOTA_CONSUMED = 4 => consumed: Option<u64>,
        /// `NFT_QUOTA_F_INV`: inverts the result
        NFTA_QUOTA_FLAGS = 2 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Quota { plain: [bytes, consumed, flags] });
