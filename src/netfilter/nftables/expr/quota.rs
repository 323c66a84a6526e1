//! `quota`: the rule goes on only while so many bytes have not passed.
//!
//! `net/netfilter/nft_quota.c`: `nft_quota_do_dump`.

crate::netfilter::attributes! {
    /// Counts bytes.
    Quota {
        /// Bytes
        NFTA_QUOTA_BYTES = 1 => bytes: Option<u64>,
        /// Bytes so far
        NFTA_QUOTA_CONSUMED = 4 => consumed: Option<u64>,
        /// `NFT_QUOTA_F_INV`: goes on once they have
        NFTA_QUOTA_FLAGS = 2 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Quota { plain: [bytes, consumed, flags] });
