//! `tunnel`: loads the packet's tunnel metadata.
//!
//! `net/netfilter/nft_tunnel.c`: `nft_tunnel_get_dump`.

crate::netfilter::attributes! {
    /// Loads.
    Tunnel {
        /// `NFT_TUNNEL_*`
        NFTA_TUNNEL_KEY = 1 => key: Option<u32>,
        /// Register
        NFTA_TUNNEL_DREG = 2 => dreg: u32,
        /// `NFT_TUNNEL_MODE_*`
        NFTA_TUNNEL_MODE = 3 => mode: Option<u32>,
    }
}

crate::netfilter::visit!(Tunnel { plain: [key, dreg, mode] });
