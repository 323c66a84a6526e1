//! `synproxy`: answers SYN packets instead of the server.
//!
//! `net/netfilter/nft_synproxy.c`: `nft_synproxy_do_dump`; other protocols than TCP end the rule.

crate::netfilter::attributes! {
    /// Takes packets of TCP.
    Synproxy {
        /// Largest segment that is told
        NFTA_SYNPROXY_MSS = 1 => mss: Option<u16>,
        /// Window scaling that is told
        NFTA_SYNPROXY_WSCALE = 2 => wscale: Option<u8>,
        /// `NF_SYNPROXY_OPT_*`
        NFTA_SYNPROXY_FLAGS = 3 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Synproxy { plain: [mss, wscale, flags] });
