//! Elements of ipsets: dimensions of each set type, and decoding of elements.
//!
//! Kernel sources: `net/netfilter/ipset/ip_set_hash_*.c`, `ip_set_bitmap_*.c`: their `_uadt` and `data_list`.

use crate::facts::Failure;
use crate::facts::netfilter::{Element, address_key};
use crate::netfilter::ipset::{
    IPSET_FLAG_IFACE_WILDCARD, IPSET_FLAG_NOMATCH, IPSET_FLAG_PHYSDEV, IpsetAddress, IpsetElement, IpsetHeader,
    IpsetMessage,
};
use crate::netfilter::netlink::{AttributeValue as _, Message};
use crate::netfilter::nfnetlink::Nfgenmsg;

/// A dimension of a set type, by its attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dimension {
    /// `IPSET_ATTR_IP`
    Address,
    /// `IPSET_ATTR_IP2`
    Address2,
    /// `IPSET_ATTR_PORT` with `IPSET_ATTR_PROTO`
    Port,
    /// `IPSET_ATTR_PORT` for a type without protocol
    BarePort,
    /// `IPSET_ATTR_IFACE`
    Interface,
    /// `IPSET_ATTR_MARK`
    Mark,
}

/// Supported types. For networks, a test without prefix length tries every length, as for a packet.
const TYPES: &[(&str, &[Dimension])] = &[
    ("hash:ip", &[Dimension::Address]),
    ("hash:net", &[Dimension::Address]),
    ("bitmap:ip", &[Dimension::Address]),
    ("bitmap:port", &[Dimension::BarePort]),
    ("hash:ip,port", &[Dimension::Address, Dimension::Port]),
    ("hash:net,port", &[Dimension::Address, Dimension::Port]),
    ("hash:ip,port,ip", &[Dimension::Address, Dimension::Port, Dimension::Address2]),
    ("hash:ip,port,net", &[Dimension::Address, Dimension::Port, Dimension::Address2]),
    ("hash:net,net", &[Dimension::Address, Dimension::Address2]),
    ("hash:net,port,net", &[Dimension::Address, Dimension::Port, Dimension::Address2]),
    ("hash:net,iface", &[Dimension::Address, Dimension::Interface]),
    ("hash:ip,mark", &[Dimension::Address, Dimension::Mark]),
];
/// The type with sets as members.
pub(crate) const LIST: &str = "list:set";

/// Dimensions of a type; `None`: not supported.
pub(crate) fn dimensions(kind: &str) -> Option<&'static [Dimension]> {
    TYPES.iter().find(|(known, _)| *known == kind).map(|(_, dimensions)| *dimensions)
}

/// One message of the response to `IPSET_CMD_LIST`. A port gives two ranges, of protocols and of ports.
pub(crate) fn decode_members(message: &Message<'_>, dimensions: &[Dimension]) -> Result<Vec<Element>, Failure> {
    let (_, message): (_, IpsetMessage<'_>) = Nfgenmsg::parse(message.body)?;
    if let Some(data) = &message.data {
        let header = IpsetHeader::parse(&data.0)?;
        if header.bitmask.is_some() || header.netmask.is_some() || header.markmask.is_some_and(|mask| mask != u32::MAX)
        {
            return Err(Failure::unsupported("the set looks up parts of addresses or marks"));
        }
    }
    message.elements()?.iter().map(|element| decode_member(element, dimensions)).collect()
}

fn decode_member(data: &IpsetElement<'_>, dimensions: &[Dimension]) -> Result<Element, Failure> {
    let missing = || Failure::unsupported("an element of the set is not understood");
    let address = |found: &Option<IpsetAddress<'_>>| found.as_ref().and_then(IpsetAddress::address);
    let flags = data.flags.unwrap_or(0);
    if flags & (IPSET_FLAG_NOMATCH | IPSET_FLAG_PHYSDEV) != 0 {
        return Err(missing());
    }
    let mut ranges = Vec::new();
    for dimension in dimensions {
        match dimension {
            Dimension::Address | Dimension::Address2 => {
                let (first, last, cidr) = match dimension {
                    Dimension::Address => (&data.ip, &data.ip_to, data.cidr),
                    _ => (&data.ip2, &data.ip2_to, data.cidr2),
                };
                let first = address(first).ok_or_else(missing)?;
                let width = if first.is_ipv6() { 128u32 } else { 32 };
                let low = match cidr {
                    Some(length) => (u128::MAX >> (128 - width)).checked_shr(length.into()).unwrap_or(0),
                    None => 0,
                };
                let network = address_key(first) & !low;
                let last = address(last).map_or(network | low, address_key);
                ranges.push((network, last));
            }
            Dimension::Port | Dimension::BarePort => {
                let protocol = data.proto.filter(|_| *dimension == Dimension::Port).map(u128::from);
                let first = data.port.ok_or_else(missing)?;
                let last = data.port_to.unwrap_or(first);
                ranges.push(protocol.map_or((0, 0xff), |protocol| (protocol, protocol)));
                ranges.push((first.into(), last.into()));
            }
            Dimension::Interface => {
                let name = data.iface.as_ref().ok_or_else(missing)?.as_bytes();
                let mut bytes = [0; 16];
                bytes.get_mut(..name.len()).ok_or_else(missing)?.copy_from_slice(name);
                let first = u128::from_be_bytes(bytes);
                let low = u128::MAX.checked_shr(8 * name.len() as u32).unwrap_or(0);
                ranges.push((first, if flags & IPSET_FLAG_IFACE_WILDCARD != 0 { first | low } else { first }));
            }
            Dimension::Mark => {
                let mark = data.mark.ok_or_else(missing)?.into();
                ranges.push((mark, mark));
            }
        }
    }
    Ok(ranges)
}
