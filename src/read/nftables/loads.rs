//! Loads: which packet field an expression puts into a register.

use crate::facts::netfilter::{Comparison, Counted, DeviceProperty, Field, FieldTest, HeaderBytes, TypeScope};
use crate::netfilter::nftables::expr::Exthdr;
use crate::netfilter::nftables::register::{Header, Load, NetworkHeader, Source};
use crate::netfilter::nftables::uapi::{
    NFT_CT_AVGPKT, NFT_CT_BYTES, NFT_CT_DIRECTION, NFT_CT_DST, NFT_CT_DST_IP, NFT_CT_DST_IP6, NFT_CT_EVENTMASK,
    NFT_CT_EXPIRATION, NFT_CT_HELPER, NFT_CT_ID, NFT_CT_L3PROTOCOL, NFT_CT_LABELS, NFT_CT_MARK, NFT_CT_PKTS,
    NFT_CT_PROTO_DST, NFT_CT_PROTO_SRC, NFT_CT_PROTOCOL, NFT_CT_SRC, NFT_CT_SRC_IP, NFT_CT_SRC_IP6, NFT_CT_STATE,
    NFT_CT_STATUS, NFT_CT_ZONE, NFT_EXTHDR_OP_IPV4, NFT_EXTHDR_OP_IPV6, NFT_EXTHDR_OP_TCPOPT, NFT_FIB_RESULT_ADDRTYPE,
    NFT_META_BRI_IIFNAME, NFT_META_BRI_OIFNAME, NFT_META_CGROUP, NFT_META_CPU, NFT_META_IIF, NFT_META_IIFGROUP,
    NFT_META_IIFKIND, NFT_META_IIFNAME, NFT_META_IIFTYPE, NFT_META_L4PROTO, NFT_META_LEN, NFT_META_MARK,
    NFT_META_NFPROTO, NFT_META_OIF, NFT_META_OIFGROUP, NFT_META_OIFKIND, NFT_META_OIFNAME, NFT_META_OIFTYPE,
    NFT_META_PKTTYPE, NFT_META_PRANDOM, NFT_META_PRIORITY, NFT_META_PROTOCOL, NFT_META_RTCLASSID, NFT_META_SDIF,
    NFT_META_SDIFNAME, NFT_META_SECMARK, NFT_META_SECPATH, NFT_META_SKGID, NFT_META_SKUID, NFT_META_TIME_DAY,
    NFT_META_TIME_HOUR, NFT_META_TIME_NS, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_RT_XFRM,
    NFTA_FIB_F_DADDR, NFTA_FIB_F_IIF, NFTA_FIB_F_OIF, NFTA_FIB_F_SADDR,
};

const IPPROTO_TCP: u8 = 6;
const IPPROTO_UDP: u8 = 17;

/// Meaning of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Loaded {
    /// A field in network byte order.
    Wire(Field, usize),
    /// A number of this many bytes in host byte order.
    Host(Field, usize),
    /// The same for all packets.
    Constant,
    /// Depends on chance or circumstances; the text names it.
    NonDeterministic(&'static str),
    /// Not decoded.
    Unsupported(String),
}

