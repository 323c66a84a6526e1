//! `osf`: the sender's operating system, by how its SYN looks.
//!
//! `net/netfilter/nft_osf.c`: `nft_osf_dump`.

crate::netfilter::attributes! {
    /// Loads a name.
    Osf {
        /// How TTLs are compared
        NFTA_OSF_TTL = 2 => ttl: Option<u8>,
        /// `NFT_OSF_F_VERSION`
        NFTA_OSF_FLAGS = 3 => flags: Option<u32>,
        /// Register
        NFTA_OSF_DREG = 1 => dreg: u32,
    }
}

crate::netfilter::visit!(Osf { plain: [ttl, flags, dreg] });
