//! Netlink messages and attributes.
//!
//! Kernel: `lib/nlattr.c`, `include/net/netlink.h`, `net/netlink/af_netlink.c`. Message flags come from neli.

mod attributes;
mod block;
mod list;
mod message;
pub mod rtnl;
mod value;
mod writer;

pub use attributes::{Attribute, Attributes, NLA_F_NESTED, NLA_F_NET_BYTEORDER, attributes, put, put_nested};
pub(crate) use block::attributes as block;
pub use block::{BlockLayout, BlockWriter, Slot, rank};
pub use list::{AttributeList, NFTA_LIST_ELEM};
pub use message::{
    HEADER_LENGTH, Message, NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR, frame, has_attribute, is_control,
    message, messages, sequence, split_message,
};
pub use value::{AttributeValue, Emit, Nest, Text};
pub use writer::MessageWriter;
