//! `fwd`: sends the packet by another device, bypassing further rules.
//!
//! `net/netfilter/nft_fwd_netdev.c`: `nft_fwd_netdev_dump`, `nft_fwd_neigh_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Hands the packet to a device.
    Fwd {
        /// Register with the device's index
        NFTA_FWD_SREG_DEV = 1 => sreg_dev: Option<u32>,
        /// Register with the next hop's address
        NFTA_FWD_SREG_ADDR = 2 => sreg_addr: Option<u32>,
        /// Its family (`NFPROTO_*`)
        NFTA_FWD_NFPROTO = 3 => nfproto: Option<u32>,
    }
}

impl Visit for Fwd<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { sreg_dev, sreg_addr, nfproto, layout } = self;
        sreg_addr.iter_mut().for_each(|register| visitor.address_in(register, nfproto.unwrap_or_default()));
        sreg_dev.iter_mut().for_each(|register| visitor.number(register, 4));
        layout.visit(visitor);
    }
}
