//! What a test of a rule leaves of a symbolic packet: those for which it holds, and those for which it does not.

use super::effort::Effort;
use super::packet::{Kind, Packet, merge};
use super::values::Values;
use super::walk::Walk;
use super::world::RuleAt;
use crate::snapshot::netfilter::{Condition, Element, End, Field, Match, Set, SetId, Test};
use crate::snapshot::{Failure, Reading};

/// Combinations of values that a set is asked about for one packet.
const MAX_COMBINATIONS: u128 = 4096;

/// What it means that one field of a packet is in more pieces than that.
const TOO_MANY_PIECES: &str = "the rules cut traffic into too many pieces to follow each";

/// Pieces that the packets outside a set may fall into.
const MAX_PIECES: usize = 256;

/// Those for which a test holds, and those for which it fails.
type Parts = (Vec<Packet>, Vec<Packet>);

impl Walk<'_> {
    /// Splits a packet by a match.
    pub(super) fn split(&mut self, at: &RuleAt, number: usize, packet: Packet, found: &Match) -> Parts {
        let turned = |(holds, fails): Parts, inverted: bool| if inverted { (fails, holds) } else { (holds, fails) };
        match found {
            Match::Tests { tests, inverted } => turned(self.split_tests(at, number, packet, tests), *inverted),
            Match::Set { fields, set, inverted } => {
                turned(self.split_set(at, number, packet, set, fields, None), *inverted)
            }
            Match::Ipset { index, ends, inverted } => {
                turned(self.split_ipset(at, number, packet, *index, ends), *inverted)
            }
            // Now and then it holds, and now and then it does not.
            Match::Occasional(_) => (vec![packet.clone()], vec![packet]),
            Match::Opaque(what) => self.split_opaquely(at, number, what, packet),
        }
    }

    /// All tests hold, or the first that fails is one of them.
    fn split_tests(&mut self, at: &RuleAt, number: usize, packet: Packet, tests: &[Test]) -> Parts {
        let (mut holding, mut failing) = (vec![packet], Vec::new());
        for test in tests {
            let mut next = Vec::new();
            for packet in holding {
                let (holds, fails) = self.split_test(at, number, packet, test);
                next.extend(holds);
                failing.extend(fails);
            }
            holding = next;
        }
        (holding, failing)
    }

    fn split_test(&mut self, at: &RuleAt, number: usize, packet: Packet, test: &Test) -> Parts {
        let Test { field, condition } = test;
        if !self.spend(2 * packet.get(field).cost() + packet.weight()) {
            return (Vec::new(), Vec::new());
        }
        let parts = match field {
            Field::InputIndex => self.split_index(&packet, field, Field::InputName, condition),
            Field::OutputIndex => self.split_index(&packet, field, Field::OutputName, condition),
            Field::SourceType(scope) | Field::DestinationType(scope) => {
                let types = Values::any(field).split(field, condition).map(|(types, _)| types);
                let (source, destination) = packet.ends();
                let end = if matches!(field, Field::SourceType(_)) { source } else { destination };
                match types.and_then(|types| self.world.addresses_of_types(&packet, &types, *scope)) {
                    Some(addresses) => {
                        let known = packet.get(&end);
                        Some((end, known.and(&addresses), known.without(&addresses)))
                    }
                    None => plain(&packet, field, condition),
                }
            }
            Field::Other(name) if packet.kind == Kind::Tunnel => match of_tuple(&packet, name) {
                Some(field) => plain(&packet, &field, condition),
                None => None,
            },
            field => match plain(&packet, field, condition) {
                None if packet.kind == Kind::Traffic => return self.split_roughly(at, number, packet, test),
                parts => parts,
            },
        };
        match parts {
            Some((_, holds, _)) if holds.is_empty() => (Vec::new(), vec![packet]),
            Some((_, _, fails)) if fails.is_empty() => (vec![packet], Vec::new()),
            Some((field, holds, fails)) => {
                let with = |values: Values| (!values.is_empty()).then(|| packet.clone().with(field.clone(), values));
                (with(holds).into_iter().collect(), with(fails).into_iter().collect())
            }
            None => self.split_opaquely(at, number, &format!("{field:?} {condition:?}"), packet),
        }
    }

    /// What is left of traffic is in too many pieces to be cut any further. What is inside one more is exact; that some of
    /// it is outside is taken for granted, once for all such tests.
    fn split_roughly(&mut self, at: &RuleAt, number: usize, packet: Packet, test: &Test) -> Parts {
        let Test { field, condition } = test;
        let is_mark = matches!(field, Field::Mark | Field::ConnectionMark);
        let wanted = Values::any(field).split(field, condition).filter(|_| !is_mark);
        match wanted {
            Some((wanted, _)) => {
                let question = self.unknowns.ask("pieces".into(), 2, || TOO_MANY_PIECES.into());
                let holds = packet.get(field).and(&wanted);
                let inside = (!holds.is_empty()).then(|| packet.clone().with(field.clone(), holds));
                let mut outside = packet;
                let outside = outside.guess(question, 1).then_some(outside);
                (inside.into_iter().collect(), outside.into_iter().collect())
            }
            // Some traffic has it and some has not.
            None if matches!(field, Field::Other(_)) => (vec![packet.clone()], vec![packet]),
            None => self.split_opaquely(at, number, &format!("{field:?} {condition:?}"), packet),
        }
    }

    /// Devices have one index and one name: a test of the one is a test of the other.
    fn split_index(
        &self,
        packet: &Packet,
        field: &Field,
        name: Field,
        condition: &Condition,
    ) -> Option<(Field, Values, Values)> {
        let (indices, _) = Values::any(field).split(field, condition)?;
        let names = self.world.names(&indices)?;
        let known = packet.get(&name);
        Some((name, known.and(&names), known.without(&names)))
    }

    /// A set that was asked about every value that the packet can have; else it may hold and may not.
    fn split_set(
        &mut self,
        at: &RuleAt,
        number: usize,
        packet: Packet,
        id: &SetId,
        fields: &[Field],
        parts: Option<&[Vec<Field>]>,
    ) -> Parts {
        let (holds, fails) = self.split_read_set(at, number, packet, id, fields, parts);
        // What rules have put into it since it was read, or are going to.
        let [mut shrinks, mut grows] = self.updates.get(&(at.set, id.clone())).copied().unwrap_or_default();
        let is_stable = self.world.rules[at.set].ruleset.sets.get(id).is_some_and(|set| set.stable);
        if self.unread[at.set] && !is_stable {
            (shrinks, grows) = (true, true);
        }
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for (packets, moves, is_inside) in [(holds, shrinks, true), (fails, grows, false)] {
            let (here, there) = if is_inside { (&mut inside, &mut outside) } else { (&mut outside, &mut inside) };
            for packet in packets {
                if !moves {
                    here.push(packet);
                    continue;
                }
                let (stays, goes) = self.split_opaquely(at, number, "a set that rules add to or delete from", packet);
                here.extend(stays);
                there.extend(goes);
            }
        }
        (inside, outside)
    }

    fn split_read_set(
        &mut self,
        at: &RuleAt,
        number: usize,
        packet: Packet,
        id: &SetId,
        fields: &[Field],
        parts: Option<&[Vec<Field>]>,
    ) -> Parts {
        let set = self.world.rules[at.set].ruleset.sets.get(id);
        if let Some(elements) = set.and_then(|set| set.elements.ok()) {
            if let Some(parts) = split_elements(&packet, fields, elements, self.effort) {
                return parts;
            }
            if packet.kind == Kind::Traffic && elements.len() > MAX_PIECES {
                return self.split_opaquely(
                    at,
                    number,
                    "a set whose elements cut traffic into too many pieces",
                    packet,
                );
            }
        }
        let single: Vec<Vec<Field>> = fields.iter().map(|field| vec![field.clone()]).collect();
        let rows = set.and_then(|set| self.rows(&packet, set, parts.unwrap_or(&single)));
        let Some(rows) = rows else { return self.split_unasked(at, number, packet, id, fields) };
        let (mut holds, mut fails) = (Vec::new(), Vec::new());
        for (packet, member) in rows {
            match member {
                Reading::Ok(true) => holds.push(packet),
                Reading::Ok(false) => fails.push(packet),
                other => {
                    let (more, less) = self.split_opaquely(at, number, &other.why(), packet);
                    holds.extend(more);
                    fails.extend(less);
                }
            }
        }
        (merge(holds, self.effort), merge(fails, self.effort))
    }

    /// The packet for each value that is looked up, and whether the set has it. `None`: it was not asked about all.
    /// A key may be made of several fields, as ipset's is of protocol and port.
    fn rows(&self, packet: &Packet, set: &Set, parts: &[Vec<Field>]) -> Option<Vec<(Packet, Reading<bool>)>> {
        let mut rows = vec![(packet.clone(), Vec::new())];
        for fields in parts {
            let mut longer = Vec::new();
            for (packet, key) in rows {
                let mut values = vec![(packet, 0u128)];
                for field in fields {
                    let mut next = Vec::new();
                    for (packet, value) in values {
                        for number in packet.get(field).numbers(MAX_COMBINATIONS)? {
                            if !self.effort.spend(packet.weight()) {
                                return Some(Vec::new());
                            }
                            let value = value << 16 | number;
                            next.push((packet.clone().with(field.clone(), Values::of(&[number])), value));
                        }
                    }
                    values = next;
                }
                longer.extend(values.into_iter().map(|(packet, value)| {
                    let key: Vec<u128> = [key.as_slice(), &[value]].concat();
                    (packet, key)
                }));
            }
            rows = longer;
            if rows.len() as u128 > MAX_COMBINATIONS {
                return None;
            }
        }
        rows.into_iter().map(|(packet, key)| Some((packet, set.members.get(&key)?.clone()))).collect()
    }

    fn split_unasked(&mut self, at: &RuleAt, number: usize, packet: Packet, id: &SetId, fields: &[Field]) -> Parts {
        let fixed = |field: &Field| packet.knows(field) && packet.get(field).numbers(1).is_some();
        if packet.kind == Kind::Tunnel || fields.iter().all(fixed) {
            return self.split_opaquely(at, number, "a set that was not asked about such packets", packet);
        }
        if let Some(why) = self.unread_elements(at, id) {
            // All of it would be needed. A second look at it finds the same.
            let why = format!("{}: a set was not read: {why}", self.world.describe(at));
            let question = self.ask(&format!("{} {id:?} {fields:?}", at.set), 2, || why);
            let with = |answer| {
                let mut packet = packet.clone();
                packet.guess(question, answer).then_some(packet)
            };
            return (with(1).into_iter().collect(), with(0).into_iter().collect());
        }
        // Some traffic is in the set and some is not; a second look at it finds the same.
        let key = format!("{} {id:?} {fields:?}", at.set);
        let with = |member: bool| {
            let mut packet = packet.clone();
            (*packet.members.entry(key.clone()).or_insert(member) == member).then_some(packet)
        };
        (with(true).into_iter().collect(), with(false).into_iter().collect())
    }

    /// Why the elements of a set that rules look into were not read, if it is not that natwatch does not read such sets.
    pub(super) fn unread_elements(&self, at: &RuleAt, id: &SetId) -> Option<String> {
        let set = self.world.rules[at.set].ruleset.sets.get(id)?;
        match &set.elements {
            Reading::Ok(_) => None,
            Reading::Failed(failure) if matches!(failure.root(), Failure::Unsupported(_)) => None,
            other => Some(other.why()),
        }
    }

    fn split_ipset(&mut self, at: &RuleAt, number: usize, packet: Packet, index: u16, ends: &[End]) -> Parts {
        let id = SetId::Ipset(index);
        let (source, destination) = packet.ends();
        let kind = self.world.rules[at.set].ruleset.sets.get(&id).map(|set| set.kind.clone()).unwrap_or_default();
        let dimensions: Vec<&str> = kind.split_once(':').map_or("", |(_, list)| list).split(',').collect();
        let fields = |(end, dimension): (&End, &&str)| match (end, *dimension) {
            (End::Source, "port") => vec![Field::L4Proto, Field::SourcePort],
            (End::Destination, "port") => vec![Field::L4Proto, Field::DestinationPort],
            (End::Source, _) => vec![source.clone()],
            (End::Destination, _) => vec![destination.clone()],
        };
        if dimensions.len() == ends.len() {
            let parts: Vec<Vec<Field>> = ends.iter().zip(&dimensions).map(fields).collect();
            return self.split_set(at, number, packet, &id, &parts.concat(), Some(&parts));
        }
        let fields: Vec<Field> =
            ends.iter().map(|end| if *end == End::Source { source.clone() } else { destination.clone() }).collect();
        self.split_unasked(at, number, packet, &id, &fields)
    }
}

