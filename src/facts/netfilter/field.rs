//! Properties of packets that rules match on, and how each is encoded as an unsigned number.

use std::net::IpAddr;

use super::Family;

/// A property of a packet that a match reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Field {
    /// `skb->mark`
    Mark,
    /// `ct->mark`
    ConnectionMark,
    /// Name of the input device (`iifname`, `-i`).
    InputName,
    /// Name of the output device (`oifname`, `-o`).
    OutputName,
    /// Index of the input device (`iif`).
    InputIndex,
    /// Index of the output device (`oif`).
    OutputIndex,
    /// `NFPROTO_*`: 2 is IPv4, 10 is IPv6.
    NfProto,
    /// EtherType.
    EtherType,
    /// Layer 4 protocol: 6 is TCP, 17 is UDP.
    L4Proto,
    /// 32 bits
    Ipv4Source,
    /// 32 bits
    Ipv4Destination,
    /// 128 bits
    Ipv6Source,
    /// 128 bits
    Ipv6Destination,
    /// First 16 bits of the transport header.
    SourcePort,
    /// Next 16 bits of the transport header.
    DestinationPort,
    /// `NF_CT_STATE_BIT`: 1 invalid, 2 established, 4 related, 8 new, 64 untracked.
    ConnectionState,
    /// `IPS_*`: 0x10 source translated, 0x20 destination translated, …
    ConnectionStatus,
    /// `IP_CT_DIR_*`: 0 original, 1 reply.
    ConnectionDirection,
    /// `RTN_*` of the source address: 1 unicast, 2 local, 3 broadcast, …
    SourceType(TypeScope),
    /// `RTN_*` of the destination address.
    DestinationType(TypeScope),
    /// A property of the input or output device.
    Device {
        /// Of the output device; else of the input device.
        outgoing: bool,
        /// Which property.
        property: DeviceProperty,
    },
    /// IPsec: 1 if it applies to the packet, else 0.
    Ipsec {
        /// Output: the packet matches a policy (`dst->xfrm`); else input: it was decrypted (`skb_sec_path`).
        outgoing: bool,
    },
    /// What the entry of its connection has counted, this packet included (`nf_conn_acct`); 0 where nothing is.
    Counted {
        /// What.
        what: Counted,
        /// Of which direction, as [`Field::ConnectionDirection`] has it; `None`: of both.
        direction: Option<u8>,
    },
    /// Nanoseconds since the epoch, when it comes.
    Time,
    /// Some bits of a mark, as sets and ranges hold them.
    MarkBits(MarkBits),
    /// A number that the rule generates, both ends included: a counter or a random number (`nft_numgen.c`), or a hash
    /// of the packet (`nft_hash.c`).
    Number {
        /// The smallest.
        first: u32,
        /// The largest.
        last: u32,
        /// What is hashed: packets in which it is equal get the same number. `None`: a new number for each packet.
        hash: Option<String>,
        /// It lies in the byte order of the network, as keys of intervals do; else in that of the machine.
        network_order: bool,
    },
    /// Any other property, by its nft name.
    Other(String),
}

/// What the entry of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counted {
    /// Packets
    Packets,
    /// Bytes, with the header of IP
    Bytes,
    /// Bytes by packets
    BytesPerPacket,
}

/// What rules ask of a device beside its name and its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceProperty {
    /// `net_device.group`, 32 bits.
    Group,
    /// `rtnl_link_ops.kind`, encoded as a device name; 0: none.
    Kind,
    /// `ARPHRD_*`: 16 bits.
    HardwareType,
}

/// Some bits of a mark: `mark & mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MarkBits {
    /// Of the connection's mark; else of the packet's.
    pub connection: bool,
    /// Which bits; the others count as 0.
    pub mask: u32,
    /// Big-endian, as keys of interval sets are; else in host byte order.
    pub network_order: bool,
}

