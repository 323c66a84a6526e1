//! ipset sets: name by index, type by name, number of elements, then all elements or one test per value.
//!
//! Kernel sources: `ip_set_protocol`, `ip_set_byindex`, `ip_set_header`, `ip_set_utest`, `ip_set_test`. A rule has the
//! index and keeps the set from being renamed; a swap exchanges the contents and keeps index and name.
//!
//! `ip_set_utest` returns `IPSET_ERR_EXIST` ("not in the set") also for whatever the set type rejects: a wrong family,
//! a missing protocol. So tests are only sent for types whose attributes are known here, and for the set's family. They
//! change neither counters nor timeouts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::capture::{NetlinkFamily, Request, RequestKind as Asked};
use crate::facts::netfilter::{Element, End, Family, Set, SetId, address_key};
use crate::facts::{Failure, Name, Reading, Source};
use crate::netfilter::ipset::{
    IPSET_CMD_GET_BYINDEX, IPSET_CMD_GET_BYNAME, IPSET_CMD_HEADER, IPSET_CMD_LIST, IPSET_CMD_PROTOCOL, IPSET_CMD_TEST,
    IPSET_ERR_EXIST, IPSET_FLAG_LIST_HEADER, IPSET_PROTOCOL, IpsetElement, IpsetHeader, IpsetMessage,
};
use crate::netfilter::netlink::{AttributeValue as _, Emit, Message, MessageWriter, Nest, Text};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::read::lookups::{LookedInto, Lookups, MAX_SETS, add};
use crate::read::sets::members::{Dimension, LIST, decode_members, dimensions};
use crate::read::sets::values::{OuterValues, UDP, port_key};
use crate::read::sets::{Budget, ElementRequest, MAX_ELEMENTS, combinations, note_cut, note_unread, within};
use crate::read::{Node, modules};

/// Smallest element in a dump, bytes: one with a port only, an attribute in an attribute.
const SMALLEST_ELEMENT: usize = 12;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// Type and family of a set; family 0 means any.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    kind: String,
    family: u8,
}

#[derive(Clone, Copy)]
enum AttributeValue {
    Address(IpAddr),
    Port(u16),
}

impl AttributeValue {
    fn key(self) -> u128 {
        match self {
            Self::Address(address) => address_key(address),
            Self::Port(port) => port_key(UDP, port),
        }
    }

    fn is_ipv6(self) -> Option<bool> {
        match self {
            Self::Address(address) => Some(address.is_ipv6()),
            Self::Port(_) => None,
        }
    }
}

fn request(name: &str, kind: u16, family: u8, mut out: MessageWriter, message: &IpsetMessage<'_>) -> Request {
    Nfgenmsg { family, ..Nfgenmsg::default() }.emit(&mut out);
    message.emit(&mut out);
    let name = format!("netfilter/ipset/{name}");
    Request::netlink(Source::Ipset, &name, NetlinkFamily::Netfilter, kind, false, out.finish()).acknowledged()
}

/// The attributes common to all requests.
fn versioned() -> IpsetMessage<'static> {
    IpsetMessage { protocol: IPSET_PROTOCOL, ..IpsetMessage::default() }
}

fn about(name: &Name) -> IpsetMessage<'static> {
    IpsetMessage { set: Some(name.to_bytes().as_slice().into()), ..versioned() }
}

fn protocol() -> Request {
    request("protocol", IPSET_CMD_PROTOCOL, AF_INET, MessageWriter::ipset(), &versioned())
}

/// The index of a set that is a member of a `list:set`.
fn index(list: u16, number: usize, member: &Name) -> Request {
    request(&format!("{list}-member-{number}"), IPSET_CMD_GET_BYNAME, AF_INET, MessageWriter::user(), &about(member))
}

fn name(index: u16) -> Request {
    let message = IpsetMessage { index: Some(index), ..versioned() };
    request(&format!("{index}-name"), IPSET_CMD_GET_BYINDEX, AF_INET, MessageWriter::user(), &message)
}

fn header(index: u16, name: &Name) -> Request {
    request(&format!("{index}-header"), IPSET_CMD_HEADER, AF_INET, MessageWriter::ipset(), &about(name))
}

