//! Sets of ipset: name by index, type by name, then one test per value.
//!
//! Kernel sources: `ip_set_protocol`, `ip_set_byindex`, `ip_set_header`, `ip_set_utest`, `ip_set_test`. A rule holds the
//! index and keeps the set from being renamed; a swap changes the content and leaves index and name as they are.
//!
//! `ip_set_utest` answers `IPSET_ERR_EXIST` ("not in the set") to whatever the type's own code refuses, too: a wrong
//! family, a missing protocol. So a test is only sent for types whose attributes are known here, and for the set's
//! family. It updates neither counters nor timeouts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::capture::{Capture, NetlinkFamily, Request};
use crate::decode::Problems;
use crate::decode::modules::{self, Presence};
use crate::decode::sets::values::{UDP, Values, port_key};
use crate::decode::sets::{Budget, NFGENMSG, Question, combinations, message, refused, reply, within};
use crate::snapshot::netfilter::{Element, End, Set, SetId, address_key};
use crate::snapshot::{Failure, Reading, Source};
use crate::wire::{self, Attributes};

/// `NFNL_SUBSYS_IPSET << 8`
const IPSET: u16 = 6 << 8;
const CMD_PROTOCOL: u16 = IPSET | 1;
const CMD_LIST: u16 = IPSET | 7;
const CMD_TEST: u16 = IPSET | 11;
const CMD_HEADER: u16 = IPSET | 12;
const CMD_GET_BYINDEX: u16 = IPSET | 15;
/// First protocol with `IPSET_CMD_GET_BYINDEX`; Linux has it since late 2018.
const PROTOCOL: u8 = 7;
/// A set up to this size is read whole: about a thousand elements.
const MAX_ELEMENTS: usize = 64 << 10;
const IPSET_ERR_EXIST: i32 = 4103;
const NLA_F_NET_BYTEORDER: u16 = 0x4000;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    /// `IPSET_ATTR_IP`
    Address,
    /// `IPSET_ATTR_IP2`
    Address2,
    /// `IPSET_ATTR_PORT` with `IPSET_ATTR_PROTO`
    Port,
    /// `IPSET_ATTR_PORT` of a type that refuses a protocol
    BarePort,
}

/// Types that can be asked; for networks a test without a prefix length tries every length, as a packet does.
const TYPES: &[(&str, &[Dimension])] = &[
    ("hash:ip", &[Dimension::Address]),
    ("hash:net", &[Dimension::Address]),
    ("bitmap:ip", &[Dimension::Address]),
    ("bitmap:port", &[Dimension::BarePort]),
    ("hash:ip,port", &[Dimension::Address, Dimension::Port]),
    ("hash:net,port", &[Dimension::Address, Dimension::Port]),
    ("hash:ip,port,ip", &[Dimension::Address, Dimension::Port, Dimension::Address2]),
    ("hash:ip,port,net", &[Dimension::Address, Dimension::Port, Dimension::Address2]),
];

/// What rules ask: the set's index, and the ends of the packet that its dimensions are taken from.
type Lookup<'a> = (u16, Vec<&'a [End]>);

/// Type and family of a set; family 0 is any.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    kind: String,
    family: u8,
}

#[derive(Clone, Copy)]
enum Value {
    Address(IpAddr),
    Port(u16),
}

