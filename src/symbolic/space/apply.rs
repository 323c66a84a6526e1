//! Operations on diagrams, node by node (Bryant's `apply`), with cached results.

use std::collections::HashMap;

use super::Space;
use super::table::{DiagramNode, NodeTable, Operation};

impl Space<'_> {
    /// Uses up a unit of work; `false`: work has ended, and results are invalid.
    pub(super) fn spend(&self, table: &NodeTable) -> bool {
        !table.is_full && self.effort.spend(1)
    }

    /// A binary operation on two nodes.
    pub(super) fn apply(&self, table: &mut NodeTable, operation: Operation, one: u32, other: u32) -> u32 {
        use Operation::{And, Minus, Or};
        match (operation, one, other) {
            (And | Minus, 0, _) | (And, _, 0) | (Minus, _, 1) => return 0,
            (Or, 1, _) | (Or, _, 1) => return 1,
            (And, 1, same) | (And, same, 1) | (Or, 0, same) | (Or | Minus, same, 0) => return same,
            (And | Or, ..) if one == other => return one,
            (Minus, ..) if one == other => return 0,
            _ => {}
        }
        let (one, other) = if operation != Minus && one > other { (other, one) } else { (one, other) };
        if let Some(known) = table.remembered(operation, one, other) {
            return known;
        }
        if !self.spend(table) {
            return 0;
        }
        let (left, right) = (table.at(one), table.at(other));
        let variable = left.variable.min(right.variable);
        let branch =
            |node: &DiagramNode, of: u32, at: usize| if node.variable == variable { node.branches[at] } else { of };
        let zero = self.apply(table, operation, branch(&left, one, 0), branch(&right, other, 0));
        let high = self.apply(table, operation, branch(&left, one, 1), branch(&right, other, 1));
        let result = table.node(variable, [zero, high]);
        table.remember(operation, one, other, result);
        result
    }

    /// Whether the set of node `some` is a subset of that of `all`.
    pub(super) fn contains(&self, table: &mut NodeTable, all: u32, some: u32) -> bool {
        match (some, all) {
            (0, _) | (_, 1) => return true,
            (_, 0) | (1, _) => return false,
            _ if some == all => return true,
            _ => {}
        }
        if table.remembered(Operation::Within, some, all).is_some() {
            return true;
        }
        if !self.spend(table) {
            return false;
        }
        let (left, right) = (table.at(some), table.at(all));
        let variable = left.variable.min(right.variable);
        let is_within = [0, 1].into_iter().all(|at| {
            let some = if left.variable == variable { left.branches[at] } else { some };
            let all = if right.variable == variable { right.branches[at] } else { all };
            self.contains(table, all, some)
        });
        if is_within {
            table.remember(Operation::Within, some, all, 1);
        }
        is_within
    }

    /// Quantifies the variables of `cube`.
    pub(super) fn quantify(&self, table: &mut NodeTable, operation: Operation, of: u32, mut cube: u32) -> u32 {
        let node = table.at(of);
        while of > 1 && cube > 1 && table.at(cube).variable < node.variable {
            cube = table.at(cube).branches[1];
        }
        if of <= 1 || cube <= 1 {
            return of;
        }
        if let Some(known) = table.remembered(operation, of, cube) {
            return known;
        }
        if !self.spend(table) {
            return 0;
        }
        let [zero, one] = node.branches.map(|branch| self.quantify(table, operation, branch, cube));
        let result = match (table.at(cube).variable == node.variable, operation) {
            (false, _) => table.node(node.variable, [zero, one]),
            (true, Operation::ForAll) => self.apply(table, Operation::And, zero, one),
            (true, _) => self.apply(table, Operation::Or, zero, one),
        };
        table.remember(operation, of, cube, result);
        result
    }

    /// Inverts a variable.
    pub(super) fn flip_in(&self, table: &mut NodeTable, of: u32, variable: u32) -> u32 {
        let node = table.at(of);
        if node.variable > variable {
            return of;
        }
        if node.variable == variable {
            return table.node(variable, [node.branches[1], node.branches[0]]);
        }
        if let Some(known) = table.remembered(Operation::Flip, of, variable) {
            return known;
        }
        if !self.spend(table) {
            return 0;
        }
        let branches = node.branches.map(|branch| self.flip_in(table, branch, variable));
        let result = table.node(node.variable, branches);
        table.remember(Operation::Flip, of, variable, result);
        result
    }

    /// Renames variables; `known` caches results.
    pub(super) fn rename(
        &self,
        table: &mut NodeTable,
        of: u32,
        names: &HashMap<u32, u32>,
        known: &mut HashMap<u32, u32>,
    ) -> u32 {
        if of <= 1 {
            return of;
        }
        if let Some(known) = known.get(&of) {
            return *known;
        }
        if !self.spend(table) {
            return 0;
        }
        let node = table.at(of);
        let [zero, one] = node.branches.map(|branch| self.rename(table, branch, names, known));
        let variable = names.get(&node.variable).copied().unwrap_or(node.variable);
        let (is_zero, is_one) = (table.node(variable, [1, 0]), table.node(variable, [0, 1]));
        let zero = self.apply(table, Operation::And, is_zero, zero);
        let one = self.apply(table, Operation::And, is_one, one);
        let result = self.apply(table, Operation::Or, zero, one);
        known.insert(of, result);
        result
    }
}
