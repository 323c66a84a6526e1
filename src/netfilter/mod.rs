//! Parsers and writers for the binary interfaces of netfilter: netlink, nf_tables, x_tables, ipset, conntrack.
//!
//! Each message, expression, match and target is a type in a file of its own, with its attributes or fields, the
//! kernel's file and function, and the versions that were read. Unknown parts are kept as bytes, so `emit(parse(bytes))
//! == bytes` for everything that a kernel writes. Parsers are total: any bytes give a value or an [`Error`].
//!
//! Nothing here sends requests or depends on the rest of the crate.

pub mod conntrack;
pub mod error;
pub mod ipset;
pub mod netlink;
pub mod nfnetlink;
pub mod nftables;
mod visit;
pub mod xtables;

pub use error::{Error, Result, array};
pub(crate) use netlink::block as attributes;
pub(crate) use visit::visit;
pub use visit::{Visit, Visitor, Zero};
pub(crate) use xtables::layout::layout;
