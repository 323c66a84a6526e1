//! What the bytes in registers of nf_tables identify.
//!
//! It is an allow-list: a byte stays only where it is known to identify nobody. One of an address is mapped as addresses are
//! everywhere, and one of which nobody can tell is mapped too.

use super::xtables::prefix_length;
use crate::netfilter::nftables::register::{Cell, Header, Load, Machine, NetworkHeader, Source};
use crate::netfilter::nftables::uapi::{
    NFT_CT_AVGPKT, NFT_CT_BYTES, NFT_CT_DIRECTION, NFT_CT_DST, NFT_CT_DST_IP, NFT_CT_DST_IP6, NFT_CT_EVENTMASK,
    NFT_CT_EXPIRATION, NFT_CT_L3PROTOCOL, NFT_CT_MARK, NFT_CT_PKTS, NFT_CT_PROTO_DST, NFT_CT_PROTO_SRC,
    NFT_CT_PROTOCOL, NFT_CT_SRC, NFT_CT_SRC_IP, NFT_CT_SRC_IP6, NFT_CT_STATE, NFT_CT_STATUS, NFT_CT_ZONE,
    NFT_EXTHDR_OP_IPV4, NFT_EXTHDR_OP_IPV6, NFT_EXTHDR_OP_TCPOPT, NFT_FIB_RESULT_ADDRTYPE, NFT_FIB_RESULT_OIF,
    NFT_FIB_RESULT_OIFNAME, NFT_META_LEN, NFT_META_NFPROTO, NFT_META_RTCLASSID, NFT_META_SDIFNAME,
    NFT_PAYLOAD_LL_HEADER, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_RT_CLASSID, NFT_RT_NEXTHOP4,
    NFT_RT_NEXTHOP6, NFT_RT_TCPMSS, NFT_RT_XFRM, NFT_XFRM_KEY_DADDR_IP4, NFT_XFRM_KEY_DADDR_IP6, NFT_XFRM_KEY_REQID,
    NFT_XFRM_KEY_SADDR_IP4, NFT_XFRM_KEY_SADDR_IP6, REGISTERS_LENGTH,
};

/// What a byte is a part of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// A number, a flag, or a name that identifies nobody.
    Plain,
    /// Of this, with the mask put on it.
    Part { kind: LabelKind, octet: usize, mask: u8 },
    /// Of a constant that the rule has.
    Constant,
    /// Nothing was loaded: it fills up a field of a key.
    Padding,
    /// What was computed, or what rules load differently: it cannot be mapped so that all of them still mean the same.
    Unclear,
}

/// What is mapped as a whole, from its first byte on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelKind {
    Ipv4,
    Ipv6,
    Hardware,
    /// Nobody can tell what it is.
    Unknown,
}

impl LabelKind {
    pub(super) fn width(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Hardware => 6,
            Self::Ipv6 | Self::Unknown => 16,
        }
    }
}

/// Bytes of a value that are mapped together: those of this kind from its first one on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub at: usize,
    pub length: usize,
    pub kind: LabelKind,
    /// Leading bits that count.
    pub prefix: u8,
}

/// The parts of a value; `None`: not all of it can be mapped so that what is compared with it means the same.
pub(super) fn parts(labels: &[Label]) -> Option<Vec<Part>> {
    let (mut parts, mut at) = (Vec::new(), 0);
    while let Some(label) = labels.get(at) {
        at += match *label {
            Label::Plain | Label::Padding => 1,
            Label::Part { kind, .. } => {
                let mask = |(index, label): (usize, &Label)| match *label {
                    Label::Part { kind: same, octet, mask } if (same, octet) == (kind, index) => Some(mask),
                    _ => None,
                };
                let whole = labels[at..].iter().take(kind.width()).enumerate();
                let masks: Vec<u8> = whole.map_while(mask).collect();
                let part = Part { at, length: masks.len(), kind, prefix: prefix_length(&masks)? };
                parts.push(part);
                (part.length > 0).then_some(part.length)?
            }
            Label::Constant | Label::Unclear => return None,
        };
    }
    Some(parts)
}

