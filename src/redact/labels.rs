//! Labels for bytes in nf_tables registers: what they identify.
//!
//! An allow-list: a byte is kept only if it is known to identify nobody. Bytes of addresses are mapped as addresses are
//! elsewhere; bytes of unknown meaning are mapped too.

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

/// What a byte in a register belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// A number, flag or name that identifies nobody.
    Plain,
    /// Byte `octet` of a value of this kind, masked.
    Part { kind: LabelKind, octet: usize, mask: u8 },
    /// A constant in the rule.
    Constant,
    /// Nothing was loaded: padding of a key field.
    Padding,
    /// Computed, or loaded differently by several rules: cannot be mapped so that all of them keep their meaning.
    Unclear,
}

/// Kinds of values that are mapped as a whole, starting at their first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LabelKind {
    Ipv4,
    Ipv6,
    Hardware,
    /// Unknown meaning.
    Unknown,
}

impl LabelKind {
    /// Length of a value in bytes.
    pub(super) fn width(self) -> usize {
        match self {
            Self::Ipv4 => 4,
            Self::Hardware => 6,
            Self::Ipv6 | Self::Unknown => 16,
        }
    }
}

/// Adjacent bytes that are mapped together: a value of this kind from its first byte.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Offset of its first byte.
    pub at: usize,
    /// Number of bytes.
    pub length: usize,
    /// Kind of the value.
    pub kind: LabelKind,
    /// Number of leading bits that are compared.
    pub prefix: u8,
}

/// The parts of a value; `None`: some bytes cannot be mapped so that comparisons keep their meaning.
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

/// Whether these bytes are exactly one unmasked address.
pub(super) fn is_address(labels: &[Label], length: usize) -> bool {
    let parts = labels.get(..length).and_then(parts).unwrap_or_default();
    let whole = |part: &Part| {
        matches!(part.kind, LabelKind::Ipv4 | LabelKind::Ipv6)
            && part.length == part.kind.width()
            && usize::from(part.prefix) == 8 * part.length
    };
    matches!(&parts[..], [part] if part.length == length && whole(part))
}

/// Combines the labels that two rules give the same byte.
fn both(one: Label, other: Label) -> Label {
    match (one, other) {
        (one, other) if one == other => one,
        // A lookup of a constant does not say what it is.
        (Label::Constant, known) | (known, Label::Constant) => known,
        _ => Label::Unclear,
    }
}

/// What rules and elements show about a set's keys.
#[derive(Debug, Default)]
pub(super) struct KeyLayout {
    /// Labels of the key's bytes; `None`: no lookup seen.
    pub labels: Option<Vec<Label>>,
    /// Length of the longest key, bytes.
    pub length: usize,
}

impl KeyLayout {
    /// Adds a lookup with a key of these labels.
    pub(super) fn add(&mut self, found: Vec<Label>) {
        self.labels = Some(match self.labels.take() {
            Some(known) => known.into_iter().zip(found).map(|(known, found)| both(known, found)).collect(),
            None => found,
        });
    }

    /// Whether keys can be mapped so that all lookups keep their meaning.
    pub(super) fn is_clear(&self) -> bool {
        self.labels.as_ref().and_then(|labels| labels.get(..self.length)).and_then(parts).is_some()
    }
}

/// What rules and nft's type information show about a map's data. Bytes that no rule uses are cleared.
#[derive(Debug)]
pub(super) struct MapData {
    labels: [Label; REGISTERS_LENGTH],
    /// Length of the longest data, bytes.
    pub length: usize,
}

impl Default for MapData {
    fn default() -> Self {
        Self { labels: [Label::Padding; REGISTERS_LENGTH], length: 0 }
    }
}

impl MapData {
    /// Adds a use of byte `at`.
    pub(super) fn add(&mut self, at: usize, found: Label) {
        let Some(place) = self.labels.get_mut(at) else { return };
        *place = match (*place, found) {
            (Label::Padding, only) | (only, Label::Padding) => only,
            (known, found) => both(known, found),
        };
    }

    /// Adds nft's data type. A concatenation has 6 bits per field, the first field most significant.
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

    /// Labels of all bytes; `None` if they cannot be mapped so that all uses keep their meaning.
    pub(super) fn labels(&self) -> Option<&[Label]> {
        let labels = &self.labels[..self.length.min(REGISTERS_LENGTH)];
        parts(labels).is_some().then_some(&self.labels)
    }
}

/// Labels of an address of this length in bytes.
pub(super) fn address(width: usize) -> Vec<Label> {
    let kind = if width == LabelKind::Ipv6.width() { LabelKind::Ipv6 } else { LabelKind::Ipv4 };
    (0..width).map(|byte| part(kind, byte)).collect()
}

/// Labels of the bytes from a register on; `map` gives those of a map's data.
pub(super) fn labels(machine: &Machine, register: u32, map: impl Fn(&Load, usize) -> Label) -> Vec<Label> {
    let label = |cell: &Cell| machine.load_of(cell).map_or(Label::Padding, |load| label(load, cell, &map));
    machine.from(register).iter().map(label).collect()
}

/// Label of a loaded byte.
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

/// Label of the byte at this offset of a load.
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

/// Header bytes that identify nobody, given the protocols that the rule has tested; without a test, a header may be
/// any. Ports are in [`Header`].
fn is_plain(load: &Load, base: u32, offset: usize, length: usize, at: usize) -> bool {
    const IPPROTO_TCP: u8 = 6;
    const IPPROTO_UDP: u8 = 17;
    const IPPROTO_DCCP: u8 = 33;
    const IPPROTO_UDPLITE: u8 = 136;
    let byte = offset + at;
    match (base, load.network, load.transport) {
        // EtherType, VLAN tag, and the EtherType after it. On a device without Ethernet header these bytes are IP.
        (NFT_PAYLOAD_LL_HEADER, ..) => match byte {
            12..14 => offset < 12 || length <= 2,
            14..18 => offset >= 14 && length <= 2,
            _ => false,
        },
        // Everything before the checksum.
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4), _) => byte < 10,
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6 | NetworkHeader::Arp), _) => byte < 8,
        // Data offset, flags, window, urgent pointer.
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_TCP)) => matches!(byte, 12..16 | 18..20),
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_UDP | IPPROTO_UDPLITE)) => matches!(byte, 4..6),
        // Type.
        (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_DCCP)) => byte == 8,
        _ => false,
    }
}

/// Label of a byte of an option or extension header: type and length, addresses of routes, and numbers of TCP.
fn option(op: u32, kind: u8, byte: usize) -> Option<Label> {
    /// Routing header; its addresses begin at this offset (`struct rt0_hdr`, `struct ipv6_sr_hdr`).
    const IPPROTO_ROUTING: u8 = 43;
    const ROUTING_ADDRESSES: usize = 8;
    /// IPv4 options with routes; their addresses begin at this offset.
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
