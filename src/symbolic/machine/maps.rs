//! Data maps: mark bits, addresses and ports that they give to packets.
//!
//! The lookup is stored with the mark write or NAT statement, so registers, masks and offsets are resolved once, when
//! rules are read. Only bits that are followed are distinguished.

use std::collections::BTreeMap;

use super::{StepPlace, Walk};
use crate::facts::netfilter::{Element, Field, MapLookup, MarkWrite, Nat, mark_in, with_map_data};
use crate::symbolic::network::Hit;
use crate::symbolic::space::{NOTHING, PacketSet};

impl Walk<'_> {
    /// Packets after a mark write with map data.
    pub(super) fn write_mapped(
        &mut self,
        place: &StepPlace<'_>,
        packets: PacketSet,
        (lookup, mapped): (&MapLookup, u32),
        [keep, take, xor]: [u32; 3],
        [own, other]: [&Field; 2],
    ) -> PacketSet {
        let bits = |data: &[u8]| mark_in(data).map(|mark| mark & mapped);
        let (found, rest) = self.by_data(place.at.set, lookup, packets, bits);
        let mut each: Vec<(MarkWrite, PacketSet)> =
            found.into_iter().map(|(bits, set)| (MarkWrite::Exact { keep, take, xor: xor ^ bits }, set)).collect();
        if !rest.is_empty() {
            each.push((MarkWrite::Unknown(format!("what {lookup} has for them is not known")), rest));
        }
        let mut after = NOTHING;
        for (write, packets) in each {
            let written = self.write(place, packets, &write, own, other);
            after = self.space.or(after, written);
        }
        after
    }

    /// The NAT statement for each of its map's data, with the packets it applies to. Unknown data give a statement
    /// without addresses.
    pub(crate) fn translations(&mut self, hit: &Hit, nat: &Nat, packets: PacketSet) -> Vec<(Nat, PacketSet)> {
        let (Some(map), Hit::Rule(at, _)) = (&nat.map, hit) else { return vec![(nat.clone(), packets)] };
        let (found, rest) = self.by_data(at.set, &map.lookup, packets, |data| Some(data.to_vec()));
        let told = found.into_iter().map(|(data, set)| (with_map_data(nat, &data).unwrap_or_else(|| nat.clone()), set));
        told.chain([(nat.clone(), rest)]).filter(|(_, set)| !set.is_empty()).collect()
    }

    /// Like [`Self::translations`] for any hit; `None`: an unsupported or unread statement.
    pub(crate) fn each_translation(&mut self, hit: &Hit, packets: PacketSet) -> Vec<(Option<Nat>, PacketSet)> {
        match self.nat(hit) {
            Some(nat) => {
                self.translations(hit, nat, packets).into_iter().map(|(nat, mine)| (Some(nat), mine)).collect()
            }
            None => vec![(None, packets)],
        }
    }

    /// Packets by their map data, reduced to what `matters`, and packets whose data are not known.
    fn by_data<K: Ord>(
        &mut self,
        set: usize,
        lookup: &MapLookup,
        packets: PacketSet,
        matters: impl Fn(&[u8]) -> Option<K>,
    ) -> (Vec<(K, PacketSet)>, PacketSet) {
        let known = lookup.known_in(&self.network.rules[set].ruleset.sets);
        let each: Option<Vec<(&Element, K)>> =
            known.and_then(|known| known.map(|(element, data)| Some((element, matters(data)?))).collect());
        let Some(mut each) = each else { return (Vec::new(), packets) };
        // The last element may be the catch-all.
        let last = each.pop();
        let mut found: BTreeMap<K, PacketSet> = BTreeMap::new();
        let mut rest = packets;
        for (elements, key) in together(each).into_iter().chain(last.map(|(element, key)| (vec![element], key))) {
            if self.is_over() {
                break;
            }
            let held = self.any_element(&lookup.fields, elements);
            let mine = self.space.and(rest, held);
            rest = self.space.minus(rest, held);
            if !mine.is_empty() {
                let known = found.entry(key).or_insert(NOTHING);
                *known = self.space.or(*known, mine);
            }
        }
        (found.into_iter().collect(), rest)
    }
}

/// Groups elements with equal data if they do not overlap; else each is a group, since the first match counts.
fn together<K: Ord>(each: Vec<(&Element, K)>) -> Vec<(Vec<&Element>, K)> {
    let mut starts: Vec<&Element> = each.iter().map(|(element, _)| *element).collect();
    starts.sort();
    let apart = match starts.first().map(|element| element.len()) {
        Some(1) => starts.windows(2).all(|pair| pair[0][0].1 < pair[1][0].0),
        _ => starts.iter().all(|element| element.iter().all(|(first, last)| first == last)),
    };
    if !apart {
        return each.into_iter().map(|(element, key)| (vec![element], key)).collect();
    }
    let mut same: BTreeMap<K, Vec<&Element>> = BTreeMap::new();
    each.into_iter().for_each(|(element, key)| same.entry(key).or_default().push(element));
    same.into_iter().map(|(key, elements)| (elements, key)).collect()
}
