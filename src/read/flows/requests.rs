//! Requests for conntrack entries: `ctnetlink_get_conntrack`, `ctnetlink_alloc_filter`.

use std::net::IpAddr;

use super::MAX_FILTERED;
use super::gather::UDP;
use crate::capture::{NetlinkFamily, Request};
use crate::facts::netfilter::Family;
use crate::facts::{PortsUsed, Source};
use crate::netfilter::conntrack::*;
use crate::netfilter::netlink::{Emit as _, MessageWriter};
use crate::netfilter::nfnetlink::Nfgenmsg;

/// A dump of a family's entries that match the tuple fields and status bits given in `filter`.
pub(super) fn entries(name: &str, family: u8, filter: Entry<'_>) -> Request {
    let mut body = MessageWriter::user();
    Nfgenmsg { family, ..Nfgenmsg::default() }.emit(&mut body);
    filter.emit(&mut body);
    let name = format!("netfilter/ct-entries{name}");
    let family = NetlinkFamily::Netfilter;
    Request::netlink(Source::CtnetlinkEntries, &name, family, IPCTNL_MSG_CT_GET, true, body.finish())
}

/// UDP entries with these status bits and, if given, this destination port.
pub(super) fn of_udp(name: &str, family: Family, port: Option<u16>, status: u32) -> Request {
    let protocol = Protocol { number: Some(UDP), destination_port: port, ..Protocol::default() };
    let flags = CTA_FILTER_F_CTA_PROTO_NUM | port.map_or(0, |_| CTA_FILTER_F_CTA_PROTO_DST_PORT);
    let filter = Entry {
        original: Some(Tuple { protocol: Some(protocol), ..Tuple::default() }),
        status: Some(status),
        filter: Some(Filter { original: Some(HostOrder(flags)), reply: Some(HostOrder(0)), ..Filter::default() }),
        status_mask: Some(status),
        ..Entry::default()
    };
    entries(&format!("-{name}-{family}"), family.nfproto(), filter).at_most(2 * MAX_FILTERED)
}

/// Entries from one translated source address to one destination, by their reply tuples.
pub(super) fn towards(at: usize, used: &PortsUsed) -> Request {
    let key = used.key;
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let (from, to) = (Some(bytes(key.destination).into()), Some(bytes(key.source).into()));
    let addresses = match key.source {
        IpAddr::V4(_) => Addresses { v4_source: from, v4_destination: to, ..Addresses::default() },
        IpAddr::V6(_) => Addresses { v6_source: from, v6_destination: to, ..Addresses::default() },
    };
    let protocol = Protocol { number: Some(key.protocol), source_port: Some(key.port), ..Protocol::default() };
    let flags = CTA_FILTER_F_CTA_IP_SRC
        | CTA_FILTER_F_CTA_IP_DST
        | CTA_FILTER_F_CTA_PROTO_NUM
        | CTA_FILTER_F_CTA_PROTO_SRC_PORT;
    let filter = Entry {
        reply: Some(Tuple { addresses: Some(addresses), protocol: Some(protocol), ..Tuple::default() }),
        filter: Some(Filter { original: Some(HostOrder(0)), reply: Some(HostOrder(flags)), ..Filter::default() }),
        ..Entry::default()
    };
    let family = Family::of(&key.source);
    entries(&format!("-ports-{}", at + 1), family.nfproto(), filter).at_most(2 * MAX_FILTERED)
}
