//! Sets that rules look into. Small ones are read whole; of a large one only the values are asked about that decide about a
//! tunnel's packets: a set may have a million elements, and a few hundred of them matter.
//!
//! Request names carry running numbers, never a value: a replay of a redacted capture asks about mapped addresses, and
//! must ask under the same names. So everything here keeps the order of first appearance.
//!
//! Small is 64 KiB, whatever else there is: a verdict must not depend on whether a tunnel happens to be there. They are read
//! once a generation; at each reading those whose elements time out or that rules fill, and ipsets. A set that rules fill is
//! never known by what is in it now.

mod ipset;
pub(super) mod kind;
mod members;
pub(super) mod values;

use std::net::IpAddr;

use crate::capture::Request;
use crate::facts::netfilter::{
    Chosen, End, Field, Match, Nat, NatAction, Ruleset, Set, SetId, Step, Verdict, with_data,
};
use crate::facts::{Failure, Reading, Source};
use crate::read::Node;

pub(crate) use ipset::read as read_ipsets;
pub(crate) use values::OuterValues;

/// Sets of one rule set that are read. With more the source is a failed one.
const MAX_SETS: usize = 512;
/// Values that all sets of one rule set are asked about, 10 µs each. With more the source is a failed one.
const MAX_QUESTIONS: usize = 8192;
/// Addresses of SNAT rules that are looked up, 10 µs each; what is beyond is not known.
const MAX_SOURCES: usize = 64;
/// The same for addresses that destinations are given.
const MAX_TARGETS: usize = 64;
/// A set up to this size is read whole: about a thousand elements.
pub(super) const MAX_ELEMENTS: usize = 64 << 10;

/// Says that sets were not read or not asked because they, the values or the questions are too many.
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

/// That elements could not be read is a failure of the source, but not that they are too many or of a kind that is not read.
pub(super) fn note_unread(node: &mut Node<'_>, request: &Request, set: &Set) {
    let why = set.elements.failure().map(Failure::root);
    if !matches!(why, Some(Failure::TooLarge { .. } | Failure::Unsupported(_))) {
        node.note(request, set.elements.as_ref());
    }
}

/// What rules look into, and with what, and what else they make worth asking; everything in the order in which the rules name it.
#[derive(Default)]
pub(crate) struct Lookups<'a> {
    pub(super) nftables: Vec<(&'a SetId, Vec<&'a [Field]>)>,
    ipset: Vec<(u16, Vec<&'a [End]>)>,
    /// There are more than [`MAX_SETS`].
    pub(super) cut: bool,
    /// Rules ask whether IPsec handles a packet.
    pub ipsec: bool,
    /// Addresses that SNAT rules give, each its only one; of more than [`MAX_SOURCES`] the first.
    pub sources: Vec<IpAddr>,
    /// Addresses that rules give to destinations of TCP, each its only one; of more than [`MAX_TARGETS`] the first.
    pub targets: Vec<IpAddr>,
}

impl<'a> Lookups<'a> {
    /// Of the rules that were read.
    pub(crate) fn of<'r: 'a>(rulesets: impl IntoIterator<Item = &'r Ruleset>) -> Self {
        let mut lookups = Self::default();
        let chains = |ruleset: &'r Ruleset| ruleset.chains.values().map(move |chain| (ruleset, chain));
        let rules = rulesets.into_iter().flat_map(chains).flat_map(|(ruleset, chain)| {
            chain.rules_for_udp().unwrap_or_default().iter().map(move |rule| (ruleset, rule))
        });
        for (ruleset, step) in rules.flat_map(|(ruleset, rule)| rule.steps.iter().map(move |step| (ruleset, step))) {
            let room = lookups.nftables.len() + lookups.ipset.len() < MAX_SETS;
            lookups.ipsec |= asks_for_ipsec(step);
            if let Step::Nat(nat) = step {
                lookups.add_addresses(ruleset, nat);
            }
            let added = match step {
                Step::Match(Match::Set { fields, set, .. }) | Step::Verdict(Verdict::Map { fields, set, .. }) => {
                    add(&mut lookups.nftables, set, fields, room)
                }
                Step::Match(Match::Ipset { index, ends, .. }) => add(&mut lookups.ipset, *index, ends, room),
                _ => true,
            };
            lookups.cut |= !added;
        }
        lookups
    }

    /// Addresses that a translation gives, by itself or by its map.
    fn add_addresses(&mut self, ruleset: &Ruleset, nat: &Nat) {
        let (known, most) = match nat.action {
            NatAction::Snat => (&mut self.sources, MAX_SOURCES),
            NatAction::Dnat => (&mut self.targets, MAX_TARGETS),
            NatAction::Masquerade | NatAction::Redirect | NatAction::Netmap => return,
        };
        let mapped = nat.map.as_ref().and_then(|map| map.lookup.known_in(&ruleset.sets)).into_iter().flatten();
        let each = mapped.filter_map(|(_, data)| with_data(nat, data)).map(|nat| nat.addresses);
        for addresses in each.chain([nat.addresses]) {
            if known.len() == most {
                return;
            }
            if let Chosen::Range(first, last) = addresses
                && first == last
                && !known.contains(&first)
            {
                known.push(first);
            }
        }
    }
}

fn asks_for_ipsec(step: &Step) -> bool {
    let is_ipsec = |field: &Field| matches!(field, Field::Ipsec { .. });
    match step {
        Step::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| is_ipsec(&test.field)),
        Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
            fields.iter().any(is_ipsec)
        }
        _ => false,
    }
}

fn add<'a, K: PartialEq, T: PartialEq>(lookups: &mut Vec<(K, Vec<&'a [T]>)>, set: K, by: &'a [T], room: bool) -> bool {
    match lookups.iter_mut().find(|(known, _)| *known == set) {
        Some((_, all)) if all.contains(&by) => {}
        Some((_, all)) => all.push(by),
        None if room => lookups.push((set, vec![by])),
        None => return false,
    }
    true
}

/// How many questions are left.
pub(super) struct Budget {
    left: usize,
    /// There were more questions than that.
    pub(super) cut: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_QUESTIONS, cut: false }
    }
}

/// One value that a set is asked about.
pub(super) struct ElementRequest {
    pub(super) key: Vec<u128>,
    pub(super) request: Request,
}

/// Takes what there is room for.
pub(super) fn within(budget: &mut Budget, mut questions: Vec<ElementRequest>) -> Vec<ElementRequest> {
    budget.cut |= questions.len() > budget.left;
    questions.truncate(budget.left);
    budget.left -= questions.len();
    questions
}

/// Every way to take one of each column, as far as anyone may ask about it.
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
