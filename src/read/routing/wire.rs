//! Decodes responses about addresses, policy rules and routes.

use super::{IFADDRMSG, RTMSG};
use crate::facts::netfilter::Family;
use crate::facts::{Address, Failure, Name, PolicyRule, Route};
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{Attributes, Message};

/// One message of the response to `RTM_GETADDR`.
pub(crate) fn decode_address(message: &Message<'_>) -> Result<Option<Address>, Failure> {
    const IFA_F_SECONDARY: u32 = 1;
    /// `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`
    const UNPREFERRED: u32 = 0x20 | 0x40;
    let attributes = Attributes::after(message.body, IFADDRMSG, "IFA")?;
    let [_, prefix_length, flags, scope] = array(message.body, 0, "ifaddrmsg")?;
    let peer = attributes.address(IFA_ADDRESS)?;
    let Some(address) = attributes.address(IFA_LOCAL)?.or(peer) else { return Ok(None) };
    let flags = attributes.u32(IFA_FLAGS)?.unwrap_or(flags.into());
    Ok(Some(Address {
        link: u32::from_ne_bytes(array(message.body, 4, "ifaddrmsg")?),
        address,
        prefix_length,
        scope,
        peer: peer.unwrap_or(address),
        unpreferred: address.is_ipv6() && flags & UNPREFERRED != 0,
        secondary: flags & IFA_F_SECONDARY != 0,
    }))
}

/// One message of the response to `RTM_GETRULE`.
pub(crate) fn decode_rule(message: &Message<'_>) -> Result<PolicyRule, Failure> {
    /// `include/net/fib_rules.h`
    const FIB_RULE_INVERT: u32 = 2;
    /// The TOS attribute's place, which is in the header.
    const FRA_UNSPEC: u16 = 0;
    const MODELLED: &[u16] = &[FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK];
    let attributes = Attributes::after(message.body, RTMSG, "FRA")?;
    let [family, destination_length, source_length, tos] = array(message.body, 0, "fib_rule_hdr")?;
    let [table, _, _, action] = array(message.body, 4, "fib_rule_hdr")?;
    // The kernel leaves out a mark of 0, but not its mask (`fib_nl_fill_rule`).
    let fwmark = match (attributes.u32(FRA_FWMARK)?, attributes.u32(FRA_FWMASK)?) {
        (None, None) => None,
        (mark, mask) => Some((mark.unwrap_or(0), mask.unwrap_or(u32::MAX))),
    };
    let suppresses = attributes.u32(FRA_SUPPRESS_PREFIXLEN)?.is_some_and(|length| length != u32::MAX);
    let tos = (tos != 0).then_some(FRA_UNSPEC);
    let other = attributes.iter().map(|attribute| attribute.kind).filter(|kind| match *kind {
        FRA_SUPPRESS_PREFIXLEN => suppresses,
        FRA_PROTOCOL => false, // origin of the rule
        kind => !MODELLED.contains(&kind),
    });
    let flags = u32::from_ne_bytes(array(message.body, 8, "fib_rule_hdr")?);
    Ok(PolicyRule {
        inverted: flags & FIB_RULE_INVERT != 0,
        family: if family == Family::Ipv6.nfproto() { Family::Ipv6 } else { Family::Ipv4 },
        priority: attributes.u32(FRA_PRIORITY)?.unwrap_or(0),
        table: attributes.u32(FRA_TABLE)?.unwrap_or(table.into()),
        action,
        fwmark,
        source: attributes.address(FRA_SRC)?.map(|address| (address, source_length)),
        destination: attributes.address(FRA_DST)?.map(|address| (address, destination_length)),
        input: attributes.get(FRA_IIFNAME).map(|name| Name::from_bytes(name.strip_suffix(&[0]).unwrap_or(name))),
        other: other.chain(tos).collect(),
    })
}

/// One message of the response to a dump of `RTM_GETROUTE`.
pub(crate) fn decode_listed(message: &Message<'_>, family: Family) -> Result<Option<Route>, Failure> {
    const RTM_F_CLONED: u32 = 0x200;
    let cloned = u32::from_ne_bytes(array(message.body, 8, "rtmsg")?) & RTM_F_CLONED != 0;
    // If a family is missing, the kernel answers for all others.
    let mine = !cloned && message.body.first() == Some(&family.nfproto());
    if mine { decode_route(message.body).map(Some) } else { Ok(None) }
}

/// `struct rtmsg` and its attributes (`fib_dump_info`, `rt6_fill_node`).
pub(crate) fn decode_route(body: &[u8]) -> Result<Route, Failure> {
    let attributes = Attributes::after(body, RTMSG, "RTA")?;
    let [_, prefix_length, _, tos, table, _, _, kind] = array(body, 0, "rtmsg")?;
    let mut devices: Vec<u32> = attributes.u32(RTA_OIF)?.into_iter().collect();
    if let Some(mut hops) = attributes.get(RTA_MULTIPATH) {
        while !hops.is_empty() {
            let length = u16::from_ne_bytes(array(hops, 0, "rtnexthop")?) as usize;
            devices.push(u32::from_ne_bytes(array(hops, 4, "rtnexthop")?));
            if length < 8 {
                return Err(Failure::unexpected(format!("rtnexthop says {length} bytes")));
            }
            hops = hops.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
    Ok(Route {
        table: attributes.u32(RTA_TABLE)?.unwrap_or(table.into()),
        destination: attributes.address(RTA_DST)?,
        prefix_length,
        kind,
        tos,
        priority: attributes.u32(RTA_PRIORITY)?,
        gateway: attributes.address(RTA_GATEWAY)?,
        preferred_source: attributes.address(RTA_PREFSRC)?,
        devices,
        nexthop: attributes.u32(RTA_NH_ID)?,
    })
}
