//! What maps give to packets: bits of a mark, addresses, ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use super::{Chosen, Element, Field, Nat, Set, SetId, address_key};

/// A look-up in a map of data. A packet without an element does not get further in the rule (`NFT_BREAK`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLookup {
    /// What is looked up: nothing that the same rule writes before what was found is used.
    pub fields: Vec<Field>,
    /// Where.
    pub set: SetId,
}

impl fmt::Display for MapLookup {
    /// As nft writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(Field::to_string).collect();
        write!(f, "{} map ", fields.join(" . "))?;
        match &self.set {
            // The name of one without a name.
            SetId::Nftables { set, .. } if set.starts_with("__map") => f.write_str("{ … }"),
            SetId::Nftables { set, .. } => write!(f, "@{set}"),
            SetId::Ipset(index) => write!(f, "{index}"),
        }
    }
}

impl MapLookup {
    /// The elements of its map, each with its data. `None`: they are not known, or may be others at any time.
    pub fn known_in<'s>(
        &self,
        sets: &'s BTreeMap<SetId, Set>,
    ) -> Option<impl Iterator<Item = (&'s Element, &'s [u8])>> {
        let map = sets.get(&self.set).filter(|map| map.stable)?;
        let elements = map.elements.ok()?;
        let fits = |element: &Element| element.len() == self.fields.len();
        let whole = elements.len() == map.data.len() && elements.iter().all(fits);
        whole.then(|| elements.iter().zip(map.data.iter().map(Vec::as_slice)))
    }
}

/// The mark that data of a map are.
pub fn mark_in(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
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

/// Addresses that it gives, by itself or by its map, as ranges of numbers. `None`: they are not known.
pub fn given_addresses(nat: &Nat, sets: &BTreeMap<SetId, Set>) -> Option<Vec<(u128, u128)>> {
    let given = |addresses| match addresses {
        Chosen::Unset => Some(None),
        Chosen::Range(first, last) => Some(Some((address_key(first), address_key(last)))),
        Chosen::ByPacket => None,
    };
    match &nat.map {
        None => Some(given(nat.addresses)?.into_iter().collect()),
        Some(map) => {
            let each = map.lookup.known_in(sets)?.map(|(_, data)| given(with_data(nat, data)?.addresses));
            Some(each.collect::<Option<Vec<_>>>()?.into_iter().flatten().collect())
        }
    }
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
    use crate::facts::netfilter::{Family, NatAction, PortRandomization};

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
