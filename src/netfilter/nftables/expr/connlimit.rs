//! `connlimit`: ends the rule if there are more connections than a limit.
//!
//! `net/netfilter/nft_connlimit.c`: `nft_connlimit_do_dump`.

crate::netfilter::attributes! {
    /// Counts connections.
    Connlimit {
        /// Limit of connections
        NFTA_CONNLIMIT_COUNT = 1 => count: Option<u32>,
        /// `NFT_CONNLIMIT_F_INV`: inverts the result
        NFTA_CONNLIMIT_FLAGS = 2 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Connlimit { plain: [count, flags] });
