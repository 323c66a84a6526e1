//! `byteorder`: the bytes of each number in a register reversed.
//!
//! `net/netfilter/nft_byteorder.c`: `nft_byteorder_dump`.

crate::netfilter::attributes! {
    /// `dreg = hton(sreg)`, or back.
    Byteorder {
        /// Register
        NFTA_BYTEORDER_SREG = 1 => sreg: u32,
        /// Register
        NFTA_BYTEORDER_DREG = 2 => dreg: u32,
        /// To host order (0) or to network order (1)
        NFTA_BYTEORDER_OP = 3 => op: Option<u32>,
        /// Bytes
        NFTA_BYTEORDER_LEN = 4 => len: u32,
        /// Bytes of a number: 2, 4 or 8
        NFTA_BYTEORDER_SIZE = 5 => size: u32,
    }
}

crate::netfilter::visit!(Byteorder { plain: [sreg, dreg, op, len, size] });
