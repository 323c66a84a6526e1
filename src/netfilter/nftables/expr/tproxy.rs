//! `tproxy`: assigns the packet to a local socket; the rule ends if there is none.
//!
//! `net/netfilter/nft_tproxy.c`: `nft_tproxy_dump`.

use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// Socket lookup.
    Tproxy {
        /// `NFPROTO_*`
        NFTA_TPROXY_FAMILY = 1 => family: Option<u32>,
        /// Register with the address
        NFTA_TPROXY_REG_ADDR = 2 => reg_addr: Option<u32>,
        /// Register with the port, network byte order
        NFTA_TPROXY_REG_PORT = 3 => reg_port: Option<u32>,
    }
}

impl Visit for Tproxy<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { family, reg_addr, reg_port, layout } = self;
        reg_addr.iter_mut().for_each(|register| visitor.address_in(register, family.unwrap_or_default()));
        reg_port.iter_mut().for_each(|register| visitor.number(register, 2));
        layout.visit(visitor);
    }
}
