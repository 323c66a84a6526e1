//! `immediate`: loads a constant into a register, or sets a verdict.
//!
//! `net/netfilter/nft_immediate.c`: `nft_immediate_dump`.

use crate::netfilter::nftables::Data;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Loads a constant; in the verdict register it ends the rule.
    Immediate {
        /// Register
        NFTA_IMMEDIATE_DREG = 1 => dreg: u32,
        /// Value or verdict
        NFTA_IMMEDIATE_DATA = 2 => data: Data<'a>,
    }
}

impl Visit for Immediate<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { dreg: _, data, layout } = self;
        data.with_value(visitor, Visitor::constant);
        layout.visit(visitor);
    }
}
