//! nf_tables sets: the header, then all elements, or for a large set one lookup per value.
//!
//! Kernel sources: `nf_tables_getset`, `nf_tables_getsetelem` (`nft_get_set_elem`, `nf_tables_fill_setelem`),
//! `nft_lookup_eval`. A get returns the element that *contains* the key. It never returns the catch-all element, which
//! `nft_lookup_eval` falls back to, so that one is requested separately.

use std::collections::{BTreeMap, BTreeSet};

use super::elements::{ElementValue, Elements, decisive};
use super::wire;
use crate::capture::{NetlinkFamily, Request};
use crate::facts::netfilter::{Element, Field, Set, SetId, address_key, name_key};
use crate::facts::{Failure, Name, Reading, Source};
use crate::netfilter::netlink::{Emit as _, Message, MessageWriter, Text};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables::uapi::{
    NFT_MSG_GETSET, NFT_MSG_GETSETELEM, NFT_SET_ELEM_CATCHALL, NFT_SET_EVAL, NFT_SET_INTERVAL, NFT_SET_OBJECT,
    NFT_SET_TIMEOUT,
};
use crate::netfilter::nftables::{self, Data, SetElement, SetElements};
use crate::read::Node;
use crate::read::lookups::Lookups;
use crate::read::sets::kind::ValueKind;
use crate::read::sets::values::{OuterValues, UDP};
use crate::read::sets::{Budget, ElementRequest, combinations, note_cut, note_unread, within};

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
/// Bytes of a set or map that is read whole: about a thousand elements. Larger ones, as of 10,000 Services, are asked about values.
const MAX_ELEMENTS: usize = 64 << 10;
/// Number of fields in a concatenation whose values are looked up.
const MAX_FIELDS: usize = 3;

/// A set with what rules look up in it.
struct Lookup<'a> {
    generation: u32,
    family: u8,
    table: &'a Name,
    set: &'a Name,
    /// Prefix of request names.
    name: String,
    kinds: Vec<ValueKind>,
    by: &'a [Vec<Field>],
    /// Rules add to it, or delete from it.
    filled: bool,
}

/// Results about the sets of one generation.
pub(crate) struct SetsFound {
    /// Sets by id. If a set could not be read, its elements say why; a set whose key is not supported has no entry.
    pub sets: BTreeMap<SetId, Set>,
    /// Whether any request was made.
    pub asked: bool,
    /// Whether a response belonged to another generation.
    pub mismatch: bool,
    /// Whether something failed that another reading may get.
    pub failed: bool,
}

/// Reads the sets that rules look into, in the order in which the rules name them. `known` may hold what an earlier reading
/// at the same generation found; what still holds of it is not asked again.
///
/// "Not an element" only holds for this generation if the generation is the same after the last response, because a set
/// deleted meanwhile has no elements either.
pub(crate) fn read(
    node: &mut Node<'_>,
    prefix: &str,
    generation: u32,
    lookups: &Lookups,
    known: &BTreeMap<SetId, Set>,
    values: &OuterValues,
) -> SetsFound {
    let mut budget = Budget::default();
    let mut found = SetsFound { sets: BTreeMap::new(), asked: false, mismatch: false, failed: false };
    let mut asks_values = false;
    for (number, (id, by)) in lookups.nftables.iter().enumerate() {
        let SetId::Nftables { family, table, set } = id else { continue };
        let Some(kinds) = by.iter().find_map(|fields| kinds(fields)) else { continue };
        let name = format!("{prefix}/set-{number}");
        let filled = lookups.may_fill(id);
        let lookup = Lookup { generation, family: family.nfproto(), table, set, name, kinds, by, filled };
        let known = known.get(id).filter(|known| lookup.still_holds(known, values));
        let set = match known {
            Some(known) => known.clone(),
            None => {
                found.asked = true;
                lookup.read(node, values, &mut budget)
            }
        };
        note_unread(node, &lookup.all(), &set);
        asks_values |= !set.members.is_empty();
        found.failed |= set.elements.may_pass() || set.members.values().any(Reading::may_pass);
        found.mismatch |= set.elements.failure().is_some_and(is_change);
        found.sets.insert(id.clone(), set);
    }
    note_cut(node, Source::Nftables, lookups.cut, values.cut && asks_values, budget.cut);
    found
}

