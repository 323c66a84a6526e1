//! Source-NAT rules in words.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::netfilter::{
    Backend, Family, MarkTest, NatAction, Owner, PortRandomization, SourceNatKind, SourceNatRule, SourceNatTotal,
};
use crate::facts::{Facts, Reading};

/// Their number, or why it is not known, in one line.
pub(crate) fn headline(facts: &Facts) -> String {
    match &facts.source_nat_rules {
        Reading::Ok(rules) if rules.is_empty() => "Source NAT: none".into(),
        Reading::Ok(rules) => format!("Source NAT: {}", counted(rules.len() as u64)),
        other => format!("Source NAT rules: not read: {}", other.why()),
    }
}

/// "1 rule", "2 rules".
pub(crate) fn counted(rules: u64) -> String {
    format!("{rules} rule{}", if rules == 1 { "" } else { "s" })
}

/// One line per kind with rules, both families together, most rules first.
pub(crate) fn kinds(facts: &Facts) -> Vec<String> {
    type Key = (Owner, NatAction, PortRandomization, Backend);
    let mut kinds: BTreeMap<Key, (u64, BTreeSet<Family>)> = BTreeMap::new();
    for (kind, total) in totals(facts).filter(|(_, total)| total.rules > 0) {
        let (rules, families) = kinds.entry((kind.owner, kind.action, kind.randomization, kind.backend)).or_default();
        *rules += total.rules;
        families.insert(kind.family);
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|(_, (rules, _))| std::cmp::Reverse(*rules)); // stable, so that equal ones keep the map's order
    let line = |((owner, action, randomization, backend), (rules, families)): (Key, (u64, BTreeSet<Family>))| {
        let families: Vec<&str> = families.into_iter().map(Family::name).collect();
        format!("{owner}: {rules} {action}, {} ({backend}, {})", ports(randomization), families.join("+"))
    };
    kinds.into_iter().map(line).collect()
}

/// All kinds, ordered by their labels.
pub(crate) fn totals(facts: &Facts) -> impl Iterator<Item = (&SourceNatKind, &SourceNatTotal)> {
    facts.source_nat_totals.ok().into_iter().flatten()
}

/// Port selection in iptables' terms.
pub(crate) fn ports(randomization: PortRandomization) -> &'static str {
    match randomization {
        PortRandomization::None => "ports not random",
        PortRandomization::Random => "ports random",
        PortRandomization::RandomFully => "ports random-fully",
    }
}

/// "1024-65535"; `None` if the rule has no range.
pub(crate) fn to_ports(rule: &SourceNatRule) -> Option<String> {
    rule.to_ports.map(|(min, max)| format!("{min}-{max}"))
}

/// "0x4000"
pub(crate) fn hexadecimal(number: u32) -> String {
    format!("{number:#x}")
}

/// A mark match in iptables' syntax: "0x4000/0x4000", "! 0x4000/0x4000".
pub(crate) fn mark(test: &MarkTest) -> String {
    let not = if test.inverted { "! " } else { "" };
    format!("{not}{}/{}", hexadecimal(test.value), hexadecimal(test.mask))
}
