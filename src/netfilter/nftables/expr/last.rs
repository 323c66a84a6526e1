//! `last`: records when a packet was last seen.
//!
//! `net/netfilter/nft_last.c`: `nft_last_dump`.

crate::netfilter::attributes! {
    /// Time of the last packet.
    Last {
        /// Whether a packet was seen
        NFTA_LAST_SET = 1 => set: Option<u32>,
        /// Time since, milliseconds
        NFTA_LAST_MSECS = 2 => msecs: Option<u64>,
    }
}

crate::netfilter::visit!(Last { plain: [set, msecs] });
