//! Messages of ipset: what follows `struct nfgenmsg`, of requests and of answers.
//!
//! `net/netfilter/ipset/ip_set_core.c`: `ip_set_dump_do`, `ip_set_header`, `ip_set_byindex`, `ip_set_protocol`,
//! `call_ad`; `ip_set_hash_gen.h`: `mtype_head`, `mtype_list`; read in 5.4, 6.1, 6.12. Blocks are flagged
//! (`NLA_F_NESTED`), and so are numbers of more than one byte (`NLA_F_NET_BYTEORDER`); of addresses only those of requests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netfilter::Result;
use crate::netfilter::netlink::{Nest, Text, Value, attributes};

crate::netfilter::attributes! {
    /// Any message.
    IpsetMessage {
        /// Version of all this
        IPSET_ATTR_PROTOCOL = 1 => protocol: u8,
        /// Name of the set
        IPSET_ATTR_SETNAME = 2 => set: Option<Text<'a>>,
        /// Name of its type: `hash:ip,port`
        IPSET_ATTR_TYPENAME = 3 => kind: Option<Text<'a>>,
        /// `NFPROTO_*`; 0 where the type has no addresses
        IPSET_ATTR_FAMILY = 5 => family: Option<u8>,
        /// Revision of the type
        IPSET_ATTR_REVISION = 4 => revision: Option<u8>,
        /// Number of the set, by which rules name it
        IPSET_ATTR_INDEX = 11 => index: Option<u16>,
        /// `IPSET_FLAG_*` of commands
        IPSET_ATTR_FLAGS = 6 => flags: Option<u32>,
        /// Of lists [`IpsetHeader`], of tests [`IpsetElement`]
        IPSET_ATTR_DATA = 7 => data: Option<Nest<'a>>,
        /// See [`IpsetMessage::elements`]
        IPSET_ATTR_ADT = 8 => adt: Option<Nest<'a>>,
    }
}

crate::netfilter::visit!(IpsetMessage {
    plain: [protocol, kind, family, revision, index, flags],
    set: [set],
    hidden: [data, adt],
});

impl IpsetMessage<'_> {
    /// Elements of the set.
    ///
    /// # Errors
    /// A broken one.
    pub fn elements(&self) -> Result<Vec<IpsetElement<'_>>> {
        let block = self.adt.as_ref().map(|adt| adt.0.as_ref()).unwrap_or_default();
        attributes(block, "IPSET_ATTR_ADT").map(|element| Value::parse(element?.body)).collect()
    }
}

crate::netfilter::attributes! {
    /// How a set was made, and what is in it.
    IpsetHeader {
        /// Bits of an address that count, from the first
        IPSET_ATTR_NETMASK = 20 => netmask: Option<u8>,
        /// Bits of an address that count: see [`IpsetAddress`]
        IPSET_ATTR_BITMASK = 12 => bitmask: Option<Nest<'a>>,
        /// How many elements it has (since Linux 4.9)
        IPSET_ATTR_ELEMENTS = 24 => elements: Option<u32>,
    }
}

crate::netfilter::attributes! {
    /// An element of a set.
    IpsetElement {
        /// The address, or the first of a range
        IPSET_ATTR_IP = 1 => ip: Option<IpsetAddress<'a>>,
        /// The last of it
        IPSET_ATTR_IP_TO = 2 => ip_to: Option<IpsetAddress<'a>>,
        /// The port, or the first of a range
        IPSET_ATTR_PORT = 4 => port: Option<u16>,
        /// The last of it
        IPSET_ATTR_PORT_TO = 5 => port_to: Option<u16>,
        /// Length of the prefix
        IPSET_ATTR_CIDR = 3 => cidr: Option<u8>,
        /// `IPPROTO_*` of the port
        IPSET_ATTR_PROTO = 7 => proto: Option<u8>,
        /// The second address, or the first of a range
        IPSET_ATTR_IP2 = 20 => ip2: Option<IpsetAddress<'a>>,
        /// The last of it
        IPSET_ATTR_IP2_TO = 22 => ip2_to: Option<IpsetAddress<'a>>,
        /// Length of its prefix
        IPSET_ATTR_CIDR2 = 21 => cidr2: Option<u8>,
        /// `IPSET_FLAG_*` of elements
        IPSET_ATTR_CADT_FLAGS = 8 => flags: Option<u32>,
    }
}

crate::netfilter::attributes! {
    /// An address.
    IpsetAddress {
        /// IPv4
        IPSET_ATTR_IPADDR_IPV4 = 1 => ipv4: Option<u32>,
        /// IPv6
        IPSET_ATTR_IPADDR_IPV6 = 2 => ipv6: Option<u128>,
    }
}

impl IpsetAddress<'_> {
    /// Nothing if it is of neither family.
    pub fn address(&self) -> Option<IpAddr> {
        let v6 = || self.ipv6.map(|bits| Ipv6Addr::from_bits(bits).into());
        self.ipv4.map(|bits| Ipv4Addr::from_bits(bits).into()).or_else(v6)
    }
}

impl From<IpAddr> for IpsetAddress<'_> {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self { ipv4: Some(address.to_bits()), ..Self::default() },
            IpAddr::V6(address) => Self { ipv6: Some(address.to_bits()), ..Self::default() },
        }
    }
}
