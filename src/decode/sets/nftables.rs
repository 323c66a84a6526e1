//! Sets of nf_tables: one header, then one look-up per value.
//!
//! Kernel sources: `nf_tables_getset`, `nf_tables_getsetelem` (`nft_get_set_elem`, `nf_tables_fill_setelem`),
//! `nft_lookup_eval`. A get finds the element that *contains* the key. It
//! never finds the catch-all element, which `nft_lookup_eval` falls back to, so that one is asked for by itself.

use std::collections::{BTreeMap, BTreeSet};

use crate::capture::{Capture, NetlinkFamily, Request};
use crate::decode::Problems;
use crate::decode::sets::elements::decode_elements;
use crate::decode::sets::kind::Kind;
use crate::decode::sets::values::{UDP, Values};
use crate::decode::sets::{Budget, ENOENT, Lookups, Question, combinations, message, refused, reply, within};
use crate::snapshot::netfilter::{Element, Field, Set, SetId, Verdict, address_key, name_key};
use crate::snapshot::{Failure, Reading, Source};
use crate::wire::{self, Attributes};

/// `NFNL_SUBSYS_NFTABLES << 8`
const NFTABLES: u16 = 10 << 8;
const NEWSET: u16 = NFTABLES | 9;
const GETSET: u16 = NFTABLES | 10;
const NEWSETELEM: u16 = NFTABLES | 12;
const GETSETELEM: u16 = NFTABLES | 13;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_EVAL: u32 = 0x20;
const NFT_SET_OBJECT: u32 = 0x40;
const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
/// A set up to this size is read whole: about a thousand elements.
const MAX_ELEMENTS: usize = 64 << 10;
/// Kernels before 5.13 have no catch-all element, and refuse its flag.
const NFT_SET_ELEM_CATCHALL: u32 = 0x2;
const EINVAL: i32 = 22;
/// Fields of a concatenation whose values are asked about.
const MAX_FIELDS: usize = 3;

/// A set, and what rules look up in it.
pub struct Lookup<'a> {
    pub id: &'a SetId,
    family: u8,
    table: &'a str,
    set: &'a str,
    /// What request names begin with.
    name: String,
    kinds: Vec<Kind>,
    by: Vec<&'a [Field]>,
    /// What an earlier look at the same generation found.
    last: Option<&'a Set>,
}

/// The sets that can be asked, numbered as the rules name them.
pub fn lookups<'a>(prefix: &str, lookups: &Lookups<'a>, last: &'a BTreeMap<SetId, Set>) -> Vec<Lookup<'a>> {
    let numbered = lookups.nftables.iter().enumerate();
    numbered
        .filter_map(|(number, (id, by))| {
            let SetId::Nftables { family, table, set } = id else { return None };
            let kinds = by.iter().find_map(|fields| kinds(fields))?;
            let family = family.nfproto();
            let name = format!("{prefix}/set-{number}");
            Some(Lookup { id, family, table, set, name, kinds, by: by.clone(), last: last.get(*id) })
        })
        .collect()
}

fn kinds(fields: &[Field]) -> Option<Vec<Kind>> {
    if fields.is_empty() || fields.len() > MAX_FIELDS {
        return None;
    }
    fields.iter().map(Kind::of).collect()
}

