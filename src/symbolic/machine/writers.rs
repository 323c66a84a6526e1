//! Mark writers: which rule wrote a packet's mark, followed once something is known to happen to packets with that
//! mark.

use super::{StepPlace, Walk};
use crate::facts::netfilter::{Field, MarkWrite};
use crate::symbolic::network::RuleAt;
use crate::symbolic::space::{BitVector, PacketSet};

/// Number of rules that are distinguished; the last one represents all others.
const MAX_WRITERS: usize = 255;

/// Rules that wrote certain bits of the packet's mark. Each packet has the number of the last one; 0: none.
#[derive(Debug)]
pub(crate) struct Writers {
    /// The mark bits.
    bits: u32,
    /// Variables of the rule's number.
    pub(super) block: BitVector,
    /// Rules, from number 1, with the description of the packets.
    found: Vec<(RuleAt, &'static str)>,
}

impl Walk<'_> {
    /// From now on packets record which rule wrote any of these mark bits.
    pub(crate) fn follow_mark_writers(&mut self, bits: u32) {
        let block = self.space.block(8);
        self.writers = Some(Writers { bits, block, found: Vec::new() });
    }

    /// Rules that wrote the marks of these packets, with the packets' descriptions.
    pub(crate) fn writers_of(&self, packets: PacketSet) -> Vec<(RuleAt, &'static str)> {
        let Some(writers) = &self.writers else { return Vec::new() };
        let one = |number: &usize| {
            let mine = self.space.matching(&writers.block, u8::MAX.into(), *number as u128 + 1);
            !self.space.and(packets, mine).is_empty()
        };
        (0..writers.found.len()).filter(one).map(|number| writers.found[number].clone()).collect()
    }

    /// The variables of the rule's number.
    pub(crate) fn writer_variables(&self) -> Vec<u32> {
        self.writers.iter().flat_map(|writers| writers.block.0.iter().copied()).collect()
    }

    /// The packets after a write, recording its rule.
    pub(super) fn written_by(
        &mut self,
        place: &StepPlace<'_>,
        packets: PacketSet,
        write: &MarkWrite,
        own: &Field,
    ) -> PacketSet {
        let Some(writers) = self.writers.as_mut().filter(|_| !self.outer && *own == Field::Mark) else {
            return packets;
        };
        let sets = match write {
            MarkWrite::Exact { take, xor, .. } => take | xor,
            MarkWrite::Mapped { .. } => 0, // recorded for each of the map's data
            MarkWrite::Number { .. } | MarkWrite::Unknown(_) => u32::MAX,
        };
        if sets & writers.bits == 0 || packets.is_empty() {
            return packets;
        }
        let rule = (place.at.clone(), self.traffic);
        let known = writers.found.iter().position(|found| *found == rule);
        let number = known.unwrap_or_else(|| {
            if writers.found.len() < MAX_WRITERS {
                writers.found.push(rule);
            }
            writers.found.len() - 1
        });
        let block = writers.block.clone();
        let any = self.space.exists(packets, &block.0.iter().copied().collect());
        self.space.and(any, self.space.matching(&block, u8::MAX.into(), number as u128 + 1))
    }
}
