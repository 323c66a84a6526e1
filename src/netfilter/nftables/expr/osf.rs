//! `osf`: the sender's operating system, recognised by its SYN.
//!
//! `net/netfilter/nft_osf.c`: `nft_osf_dump`.

crate::netfilter::attributes! {
    /// Loads the system's name.
    Osf {
        /// Mode of comparing TTLs
        NFTA_OSF_TTL = 2 => ttl: Option<u8>,
        /// `NFT_OSF_F_VERSION`
        NFTA_OSF_FLAGS = 3 => flags: Option<u32>,
        /// Register
        NFTA_OSF_DREG = 1 => dreg: u32,
    }
}

crate::netfilter::visit!(Osf { plain: [ttl, flags, dreg] });
