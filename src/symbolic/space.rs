//! Sets of packets as reduced, ordered binary decision diagrams: one node per variable and pair of branches, shared by all
//! sets of a space, so that equal sets are the same number.
//!
//! Written here because libraries do not fit a daemon: `oxidd` starts threads and reserves a stack of 1 GiB, and
//! `biodivine-lib-bdd` makes a diagram of its own for each result. The operations that packets need are few.
//! Nothing here panics, starts a thread, or grows past `MAX_NODES`: a table that is full is work that has ended.

mod apply;
mod table;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use super::effort::Effort;
use super::values::Numbers;
use table::{DiagramNode, NodeTable, Operation};

/// A set of packets: of assignments to the variables of its [`Space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PacketSet(u32);

/// No packet.
pub(crate) const NOTHING: PacketSet = PacketSet(0);
/// Every packet.
pub(crate) const EVERYTHING: PacketSet = PacketSet(1);

impl PacketSet {
    /// Whether no packet is in it.
    pub(crate) fn is_empty(self) -> bool {
        self == NOTHING
    }
}

/// A number that packets have: its variables, the most significant bit first, in the order of the diagram.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitVector(pub Vec<u32>);

impl BitVector {
    /// The variables of these bits, the least significant first.
    pub(crate) fn bits(&self, mask: u128) -> impl Iterator<Item = u32> {
        let bits = self.0.iter().rev().enumerate().filter(move |(bit, _)| mask >> bit & 1 != 0);
        bits.map(|(_, variable)| *variable)
    }

    /// Its largest number.
    pub(crate) fn largest(&self) -> u128 {
        u128::MAX.checked_shr(128 - self.0.len() as u32).unwrap_or(0)
    }
}

/// Numbers that agree with `value` in the bits of `mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitPattern {
    /// Bits that are known.
    pub mask: u128,
    /// What they are.
    pub value: u128,
}

/// The sets of a space at one time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Mark {
    /// How many there were.
    pub(crate) fn nodes(self) -> usize {
        self.0
    }
}

/// The sets of one walk.
#[derive(Debug)]
pub(crate) struct Space<'e> {
    table: RefCell<NodeTable>,
    effort: &'e Effort<'e>,
}

impl<'e> Space<'e> {
    /// A space without variables.
    pub(crate) fn new(effort: &'e Effort<'e>) -> Self {
        Self { table: RefCell::default(), effort }
    }

    /// A number of so many bits, behind all others in the order.
    pub(crate) fn block(&self, bits: u32) -> BitVector {
        let mut table = self.table.borrow_mut();
        let first = table.variables;
        table.variables += bits;
        BitVector((first..first + bits).collect())
    }

    /// Numbers of so many bits, bit beside bit: what is copied from one to another stays small.
    pub(crate) fn interleaved<const N: usize>(&self, bits: u32) -> [BitVector; N] {
        let BitVector(all) = self.block(N as u32 * bits);
        std::array::from_fn(|first| BitVector(all.iter().skip(first).step_by(N).copied().collect()))
    }

    /// Whether results are no longer to be relied on: work has ended, or the table is full.
    pub(crate) fn is_over(&self) -> bool {
        self.table.borrow().is_full || self.effort.ended().is_some()
    }

