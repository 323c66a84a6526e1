//! `counter`: counts packets.
//!
//! `net/netfilter/nft_counter.c`: `nft_counter_do_dump`.

crate::netfilter::attributes! {
    /// Counts.
    Counter {
        /// Bytes, from the network header on
        NFTA_COUNTER_BYTES = 1 => bytes: u64,
        /// Packets
        NFTA_COUNTER_PACKETS = 2 => packets: u64,
    }
}

crate::netfilter::visit!(Counter { plain: [bytes, packets] });
