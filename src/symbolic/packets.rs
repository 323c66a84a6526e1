//! What a set of packets is made of: which variables are which field of a packet.
//!
//! The order is fixed: devices, state, protocol, addresses, ports, then the marks, then what is asked on the way. Marks depend
//! on the fields, so a mark is small behind the fields that decide it. Two packets are walked with the same marks, an inner one
//! and the outer one around it; each has fields of its own.
//!
//! Three kinds of tests are no fields: *free* ones, which some packet of the traffic meets (a set of pods, a port);
//! *non-deterministic* ones, which hold now and then, so that both ways happen; *unsupported* ones. Of a tunnel's own packet everything
//! is known or fixed, so a field that is not known has one value for all of them.
//!
//! Marks are told by the rest of a packet, because they begin with a known value and rules write them; so an old mark may be
//! forgotten when it is overwritten. What a packet was before its address was translated is kept while an answer about it
//! matters.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::network::Network;
use super::space::{BitVector, Space};
use crate::facts::netfilter::{Comparison, Family, Field, HeaderBytes};

/// What a packet stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketKind {
    /// All packets that traffic may consist of: whatever a rule asks beyond its fields, some packet has it.
    Traffic,
    /// Packets of which everything is known or fixed: what cannot be told of them is unknown.
    Tunnel,
}

/// `NF_CT_STATE_BIT(IP_CT_NEW)` and its like, as `nft_ct` and `xt_conntrack` see them.
pub(crate) mod state {
    /// No connection: also before connection tracking has seen the packet.
    pub(crate) const INVALID: u128 = 1;
    /// Of a connection that was confirmed.
    pub(crate) const ESTABLISHED: u128 = 2;
    /// The first of an expected connection.
    pub(crate) const RELATED: u128 = 4;
    /// The first of a connection.
    pub(crate) const NEW: u128 = 8;
    /// Not tracked.
    pub(crate) const UNTRACKED: u128 = 64;
    /// All of them, by their number in a set of packets.
    pub(crate) const ALL: [u128; 5] = [INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED];
}

/// Names of devices: none, and any. A packet that was not received or is not routed yet has none there.
pub(crate) const NO_DEVICE: &[(u128, u128)] = &[(0, 0)];
/// See [`NO_DEVICE`].
pub(crate) const SOME_DEVICE: &[(u128, u128)] = &[(1, u128::MAX)];

/// Names of devices, cut where some rule tells them apart: each piece is one number.
#[derive(Clone, Debug)]
pub(crate) struct Names(Vec<u128>);

impl Names {
    /// The pieces that all rules and these ranges tell apart.
    fn new(network: &Network<'_>, others: &[(u128, u128)]) -> Self {
        let mut starts = network.survey().names.clone();
        for (first, last) in others {
            starts.insert(*first);
            starts.extend(last.checked_add(1));
        }
        Self(starts.into_iter().collect())
    }

    fn bits(&self) -> u32 {
        self.0.len().next_power_of_two().ilog2()
    }

    /// Numbers of the pieces that these ranges consist of. `None`: one of them cuts a piece in two.
    pub(crate) fn pieces(&self, ranges: &[(u128, u128)]) -> Option<Vec<(u128, u128)>> {
        let piece = |(first, last): &(u128, u128)| {
            let from = self.0.binary_search(first).ok()?;
            let end = match last.checked_add(1) {
                Some(next) => self.0.binary_search(&next).ok()?,
                None => self.0.len(),
            };
            Some((from as u128, end as u128 - 1))
        };
        ranges.iter().map(piece).collect()
    }

    /// Pieces in which there is a name at all: behind its end are zeros, which a test of its beginning does not ask for.
    pub(crate) fn possible(&self) -> Vec<(u128, u128)> {
        let is_possible = |(at, first): (usize, &u128)| {
            let bytes = first.to_be_bytes();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let next = match bytes[end..].iter().all(|byte| *byte == 0) {
                true => *first,
                // One more byte makes the next name.
                false => (*first >> (8 * (15 - end)) | 1) << (8 * (15 - end)),
            };
            let last = self.0.get(at + 1).map_or(u128::MAX, |next| next - 1);
            (next <= last).then_some((at as u128, at as u128))
        };
        self.0.iter().enumerate().filter_map(is_possible).collect()
    }

