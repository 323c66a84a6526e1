//! Sets that rules look up. Small ones are read completely; in large ones, only values that decide about tunnel packets
//! are looked up: a set may have a million elements, of which a few hundred matter.
//!
//! Request names have sequence numbers, never values: a replay of a redacted capture looks up mapped addresses and must
//! use the same names. So everything here keeps the order of first appearance.
//!
//! Small is 1 MiB of an ipset and 64 KiB of a set of nf_tables, whatever else there is: a verdict must not depend on whether a
//! tunnel happens to be there. They are read once a generation; at each reading those whose elements time out or that rules fill,
//! and ipsets. A set that rules fill is never known by what is in it now.

mod ipset;
pub(super) mod kind;
mod members;
pub(super) mod values;

use crate::capture::Request;
use crate::facts::netfilter::Set;
use crate::facts::{Failure, Reading, Source};
use crate::read::Node;
use crate::read::lookups::MAX_SETS;

pub(crate) use ipset::read as read_ipsets;
pub(crate) use values::OuterValues;

/// Values that all sets of one rule set are asked about, 10 µs each. With more the source is a failed one.
const MAX_QUESTIONS: usize = 8192;
/// Bytes of an ipset that is read whole: some twenty thousand elements, as 10,000 Services of IPVS or a country's networks have.
pub(super) const MAX_ELEMENTS: usize = 1 << 20;
/// Elements that are read of all ipsets together, 30 to 60 ms: they are read at each scrape. Of sets beyond, values are asked about.
const MAX_ALL_ELEMENTS: usize = 100_000;

/// Records that sets, values or lookups were left out because there are too many.
pub(super) fn note_cut(node: &mut Node<'_>, source: Source, sets: bool, values: bool, questions: bool) {
    for (cut, limit, what) in [
        (sets, MAX_SETS, "sets that rules look into"),
        (values, values::MAX_VALUES, "peers, addresses, ports or devices that sets are asked about"),
        (questions, MAX_QUESTIONS, "questions to sets"),
    ] {
        if cut {
            node.sources.note(source, &Reading::<()>::Failed(Failure::too_large(limit, what)));
        }
    }
}

/// Records a failure to read elements, unless they are too many or not supported.
pub(super) fn note_unread(node: &mut Node<'_>, request: &Request, set: &Set) {
    let why = set.elements.failure().map(Failure::root);
    if !matches!(why, Some(Failure::TooLarge { .. } | Failure::Unsupported(_))) {
        node.note(request, set.elements.as_ref());
    }
}

/// What is left for all sets of one backend in one reading.
pub(super) struct Budget {
    /// Questions.
    left: usize,
    /// Elements that are read with whole sets.
    elements: usize,
    /// Whether more were needed.
    pub(super) cut: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_QUESTIONS, elements: MAX_ALL_ELEMENTS, cut: false }
    }
}

/// A lookup of one value in a set.
pub(super) struct ElementRequest {
    /// The value, by field.
    pub(super) key: Vec<u128>,
    /// The request.
    pub(super) request: Request,
}

/// Keeps as many lookups as the budget allows.
pub(super) fn within(budget: &mut Budget, mut questions: Vec<ElementRequest>) -> Vec<ElementRequest> {
    budget.cut |= questions.len() > budget.left;
    questions.truncate(budget.left);
    budget.left -= questions.len();
    questions
}

/// All combinations of one value per column, up to the number of lookups that may be made.
pub(super) fn combinations<T: Clone>(columns: &[Vec<T>]) -> Vec<Vec<T>> {
    if columns.is_empty() {
        return Vec::new();
    }
    columns.iter().fold(vec![Vec::new()], |rows, column| {
        let longer =
            |row: Vec<T>| column.iter().map(move |value| row.iter().chain([value]).cloned().collect::<Vec<T>>());
        rows.into_iter().flat_map(longer).take(MAX_QUESTIONS + 1).collect()
    })
}

#[cfg(test)]
mod tests;
