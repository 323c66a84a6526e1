//! `byteorder`: reverses the bytes of each number in a register.
//!
//! `net/netfilter/nft_byteorder.c`: `nft_byteorder_dump`.

crate::netfilter::attributes! {
    /// `dreg = hton(sreg)`, or `ntoh`.
    Byteorder {
        /// Source register
        NFTA_BYTEORDER_SREG = 1 => sreg: u32,
        /// Destination register
        NFTA_BYTEORDER_DREG = 2 => dreg: u32,
        /// To host order (0) or to network order (1)
        NFTA_BYTEORDER_OP = 3 => op: Option<u32>,
        /// Length, bytes
        NFTA_BYTEORDER_LEN = 4 => len: u32,
        /// Length of a number, bytes: 2, 4 or 8
        NFTA_BYTEORDER_SIZE = 5 => size: u32,
    }
}

crate::netfilter::visit!(Byteorder { plain: [sreg, dreg, op, len, size] });