    /// The name that a piece consists of, if it is one.
    pub(crate) fn name(&self, piece: u128) -> Option<u128> {
        let at = usize::try_from(piece).ok()?;
        let (first, next) = (*self.0.get(at)?, self.0.get(at + 1)?);
        (first + 1 == *next).then_some(first)
    }
}

/// Whether numbers of a field are pieces of [`Names`].
pub(crate) fn is_name(field: &Field) -> bool {
    matches!(field, Field::InputName | Field::OutputName)
}

/// Bits of a field; of a name, of [`Names`].
pub(crate) fn width(field: &Field) -> u32 {
    match field {
        Field::Mark
        | Field::ConnectionMark
        | Field::ConnectionStatus
        | Field::InputIndex
        | Field::OutputIndex
        | Field::Ipv4Source
        | Field::Ipv4Destination => 32,
        Field::Ipv6Source | Field::Ipv6Destination | Field::Device { .. } => 128,
        Field::Other(name) => match HeaderBytes::of(name) {
            Some(bytes) => (8 * bytes.length as u32).clamp(1, 128),
            None if name == "meta length" || name == "ct zone" => 16,
            None => 128,
        },
        Field::NfProto | Field::L4Proto => 8,
        Field::Counted { .. } | Field::Time => 64,
        Field::MarkBits(_) | Field::Number { .. } => 32,
        Field::EtherType | Field::SourcePort | Field::DestinationPort => 16,
        Field::SourceType(_) | Field::DestinationType(_) => 4,
        Field::ConnectionState => 3,
        Field::ConnectionDirection | Field::Ipsec { .. } => 1,
        Field::InputName | Field::OutputName => 0,
    }
}

/// Marks that cannot be told, of which each can be anything for each packet; more of them are any of three.
const WORDS: usize = 16;

/// The variables of a walk's packets.
#[derive(Debug)]
pub(crate) struct PacketLayout {
    /// Names of devices.
    pub names: Names,
    /// Those of the first packet, and those of the one around it.
    blocks: [BTreeMap<Field, BitVector>; 2],
    /// The mark with which a packet came to a chain.
    pub mark_before: BitVector,
    /// Numbers beside the marks that nobody has asked for.
    words: Vec<BitVector>,
    /// It has a template of a connection.
    pub template: u32,
    /// A chain whose packets are routed again when their mark has changed changed it.
    pub rerouted: u32,
    /// Nothing of its checksum, or of that of the packet inside, is left to a device.
    pub filled: u32,
    /// The entry of its connection has a timeout of its own.
    pub own_timeout: u32,
    /// A rule has put it into one of these sets.
    pub put: Vec<u32>,
}

impl PacketLayout {
    /// `names`: ranges of names that are told apart beside those of the rules.
    pub(crate) fn new(space: &Space<'_>, network: &Network<'_>, names: &[(u128, u128)]) -> Self {
        let names = Names::new(network, names);
        let mut blocks = [(); 2].map(|()| {
            let devices = [Field::OutputName, Field::InputName].map(|field| (field, space.block(names.bits())));
            let fields = [
                Field::ConnectionState,
                Field::L4Proto,
                Field::Ipv4Destination,
                Field::Ipv4Source,
                Field::Ipv6Destination,
                Field::Ipv6Source,
                Field::DestinationPort,
                Field::SourcePort,
                Field::ConnectionDirection,
                Field::ConnectionStatus,
            ];
            let fields = fields.map(|field| (field.clone(), space.block(width(&field))));
            devices.into_iter().chain(fields).collect::<BTreeMap<_, _>>()
        });
        let [mark, inner, outer, mark_before, words @ ..] = space.interleaved::<{ 4 + WORDS }>(32);
        for (blocks, connection) in blocks.iter_mut().zip([inner, outer]) {
            blocks.extend([(Field::Mark, mark.clone()), (Field::ConnectionMark, connection)]);
        }
        let [template, rerouted, filled, own_timeout] = [(); 4].map(|()| space.block(1).0[0]);
        Self {
            names,
            blocks,
            mark_before,
            words: words.into(),
            template,
            rerouted,
            filled,
            own_timeout,
            put: Vec::new(),
        }
    }

