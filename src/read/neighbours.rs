//! Fill levels of the neighbour tables, from rtnetlink.
//!
//! A network namespace gets the size of the whole table, but only its own entries. Own entries are dumped only if the
//! size alone does not decide, and again only after a notification of an entry that is exempt from the limit, as long
//! as the others fit: a flannel node has a permanent neighbour for each peer. The files in procfs exist in the initial
//! namespace only and lack the limit.
//!
//! Kernel sources: `neightbl_dump_info`, `neightbl_fill_info`, `neigh_dump_info`, `neigh_fill_info`, `neigh_alloc`.

use super::Node;
use super::known::KnownNeighbours;
use super::links::NDMSG;
use crate::capture::{NetlinkFamily, Request, Take};
use crate::facts::netfilter::Family;
use crate::facts::{Failure, NeighbourTable, Neighbours, OwnNeighbours, Reading, Source};
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{self, Attributes, Message};

/// Length of `struct ndtmsg`.
const NDTMSG: usize = 4;

/// Fraction of the limit from which own entries are read.
const NEAR: f64 = 0.9;

/// A family's table; parameters of devices follow in the same dump.
fn table(family: Family) -> Request {
    let body = vec![family.nfproto(), 0, 0, 0];
    let name = format!("route/neighbour-table-{}", family.name());
    Request::netlink(Source::Neighbours, &name, NetlinkFamily::Route, RTM_GETNEIGHTBL, true, body)
}

/// Entries of this network namespace.
fn entries(family: Family) -> Request {
    let mut body = vec![0; NDMSG];
    body[0] = family.nfproto();
    let name = format!("route/neighbours-{}", family.name());
    Request::netlink(Source::Neighbours, &name, NetlinkFamily::Route, RTM_GETNEIGH, true, body)
}

/// Reads the tables of both families.
pub(crate) fn read(node: &mut Node<'_>) -> Neighbours {
    Neighbours(Family::IP.map(|family| read_table(node, family)))
}

fn read_table(node: &mut Node<'_>, family: Family) -> Reading<NeighbourTable> {
    let mut table = match asked(node, family) {
        Reading::Ok(table) => table,
        unread => return unread,
    };
    let place = family.ip_index();
    table.refused_since =
        node.memory.refused_neighbours[place].zip(table.refused).map(|(before, now)| now.saturating_sub(before));
    node.left.refused_neighbours[place] = table.refused;
    if table.is_filled_by(table.entries, NEAR) {
        let epochs = node.neighbours_epoch().zip(node.epoch()); // before the dump of entries
        let known = node.memory.neighbours[place].as_ref().filter(|known| Some(known.epochs) == epochs);
        let fits = |own: OwnNeighbours| {
            table.entries.checked_sub(own.exempt).is_some_and(|others| !table.is_filled_by(others, NEAR))
        };
        if let Some(known) = known.filter(|known| !known.verify && fits(known.own)) {
            table.own = Reading::Ok(known.own);
            return Reading::Ok(table);
        }
        table.own = own(node, family);
        // Entries created meanwhile are in the dump and in the new size.
        let entries = match asked(node, family) {
            Reading::Ok(again) => again.entries,
            unread => return unread,
        };
        table.entries = table.entries.max(entries);
        if let (Some(epochs), Reading::Ok(own)) = (epochs, &table.own) {
            let differs = known.is_some_and(|known| known.own.exempt != own.exempt);
            if differs && node.neighbours_epoch().zip(node.epoch()) == Some(epochs) {
                node.left.unnotified.push("neighbours that are exempt from the limit of their table");
            }
            node.left.neighbours[place] = Some(KnownNeighbours { own: *own, epochs, since: None, verify: false });
        }
    }
    Reading::Ok(table)
}

/// The table, without own entries.
fn asked(node: &mut Node<'_>, family: Family) -> Reading<NeighbourTable> {
    let request = table(family);
    let mut found = None;
    let reading = node.try_ask(&request, &mut |bytes| {
        let decoded =
            netlink::message(bytes).map_err(Failure::from).and_then(|(message, _)| match message.is_control() {
                true => Ok(None),
                false => decode_table(&message, family.nfproto()),
            });
        found = decoded.transpose();
        // What follows is per device, of which a node has thousands.
        if found.is_some() { Take::Enough } else { Take::More }
    });
    let decoded = reading.and_then(|()| match found {
        Some(decoded) => Reading::from(decoded.map_err(|failure| failure.within(&request.name))),
        None if family == Family::Ipv6 => Reading::Absent("the kernel has no neighbours of IPv6".into()),
        None => Reading::Failed(Failure::unexpected("no table of IPv4, which every kernel has").within(&request.name)),
    });
    node.sources.asked(Source::Neighbours);
    match decoded {
        Reading::Absent(why) => Reading::Absent(why),
        other => node.note(&request, other),
    }
}

fn own(node: &mut Node<'_>, family: Family) -> Reading<OwnNeighbours> {
    let exempt = node.dump(&entries(family), |message| decode_entry(message, family.nfproto()));
    exempt.map(|exempt| {
        let count = |wanted| u32::try_from(exempt.iter().filter(|is| **is == wanted).count()).unwrap_or(u32::MAX);
        OwnNeighbours { counted: count(false), exempt: count(true) }
    })
}

/// One message of the response to `RTM_GETNEIGHTBL`; `None`: parameters of a device, or another family.
fn decode_table(message: &Message<'_>, family: u8) -> Result<Option<NeighbourTable>, Failure> {
    /// Offset of `ndtc_entries` in `struct ndt_config`.
    const ENTRIES: usize = 4;
    /// Offset of `ndts_table_fulls` in `struct ndt_stats`, since Linux 4.3.
    const TABLE_FULLS: usize = 80;
    let attributes = Attributes::after(message.body, NDTMSG, "NDTA")?;
    let (Some(config), true) = (attributes.get(NDTA_CONFIG), message.body.first() == Some(&family)) else {
        return Ok(None);
    };
    let limit =
        attributes.u32(NDTA_THRESH3)?.ok_or_else(|| Failure::unexpected("a neighbour table without NDTA_THRESH3"))?;
    let refused = match attributes.get(NDTA_STATS) {
        Some(stats) if stats.len() >= TABLE_FULLS + 8 => {
            Some(u64::from_ne_bytes(array(stats, TABLE_FULLS, "ndt_stats")?))
        }
        _ => None,
    };
    Ok(Some(NeighbourTable {
        entries: u32::from_ne_bytes(array(config, ENTRIES, "ndt_config")?),
        limit,
        refused,
        refused_since: None,
        own: Reading::Failed(Failure::not_needed("not read: the table is not near its limit")),
    }))
}

/// One message of the response to `RTM_GETNEIGH`: whether the entry is exempt from the limit; `None`: another family,
/// which the kernel sends if the requested one is missing.
fn decode_entry(message: &Message<'_>, family: u8) -> Result<Option<bool>, Failure> {
    const NUD_PERMANENT: u16 = 0x80;
    const NTF_EXT_LEARNED: u8 = 0x10;
    let [found, ..] = array::<NDMSG>(message.body, 0, "ndmsg")?;
    let state = u16::from_ne_bytes(array(message.body, 8, "ndmsg")?);
    let [flags] = array(message.body, 10, "ndmsg")?;
    Ok((found == family).then_some(state & NUD_PERMANENT != 0 || flags & NTF_EXT_LEARNED != 0))
}

#[cfg(test)]
mod tests;