    /// The sets so far.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.table.borrow().len())
    }

    /// How many nodes were made since.
    pub(crate) fn made_since(&self, mark: Mark) -> usize {
        self.table.borrow().len() - mark.0
    }

    /// Gives back all nodes that were made since but those of these sets, which get other numbers: sets that were made since
    /// and are not among these mean nothing any more.
    pub(crate) fn forget_others(&self, mark: Mark, sets: Vec<&mut PacketSet>) {
        let mut table = self.table.borrow_mut();
        if table.is_full {
            return;
        }
        // Each node is moved.
        self.effort.spend(table.len());
        let old = table.cut(mark.0);
        let mut known = HashMap::new();
        for set in sets {
            set.0 = table.again(set.0, mark.0, &old, &mut known);
        }
    }

    /// Packets in both.
    pub(crate) fn and(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::And, one.0, other.0))
    }

    /// Packets in one or the other.
    pub(crate) fn or(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::Or, one.0, other.0))
    }

    /// Packets in one and not in the other.
    pub(crate) fn minus(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::Minus, one.0, other.0))
    }

    /// Whether all packets of the one are in the other: as far as the first that is not. Where work has ended: no.
    pub(crate) fn is_within(&self, one: PacketSet, other: PacketSet) -> bool {
        self.contains(&mut self.table.borrow_mut(), other.0, one.0)
    }

    /// Packets in any of these.
    pub(crate) fn any(&self, sets: impl IntoIterator<Item = PacketSet>) -> PacketSet {
        let mut sets: Vec<PacketSet> = sets.into_iter().collect();
        while sets.len() > 1 {
            // Pair by pair, so that no node is visited more often than there are levels.
            sets = sets.chunks(2).map(|pair| pair.iter().fold(NOTHING, |all, set| self.or(all, *set))).collect();
        }
        sets.pop().unwrap_or(NOTHING)
    }

    /// The same packets with any values of these variables.
    pub(crate) fn exists(&self, set: PacketSet, variables: &BTreeSet<u32>) -> PacketSet {
        let table = &mut self.table.borrow_mut();
        let cube = table.cube(variables);
        PacketSet(self.quantify(table, Operation::Exists, set.0, cube))
    }

    /// Packets that are in it whatever these variables are.
    pub(crate) fn for_all(&self, set: PacketSet, variables: &BTreeSet<u32>) -> PacketSet {
        let table = &mut self.table.borrow_mut();
        let cube = table.cube(variables);
        PacketSet(self.quantify(table, Operation::ForAll, set.0, cube))
    }

    /// The packets with this variable inverted.
    pub(crate) fn flip(&self, set: PacketSet, variable: u32) -> PacketSet {
        PacketSet(self.flip_in(&mut self.table.borrow_mut(), set.0, variable))
    }

    /// Packets of which this variable is 1.
    pub(crate) fn is_set(&self, variable: u32) -> PacketSet {
        PacketSet(self.table.borrow_mut().node(variable, [0, 1]))
    }

    /// Packets of which a number agrees with a pattern. Bits of the value outside of the mask: none.
    pub(crate) fn matching(&self, block: &BitVector, mask: u128, value: u128) -> PacketSet {
        if value & !mask != 0 {
            return NOTHING;
        }
        let mut table = self.table.borrow_mut();
        let bits = block.0.iter().rev().enumerate().filter(|(bit, _)| mask >> bit & 1 != 0);
        PacketSet(bits.fold(1, |rest, (bit, variable)| {
            table.node(*variable, if value >> bit & 1 != 0 { [0, rest] } else { [rest, 0] })
        }))
    }

    /// Packets of which a number is in one of these ranges, both ends included, in any order.
    pub(crate) fn ranges(&self, block: &BitVector, ranges: &[(u128, u128)]) -> PacketSet {
        let largest = block.largest();
        let fitting = ranges.iter().filter(|(first, _)| *first <= largest);
        let apart = Numbers::ranges(fitting.map(|(first, last)| (*first, *last.min(&largest))).collect());
        PacketSet(self.within(&mut self.table.borrow_mut(), &block.0, 0, largest, apart.as_ranges()))
    }

    /// The part of [`Space::ranges`] from `base` on; `low`: the bits of these variables.
    fn within(&self, table: &mut NodeTable, variables: &[u32], base: u128, low: u128, ranges: &[(u128, u128)]) -> u32 {
        let from = ranges.partition_point(|(_, last)| *last < base);
        let to = ranges.partition_point(|(first, _)| *first <= base | low);
        let ranges = ranges.get(from..to).unwrap_or_default();
        match (ranges, variables) {
            ([], _) => 0,
            ([(first, last)], _) if *first <= base && *last >= base | low => 1,
            (_, []) => 1,
            (_, [variable, rest @ ..]) => {
                if !self.spend(table) {
                    return 0;
                }
                let (half, middle) = (low >> 1, base | low ^ low >> 1);
                let zero = self.within(table, rest, base, half, ranges);
                let one = self.within(table, rest, middle, half, ranges);
                table.node(*variable, [zero, one])
            }
        }
    }

    /// The same packets; what the one block held, the other does.
    pub(crate) fn renamed(&self, set: PacketSet, from: &[u32], to: &[u32]) -> PacketSet {
        let names: HashMap<u32, u32> = from.iter().copied().zip(to.iter().copied()).collect();
        let mut known = HashMap::new();
        PacketSet(self.rename(&mut self.table.borrow_mut(), set.0, &names, &mut known))
    }

    /// Variables that it depends on.
    pub(crate) fn support(&self, set: PacketSet) -> BTreeSet<u32> {
        let table = self.table.borrow();
        let (mut seen, mut open, mut found) = (BTreeSet::new(), vec![set.0], BTreeSet::new());
        while let Some(at) = open.pop().filter(|_| self.effort.spend(1)) {
            let DiagramNode { variable, branches } = table.at(at);
            if at > 1 && seen.insert(at) {
                found.insert(variable);
                open.extend(branches);
            }
        }
        found
    }

    /// The patterns that a number has, if they are at most so many.
    pub(crate) fn patterns(&self, set: PacketSet, block: &BitVector, at_most: usize) -> Option<Vec<BitPattern>> {
        let others: BTreeSet<u32> = self.support(set).into_iter().filter(|of| !block.0.contains(of)).collect();
        let only = self.exists(set, &others);
        let table = self.table.borrow();
        let mut open = vec![(only.0, BitPattern { mask: 0, value: 0 })];
        let mut found = Vec::new();
        while let Some((at, pattern)) = open.pop() {
            match at {
                0 => {}
                1 if found.len() == at_most => return None,
                1 => found.push(pattern),
                _ => {
                    let DiagramNode { variable, branches } = table.at(at);
                    let place = block.0.iter().rev().position(|own| *own == variable)?;
                    let bit = 1u128 << place;
                    open.push((branches[1], BitPattern { mask: pattern.mask | bit, value: pattern.value | bit }));
                    open.push((branches[0], BitPattern { mask: pattern.mask | bit, ..pattern }));
                }
            }
        }
        Some(found)
    }

    /// The one number that all its packets have there, if it is one.
    pub(crate) fn number(&self, set: PacketSet, block: &BitVector) -> Option<u128> {
        match self.patterns(set, block, 1)?.as_slice() {
            [BitPattern { mask, value }] if *mask == block.largest() => Some(*value),
            _ => None,
        }
    }

    /// Variables with values that put a packet into it, as few of them as `cost` allows. `None`: it is empty.
    pub(crate) fn cheapest(&self, set: PacketSet, cost: &dyn Fn(u32) -> usize) -> Option<Vec<(u32, bool)>> {
        let table = self.table.borrow();
        let mut known: HashMap<u32, usize> = HashMap::from([(0, usize::MAX), (1, 0)]);
        let mut open = vec![set.0];
        while let Some(at) = open.last().copied() {
            if known.contains_key(&at) {
                open.pop();
                continue;
            }
            let DiagramNode { variable, branches } = table.at(at);
            let missing: Vec<u32> = branches.into_iter().filter(|branch| !known.contains_key(branch)).collect();
            if missing.is_empty() {
                let least = branches.map(|branch| known[&branch]).into_iter().min().unwrap_or(usize::MAX);
                known.insert(at, least.saturating_add(cost(variable)));
                open.pop();
            } else {
                open.extend(missing);
            }
        }
        let (mut at, mut path) = (set.0, Vec::new());
        while at > 1 {
            let DiagramNode { variable, branches } = table.at(at);
            let one = known[&branches[1]] < known[&branches[0]];
            path.push((variable, one));
            at = branches[usize::from(one)];
        }
        (at == 1).then_some(path)
    }
}

#[cfg(test)]
mod tests;