fn is_change(failure: &Failure) -> bool {
    matches!(failure.root(), Failure::Changed { .. })
}

fn kinds(fields: &[Field]) -> Option<Vec<ValueKind>> {
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return None;
    }
    fields.iter().map(ValueKind::of).collect()
}

impl Lookup<'_> {
    /// Reads the header, then all elements; if there are too many, single values.
    fn read(&self, node: &mut Node<'_>, values: &OuterValues, budget: &mut Budget) -> Set {
        let request = self.header();
        let header = node.try_answer(&request, |message| {
            wire::belongs(message, self.generation)?;
            self.decode_header(message)
        });
        let mut set = Set {
            name: self.set.to_string(),
            kind: String::new(),
            stable: false,
            members: [].into(),
            elements: Reading::Failed(Failure::unsupported("what it holds is not understood")),
            verdicts: Vec::new(),
            data: Vec::new(),
            family: None,
            sets: Vec::new(),
        };
        let header = match node.note(&request, header) {
            Reading::Ok(header) => header,
            other => return Set { elements: other.map(|_| Vec::new()), ..set },
        };
        set.kind = format!("{} bytes", header.key_length);
        set.stable = header.stable && !self.filled;
        if self.is_readable(&header) {
            let all = self.read_all(node, &header);
            for (_, value) in all.ok().into_iter().flatten() {
                match value {
                    ElementValue::Nothing => {}
                    ElementValue::Verdict(verdict) => set.verdicts.push(verdict.clone()),
                    ElementValue::Data(data) => set.data.push(data.clone()),
                }
            }
            set.elements = all.map(|all| all.into_iter().map(|(element, _)| element).collect());
        }
        if set.elements.ok().is_some() {
            return set;
        }
        let questions = within(budget, self.questions(&header, self.keys(values)));
        if questions.is_empty() {
            return set;
        }
        let catch_all = self.read_catch_all(node);
        for ElementRequest { key, request } in questions {
            let found = self.read_element(node, &request, &self.register(&key), &header);
            let found = if found == Reading::Ok(false) { catch_all.clone() } else { found };
            set.members.insert(key, found);
        }
        set
    }

    /// Whether an earlier result is still valid and has all values needed.
    fn still_holds(&self, known: &Set, values: &OuterValues) -> bool {
        let is_read = |key: &Vec<u128>| known.members.get(key).is_some_and(|found| found.ok().is_some());
        known.stable && (known.elements.ok().is_some() || self.keys(values).iter().all(is_read))
    }

    /// Whether keys can be compared with packets.
    fn is_readable(&self, header: &Header) -> bool {
        let length = self.register(&vec![0; self.kinds.len()]).concat().len();
        // Intervals are big-endian, so a host-order value is byte-swapped before the lookup.
        let byte_swapped = header.intervals && self.kinds.iter().any(|kind| kind.is_in_host_order());
        header.is_readable && header.key_length == length && !byte_swapped
    }

    /// A dump of all elements.
    fn all(&self) -> Request {
        let name = format!("{}-elements", self.name);
        let body = self.elements(None);
        let request =
            Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, NFT_MSG_GETSETELEM, true, body);
        request.at_most(MAX_ELEMENTS)
    }

    /// All elements. Failed: too many or not supported, in which case single values are looked up.
    fn read_all(&self, node: &mut Node<'_>, header: &Header) -> Reading<Vec<(Element, ElementValue)>> {
        let request = self.all();
        let found = node.try_dump(&request, |message| {
            wire::belongs(message, self.generation)?;
            let mut part = Elements::default();
            part.add(message, header.key_length, header.intervals).map(|()| Some(part))
        });
        found.decode(|parts| {
            let elements = parts.into_iter().fold(Elements::default(), Elements::with);
            let ranges =
                elements.finish().into_iter().map(|(first, last, value)| Some((self.ranges(&first, &last)?, value)));
            let ranges: Option<Vec<_>> = ranges.collect();
            // A redacted capture does not preserve the order of interval ends.
            ranges.ok_or_else(|| Failure::unsupported("an element's end is before its start").within(&request.name))
        })
    }

    /// A range for each key field; `None` if an end is before its start.
    fn ranges(&self, first: &[u8], last: &[u8]) -> Option<Element> {
        let (mut at, mut fields) = (0, Vec::new());
        for kind in &self.kinds {
            let value = |bytes: &[u8]| bytes.get(at..).map(|bytes| kind.value(bytes));
            let range = (value(first)?, value(last)?);
            if range.0 > range.1 {
                return None;
            }
            fields.push(range);
            at += kind.length().next_multiple_of(4);
        }
        Some(fields)
    }

    /// Whether the set has a catch-all element, which a get never returns.
    fn read_catch_all(&self, node: &mut Node<'_>) -> Reading<bool> {
        let request = self.catch_all();
        let found = node.try_answer(&request, |message| {
            wire::belongs(message, self.generation)?;
            decode_catch_all(message)
        });
        match found.failure().and_then(Failure::refused) {
            Some(ENOENT | EINVAL) => Reading::Ok(false),
            _ => self.member(node, &request, found),
        }
    }

    /// Whether a key, given by field, is an element. `ENOENT` may also mean that the *set* does not exist, which the
    /// header has ruled out.
    fn read_element(&self, node: &mut Node<'_>, request: &Request, key: &[Vec<u8>], header: &Header) -> Reading<bool> {
        let found = node.try_answer(request, |message| {
            wire::belongs(message, self.generation)?;
            decode_element(message, key, header)
        });
        match found.failure().and_then(Failure::refused) {
            Some(ENOENT) => Reading::Ok(false),
            _ => self.member(node, request, found),
        }
    }

    /// That an element applies to some packets only is no failure of the source.
    fn member(&self, node: &mut Node<'_>, request: &Request, found: Reading<Reading<bool>>) -> Reading<bool> {
        node.note(request, found).and_then(|member| member)
    }

    fn text(name: &Name) -> Text<'static> {
        name.to_bytes().as_slice().into()
    }

    /// Body of a request for all elements, or for the given one.
    fn elements(&self, elements: Option<SetElement<'_>>) -> Vec<u8> {
        let elements = elements.map(|element| vec![element].into());
        let (table, set) = (Self::text(self.table), Some(Self::text(self.set)));
        self.message(nftables::Body::SetElements(SetElements { table, set, elements, ..SetElements::default() }))
    }

    fn message(&self, body: nftables::Body<'_>) -> Vec<u8> {
        let mut out = MessageWriter::user();
        nftables::NftMessage { header: Nfgenmsg { family: self.family, ..Nfgenmsg::default() }, body }.emit(&mut out);
        out.finish()
    }

    fn request(&self, what: &str, kind: u16, body: Vec<u8>) -> Request {
        let name = format!("{}-{what}", self.name);
        Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, kind, false, body).acknowledged()
    }

    fn header(&self) -> Request {
        let set = nftables::SetName { table: Self::text(self.table), name: Self::text(self.set) };
        let mut out = MessageWriter::user();
        Nfgenmsg { family: self.family, ..Nfgenmsg::default() }.emit(&mut out);
        set.emit(&mut out);
        self.request("header", NFT_MSG_GETSET, out.finish())
    }

    fn element(&self, what: &str, element: SetElement<'_>) -> Request {
        self.request(what, NFT_MSG_GETSETELEM, self.elements(Some(element)))
    }

    fn catch_all(&self) -> Request {
        self.element("catch-all", SetElement { flags: Some(NFT_SET_ELEM_CATCHALL), ..SetElement::default() })
    }

    /// The keys to look up, whatever the set's header says.
    fn keys(&self, values: &OuterValues) -> Vec<Vec<u128>> {
        let mut keys: Vec<Vec<u128>> = Vec::new();
        for fields in self.by.iter().filter(|fields| kinds(fields).as_ref() == Some(&self.kinds)) {
            let addresses = self.kinds.iter().filter(|kind| kind.is_address()).count();
            let columns: Vec<Vec<u128>> = fields.iter().map(|field| column(field, values, addresses > 1)).collect();
            keys.extend(combinations(&columns));
        }
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(key.clone()));
        keys
    }

    fn questions(&self, header: &Header, keys: Vec<Vec<u128>>) -> Vec<ElementRequest> {
        let length = self.register(&vec![0; self.kinds.len()]).concat().len();
        // Intervals are big-endian, so an index is byte-swapped before the lookup.
        let byte_swapped = header.intervals && self.kinds.contains(&ValueKind::Index);
        if keys.is_empty() || header.key_length != length || byte_swapped {
            return Vec::new();
        }
        let about = |(number, key): (usize, Vec<u128>)| {
            let value = self.register(&key).concat();
            let element = SetElement { key: Some(Data::of(value)), ..SetElement::default() };
            ElementRequest { request: self.element(&format!("element-{number}"), element), key }
        };
        keys.into_iter().enumerate().map(about).collect()
    }

    /// The key as laid out in registers, by field; in a concatenation each field is padded to 4-byte words.
    fn register(&self, key: &[u128]) -> Vec<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = self.kinds.iter().zip(key).map(|(kind, value)| kind.bytes(*value)).collect();
        if parts.len() > 1 {
            parts.iter_mut().for_each(|part| part.resize(part.len().next_multiple_of(4), 0));
        }
        parts
    }

    fn decode_header(&self, message: &Message<'_>) -> Result<Header, Failure> {
        let (_, set): (_, nftables::Set<'_>) = Nfgenmsg::parse(message.body)?;
        if Name::from_bytes(set.name.as_bytes()) != *self.set {
            return Err(Failure::unexpected("the answer is about another set"));
        }
        let flags = set.flags.unwrap_or(0);
        let (intervals, stable) = (flags & NFT_SET_INTERVAL != 0, flags & (NFT_SET_TIMEOUT | NFT_SET_EVAL) == 0);
        Ok(Header { key_length: set.key_len as usize, intervals, stable, is_readable: flags & NFT_SET_OBJECT == 0 })
    }
}

