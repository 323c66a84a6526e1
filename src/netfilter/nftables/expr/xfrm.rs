//! `xfrm`: something of the IPsec state that the packet came or goes by.
//!
//! `net/netfilter/nft_xfrm.c`: `nft_xfrm_get_dump`.

crate::netfilter::attributes! {
    /// Loads.
    Xfrm {
        /// Register
        NFTA_XFRM_DREG = 1 => dreg: u32,
        /// `NFT_XFRM_KEY_*`
        NFTA_XFRM_KEY = 2 => key: u32,
        /// In (0) or out (1)
        NFTA_XFRM_DIR = 3 => dir: Option<u8>,
        /// Which of several
        NFTA_XFRM_SPNUM = 4 => spnum: Option<u32>,
    }
}

crate::netfilter::visit!(Xfrm { plain: [dreg, key, dir, spnum] });
