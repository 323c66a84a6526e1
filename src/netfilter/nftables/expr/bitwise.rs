//! `bitwise`: masks and xors a register, shifts it, or combines it with another.
//!
//! `net/netfilter/nft_bitwise.c`: `nft_bitwise_dump`, `nft_bitwise_fast_dump`.

use crate::netfilter::nftables::Data;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// `dreg = sreg & mask ^ xor`, or another operation. Mask and xor are as long as `len` says.
    Bitwise {
        /// Source register
        NFTA_BITWISE_SREG = 1 => sreg: u32,
        /// Destination register
        NFTA_BITWISE_DREG = 2 => dreg: u32,
        /// Length, bytes
        NFTA_BITWISE_LEN = 3 => len: u32,
        /// `NFT_BITWISE_*`; before Linux 5.6 only the first one exists, without this attribute
        NFTA_BITWISE_OP = 6 => op: Option<u32>,
        /// Bits kept
        NFTA_BITWISE_MASK = 4 => mask: Option<Data<'a>>,
        /// Bits that are inverted
        NFTA_BITWISE_XOR = 5 => xor: Option<Data<'a>>,
        /// How far to shift, or the other operand
        NFTA_BITWISE_DATA = 7 => data: Option<Data<'a>>,
        /// Register of the second operand
        NFTA_BITWISE_SREG2 = 8 => sreg2: Option<u32>,
    }
}

impl Visit for Bitwise<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { sreg, dreg: _, len: _, op: _, mask, xor, data, sreg2: _, layout } = self;
        mask.iter_mut().for_each(|mask| mask.with_value(visitor, |visitor, mask| visitor.masked(*sreg, mask)));
        for operand in [xor, data].into_iter().flatten() {
            operand.with_value(visitor, |visitor, value| visitor.combined(*sreg, value));
        }
        layout.visit(visitor);
    }
}

impl Bitwise<'_> {
    /// Bits kept.
    pub fn mask(&self) -> &[u8] {
        self.mask.as_ref().and_then(|data| data.value.as_deref()).unwrap_or_default()
    }

    /// Bits that are inverted.
    pub fn xor(&self) -> &[u8] {
        self.xor.as_ref().and_then(|data| data.value.as_deref()).unwrap_or_default()
    }
}
