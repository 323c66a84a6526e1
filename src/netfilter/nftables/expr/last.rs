//! `last`: when a packet was seen last.
//!
//! `net/netfilter/nft_last.c`: `nft_last_dump`.

crate::netfilter::attributes! {
    /// Remembers a time.
    Last {
        /// Whether any was seen
        NFTA_LAST_SET = 1 => set: Option<u32>,
        /// Milliseconds since
        NFTA_LAST_MSECS = 2 => msecs: Option<u64>,
    }
}

crate::netfilter::visit!(Last { plain: [set, msecs] });
