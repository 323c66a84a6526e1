//! Lookups in nf_tables data maps.

use std::collections::BTreeMap;
use std::fmt;

use super::{Element, Field, Set, SetId};

/// A lookup in a data map. If there is no element for the packet, the rule ends (`NFT_BREAK`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapLookup {
    /// Key fields, none of which the same rule writes before it uses the data.
    pub fields: Vec<Field>,
    /// The map.
    pub set: SetId,
}

impl fmt::Display for MapLookup {
    /// As nft writes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fields: Vec<String> = self.fields.iter().map(Field::to_string).collect();
        write!(f, "{} map ", fields.join(" . "))?;
        match &self.set {
            // nft's name for an anonymous map.
            SetId::Nftables { set, .. } if set.starts_with("__map") => f.write_str("{ … }"),
            SetId::Nftables { set, .. } => write!(f, "@{set}"),
            SetId::Ipset(index) => write!(f, "{index}"),
        }
    }
}

impl MapLookup {
    /// The elements of the map, each with its data. `None`: they are not known, or may change at any time.
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

/// The mark in the first 4 bytes of map data, host byte order; `None` if shorter.
pub fn mark_in(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}
