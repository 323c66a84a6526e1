//! `socket`: loads a property of the socket that the packet belongs to.
//!
//! `net/netfilter/nft_socket.c`: `nft_socket_dump`.

crate::netfilter::attributes! {
    /// Loads; the rule ends if there is no socket.
    Socket {
        /// `NFT_SOCKET_*`
        NFTA_SOCKET_KEY = 1 => key: Option<u32>,
        /// Register
        NFTA_SOCKET_DREG = 2 => dreg: u32,
        /// Level of the cgroup
        NFTA_SOCKET_LEVEL = 3 => level: Option<u32>,
    }
}

crate::netfilter::visit!(Socket { plain: [key, dreg, level] });
