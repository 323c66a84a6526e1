//! Prints fields and tests in nft's syntax.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Comparison, Counted, DeviceProperty, Field, FieldTest, TypeScope, device_name};

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scoped = |end: &str, scope: &TypeScope| match scope {
            TypeScope::Any => format!("fib {end} type"),
            TypeScope::Input => format!("fib {end} . iif type"),
            TypeScope::Output => format!("fib {end} . oif type"),
        };
        f.write_str(match self {
            Self::Mark => "meta mark",
            Self::ConnectionMark => "ct mark",
            Self::InputName => "iifname",
            Self::OutputName => "oifname",
            Self::InputIndex => "iif",
            Self::OutputIndex => "oif",
            Self::NfProto => "meta nfproto",
            Self::EtherType => "meta protocol",
            Self::L4Proto => "meta l4proto",
            Self::Ipv4Source => "ip saddr",
            Self::Ipv4Destination => "ip daddr",
            Self::Ipv6Source => "ip6 saddr",
            Self::Ipv6Destination => "ip6 daddr",
            Self::SourcePort => "th sport",
            Self::DestinationPort => "th dport",
            Self::ConnectionState => "ct state",
            Self::ConnectionStatus => "ct status",
            Self::ConnectionDirection => "ct direction",
            Self::Device { outgoing, property } => {
                let end = if *outgoing { "oif" } else { "iif" };
                return match property {
                    DeviceProperty::Group => write!(f, "{end}group"),
                    DeviceProperty::Kind => write!(f, "meta {end}kind"),
                    DeviceProperty::HardwareType => write!(f, "{end}type"),
                };
            }
            Self::Ipsec { outgoing: false } => "meta ipsec",
            Self::Ipsec { outgoing: true } => "rt ipsec",
            Self::Counted { what, direction } => {
                let direction = match direction {
                    None => "",
                    Some(0) => "original ",
                    Some(_) => "reply ",
                };
                let what = match what {
                    Counted::Packets => "packets",
                    Counted::Bytes => "bytes",
                    Counted::BytesPerPacket => "avgpkt",
                };
                return write!(f, "ct {direction}{what}");
            }
            Self::Time => "meta time",
            Self::SourceType(scope) => return f.write_str(&scoped("saddr", scope)),
            Self::DestinationType(scope) => return f.write_str(&scoped("daddr", scope)),
            Self::MarkBits(bits) => {
                let mark = if bits.connection { "ct mark" } else { "meta mark" };
                return write!(f, "{mark} & {:#x}", bits.mask);
            }
            Self::Number { first, last, hash, .. } => {
                return write!(f, "{} of {first}-{last}", hash.as_deref().unwrap_or("numgen"));
            }
            Self::Other(name) => name,
        })
    }
}

impl fmt::Display for FieldTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, condition } = self;
        let number = |value: u128| number(field, value);
        match condition {
            Comparison::Masked { mask, value } => match prefix_length(field, *mask) {
                Some(None) => write!(f, "{field} {}", number(*value)),
                Some(Some(length)) => write!(f, "{field} {}/{length}", number(*value)),
                None => write!(f, "{field} & {mask:#x} == {value:#x}"),
            },
            Comparison::Ranges(ranges) => {
                let range = |(first, last): &(u128, u128)| match first == last {
                    true => number(*first),
                    false => format!("{}-{}", number(*first), number(*last)),
                };
                match ranges.as_slice() {
                    [one] => write!(f, "{field} {}", range(one)),
                    several => {
                        write!(f, "{field} {{ {} }}", several.iter().map(range).collect::<Vec<_>>().join(", "))
                    }
                }
            }
        }
    }
}

/// A field's value in nft's syntax.
fn number(field: &Field, value: u128) -> String {
    match field {
        Field::Ipv4Source | Field::Ipv4Destination => Ipv4Addr::from_bits(value as u32).to_string(),
        Field::Ipv6Source | Field::Ipv6Destination => Ipv6Addr::from_bits(value).to_string(),
        Field::InputName | Field::OutputName | Field::Device { property: DeviceProperty::Kind, .. } => {
            device_name(value).map_or_else(|| format!("{value:#x}"), |name| format!("\"{name}\""))
        }
        Field::SourcePort
        | Field::DestinationPort
        | Field::InputIndex
        | Field::OutputIndex
        | Field::L4Proto
        | Field::Counted { .. }
        | Field::Time => value.to_string(),
        _ => format!("{value:#x}"),
    }
}

/// Length of a mask that is a prefix, inner `None` for a full mask; outer `None` if it is not a prefix.
fn prefix_length(field: &Field, mask: u128) -> Option<Option<u32>> {
    let largest = field.bits()?;
    let is_address = matches!(
        field,
        Field::Ipv4Source
            | Field::Ipv4Destination
            | Field::Ipv6Source
            | Field::Ipv6Destination
            | Field::InputName
            | Field::OutputName
            | Field::Device { property: DeviceProperty::Kind, .. }
    );
    let low = largest & !mask;
    match low {
        0 => Some(None),
        low if is_address && low & low.wrapping_add(1) == 0 => Some(Some(largest.count_ones() - low.count_ones())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::{MarkBits, address_key, name_key};

    #[test]
    fn tests_are_written_as_nft_writes_them() {
        let address = |text: &str| address_key(text.parse().unwrap());
        let masked =
            |field, mask, value| FieldTest { field, condition: Comparison::Masked { mask, value } }.to_string();
        let ranges = |field, ranges: &[(u128, u128)]| {
            FieldTest { field, condition: Comparison::Ranges(ranges.to_vec()) }.to_string()
        };
        let all = u128::from(u32::MAX);
        assert_eq!(masked(Field::Ipv4Destination, all, address("10.96.0.1")), "ip daddr 10.96.0.1");
        assert_eq!(masked(Field::Ipv4Source, 0xffff_0000, address("10.42.0.0")), "ip saddr 10.42.0.0/16");
        assert_eq!(masked(Field::Ipv6Source, u128::MAX << 64, address("fd42::")), "ip6 saddr fd42::/64");
        assert_eq!(masked(Field::Mark, 0x4000, 0x4000), "meta mark & 0x4000 == 0x4000");
        assert_eq!(masked(Field::Mark, all, 0x4000), "meta mark 0x4000");
        assert_eq!(masked(Field::OutputName, u128::MAX, name_key("eth0").unwrap()), "oifname \"eth0\"");
        assert_eq!(ranges(Field::DestinationPort, &[(53, 53), (80, 90)]), "th dport { 53, 80-90 }");
        let bits = MarkBits { connection: true, mask: 0xff, network_order: false };
        assert_eq!(ranges(Field::MarkBits(bits), &[(1, 2)]), "ct mark & 0xff 0x1-0x2");
    }
}