impl Lookup<'_> {
    pub fn requests(&self, capture: &Capture, values: &Values, budget: &mut Budget) -> Vec<Request> {
        let keys = self.keys(values);
        if self.known(&keys).is_some() {
            return Vec::new();
        }
        let mut requests = vec![self.header()];
        if let Reading::Ok(header) = self.read_header(capture) {
            if self.is_readable(&header) {
                requests.push(self.all());
                if !capture.has(&self.all()) || self.read_all(capture, &header).is_some() {
                    return requests;
                }
            }
            let questions = within(budget, self.questions(&header, keys));
            if !questions.is_empty() {
                requests.push(self.catch_all());
            }
            requests.extend(questions.into_iter().map(|question| question.request));
        }
        requests
    }

    pub fn decode(
        &self,
        capture: &Capture,
        values: &Values,
        budget: &mut Budget,
        problems: &mut Problems,
    ) -> Option<Set> {
        let keys = self.keys(values);
        if let Some(known) = self.known(&keys) {
            return Some(known.clone());
        }
        let header = problems.note(Source::Nftables, self.read_header(capture));
        let header = header.ok()?;
        let mut set = Set {
            name: self.set.to_owned(),
            kind: format!("{} bytes", header.key_length),
            stable: header.stable,
            members: [].into(),
            elements: None,
            verdicts: Vec::new(),
        };
        if let Some(all) = self.is_readable(header).then(|| self.read_all(capture, header)).flatten() {
            let (elements, verdicts): (Vec<Element>, Vec<Option<Verdict>>) = all.into_iter().unzip();
            (set.elements, set.verdicts) = (Some(elements), verdicts.into_iter().flatten().collect());
        }
        let questions = if set.elements.is_some() { Vec::new() } else { within(budget, self.questions(header, keys)) };
        if questions.is_empty() {
            return Some(set);
        }
        let catch_all = capture.get(&self.catch_all()).decode(decode_catch_all);
        let catch_all = problems.note(Source::Nftables, catch_all).and_then(|found| found);
        for Question { key, request } in questions {
            let found = capture.get(&request).decode(|bytes| decode_element(bytes, &self.register(&key), header));
            let found = problems.note(Source::Nftables, found).and_then(|found| found);
            let found = if found == Reading::Ok(false) { catch_all.clone() } else { found };
            set.members.insert(key, found);
        }
        Some(set)
    }

    /// What is known of the set already, if that still holds and is all that matters.
    fn known(&self, keys: &[Vec<u128>]) -> Option<&Set> {
        self.last.filter(|set| {
            set.stable && (set.elements.is_some() || !keys.is_empty() && keys.iter().all(|key| is_read(set, key)))
        })
    }

    /// Whether all elements are worth reading: they are values, and none of them comes and goes.
    fn is_readable(&self, header: &Header) -> bool {
        let length = self.register(&vec![0; self.kinds.len()]).concat().len();
        // Intervals are in network order, so what the rule looks up is not the number as it is.
        let turned_round = header.intervals && self.kinds.iter().any(|kind| kind.is_in_host_order());
        header.stable && header.is_readable && header.key_length == length && !turned_round
    }

    /// All elements of a set that is small enough.
    fn all(&self) -> Request {
        let name = format!("{}-elements", self.name);
        let body = self.body(1, 2);
        let request = Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, GETSETELEM, true, body);
        request.at_most(MAX_ELEMENTS)
    }

    /// `None`: they are too many, or were not understood; then they are asked about one by one.
    fn read_all(&self, capture: &Capture, header: &Header) -> Option<Vec<(Element, Option<Verdict>)>> {
        let read = capture.get(&self.all()).decode(|bytes| decode_elements(bytes, header.key_length, header.intervals));
        let mut elements = Vec::new();
        for (first, last, verdict) in read.ok()? {
            let (mut at, mut fields) = (0, Vec::new());
            for kind in &self.kinds {
                let value = |bytes: &[u8]| bytes.get(at..).map(|bytes| kind.value(bytes));
                let range = (value(first)?, value(last)?);
                if range.0 > range.1 {
                    return None; // a redacted capture does not keep the order of ends
                }
                fields.push(range);
                at += kind.length().next_multiple_of(4);
            }
            elements.push((fields, verdict.clone()));
        }
        Some(elements)
    }

    fn read_header(&self, capture: &Capture) -> Reading<Header> {
        capture.get(&self.header()).decode(|bytes| self.decode_header(bytes))
    }

    fn body(&self, table: u16, set: u16) -> Vec<u8> {
        let text = |text: &str| [text.as_bytes(), &[0]].concat();
        let mut body = vec![self.family, 0, 0, 0];
        wire::put(&mut body, table, &text(self.table));
        wire::put(&mut body, set, &text(self.set));
        body
    }

    fn request(&self, what: &str, kind: u16, body: Vec<u8>) -> Request {
        let name = format!("{}-{what}", self.name);
        Request::netlink(Source::Nftables, &name, NetlinkFamily::Netfilter, kind, false, body).acknowledged()
    }

    fn header(&self) -> Request {
        self.request("header", GETSET, self.body(1, 2))
    }

    fn element(&self, what: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Request {
        let mut body = self.body(1, 2);
        wire::put_nested(&mut body, 3, |elements| wire::put_nested(elements, 1, fill));
        self.request(what, GETSETELEM, body)
    }

    fn catch_all(&self) -> Request {
        self.element("catch-all", |element| wire::put(element, 3, &NFT_SET_ELEM_CATCHALL.to_be_bytes()))
    }

    /// What there is to ask, whatever the set turns out to be.
    fn keys(&self, values: &Values) -> Vec<Vec<u128>> {
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

    fn questions(&self, header: &Header, keys: Vec<Vec<u128>>) -> Vec<Question> {
        let length = self.register(&vec![0; self.kinds.len()]).concat().len();
        // Intervals are in network order, so what the rule looks up is not the index as it is.
        let turned_round = header.intervals && self.kinds.contains(&Kind::Index);
        if keys.is_empty() || header.key_length != length || turned_round {
            return Vec::new();
        }
        let question = |(number, key): (usize, Vec<u128>)| {
            let value = self.register(&key).concat();
            let fill = |element: &mut Vec<u8>| wire::put_nested(element, 1, |data| wire::put(data, 1, &value));
            Question { request: self.element(&format!("element-{number}"), fill), key }
        };
        keys.into_iter().enumerate().map(question).collect()
    }

    /// The key as it lies in registers, by field: in a concatenation each field takes whole words of 4 bytes.
    fn register(&self, key: &[u128]) -> Vec<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = self.kinds.iter().zip(key).map(|(kind, value)| kind.bytes(*value)).collect();
        if parts.len() > 1 {
            parts.iter_mut().for_each(|part| part.resize(part.len().next_multiple_of(4), 0));
        }
        parts
    }

    fn decode_header(&self, bytes: &[u8]) -> Result<Header, Failure> {
        let what = "nf_tables set";
        let attributes = Attributes::parse(message(bytes, NEWSET, what)?, "NFTA_SET")?;
        if attributes.string(2)?.as_deref() != Some(self.set) {
            return Err(Failure::unexpected(format!("{what}: the answer is about another set")));
        }
        let length = attributes.be32(5)?.ok_or_else(|| Failure::unexpected(format!("{what}: it has no key length")))?;
        let flags = attributes.be32(3)?.unwrap_or(0);
        let (intervals, stable) = (flags & NFT_SET_INTERVAL != 0, flags & (NFT_SET_TIMEOUT | NFT_SET_EVAL) == 0);
        // Of maps only those to verdicts are looked into.
        let is_map = flags & (NFT_SET_MAP | NFT_SET_OBJECT) != 0;
        let is_readable = !is_map || attributes.be32(6)? == Some(NFT_DATA_VERDICT);
        Ok(Header { key_length: length as usize, intervals, stable, is_readable })
    }
}