impl Loaded {
    /// Meaning of what a load puts into registers.
    pub(crate) fn of(load: &Load) -> Self {
        match load.source {
            Source::Header(Header::Ipv4Protocol) => Self::Wire(Field::L4Proto, 1),
            Source::Header(Header::Ipv4Source) => Self::Wire(Field::Ipv4Source, 4),
            Source::Header(Header::Ipv4Destination) => Self::Wire(Field::Ipv4Destination, 4),
            Source::Header(Header::Ipv6Next) => Self::Wire(Field::Other("ip6 nexthdr".into()), 1),
            Source::Header(Header::Ipv6Source) => Self::Wire(Field::Ipv6Source, 16),
            Source::Header(Header::Ipv6Destination) => Self::Wire(Field::Ipv6Destination, 16),
            Source::Header(Header::ArpSenderHardware) => Self::Wire(Field::Other("arp sender hardware".into()), 6),
            Source::Header(Header::ArpSender) => Self::Wire(Field::Other("arp sender".into()), 4),
            Source::Header(Header::ArpTargetHardware) => Self::Wire(Field::Other("arp target hardware".into()), 6),
            Source::Header(Header::ArpTarget) => Self::Wire(Field::Other("arp target".into()), 4),
            Source::Header(Header::SourcePort) => Self::Wire(Field::SourcePort, 2),
            Source::Header(Header::DestinationPort) => Self::Wire(Field::DestinationPort, 2),
            Source::Payload { base, offset, length } => {
                let protocol = match (base, load.network, load.transport) {
                    (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4), _) => "ip",
                    (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6), _) => "ip6",
                    (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_TCP)) => "tcp",
                    (NFT_PAYLOAD_TRANSPORT_HEADER, _, Some(IPPROTO_UDP)) => "udp",
                    _ => "",
                };
                Self::Wire(HeaderBytes { header: base, offset, length }.field(protocol), length)
            }
            Source::Meta(key) => meta(key),
            // With 16 bytes, the kernel decides at run time how many are the address.
            Source::Ct(NFT_CT_SRC | NFT_CT_DST, _) if load.network.is_none() => {
                Self::Unsupported("an address of the connection, of either family".into())
            }
            Source::Ct(key, direction) => ct(key, direction, load.network),
            Source::Fib(NFT_FIB_RESULT_ADDRTYPE, flags) => address_type(flags),
            Source::Fib(..) => Self::NonDeterministic("fib"), // the route's device: reverse path filtering
            Source::Constant => Self::Constant,
            Source::Exthdr(..) => Self::NonDeterministic("a header option"),
            Source::Present(op, kind) => Self::Wire(option_exists(op, kind), 1),
            Source::Numgen => Self::NonDeterministic("numgen"),
            Source::Hash => Self::NonDeterministic("a hash"),
            Source::Socket => Self::NonDeterministic("socket"),
            Source::Osf => Self::NonDeterministic("osf"),
            Source::Map => Self::Unsupported("a map".into()),
            Source::Rt(NFT_RT_XFRM) => Self::Wire(Field::Ipsec { outgoing: true }, 1),
            Source::Rt(_) => Self::Unsupported("rt".into()),
            Source::Xfrm(_) => Self::Unsupported("ipsec".into()),
            Source::Tunnel => Self::Unsupported("tunnel".into()),
            Source::Computed => Self::Unsupported("what was computed from several".into()),
            Source::NoRegister => Self::Unsupported("a register that does not exist".into()),
            Source::Unsupported => Self::Unsupported("an expression that is not known".into()),
        }
    }

    /// The field and its length in bytes; `None`: not a packet field.
    pub(crate) fn field(&self) -> Option<(&Field, usize)> {
        match self {
            Self::Wire(field, width) | Self::Host(field, width) => Some((field, *width)),
            Self::Constant | Self::NonDeterministic(_) | Self::Unsupported(_) => None,
        }
    }

    /// Number of bits to shift a byte, given by its position in memory, to its place in the field's value.
    pub(crate) fn shift(&self, byte: usize) -> usize {
        match self {
            Self::Host(..) if cfg!(target_endian = "little") => 8 * byte,
            _ => 8 * self.field().map_or(0, |(_, width)| (width - 1).saturating_sub(byte)),
        }
    }
}

/// The match that an exthdr expression implies: without the option or extension header the rule ends (NFT_BREAK),
/// unless its presence is what is loaded.
pub(super) fn has_option(exthdr: &Exthdr<'_>) -> FieldTest {
    let op = exthdr.op.unwrap_or(NFT_EXTHDR_OP_IPV6);
    let condition = Comparison::Masked { mask: 0xff, value: 1 };
    FieldTest { field: option_exists(op, exthdr.kind.unwrap_or_default()), condition }
}

/// Whether the packet has an option or extension header of this kind (`NFT_EXTHDR_OP_*`) and number.
fn option_exists(op: u32, kind: u8) -> Field {
    let of = match op {
        NFT_EXTHDR_OP_IPV6 => "exthdr",
        NFT_EXTHDR_OP_TCPOPT => "tcp option",
        NFT_EXTHDR_OP_IPV4 => "ip option",
        _ => "chunk or option",
    };
    Field::Other(format!("{of} {kind} exists"))
}

fn of_device(outgoing: bool, property: DeviceProperty) -> Field {
    Field::Device { outgoing, property }
}

