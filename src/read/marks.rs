//! Which mark bits source-NAT rules test, and which rules write them. Used for all backends.

use std::collections::BTreeMap;

use crate::facts::netfilter::{
    ChainId, ChainKind, Comparison, Field, Hook, MarkWriters, Match, Ruleset, Step, Verdict,
};

/// Mark bits tested by the nat chains on postrouting and input, by chain.
pub(crate) fn tested(ruleset: &Ruleset) -> BTreeMap<ChainId, u32> {
    let mut tested = BTreeMap::new();
    for (id, chain) in ruleset.reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]) {
        let steps = chain.known_rules().iter().flat_map(|rule| &rule.steps);
        let bits = steps.map(tested_bits).fold(0, |all, bits| all | bits);
        if bits != 0 {
            tested.insert(id.clone(), bits);
        }
    }
    tested
}

/// Bits that have to be 1; if a test has only zeros, those that have to be 0.
fn tested_bits(step: &Step) -> u32 {
    let tests = match step {
        Step::Match(Match::Tests { tests, .. }) => tests,
        Step::Match(Match::Set { fields, .. }) | Step::Verdict(Verdict::Map { fields, .. }) => {
            return fields.iter().fold(0, |all, field| all | field.mark_bits());
        }
        _ => return 0,
    };
    let bits = tests.iter().filter(|test| test.field == Field::Mark).map(|test| match test.condition {
        Comparison::Masked { mask, value: 0 } => mask,
        Comparison::Masked { value, .. } => value,
        Comparison::Ranges(_) => u128::from(u32::MAX),
    });
    u32::try_from(bits.fold(0, |all, bits| all | bits)).unwrap_or(u32::MAX)
}

/// Records the rule for each of these bits that has none yet, if its steps can set them.
pub(crate) fn note(found: &mut BTreeMap<u32, (ChainId, u32)>, bits: u32, id: &ChainId, position: u32, steps: &[Step]) {
    let sets = steps.iter().map(|step| match step {
        // The connection's mark counts, since it may be restored into the packet's.
        Step::SetMark(write) | Step::SetConnectionMark(write) => write.can_set(),
        Step::Unsupported { .. } => u32::MAX,
        _ => 0,
    });
    let mut sets = sets.fold(0, |all, bits| all | bits) & bits;
    while sets != 0 {
        found.entry(sets & sets.wrapping_neg()).or_insert_with(|| (id.clone(), position));
        sets &= sets - 1;
    }
}

/// Mark bits tested by any of these chains.
pub(crate) fn all_tested(ruleset: &Ruleset) -> u32 {
    tested(ruleset).values().fold(0, |all, bits| all | bits)
}

/// Records the mark writers in chains that were read completely (all but nat chains), for all bits, because the rules
/// that test them may be in another backend.
pub(crate) fn note_whole_chains(mark_writers: &mut MarkWriters, ruleset: &Ruleset) {
    for kind in [ChainKind::Filter, ChainKind::Route] {
        for (id, chain) in ruleset.reachable(kind, Hook::ALL) {
            if chain.rules.ok().is_none() {
                chain.rules.why().clone_into(&mut mark_writers.why);
            }
            for rule in chain.known_rules() {
                note(&mut mark_writers.found, u32::MAX, id, rule.position, &rule.steps);
            }
        }
    }
}
