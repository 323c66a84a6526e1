//! `dup`: sends a copy of the packet to another host or device.
//!
//! `net/ipv4/netfilter/nft_dup_ipv4.c`: `nft_dup_ipv4_dump`; `nft_dup_ipv6.c`, `net/netfilter/nft_dup_netdev.c`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Sends a copy.
    Dup {
        /// Register with an address of the table's family
        NFTA_DUP_SREG_ADDR = 1 => sreg_addr: Option<u32>,
        /// Register with the device's index
        NFTA_DUP_SREG_DEV = 2 => sreg_dev: Option<u32>,
    }
}

impl Visit for Dup<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { sreg_addr, sreg_dev, layout } = self;
        let family = visitor.family();
        sreg_addr.iter_mut().for_each(|register| visitor.address_in(register, family));
        sreg_dev.iter_mut().for_each(|register| visitor.number(register, 4));
        layout.visit(visitor);
    }
}
