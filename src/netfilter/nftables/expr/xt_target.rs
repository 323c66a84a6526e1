//! `target`: a target of x_tables, as used by iptables-nft.
//!
//! `net/netfilter/nft_compat.c`: `nft_target_dump`.

use std::borrow::Cow;

use crate::netfilter::netlink::Text;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// An x_tables target.
    Target {
        /// Name of the extension
        NFTA_TARGET_NAME = 1 => name: Text<'a>,
        /// Revision of its structure
        NFTA_TARGET_REV = 2 => rev: u32,
        /// Its structure, possibly followed by padding
        NFTA_TARGET_INFO = 3 => info: Option<Cow<'a, [u8]>>,
    }
}

impl Visit for Target<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { name, rev, info, layout } = self;
        info.iter_mut().for_each(|info| visitor.extension(true, name.as_bytes(), rev, info));
        layout.visit(visitor);
    }
}
