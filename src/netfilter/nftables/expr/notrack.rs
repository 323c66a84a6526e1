//! `notrack`: the packet is not tracked.
//!
//! `net/netfilter/nft_ct.c`: `nft_notrack_eval`; there is nothing to dump.

crate::netfilter::attributes! {
    /// Has no attributes.
    Notrack {}
}

crate::netfilter::visit!(Notrack {});
