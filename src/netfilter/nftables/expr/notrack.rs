//! `notrack`: excludes the packet from connection tracking.
//!
//! `net/netfilter/nft_ct.c`: `nft_notrack_eval`; nothing is dumped.

crate::netfilter::attributes! {
    /// No attributes.
    Notrack {}
}

crate::netfilter::visit!(Notrack {});