/// Without `NLA_F_NET_BYTEORDER` no address is in any set.
fn test(number: &str, name: &Name, header: &Header, dimensions: &[Dimension], values: &[AttributeValue]) -> Request {
    let mut element = IpsetElement::default();
    for (dimension, value) in dimensions.iter().zip(values) {
        match *value {
            AttributeValue::Address(address) if *dimension == Dimension::Address2 => element.ip2 = Some(address.into()),
            AttributeValue::Address(address) => element.ip = Some(address.into()),
            AttributeValue::Port(port) => element.port = Some(port),
        }
        if *dimension == Dimension::Port {
            element.proto = Some(UDP);
        }
    }
    let mut data = MessageWriter::ipset();
    element.emit(&mut data);
    let message = IpsetMessage { data: Some(Nest(data.finish().into())), ..about(name) };
    request(number, IPSET_CMD_TEST, header.family, MessageWriter::ipset(), &message)
}

/// Reads the sets that these rule sets look into: name by index, type by name, number of elements, then all elements of a
/// small one, or one test per value. Of a set about which nothing could be read, the elements say why.
pub(crate) fn read<'a>(
    node: &mut Node<'_>,
    lookups: impl IntoIterator<Item = &'a Lookups>,
    values: &OuterValues,
) -> BTreeMap<SetId, Set> {
    let (wanted, mut cut) = wanted(lookups);
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let presence = modules::presence(node, &modules::IP_SET);
    let readable = match node.note(&protocol(), presence) {
        Reading::Ok(()) => answered(node, &protocol(), decode_protocol),
        other => other,
    };
    if readable.ok().is_none() {
        let none =
            |(index, _): &(u16, _)| (SetId::Ipset(*index), unread(*index, readable.as_ref().map(|()| Vec::new())));
        return wanted.iter().map(none).collect();
    }
    let mut budget = Budget::default();
    let mut sets = BTreeMap::new();
    let mut open = wanted;
    open.reverse();
    while let Some((index, by)) = open.pop() {
        let set = read_set(node, index, &by, values, &mut budget);
        // Members of a list are looked up with the list's dimensions.
        for member in &set.sets {
            let SetId::Ipset(member) = member else { continue };
            if sets.contains_key(&SetId::Ipset(*member)) || open.iter().any(|(known, _)| known == member) {
                continue;
            }
            match sets.len() + open.len() < MAX_SETS {
                true => open.push((*member, by.clone())),
                false => cut = true,
            }
        }
        sets.insert(SetId::Ipset(index), set);
    }
    let asks_values = sets.values().any(|set| !set.members.is_empty());
    note_cut(node, Source::Ipset, cut, values.cut && asks_values, budget.cut);
    sets
}

/// The sets that are looked into and by what, and whether there are more than [`MAX_SETS`].
fn wanted<'a>(lookups: impl IntoIterator<Item = &'a Lookups>) -> (LookedInto<u16, End>, bool) {
    let (mut wanted, mut others, mut cut) = (Vec::new(), 0, false);
    for lookups in lookups {
        cut |= lookups.cut;
        others += lookups.nftables.len();
        for (index, all) in &lookups.ipset {
            for by in all {
                let room = wanted.len() + others < MAX_SETS;
                cut |= !add(&mut wanted, index, by, room);
            }
        }
    }
    (wanted, cut)
}

/// What `decode` makes of the one message that answers, acknowledgement or not.
fn answered<T>(
    node: &mut Node<'_>,
    request: &Request,
    decode: impl FnOnce(IpsetMessage<'_>) -> Result<T, Failure>,
) -> Reading<T> {
    let found = node.try_answer(request, |message| decode(parse(message)?));
    node.note(request, found)
}

fn parse<'a>(message: &Message<'a>) -> Result<IpsetMessage<'a>, Failure> {
    Ok(Nfgenmsg::parse(message.body)?.1)
}

/// A set that could not be read.
fn unread(index: u16, elements: Reading<Vec<Element>>) -> Set {
    let (name, kind, members) = (format!("with index {index}"), String::new(), BTreeMap::new());
    Set {
        name,
        kind,
        stable: false,
        members,
        elements,
        verdicts: Vec::new(),
        data: Vec::new(),
        family: None,
        sets: Vec::new(),
    }
}

