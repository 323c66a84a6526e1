//! Which bits of the mark source-NAT rules test, and which rules set them.

use std::collections::BTreeMap;

use crate::facts::netfilter::{
    ChainId, ChainKind, Comparison, Field, Hook, MarkWriters, Match, Ruleset, Step, Verdict,
};

/// Bits of the mark that the nat chains on postrouting and input test, by chain.
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

/// Bits that must be 1, or, where a test only asks for 0, must not.
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

/// Writes down the rule if it is the first that sets any of these bits.
pub(crate) fn note(found: &mut BTreeMap<u32, (ChainId, u32)>, bits: u32, id: &ChainId, position: u32, steps: &[Step]) {
    let sets = steps.iter().map(|step| match step {
        // The packet's mark may be restored from the connection's.
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

/// Bits that any nat chain of this rule set tests.
pub(crate) fn all_tested(ruleset: &Ruleset) -> u32 {
    tested(ruleset).values().fold(0, |all, bits| all | bits)
}

/// Writes down the rules of chains that were read whole, which are all but nat chains: for every bit, because the rules
/// that test it may be in another backend.
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
