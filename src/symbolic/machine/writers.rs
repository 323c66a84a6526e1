//! Which rule wrote a mark: asked once something is known to happen to packets that have it.

use super::{StepPlace, Walk};
use crate::facts::netfilter::{Field, MarkWrite};
use crate::symbolic::network::RuleAt;
use crate::symbolic::space::{BitVector, PacketSet};

/// Rules that are told apart; the last one stands for all others too.
const MAX_WRITERS: usize = 255;

/// The rules that wrote bits of the packet's mark, each by a number that packets carry; 0: none.
#[derive(Debug)]
pub(crate) struct Writers {
    /// Bits that are asked about.
    bits: u32,
    /// The number of the rule that wrote last.
    pub(super) block: BitVector,
    /// The rules, from number 1 on, and whose packets these were.
    found: Vec<(RuleAt, &'static str)>,
}

impl Walk<'_> {
    /// From now on packets carry which rule wrote any of these bits of their mark.
    pub(crate) fn follow_writers(&mut self, bits: u32) {
        let block = self.space.block(8);
        self.writers = Some(Writers { bits, block, found: Vec::new() });
    }

    /// The rules that wrote the marks of these packets, and whose packets these were.
    pub(crate) fn writers_of(&self, packets: PacketSet) -> Vec<(RuleAt, &'static str)> {
        let Some(writers) = &self.writers else { return Vec::new() };
        let one = |number: &usize| {
            let mine = self.space.matching(&writers.block, u8::MAX.into(), *number as u128 + 1);
            !self.space.and(packets, mine).is_empty()
        };
        (0..writers.found.len()).filter(one).map(|number| writers.found[number].clone()).collect()
    }

    /// The variables that tell which rule it was.
    pub(crate) fn writer_variables(&self) -> Vec<u32> {
        self.writers.iter().flat_map(|writers| writers.block.0.iter().copied()).collect()
    }

    /// The same packets after a write, with its rule.
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
            MarkWrite::Mapped { .. } => 0, // each of what it may be wrote for itself
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
