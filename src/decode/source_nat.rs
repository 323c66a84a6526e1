//! Which rules translate source addresses, who writes them, and how many of each kind there are.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::decode::owner;
use crate::snapshot::netfilter::{
    Backend, ChainId, ChainKind, Chosen, Condition, Counter, Field, Hook, MarkTest, Match, NatAction, Rule, Ruleset,
    SourceNatKind, SourceNatRule, SourceNatTotal, Step,
};
use crate::snapshot::{Failure, Reading};

/// Those of all backends. What is absent has no rules; a backend that could not be read makes the whole list unread.
pub fn all(nftables: &Reading<Arc<Ruleset>>, legacy: &[Reading<Arc<Ruleset>>; 2]) -> Reading<Vec<SourceNatRule>> {
    let mut all = Vec::new();
    let [ipv4, ipv6] = legacy;
    for (reading, is_legacy) in [(nftables, false), (ipv4, true), (ipv6, true)] {
        match reading.as_ref().and_then(|ruleset| rules(ruleset, is_legacy)) {
            Reading::Ok(rules) => all.extend(rules),
            Reading::Absent(_) => {} // a fact: there are no such rules
            other => return other,
        }
    }
    Reading::Ok(all)
}

/// The source-NAT rules that a postrouting or input hook leads to.
///
/// Failed: a chain was not read, or a rule has a NAT target that was not understood.
fn rules(ruleset: &Ruleset, is_legacy: bool) -> Reading<Vec<SourceNatRule>> {
    let mut found = Vec::new();
    for (id, chain) in ruleset.reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]) {
        let rules = match &chain.rules {
            Reading::Ok(rules) => rules,
            other => return other.as_ref().map(|_| Vec::new()),
        };
        for rule in rules.iter() {
            if let Some(what) = rule.steps.iter().find_map(not_understood) {
                return Reading::Failed(Failure::unsupported(format!(
                    "rule {} of {}: {what} is not understood",
                    rule.position, id.chain
                )));
            }
            found.extend(source_nat_rule(ruleset, is_legacy, id, rule));
        }
    }
    Reading::Ok(found)
}

/// An expression or target that may translate the source address for all we know.
fn not_understood(step: &Step) -> Option<&str> {
    let Step::Opaque(what) = step else { return None };
    ["expression ", "target "].iter().any(|start| what.starts_with(start)).then_some(what)
}

fn source_nat_rule(ruleset: &Ruleset, is_legacy: bool, id: &ChainId, rule: &Rule) -> Option<SourceNatRule> {
    let nat = rule.steps.iter().find_map(|step| match step {
        Step::Nat(nat) => Some(nat),
        _ => None,
    })?;
    if matches!(nat.action, NatAction::Dnat | NatAction::Redirect) {
        return None;
    }
    Some(SourceNatRule {
        backend: match (is_legacy, rule.from_xtables) {
            (true, _) => Backend::Legacy,
            (false, true) => Backend::IptablesNft,
            (false, false) => Backend::Nftables,
        },
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
        marks: rule.steps.iter().filter_map(mark_test).collect(),
        counter: rule.counter,
        fingerprint: rule.fingerprint,
    })
}

fn mark_test(step: &Step) -> Option<MarkTest> {
    let Step::Match(Match::Tests { tests, inverted }) = step else { return None };
    let [test] = tests.as_slice() else { return None };
    match (&test.field, &test.condition) {
        (Field::Mark, Condition::Masked { mask, value }) => {
            Some(MarkTest { value: u32::try_from(*value).ok()?, mask: u32::try_from(*mask).ok()?, inverted: *inverted })
        }
        _ => None,
    }
}

/// The rules, taken together by kind.
pub fn totals(rules: &[SourceNatRule]) -> BTreeMap<SourceNatKind, SourceNatTotal> {
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
