//! A symbolic packet: what each of its fields can hold, and what had to be guessed on its way.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::rc::Rc;

use super::effort::Effort;
use super::values::Values;
use crate::snapshot::netfilter::{Family, Field};

/// `NF_CT_STATE_BIT(IP_CT_NEW)` and its like, as `nft_ct` and `xt_conntrack` see them.
pub mod state {
    /// No connection: also before connection tracking has seen the packet.
    pub const INVALID: u128 = 1;
    /// Of a connection that was confirmed.
    pub const ESTABLISHED: u128 = 2;
    /// The first of an expected connection.
    pub const RELATED: u128 = 4;
    /// The first of a connection.
    pub const NEW: u128 = 8;
    /// Not tracked.
    pub const UNTRACKED: u128 = 64;
}

/// What a packet stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// All packets that traffic may consist of: whatever a rule asks beyond its fields, some packet has it.
    Traffic,
    /// Packets of which everything is known or fixed: what cannot be told of them is unknown.
    Tunnel,
}

/// Guesses about what is not known, by the number of the question; see [`super::unknowns::Unknowns`].
pub type Guesses = BTreeMap<usize, usize>;

/// A symbolic packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// What it stands for.
    pub kind: Kind,
    /// IPv4 or IPv6.
    pub family: Family,
    /// What its fields can hold; one that is not here can hold anything.
    /// Shared by packets that were told apart by other fields: these are many, and copied often.
    fields: BTreeMap<Field, Rc<Values>>,
    /// Whether it is in sets that were not asked about it.
    pub members: BTreeMap<String, bool>,
    /// What was guessed.
    pub guesses: Guesses,
    /// It has a template of a connection.
    pub template: bool,
    /// A chain whose packets are routed again when their mark has changed changed it.
    pub rerouted: bool,
}

impl Packet {
    /// A packet of a family, of which nothing else is known.
    pub fn new(kind: Kind, family: Family) -> Self {
        let (nfproto, ethertype) = if family == Family::Ipv6 { (10, 0x86dd) } else { (2, 0x0800) };
        let packet = Self {
            kind,
            family,
            fields: BTreeMap::new(),
            members: BTreeMap::new(),
            guesses: BTreeMap::new(),
            template: false,
            rerouted: false,
        };
        packet.with(Field::NfProto, Values::of(&[nfproto])).with(Field::EtherType, Values::of(&[ethertype]))
    }

    /// The same with these values of a field.
    pub fn with(mut self, field: Field, values: Values) -> Self {
        self.set(field, values);
        self
    }

    /// Replaces what a field can hold.
    pub fn set(&mut self, field: Field, values: Values) {
        self.fields.insert(field, Rc::new(values));
    }

    /// Forgets what a field can hold.
    pub fn forget(&mut self, field: &Field) {
        self.fields.remove(field);
    }

    /// What a field can hold.
    pub fn get(&self, field: &Field) -> Values {
        self.fields.get(field).map_or_else(|| Values::any(field), |values| (**values).clone())
    }

    /// Whether anything is known of a field.
    pub fn knows(&self, field: &Field) -> bool {
        self.fields.contains_key(field)
    }

    /// Its source address's field, and its destination's.
    pub fn ends(&self) -> (Field, Field) {
        match self.family {
            Family::Ipv6 => (Field::Ipv6Source, Field::Ipv6Destination),
            _ => (Field::Ipv4Source, Field::Ipv4Destination),
        }
    }

    /// The one number that a field holds, if it is one.
    pub fn number(&self, field: &Field) -> Option<u128> {
        self.get(field).numbers(1)?.first().copied()
    }

    /// Whether some real packet is one of both.
    pub fn meets(&self, other: &Self) -> bool {
        let fields = self.fields.iter().all(|(field, values)| !values.and(&other.get(field)).is_empty());
        let same = |guess: &usize, mine: &usize| other.guesses.get(guess).is_none_or(|theirs| theirs == mine);
        let members = self.members.iter().all(|(set, mine)| other.members.get(set).is_none_or(|theirs| theirs == mine));
        fields && members && self.guesses.iter().all(|(guess, mine)| same(guess, mine))
    }

