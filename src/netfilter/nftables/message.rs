//! Messages of nf_tables: what follows `struct nlmsghdr`.
//!
//! `net/netfilter/nf_tables_api.c`: `nf_tables_fill_table_info`, `nf_tables_fill_chain_info`, `nf_tables_fill_rule_info`,
//! `nf_tables_fill_set`, `nf_tables_fill_setelem`, `nf_tables_fill_gen_info`; read in 5.4, 6.1, 6.12.

use std::borrow::Cow;

use super::uapi::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWGEN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
};
use super::{Data, Expression};
use crate::netfilter::netlink::{Emit, List, Nest, Text, Value, Writer};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::{Error, Result, Visit, Visitor};

crate::attributes! {
    /// A table.
    Table {
        /// Name
        NFTA_TABLE_NAME = 1 => name: Text<'a>,
        /// Chains, sets, objects and flowtables in it
        NFTA_TABLE_USE = 3 => used: Option<u32>,
        /// Number of the table
        NFTA_TABLE_HANDLE = 4 => handle: Option<u64>,
        /// `NFT_TABLE_F_*`
        NFTA_TABLE_FLAGS = 2 => flags: Option<u32>,
        /// Netlink port of the program that owns it
        NFTA_TABLE_OWNER = 7 => owner: Option<u32>,
        /// Type, length, value
        NFTA_TABLE_USERDATA = 6 => userdata: Option<Cow<'a, [u8]>>,
    }
}

crate::visit!(Table { plain: [name, used, handle, flags, owner], user_data: [userdata] });

crate::attributes! {
    /// A chain.
    Chain {
        /// Name of its table
        NFTA_CHAIN_TABLE = 1 => table: Text<'a>,
        /// Name
        NFTA_CHAIN_NAME = 3 => name: Option<Text<'a>>,
        /// Number of the chain
        NFTA_CHAIN_HANDLE = 2 => handle: Option<u64>,
        /// Where it is called, if it is a base chain
        NFTA_CHAIN_HOOK = 4 => hook: Option<Hook<'a>>,
        /// `NF_ACCEPT` or `NF_DROP` at its end
        NFTA_CHAIN_POLICY = 5 => policy: Option<u32>,
        /// `filter`, `nat` or `route`
        NFTA_CHAIN_TYPE = 7 => kind: Option<Text<'a>>,
        /// Packets that came to its end
        NFTA_CHAIN_COUNTERS = 8 => counters: Option<Nest<'a>>,
        /// `NFT_CHAIN_*`
        NFTA_CHAIN_FLAGS = 10 => flags: Option<u32>,
        /// Its rules, and the rules and elements that lead to it
        NFTA_CHAIN_USE = 6 => used: Option<u32>,
        /// Number within a batch
        NFTA_CHAIN_ID = 11 => id: Option<u32>,
        /// Type, length, value
        NFTA_CHAIN_USERDATA = 12 => userdata: Option<Cow<'a, [u8]>>,
    }
}

crate::visit!(Chain {
    plain: [table, handle, policy, kind, counters, flags, used, id],
    chain: [name],
    nested: [hook],
    user_data: [userdata],
});

crate::attributes! {
    /// Where a base chain is called.
    Hook {
        /// `NF_INET_*` or `NF_NETDEV_*`
        NFTA_HOOK_HOOKNUM = 1 => hooknum: u32,
        /// A signed number: the lower first
        NFTA_HOOK_PRIORITY = 2 => priority: u32,
        /// The only device
        NFTA_HOOK_DEV = 3 => dev: Option<Text<'a>>,
        /// Devices
        NFTA_HOOK_DEVS = 4 => devs: Option<Devices<'a>>,
    }
}

crate::visit!(Hook { plain: [hooknum, priority, dev, devs] });

/// `NFTA_DEVICE_NAME`: the whole name of a device.
pub const NFTA_DEVICE_NAME: u16 = 1;
/// `NFTA_DEVICE_PREFIX`: what names of devices begin with (Linux 6.17).
pub const NFTA_DEVICE_PREFIX: u16 = 2;

/// A list of devices: type and name of each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Devices<'a>(pub Vec<(u16, Text<'a>)>);

impl<'a> Value<'a> for Devices<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        let devices = crate::netfilter::netlink::attributes(bytes, "NFTA_HOOK_DEVS").map(|device| {
            let device = device?;
            Ok((device.kind | device.flags, Text(device.body.into())))
        });
        devices.collect::<Result<_>>().map(Self)
    }
}

impl Emit for Devices<'_> {
    const NESTED: bool = true;

    fn emit(&self, out: &mut Writer) {
        for (kind, name) in &self.0 {
            out.attribute(*kind, |out| name.emit(out));
        }
    }
}

