//! Lists and counts source-NAT rules, with their owners.
//!
//! All backends or none: if any of them could not be read the list is unread, because a part would be taken for all.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::facts::Reading;
use crate::facts::netfilter::{
    Backend, Chosen, Comparison, Counter, Field, MarkTest, Match, Ruleset, SourceNatKind, SourceNatRule,
    SourceNatTotal, SourceTranslation, Step, in_all_backends, owner,
};

/// Source-NAT rules of all backends, in hook order. An absent backend has none; one that could not be read makes the
/// list unread.
pub(crate) fn all(
    nftables: &Reading<Arc<Ruleset>>,
    legacy: &[Reading<Arc<Ruleset>>; 2],
) -> Reading<Vec<SourceNatRule>> {
    let [ipv4, ipv6] = legacy;
    in_all_backends([nftables, ipv4, ipv6], |ruleset, is_legacy, found| {
        vec![source_nat_rule(ruleset, is_legacy, found)]
    })
}

fn source_nat_rule(ruleset: &Ruleset, is_legacy: bool, (id, rule, nat): SourceTranslation<'_>) -> SourceNatRule {
    SourceNatRule {
        backend: Backend::of(rule, is_legacy),
        family: id.family,
        table: id.table.clone(),
        chain: id.chain.clone(),
        position: rule.position,
        owner: owner::owner(ruleset, id, rule),
        action: nat.action,
        randomization: nat.randomization,
        to_ports: match nat.ports {
            Chosen::Range(min, max) => Some((min, max)),
            Chosen::Unset | Chosen::ByPacket => None,
        },
        addresses: match nat.addresses {
            Chosen::Range(first, last) => Some((first, last)),
            Chosen::Unset | Chosen::ByPacket => None,
        },
        marks: rule.steps.iter().filter_map(mark_test).collect(),
        counter: rule.counter,
        fingerprint: rule.fingerprint,
    }
}

fn mark_test(step: &Step) -> Option<MarkTest> {
    let Step::Match(Match::Tests { tests, inverted }) = step else { return None };
    let [test] = tests.as_slice() else { return None };
    match (&test.field, &test.condition) {
        (Field::Mark, Comparison::Masked { mask, value }) => {
            Some(MarkTest { value: u32::try_from(*value).ok()?, mask: u32::try_from(*mask).ok()?, inverted: *inverted })
        }
        _ => None,
    }
}

/// Numbers and counters of the rules by kind.
pub(crate) fn totals(rules: &[SourceNatRule]) -> BTreeMap<SourceNatKind, SourceNatTotal> {
    let mut totals: BTreeMap<SourceNatKind, SourceNatTotal> = BTreeMap::new();
    for rule in rules {
        let total = totals.entry(rule.kind()).or_default();
        total.rules += 1;
        match rule.counter {
            None => total.uncounted += 1,
            Some(Counter { packets, bytes }) => {
                let counted = total.counted.get_or_insert_default();
                counted.packets = counted.packets.saturating_add(packets);
                counted.bytes = counted.bytes.saturating_add(bytes);
            }
        }
    }
    totals
}