/// Whether these are all the bytes of one address, without a mask.
pub(super) fn is_address(labels: &[Label], length: usize) -> bool {
    let parts = labels.get(..length).and_then(parts).unwrap_or_default();
    let whole = |part: &Part| {
        matches!(part.kind, LabelKind::Ipv4 | LabelKind::Ipv6)
            && part.length == part.kind.width()
            && usize::from(part.prefix) == 8 * part.length
    };
    matches!(&parts[..], [part] if part.length == length && whole(part))
}

/// What a byte is that two rules take for these.
fn both(one: Label, other: Label) -> Label {
    match (one, other) {
        (one, other) if one == other => one,
        // A rule that looks up a constant of its own does not tell what it is.
        (Label::Constant, known) | (known, Label::Constant) => known,
        _ => Label::Unclear,
    }
}

/// What rules and elements tell of the keys of a set.
#[derive(Debug, Default)]
pub(super) struct KeyLayout {
    pub labels: Option<Vec<Label>>,
    /// Bytes of the longest key.
    pub length: usize,
}

impl KeyLayout {
    /// A rule looks up what has these labels.
    pub(super) fn add(&mut self, found: Vec<Label>) {
        self.labels = Some(match self.labels.take() {
            Some(known) => known.into_iter().zip(found).map(|(known, found)| both(known, found)).collect(),
            None => found,
        });
    }

    /// Whether keys can be mapped so that all rules still find them.
    pub(super) fn is_clear(&self) -> bool {
        self.labels.as_ref().and_then(|labels| labels.get(..self.length)).and_then(parts).is_some()
    }
}

/// What rules, and the type that nft has written down, tell of what a map has for its keys. Of bytes that no rule uses nothing
/// stays.
#[derive(Debug)]
pub(super) struct MapData {
    labels: [Label; REGISTERS_LENGTH],
    /// Bytes of the longest data.
    pub length: usize,
}

impl Default for MapData {
    fn default() -> Self {
        Self { labels: [Label::Padding; REGISTERS_LENGTH], length: 0 }
    }
}

impl MapData {
    /// Byte `at` is used as this.
    pub(super) fn add(&mut self, at: usize, found: Label) {
        let Some(place) = self.labels.get_mut(at) else { return };
        *place = match (*place, found) {
            (Label::Padding, only) | (only, Label::Padding) => only,
            (known, found) => both(known, found),
        };
    }

    /// nft says that the data are of this type. One of several fields has 6 bits for each, the first the most significant.
    pub(super) fn add_type(&mut self, kind: u32) {
        const TYPE_BITS: u32 = 6;
        const TYPE_IPADDR: u32 = 7;
        const TYPE_IP6ADDR: u32 = 8;
        const TYPE_ETHERADDR: u32 = 9;
        const TYPE_INET_PROTOCOL: u32 = 12;
        const TYPE_INET_SERVICE: u32 = 13;
        const TYPE_MARK: u32 = 19;
        let fields = (0..u32::BITS / TYPE_BITS).rev().map(|field| kind >> (field * TYPE_BITS) & ((1 << TYPE_BITS) - 1));
        let mut at = 0;
        for field in fields.skip_while(|field| *field == 0) {
            let (width, address) = match field {
                TYPE_IPADDR => (4, Some(LabelKind::Ipv4)),
                TYPE_IP6ADDR => (16, Some(LabelKind::Ipv6)),
                TYPE_ETHERADDR => (6, Some(LabelKind::Hardware)),
                TYPE_INET_PROTOCOL | TYPE_INET_SERVICE | TYPE_MARK => (4, None),
                _ => return,
            };
            address.iter().for_each(|kind| (0..width).for_each(|byte| self.add(at + byte, part(*kind, byte))));
            at += width.next_multiple_of(4);
        }
    }

    /// What each byte is; none if they cannot be mapped so that all rules still make the same of them.
    pub(super) fn labels(&self) -> Option<&[Label]> {
        let labels = &self.labels[..self.length.min(REGISTERS_LENGTH)];
        parts(labels).is_some().then_some(&self.labels)
    }
}

