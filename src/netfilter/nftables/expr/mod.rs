//! Expressions of nf_tables: one file each, with the attributes in the order in which the kernel dumps them.
//!
//! `include/uapi/linux/netfilter/nf_tables.h`, `net/netfilter/nft_*.c`; read in 5.4, 6.1, 6.12. Numbers are in network
//! byte order, except those inside values and marks.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter};
use crate::netfilter::{Result, Visit, Visitor};

mod bitwise;
mod byteorder;
mod cmp;
mod connlimit;
mod counter;
mod ct;
mod dup;
mod dynset;
mod exthdr;
mod fib;
mod flow_offload;
mod fwd;
mod hash;
mod immediate;
mod last;
mod limit;
mod log;
mod lookup;
mod masq;
mod meta;
mod nat;
mod notrack;
mod numgen;
mod objref;
mod osf;
mod payload;
mod queue;
mod quota;
mod range;
mod redir;
mod reject;
mod rt;
mod socket;
mod synproxy;
mod tproxy;
mod tunnel;
mod xfrm;
mod xt_match;
mod xt_target;

pub use bitwise::*;
pub use byteorder::*;
pub use cmp::*;
pub use connlimit::*;
pub use counter::*;
pub use ct::*;
pub use dup::*;
pub use dynset::*;
pub use exthdr::*;
pub use fib::*;
pub use flow_offload::*;
pub use fwd::*;
pub use hash::*;
pub use immediate::*;
pub use last::*;
pub use limit::*;
pub use log::*;
pub use lookup::*;
pub use masq::*;
pub use meta::*;
pub use nat::*;
pub use notrack::*;
pub use numgen::*;
pub use objref::*;
pub use osf::*;
pub use payload::*;
pub use queue::*;
pub use quota::*;
pub use range::*;
pub use redir::*;
pub use reject::*;
pub use rt::*;
pub use socket::*;
pub use synproxy::*;
pub use tproxy::*;
pub use tunnel::*;
pub use xfrm::*;
pub use xt_match::*;
pub use xt_target::*;

macro_rules! expressions {
    ($($variant:ident = $name:literal,)*) => {
        /// An expression.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Expr<'a> {
            $(#[doc = concat!("`", $name, "`")] $variant($variant<'a>),)*
            /// An unknown expression.
            Unsupported {
                /// Its name.
                name: Cow<'a, [u8]>,
                /// Its attributes.
                data: Cow<'a, [u8]>,
            },
        }

        impl<'a> Expr<'a> {
            /// Parses an expression by name.
            ///
            /// # Errors
            /// A known expression lacks an attribute, or has a malformed one.
            pub fn parse(name: &'a [u8], data: &'a [u8]) -> Result<Self> {
                Ok(match std::str::from_utf8(name) {
                    $(Ok($name) => Self::$variant(AttributeValue::parse(data).map_err(|error| error.within($name))?),)*
                    _ => Self::Unsupported { name: name.into(), data: data.into() },
                })
            }

            /// Its name.
            pub fn name(&self) -> &[u8] {
                match self {
                    $(Self::$variant(_) => $name.as_bytes(),)*
                    Self::Unsupported { name, .. } => name,
                }
            }

        }

        impl Emit for Expr<'_> {
            const NESTED: bool = true;

            fn emit(&self, out: &mut MessageWriter) {
                match self {
                    $(Self::$variant(fields) => fields.emit(out),)*
                    Self::Unsupported { data, .. } => out.bytes(data),
                }
            }

            fn has_unknown(&self) -> bool {
                match self {
                    $(Self::$variant(fields) => fields.has_unknown(),)*
                    Self::Unsupported { .. } => true,
                }
            }
        }

        impl Visit for Expr<'_> {
            fn visit<V: Visitor>(&mut self, visitor: &mut V) {
                match self {
                    $(Self::$variant(fields) => fields.visit(visitor),)*
                    Self::Unsupported { name: _, data } => visitor.unsupported(data),
                }
            }
        }

        $(impl<'a> From<$variant<'a>> for Expr<'a> {
            fn from(fields: $variant<'a>) -> Self {
                Self::$variant(fields)
            }
        })*
    };
}

expressions! {
    Bitwise = "bitwise",
    Byteorder = "byteorder",
    Cmp = "cmp",
    Connlimit = "connlimit",
    Counter = "counter",
    Ct = "ct",
    Dup = "dup",
    Dynset = "dynset",
    Exthdr = "exthdr",
    Fib = "fib",
    FlowOffload = "flow_offload",
    Fwd = "fwd",
    Hash = "hash",
    Immediate = "immediate",
    Last = "last",
    Limit = "limit",
    Log = "log",
    Lookup = "lookup",
    Masq = "masq",
    Match = "match",
    Meta = "meta",
    Nat = "nat",
    Notrack = "notrack",
    Numgen = "numgen",
    Objref = "objref",
    Osf = "osf",
    Payload = "payload",
    Queue = "queue",
    Quota = "quota",
    Range = "range",
    Redir = "redir",
    Reject = "reject",
    Rt = "rt",
    Socket = "socket",
    Synproxy = "synproxy",
    Target = "target",
    Tproxy = "tproxy",
    Tunnel = "tunnel",
    Xfrm = "xfrm",
}
