//! `exthdr`: loads, tests, writes or removes an option or extension header of IPv4, IPv6, TCP, SCTP or DCCP.
//!
//! `net/netfilter/nft_exthdr.c`: `nft_exthdr_dump`, `nft_exthdr_dump_set`, `nft_exthdr_dump_strip`.

use crate::netfilter::nftables::uapi::NFT_REG_1;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Loads into `dreg` or writes from `sreg`; removes if there is neither.
    Exthdr {
        /// Register
        NFTA_EXTHDR_DREG = 1 => dreg: Option<u32>,
        /// Register
        NFTA_EXTHDR_SREG = 7 => sreg: Option<u32>,
        /// Number of the option or header
        NFTA_EXTHDR_TYPE = 2 => kind: Option<u8>,
        /// Offset from its start, bytes
        NFTA_EXTHDR_OFFSET = 3 => offset: Option<u32>,
        /// Length, bytes
        NFTA_EXTHDR_LEN = 4 => len: Option<u32>,
        /// `NFT_EXTHDR_F_PRESENT`: loads whether it is present
        NFTA_EXTHDR_FLAGS = 5 => flags: Option<u32>,
        /// `NFT_EXTHDR_OP_*`: the protocol
        NFTA_EXTHDR_OP = 6 => op: Option<u32>,
    }
}

impl Exthdr<'_> {
    /// Whether it only loads whether the option or header is present.
    pub fn asks_presence(&self) -> bool {
        /// `NFT_EXTHDR_F_PRESENT`
        const PRESENT: u32 = 0x1;
        self.flags.unwrap_or_default() & PRESENT != 0
    }
}

impl Visit for Exthdr<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { dreg: _, sreg, kind, offset, len, flags: _, op, layout } = self;
        if let Some(register) = sreg {
            let (dreg, kind, offset, len, op) = (Some(NFT_REG_1), *kind, *offset, *len, *op);
            visitor.stored(register, &Exthdr { dreg, kind, offset, len, op, ..Exthdr::default() }.into());
        }
        layout.visit(visitor);
    }
}
