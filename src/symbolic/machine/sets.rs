//! The packets whose fields are an element of a set.

use std::collections::BTreeSet;

use super::{PacketKind, StepPlace, Walk};
use crate::facts::netfilter::{Comparison, Element, ElementKey, End, Field, FieldTest, SetId, TypeScope};
use crate::facts::{Failure, Reading};
use crate::symbolic::assumptions::About;
use crate::symbolic::network::RuleAt;
use crate::symbolic::network::survey::updated;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet, Space};

/// A set that rules fill.
#[derive(Clone, Debug)]
pub(super) struct Filled {
    /// A rule has put the packet into it.
    pub(super) put: u32,
    /// By which fields.
    key: Option<Vec<Vec<Field>>>,
}

impl Filled {
    pub(super) fn new(space: &Space<'_>) -> Self {
        Self { put: space.block(1).0[0], key: None }
    }
}

impl Walk<'_> {
    /// Packets in a set, considering elements that rules may have added or deleted since it was read. A part of the key
    /// may consist of several fields, as an ipset's port dimension has protocol and port.
    pub(super) fn in_set(
        &mut self,
        place: &StepPlace<'_>,
        id: &SetId,
        parts: &[Vec<Field>],
        packets: PacketSet,
    ) -> PacketSet {
        let (at, inside) = (place.at, self.in_read_set(place, id, parts, packets));
        let updates = |id: &SetId| self.network.survey().updates.get(&updated(at.set, id)).copied().unwrap_or_default();
        let [mut shrinks, mut grows] = updates(id);
        // Adding to a `list:set` adds to one of its members (`list_set_kadd`).
        let sets = &self.network.rules[at.set].ruleset.sets;
        for (list, _) in sets.iter().filter(|(_, list)| list.sets.contains(id)) {
            let [takes, puts] = updates(list);
            (shrinks, grows) = (shrinks | takes, grows | puts);
        }
        let is_stable = self.network.rules[at.set].ruleset.sets.get(id).is_some_and(|set| set.stable);
        if self.unread[at.set] && !is_stable {
            (shrinks, grows) = (true, true);
        }
        if !shrinks && !grows {
            return inside;
        }
        let mut changed = self.unknown_in_set(place, id, "a set that rules add to or delete from");
        if self.packets.kind == PacketKind::Traffic {
            // It is as it was read, too: what is changed comes later.
            let key = format!("{} {} {id:?} {parts:?} changes", self.stage, at.set);
            let later = self.answer(key, About::SomePacket, 2, 1, String::new);
            changed = self.space.and(changed, later);
        }
        let outside = self.space.minus(EVERYTHING, inside);
        let left = if shrinks { self.space.minus(inside, changed) } else { inside };
        let come = if grows { self.space.and(outside, changed) } else { NOTHING };
        let put = self.put_into(at, id, parts);
        self.space.any([left, come, put])
    }

    /// Packets that a rule has put into a set, by what it is asked about now.
    fn put_into(&self, at: &RuleAt, id: &SetId, parts: &[Vec<Field>]) -> PacketSet {
        let filled = self.filled.get(&updated(at.set, id)).filter(|filled| filled.key.as_deref() == Some(parts));
        filled.map_or(NOTHING, |filled| self.space.is_set(filled.put))
    }

    /// Packets that a rule puts into a set, or takes out.
    pub(super) fn update_set(
        &mut self,
        place: &StepPlace<'_>,
        id: &SetId,
        adds: bool,
        key: &ElementKey,
        packets: PacketSet,
    ) -> PacketSet {
        let key = self.update_key(place, id, key);
        let Some(filled) = self.filled.get_mut(&updated(place.at.set, id)) else { return packets };
        let put = filled.put;
        if !adds {
            let any = self.space.exists(packets, &BTreeSet::from([put]));
            return self.space.minus(any, self.space.is_set(put));
        }
        match key {
            // By another one it is another element.
            Some(key) if filled.key.get_or_insert_with(|| key.clone()) == &key => self.flagged(packets, put),
            _ => packets,
        }
    }

    /// `None`: it is not known which element that is, or whether the set can have it.
    fn update_key(&self, place: &StepPlace<'_>, id: &SetId, key: &ElementKey) -> Option<Vec<Vec<Field>>> {
        match key {
            ElementKey::Fields(fields) => {
                (!fields.is_empty()).then(|| fields.iter().map(|field| vec![field.clone()]).collect())
            }
            ElementKey::Ends(ends) => {
                let set = self.network.rules[place.at.set].ruleset.sets.get(id)?;
                let is_of_family = set.family.is_none_or(|family| family == self.packets.family);
                if !set.kind.starts_with("hash:") || !is_of_family {
                    return None;
                }
                self.dimensions(&set.kind, ends)
            }
        }
    }

    /// The same packets where these fields are written anew: no rule has put them into a set by what they are now.
    pub(super) fn no_longer_put(&self, packets: PacketSet, fields: &[Field]) -> PacketSet {
        let is_written = |filled: &&Filled| filled.key.iter().flatten().flatten().any(|field| fields.contains(field));
        let written: BTreeSet<u32> = self.filled.values().filter(is_written).map(|filled| filled.put).collect();
        if written.is_empty() {
            return packets;
        }
        let any = self.space.exists(packets, &written);
        written.iter().fold(any, |packets, put| self.space.minus(packets, self.space.is_set(*put)))
    }

    fn in_read_set(
        &mut self,
        place: &StepPlace<'_>,
        id: &SetId,
        parts: &[Vec<Field>],
        packets: PacketSet,
    ) -> PacketSet {
        let (at, fields) = (place.at, parts.concat());
        let set = self.network.rules[at.set].ruleset.sets.get(id);
        if let Some(elements) = set.and_then(|set| set.elements.ok())
            && elements.iter().all(|element| element.len() == fields.len())
        {
            let blocks = fields.iter().map(|field| self.block(field)).collect();
            let key = (self.stage.clone(), at.set, id.clone(), blocks);
            if let Some(known) = self.elements.get(&key) {
                return *known;
            }
            let held = self.any_element(&fields, elements);
            self.elements.insert(key, held);
            return held;
        }
        let (mut asked, mut inside) = (NOTHING, NOTHING);
        for (key, member) in set.into_iter().flat_map(|set| &set.members).filter(|(key, _)| key.len() == parts.len()) {
            let one = self.key(parts, key);
            asked = self.space.or(asked, one);
            let held = match member {
                Reading::Ok(true) => one,
                Reading::Ok(false) => NOTHING,
                other => {
                    let may = self.unknown_in_set(place, id, &other.why());
                    self.space.and(one, may)
                }
            };
            inside = self.space.or(inside, held);
        }
        if self.space.minus(packets, asked).is_empty() {
            return inside;
        }
        let others = self.unasked(place, id, &fields, packets);
        self.space.or(inside, self.space.minus(others, asked))
    }

    /// Packets whose fields are one of these elements.
    pub(super) fn any_element<'e>(
        &mut self,
        fields: &[Field],
        elements: impl IntoIterator<Item = &'e Element>,
    ) -> PacketSet {
        if let [field] = fields {
            let ranges: Vec<(u128, u128)> = elements.into_iter().map(|element| element[0]).collect();
            return self.held(field, &ranges);
        }
        let held: Vec<PacketSet> = elements.into_iter().map(|element| self.element(fields, element)).collect();
        self.space.any(held)
    }

    /// Packets whose fields are this element.
    pub(super) fn element(&mut self, fields: &[Field], element: &[(u128, u128)]) -> PacketSet {
        fields.iter().zip(element).fold(EVERYTHING, |all, (field, range)| {
            let held = self.held(field, &[*range]);
            self.space.and(all, held)
        })
    }

    fn held(&mut self, field: &Field, ranges: &[(u128, u128)]) -> PacketSet {
        let condition = Comparison::Ranges(ranges.to_vec());
        let test = FieldTest { field: field.clone(), condition };
        match self.test(&test, EVERYTHING) {
            Some(held) => held,
            None => {
                let why = format!("which packets have an element of a set as {field} cannot be told");
                let key = format!("{} {field:?} {ranges:?}", self.stage);
                self.answer(key, About::EachPacket, 2, 1, || why)
            }
        }
    }

    /// Packets with a key that was looked up singly.
    fn key(&mut self, parts: &[Vec<Field>], key: &[u128]) -> PacketSet {
        let mut all = EVERYTHING;
        for (fields, number) in parts.iter().zip(key) {
            for (at, field) in fields.iter().rev().enumerate() {
                let own = if fields.len() == 1 { *number } else { number >> (16 * at) & 0xffff };
                let held = self.held(field, &[(own, own)]);
                all = self.space.and(all, held);
            }
        }
        all
    }

    /// Packets in a set for which no lookup was made.
    fn unasked(&mut self, place: &StepPlace<'_>, id: &SetId, fields: &[Field], packets: PacketSet) -> PacketSet {
        let at = place.at;
        let mut fixed = true;
        for field in fields {
            let block = self.block(field);
            fixed &= self.space.number(packets, &block).is_some();
        }
        if self.packets.kind == PacketKind::Tunnel || fixed {
            return self.unknown_in_set(place, id, "a set that was not asked about such packets");
        }
        let key = format!("{} {} {id:?} {fields:?}", self.stage, at.set);
        match self.unread_elements(at, id) {
            // All elements would be needed.
            Some(why) => {
                let why = format!("{}: a set was not read: {why}", self.network.describe(at));
                let why = self.network.question_of_set(at, id, why);
                self.answer(key, About::EachPacket, 2, 1, || why)
            }
            // Some packets are in the set and some are not, the same at each lookup.
            None => self.answer(key, About::SomePacket, 2, 1, String::new),
        }
    }

    /// Why a set's elements were not read, unless its type is not supported.
    pub(super) fn unread_elements(&self, at: &RuleAt, id: &SetId) -> Option<String> {
        let set = self.network.rules[at.set].ruleset.sets.get(id)?;
        match &set.elements {
            Reading::Ok(_) => None,
            Reading::Failed(failure) if matches!(failure.root(), Failure::Unsupported(_)) => None,
            other => Some(other.why()),
        }
    }

    /// `set_match_v1`, `ip_set_test`: with more dimensions in the rule than in the set, the first ones count; with
    /// fewer, or for another family than the set's, no packet matches.
    pub(super) fn in_ipset(
        &mut self,
        place: &StepPlace<'_>,
        index: u16,
        ends: &[End],
        packets: PacketSet,
    ) -> PacketSet {
        let id = SetId::Ipset(index);
        let sets = &self.network.rules[place.at.set].ruleset.sets;
        let Some(set) = sets.get(&id).filter(|set| !set.kind.is_empty()) else {
            let fields: Vec<Field> = ends.iter().map(|end| self.end(end)).collect();
            return self.unasked(place, &id, &fields, packets);
        };
        if set.family.is_some_and(|family| family != self.packets.family) {
            return NOTHING;
        }
        if set.kind == "list:set" {
            if set.elements.ok().is_none() {
                return self.unasked(place, &id, &[], packets);
            }
            let each: Vec<PacketSet> = set
                .sets
                .iter()
                .filter_map(|member| match member {
                    SetId::Ipset(member) if *member != index => Some(self.in_ipset(place, *member, ends, packets)),
                    _ => None, // a list cannot contain lists (`list_set_utest`)
                })
                .collect();
            return self.space.any(each);
        }
        let Some(parts) = self.dimensions(&set.kind, ends) else { return NOTHING };
        self.in_set(place, &id, &parts, packets)
    }

    /// The fields of each dimension of such an ipset. `None`: there are fewer ends than dimensions.
    fn dimensions(&self, kind: &str, ends: &[End]) -> Option<Vec<Vec<Field>>> {
        let dimensions: Vec<&str> = kind.split_once(':').map_or("", |(_, list)| list).split(',').collect();
        if ends.len() < dimensions.len() {
            return None;
        }
        let fields = |(end, dimension): (&End, &&str)| match (end, *dimension) {
            (End::Source, "port") => vec![Field::L4Proto, Field::SourcePort],
            (End::Destination, "port") => vec![Field::L4Proto, Field::DestinationPort],
            (End::Source, "iface") => vec![Field::InputName],
            (End::Destination, "iface") => vec![Field::OutputName],
            (_, "mark") => vec![Field::Mark],
            (_, "mac") => vec![Field::Other("mac address".into())],
            (end, _) => vec![self.end(end)],
        };
        Some(ends.iter().zip(&dimensions).map(fields).collect())
    }

    fn end(&self, end: &End) -> Field {
        let (source, destination) = self.packets.ends();
        if *end == End::Source { source } else { destination }
    }

    /// Name of the device whose addresses count (inner `None`: all devices). Outer `None`: not the same for all
    /// packets.
    pub(super) fn scoped(&mut self, scope: TypeScope, packets: PacketSet) -> Option<Option<u128>> {
        let field = match scope {
            TypeScope::Any => return Some(None),
            TypeScope::Input => Field::InputName,
            TypeScope::Output => Field::OutputName,
        };
        let block = self.block(&field);
        let piece = self.space.number(packets, &block)?;
        self.layout.names.name(piece).map(Some)
    }
}
