//! ipset messages.
//!
//! `include/uapi/linux/netfilter/ipset/ip_set.h`, read in 6.12; attribute types are with their messages.

mod message;

pub use message::*;

/// `NFNL_SUBSYS_IPSET`
pub const NFNL_SUBSYS_IPSET: u16 = 6;
/// Requests the supported protocol versions.
pub const IPSET_CMD_PROTOCOL: u16 = NFNL_SUBSYS_IPSET << 8 | 1;
/// Requests sets with their elements.
pub const IPSET_CMD_LIST: u16 = NFNL_SUBSYS_IPSET << 8 | 7;
/// Tests whether an element is in a set; the errno is the result.
pub const IPSET_CMD_TEST: u16 = NFNL_SUBSYS_IPSET << 8 | 11;
/// Requests type and family of a set.
pub const IPSET_CMD_HEADER: u16 = NFNL_SUBSYS_IPSET << 8 | 12;
/// Requests the index of a set by name; protocol 7, like the next one.
pub const IPSET_CMD_GET_BYNAME: u16 = NFNL_SUBSYS_IPSET << 8 | 14;
/// Requests the name of a set by index.
pub const IPSET_CMD_GET_BYINDEX: u16 = NFNL_SUBSYS_IPSET << 8 | 15;
/// First protocol version with [`IPSET_CMD_GET_BYINDEX`], in Linux since late 2018.
pub const IPSET_PROTOCOL: u8 = 7;
/// Error of [`IPSET_CMD_TEST`]: the element is not in the set.
pub const IPSET_ERR_EXIST: i32 = 4103;
/// For [`IPSET_CMD_LIST`], in [`IpsetMessage::flags`]: leave out elements.
pub const IPSET_FLAG_LIST_HEADER: u32 = 1 << 2;
/// In [`IpsetElement::flags`]: an exception; the element is not in the set, whatever other elements are.
pub const IPSET_FLAG_NOMATCH: u32 = 1 << 2;
/// The device is a bridge port
pub const IPSET_FLAG_PHYSDEV: u32 = 1 << 1;
/// The device name is a prefix
pub const IPSET_FLAG_IFACE_WILDCARD: u32 = 1 << 7;