/// All bytes of an address of this width.
pub(super) fn address(width: usize) -> Vec<Label> {
    let kind = if width == LabelKind::Ipv6.width() { LabelKind::Ipv6 } else { LabelKind::Ipv4 };
    (0..width).map(|byte| part(kind, byte)).collect()
}

/// What the bytes from a register on are; `map`: what byte of a map's data one is.
pub(super) fn labels(machine: &Machine, register: u32, map: impl Fn(&Load, usize) -> Label) -> Vec<Label> {
    let label = |cell: &Cell| machine.load_of(cell).map_or(Label::Padding, |load| label(load, cell, &map));
    machine.from(register).iter().map(label).collect()
}

/// What a byte is that was loaded so.
fn label(load: &Load, cell: &Cell, map: impl Fn(&Load, usize) -> Label) -> Label {
    let changed = cell.computed != 0 || cell.xor != 0;
    let found = if load.source == Source::Map { map(load, cell.byte) } else { byte(load, cell.byte) };
    match found {
        Label::Part { .. } if changed => Label::Unclear,
        Label::Part { kind, octet, .. } => Label::Part { kind, octet, mask: cell.and },
        other => other,
    }
}

fn part(kind: LabelKind, at: usize) -> Label {
    Label::Part { kind, octet: at % kind.width(), mask: 0xff }
}

/// What the byte at this place of a load is.
fn byte(load: &Load, at: usize) -> Label {
    let plain = |plain: bool| if plain { Label::Plain } else { part(LabelKind::Unknown, at) };
    match load.source {
        Source::Header(header) => match header {
            Header::Ipv4Source | Header::Ipv4Destination | Header::ArpSender | Header::ArpTarget => {
                part(LabelKind::Ipv4, at)
            }
            Header::Ipv6Source | Header::Ipv6Destination => part(LabelKind::Ipv6, at),
            Header::ArpSenderHardware | Header::ArpTargetHardware => part(LabelKind::Hardware, at),
            Header::Ipv4Protocol | Header::Ipv6Next | Header::SourcePort | Header::DestinationPort => Label::Plain,
        },
        Source::Payload { base: NFT_PAYLOAD_LL_HEADER, offset, .. } if offset + at < 12 => {
            part(LabelKind::Hardware, offset + at)
        }
        Source::Payload { base, offset, length } => plain(is_plain(load, base, offset, length, at)),
        Source::Ct(NFT_CT_SRC | NFT_CT_DST, _) => match load.network {
            Some(NetworkHeader::Ipv4) => part(LabelKind::Ipv4, at),
            Some(NetworkHeader::Ipv6) => part(LabelKind::Ipv6, at),
            Some(NetworkHeader::Arp) | None => part(LabelKind::Unknown, at),
        },
        Source::Ct(NFT_CT_SRC_IP | NFT_CT_DST_IP, _)
        | Source::Rt(NFT_RT_NEXTHOP4)
        | Source::Xfrm(NFT_XFRM_KEY_DADDR_IP4 | NFT_XFRM_KEY_SADDR_IP4) => part(LabelKind::Ipv4, at),
        Source::Ct(NFT_CT_SRC_IP6 | NFT_CT_DST_IP6, _)
        | Source::Rt(NFT_RT_NEXTHOP6)
        | Source::Xfrm(NFT_XFRM_KEY_DADDR_IP6 | NFT_XFRM_KEY_SADDR_IP6) => part(LabelKind::Ipv6, at),
        Source::Exthdr(op, kind, offset) => {
            option(op, kind, offset as usize + at).unwrap_or(part(LabelKind::Unknown, at))
        }
        Source::Present(..) => plain(true),
        Source::Meta(key) => {
            plain(matches!(key, NFT_META_LEN..=NFT_META_RTCLASSID | NFT_META_NFPROTO..=NFT_META_SDIFNAME))
        }
        Source::Ct(key, _) => plain(matches!(
            key,
            NFT_CT_STATE
                | NFT_CT_DIRECTION
                | NFT_CT_STATUS
                | NFT_CT_MARK
                | NFT_CT_EXPIRATION
                | NFT_CT_L3PROTOCOL
                | NFT_CT_PROTOCOL
                | NFT_CT_PROTO_SRC
                | NFT_CT_PROTO_DST
                | NFT_CT_PKTS
                | NFT_CT_BYTES
                | NFT_CT_AVGPKT
                | NFT_CT_ZONE
                | NFT_CT_EVENTMASK
        )),
        Source::Fib(result, _) => {
            plain(matches!(result, NFT_FIB_RESULT_OIF | NFT_FIB_RESULT_OIFNAME | NFT_FIB_RESULT_ADDRTYPE))
        }
        Source::Rt(key) => plain(matches!(key, NFT_RT_CLASSID | NFT_RT_TCPMSS | NFT_RT_XFRM)),
        Source::Xfrm(key) => plain(key == NFT_XFRM_KEY_REQID),
        Source::Numgen | Source::Hash => Label::Plain,
        Source::Socket | Source::Osf | Source::Tunnel => part(LabelKind::Unknown, at),
        Source::Constant => Label::Constant,
        Source::Map | Source::Computed | Source::NoRegister | Source::Unsupported => Label::Unclear,
    }
}