fn is_read(set: &Set, key: &Vec<u128>) -> bool {
    set.members.get(key).is_some_and(|found| found.ok().is_some())
}

/// What a set's keys are.
#[derive(Debug)]
struct Header {
    key_length: usize,
    intervals: bool,
    stable: bool,
    /// Of values, or of verdicts.
    is_readable: bool,
}

/// Values of one field. With both addresses of a packet, it goes from this node to a peer.
fn column(field: &Field, values: &Values, both_ends: bool) -> Vec<u128> {
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
        _ => Vec::new(), // the source port of an outer packet is anything
    }
}

/// Whether a set has a catch-all element.
fn decode_catch_all(bytes: &[u8]) -> Result<Reading<bool>, Failure> {
    let what = "catch-all element";
    match reply(bytes, NEWSETELEM, what)? {
        (None, ENOENT | EINVAL) => Ok(Reading::Ok(false)),
        (Some(body), 0) => {
            let list = Attributes::parse(body, "NFTA_SET_ELEM_LIST")?;
            let element = only_element(&list)?;
            if element.be32(3)?.unwrap_or(0) & NFT_SET_ELEM_CATCHALL == 0 {
                return Err(Failure::unexpected(format!("{what}: the answer is another element")));
            }
            decisive(&element)
        }
        (_, errno) => Err(refused(what, errno)),
    }
}

