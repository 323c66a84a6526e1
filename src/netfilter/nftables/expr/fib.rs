//! `fib`: looks up an address of the packet in the routing tables.
//!
//! `net/netfilter/nft_fib.c`: `nft_fib_dump`.

crate::netfilter::attributes! {
    /// A FIB lookup.
    Fib {
        /// Register
        NFTA_FIB_DREG = 1 => dreg: u32,
        /// `NFT_FIB_RESULT_*`
        NFTA_FIB_RESULT = 2 => result: u32,
        /// `NFTA_FIB_F_*`
        NFTA_FIB_FLAGS = 3 => flags: u32,
    }
}

crate::netfilter::visit!(Fib { plain: [dreg, result, flags] });