/// By all elements of a set. `None`: a field of a tunnel's packet is not known, or there are too many pieces.
pub(super) fn split_elements(
    packet: &Packet,
    fields: &[Field],
    elements: &[Element],
    effort: &Effort<'_>,
) -> Option<Parts> {
    if packet.kind == Kind::Tunnel && fields.iter().any(|field| !packet.knows(field)) {
        return None;
    }
    if elements.iter().any(|element| element.len() != fields.len()) {
        return None;
    }
    let values = |range: &(u128, u128), field: &Field| {
        Values::any(field).split(field, &Condition::Ranges(vec![*range])).map(|(inside, _)| inside)
    };
    if let [field] = fields {
        let known = packet.get(field);
        if !effort.spend(known.cost() + 2 * elements.len()) {
            return Some((Vec::new(), Vec::new()));
        }
        let ranges = elements.iter().map(|element| element[0]).collect();
        let (inside, outside) = known.split(field, &Condition::Ranges(ranges))?;
        let with = |values: Values| (!values.is_empty()).then(|| packet.clone().with(field.clone(), values));
        return Some((with(inside).into_iter().collect(), with(outside).into_iter().collect()));
    }
    let (mut holds, mut rest) = (Vec::new(), vec![packet.clone()]);
    for element in elements {
        let mut next = Vec::new();
        for packet in rest {
            if !effort.spend(fields.len() * packet.weight()) {
                return Some((Vec::new(), Vec::new()));
            }
            let mut inside = Some(packet);
            for (field, range) in fields.iter().zip(element) {
                let Some(packet) = inside.take() else { break };
                let known = packet.get(field);
                let wanted = values(range, field)?;
                let (in_range, out) = (known.and(&wanted), known.without(&wanted));
                if !out.is_empty() {
                    next.push(packet.clone().with(field.clone(), out));
                }
                inside = (!in_range.is_empty()).then(|| packet.with(field.clone(), in_range));
            }
            holds.extend(inside);
        }
        if next.len() > MAX_PIECES {
            return None;
        }
        rest = next;
    }
    Some((merge(holds, effort), merge(rest, effort)))
}

/// The field that a part of the connection's tuple is, for the first packet of a flow that was not translated: whatever
/// changes an outer packet ends its walk.
fn of_tuple(packet: &Packet, name: &str) -> Option<Field> {
    let (source, destination) = packet.ends();
    Some(match name {
        "ct protocol" => Field::L4Proto,
        "ct original saddr" | "ct reply daddr" => source,
        "ct original daddr" | "ct reply saddr" => destination,
        "ct original proto-src" | "ct reply proto-dst" => Field::SourcePort,
        "ct original proto-dst" | "ct reply proto-src" => Field::DestinationPort,
        _ => return None,
    })
}

/// A test of a field by itself. Of a tunnel's packet, fields that are not modelled have one value, which is not known.
fn plain(packet: &Packet, field: &Field, condition: &Condition) -> Option<(Field, Values, Values)> {
    if packet.kind == Kind::Tunnel && !packet.knows(field) {
        return None;
    }
    let (holds, fails) = packet.get(field).split(field, condition)?;
    Some((field.clone(), holds, fails))
}
