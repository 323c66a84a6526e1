//! The nodes of a space, each once, and the results that are remembered.

use std::collections::{BTreeSet, HashMap};

/// Nodes of a space; with the table that finds them again some 60 MiB.
const MAX_NODES: usize = 3 << 20;
/// Results that are remembered at most; each has 16 bytes, and more of them are not found faster than made again.
const MAX_CACHED: usize = 1 << 15;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DiagramNode {
    pub(super) variable: u32,
    /// Where the variable is 0, and where it is 1.
    pub(super) branches: [u32; 2],
}

/// What is remembered of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Entry {
    operation: u32,
    operands: [u32; 2],
    result: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Operation {
    And = 1,
    Or,
    Minus,
    /// The second operand is the conjunction of the variables.
    Exists,
    ForAll,
    /// The second operand is a variable.
    Flip,
    /// Only remembered where it is so.
    Within,
}

#[derive(Debug)]
pub(super) struct NodeTable {
    nodes: Vec<DiagramNode>,
    /// Numbers of nodes by their hash, 0 where none is; a power of two.
    places: Vec<u32>,
    cache: Vec<Entry>,
    pub(super) variables: u32,
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
    /// A node by its number.
    pub(super) fn at(&self, node: u32) -> DiagramNode {
        self.nodes[node as usize]
    }

    /// The node of a variable; the one that there is, if there is one.
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

    /// Nodes in the table.
    pub(super) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Takes out all nodes from this one on, and all that is remembered.
    pub(super) fn cut(&mut self, from: usize) -> Vec<DiagramNode> {
        let cut = self.nodes.split_off(from);
        self.places.fill(0);
        self.cache.fill(Entry::default());
        (2..from as u32).for_each(|number| self.place(number));
        cut
    }

    /// Makes a node again that was cut out, and those that it leads to.
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

    /// Where a node is found again.
    fn place(&mut self, number: u32) {
        let DiagramNode { variable, branches } = self.at(number);
        let mut place = hash([variable, branches[0], branches[1]]) & (self.places.len() - 1);
        while self.places[place] != 0 {
            place = (place + 1) & (self.places.len() - 1);
        }
        self.places[place] = number;
    }

    /// The conjunction of variables.
    pub(super) fn cube(&mut self, variables: &BTreeSet<u32>) -> u32 {
        variables.iter().rev().fold(1, |rest, variable| self.node(*variable, [0, rest]))
    }

    /// The result of an operation, if the cache still has it.
    pub(super) fn remembered(&self, operation: Operation, one: u32, other: u32) -> Option<u32> {
        let entry = &self.cache[hash([operation as u32, one, other]) & (self.cache.len() - 1)];
        (entry.operation == operation as u32 && entry.operands == [one, other]).then_some(entry.result)
    }

    /// Keeps a result in the cache, in place of an older one.
    pub(super) fn remember(&mut self, operation: Operation, one: u32, other: u32, result: u32) {
        let place = hash([operation as u32, one, other]) & (self.cache.len() - 1);
        self.cache[place] = Entry { operation: operation as u32, operands: [one, other], result };
    }
}

/// Multiplication by odd constants, whose upper bits depend on all of the input.
fn hash([a, b, c]: [u32; 3]) -> usize {
    let both = (u64::from(b) << 32 | u64::from(c)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let all =
        (both ^ both >> 29 ^ u64::from(a).wrapping_mul(0xbf58_476d_1ce4_e5b9)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (all >> 32) as usize
}
