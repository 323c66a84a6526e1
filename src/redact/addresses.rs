//! Replaces addresses, preserving common prefixes.

use std::hash::BuildHasher as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::Redactor;

impl Redactor {
    /// Replaces a hardware address, unless it is all zeros or broadcast.
    pub(super) fn hardware(&self, value: &mut [u8]) {
        let constant = value.iter().all(|byte| *byte == 0) || value.iter().all(|byte| *byte == 0xff);
        match value.len() {
            _ if constant => {}
            6 => self.hardware_prefix(value, 48),
            _ => self.unknown(value, 128),
        }
    }

    /// Replaces the first bits of a hardware address, except those for unicast and local administration.
    pub(super) fn hardware_prefix(&self, value: &mut [u8], prefix_length: u8) {
        let kind = value.first().map_or(0, |first| first & 3);
        self.bytes(value, 48, prefix_length);
        value.iter_mut().take(1).for_each(|first| *first = *first & !3 | kind);
    }

    /// Replaces bytes of unknown meaning.
    pub(super) fn unknown(&self, value: &mut [u8], prefix_length: u8) {
        self.bytes(value, 128, prefix_length);
    }

    /// Replaces the first bytes that have `width` bits together, and clears the others.
    fn bytes(&self, value: &mut [u8], width: u32, prefix_length: u8) {
        let mut whole = [0; 16];
        value.iter().zip(&mut whole).for_each(|(byte, place)| *place = *byte);
        let mapped = self.bits(u128::from_be_bytes(whole), 0, width, Some(prefix_length)).to_be_bytes();
        value.fill(0);
        value.iter_mut().zip(mapped).take(width as usize / 8).for_each(|(place, byte)| *place = byte);
    }

    /// Replaces an IPv4 or IPv6 address; other lengths are cleared. `prefix_length`: bits that are not host bits;
    /// `None`: all.
    pub(super) fn address(&self, value: &mut [u8], prefix_length: Option<u8>) {
        if let Ok(octets) = <[u8; 4]>::try_from(&*value) {
            let address = Ipv4Addr::from(octets);
            let mapped = self.bits(u128::from(address.to_bits()) << 96, kept_v4(address), 32, prefix_length);
            value.copy_from_slice(&((mapped >> 96) as u32).to_be_bytes());
        } else if let Ok(octets) = <[u8; 16]>::try_from(&*value) {
            let address = Ipv6Addr::from(octets);
            let mapped = self.bits(address.to_bits(), kept_v6(address), 128, prefix_length);
            value.copy_from_slice(&mapped.to_be_bytes());
        } else {
            value.fill(0);
        }
    }

    /// Flips each bit after the first `kept` by a keyed hash of the bits before it; host bits of a prefix stay 0.
    pub(super) fn bits(&self, address: u128, kept: u32, width: u32, prefix_length: Option<u8>) -> u128 {
        let end = prefix_length.map_or(width, |length| u32::from(length).min(width));
        (kept..end).fold(address, |mapped, bit| {
            let before = if bit == 0 { 0 } else { address >> (128 - bit) };
            let flip = u128::from(self.random.hash_one((width, bit, before)) & 1);
            mapped ^ flip << (127 - bit)
        })
    }
}

/// Number of leading bits that show the kind of address rather than its owner.
fn kept_v4(address: Ipv4Addr) -> u32 {
    match address.octets() {
        [0 | 127 | 224..=255, ..] => 32,
        [169, 254, ..] | [192, 168, ..] => 16,
        [172, 16..=31, ..] => 12,
        [100, 64..=127, ..] => 10,
        _ => 8,
    }
}

fn kept_v6(address: Ipv6Addr) -> u32 {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => 128,
        // Well-known groups; others contain part of an address or prefix.
        [0xff00..=0xff0f, 0, 0, 0, 0, 0, 0 | 1, _] => 128,
        [0xff02, 0, 0, 0, 0, 1, 0xff00..=0xffff, _] => 104,
        [0xfe80..=0xfebf, ..] => 64,
        _ => 16,
    }
}

#[cfg(test)]
mod tests {
    use std::hash::RandomState;
    use std::net::IpAddr;

    use super::*;

    fn map(random: &RandomState, address: IpAddr) -> IpAddr {
        let redactor = Redactor::new(random.clone(), String::new());
        let mut bytes = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        redactor.address(&mut bytes, None);
        match <[u8; 4]>::try_from(bytes.as_slice()) {
            Ok(octets) => octets.into(),
            Err(_) => <[u8; 16]>::try_from(bytes.as_slice()).unwrap_or_default().into(),
        }
    }

    fn common_bits(a: IpAddr, b: IpAddr) -> u32 {
        match (a, b) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => unreachable!("one family at a time"),
        }
    }

    #[test]
    fn shared_prefixes_stay_shared_and_no_longer() {
        proptest::proptest!(|(a: [u8; 4], b: [u8; 4], c: [u8; 16], d: [u8; 16])| {
            let random = RandomState::new();
            let pairs: [(IpAddr, IpAddr); 2] = [(a.into(), b.into()), (c.into(), d.into())];
            for (a, b) in pairs {
                proptest::prop_assert_eq!(common_bits(a, b), common_bits(map(&random, a), map(&random, b)));
            }
        });
    }

    #[test]
    fn kinds_of_addresses_are_kept_and_hosts_are_not() {
        let random = RandomState::new();
        for same in ["127.0.0.1", "0.0.0.0", "239.1.2.3", "255.255.255.255", "::", "::1", "ff02::1"] {
            let same: IpAddr = same.parse().unwrap();
            assert_eq!(map(&random, same), same);
        }
        let private = |address: &str| match map(&random, address.parse().unwrap()) {
            IpAddr::V4(address) => address.is_private() || address.is_link_local(),
            IpAddr::V6(address) => address.is_unicast_link_local(),
        };
        for address in ["10.1.2.3", "172.20.1.2", "192.168.7.9", "169.254.20.10", "fe80::1234"] {
            assert!(private(address), "{address}");
        }
        let changed = (1..255u8).filter(|host| {
            let address: IpAddr = [192, 168, 1, *host].into();
            map(&random, address) != address
        });
        assert!(changed.count() > 200);
    }

    #[test]
    fn groups_with_an_address_in_them_go() {
        let random = RandomState::new();
        let bytes = |address: &str| match map(&random, address.parse().unwrap()) {
            IpAddr::V6(address) => address.octets(),
            IpAddr::V4(_) => unreachable!("IPv6"),
        };
        let solicited = bytes("ff02::1:ff9a:bc77");
        assert!(solicited[..13] == bytes("ff02::1:ff00:0")[..13] && solicited[13..] != [0x9a, 0xbc, 0x77]);
        let prefixed = bytes("ff3e:30:2001:db8:feed::1");
        assert!(prefixed[..2] == [0xff, 0x3e] && prefixed[2..10] != [0, 0x30, 0x20, 1, 0x0d, 0xb8, 0xfe, 0xed]);
        for same in ["ff02::1:2", "ff02::fb", "ff05::1:3"] {
            assert_eq!(map(&random, same.parse().unwrap()), same.parse::<IpAddr>().unwrap());
        }
    }
}