    /// The variables of a field of the first packet, or of the one around it.
    pub(crate) fn block(&mut self, space: &Space<'_>, outer: bool, field: &Field) -> BitVector {
        let blocks = &mut self.blocks[usize::from(outer)];
        blocks.entry(field.clone()).or_insert_with(|| space.block(width(field))).clone()
    }

    /// Numbers that rules make and look up.
    pub(crate) fn numbers(&self, outer: bool) -> Vec<Field> {
        let fields = self.blocks[usize::from(outer)].keys();
        fields.filter(|field| matches!(field, Field::Number { .. })).cloned().collect()
    }

    /// A number of the width of a mark, bit beside bit with the marks: equal ones stay small. `None`: there are no more.
    pub(crate) fn word(&mut self) -> Option<BitVector> {
        self.words.pop()
    }

    /// What rules write, and what is told by the rest of the packet: marks, states, flags.
    pub(crate) fn determined(&self) -> BTreeSet<u32> {
        let written = [Field::Mark, Field::ConnectionMark, Field::ConnectionState];
        let blocks = self.blocks.iter().flat_map(|blocks| written.iter().filter_map(|field| blocks.get(field)));
        let blocks = blocks.chain([&self.mark_before]);
        let flags = [self.template, self.rerouted, self.filled, self.own_timeout];
        blocks.flat_map(|block| block.0.iter().copied()).chain(flags).chain(self.put.iter().copied()).collect()
    }

    /// All variables of the fields of the first packet, or of the one around it, but its mark.
    pub(crate) fn variables(&self, outer: bool) -> BTreeSet<u32> {
        let blocks = self.blocks[usize::from(outer)].iter().filter(|(field, _)| **field != Field::Mark);
        let flags = [self.template, self.rerouted, self.own_timeout];
        let blocks = blocks.flat_map(|(_, block)| block.0.iter().copied());
        blocks.chain(flags).chain(self.put.iter().copied()).collect()
    }
}

/// The packets that are under way: what they stand for, and what is known of them.
#[derive(Clone, Debug)]
pub(crate) struct Packets {
    /// What they stand for.
    pub kind: PacketKind,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Fields of tunnel packets that are known.
    pub known: BTreeSet<Field>,
    /// Bytes of the header of IP that are the same in all of them: place, mask, value.
    pub header: Vec<(usize, u8, u8)>,
    /// A bridge forwards them as frames (`br_nf_forward`): nothing else has a port that it leaves by.
    pub bridged: bool,
    /// Only those matter that are forwarded in the end, and not those that a socket of this host gets.
    pub forwarded: bool,
    /// They are for no Service: they have the address of this host, and the port of a tunnel.
    pub past_services: bool,
}

impl Packets {
    /// Packets of a family.
    pub(crate) fn new(kind: PacketKind, family: Family) -> Self {
        let known = [Field::Mark, Field::ConnectionMark, Field::ConnectionState, Field::ConnectionDirection];
        let others = [Field::ConnectionStatus, Field::L4Proto, Field::InputName];
        // There are packets of every length.
        let lengths = ["meta length", "ip length", "ip6 length", "udp length"].map(|name| Field::Other(name.into()));
        Self {
            kind,
            family,
            known: known.into_iter().chain(others).chain(lengths).collect(),
            header: vec![],
            bridged: false,
            forwarded: false,
            past_services: false,
        }
    }

