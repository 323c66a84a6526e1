//! Encoding of field values in nf_tables registers.

use crate::facts::netfilter::Field;

/// Encoding of a field's values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::read) enum ValueKind {
    Ipv4,
    Ipv6,
    Port,
    Protocol,
    Name,
    Index,
    /// Also for conntrack states. Never looked up singly, since the values that matter are not known yet.
    Mark,
    /// A mark in network byte order.
    ByteSwappedMark,
    /// Never looked up singly.
    Byte,
    /// Never looked up singly.
    EtherType,
}

impl ValueKind {
    /// Encoding for a field; `None`: not supported.
    pub(in crate::read) fn of(field: &Field) -> Option<Self> {
        match field {
            Field::Ipv4Source | Field::Ipv4Destination => Some(Self::Ipv4),
            Field::Ipv6Source | Field::Ipv6Destination => Some(Self::Ipv6),
            Field::SourcePort | Field::DestinationPort => Some(Self::Port),
            Field::L4Proto => Some(Self::Protocol),
            Field::InputName | Field::OutputName => Some(Self::Name),
            Field::InputIndex | Field::OutputIndex => Some(Self::Index),
            Field::Mark
            | Field::ConnectionMark
            | Field::ConnectionState
            | Field::ConnectionStatus
            | Field::Number { network_order: false, .. } => Some(Self::Mark),
            Field::Number { network_order: true, .. } => Some(Self::ByteSwappedMark),
            Field::MarkBits(bits) => Some(if bits.network_order { Self::ByteSwappedMark } else { Self::Mark }),
            Field::ConnectionDirection | Field::NfProto | Field::Ipsec { .. } => Some(Self::Byte),
            Field::EtherType => Some(Self::EtherType),
            _ => None,
        }
    }

    /// Length in bytes.
    pub(in crate::read) const fn length(self) -> usize {
        match self {
            Self::Ipv4 | Self::Index | Self::Mark | Self::ByteSwappedMark => 4,
            Self::Ipv6 | Self::Name => 16,
            Self::Port | Self::EtherType => 2,
            Self::Protocol | Self::Byte => 1,
        }
    }

    /// A value as laid out in a register.
    pub(in crate::read) fn bytes(self, value: u128) -> Vec<u8> {
        let mut bytes = value.to_be_bytes()[16 - self.length()..].to_vec();
        if self.is_in_host_order() && cfg!(target_endian = "little") {
            bytes.reverse();
        }
        bytes
    }

    /// Whether it is in host byte order.
    pub(in crate::read) const fn is_in_host_order(self) -> bool {
        matches!(self, Self::Index | Self::Mark)
    }

    /// The value in these register bytes.
    pub(in crate::read) fn value(self, bytes: &[u8]) -> u128 {
        let bytes = &bytes[..self.length().min(bytes.len())];
        let fold = |value: u128, byte: &u8| value << 8 | u128::from(*byte);
        if self.is_in_host_order() && cfg!(target_endian = "little") {
            bytes.iter().rev().fold(0, fold)
        } else {
            bytes.iter().fold(0, fold)
        }
    }

    /// Whether it is an address.
    pub(in crate::read) const fn is_address(self) -> bool {
        matches!(self, Self::Ipv4 | Self::Ipv6)
    }
}
