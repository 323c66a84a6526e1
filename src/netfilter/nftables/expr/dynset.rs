//! `dynset`: adds the key in registers to a set, or deletes it.
//!
//! `net/netfilter/nft_dynset.c`: `nft_dynset_dump`. The rule ends if the set is full (`NFT_BREAK`).

use crate::netfilter::netlink::{Nest, Text};
use crate::netfilter::nftables::visit_statements;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Changes a set.
    Dynset {
        /// First register of the key
        NFTA_DYNSET_SREG_KEY = 4 => sreg_key: u32,
        /// Register with a map's data for it
        NFTA_DYNSET_SREG_DATA = 5 => sreg_data: Option<u32>,
        /// `NFT_DYNSET_OP_*`
        NFTA_DYNSET_OP = 3 => op: Option<u32>,
        /// Name of the set
        NFTA_DYNSET_SET_NAME = 1 => set_name: Text<'a>,
        /// Id of the set within a batch
        NFTA_DYNSET_SET_ID = 2 => set_id: Option<u32>,
        /// Timeout of the element, milliseconds
        NFTA_DYNSET_TIMEOUT = 6 => timeout: Option<u64>,
        /// A statement for the element
        NFTA_DYNSET_EXPR = 7 => expr: Option<Nest<'a>>,
        /// Several statements
        NFTA_DYNSET_EXPRESSIONS = 10 => expressions: Option<Nest<'a>>,
        /// `NFT_DYNSET_F_*`
        NFTA_DYNSET_FLAGS = 9 => flags: Option<u32>,
    }
}

impl Visit for Dynset<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            sreg_key,
            sreg_data: _,
            op: _,
            set_name,
            set_id: _,
            timeout: _,
            expr,
            expressions,
            flags: _,
            layout,
        } = self;
        visitor.looked_up(sreg_key, set_name);
        expr.iter_mut().for_each(|statement| visit_statements(statement, false, visitor));
        expressions.iter_mut().for_each(|statements| visit_statements(statements, true, visitor));
        layout.visit(visitor);
    }
}
