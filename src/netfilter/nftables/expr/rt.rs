//! `rt`: loads a property of the packet's route.
//!
//! `net/netfilter/nft_rt.c`: `nft_rt_get_dump`.

crate::netfilter::attributes! {
    /// Loads routing data.
    Rt {
        /// `NFT_RT_*`
        NFTA_RT_KEY = 2 => key: u32,
        /// Register
        NFTA_RT_DREG = 1 => dreg: u32,
    }
}

crate::netfilter::visit!(Rt { plain: [key, dreg] });