/// The parts of a set's header that matter.
#[derive(Debug)]
struct Header {
    key_length: usize,
    intervals: bool,
    stable: bool,
    /// A set of values, or a map other than to objects.
    is_readable: bool,
}

/// Values for one field. If both addresses are looked up, the packet goes from this node to a peer.
fn column(field: &Field, values: &OuterValues, both_ends: bool) -> Vec<u128> {
    let addresses = match field {
        Field::Ipv4Source | Field::Ipv6Source if both_ends => values.own.clone(),
        Field::Ipv4Destination | Field::Ipv6Destination if both_ends => values.peers.clone(),
        _ => values.addresses(),
    };
    let of_family = |ipv6| addresses.iter().filter(|at| at.is_ipv6() == ipv6).map(|at| address_key(*at)).collect();
    match field {
        Field::Ipv4Source | Field::Ipv4Destination => of_family(false),
        Field::Ipv6Source | Field::Ipv6Destination => of_family(true),
        Field::DestinationPort => values.ports.iter().map(|port| (*port).into()).collect(),
        Field::L4Proto => vec![UDP.into()],
        Field::InputName | Field::OutputName => values.devices.iter().filter_map(|(_, name)| name_key(name)).collect(),
        Field::InputIndex | Field::OutputIndex => values.devices.iter().map(|(index, _)| (*index).into()).collect(),
        _ => Vec::new(), // source ports of outer packets vary
    }
}

