//! Writes to marks, bit by bit.
//!
//! Addresses and ports may also be written outside nat chains (`udp sport set`), by a step of its own or by anything
//! unsupported. For packets without a checksum, nf_tables then writes a wrong one, on every kernel, unless the inner
//! checksum is left to a device.

use std::collections::BTreeSet;

use super::{StepPlace, Walk};
use crate::facts::netfilter::{Field, MarkWrite, Rule, Step};
use crate::symbolic::assumptions::About;
use crate::symbolic::space::{BitVector, EVERYTHING, PacketSet};

impl Walk<'_> {
    /// Packets with any values in these bits of a mark, independent of the rest of the packet.
    pub(crate) fn with_any_mark(&mut self, packets: PacketSet, field: &Field, bits: u32) -> PacketSet {
        let bits = bits & self.followed(field);
        let own = self.block(field);
        let any = self.space.exists(packets, &own.bits(bits.into()).collect());
        let (key, layout) = (format!("{} any {field:?}", self.stage), &mut self.layout);
        match self.assumptions.ask_number(key, About::SomePacket, || layout.word(), String::new) {
            Some(word) => self.equal_bits(any, &own, &word, bits),
            None => any,
        }
    }

    /// Packets after a mark write: `own` is the mark written, `other` the packet's or connection's other mark.
    pub(super) fn write(
        &mut self,
        place: &StepPlace<'_>,
        packets: PacketSet,
        write: &MarkWrite,
        own: &Field,
        other: &Field,
    ) -> PacketSet {
        let packets = self.new_mark(place, packets, write, own, other);
        self.written_by(place, packets, write, own)
    }

    fn new_mark(
        &mut self,
        place: &StepPlace<'_>,
        packets: PacketSet,
        write: &MarkWrite,
        own: &Field,
        other: &Field,
    ) -> PacketSet {
        match self.relevant(write, own) {
            None => packets,
            Some(MarkWrite::Exact { keep, take, xor }) => self.written(packets, own, other, [keep, take, xor]),
            Some(MarkWrite::Mapped { lookup, mapped, keep, take, xor }) => {
                self.write_mapped(place, packets, (&lookup, mapped), [keep, take, xor], [own, other])
            }
            Some(MarkWrite::Number { first, last, hashed }) => {
                let (network, at) = (self.network, place.at);
                let why = || network.question(at, format!("{} writes a hash into a mark", network.describe(at)));
                let about = if hashed { About::EachPacket } else { About::SomePacket };
                let own = self.block(own);
                let packets = self.space.exists(packets, &own.0.iter().copied().collect());
                let (key, layout) = (format!("{} {:?} {} mark", self.stage, place.at, place.number), &mut self.layout);
                let Some(word) = self.assumptions.ask_number(key.clone(), about, || layout.word(), why) else {
                    let value = self.space.ranges(&own, &[(first.into(), last.into())]);
                    let assumed = self.answer(format!("{key} at all"), About::All, 2, 1, why);
                    return self.space.and(packets, self.space.and(value, assumed));
                };
                if !hashed {
                    self.drawn.extend(&word.0);
                }
                // The number is always in the range: variables outside it mean the first number.
                let within = self.space.ranges(&word, &[(first.into(), last.into())]);
                let others = self.space.minus(packets, within);
                let number = self.space.matching(&own, u32::MAX.into(), first.into());
                let others = self.space.and(others, number);
                let chosen = self.equal_bits(self.space.and(packets, within), &own, &word, u32::MAX);
                self.space.or(chosen, others)
            }
            Some(MarkWrite::Unknown(what)) => {
                let (network, at) = (self.network, place.at);
                let why = || {
                    network.question(at, format!("{} writes a mark that cannot be told: {what}", network.describe(at)))
                };
                let key = format!("{} {:?} {} mark", self.stage, place.at, place.number);
                let own = self.block(own);
                let packets = self.space.exists(packets, &own.0.iter().copied().collect());
                let (layout, about) = (&mut self.layout, About::EachPacket);
                if let Some(word) = self.assumptions.ask_number(key.clone(), about, || layout.word(), why) {
                    return self.equal_bits(packets, &own, &word, u32::MAX);
                }
                // It may be the same for all packets, so a test for a set or clear bit may hold for none.
                let ones = u128::from(u32::MAX);
                let values = [self.space.matching(&own, ones, 0), self.space.matching(&own, ones, ones), EVERYTHING];
                let each = values.into_iter().enumerate().map(|(answer, value)| {
                    let mine = self.answer(format!("{key} of three"), About::All, 3, answer, why);
                    self.space.and(mine, value)
                });
                let value = each.collect::<Vec<PacketSet>>();
                self.space.and(packets, self.space.any(value))
            }
        }
    }

    /// Whether a rule only writes bits that all of these packets have already, so that its matches do not matter.
    pub(super) fn has_been_written(&mut self, rule: &Rule, packets: PacketSet) -> bool {
        let mut acting = rule.steps.iter().filter(|step| self.acts(step));
        let (only, None) = (acting.next(), acting.next()) else { return false };
        let (write, own) = match only {
            Some(Step::SetMark(write)) => (write, Field::Mark),
            Some(Step::SetConnectionMark(write)) => (write, Field::ConnectionMark),
            _ => return false,
        };
        let written = self.relevant(write, &own).filter(|_| self.writers.is_none());
        let Some(MarkWrite::Exact { keep, take: 0, xor }) = written else { return false };
        let own = self.block(&own);
        let there = self.space.matching(&own, (!keep).into(), xor.into());
        keep & xor == 0 && self.space.is_within(packets, there)
    }

    /// The part of a write that affects followed bits. `None`: there is none.
    pub(super) fn relevant(&self, write: &MarkWrite, own: &Field) -> Option<MarkWrite> {
        let followed = self.followed(own);
        let matters = |keep: u32, take: u32, xor: u32| (keep | !followed, take & followed, xor & followed);
        (write.can_change() & followed != 0).then(|| match write {
            MarkWrite::Exact { keep, take, xor } => {
                let (keep, take, xor) = matters(*keep, *take, *xor);
                MarkWrite::Exact { keep, take, xor }
            }
            MarkWrite::Mapped { lookup, mapped, keep, take, xor } => {
                let (keep, take, xor) = matters(*keep, *take, *xor);
                MarkWrite::Mapped { lookup: lookup.clone(), mapped: mapped & followed, keep, take, xor }
            }
            MarkWrite::Number { .. } | MarkWrite::Unknown(_) => write.clone(),
        })
    }

    /// `new = (old & keep) ^ (other & take) ^ xor`
    fn written(&mut self, packets: PacketSet, own: &Field, other: &Field, [keep, take, xor]: [u32; 3]) -> PacketSet {
        let (own, other) = (self.block(own), self.block(other));
        let bits =
            || own.0.iter().zip(&other.0).rev().enumerate().map(|(bit, (own, other))| (1u32 << bit, *own, *other));
        let overwritten: BTreeSet<u32> = bits().filter(|(bit, ..)| keep & bit == 0).map(|(_, own, _)| own).collect();
        // A mark follows from the rest of the packet, so forgetting the old one loses nothing.
        let mut packets = self.space.exists(packets, &overwritten);
        for (bit, own, other) in bits() {
            let (keeps, takes, turns) = (keep & bit != 0, take & bit != 0, xor & bit != 0);
            packets = match (keeps, takes) {
                (true, false) if turns => self.space.flip(packets, own),
                (true, false) => packets,
                (false, false) => {
                    let is_set = self.space.is_set(own);
                    if turns { self.space.and(packets, is_set) } else { self.space.minus(packets, is_set) }
                }
                (false, true) => {
                    let is_set = self.space.is_set(other);
                    let value = if turns { self.space.minus(EVERYTHING, is_set) } else { is_set };
                    let same = self.equal(own, value);
                    self.space.and(packets, same)
                }
                (true, true) => {
                    let is_set = self.space.is_set(other);
                    let turned = if turns { self.space.minus(EVERYTHING, is_set) } else { is_set };
                    let (flipped, same) = (self.space.and(packets, turned), self.space.minus(packets, turned));
                    self.space.or(self.space.flip(flipped, own), same)
                }
            };
        }
        packets
    }

    /// Of these packets, those with equal values in these bits of two numbers.
    pub(in crate::symbolic) fn equal_bits(
        &self,
        packets: PacketSet,
        one: &BitVector,
        other: &BitVector,
        bits: u32,
    ) -> PacketSet {
        one.bits(bits.into())
            .zip(other.bits(bits.into()))
            .fold(packets, |packets, (one, other)| self.space.and(packets, self.equal(one, self.space.is_set(other))))
    }

    /// Packets for which a variable is 1 exactly if they are in the set.
    fn equal(&self, variable: u32, set: PacketSet) -> PacketSet {
        let is_set = self.space.is_set(variable);
        let neither = self.space.minus(self.space.minus(EVERYTHING, set), is_set);
        self.space.or(self.space.and(is_set, set), neither)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use crate::facts::netfilter::Field;
    use crate::symbolic::effort::Effort;
    use crate::symbolic::machine::Walk;
    use crate::symbolic::tests::language::rules;

    #[test]
    fn a_write_is_what_the_kernel_computes() {
        proptest::proptest!(|(own: u32, other: u32, keep: u32, take: u32, xor: u32, known: u32)| {
            let written = rules("");
            let (network, stop) = (written.network(), AtomicBool::new(false));
            let effort = Effort::new(&stop);
            let mut walk = Walk::new(&network, &[], 0, &effort);
            let [mark, connection] = [Field::Mark, Field::ConnectionMark].map(|field| walk.block(&field));
            let ones = u128::from(u32::MAX);
            let of_connection = walk.space.matching(&connection, ones, other.into());
            let mut after = |bits: u32| {
                let before = walk.space.matching(&mark, bits.into(), (own & bits).into());
                let before = walk.space.and(before, of_connection);
                walk.written(before, &Field::Mark, &Field::ConnectionMark, [keep, take, xor])
            };
            let (exact, vague) = (after(u32::MAX), after(known));
            let new = (own & keep) ^ (other & take) ^ xor;
            proptest::prop_assert_eq!(walk.space.number(exact, &mark), Some(new.into()));
            proptest::prop_assert_eq!(walk.space.and(vague, exact), exact);
        });
    }
}
