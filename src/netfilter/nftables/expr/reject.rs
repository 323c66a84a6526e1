//! `reject`: drops the packet and sends an error to the sender.
//!
//! `net/netfilter/nft_reject.c`: `nft_reject_dump`.

crate::netfilter::attributes! {
    /// The response.
    Reject {
        /// `NFT_REJECT_*`
        NFTA_REJECT_TYPE = 1 => kind: Option<u32>,
        /// ICMP code, if the response is ICMP
        NFTA_REJECT_ICMP_CODE = 2 => icmp_code: Option<u8>,
    }
}

crate::netfilter::visit!(Reject { plain: [kind, icmp_code] });