impl Value {
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

fn module(capture: &Capture) -> Presence {
    modules::presence(capture, &modules::IP_SET)
}

fn request(name: &str, kind: u16, family: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Request {
    let mut body = vec![0; NFGENMSG];
    body[0] = family;
    wire::put(&mut body, 1, &[PROTOCOL]);
    fill(&mut body);
    let name = format!("netfilter/ipset/{name}");
    Request::netlink(Source::Ipset, &name, NetlinkFamily::Netfilter, kind, false, body).acknowledged()
}

fn protocol() -> Request {
    request("protocol", CMD_PROTOCOL, AF_INET, |_| {})
}

fn name(index: u16) -> Request {
    request(&format!("{index}-name"), CMD_GET_BYINDEX, AF_INET, |body| wire::put(body, 11, &index.to_be_bytes()))
}

fn put_name(body: &mut Vec<u8>, name: &str) {
    wire::put(body, 2, &[name.as_bytes(), &[0]].concat());
}

fn header(index: u16, name: &str) -> Request {
    request(&format!("{index}-header"), CMD_HEADER, AF_INET, |body| put_name(body, name))
}

fn test(number: &str, name: &str, header: &Header, dimensions: &[Dimension], values: &[Value]) -> Request {
    request(number, CMD_TEST, header.family, |body| {
        put_name(body, name);
        wire::put_nested(body, 7, |data| {
            for (dimension, value) in dimensions.iter().zip(values) {
                match value {
                    Value::Address(address) => {
                        let kind = if *dimension == Dimension::Address2 { 20 } else { 1 };
                        wire::put_nested(data, kind, |data| put_address(data, *address));
                    }
                    Value::Port(port) => wire::put(data, 4 | NLA_F_NET_BYTEORDER, &port.to_be_bytes()),
                }
                if *dimension == Dimension::Port {
                    wire::put(data, 7, &[UDP]);
                }
            }
        });
    })
}

/// Without `NLA_F_NET_BYTEORDER` no address is in any set.
fn put_address(body: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => wire::put(body, 1 | NLA_F_NET_BYTEORDER, &address.octets()),
        IpAddr::V6(address) => wire::put(body, 2 | NLA_F_NET_BYTEORDER, &address.octets()),
    }
}

/// What to ask.
pub fn requests(capture: &Capture, lookups: &[Lookup<'_>], values: &Values, budget: &mut Budget) -> Vec<Request> {
    if lookups.is_empty() {
        return Vec::new();
    }
    match module(capture) {
        Presence::There => {}
        Presence::Ask(more) => return more,
        Presence::Missing(_) | Presence::Unclear(_) => return Vec::new(),
    }
    let mut requests = vec![protocol()];
    if capture.get(&protocol()).decode(decode_protocol).ok().is_none() {
        return requests;
    }
    for (index, by) in lookups {
        requests.push(name(*index));
        let Reading::Ok(name) = capture.get(&name(*index)).decode(decode_name) else { continue };
        requests.push(header(*index, &name));
        let Reading::Ok(header) = capture.get(&header(*index, &name)).decode(decode_header) else { continue };
        if dimensions(&header).is_some() {
            requests.push(list(*index, &name));
            if !capture.has(&list(*index, &name)) || read_all(capture, *index, &name, &header).is_some() {
                continue;
            }
        }
        let questions = within(budget, questions(*index, by, &name, &header, values));
        requests.extend(questions.into_iter().map(|question| question.request));
    }
    requests
}

/// Reads the answers.
pub fn decode(
    capture: &Capture,
    lookups: &[Lookup<'_>],
    values: &Values,
    budget: &mut Budget,
    problems: &mut Problems,
) -> BTreeMap<SetId, Set> {
    if lookups.is_empty() {
        return BTreeMap::new();
    }
    match module(capture) {
        Presence::There => {}
        Presence::Missing(why) => {
            problems.set(Source::Ipset, Reading::<()>::Absent(why));
            return BTreeMap::new();
        }
        Presence::Unclear(why) => {
            problems.set(Source::Ipset, Reading::<()>::Failed(Failure::Unclear { module: why }));
            return BTreeMap::new();
        }
        Presence::Ask(_) => {
            problems.fail(Source::Ipset, capture.unanswered(&protocol().name).to_string());
            return BTreeMap::new();
        }
    }
    let protocol = capture.get(&protocol()).decode(decode_protocol);
    if problems.note(Source::Ipset, protocol).ok().is_none() {
        return BTreeMap::new();
    }
    let one = |(index, by): &Lookup<'_>| {
        let set = decode_set(capture, *index, by, values, budget, problems)?;
        Some((SetId::Ipset(*index), set))
    };
    lookups.iter().filter_map(one).collect()
}

fn decode_set(
    capture: &Capture,
    index: u16,
    by: &[&[End]],
    values: &Values,
    budget: &mut Budget,
    problems: &mut Problems,
) -> Option<Set> {
    let name = problems.note(Source::Ipset, capture.get(&name(index)).decode(decode_name));
    let name = name.ok()?;
    let header = problems.note(Source::Ipset, capture.get(&header(index, name)).decode(decode_header));
    let header = header.ok()?;
    let elements = read_all(capture, index, name, header);
    let mut members = strangers(by, header, values);
    if elements.is_none() {
        for Question { key, request } in within(budget, questions(index, by, name, header, values)) {
            members.insert(key, problems.note(Source::Ipset, capture.get(&request).decode(decode_test)));
        }
    }
    Some(Set { name: name.clone(), kind: header.kind.clone(), stable: false, members, elements, verdicts: Vec::new() })
}

/// All elements of a set that is small enough.
fn list(index: u16, name: &str) -> Request {
    let request = request(&format!("{index}-list"), CMD_LIST, AF_INET, |body| put_name(body, name));
    match request.question {
        crate::capture::Question::Netlink(mut question) => {
            (question.dump, question.ack) = (true, false);
            Request { question: crate::capture::Question::Netlink(question), ..request }.at_most(MAX_ELEMENTS)
        }
        _ => request,
    }
}

/// `None`: they are too many, or not understood; then they are asked about one by one.
fn read_all(capture: &Capture, index: u16, name: &str, header: &Header) -> Option<Vec<Element>> {
    let dimensions = dimensions(header)?;
    capture.get(&list(index, name)).decode(|bytes| decode_list(bytes, dimensions)).ok().cloned()
}

/// Answer to [`list`]. For a port there are two ranges, of protocols and of ports.
fn decode_list(bytes: &[u8], dimensions: &[Dimension]) -> Result<Vec<Element>, Failure> {
    const BITMASK: u16 = 12;
    const NETMASK: u16 = 20;
    let mut elements = Vec::new();
    for message in wire::dump(bytes, "ipset list")? {
        let attributes = Attributes::after(message.body, NFGENMSG, "IPSET_ATTR")?;
        let masks = |kind: &Attributes<'_>| kind.get(BITMASK).or(kind.get(NETMASK)).is_some();
        if attributes.nested(7, "IPSET_ATTR_DATA")?.as_ref().is_some_and(masks) {
            return Err(Failure::unexpected("ipset list: the set looks up parts of addresses"));
        }
        for data in attributes.nested(8, "IPSET_ATTR_ADT")?.iter().flat_map(Attributes::iter) {
            elements.push(decode_member(&Attributes::parse(data.body, "IPSET_ATTR_DATA")?, dimensions)?);
        }
    }
    Ok(elements)
}

fn decode_member(data: &Attributes<'_>, dimensions: &[Dimension]) -> Result<Element, Failure> {
    const IPSET_FLAG_NOMATCH: u32 = 1 << 2;
    let missing = || Failure::unexpected("ipset list: an element is not understood");
    if data.be32(8)?.unwrap_or(0) & IPSET_FLAG_NOMATCH != 0 {
        return Err(missing());
    }
    let mut ranges = Vec::new();
    for dimension in dimensions {
        match dimension {
            Dimension::Address | Dimension::Address2 => {
                let (kind, cidr, upto) = if *dimension == Dimension::Address { (1, 3, 2) } else { (20, 21, 22) };
                let address = |kind| -> Result<Option<IpAddr>, Failure> {
                    let Some(nested) = data.nested(kind, "IPSET_ATTR_IP")? else { return Ok(None) };
                    Ok(nested.address(1)?.or(nested.address(2)?))
                };
                let first = address(kind)?.ok_or_else(missing)?;
                let width = if first.is_ipv6() { 128u32 } else { 32 };
                let low = match data.u8(cidr)? {
                    Some(length) => (u128::MAX >> (128 - width)).checked_shr(length.into()).unwrap_or(0),
                    None => 0,
                };
                let network = address_key(first) & !low;
                let last = address(upto)?.map_or(network | low, address_key);
                ranges.push((network, last));
            }
            Dimension::Port | Dimension::BarePort => {
                let protocol = data.u8(7)?.filter(|_| *dimension == Dimension::Port).map(u128::from);
                let first = data.be16(4)?.ok_or_else(missing)?;
                let last = data.be16(5)?.unwrap_or(first);
                ranges.push(protocol.map_or((0, 0xff), |protocol| (protocol, protocol)));
                ranges.push((first.into(), last.into()));
            }
        }
    }
    Ok(ranges)
}

fn dimensions(header: &Header) -> Option<&'static [Dimension]> {
    TYPES.iter().find(|(kind, _)| *kind == header.kind).map(|(_, dimensions)| *dimensions)
}

/// What a type with these dimensions can be asked: one value for each dimension.
fn candidates(
    dimensions: &[Dimension],
    ends: &[End],
    values: &Values,
    keep: impl Fn(IpAddr) -> bool,
) -> Vec<Vec<Value>> {
    if ends.len() != dimensions.len() {
        return Vec::new();
    }
    let is_port = |dimension: &Dimension| matches!(dimension, Dimension::Port | Dimension::BarePort);
    let addresses = dimensions.iter().filter(|dimension| !is_port(dimension)).count();
    let column = |(dimension, end): (&Dimension, &End)| -> Vec<Value> {
        let list = match end {
            // the source port of an outer packet is anything
            End::Source if is_port(dimension) => return Vec::new(),
            End::Destination if is_port(dimension) => return values.ports.iter().copied().map(Value::Port).collect(),
            // with both addresses of a packet, it goes from this node to a peer
            End::Source if addresses > 1 => values.own.clone(),
            End::Destination if addresses > 1 => values.peers.clone(),
            _ => values.addresses(),
        };
        list.into_iter().filter(|address| keep(*address)).map(Value::Address).collect()
    };
    combinations(&dimensions.iter().zip(ends).map(column).collect::<Vec<_>>())
}

/// Every value of the set's family, numbered for each way to look the set up: rule sets that do so in different ways
/// ask different questions under different names.
fn questions(index: u16, by: &[&[End]], name: &str, header: &Header, values: &Values) -> Vec<Question> {
    let Some(dimensions) = dimensions(header) else { return Vec::new() };
    let mut seen = BTreeSet::new();
    let mut questions = Vec::new();
    for ends in by {
        let letters: String = ends.iter().map(|end| if *end == End::Source { 's' } else { 'd' }).collect();
        let own_family = |address: IpAddr| address.is_ipv6() == (header.family == AF_INET6);
        for (number, value) in candidates(dimensions, ends, values, own_family).into_iter().enumerate() {
            let key: Vec<u128> = value.iter().map(|value| value.key()).collect();
            if seen.insert(key.clone()) {
                let number = format!("{index}-test-{letters}-{number}");
                questions.push(Question { key, request: test(&number, name, header, dimensions, &value) });
            }
        }
    }
    questions
}

/// Values of the other family: to `ip_set_test` a packet of another family than the set's is in none.
fn strangers(by: &[&[End]], header: &Header, values: &Values) -> BTreeMap<Vec<u128>, Reading<bool>> {
    let Some(dimensions) = dimensions(header) else { return BTreeMap::new() };
    let other_family = |address: IpAddr| address.is_ipv6() != (header.family == AF_INET6);
    by.iter()
        .flat_map(|ends| candidates(dimensions, ends, values, other_family))
        .filter(|row| row.iter().any(|value| value.is_ipv6().is_some()))
        .map(|row| (row.iter().map(|value| value.key()).collect(), Reading::Ok(false)))
        .collect()
}

fn decode_protocol(bytes: &[u8]) -> Result<(), Failure> {
    let what = "ipset protocol";
    let version = Attributes::parse(message(bytes, CMD_PROTOCOL, what)?, "IPSET_ATTR")?.u8(1)?;
    match version {
        Some(version) if version >= PROTOCOL => Ok(()),
        Some(version) => Err(Failure::unexpected(format!(
            "{what}: this kernel speaks version {version}, which cannot tell a set's name by its index (version \
             {PROTOCOL} can)"
        ))),
        None => Err(Failure::unexpected(format!("{what}: the kernel does not say its version"))),
    }
}

fn text(attributes: &Attributes<'_>, kind: u16, what: &str) -> Result<String, Failure> {
    attributes.string(kind)?.ok_or_else(|| Failure::unexpected(format!("{what} is missing")))
}

fn decode_name(bytes: &[u8]) -> Result<String, Failure> {
    let attributes = Attributes::parse(message(bytes, CMD_GET_BYINDEX, "ipset name")?, "IPSET_ATTR")?;
    text(&attributes, 2, "ipset name: IPSET_ATTR_SETNAME")
}

fn decode_header(bytes: &[u8]) -> Result<Header, Failure> {
    let attributes = Attributes::parse(message(bytes, CMD_HEADER, "ipset header")?, "IPSET_ATTR")?;
    let family = attributes.u8(5)?.filter(|family| [0, AF_INET, AF_INET6].contains(family));
    Ok(Header {
        kind: text(&attributes, 3, "ipset header: IPSET_ATTR_TYPENAME")?,
        family: family.ok_or_else(|| Failure::unexpected("ipset header: the family is missing or unknown"))?,
    })
}

fn decode_test(bytes: &[u8]) -> Result<bool, Failure> {
    match reply(bytes, CMD_TEST, "ipset test")? {
        (None, 0) => Ok(true),
        (None, IPSET_ERR_EXIST) => Ok(false),
        (_, errno) => Err(refused("ipset test", errno)),
    }
}
