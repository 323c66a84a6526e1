//! Messages of nf_tables: the payload after `struct nlmsghdr`.
//!
//! `net/netfilter/nf_tables_api.c`: `nf_tables_fill_table_info`, `nf_tables_fill_chain_info`,
//! `nf_tables_fill_rule_info`, `nf_tables_fill_set`, `nf_tables_fill_setelem`, `nf_tables_fill_gen_info`; read in 5.4,
//! 6.1, 6.12.

mod chain;
mod elements;
mod generation;
mod rule;
mod set;
mod table;

use super::uapi::{
    NFT_MSG_NEWCHAIN, NFT_MSG_NEWGEN, NFT_MSG_NEWRULE, NFT_MSG_NEWSET, NFT_MSG_NEWSETELEM, NFT_MSG_NEWTABLE,
};
use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::{Error, Result, Visit, Visitor};

pub use chain::*;
pub use elements::*;
pub use generation::*;
pub use rule::*;
pub use set::*;
pub use table::*;

macro_rules! messages {
    ($($variant:ident = $kind:ident,)*) => {
        /// A message in the kernel's responses.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Body<'a> {
            $(#[doc = concat!("`", stringify!($kind), "`")] $variant($variant<'a>),)*
        }

        impl<'a> Body<'a> {
            /// Parses the attributes of a message of this type.
            ///
            /// # Errors
            /// An unknown type, or a missing attribute.
            pub fn parse(kind: u16, bytes: &'a [u8]) -> Result<Self> {
                match kind {
                    $($kind => AttributeValue::parse(bytes).map(Self::$variant),)*
                    _ => Err(Error::unexpected("nothing is known about messages of this type")),
                }
            }

            /// The message type.
            pub fn kind(&self) -> u16 {
                match self {
                    $(Self::$variant(_) => $kind,)*
                }
            }
        }

        $(impl<'a> From<$variant<'a>> for Body<'a> {
            fn from(fields: $variant<'a>) -> Self {
                Self::$variant(fields)
            }
        })*

        impl Emit for Body<'_> {
            fn emit(&self, out: &mut MessageWriter) {
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
pub struct NftMessage<'a> {
    /// Family of the table, and the lower 16 bits of the generation.
    pub header: Nfgenmsg,
    /// The attributes.
    pub body: Body<'a>,
}

impl<'a> NftMessage<'a> {
    /// Parses type and payload.
    ///
    /// # Errors
    /// An unknown type, or a missing attribute.
    pub fn parse(kind: u16, bytes: &'a [u8]) -> Result<Self> {
        let (header, rest) = Nfgenmsg::split(bytes)?;
        Ok(Self { header, body: Body::parse(kind, rest)? })
    }

    /// Writes the payload.
    pub fn emit(&self, out: &mut MessageWriter) {
        self.header.emit(out);
        self.body.emit(out);
    }
}