fn meta(key: u32) -> Loaded {
    match key {
        NFT_META_LEN => Loaded::Host(Field::Other("meta length".into()), 4),
        NFT_META_PROTOCOL => Loaded::Wire(Field::EtherType, 2),
        NFT_META_PRIORITY => Loaded::NonDeterministic("meta priority"),
        NFT_META_MARK => Loaded::Host(Field::Mark, 4),
        NFT_META_IIF => Loaded::Host(Field::InputIndex, 4),
        NFT_META_OIF => Loaded::Host(Field::OutputIndex, 4),
        NFT_META_IIFNAME => Loaded::Wire(Field::InputName, 16),
        NFT_META_OIFNAME => Loaded::Wire(Field::OutputName, 16),
        NFT_META_SKUID => Loaded::NonDeterministic("meta skuid"),
        NFT_META_SKGID => Loaded::NonDeterministic("meta skgid"),
        NFT_META_NFPROTO => Loaded::Wire(Field::NfProto, 1),
        NFT_META_L4PROTO => Loaded::Wire(Field::L4Proto, 1),
        NFT_META_PKTTYPE => Loaded::Wire(Field::Other("meta pkttype".into()), 1),
        NFT_META_IIFGROUP => Loaded::Host(of_device(false, DeviceProperty::Group), 4),
        NFT_META_OIFGROUP => Loaded::Host(of_device(true, DeviceProperty::Group), 4),
        NFT_META_CPU => Loaded::NonDeterministic("meta cpu"),
        NFT_META_CGROUP => Loaded::NonDeterministic("meta cgroup"),
        NFT_META_PRANDOM => Loaded::NonDeterministic("meta random"),
        NFT_META_TIME_NS => Loaded::Host(Field::Time, 8),
        NFT_META_TIME_DAY | NFT_META_TIME_HOUR => Loaded::NonDeterministic("meta time"),
        NFT_META_IIFTYPE => Loaded::Host(of_device(false, DeviceProperty::HardwareType), 2),
        NFT_META_OIFTYPE => Loaded::Host(of_device(true, DeviceProperty::HardwareType), 2),
        NFT_META_RTCLASSID => Loaded::Unsupported("meta rtclassid".into()),
        NFT_META_SECMARK => Loaded::Unsupported("meta secmark".into()),
        NFT_META_SECPATH => Loaded::Wire(Field::Ipsec { outgoing: false }, 1),
        NFT_META_IIFKIND => Loaded::Wire(of_device(false, DeviceProperty::Kind), 16),
        NFT_META_OIFKIND => Loaded::Wire(of_device(true, DeviceProperty::Kind), 16),
        NFT_META_BRI_IIFNAME => Loaded::Unsupported("meta ibrname".into()),
        NFT_META_BRI_OIFNAME => Loaded::Unsupported("meta obrname".into()),
        NFT_META_SDIF => Loaded::Unsupported("meta sdif".into()),
        NFT_META_SDIFNAME => Loaded::Unsupported("meta sdifname".into()),
        _ => Loaded::Unsupported(format!("a key of meta that natwatch does not know ({key})")),
    }
}

/// Tuple parts have the names of `xt_conntrack`.
fn ct(key: u32, direction: Option<u8>, network: Option<NetworkHeader>) -> Loaded {
    let counted = |what| Loaded::Host(Field::Counted { what, direction }, 8);
    let direction = if direction.unwrap_or(0) == 0 { "original" } else { "reply" };
    let tuple = |name, width| Loaded::Wire(Field::Other(format!("ct {direction} {name}")), width);
    let address = if network == Some(NetworkHeader::Ipv6) { 16 } else { 4 };
    match key {
        NFT_CT_STATE => Loaded::Host(Field::ConnectionState, 4),
        NFT_CT_DIRECTION => Loaded::Wire(Field::ConnectionDirection, 1),
        NFT_CT_STATUS => Loaded::Host(Field::ConnectionStatus, 4),
        NFT_CT_MARK => Loaded::Host(Field::ConnectionMark, 4),
        NFT_CT_HELPER => Loaded::NonDeterministic("ct helper"),
        NFT_CT_EXPIRATION => Loaded::NonDeterministic("ct expiration"),
        NFT_CT_PKTS => counted(Counted::Packets),
        NFT_CT_BYTES => counted(Counted::Bytes),
        NFT_CT_AVGPKT => counted(Counted::BytesPerPacket),
        NFT_CT_ID => Loaded::NonDeterministic("ct id"),
        NFT_CT_SRC => tuple("saddr", address),
        NFT_CT_DST => tuple("daddr", address),
        NFT_CT_PROTOCOL => Loaded::Wire(Field::Other("ct protocol".into()), 1),
        NFT_CT_PROTO_SRC => tuple("proto-src", 2),
        NFT_CT_PROTO_DST => tuple("proto-dst", 2),
        NFT_CT_SRC_IP => tuple("saddr", 4),
        NFT_CT_DST_IP => tuple("daddr", 4),
        NFT_CT_SRC_IP6 => tuple("saddr", 16),
        NFT_CT_DST_IP6 => tuple("daddr", 16),
        NFT_CT_L3PROTOCOL => Loaded::Unsupported("ct l3proto".into()),
        NFT_CT_LABELS => Loaded::Unsupported("ct label".into()),
        NFT_CT_ZONE => Loaded::Host(Field::Other("ct zone".into()), 2),
        NFT_CT_EVENTMASK => Loaded::Unsupported("ct event".into()),
        _ => Loaded::Unsupported(format!("a key of ct that natwatch does not know ({key})")),
    }
}

/// `NFT_FIB_RESULT_ADDRTYPE`
fn address_type(flags: u32) -> Loaded {
    let scope = match flags & !(NFTA_FIB_F_SADDR | NFTA_FIB_F_DADDR) {
        0 => Some(TypeScope::Any),
        NFTA_FIB_F_IIF => Some(TypeScope::Input),
        NFTA_FIB_F_OIF => Some(TypeScope::Output),
        _ => None,
    };
    match (flags & (NFTA_FIB_F_SADDR | NFTA_FIB_F_DADDR), scope) {
        (NFTA_FIB_F_SADDR, Some(scope)) => Loaded::Host(Field::SourceType(scope), 4),
        (NFTA_FIB_F_DADDR, Some(scope)) => Loaded::Host(Field::DestinationType(scope), 4),
        _ => Loaded::Unsupported(format!("fib type with flags {flags:#x}")),
    }
}
