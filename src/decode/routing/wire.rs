//! Answers about addresses, policy rules and routes.

use super::{AF_INET, AF_INET6, IFADDRMSG, RTMSG};
use crate::netfilter::array;
use crate::netfilter::netlink::{Attributes, Message};
use crate::snapshot::{Address, Failure, Route, Rule};

/// One message of the answer to `RTM_GETADDR`.
pub fn decode_address(message: &Message<'_>) -> Result<Option<Address>, Failure> {
    const IFA_F_SECONDARY: u32 = 1;
    /// `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`
    const UNPREFERRED: u32 = 0x20 | 0x40;
    let attributes = Attributes::after(message.body, IFADDRMSG, "IFA")?;
    let [_, prefix_length, flags, scope] = array(message.body, 0, "ifaddrmsg")?;
    let peer = attributes.address(1)?;
    let Some(address) = attributes.address(2)?.or(peer) else { return Ok(None) };
    let flags = attributes.u32(8)?.unwrap_or(flags.into());
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

/// One message of the answer to `RTM_GETRULE`.
pub fn decode_rule(message: &Message<'_>) -> Result<Rule, Failure> {
    const MODELLED: &[u16] = &[1, 2, 6, 10, 15, 16];
    /// `FRA_SUPPRESS_PREFIXLEN` -1 (none), `FRA_PROTOCOL` (who made the rule)
    const IRRELEVANT: &[u16] = &[14, 21];
    let attributes = Attributes::after(message.body, RTMSG, "FRA")?;
    let [family, destination_length, source_length, _] = array(message.body, 0, "fib_rule_hdr")?;
    let [table, _, _, action] = array(message.body, 4, "fib_rule_hdr")?;
    let mark = attributes.u32(10)?;
    let no_suppression = attributes.u32(14)?.is_none_or(|length| length == u32::MAX);
    let other = attributes
        .iter()
        .map(|attribute| attribute.kind)
        .filter(|kind| !MODELLED.contains(kind) && !(IRRELEVANT.contains(kind) && (*kind != 14 || no_suppression)));
    Ok(Rule {
        ipv6: family == AF_INET6,
        priority: attributes.u32(6)?.unwrap_or(0),
        table: attributes.u32(15)?.unwrap_or(table.into()),
        action,
        fwmark: mark.map(|mark| attributes.u32(16).map(|mask| (mark, mask.unwrap_or(u32::MAX)))).transpose()?,
        source: attributes.address(2)?.map(|address| (address, source_length)),
        destination: attributes.address(1)?.map(|address| (address, destination_length)),
        other: other.collect(),
    })
}

/// One message of the answer to a dump of `RTM_GETROUTE`.
pub fn decode_listed(message: &Message<'_>, ipv6: bool) -> Result<Option<Route>, Failure> {
    const RTM_F_CLONED: u32 = 0x200;
    let family = if ipv6 { AF_INET6 } else { AF_INET };
    let cloned = u32::from_ne_bytes(array(message.body, 8, "rtmsg")?) & RTM_F_CLONED != 0;
    // Where a family is not there, the kernel answers for all that are.
    let mine = !cloned && message.body.first() == Some(&family);
    if mine { decode_route(message.body).map(Some) } else { Ok(None) }
}

pub fn decode_route(body: &[u8]) -> Result<Route, Failure> {
    let attributes = Attributes::after(body, RTMSG, "RTA")?;
    let [_, prefix_length, _, tos, table, _, _, kind] = array(body, 0, "rtmsg")?;
    let mut devices: Vec<u32> = attributes.u32(4)?.into_iter().collect();
    if let Some(mut hops) = attributes.get(9) {
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
        table: attributes.u32(15)?.unwrap_or(table.into()),
        destination: attributes.address(1)?,
        prefix_length,
        kind,
        tos,
        priority: attributes.u32(6)?,
        gateway: attributes.address(5)?,
        preferred_source: attributes.address(7)?,
        devices,
        nexthop: attributes.u32(30)?,
    })
}
