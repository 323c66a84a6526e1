//! `connlimit`: the rule goes on only while there are so many connections of a kind.
//!
//! `net/netfilter/nft_connlimit.c`: `nft_connlimit_do_dump`.

crate::netfilter::attributes! {
    /// Counts connections.
    Connlimit {
        /// Connections
        NFTA_CONNLIMIT_COUNT = 1 => count: Option<u32>,
        /// `NFT_CONNLIMIT_F_INV`: goes on beyond it
        NFTA_CONNLIMIT_FLAGS = 2 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Connlimit { plain: [count, flags] });
