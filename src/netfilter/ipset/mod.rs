//! ipset: sets of addresses, ports and networks in the kernel.
//!
//! `include/uapi/linux/netfilter/ipset/ip_set.h`, read in 6.12; types of attributes stand with their messages.

mod message;

pub use message::*;

/// `NFNL_SUBSYS_IPSET`
pub const NFNL_SUBSYS_IPSET: u16 = 6;
/// Asks which protocols the kernel speaks.
pub const IPSET_CMD_PROTOCOL: u16 = NFNL_SUBSYS_IPSET << 8 | 1;
/// Asks for sets with their elements.
pub const IPSET_CMD_LIST: u16 = NFNL_SUBSYS_IPSET << 8 | 7;
/// Asks whether an element is in a set; the errno tells.
pub const IPSET_CMD_TEST: u16 = NFNL_SUBSYS_IPSET << 8 | 11;
/// Asks for type and family of a set.
pub const IPSET_CMD_HEADER: u16 = NFNL_SUBSYS_IPSET << 8 | 12;
/// Asks for the number of a set, by its name; of protocol 7, as the next.
pub const IPSET_CMD_GET_BYNAME: u16 = NFNL_SUBSYS_IPSET << 8 | 14;
/// Asks for the name of a set, by its number.
pub const IPSET_CMD_GET_BYINDEX: u16 = NFNL_SUBSYS_IPSET << 8 | 15;
/// First protocol with [`IPSET_CMD_GET_BYINDEX`]; Linux has it since late 2018.
pub const IPSET_PROTOCOL: u8 = 7;
/// Of [`IPSET_CMD_TEST`]: the element is not in the set.
pub const IPSET_ERR_EXIST: i32 = 4103;
/// Of [`IPSET_CMD_LIST`], in [`IpsetMessage::flags`]: without the elements.
pub const IPSET_FLAG_LIST_HEADER: u32 = 1 << 2;
/// In [`IpsetElement::flags`]: whatever else the set holds, this is not in it.
pub const IPSET_FLAG_NOMATCH: u32 = 1 << 2;
/// The device is the port of a bridge
pub const IPSET_FLAG_PHYSDEV: u32 = 1 << 1;
/// The name of the device is a prefix of names
pub const IPSET_FLAG_IFACE_WILDCARD: u32 = 1 << 7;