crate::attributes! {
    /// A rule.
    Rule {
        /// Name of its table
        NFTA_RULE_TABLE = 1 => table: Text<'a>,
        /// Name of its chain
        NFTA_RULE_CHAIN = 2 => chain: Option<Text<'a>>,
        /// Number of the rule
        NFTA_RULE_HANDLE = 3 => handle: Option<u64>,
        /// Number of the rule before it
        NFTA_RULE_POSITION = 6 => position: Option<u64>,
        /// What it tests and does
        NFTA_RULE_EXPRESSIONS = 4 => expressions: Option<List<'a, Expression<'a>>>,
        /// Type, length, value
        NFTA_RULE_USERDATA = 7 => userdata: Option<Cow<'a, [u8]>>,
        /// Protocol that iptables-nft tells
        NFTA_RULE_COMPAT = 5 => compat: Option<Nest<'a>>,
        /// Number within a batch
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
        let Self { table: _, chain, handle: _, position: _, expressions, userdata, compat: _, id: _, layout } = self;
        chain.iter_mut().for_each(|name| visitor.chain(name));
        if let Some(List { elements, layout }) = expressions {
            elements.iter_mut().enumerate().for_each(|(at, expression)| visitor.expression(at, expression));
            layout.visit(visitor);
        }
        userdata.iter_mut().for_each(|data| visitor.user_data(data));
        layout.visit(visitor);
    }
}

crate::attributes! {
    /// A set or a map.
    Set {
        /// Name of its table
        NFTA_SET_TABLE = 1 => table: Text<'a>,
        /// Name
        NFTA_SET_NAME = 2 => name: Text<'a>,
        /// Number of the set
        NFTA_SET_HANDLE = 16 => handle: Option<u64>,
        /// `NFT_SET_*`
        NFTA_SET_FLAGS = 3 => flags: Option<u32>,
        /// What nft says that keys are
        NFTA_SET_KEY_TYPE = 4 => key_type: Option<u32>,
        /// Bytes of a key
        NFTA_SET_KEY_LEN = 5 => key_len: u32,
        /// What nft says that a map has
        NFTA_SET_DATA_TYPE = 6 => data_type: Option<u32>,
        /// Bytes of that
        NFTA_SET_DATA_LEN = 7 => data_len: Option<u32>,
        /// `NFT_OBJECT_*`, of a map of objects
        NFTA_SET_OBJ_TYPE = 15 => obj_type: Option<u32>,
        /// Milliseconds
        NFTA_SET_TIMEOUT = 11 => timeout: Option<u64>,
        /// Milliseconds
        NFTA_SET_GC_INTERVAL = 12 => gc_interval: Option<u32>,
        /// `NFT_SET_POL_*`
        NFTA_SET_POLICY = 8 => policy: Option<u32>,
        /// Type, length, value
        NFTA_SET_USERDATA = 13 => userdata: Option<Cow<'a, [u8]>>,
        /// Its size, and the fields of a key
        NFTA_SET_DESC = 9 => desc: Option<Nest<'a>>,
        /// A statement of each element
        NFTA_SET_EXPR = 17 => expr: Option<Nest<'a>>,
        /// Several of them
        NFTA_SET_EXPRESSIONS = 18 => expressions: Option<Nest<'a>>,
        /// Number within a batch
        NFTA_SET_ID = 10 => id: Option<u32>,
    }
}

crate::visit!(Set {
    plain: [
        table,
        handle,
        flags,
        key_type,
        key_len,
        data_type,
        data_len,
        obj_type,
        timeout,
        gc_interval,
        policy,
        desc,
        id
    ],
    set: [name],
    hidden: [userdata, expr, expressions],
});

crate::attributes! {
    /// Elements of a set.
    SetElements {
        /// Name of the table
        NFTA_SET_ELEM_LIST_TABLE = 1 => table: Text<'a>,
        /// Name of the set
        NFTA_SET_ELEM_LIST_SET = 2 => set: Option<Text<'a>>,
        /// The elements
        NFTA_SET_ELEM_LIST_ELEMENTS = 3 => elements: Option<List<'a, SetElement<'a>>>,
        /// Number of the set within a batch
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
        set.iter_mut().for_each(|name| visitor.set(name));
        elements.iter_mut().for_each(|elements| elements.visit(visitor));
        layout.visit(visitor);
    }
}

