//! Elements of sets and maps: `nf_tables_fill_setelem`.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeList, AttributeValue, Nest, Text};
use crate::netfilter::nftables::{Data, Expression, visit_statements};
use crate::netfilter::{Result, Visit, Visitor};

crate::netfilter::attributes! {
    /// Elements of a set.
    SetElements {
        /// Name of the table
        NFTA_SET_ELEM_LIST_TABLE = 1 => table: Text<'a>,
        /// Name of the set
        NFTA_SET_ELEM_LIST_SET = 2 => set: Option<Text<'a>>,
        /// The elements
        NFTA_SET_ELEM_LIST_ELEMENTS = 3 => elements: Option<AttributeList<'a, SetElement<'a>>>,
        /// Id of the set within a batch
        NFTA_SET_ELEM_LIST_SET_ID = 4 => set_id: Option<u32>,
    }
}

impl SetElements<'_> {
    /// The elements.
    pub fn elements(&self) -> &[SetElement<'_>] {
        self.elements.as_ref().map(|list| list.elements.as_slice()).unwrap_or_default()
    }
}

impl Visit for SetElements<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { table, set, elements, set_id: _, layout } = self;
        visitor.elements_of(table.as_bytes(), set.as_ref().map(Text::as_bytes).unwrap_or_default());
        visitor.table(table);
        set.iter_mut().for_each(|name| visitor.set(name));
        elements.iter_mut().for_each(|elements| elements.visit(visitor));
        layout.visit(visitor);
    }
}

crate::netfilter::attributes! {
    /// An element of a set or a map.
    SetElement {
        /// Key, or first key of an interval
        NFTA_SET_ELEM_KEY = 1 => key: Option<Data<'a>>,
        /// Last key of an interval
        NFTA_SET_ELEM_KEY_END = 10 => key_end: Option<Data<'a>>,
        /// A map's data
        NFTA_SET_ELEM_DATA = 2 => data: Option<Data<'a>>,
        /// A statement of the element
        NFTA_SET_ELEM_EXPR = 7 => expr: Option<Nest<'a>>,
        /// Several statements
        NFTA_SET_ELEM_EXPRESSIONS = 11 => expressions: Option<Nest<'a>>,
        /// Name of an object map's object
        NFTA_SET_ELEM_OBJREF = 9 => objref: Option<Text<'a>>,
        /// `NFT_SET_ELEM_*`
        NFTA_SET_ELEM_FLAGS = 3 => flags: Option<u32>,
        /// Timeout, milliseconds
        NFTA_SET_ELEM_TIMEOUT = 4 => timeout: Option<u64>,
        /// Remaining time, milliseconds
        NFTA_SET_ELEM_EXPIRATION = 5 => expiration: Option<u64>,
        /// Type, length, value
        NFTA_SET_ELEM_USERDATA = 6 => userdata: Option<Cow<'a, [u8]>>,
    }
}

impl SetElement<'_> {
    /// Its statements.
    ///
    /// # Errors
    /// A malformed statement.
    pub fn statements(&self) -> Result<Vec<Expression<'_>>> {
        let one = self.expr.iter().map(|statement| Expression::parse(&statement.0));
        let mut statements = one.collect::<Result<Vec<_>>>()?;
        if let Some(list) = &self.expressions {
            statements.extend(AttributeList::parse(&list.0)?.elements);
        }
        Ok(statements)
    }
}

impl Visit for SetElement<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            key,
            key_end,
            data,
            expr,
            expressions,
            objref,
            flags: _,
            timeout: _,
            expiration: _,
            userdata,
            layout,
        } = self;
        for key in [key, key_end].into_iter().flatten() {
            key.with_value(visitor, Visitor::key);
        }
        data.iter_mut().for_each(|data| data.with_value(visitor, Visitor::mapped));
        expr.iter_mut().for_each(|statement| visit_statements(statement, false, visitor));
        expressions.iter_mut().for_each(|statements| visit_statements(statements, true, visitor));
        objref.iter_mut().for_each(|name| visitor.hidden(name));
        userdata.iter_mut().for_each(|data| visitor.hidden(data));
        layout.visit(visitor);
    }
}
