//! `match`: a match of x_tables, as used by iptables-nft.
//!
//! `net/netfilter/nft_compat.c`: `nft_match_dump`.

use std::borrow::Cow;

use crate::netfilter::netlink::Text;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// An x_tables match.
    Match {
        /// Name of the extension
        NFTA_MATCH_NAME = 1 => name: Text<'a>,
        /// Revision of its structure
        NFTA_MATCH_REV = 2 => rev: u32,
        /// Its structure, possibly followed by padding
        NFTA_MATCH_INFO = 3 => info: Option<Cow<'a, [u8]>>,
    }
}

impl Visit for Match<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { name, rev, info, layout } = self;
        info.iter_mut().for_each(|info| visitor.extension(false, name.as_bytes(), rev, info));
        layout.visit(visitor);
    }
}
