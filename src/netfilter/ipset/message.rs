//! ipset messages: the attributes after `struct nfgenmsg`, in requests and responses.
//!
//! `net/netfilter/ipset/ip_set_core.c`: `ip_set_dump_do`, `ip_set_header`, `ip_set_byindex`, `ip_set_protocol`,
//! `call_ad`; `ip_set_hash_gen.h`: `mtype_head`, `mtype_list`; read in 5.4, 6.1, 6.12. Nested attributes have
//! `NLA_F_NESTED`, and multi-byte numbers `NLA_F_NET_BYTEORDER`; of addresses only those in requests.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter, Nest, Text, attributes};
use crate::netfilter::{Result, Visit, Visitor};

/// Visits a nested block that is parsed on demand; a malformed one is zeroed.
macro_rules! visit_block {
    ($type:ident, $block:expr, $visitor:expr) => {{
        let bytes = $block.to_vec();
        let mut out = MessageWriter::kernel();
        if let Ok(mut block) = $type::parse(&bytes) {
            block.visit($visitor);
            block.emit(&mut out);
        }
        *$block = out.finish().into();
        $block.to_mut().resize(bytes.len(), 0);
    }};
}
crate::netfilter::attributes! {
    /// Any message.
    IpsetMessage {
        /// Protocol version
        IPSET_ATTR_PROTOCOL = 1 => protocol: u8,
        /// Name of the set
        IPSET_ATTR_SETNAME = 2 => set: Option<Text<'a>>,
        /// Name of its type: `hash:ip,port`
        IPSET_ATTR_TYPENAME = 3 => kind: Option<Text<'a>>,
        /// `NFPROTO_*`; 0 if the type has no addresses
        IPSET_ATTR_FAMILY = 5 => family: Option<u8>,
        /// Revision of the type
        IPSET_ATTR_REVISION = 4 => revision: Option<u8>,
        /// Index of the set, which rules contain
        IPSET_ATTR_INDEX = 11 => index: Option<u16>,
        /// `IPSET_FLAG_*` of the command
        IPSET_ATTR_FLAGS = 6 => flags: Option<u32>,
        /// [`IpsetHeader`] in lists, [`IpsetElement`] in tests
        IPSET_ATTR_DATA = 7 => data: Option<Nest<'a>>,
        /// See [`IpsetMessage::elements`]
        IPSET_ATTR_ADT = 8 => adt: Option<Nest<'a>>,
    }
}

impl Visit for IpsetMessage<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { protocol: _, set, kind: _, family: _, revision: _, index: _, flags: _, data, adt, layout } = self;
        set.iter_mut().for_each(|name| visitor.set(name));
        data.iter_mut().for_each(|header| visit_block!(IpsetHeader, &mut header.0, visitor));
        if let Some(elements) = adt {
            let mut out = MessageWriter::kernel();
            let bytes = elements.0.to_vec();
            for element in attributes(&bytes, "IPSET_ATTR_ADT").map_while(Result::ok) {
                let mut body = Cow::Borrowed(element.body);
                visit_block!(IpsetElement, &mut body, visitor);
                out.attribute(element.kind | element.flags, |out| out.bytes(&body));
            }
            let visited = out.finish();
            if visited.len() == bytes.len() {
                elements.0 = visited.into();
            } else {
                visitor.hidden(elements);
            }
        }
        layout.visit(visitor);
    }
}

impl IpsetMessage<'_> {
    /// Elements of the set.
    ///
    /// # Errors
    /// A malformed element.
    pub fn elements(&self) -> Result<Vec<IpsetElement<'_>>> {
        let block = self.adt.as_ref().map(|adt| adt.0.as_ref()).unwrap_or_default();
        attributes(block, "IPSET_ATTR_ADT").map(|element| AttributeValue::parse(element?.body)).collect()
    }
}