impl Field {
    /// All bits of the field, in the encoding that comparisons use; `None`: its width is not known.
    pub fn bits(&self) -> Option<u128> {
        let width = match self {
            Self::Ipv6Source | Self::Ipv6Destination | Self::InputName | Self::OutputName => 128,
            Self::Ipv4Source | Self::Ipv4Destination => 32,
            Self::Mark | Self::ConnectionMark | Self::InputIndex | Self::OutputIndex => 32,
            Self::SourceType(_) | Self::DestinationType(_) => 32,
            Self::SourcePort | Self::DestinationPort | Self::EtherType => 16,
            Self::L4Proto | Self::NfProto => 8,
            Self::Device { property: DeviceProperty::Kind, .. } => 128,
            Self::Device { property: DeviceProperty::Group, .. } => 32,
            Self::Device { property: DeviceProperty::HardwareType, .. } => 16,
            Self::ConnectionState | Self::ConnectionStatus | Self::ConnectionDirection => return None,
            Self::Ipsec { .. } => 1,
            Self::Counted { .. } | Self::Time => 64,
            Self::Number { .. } => 32,
            Self::MarkBits(_) | Self::Other(_) => return None,
        };
        Some(u128::MAX >> (128 - width))
    }

    /// Whether each evaluation gives a new number.
    pub fn is_drawn(&self) -> bool {
        matches!(self, Self::Number { hash: None, .. })
    }

    /// Bits of the packet's mark that the field holds.
    pub fn mark_bits(&self) -> u32 {
        match self {
            Self::Mark => u32::MAX,
            Self::MarkBits(MarkBits { connection: false, mask, .. }) => *mask,
            _ => 0,
        }
    }

    /// Whether it is a property of the connection, so that no match on it holds for a packet without one
    /// (`nft_ct_get_eval`, `xt_connmark`, `xt_conntrack`). The state is not: every packet has one.
    pub fn is_of_connection(&self) -> bool {
        match self {
            Self::ConnectionMark | Self::ConnectionStatus | Self::ConnectionDirection | Self::Counted { .. } => true,
            Self::MarkBits(bits) => bits.connection,
            Self::Other(name) => name.starts_with("ct "),
            _ => false,
        }
    }

    /// Bits of the connection's mark that the field holds.
    pub fn connection_mark_bits(&self) -> u32 {
        match self {
            Self::ConnectionMark => u32::MAX,
            Self::MarkBits(MarkBits { connection: true, mask, .. }) => *mask,
            _ => 0,
        }
    }
}

/// An address encoded as a [`Field`] value.
pub fn address_key(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

/// The address of such a key.
pub fn key_address(family: Family, key: u128) -> IpAddr {
    match family {
        Family::Ipv6 => IpAddr::V6(key.into()),
        _ => IpAddr::V4((key as u32).into()),
    }
}

/// The addresses of a prefix.
pub fn prefix_range(network: IpAddr, length: u8) -> (u128, u128) {
    let width = if network.is_ipv6() { 128 } else { 32 };
    let low = (u128::MAX >> (128 - width)).checked_shr(length.into()).unwrap_or(0);
    let first = address_key(network) & !low;
    (first, first | low)
}

/// A device name as a field has it; `None` if its bytes are not known (see `read::links::device_name`).
pub fn name_key(name: &str) -> Option<u128> {
    let mut bytes = [0; 16];
    let place = bytes.get_mut(..name.len()).filter(|_| name.len() < 16 && !name.contains('\\'))?;
    place.copy_from_slice(name.as_bytes());
    Some(u128::from_be_bytes(bytes))
}

/// The device name encoded by a [`Field`] value; `None` if it encodes none.
pub fn device_name(key: u128) -> Option<String> {
    let bytes = key.to_be_bytes();
    let length = bytes.iter().position(|byte| *byte == 0)?;
    String::from_utf8(bytes.get(..length)?.to_vec()).ok().filter(|name| !name.is_empty())
}

/// Devices whose addresses are considered for an address type (`fib`, `addrtype`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TypeScope {
    /// All devices
    Any,
    /// The input device
    Input,
    /// The output device
    Output,
}
