//! `queue`: the packet goes to a program, which decides.
//!
//! `net/netfilter/nft_queue.c`: `nft_queue_dump`, `nft_queue_sreg_dump`.

crate::netfilter::attributes! {
    /// Hands the packet over.
    Queue {
        /// First queue
        NFTA_QUEUE_NUM = 1 => num: Option<u16>,
        /// Queues
        NFTA_QUEUE_TOTAL = 2 => total: Option<u16>,
        /// Register with the queue's number
        NFTA_QUEUE_SREG_QNUM = 4 => sreg_qnum: Option<u32>,
        /// `NFT_QUEUE_FLAG_*`
        NFTA_QUEUE_FLAGS = 3 => flags: Option<u16>,
    }
}

crate::netfilter::visit!(Queue { plain: [num, total, sreg_qnum, flags] });
