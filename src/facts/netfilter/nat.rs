//! NAT statements: which addresses and ports a rule translates to, given by itself or by a map.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use super::{MapLookup, Set, SetId, address_key};
use crate::facts::names;

names! {
    /// How a free source port is chosen.
    PortRandomization {
        /// Keep the original port if possible
        None = "none",
        /// `NF_NAT_RANGE_PROTO_RANDOM`
        Random = "random",
        /// `NF_NAT_RANGE_PROTO_RANDOM_FULLY`, with or without the other flag
        RandomFully = "random_fully",
    }
}

impl PortRandomization {
    /// From `NF_NAT_RANGE_*` flags, equal in both backends.
    pub fn from_flags(flags: u32) -> Self {
        match (flags & 0x10 != 0, flags & 0x4 != 0) {
            (true, _) => Self::RandomFully,
            (false, true) => Self::Random,
            (false, false) => Self::None,
        }
    }
}

names! {
    /// What is translated, and to what.
    NatAction {
        /// Source, to the primary address of the output device
        Masquerade = "masquerade",
        /// Source, to given addresses
        Snat = "snat",
        /// Prefix, one to one: of the source in postrouting and input, else of the destination
        Netmap = "netmap",
        /// Destination, to given addresses
        Dnat = "dnat",
        /// Destination, to this host
        Redirect = "redirect",
    }
}

/// A NAT statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nat {
    /// What is translated, and to what.
    pub action: NatAction,
    /// Addresses to choose from, both ends included; for `netmap` the first and last address of the prefix.
    pub addresses: Chosen<IpAddr>,
    /// Ports to choose from, both ends included.
    pub ports: Chosen<u16>,
    /// How the source port is chosen.
    pub randomization: PortRandomization,
    /// `NF_NAT_RANGE_PERSISTENT`: a source always gets the same address.
    pub persistent: bool,
    /// The map that gives addresses or ports, which are [`Chosen::ByPacket`] above.
    pub map: Option<NatMap>,
}

/// What a translation chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen<T> {
    /// Not given by the rule.
    Unset,
    /// A fixed range, both ends included.
    Range(T, T),
    /// Depends on the packet (a map).
    ByPacket,
}

/// The part of a NAT statement that comes from a map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatMap {
    /// The lookup.
    pub lookup: MapLookup,
    /// Byte ranges of the first and last address in its data: 4 or 16 bytes each. `None`: not from the map.
    pub addresses: Option<[Range<usize>; 2]>,
    /// Byte ranges of the first and last port. `None`: not from the map.
    pub ports: Option<[Range<usize>; 2]>,
}

/// The statement for each element's data; itself if it has no map. `None`: the data are not known.
pub fn resolve_map(nat: &Nat, sets: &BTreeMap<SetId, Set>) -> Option<Vec<Nat>> {
    match &nat.map {
        None => Some(vec![nat.clone()]),
        Some(map) => map.lookup.known_in(sets)?.map(|(_, data)| with_map_data(nat, data)).collect(),
    }
}

/// Addresses that it translates to, directly or by its map, as ranges of numbers. `None`: not known.
pub fn given_addresses(nat: &Nat, sets: &BTreeMap<SetId, Set>) -> Option<Vec<(u128, u128)>> {
    let given = |nat: Nat| match nat.addresses {
        Chosen::Unset => Some(None),
        Chosen::Range(first, last) => Some(Some((address_key(first), address_key(last)))),
        Chosen::ByPacket => None,
    };
    let each = resolve_map(nat, sets)?.into_iter().map(given).collect::<Option<Vec<_>>>()?;
    Some(each.into_iter().flatten().collect())
}

/// The statement with the given data of its map. `None`: the data are too short.
pub fn with_map_data(nat: &Nat, data: &[u8]) -> Option<Nat> {
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
        let found = with_map_data(&nat, &[10, 0, 0, 1, 10, 0, 0, 9, 0x1f, 0x90, 0, 0]).unwrap();
        assert_eq!(found.addresses, Chosen::Range("10.0.0.1".parse().unwrap(), "10.0.0.9".parse().unwrap()));
        assert_eq!((found.ports, found.map), (Chosen::Range(8080, 8080), None));
        assert_eq!(with_map_data(&nat, &[10, 0, 0, 1]), None);
    }
}