crate::attributes! {
    /// An element of a set or a map.
    SetElement {
        /// The key, or the first of an interval
        NFTA_SET_ELEM_KEY = 1 => key: Option<Data<'a>>,
        /// The last key of an interval
        NFTA_SET_ELEM_KEY_END = 10 => key_end: Option<Data<'a>>,
        /// What a map has for it
        NFTA_SET_ELEM_DATA = 2 => data: Option<Data<'a>>,
        /// A statement of its own
        NFTA_SET_ELEM_EXPR = 7 => expr: Option<Nest<'a>>,
        /// Several of them
        NFTA_SET_ELEM_EXPRESSIONS = 11 => expressions: Option<Nest<'a>>,
        /// Name of the object that a map has for it
        NFTA_SET_ELEM_OBJREF = 9 => objref: Option<Text<'a>>,
        /// `NFT_SET_ELEM_*`
        NFTA_SET_ELEM_FLAGS = 3 => flags: Option<u32>,
        /// Milliseconds
        NFTA_SET_ELEM_TIMEOUT = 4 => timeout: Option<u64>,
        /// Milliseconds that are left
        NFTA_SET_ELEM_EXPIRATION = 5 => expiration: Option<u64>,
        /// Type, length, value
        NFTA_SET_ELEM_USERDATA = 6 => userdata: Option<Cow<'a, [u8]>>,
    }
}

impl SetElement<'_> {
    /// The statements of its own: name and attributes of each.
    ///
    /// # Errors
    /// A broken one.
    pub fn statements(&self) -> Result<Vec<Expression<'_>>> {
        let one = self.expr.iter().map(|statement| Expression::parse(&statement.0));
        let mut statements = one.collect::<Result<Vec<_>>>()?;
        if let Some(list) = &self.expressions {
            statements.extend(List::parse(&list.0)?.elements);
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
        data.iter_mut().for_each(|data| data.with_value(visitor, Visitor::hidden));
        [expr, expressions].into_iter().flatten().for_each(|statements| visitor.hidden(statements));
        objref.iter_mut().for_each(|name| visitor.hidden(name));
        userdata.iter_mut().for_each(|data| visitor.hidden(data));
        layout.visit(visitor);
    }
}

crate::attributes! {
    /// The generation of the rule set.
    Generation {
        /// Raised by each change
        NFTA_GEN_ID = 1 => id: u32,
        /// Process that made the last one
        NFTA_GEN_PROC_PID = 2 => proc_pid: Option<u32>,
        /// Its name
        NFTA_GEN_PROC_NAME = 3 => proc_name: Option<Text<'a>>,
    }
}

crate::visit!(Generation { plain: [id], hidden: [proc_pid, proc_name] });

macro_rules! messages {
    ($($variant:ident = $kind:ident,)*) => {
        /// A message that the kernel answers with.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Body<'a> {
            $(#[doc = concat!("`", stringify!($kind), "`")] $variant($variant<'a>),)*
        }

        impl<'a> Body<'a> {
            /// From the type and what follows the headers.
            ///
            /// # Errors
            /// A type that is not known, or a message that lacks something.
            pub fn parse(kind: u16, bytes: &'a [u8]) -> Result<Self> {
                match kind {
                    $($kind => Value::parse(bytes).map(Self::$variant),)*
                    _ => Err(Error::unexpected("nothing is known about messages of this type")),
                }
            }
        }

        $(impl<'a> From<$variant<'a>> for Body<'a> {
            fn from(fields: $variant<'a>) -> Self {
                Self::$variant(fields)
            }
        })*

        impl Emit for Body<'_> {
            fn emit(&self, out: &mut Writer) {
                match self {
                    $(Self::$variant(fields) => fields.emit(out),)*
                }
            }
        }

        impl Visit for Body<'_> {
            fn visit<V: Visitor>(&mut self, visitor: &mut V) {
                match self {
                    $(Self::$variant(fields) => fields.visit(visitor),)*
                }
            }
        }
    };
}

messages! {
    Table = NFT_MSG_NEWTABLE,
    Chain = NFT_MSG_NEWCHAIN,
    Rule = NFT_MSG_NEWRULE,
    Set = NFT_MSG_NEWSET,
    SetElements = NFT_MSG_NEWSETELEM,
    Generation = NFT_MSG_NEWGEN,
}

/// A message with its header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Message<'a> {
    /// Family of the table, and the lower 16 bits of the generation.
    pub header: Nfgenmsg,
    /// All the rest.
    pub body: Body<'a>,
}

impl<'a> Message<'a> {
    /// From the type and what follows `struct nlmsghdr`.
    ///
    /// # Errors
    /// A type that is not known, or a message that lacks something.
    pub fn parse(kind: u16, bytes: &'a [u8]) -> Result<Self> {
        let (header, rest) = Nfgenmsg::split(bytes)?;
        Ok(Self { header, body: Body::parse(kind, rest)? })
    }

    /// Writes it.
    pub fn emit(&self, out: &mut Writer) {
        self.header.emit(out);
        self.body.emit(out);
    }
}
