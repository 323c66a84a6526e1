//! `queue`: passes the packet to a program, which sets the verdict.
//!
//! `net/netfilter/nft_queue.c`: `nft_queue_dump`, `nft_queue_sreg_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Queues the packet.
    Queue {
        /// First queue
        NFTA_QUEUE_NUM = 1 => num: Option<u16>,
        /// Number of queues
        NFTA_QUEUE_TOTAL = 2 => total: Option<u16>,
        /// Register with the queue number
        NFTA_QUEUE_SREG_QNUM = 4 => sreg_qnum: Option<u32>,
        /// `NFT_QUEUE_FLAG_*`
        NFTA_QUEUE_FLAGS = 3 => flags: Option<u16>,
    }
}

impl Visit for Queue<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { num: _, total: _, sreg_qnum, flags: _, layout } = self;
        sreg_qnum.iter_mut().for_each(|register| visitor.number(register, 2));
        layout.visit(visitor);
    }
}