fn read_set(node: &mut Node<'_>, index: u16, by: &[Vec<End>], values: &OuterValues, budget: &mut Budget) -> Set {
    let name = match answered(node, &name(index), |message| text(message.set, "IPSET_ATTR_SETNAME")) {
        Reading::Ok(name) => name,
        other => return unread(index, other.map(|_| Vec::new())),
    };
    let header = match answered(node, &header(index, &name), decode_header) {
        Reading::Ok(header) => header,
        other => return Set { name: name.to_string(), ..unread(index, other.map(|_| Vec::new())) },
    };
    let family = match header.family {
        AF_INET => Some(Family::Ipv4),
        AF_INET6 => Some(Family::Ipv6),
        _ => None,
    };
    if header.kind == LIST {
        let found = read_list(node, index, &name);
        let (sets, elements) = (found.ok().cloned().unwrap_or_default(), found.map(|_| Vec::new()));
        let set = Set { name: name.to_string(), kind: header.kind, sets, ..unread(index, elements) };
        note_unread(node, &list(index, &name), &set);
        return set;
    }
    let most = budget.elements.min(MAX_ELEMENTS / SMALLEST_ELEMENT);
    let elements = match count(node, index, &name) {
        Some(count) if count as usize > most => Reading::Failed(Failure::too_large(most, "elements")),
        _ => read_all(node, index, &name, &header),
    };
    budget.elements = budget.elements.saturating_sub(elements.ok().map_or(0, Vec::len));
    let mut members = strangers(by, &header, values);
    if elements.ok().is_none() {
        for ElementRequest { key, request } in within(budget, questions(index, by, &name, &header, values)) {
            members.insert(key, test_member(node, &request));
        }
    }
    let (shown, kind) = (name.to_string(), header.kind.clone());
    let set = Set { kind, members, family, ..Set { name: shown, ..unread(index, elements) } };
    note_unread(node, &list(index, &name), &set);
    set
}

/// Member sets of a list, in order, by index.
fn read_list(node: &mut Node<'_>, of: u16, name: &Name) -> Reading<Vec<SetId>> {
    let names = node.try_dump(&list(of, name), |message| {
        let member = |element: &IpsetElement<'_>| text(element.name.clone(), "IPSET_ATTR_NAME");
        parse(message)?.elements()?.iter().map(member).collect::<Result<Vec<Name>, _>>().map(Some)
    });
    names.and_then(|parts| {
        let mut sets = Vec::new();
        for (number, member) in parts.concat().iter().enumerate() {
            let request = index(of, number, member);
            let found = node.try_answer(&request, |message| {
                parse(message)?.index.ok_or_else(|| Failure::unexpected("IPSET_ATTR_INDEX is missing"))
            });
            match found {
                Reading::Ok(index) => sets.push(SetId::Ipset(index)),
                other => return other.map(|_| Vec::new()),
            }
        }
        Reading::Ok(sets)
    })
}

fn test_member(node: &mut Node<'_>, request: &Request) -> Reading<bool> {
    let found = node.try_single(request, |_| Err::<(), _>(Failure::unexpected("a test has no answer but yes and no")));
    match found.failure().and_then(Failure::refused) {
        Some(IPSET_ERR_EXIST) => Reading::Ok(false),
        _ => node.note(request, found).map(|_| true),
    }
}

/// A dump of all elements.
fn list(index: u16, name: &Name) -> Request {
    dump(&format!("{index}-list"), &about(name))
}

/// The request of `ipset list -terse`.
fn size(index: u16, name: &Name) -> Request {
    dump(&format!("{index}-size"), &IpsetMessage { flags: Some(IPSET_FLAG_LIST_HEADER), ..about(name) })
}

fn dump(name: &str, message: &IpsetMessage<'_>) -> Request {
    let request = request(name, IPSET_CMD_LIST, AF_INET, MessageWriter::ipset(), message);
    match request.kind {
        Asked::Netlink(mut asked) => {
            (asked.dump, asked.ack) = (true, false);
            Request { kind: Asked::Netlink(asked), ..request }.at_most(MAX_ELEMENTS)
        }
        _ => request,
    }
}

/// `IPSET_ATTR_ELEMENTS`, which avoids dumping a large set. If it is missing (before Linux 4.9, or in a capture from
/// before this request), the dump shows the size.
fn count(node: &mut Node<'_>, index: u16, name: &Name) -> Option<u32> {
    let request = size(index, name);
    let found = node.try_dump(&request, |message| {
        let Some(data) = parse(message)?.data else { return Ok(None) };
        Ok(IpsetHeader::parse(&data.0)?.elements)
    });
    let is_older = found.failure().is_some_and(Failure::is_not_captured);
    let found = if is_older { found } else { node.note(&request, found) };
    found.ok().and_then(|counts| counts.first().copied())
}

