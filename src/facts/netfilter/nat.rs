//! Translations: what a rule gives to packets by itself, or by a map.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::{MapLookup, Set, SetId, address_key};
use crate::facts::names;

names! {
    /// How a translation chooses among free source ports.
    PortRandomization {
        /// Keeps the port where it can
        None = "none",
        /// `NF_NAT_RANGE_PROTO_RANDOM`
        Random = "random",
        /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`, with or without the other flag
        RandomFully = "random_fully",
    }
}

impl PortRandomization {
    /// From `NF_NAT_RANGE_*` flags, which are the same in both backends.
    pub fn from_flags(flags: u32) -> Self {
        match (flags & 0x10 != 0, flags & 0x4 != 0) {
            (true, _) => Self::RandomFully,
            (false, true) => Self::Random,
            (false, false) => Self::None,
        }
    }
}

names! {
    /// What a rule translates, and to what.
    NatAction {
        /// Source: primary address of the outgoing device
        Masquerade = "masquerade",
        /// Source: given addresses
        Snat = "snat",
        /// The prefix, one to one: of the source in postrouting and input, else of the destination
        Netmap = "netmap",
        /// Destination: given addresses
        Dnat = "dnat",
        /// Destination: this host
        Redirect = "redirect",
    }
}

/// A translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// What is translated, and to what.
    pub action: NatAction,
    /// Addresses to choose from, both ends included; of a `netmap` the first and the last of the prefix.
    pub addresses: Chosen<IpAddr>,
    /// Ports to choose from, both ends included.
    pub ports: Chosen<u16>,
    /// How a port is chosen.
    pub randomization: PortRandomization,
    /// `NF_NAT_RANGE_PERSISTENT`: the same source gets the same address.
    pub persistent: bool,
    /// What of it a map tells; that is [`Chosen::ByPacket`] above.
    pub map: Option<NatMap>,
}

/// What a translation may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen<T> {
    /// The rule does not say.
    Unset,
    /// Fixed, both ends included.
    Range(T, T),
    /// Depends on the packet (a map).
    ByPacket,
}

/// What a translation takes from a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatMap {
    /// The look-up.
    pub lookup: MapLookup,
    /// The bytes of its data that are the first and the last address: 4 each, or 16.
    pub addresses: Option<[Range<usize>; 2]>,
    /// The bytes that are the first and the last port.
    pub ports: Option<[Range<usize>; 2]>,
}

/// What it is for each of the data of its map; itself, if it has none. `None`: they are not known.
pub fn with_each(nat: &Nat, sets: &BTreeMap<SetId, Set>) -> Option<Vec<Nat>> {
    match &nat.map {
        None => Some(vec![nat.clone()]),
        Some(map) => map.lookup.known_in(sets)?.map(|(_, data)| with_data(nat, data)).collect(),
    }
}

/// Addresses that it gives, by itself or by its map, as ranges of numbers. `None`: they are not known.
pub fn given_addresses(nat: &Nat, sets: &BTreeMap<SetId, Set>) -> Option<Vec<(u128, u128)>> {
    let given = |nat: Nat| match nat.addresses {
        Chosen::Unset => Some(None),
        Chosen::Range(first, last) => Some(Some((address_key(first), address_key(last)))),
        Chosen::ByPacket => None,
    };
    let each = with_each(nat, sets)?.into_iter().map(given).collect::<Option<Vec<_>>>()?;
    Some(each.into_iter().flatten().collect())
}

/// What it is for packets for which its map has these data. `None`: they are too short.
pub fn with_data(nat: &Nat, data: &[u8]) -> Option<Nat> {
    let Some(NatMap { addresses, ports, .. }) = &nat.map else { return Some(nat.clone()) };
    let address = |at: &Range<usize>| {
        let bytes = data.get(at.clone())?;
        let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
        v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
    };
    let port = |at: &Range<usize>| Some(u16::from_be_bytes(data.get(at.clone())?.try_into().ok()?));
    let mut nat = Nat { map: None, ..nat.clone() };
    if let Some([first, last]) = addresses {
        nat.addresses = Chosen::Range(address(first)?, address(last)?);
    }
    if let Some([first, last]) = ports {
        nat.ports = Chosen::Range(port(first)?, port(last)?);
    }
    Some(nat)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::{Family, Field};

    #[test]
    fn data_are_read_where_they_stand() {
        let set = |name: &str| SetId::Nftables { family: Family::Ipv4, table: "t".into(), set: name.into() };
        let fields = vec![Field::Ipv4Source, Field::DestinationPort];
        let lookup = MapLookup { fields, set: set("m") };
        assert_eq!(lookup.to_string(), "ip saddr . th dport map @m");
        assert_eq!(MapLookup { set: set("__map3"), ..lookup.clone() }.to_string(), "ip saddr . th dport map { … }");
        let map = NatMap { lookup, addresses: Some([0..4, 4..8]), ports: Some([8..10, 8..10]) };
        let (addresses, ports, randomization) = (Chosen::ByPacket, Chosen::ByPacket, PortRandomization::None);
        let action = NatAction::Snat;
        let nat = Nat { action, addresses, ports, randomization, persistent: false, map: Some(map) };
        let found = with_data(&nat, &[10, 0, 0, 1, 10, 0, 0, 9, 0x1f, 0x90, 0, 0]).unwrap();
        assert_eq!(found.addresses, Chosen::Range("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()));
        assert_eq!((found.ports, found.map), (Chosen::Range(8080, 8080), None));
        assert_eq!(with_data(&nat, &[10, 0, 0, 1]), None);
    }
}
