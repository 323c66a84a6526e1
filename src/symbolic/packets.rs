//! Variables of packet fields.
//!
//! Their order is fixed: devices, state, protocol, addresses, ports, marks, questions. Marks depend on fields, so a
//! mark is a small diagram after the fields that determine it. Inner and outer packets are walked with the same mark
//! variables and separate field variables.
//!
//! Three kinds of tests have no variables: *free* ones, which some packet of the traffic matches (a set of pods, a
//! port); *non-deterministic* ones, whose branches both happen; *unsupported* ones. Everything about a tunnel's outer
//! packets is known or fixed, so an unknown field has one value for all of them.
//!
//! Marks follow from the rest of a packet, because they start with a known value and rules write them. So an
//! overwritten mark can be forgotten. The fields before an address is translated are kept as long as an answer depends
//! on them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::network::Network;
use super::space::{BitVector, Space};
use crate::facts::netfilter::{Comparison, Family, Field, HeaderBytes};

/// What a packet set represents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PacketKind {
    /// Traffic: for any test beyond the variables there is a packet that passes it.
    Traffic,
    /// A tunnel's packets, about which everything is known or fixed; what cannot be determined is unknown.
    Tunnel,
}

/// Connection states as in `nft_ct` and `xt_conntrack`: `NF_CT_STATE_BIT(IP_CT_NEW)` etc.
pub(crate) mod state {
    /// No connection; also before conntrack has seen the packet.
    pub(crate) const INVALID: u128 = 1;
    /// Of a confirmed connection.
    pub(crate) const ESTABLISHED: u128 = 2;
    /// First packet of an expected connection.
    pub(crate) const RELATED: u128 = 4;
    /// First packet of a connection.
    pub(crate) const NEW: u128 = 8;
    /// Not tracked.
    pub(crate) const UNTRACKED: u128 = 64;
    /// All states, in the order of their numbers in packet sets.
    pub(crate) const ALL: [u128; 5] = [INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED];
}

/// Ranges of device names: none, and any. A packet not received, or not routed yet, has none.
pub(crate) const NO_DEVICE: &[(u128, u128)] = &[(0, 0)];
/// See [`NO_DEVICE`].
pub(crate) const SOME_DEVICE: &[(u128, u128)] = &[(1, u128::MAX)];

/// Ranges of device names that rules distinguish; each range has a number.
#[derive(Clone, Debug)]
pub(crate) struct Names(Vec<u128>);

impl Names {
    /// The ranges distinguished by rules and `others`.
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

    /// Numbers of the ranges that these consist of. `None`: a boundary is inside a range.
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

    /// Ranges with at least one valid name: names end with zeros, which prefix tests do not require.
    pub(crate) fn possible(&self) -> Vec<(u128, u128)> {
        let is_possible = |(at, first): (usize, &u128)| {
            let bytes = first.to_be_bytes();
            let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
            let next = match bytes[end..].iter().all(|byte| *byte == 0) {
                true => *first,
                // The next valid name has one more byte.
                false => (*first >> (8 * (15 - end)) | 1) << (8 * (15 - end)),
            };
            let last = self.0.get(at + 1).map_or(u128::MAX, |next| next - 1);
            (next <= last).then_some((at as u128, at as u128))
        };
        self.0.iter().enumerate().filter_map(is_possible).collect()
    }

    /// The name, if a range has only one.
    pub(crate) fn name(&self, piece: u128) -> Option<u128> {
        let at = usize::try_from(piece).ok()?;
        let (first, next) = (*self.0.get(at)?, self.0.get(at + 1)?);
        (first + 1 == *next).then_some(first)
    }
}

/// Whether values of a field are numbers of [`Names`].
pub(crate) fn is_name(field: &Field) -> bool {
    matches!(field, Field::InputName | Field::OutputName)
}

/// Width of a field, bits; for names, of their numbers in [`Names`].
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

/// Number of unknown marks per walk; further ones have three possible values.
const WORDS: usize = 16;

/// The variables of a walk.
#[derive(Debug)]
pub(crate) struct PacketLayout {
    /// Ranges of device names.
    pub names: Names,
    /// Field variables of inner (or only) packets, and of outer packets.
    blocks: [BTreeMap<Field, BitVector>; 2],
    /// The mark before a chain that may cause re-routing.
    pub mark_before: BitVector,
    /// Unused numbers, interleaved with the marks.
    words: Vec<BitVector>,
    /// Whether the packet has a conntrack template.
    pub template: u32,
    /// Whether a chain that causes re-routing changed its mark.
    pub rerouted: u32,
    /// Whether no checksum, of the packet or the inner packet, is left to a device.
    pub filled: u32,
    /// Whether the connection's entry has its own timeout.
    pub own_timeout: u32,
    /// A rule has put it into one of these sets.
    pub put: Vec<u32>,
}

impl PacketLayout {
    /// `names`: ranges of names to distinguish besides those in rules.
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

    /// The variables of a field of inner or outer packets.
    pub(crate) fn block(&mut self, space: &Space<'_>, outer: bool, field: &Field) -> BitVector {
        let blocks = &mut self.blocks[usize::from(outer)];
        blocks.entry(field.clone()).or_insert_with(|| space.block(width(field))).clone()
    }

