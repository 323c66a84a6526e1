//! Which rules translate source addresses, who writes them, and how many of each kind there are.
//!
//! All backends or none: the list is unread when any of them could not be read, because a part of it would be taken for all.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::facts::netfilter::{
    Backend, ChainId, ChainKind, Chosen, Comparison, Counter, Field, Hook, MarkTest, Match, Nat, NatAction, Rule,
    Ruleset, SourceNatKind, SourceNatRule, SourceNatTotal, Step, owner, with_each,
};
use crate::facts::{Failure, Reading};

/// Those of all backends. What is absent has no rules; a backend that could not be read makes the whole list unread.
pub(crate) fn all(
    nftables: &Reading<Arc<Ruleset>>,
    legacy: &[Reading<Arc<Ruleset>>; 2],
) -> Reading<Vec<SourceNatRule>> {
    of_all(nftables, legacy, |ruleset, is_legacy, (id, rule, nat)| {
        vec![source_nat_rule(ruleset, is_legacy, id, rule, nat)]
    })
}

/// What those of all backends do, one with a map for each of its data; where these are not known, it is there as it is.
pub(crate) fn translations(nftables: &Reading<Arc<Ruleset>>, legacy: &[Reading<Arc<Ruleset>>; 2]) -> Reading<Vec<Nat>> {
    of_all(nftables, legacy, |ruleset, _, (_, _, nat)| {
        with_each(nat, &ruleset.sets).unwrap_or_else(|| vec![nat.clone()])
    })
}

fn of_all<T>(
    nftables: &Reading<Arc<Ruleset>>,
    legacy: &[Reading<Arc<Ruleset>>; 2],
    make: impl Fn(&Ruleset, bool, (&ChainId, &Rule, &Nat)) -> Vec<T>,
) -> Reading<Vec<T>> {
    let mut all = Vec::new();
    let [ipv4, ipv6] = legacy;
    for (reading, is_legacy) in [(nftables, false), (ipv4, true), (ipv6, true)] {
        let make = |ruleset: &Ruleset| rules(ruleset, |found| make(ruleset, is_legacy, found));
        match reading.as_ref().and_then(|ruleset| make(ruleset)) {
            Reading::Ok(rules) => all.extend(rules),
            Reading::Absent(_) => {} // a fact: there are no such rules
            other => return other,
        }
    }
    Reading::Ok(all)
}

/// The source-NAT rules that a postrouting or input hook leads to.
///
/// Without a value: a list of base chains was not read, a chain that they lead to, or a verdict map in one; or a rule has a
/// NAT target that was not understood.
fn rules<T>(ruleset: &Ruleset, make: impl Fn((&ChainId, &Rule, &Nat)) -> Vec<T>) -> Reading<Vec<T>> {
    ruleset.all_reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]).and_then(|chains| {
        let mut found = Vec::new();
        for (id, chain) in chains {
            for rule in chain.known_rules() {
                if let Some(what) = rule.steps.iter().find_map(not_understood) {
                    return Reading::Failed(Failure::unsupported(format!(
                        "rule {} of {}: {what} is not understood",
                        rule.position, id.chain
                    )));
                }
                let nat = rule.steps.iter().find_map(translates_source);
                found.extend(nat.into_iter().flat_map(|nat| make((id, rule, nat))));
            }
        }
        Reading::Ok(found)
    })
}

/// An expression or target that may translate the source address for all we know.
fn not_understood(step: &Step) -> Option<&str> {
    match step {
        Step::Unsupported { what, may_translate: true } => Some(what),
        _ => None,
    }
}

fn translates_source(step: &Step) -> Option<&Nat> {
    match step {
        Step::Nat(nat) => Some(nat).filter(|nat| !matches!(nat.action, NatAction::Dnat | NatAction::Redirect)),
        _ => None,
    }
}

fn source_nat_rule(ruleset: &Ruleset, is_legacy: bool, id: &ChainId, rule: &Rule, nat: &Nat) -> SourceNatRule {
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

/// The rules, taken together by kind.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::{Base, Chain, Family, Nat, PortRandomization, Verdict};

    fn id(name: &str) -> ChainId {
        ChainId { family: Family::Ipv4, table: "nat".into(), chain: name.into() }
    }

    fn chain(base: bool, steps: Vec<Step>) -> Chain {
        let (hook, kind) = (Hook::Postrouting, ChainKind::Nat);
        let base = base.then(|| Base { hook, kind, priority: 100, drops: false, devices: vec![] });
        let rule =
            Rule { position: 1, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 };
        Chain::new(base, Reading::Ok(Arc::new(vec![rule])))
    }

    /// A base chain that jumps to one with a rule that masquerades.
    fn ruleset() -> Ruleset {
        let (action, randomization) = (NatAction::Masquerade, PortRandomization::None);
        let nat =
            Nat { action, addresses: Chosen::Unset, ports: Chosen::Unset, randomization, persistent: false, map: None };
        let mut ruleset = Ruleset::default();
        ruleset.chains.insert(id("P"), chain(true, vec![Step::Verdict(Verdict::Jump("C".into()))]));
        ruleset.chains.insert(id("C"), chain(false, vec![Step::Nat(nat)]));
        ruleset.base_chains.add(Hook::Postrouting, id("P"));
        ruleset
    }

    #[test]
    fn a_part_that_was_not_read_leaves_no_list() {
        let listed = |ruleset: &Ruleset| rules(ruleset, |(_, rule, _)| vec![rule.position]);
        let lost: Reading<()> = Reading::Denied("no permission".into());
        assert_eq!(listed(&ruleset()).ok().map(Vec::len), Some(1));
        for (family, hook, is_known) in [
            (Family::Ipv4, Hook::Postrouting, false),
            (Family::Inet, Hook::Postrouting, false),
            (Family::Ipv6, Hook::Input, false),
            (Family::Ipv4, Hook::Forward, true),
            (Family::Netdev, Hook::Egress, true),
        ] {
            let mut ruleset = ruleset();
            ruleset.base_chains.lose(family, hook, &lost);
            assert_eq!(listed(&ruleset).ok().is_some(), is_known, "{family} {hook}");
        }
        let mut none = ruleset();
        none.chains.clear();
        assert!(listed(&none).ok().is_none(), "a chain that is listed and not there was not read");
        let mut ruleset = ruleset();
        ruleset.chains.get_mut(&id("C")).unwrap().rules = Reading::Failed("no answer".into());
        assert_eq!(listed(&ruleset).why(), "chain C: no answer");
        ruleset.chains.remove(&id("C"));
        assert!(listed(&ruleset).ok().is_none());
        let set = crate::facts::netfilter::SetId::Ipset(1);
        let map = Verdict::Map { fields: vec![], set, verdicts: Reading::Failed("no answer".into()) };
        ruleset.chains.insert(id("P"), chain(true, vec![Step::Verdict(map)]));
        assert!(listed(&ruleset).ok().is_none(), "the map may lead to any chain");
    }
}
