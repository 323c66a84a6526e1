//! Whether any rule sets the mark bits that source-NAT rules look for.
//!
//! Such rules stand in the nat chains on prerouting and output, among those of every Service. The chains that are
//! known to hold them are looked at first; that can only find one. Only for bits without one are the chains searched,
//! and a search that is given up leaves the bit possible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Attempt, wire};
use crate::capture::TOO_LARGE;
use crate::decode::marks;
use crate::snapshot::Reading;
use crate::snapshot::netfilter::{Base, Chain, ChainId, Rule, Step, Verdict};

/// Chain whose rules test a bit, and the chain of the same table whose rule sets it.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("KUBE-POSTROUTING", "KUBE-MARK-MASQ"),
    ("masquerading", "mark-for-masquerade"), // kube-proxy, nftables mode
    ("CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"),
    ("NETAVARK-HOSTPORT-MASQ", "NETAVARK-HOSTPORT-SETMARK"),
];

/// Chains that one search reads.
const MAX_CHAINS: usize = 512;
/// Bytes that one search reads; a rule takes about 500.
const MAX_BYTES: usize = 4 << 20;
/// A verdict map that leads on is read up to this size.
const MAX_MAP: usize = 256 << 10;

/// Fills in [`crate::snapshot::netfilter::MarkSetters`]; `bases` are the nat chains on prerouting and output.
pub fn search(attempt: &mut Attempt<'_>, bases: Vec<(ChainId, Base)>) {
    let tests = marks::tested(&attempt.ruleset);
    let mut setters = std::mem::take(&mut attempt.ruleset.setters);
    setters.tested = tests.values().fold(0, |all, bits| all | bits);
    marks::note_whole_chains(&mut setters, &attempt.ruleset);
    for (id, bits) in &tests {
        for (_, setter) in WELL_KNOWN.iter().filter(|(chain, _)| *chain == id.chain) {
            let setter = ChainId { chain: (*setter).to_owned(), ..id.clone() };
            if !bases.is_empty() && setters.missing() & bits != 0 {
                note(&mut setters.found, *bits, &setter, &well_known(attempt, &setter));
            }
        }
    }
    if !attempt.pending && setters.missing() != 0 {
        let mut open: Vec<ChainId> = bases.iter().map(|(id, _)| id.clone()).collect();
        let mut seen: BTreeSet<ChainId> = open.iter().cloned().collect();
        let mut bytes = 0;
        while let Some(id) = open.pop() {
            if setters.missing() == 0 {
                break;
            }
            if seen.len() > MAX_CHAINS || bytes > MAX_BYTES {
                setters.why = format!("more than {MAX_CHAINS} chains or {MAX_BYTES} bytes of rules");
                break;
            }
            let request = wire::rules(attempt.generation, &id).at_most(MAX_BYTES);
            bytes += attempt.capture.get(&request).ok().map_or(0, |answer| answer.len());
            let rules = attempt.answered_rules(request, &id);
            let Reading::Ok(rules) = rules else {
                gave_up(attempt, rules.why(), &mut setters.why);
                continue;
            };
            let wanted = setters.tested;
            note(&mut setters.found, wanted, &id, &rules);
            for chain in targets(attempt, &rules, &mut bytes, &mut setters.why) {
                let chain = ChainId { chain, ..id.clone() };
                if seen.insert(chain.clone()) {
                    open.push(chain);
                }
            }
        }
    }
    let missing = setters.missing();
    if setters.why.is_empty() && !attempt.pending {
        setters.none = missing;
    } else {
        setters.given_up = missing;
    }
    attempt.ruleset.setters = setters;
    for (id, base) in bases {
        let rules = Reading::Failed("only searched for rules that set a mark".into());
        attempt.ruleset.chains.insert(id, Chain { base: Some(base), rules });
    }
}

/// The rules of a chain that is in use; none if it is not there or nothing leads to it.
fn well_known(attempt: &mut Attempt<'_>, id: &ChainId) -> Arc<Vec<Rule>> {
    let Reading::Ok(rules) = attempt.rules(wire::rules(attempt.generation, id), id) else { return Arc::default() };
    if rules.is_empty() {
        return rules;
    }
    let users = attempt.needed(wire::chain(attempt.generation, id), wire::decode_use);
    let led_to = users.ok().copied().flatten().is_some_and(|users| users as usize > rules.len());
    if led_to { rules } else { Arc::default() }
}

/// Writes down the first rule that sets each of these bits.
fn note(found: &mut BTreeMap<u32, (ChainId, u32)>, bits: u32, id: &ChainId, rules: &[Rule]) {
    for rule in rules {
        marks::note(found, bits, id, rule.position, &rule.steps);
    }
}

/// Chains that these rules lead to.
fn targets(attempt: &mut Attempt<'_>, rules: &[Rule], bytes: &mut usize, why: &mut String) -> Vec<String> {
    let mut chains: Vec<String> = rules.iter().flat_map(Rule::jumps).map(str::to_owned).collect();
    for step in rules.iter().flat_map(|rule| &rule.steps) {
        let Step::Verdict(Verdict::Map { set, .. }) = step else { continue };
        let Some(request) = wire::map_of(attempt.generation, set).map(|request| request.at_most(MAX_MAP)) else {
            continue;
        };
        *bytes += attempt.capture.get(&request).ok().map_or(0, |answer| answer.len());
        match attempt.answer(request, |bytes| wire::decode_map(bytes, set)) {
            Reading::Ok(map) => {
                attempt.fades |= map.fades;
                chains.extend(map.verdicts.iter().filter_map(Verdict::target).map(str::to_owned));
            }
            other => gave_up(attempt, other.why(), why),
        }
    }
    chains
}

/// Only what is too large stays so; anything else may succeed in the next look, at the same generation.
fn gave_up(attempt: &mut Attempt<'_>, reason: &str, why: &mut String) {
    attempt.fades |= !reason.contains(TOO_LARGE);
    reason.clone_into(why);
}