crate::netfilter::attributes! {
    /// Creation parameters and size of a set.
    IpsetHeader {
        /// Prefix length that addresses are masked with
        IPSET_ATTR_NETMASK = 20 => netmask: Option<u8>,
        /// Mask for marks
        IPSET_ATTR_MARKMASK = 11 => markmask: Option<u32>,
        /// Mask for addresses: see [`IpsetAddress`]
        IPSET_ATTR_BITMASK = 12 => bitmask: Option<Nest<'a>>,
        /// Number of elements (since Linux 4.9)
        IPSET_ATTR_ELEMENTS = 24 => elements: Option<u32>,
    }
}

crate::netfilter::visit!(IpsetHeader { plain: [netmask, markmask, elements], hidden: [bitmask] });

crate::netfilter::attributes! {
    /// An element of a set.
    IpsetElement {
        /// The address, or the first of a range
        IPSET_ATTR_IP = 1 => ip: Option<IpsetAddress<'a>>,
        /// The last address
        IPSET_ATTR_IP_TO = 2 => ip_to: Option<IpsetAddress<'a>>,
        /// The port, or the first of a range
        IPSET_ATTR_PORT = 4 => port: Option<u16>,
        /// The last port
        IPSET_ATTR_PORT_TO = 5 => port_to: Option<u16>,
        /// Prefix length
        IPSET_ATTR_CIDR = 3 => cidr: Option<u8>,
        /// `IPPROTO_*` of the port
        IPSET_ATTR_PROTO = 7 => proto: Option<u8>,
        /// The second address, or the first of a range
        IPSET_ATTR_IP2 = 20 => ip2: Option<IpsetAddress<'a>>,
        /// The last second address
        IPSET_ATTR_IP2_TO = 22 => ip2_to: Option<IpsetAddress<'a>>,
        /// Prefix length of the second address
        IPSET_ATTR_CIDR2 = 21 => cidr2: Option<u8>,
        /// The mark, masked with the set's mask
        IPSET_ATTR_MARK = 10 => mark: Option<u32>,
        /// Name of the member set, in a `list:set`
        IPSET_ATTR_NAME = 18 => name: Option<Text<'a>>,
        /// Name of a device
        IPSET_ATTR_IFACE = 23 => iface: Option<Text<'a>>,
        /// `IPSET_FLAG_*` of elements
        IPSET_ATTR_CADT_FLAGS = 8 => flags: Option<u32>,
    }
}

impl Visit for IpsetElement<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self {
            ip,
            ip_to,
            port: _,
            port_to: _,
            cidr,
            proto: _,
            ip2,
            ip2_to,
            cidr2,
            mark: _,
            name,
            iface,
            flags: _,
            layout,
        } = self;
        name.iter_mut().for_each(|name| visitor.set(name));
        iface.iter_mut().for_each(|name| visitor.device(name));
        for (first, last, prefix) in [(ip, ip_to, cidr), (ip2, ip2_to, cidr2)] {
            let Some(first) = first else { continue };
            first.layout.visit(visitor);
            let mut nowhere = IpsetAddress::default();
            let last = last.as_mut().unwrap_or(&mut nowhere);
            last.layout.visit(visitor);
            visit_network(&mut first.ipv4, &mut last.ipv4, *prefix, visitor, (u32::to_be_bytes, u32::from_be_bytes));
            visit_network(&mut first.ipv6, &mut last.ipv6, *prefix, visitor, (u128::to_be_bytes, u128::from_be_bytes));
        }
        layout.visit(visitor);
    }
}

/// An address, or the ends of a range, as numbers.
fn visit_network<T: Copy, V: Visitor, const N: usize>(
    first: &mut Option<T>,
    last: &mut Option<T>,
    prefix: Option<u8>,
    visitor: &mut V,
    (bytes, number): (impl Fn(T) -> [u8; N], impl Fn([u8; N]) -> T),
) {
    let (mut from, mut to) = (first.map(&bytes), last.map(&bytes));
    match (&mut from, &mut to) {
        (Some(from), to) => visitor.network(from, to.as_mut().map(|to| &mut to[..]), prefix),
        (None, Some(to)) => visitor.network(to, None, None),
        (None, None) => {}
    }
    (*first, *last) = (from.map(&number), to.map(&number));
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
    /// The address; `None` if of neither family.
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
