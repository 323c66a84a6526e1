//! Sets of packets as reduced ordered binary decision diagrams: one node per variable and pair of branches, shared by
//! all sets of a space, so that equal sets have the same number.
//!
//! Not a library, because none fits a daemon: `oxidd` starts threads and reserves a stack of 1 GiB, and
//! `biodivine-lib-bdd` makes a separate diagram for each result. Few operations are needed. Nothing here panics, starts
//! a thread, or grows beyond `MAX_NODES`; a full table ends the work.

mod apply;
mod table;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};

use super::effort::Effort;
use super::values::Numbers;
use table::{DiagramNode, NodeTable, Operation};

/// A set of packets: assignments to the variables of its [`Space`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PacketSet(u32);

/// The empty set.
pub(crate) const NOTHING: PacketSet = PacketSet(0);
/// The set of all packets.
pub(crate) const EVERYTHING: PacketSet = PacketSet(1);

impl PacketSet {
    /// Whether it is empty.
    pub(crate) fn is_empty(self) -> bool {
        self == NOTHING
    }
}

/// A number in packets: its variables, most significant bit first, in diagram order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitVector(pub Vec<u32>);

impl BitVector {
    /// The variables of these bits, least significant first.
    pub(crate) fn bits(&self, mask: u128) -> impl Iterator<Item = u32> {
        let bits = self.0.iter().rev().enumerate().filter(move |(bit, _)| mask >> bit & 1 != 0);
        bits.map(|(_, variable)| *variable)
    }

    /// Largest value.
    pub(crate) fn largest(&self) -> u128 {
        u128::MAX.checked_shr(128 - self.0.len() as u32).unwrap_or(0)
    }
}

/// Values equal to `value` in the bits of `mask`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BitPattern {
    /// Bits that are fixed.
    pub mask: u128,
    /// Their values.
    pub value: u128,
}

/// A point in time, as the number of nodes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

impl Mark {
    /// Number of nodes.
    pub(crate) fn nodes(self) -> usize {
        self.0
    }
}

/// The diagrams of one walk.
#[derive(Debug)]
pub(crate) struct Space<'e> {
    table: RefCell<NodeTable>,
    effort: &'e Effort<'e>,
}

impl<'e> Space<'e> {
    /// Without variables.
    pub(crate) fn new(effort: &'e Effort<'e>) -> Self {
        Self { table: RefCell::default(), effort }
    }

    /// Allocates a number of this many bits, last in the order.
    pub(crate) fn block(&self, bits: u32) -> BitVector {
        let mut table = self.table.borrow_mut();
        let first = table.variables;
        table.variables += bits;
        BitVector((first..first + bits).collect())
    }

    /// Allocates numbers with interleaved bits, so that copying one to another gives small diagrams.
    pub(crate) fn interleaved<const N: usize>(&self, bits: u32) -> [BitVector; N] {
        let BitVector(all) = self.block(N as u32 * bits);
        std::array::from_fn(|first| BitVector(all.iter().skip(first).step_by(N).copied().collect()))
    }

    /// Whether results are invalid, because work has ended or the table is full.
    pub(crate) fn is_over(&self) -> bool {
        self.table.borrow().is_full || self.effort.ended().is_some()
    }

    /// The present point in time.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.table.borrow().len())
    }

    /// Number of nodes made since.
    pub(crate) fn made_since(&self, mark: Mark) -> usize {
        self.table.borrow().len() - mark.0
    }

    /// Frees all nodes made since except those of `sets`, which get new numbers. Any other set made since becomes
    /// invalid.
    pub(crate) fn forget_others(&self, mark: Mark, sets: Vec<&mut PacketSet>) {
        let mut table = self.table.borrow_mut();
        if table.is_full {
            return;
        }
        // Every node is moved.
        self.effort.spend(table.len());
        let old = table.cut(mark.0);
        let mut known = HashMap::new();
        for set in sets {
            set.0 = table.again(set.0, mark.0, &old, &mut known);
        }
    }

    /// Intersection.
    pub(crate) fn and(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::And, one.0, other.0))
    }

    /// Union.
    pub(crate) fn or(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::Or, one.0, other.0))
    }

    /// Difference.
    pub(crate) fn minus(&self, one: PacketSet, other: PacketSet) -> PacketSet {
        PacketSet(self.apply(&mut self.table.borrow_mut(), Operation::Minus, one.0, other.0))
    }

    /// Whether one set is a subset of the other, checked up to the first counterexample. `false` if work has ended.
    pub(crate) fn is_within(&self, one: PacketSet, other: PacketSet) -> bool {
        self.contains(&mut self.table.borrow_mut(), other.0, one.0)
    }

    /// Union of any number of sets.
    pub(crate) fn any(&self, sets: impl IntoIterator<Item = PacketSet>) -> PacketSet {
        let mut sets: Vec<PacketSet> = sets.into_iter().collect();
        while sets.len() > 1 {
            // Pairwise, so that each node is visited at most once per level.
            sets = sets.chunks(2).map(|pair| pair.iter().fold(NOTHING, |all, set| self.or(all, *set))).collect();
        }
        sets.pop().unwrap_or(NOTHING)
    }

    /// Existential quantification: packets with any values of these variables.
    pub(crate) fn exists(&self, set: PacketSet, variables: &BTreeSet<u32>) -> PacketSet {
        let table = &mut self.table.borrow_mut();
        let cube = table.cube(variables);
        PacketSet(self.quantify(table, Operation::Exists, set.0, cube))
    }

    /// Universal quantification: packets in the set for all values of these variables.
    pub(crate) fn for_all(&self, set: PacketSet, variables: &BTreeSet<u32>) -> PacketSet {
        let table = &mut self.table.borrow_mut();
        let cube = table.cube(variables);
        PacketSet(self.quantify(table, Operation::ForAll, set.0, cube))
    }

    /// The packets with this variable inverted.
    pub(crate) fn flip(&self, set: PacketSet, variable: u32) -> PacketSet {
        PacketSet(self.flip_in(&mut self.table.borrow_mut(), set.0, variable))
    }

    /// Packets with this variable 1.
    pub(crate) fn is_set(&self, variable: u32) -> PacketSet {
        PacketSet(self.table.borrow_mut().node(variable, [0, 1]))
    }

    /// Packets whose number matches a pattern; none if `value` has bits outside `mask`.
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

    /// Packets whose number is in one of these ranges, both ends included, in any order.
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

    /// The packets with variables renamed.
    pub(crate) fn renamed(&self, set: PacketSet, from: &[u32], to: &[u32]) -> PacketSet {
        let names: HashMap<u32, u32> = from.iter().copied().zip(to.iter().copied()).collect();
        let mut known = HashMap::new();
        PacketSet(self.rename(&mut self.table.borrow_mut(), set.0, &names, &mut known))
    }

    /// Variables that a set depends on.
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

    /// The patterns of a number, if there are at most `at_most`.
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

    /// The value of a number, if it is the same in all packets.
    pub(crate) fn number(&self, set: PacketSet, block: &BitVector) -> Option<u128> {
        match self.patterns(set, block, 1)?.as_slice() {
            [BitPattern { mask, value }] if *mask == block.largest() => Some(*value),
            _ => None,
        }
    }

    /// A satisfying assignment of minimal cost. `None`: the set is empty.
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
