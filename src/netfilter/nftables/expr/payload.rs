//! `payload`: loads or writes bytes of the packet.
//!
//! `net/netfilter/nft_payload.c`: `nft_payload_dump`, `nft_payload_set_dump`.

use crate::netfilter::nftables::uapi::NFT_REG_1;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Loads into `dreg` or writes from `sreg`. The rule ends if the packet is too short.
    Payload {
        /// Register
        NFTA_PAYLOAD_DREG = 1 => dreg: Option<u32>,
        /// Register
        NFTA_PAYLOAD_SREG = 5 => sreg: Option<u32>,
        /// `NFT_PAYLOAD_*_HEADER`
        NFTA_PAYLOAD_BASE = 2 => base: u32,
        /// Offset from the header's start, bytes
        NFTA_PAYLOAD_OFFSET = 3 => offset: u32,
        /// Length, bytes
        NFTA_PAYLOAD_LEN = 4 => len: u32,
        /// `NFT_PAYLOAD_CSUM_*`: how the header's own checksum is updated after a write
        NFTA_PAYLOAD_CSUM_TYPE = 6 => csum_type: Option<u32>,
        /// Offset of that checksum in the header, bytes
        NFTA_PAYLOAD_CSUM_OFFSET = 7 => csum_offset: Option<u32>,
        /// `NFT_PAYLOAD_L4CSUM_PSEUDOHDR`: the transport checksum covers the bytes written
        NFTA_PAYLOAD_CSUM_FLAGS = 8 => csum_flags: Option<u32>,
    }
}

impl Visit for Payload<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { dreg: _, sreg, base, offset, len, csum_type: _, csum_offset: _, csum_flags: _, layout } = self;
        if let Some(register) = sreg {
            let (base, offset, len) = (*base, *offset, *len);
            visitor
                .stored(register, &Payload { dreg: Some(NFT_REG_1), base, offset, len, ..Payload::default() }.into());
        }
        layout.visit(visitor);
    }
}