fn decode_catch_all(message: &Message<'_>) -> Result<Reading<bool>, Failure> {
    let (_, list): (_, SetElements<'_>) = Nfgenmsg::parse(message.body)?;
    let element = only_element(&list)?;
    if element.flags.unwrap_or(0) & NFT_SET_ELEM_CATCHALL == 0 {
        return Err(Failure::unexpected("the answer is another element"));
    }
    decisive(element)
}

fn decode_element(message: &Message<'_>, key: &[Vec<u8>], header: &Header) -> Result<Reading<bool>, Failure> {
    let (_, list): (_, SetElements<'_>) = Nfgenmsg::parse(message.body)?;
    let element = only_element(&list)?;
    let start = element.key.as_ref().and_then(|key| key.value.as_deref());
    let start = start.ok_or_else(|| Failure::unexpected("the element has no key"))?;
    let ranged = header.intervals || element.key_end.is_some();
    // The kernel returns the element that contains the key. For ranges this cannot be verified, since a redacted
    // capture does not preserve the order of their ends.
    let contains = ranged || start == key.concat();
    if !contains || element.flags.unwrap_or(0) != 0 {
        return Err(Failure::unexpected("the answer is another element"));
    }
    decisive(element)
}

fn only_element<'l, 'a>(list: &'l SetElements<'a>) -> Result<&'l SetElement<'a>, Failure> {
    match list.elements.as_ref().map(|list| list.elements.as_slice()) {
        Some([element]) => Ok(element),
        _ => Err(Failure::unexpected("set element: the answer is not one element")),
    }
}
