//! Verdict maps: `nft_lookup_eval` with a verdict as result.

use super::{Ends, StepPlace, Walk};
use crate::facts::Reading;
use crate::facts::netfilter::{Field, Match, SetId, Verdict};
use crate::symbolic::assumptions::About;
use crate::symbolic::network::Hit;
use crate::symbolic::packets::PacketKind;
use crate::symbolic::space::{NOTHING, PacketSet};

/// A verdict map lookup; see [`Verdict::Map`].
pub(super) struct VerdictMap<'r> {
    /// Key fields.
    pub(super) fields: &'r [Field],
    /// The map.
    pub(super) set: &'r SetId,
    /// The distinct verdicts in it.
    pub(super) verdicts: &'r Reading<Vec<Verdict>>,
}

/// A verdict map whose elements are known.
struct KnownMap<'r> {
    fields: &'r [Field],
    elements: &'r [Vec<(u128, u128)>],
    verdicts: &'r [Verdict],
}

impl Walk<'_> {
    /// Applies a verdict map; returns the packets for which the same rule goes on.
    pub(super) fn verdict_map(
        &mut self,
        place: &StepPlace<'_>,
        map: &VerdictMap<'_>,
        packets: PacketSet,
        next: &mut PacketSet,
        ends: &mut Ends,
    ) -> PacketSet {
        let at = place.at;
        let VerdictMap { fields, set, verdicts } = map;
        let known = self.network.rules[at.set].ruleset.sets.get(set);
        let elements = known.and_then(|known| known.elements.ok().zip(Some(&known.verdicts)));
        let fits = |elements: &[Vec<(u128, u128)>]| elements.iter().all(|element| element.len() == fields.len());
        if let Some((elements, verdicts)) =
            elements.filter(|(elements, of)| elements.len() == of.len() && fits(elements))
        {
            let map = KnownMap { fields, elements, verdicts };
            return self.looked_up(place, &map, packets, next, ends);
        }
        let found = Match::Set { fields: fields.to_vec(), set: (*set).clone(), inverted: false };
        let inside = self.matching(place, &found, packets, next);
        let Reading::Ok(verdicts) = verdicts else {
            let found = self.anything(&Hit::Rule(at.clone(), place.number), &verdicts.why(), inside);
            self.join(ends, found);
            return NOTHING;
        };
        // The key may include something unsupported.
        let unread =
            fields.is_empty() || self.unread_elements(at, set).is_some() || self.packets.kind == PacketKind::Tunnel;
        let about = if unread { About::EachPacket } else { About::SomePacket };
        let mut going_on = NOTHING;
        for (answer, verdict) in verdicts.iter().enumerate() {
            let key = format!("{} {at:?} {} verdict", self.stage, place.number);
            let network = self.network;
            let why = || network.question(at, format!("which verdict {} gives was not read", network.describe(at)));
            let mine = self.answer(key, about, verdicts.len(), answer, why);
            let mine = self.space.and(inside, mine);
            let found = self.verdict(place, verdict, mine, next, ends);
            going_on = self.space.or(going_on, found);
        }
        going_on
    }

    /// Applies a verdict map whose elements are known.
    fn looked_up(
        &mut self,
        place: &StepPlace<'_>,
        map: &KnownMap<'_>,
        packets: PacketSet,
        next: &mut PacketSet,
        ends: &mut Ends,
    ) -> PacketSet {
        let KnownMap { fields, elements, verdicts } = *map;
        // Each lookup generates a new number, and nothing else depends on it.
        let drawn: Vec<Field> = fields.iter().filter(|field| field.is_drawn()).cloned().collect();
        let packets = self.forget(packets, &drawn);
        let asked = self.testable(fields.iter(), packets);
        *next = self.space.or(*next, self.space.minus(packets, asked));
        let (mut going_on, mut rest) = (NOTHING, asked);
        let each: Vec<(&Vec<(u128, u128)>, &Verdict)> = elements.iter().zip(verdicts).collect();
        for same in each.chunk_by(|(_, one), (_, other)| one == other) {
            if rest.is_empty() {
                break;
            }
            if self.is_over() {
                return NOTHING;
            }
            let mut held = Vec::with_capacity(same.len());
            for (element, _) in same {
                held.push(self.element(fields, element));
            }
            let held = self.space.any(held);
            let inside = self.space.and(rest, held);
            rest = self.space.minus(rest, held);
            let inside = self.forget(inside, &drawn);
            let found = self.verdict(place, same[0].1, inside, next, ends);
            going_on = self.space.or(going_on, found);
        }
        let rest = self.forget(rest, &drawn);
        *next = self.space.or(*next, rest);
        going_on
    }
}