    /// Fields with numbers that rules generate and look up.
    pub(crate) fn numbers(&self, outer: bool) -> Vec<Field> {
        let fields = self.blocks[usize::from(outer)].keys();
        fields.filter(|field| matches!(field, Field::Number { .. })).cloned().collect()
    }

    /// A number of a mark's width, interleaved with the marks so that equality is a small diagram. `None`: none left.
    pub(crate) fn word(&mut self) -> Option<BitVector> {
        self.words.pop()
    }

    /// Variables that rules write and that follow from the rest of the packet: marks, states, flags.
    pub(crate) fn determined(&self) -> BTreeSet<u32> {
        let written = [Field::Mark, Field::ConnectionMark, Field::ConnectionState];
        let blocks = self.blocks.iter().flat_map(|blocks| written.iter().filter_map(|field| blocks.get(field)));
        let blocks = blocks.chain([&self.mark_before]);
        let flags = [self.template, self.rerouted, self.filled, self.own_timeout];
        blocks.flat_map(|block| block.0.iter().copied()).chain(flags).chain(self.put.iter().copied()).collect()
    }

    /// All field variables of inner or outer packets, except the mark.
    pub(crate) fn variables(&self, outer: bool) -> BTreeSet<u32> {
        let blocks = self.blocks[usize::from(outer)].iter().filter(|(field, _)| **field != Field::Mark);
        let flags = [self.template, self.rerouted, self.own_timeout];
        let blocks = blocks.flat_map(|(_, block)| block.0.iter().copied());
        blocks.chain(flags).chain(self.put.iter().copied()).collect()
    }
}

/// The present packets: kind, and what is known about them.
#[derive(Clone, Debug)]
pub(crate) struct Packets {
    /// What they represent.
    pub kind: PacketKind,
    /// IPv4 or IPv6.
    pub family: Family,
    /// Known fields, for tunnel packets.
    pub known: BTreeSet<Field>,
    /// IP header bytes that are the same in all of them: offset, mask, value.
    pub header: Vec<(usize, u8, u8)>,
    /// Whether they are bridged frames (`br_nf_forward`); only these have an output port.
    pub bridged: bool,
    /// Whether only packets that are forwarded in the end matter, and not those delivered to a local socket.
    pub forwarded: bool,
    /// Whether they match no Service: their destination is a local address and a tunnel's port.
    pub past_services: bool,
}

impl Packets {
    /// For packets of a family.
    pub(crate) fn new(kind: PacketKind, family: Family) -> Self {
        let known = [Field::Mark, Field::ConnectionMark, Field::ConnectionState, Field::ConnectionDirection];
        let others = [Field::ConnectionStatus, Field::L4Proto, Field::InputName];
        // Traffic includes all lengths.
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

    /// Bits of a field without variables that are the same in all outer packets: mask and value. They are unicast,
    /// unfragmented, sent by this host, and UDP.
    pub(crate) fn known_bits(&self, field: &Field) -> Option<(u128, u128)> {
        let Field::Other(name) = field else { return None };
        if self.kind != PacketKind::Tunnel {
            return None;
        }
        // IPv4 and IPv6 headers: offset, mask, value.
        let header: &[(usize, u8, u8)] = match self.family {
            Family::Ipv6 => &[(0, 0xf0, 0x60), (6, 0xff, 17)],
            // Version and length; not a fragment, with or without DF.
            _ => &[(0, 0xff, 0x45), (6, 0xbf, 0), (7, 0xff, 0), (9, 0xff, 17)],
        };
        match name.as_str() {
            "fragment" | "meta pkttype" => Some((u128::MAX, 0)),
            // Tunnels write no options or extension headers.
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

    /// Smallest and largest value of a field, if not all values occur.
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
        // For tunnels: tunnel header, Ethernet, and an IPv4 UDP packet without data.
        let inside = if self.kind == PacketKind::Tunnel { UDP + 8 + 14 + 20 + UDP } else { 0 };
        let most = u128::from(u16::MAX);
        match name.as_str() {
            "meta length" | "ip length" => Some((header + inside, most)),
            "ip6 length" => Some((inside, most)),
            "udp length" => Some((inside.max(UDP), most)),
            // Packets with 0 are not sent (`ip_forward`, `ip6_forward`); 0 as a tunnel's setting means the default.
            "ip ttl" | "ip6 hoplimit" => Some((1, u8::MAX.into())),
            _ => None,
        }
    }

    /// A comparison restricted to values that occur. Values beyond these mean the nearest one, so that one of the
    /// numbers always applies.
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

    /// Fields of the source and destination address.
    pub(crate) fn ends(&self) -> (Field, Field) {
        match self.family {
            Family::Ipv6 => (Field::Ipv6Source, Field::Ipv6Destination),
            _ => (Field::Ipv4Source, Field::Ipv4Destination),
        }
    }

    /// The value of a field that is fixed by the family; `None` for others.
    pub(crate) fn constant(&self, field: &Field) -> Option<u128> {
        let ipv6 = self.family == Family::Ipv6;
        match field {
            Field::NfProto => Some(if ipv6 { 10 } else { 2 }),
            Field::EtherType => Some(if ipv6 { 0x86dd } else { 0x0800 }),
            _ => None,
        }
    }

    /// Whether a field has its own values: always for traffic, and for known fields.
    pub(crate) fn knows(&self, field: &Field) -> bool {
        self.kind == PacketKind::Traffic || self.known.contains(field) || field.is_drawn()
    }
}
