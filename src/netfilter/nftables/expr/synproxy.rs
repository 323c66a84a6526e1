//! `synproxy`: answers SYN packets in place of the server.
//!
//! `net/netfilter/nft_synproxy.c`: `nft_synproxy_do_dump`; the rule ends for protocols other than TCP.

crate::netfilter::attributes! {
    /// Takes over TCP packets.
    Synproxy {
        /// MSS to announce
        NFTA_SYNPROXY_MSS = 1 => mss: Option<u16>,
        /// Window scale to announce
        NFTA_SYNPROXY_WSCALE = 2 => wscale: Option<u8>,
        /// `NF_SYNPROXY_OPT_*`
        NFTA_SYNPROXY_FLAGS = 3 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Synproxy { plain: [mss, wscale, flags] });