/// All elements. Failed: too many or not supported, in which case single values are tested.
fn read_all(node: &mut Node<'_>, index: u16, name: &Name, header: &Header) -> Reading<Vec<Element>> {
    let Some(dimensions) = dimensions(&header.kind) else {
        return Reading::Failed(Failure::unsupported(format!("sets of type {} are not read", header.kind)));
    };
    let elements = node.try_dump(&list(index, name), |message| decode_members(message, dimensions).map(Some));
    elements.map(|parts| parts.concat())
}

/// The values that can be tested in a set with these dimensions, one per dimension.
fn candidates(
    dimensions: &[Dimension],
    ends: &[End],
    values: &OuterValues,
    keep: impl Fn(IpAddr) -> bool,
) -> Vec<Vec<AttributeValue>> {
    // These are not known for outer packets, or have many values.
    let is_other = |dimension: &Dimension| matches!(dimension, Dimension::Interface | Dimension::Mark);
    if ends.len() != dimensions.len() || dimensions.iter().any(is_other) {
        return Vec::new();
    }
    let is_port = |dimension: &Dimension| matches!(dimension, Dimension::Port | Dimension::BarePort);
    let addresses = dimensions.iter().filter(|dimension| !is_port(dimension)).count();
    let column = |(dimension, end): (&Dimension, &End)| -> Vec<AttributeValue> {
        let list = match end {
            // source ports of outer packets vary
            End::Source if is_port(dimension) => return Vec::new(),
            End::Destination if is_port(dimension) => {
                return values.ports.iter().copied().map(AttributeValue::Port).collect();
            }
            // if both addresses are looked up, the packet goes from this node to a peer
            End::Source if addresses > 1 => values.own.clone(),
            End::Destination if addresses > 1 => values.peers.clone(),
            _ => values.addresses(),
        };
        list.into_iter().filter(|address| keep(*address)).map(AttributeValue::Address).collect()
    };
    combinations(&dimensions.iter().zip(ends).map(column).collect::<Vec<_>>())
}

/// Every value of the set's family, numbered for each way to look the set up: rule sets that do so in different ways
/// ask different questions under different names.
fn questions(index: u16, by: &[Vec<End>], name: &Name, header: &Header, values: &OuterValues) -> Vec<ElementRequest> {
    let Some(dimensions) = dimensions(&header.kind) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut questions = Vec::new();
    for ends in by {
        let letters: String = ends.iter().map(|end| if *end == End::Source { 's' } else { 'd' }).collect();
        let own_family = |address: IpAddr| address.is_ipv6() == (header.family == AF_INET6);
        for (number, value) in candidates(dimensions, ends, values, own_family).into_iter().enumerate() {
            let key: Vec<u128> = value.iter().map(|value| value.key()).collect();
            if seen.insert(key.clone()) {
                let number = format!("{index}-test-{letters}-{number}");
                questions.push(ElementRequest { key, request: test(&number, name, header, dimensions, &value) });
            }
        }
    }
    questions
}

/// Values of the other family: to `ip_set_test` a packet of another family than the set's is in none.
fn strangers(by: &[Vec<End>], header: &Header, values: &OuterValues) -> BTreeMap<Vec<u128>, Reading<bool>> {
    let Some(dimensions) = dimensions(&header.kind) else { return BTreeMap::new() };
    let other_family = |address: IpAddr| address.is_ipv6() != (header.family == AF_INET6);
    by.iter()
        .flat_map(|ends| candidates(dimensions, ends, values, other_family))
        .filter(|row| row.iter().any(|value| value.is_ipv6().is_some()))
        .map(|row| (row.iter().map(|value| value.key()).collect(), Reading::Ok(false)))
        .collect()
}

fn decode_protocol(message: IpsetMessage<'_>) -> Result<(), Failure> {
    match message.protocol {
        IPSET_PROTOCOL.. => Ok(()),
        version => Err(Failure::unsupported(format!(
            "this kernel speaks version {version} of ipset, which cannot tell a set's name by its index (version \
             {IPSET_PROTOCOL} can)"
        ))),
    }
}

fn text(text: Option<Text<'_>>, what: &str) -> Result<Name, Failure> {
    text.map(|text| Name::from_bytes(&text.0)).ok_or_else(|| Failure::unexpected(format!("{what} is missing")))
}

fn decode_header(message: IpsetMessage<'_>) -> Result<Header, Failure> {
    let family = message.family.filter(|family| [0, AF_INET, AF_INET6].contains(family));
    Ok(Header {
        kind: text(message.kind, "IPSET_ATTR_TYPENAME")?.to_string(),
        family: family.ok_or_else(|| Failure::unexpected("the set's family is missing or unknown"))?,
    })
}