/// Bytes of headers that identify nobody, by what the rule has told of the packet: where it has told nothing, a header may
/// be any. Ports stand in [`Header`].
fn is_plain(load: &Load, base: u32, offset: usize, length: usize, at: usize) -> bool {
    const IPPROTO_TCP: u8 = 6;
    const IPPROTO_UDP: u8 = 17;
    const IPPROTO_DCCP: u8 = 33;
    const IPPROTO_UDPLITE: u8 = 136;
    let byte = offset + at;
    match (base, load.network, load.transport) {
        // The type, the tag of a VLAN, and the type behind it. A device without an Ethernet header has an IP header here.
        (NFT_PAYLOAD_LL_HEADER, ..) => match byte {
            12..14 => offset < 12 || length <= 2,
            14..18 => offset >= 14 && length <= 2,
            _ => false,
        },
        // All up to the checksum.
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4), _) => byte < 10,
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6 | NetworkHeader::Arp), _) => byte < 8,
        // Length of the header, flags, window, urgent pointer.
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_TCP)) => matches!(byte, 12..16 | 18..20),
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_UDP | IPPROTO_UDPLITE)) => matches!(byte, 4..6),
        // The type.
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_DCCP)) => byte == 8,
        _ => false,
    }
}

/// A byte of an option or an extension header: type and length, addresses of routes, and numbers of TCP.
fn option(op: u32, kind: u8, byte: usize) -> Option<Label> {
    /// A routing header, whose addresses begin so many bytes from its start (`struct rt0_hdr`, `struct ipv6_sr_hdr`).
    const IPPROTO_ROUTING: u8 = 43;
    const ROUTING_ADDRESSES: usize = 8;
    /// Options of IPv4 with routes, whose addresses begin so many bytes from their start.
    const IPOPT_RR: u8 = 7;
    const IPOPT_LSRR: u8 = 131;
    const IPOPT_SSRR: u8 = 137;
    const OPTION_ADDRESSES: usize = 3;
    const TCPOPT_MSS: u8 = 2;
    const TCPOPT_WINDOW: u8 = 3;
    let from = |kind, start| byte.checked_sub(start).map_or(Label::Plain, |at| part(kind, at));
    match (op, kind) {
        (NFT_EXTHDR_OP_IPV6, IPPROTO_ROUTING) => Some(from(LabelKind::Ipv6, ROUTING_ADDRESSES)),
        (NFT_EXTHDR_OP_IPV4, IPOPT_RR | IPOPT_LSRR | IPOPT_SSRR) => Some(from(LabelKind::Ipv4, OPTION_ADDRESSES)),
        (NFT_EXTHDR_OP_TCPOPT, TCPOPT_MSS | TCPOPT_WINDOW) => Some(Label::Plain),
        _ => (byte < 2).then_some(Label::Plain),
    }
}
