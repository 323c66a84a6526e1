//! `xfrm`: loads a property of the packet's IPsec state.
//!
//! `net/netfilter/nft_xfrm.c`: `nft_xfrm_get_dump`.

crate::netfilter::attributes! {
    /// Loads.
    Xfrm {
        /// Register
        NFTA_XFRM_DREG = 1 => dreg: u32,
        /// `NFT_XFRM_KEY_*`
        NFTA_XFRM_KEY = 2 => key: u32,
        /// `XFRM_POLICY_IN` (0) or `XFRM_POLICY_OUT` (1)
        NFTA_XFRM_DIR = 3 => dir: Option<u8>,
        /// Index, if there are several states
        NFTA_XFRM_SPNUM = 4 => spnum: Option<u32>,
    }
}

crate::netfilter::visit!(Xfrm { plain: [dreg, key, dir, spnum] });
