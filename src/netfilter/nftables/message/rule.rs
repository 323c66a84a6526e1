//! A rule: `nf_tables_fill_rule_info`.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeList, Text};
use crate::netfilter::nftables::Expression;
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// A rule.
    Rule {
        /// Name of its table
        NFTA_RULE_TABLE = 1 => table: Text<'a>,
        /// Name of its chain
        NFTA_RULE_CHAIN = 2 => chain: Option<Text<'a>>,
        /// Handle
        NFTA_RULE_HANDLE = 3 => handle: Option<u64>,
        /// Handle of the preceding rule
        NFTA_RULE_POSITION = 6 => position: Option<u64>,
        /// What it tests and does
        NFTA_RULE_EXPRESSIONS = 4 => expressions: Option<AttributeList<'a, Expression<'a>>>,
        /// Type, length, value
        NFTA_RULE_USERDATA = 7 => userdata: Option<Cow<'a, [u8]>>,
        /// Protocol, set by iptables-nft
        NFTA_RULE_COMPAT = 5 => compat: Option<Compat<'a>>,
        /// Id within a batch
        NFTA_RULE_ID = 9 => id: Option<u32>,
    }
}

impl Rule<'_> {
    /// What it tests and does.
    pub fn expressions(&self) -> &[Expression<'_>] {
        self.expressions.as_ref().map(|list| list.elements.as_slice()).unwrap_or_default()
    }
}

impl Visit for Rule<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { table, chain, handle: _, position: _, expressions, userdata, compat, id: _, layout } = self;
        visitor.table(table);
        chain.iter_mut().for_each(|name| visitor.chain(name));
        if let Some(AttributeList { elements, layout }) = expressions {
            elements.iter_mut().enumerate().for_each(|(at, expression)| visitor.expression(at, expression));
            layout.visit(visitor);
        }
        userdata.iter_mut().for_each(|data| visitor.user_data(data));
        compat.iter_mut().for_each(|compat| compat.visit(visitor));
        layout.visit(visitor);
    }
}

crate::netfilter::attributes! {
    /// Protocol of a rule, set by iptables-nft for extensions that need it.
    Compat {
        /// `IPPROTO_*`
        NFTA_RULE_COMPAT_PROTO = 1 => proto: Option<u32>,
        /// `NFT_RULE_COMPAT_F_*`
        NFTA_RULE_COMPAT_FLAGS = 2 => flags: Option<u32>,
    }
}

crate::netfilter::visit!(Compat { plain: [proto, flags] });