/// Whether a key, given by field, is an element. That there is no such *set* is `ENOENT` too, which the header rules
/// out.
fn decode_element(bytes: &[u8], key: &[Vec<u8>], header: &Header) -> Result<Reading<bool>, Failure> {
    let what = "set element";
    let body = match reply(bytes, NEWSETELEM, what)? {
        (None, ENOENT) => return Ok(Reading::Ok(false)),
        (Some(body), 0) => body,
        (_, errno) => return Err(refused(what, errno)),
    };
    let list = Attributes::parse(body, "NFTA_SET_ELEM_LIST")?;
    let element = only_element(&list)?;
    let value =
        |kind, name| -> Result<Option<&[u8]>, Failure> { Ok(element.nested(kind, name)?.and_then(|data| data.get(1))) };
    let start = value(1, "NFTA_SET_ELEM_KEY")?.ok_or_else(|| Failure::unexpected(format!("{what}: it has no key")))?;
    let ranged = header.intervals || element.get(10).is_some(); // NFTA_SET_ELEM_KEY_END
    // The kernel answers with the element that contains the key. That cannot be checked for ranges: a redacted capture
    // does not keep the order of their ends.
    let contains = ranged || start == key.concat();
    if !contains || element.be32(3)?.unwrap_or(0) != 0 {
        return Err(Failure::unexpected(format!("{what}: the answer is another element")));
    }
    decisive(&element)
}

fn only_element<'a>(list: &Attributes<'a>) -> Result<Attributes<'a>, Failure> {
    let elements = list.nested(3, "NFTA_SET_ELEM_LIST_ELEMENTS")?;
    let mut elements = elements.iter().flat_map(Attributes::iter).filter(|element| element.kind == 1);
    match (elements.next(), elements.next()) {
        (Some(element), None) => Attributes::parse(element.body, "NFTA_SET_ELEM"),
        _ => Err(Failure::unexpected("set element: the answer is not one element")),
    }
}

/// Whether an element counts: `nft_lookup_eval` passes over an expired one. One with a statement of its own (limit,
/// quota, connlimit; `nft_set_elem_update_expr`) counts for some packets only, which is no failure of the source.
pub fn decisive(element: &Attributes<'_>) -> Result<Reading<bool>, Failure> {
    let list = element.nested(11, "NFTA_SET_ELEM_EXPRESSIONS")?;
    let listed = list.iter().flat_map(Attributes::iter).map(|expression| expression.body);
    for body in element.get(7).into_iter().chain(listed) {
        let name = Attributes::parse(body, "NFTA_EXPR")?.string(1)?.unwrap_or_default();
        if !matches!(name.as_str(), "counter" | "last") {
            return Ok(Reading::Failed(Failure::unsupported(format!(
                "its element has a statement ({name}) that decides by packet"
            ))));
        }
    }
    match element.get(5) {
        Some(left) => Ok(Reading::Ok(wire::array(left, 0, "NFTA_SET_ELEM_EXPIRATION")? != [0u8; 8])),
        None => Ok(Reading::Ok(true)),
    }
}