    /// Bits that all outer packets have the same of a field that is not followed: mask and value. They are unicast, whole,
    /// made by this host, and UDP.
    pub(crate) fn known_bits(&self, field: &Field) -> Option<(u128, u128)> {
        let Field::Other(name) = field else { return None };
        if self.kind != PacketKind::Tunnel {
            return None;
        }
        // The headers of IPv4 and IPv6: byte, mask, value.
        let header: &[(usize, u8, u8)] = match self.family {
            Family::Ipv6 => &[(0, 0xf0, 0x60), (6, 0xff, 17)],
            // The version and the length; no fragment, whether or not it may become some.
            _ => &[(0, 0xff, 0x45), (6, 0xbf, 0), (7, 0xff, 0), (9, 0xff, 17)],
        };
        match name.as_str() {
            "fragment" | "meta pkttype" => Some((u128::MAX, 0)),
            // A tunnel writes no options and no extension headers.
            name if name.ends_with(" exists") => Some((u128::MAX, 0)),
            name => {
                let HeaderBytes { offset, length, .. } = HeaderBytes::of(name).filter(|bytes| bytes.header == 1)?;
                let inside =
                    header.iter().chain(&self.header).filter(|(at, ..)| (offset..offset + length).contains(at));
                let bits = inside.map(|(at, mask, value)| {
                    let shift = 8 * (offset + length - 1 - at);
                    (u128::from(*mask) << shift, u128::from(*value) << shift)
                });
                Some(bits.fold((0, 0), |(masks, values), (mask, value)| (masks | mask, values | value)))
            }
        }
    }

    /// The least and the largest number that packets have in a field, where not every number is one of them.
    fn ends_of(&self, field: &Field) -> Option<(u128, u128)> {
        /// `struct ipv6hdr`, `struct udphdr`
        const IPV6: u128 = 40;
        const UDP: u128 = 8;
        let name = match field {
            Field::Number { first, last, .. } => return Some(((*first).into(), (*last).into())),
            Field::Other(name) => name,
            _ => return None,
        };
        let header = if self.family == Family::Ipv6 { IPV6 } else { 20 };
        // Around those of a tunnel: its own header, Ethernet's, and an IPv4 packet of UDP without data.
        let inside = if self.kind == PacketKind::Tunnel { UDP + 8 + 14 + 20 + UDP } else { 0 };
        let most = u128::from(u16::MAX);
        match name.as_str() {
            "meta length" | "ip length" => Some((header + inside, most)),
            "ip6 length" => Some((inside, most)),
            "udp length" => Some((inside.max(UDP), most)),
            // With 0 none is sent (`ip_forward`, `ip6_forward`), and 0 for a tunnel's is the usual one.
            "ip ttl" | "ip6 hoplimit" => Some((1, u8::MAX.into())),
            _ => None,
        }
    }

    /// A condition on a field of them. What is beyond the ends of what they can have there stands for these ends, so that one
    /// of the numbers is always right.
    pub(crate) fn condition<'c>(&self, field: &Field, condition: &'c Comparison) -> Cow<'c, Comparison> {
        let whole = u128::MAX >> (128 - width(field).max(1));
        let ranges = match condition {
            Comparison::Ranges(ranges) => ranges.clone(),
            Comparison::Masked { mask, value } if mask & whole == whole => vec![(*value, *value)],
            Comparison::Masked { .. } => return Cow::Borrowed(condition),
        };
        let Some((least, most)) = self.ends_of(field) else { return Cow::Borrowed(condition) };
        let possible = ranges.iter().filter(|(first, last)| *first <= most && *last >= least);
        let widened = possible.map(|(first, last)| {
            (if *first <= least { 0 } else { *first }, if *last >= most { u128::MAX } else { *last })
        });
        Cow::Owned(Comparison::Ranges(widened.collect()))
    }

    /// Its source address's field, and its destination's.
    pub(crate) fn ends(&self) -> (Field, Field) {
        match self.family {
            Family::Ipv6 => (Field::Ipv6Source, Field::Ipv6Destination),
            _ => (Field::Ipv4Source, Field::Ipv4Destination),
        }
    }

    /// The number that a field has in all of them by their family, if it is such a field.
    pub(crate) fn constant(&self, field: &Field) -> Option<u128> {
        let ipv6 = self.family == Family::Ipv6;
        match field {
            Field::NfProto => Some(if ipv6 { 10 } else { 2 }),
            Field::EtherType => Some(if ipv6 { 0x86dd } else { 0x0800 }),
            _ => None,
        }
    }

    /// Whether all of their fields are any, or this one is known.
    pub(crate) fn knows(&self, field: &Field) -> bool {
        self.kind == PacketKind::Traffic || self.known.contains(field) || field.is_drawn()
    }
}
