//! A set or a map: `nf_tables_fill_set`.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeList, Emit, MessageWriter, Nest, Text};
use crate::netfilter::{Visit, Visitor};

crate::netfilter::attributes! {
    /// A set or a map.
    Set {
        /// Name of its table
        NFTA_SET_TABLE = 1 => table: Text<'a>,
        /// Name
        NFTA_SET_NAME = 2 => name: Text<'a>,
        /// Handle
        NFTA_SET_HANDLE = 16 => handle: Option<u64>,
        /// `NFT_SET_*`
        NFTA_SET_FLAGS = 3 => flags: Option<u32>,
        /// nft's type of keys
        NFTA_SET_KEY_TYPE = 4 => key_type: Option<u32>,
        /// Length of a key, bytes
        NFTA_SET_KEY_LEN = 5 => key_len: u32,
        /// nft's type of a map's data
        NFTA_SET_DATA_TYPE = 6 => data_type: Option<u32>,
        /// Length of data, bytes
        NFTA_SET_DATA_LEN = 7 => data_len: Option<u32>,
        /// `NFT_OBJECT_*`, for an object map
        NFTA_SET_OBJ_TYPE = 15 => obj_type: Option<u32>,
        /// Default timeout, milliseconds
        NFTA_SET_TIMEOUT = 11 => timeout: Option<u64>,
        /// Interval of garbage collection, milliseconds
        NFTA_SET_GC_INTERVAL = 12 => gc_interval: Option<u32>,
        /// `NFT_SET_POL_*`
        NFTA_SET_POLICY = 8 => policy: Option<u32>,
        /// Type, length, value
        NFTA_SET_USERDATA = 13 => userdata: Option<Cow<'a, [u8]>>,
        /// Size, and fields of a key
        NFTA_SET_DESC = 9 => desc: Option<SetDesc<'a>>,
        /// A statement for each element
        NFTA_SET_EXPR = 17 => expr: Option<Nest<'a>>,
        /// Several statements
        NFTA_SET_EXPRESSIONS = 18 => expressions: Option<Nest<'a>>,
        /// Id within a batch
        NFTA_SET_ID = 10 => id: Option<u32>,
    }
}

impl Visit for Set<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            table,
            name,
            handle: _,
            flags: _,
            key_type: _,
            key_len: _,
            data_type,
            data_len: _,
            obj_type: _,
            timeout: _,
            gc_interval: _,
            policy: _,
            userdata,
            desc,
            expr,
            expressions,
            id: _,
            layout,
        } = self;
        visitor.data_type(table.as_bytes(), name.as_bytes(), data_type.unwrap_or_default());
        visitor.table(table);
        visitor.set(name);
        desc.iter_mut().for_each(|desc| visitor.nested(desc));
        userdata.iter_mut().for_each(|data| visitor.hidden(data));
        [expr, expressions].into_iter().flatten().for_each(|statements| visitor.hidden(statements));
        layout.visit(visitor);
    }
}

/// Identifies a set in requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetName<'a> {
    /// Name of its table
    pub table: Text<'a>,
    /// Name
    pub name: Text<'a>,
}

impl Emit for SetName<'_> {
    fn emit(&self, out: &mut MessageWriter) {
        out.attribute(NFTA_SET_TABLE, |out| self.table.emit(out));
        out.attribute(NFTA_SET_NAME, |out| self.name.emit(out));
    }
}

crate::netfilter::attributes! {
    /// Description of a set.
    SetDesc {
        /// Number of elements
        NFTA_SET_DESC_SIZE = 1 => size: Option<u32>,
        /// The fields of a key
        NFTA_SET_DESC_CONCAT = 2 => concat: Option<AttributeList<'a, SetField<'a>>>,
    }
}

crate::netfilter::visit!(SetDesc { plain: [size], nested: [concat] });

crate::netfilter::attributes! {
    /// A field of a concatenated key.
    SetField {
        /// Length without padding, bytes
        NFTA_SET_FIELD_LEN = 1 => len: Option<u32>,
    }
}

crate::netfilter::visit!(SetField { plain: [len] });