    /// Whether it is UDP, so that only rules for that matter.
    pub fn is_udp(&self) -> bool {
        self.number(&Field::L4Proto) == Some(17)
    }

    /// What it costs to copy or compare it, in units of [`Effort`].
    pub fn weight(&self) -> usize {
        let values = self.fields.values().map(|values| values.parts()).fold(0, usize::saturating_add);
        values + 4 * self.fields.len() + 4 * self.guesses.len()
    }

    /// Whether a guess contradicts one made before; makes it if not.
    pub fn guess(&mut self, question: usize, answer: usize) -> bool {
        *self.guesses.entry(question).or_insert(answer) == answer
    }
}

/// Joins packets that differ in one field only: what was told apart on the way and came together again. None are left when
/// the effort ends.
pub fn merge(packets: Vec<Packet>, effort: &Effort<'_>) -> Vec<Packet> {
    if packets.len() < 2 {
        return packets;
    }
    let fields: BTreeSet<Field> = packets.iter().flat_map(|packet| packet.fields.keys().cloned()).collect();
    let differs = |field: &Field| packets.iter().any(|packet| packet.fields.get(field) != packets[0].fields.get(field));
    let (differing, same): (Vec<Field>, Vec<Field>) = fields.into_iter().partition(differs);
    // By what all have in common, only equal packets are joined: once is enough.
    let fields = if differing.is_empty() { same.into_iter().take(1).collect() } else { differing };
    let mut packets = packets;
    for field in fields {
        let mut places: HashMap<Packet, usize> = HashMap::with_capacity(packets.len());
        let mut joined: Vec<Vec<Values>> = Vec::with_capacity(packets.len());
        for mut packet in packets {
            if !effort.spend(packet.weight()) {
                return Vec::new();
            }
            let values = packet.get(&field);
            packet.forget(&field);
            match places.entry(packet) {
                Entry::Occupied(place) if joined[*place.get()].last() == Some(&values) => {}
                Entry::Occupied(place) => joined[*place.get()].push(values),
                Entry::Vacant(place) => {
                    place.insert(joined.len());
                    joined.push(vec![values]);
                }
            }
        }
        let mut found: Vec<(usize, Packet)> = places.into_iter().map(|(packet, place)| (place, packet)).collect();
        found.sort_unstable_by_key(|(place, _)| *place); // as they came: a verdict must not depend on the hash
        packets = Vec::with_capacity(found.len());
        for ((_, packet), values) in found.into_iter().zip(joined) {
            let Some(values) = union(values, effort) else { return Vec::new() };
            packets.push(if values == Values::any(&field) { packet } else { packet.with(field.clone(), values) });
        }
    }
    packets
}

/// What is in any of these. `None`: the effort has ended.
fn union(mut all: Vec<Values>, effort: &Effort<'_>) -> Option<Values> {
    while all.len() > 1 {
        // Pair by pair, so that no value is looked at more often than there are levels.
        let mut pairs = all.into_iter();
        let mut next = Vec::new();
        while let Some(one) = pairs.next() {
            let Some(other) = pairs.next() else {
                next.push(one);
                break;
            };
            effort.spend(one.cost() + other.cost()).then_some(())?;
            next.push(one.or(&other));
        }
        all = next;
    }
    all.pop()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_that_differ_in_one_field_are_joined() {
        let packet = |mark: u32, port: u128| {
            let packet = Packet::new(Kind::Traffic, Family::Ipv4).with(Field::Mark, Values::word(mark));
            packet.with(Field::DestinationPort, Values::of(&[port]))
        };
        let stop = std::sync::atomic::AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let merge = |packets| merge(packets, &effort);
        let joined = merge(vec![packet(1, 80), packet(1, 81), packet(2, 80), packet(1, 80)]);
        assert_eq!(joined.len(), 2, "{joined:?}");
        let joined = merge(vec![packet(1, 80), packet(1, 81), packet(1, 80)]);
        assert_eq!(joined, [packet(1, 80).with(Field::DestinationPort, Values::of(&[80, 81]))]);
        let mut guessed = packet(1, 80);
        assert!(guessed.guess(3, 1) && guessed.guess(3, 1) && !guessed.guess(3, 0));
        assert_eq!(merge(vec![packet(1, 80), guessed]).len(), 2, "a guess keeps them apart");
    }
}
