//! The nodes of a space, each unique, and a cache of results.

use std::collections::{BTreeSet, HashMap};

/// Number of nodes; with their hash table some 60 MiB.
const MAX_NODES: usize = 3 << 20;
/// Number of cached results, 16 bytes each; a larger cache is no faster than recomputing.
const MAX_CACHED: usize = 1 << 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
/// A node of a diagram.
pub(super) struct DiagramNode {
    /// Variable that it tests.
    pub(super) variable: u32,
    /// Nodes for the values 0 and 1.
    pub(super) branches: [u32; 2],
}

/// A cached result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    operation: u32,
    operands: [u32; 2],
    result: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
/// Cached operations.
pub(super) enum Operation {
    And = 1,
    Or,
    Minus,
    /// The second operand is the cube of the variables.
    Exists,
    ForAll,
    /// The second operand is a variable.
    Flip,
    /// Subset test; only positive results are cached.
    Within,
}

#[derive(Debug)]
/// All nodes of a space.
pub(super) struct NodeTable {
    nodes: Vec<DiagramNode>,
    /// Hash table of node numbers, 0 for an empty slot; the size is a power of two.
    places: Vec<u32>,
    cache: Vec<Entry>,
    /// Number of variables.
    pub(super) variables: u32,
    /// Whether `MAX_NODES` was reached.
    pub(super) is_full: bool,
}

impl Default for NodeTable {
    fn default() -> Self {
        let end = |result| DiagramNode { variable: u32::MAX, branches: [result, result] };
        Self {
            nodes: vec![end(0), end(1)],
            places: vec![0; 1 << 10],
            cache: vec![Entry::default(); 1 << 8],
            variables: 0,
            is_full: false,
        }
    }
}

impl NodeTable {
    /// A node by number.
    pub(super) fn at(&self, node: u32) -> DiagramNode {
        self.nodes[node as usize]
    }

    /// The node with this variable and branches, created if missing.
    pub(super) fn node(&mut self, variable: u32, branches: [u32; 2]) -> u32 {
        if branches[0] == branches[1] {
            return branches[0];
        }
        let wanted = DiagramNode { variable, branches };
        let mut place = hash([variable, branches[0], branches[1]]) & (self.places.len() - 1);
        while self.places[place] != 0 {
            if self.at(self.places[place]) == wanted {
                return self.places[place];
            }
            place = (place + 1) & (self.places.len() - 1);
        }
        if self.nodes.len() >= MAX_NODES {
            self.is_full = true;
            return 0;
        }
        let number = self.nodes.len() as u32;
        self.nodes.push(wanted);
        self.places[place] = number;
        if 2 * self.nodes.len() > self.places.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        self.places = vec![0; 2 * self.places.len()];
        (2..self.nodes.len() as u32).for_each(|number| self.place(number));
        let cached = (self.places.len() / 4).min(MAX_CACHED);
        if self.cache.len() < cached {
            self.cache = vec![Entry::default(); cached];
        }
    }

    /// Number of nodes.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Removes all nodes from this number on, and the cache.
    pub(super) fn cut(&mut self, from: usize) -> Vec<DiagramNode> {
        let cut = self.nodes.split_off(from);
        self.places.fill(0);
        self.cache.fill(Entry::default());
        (2..from as u32).for_each(|number| self.place(number));
        cut
    }

    /// Recreates a removed node and those below it; `known` caches results.
    pub(super) fn again(&mut self, of: u32, from: usize, cut: &[DiagramNode], known: &mut HashMap<u32, u32>) -> u32 {
        let Some(at) = (of as usize).checked_sub(from) else { return of };
        if let Some(known) = known.get(&of) {
            return *known;
        }
        let DiagramNode { variable, branches } = cut[at];
        let branches = branches.map(|branch| self.again(branch, from, cut, known));
        let new = self.node(variable, branches);
        known.insert(of, new);
        new
    }

    /// Enters a node into the hash table.
    fn place(&mut self, number: u32) {
        let DiagramNode { variable, branches } = self.at(number);
        let mut place = hash([variable, branches[0], branches[1]]) & (self.places.len() - 1);
        while self.places[place] != 0 {
            place = (place + 1) & (self.places.len() - 1);
        }
        self.places[place] = number;
    }

    /// The cube (conjunction) of variables.
    pub(super) fn cube(&mut self, variables: &BTreeSet<u32>) -> u32 {
        variables.iter().rev().fold(1, |rest, variable| self.node(*variable, [0, rest]))
    }

    /// The cached result of an operation; `None`: not cached.
    pub(super) fn remembered(&self, operation: Operation, one: u32, other: u32) -> Option<u32> {
        let entry = &self.cache[hash([operation as u32, one, other]) & (self.cache.len() - 1)];
        (entry.operation == operation as u32 && entry.operands == [one, other]).then_some(entry.result)
    }

    /// Caches a result, replacing another one.
    pub(super) fn remember(&mut self, operation: Operation, one: u32, other: u32, result: u32) {
        let place = hash([operation as u32, one, other]) & (self.cache.len() - 1);
        self.cache[place] = Entry { operation: operation as u32, operands: [one, other], result };
    }
}

/// Multiplication by odd constants; the upper bits depend on all of the input.
fn hash([a, b, c]: [u32; 3]) -> usize {
    let both = (u64::from(b) << 32 | u64::from(c)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let all =
        (both ^ both >> 29 ^ u64::from(a).wrapping_mul(0xbf58_476d_1ce4_e5b9)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (all >> 32) as usize
}
