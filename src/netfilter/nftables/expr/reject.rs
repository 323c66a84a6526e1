//! `reject`: an error back to the sender, and the packet is dropped.
//!
//! `net/netfilter/nft_reject.c`: `nft_reject_dump`.

crate::netfilter::attributes! {
    /// Answers.
    Reject {
        /// `NFT_REJECT_*`
        NFTA_REJECT_TYPE = 1 => kind: Option<u32>,
        /// Code of ICMP, if the answer is one
        NFTA_REJECT_ICMP_CODE = 2 => icmp_code: Option<u8>,
    }
}

crate::netfilter::visit!(Reject { plain: [kind, icmp_code] });
