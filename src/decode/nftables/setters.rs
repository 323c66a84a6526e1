//! Whether any rule sets the mark bits that source-NAT rules look for.
//!
//! Such rules stand in the nat chains on prerouting and output, among those of every Service. The chains that are
//! known to hold them are looked at first; that can only find one. Only for bits without one are the chains searched,
//! and a search that is given up leaves the bit possible.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Attempt, wire};
use crate::decode::{marks, services};
use crate::snapshot::netfilter::{Base, Chain, ChainId, Hook, Rule, Step, Verdict};
use crate::snapshot::{Failure, Reading};

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

/// Fills in [`crate::snapshot::netfilter::MarkSetters`]; `bases` are the nat chains on prerouting and output. Rules of other
/// backends test the bits `tested_elsewhere`.
pub fn search(attempt: &mut Attempt<'_>, bases: Vec<(ChainId, Base)>, tested_elsewhere: u32) {
    let tests = marks::tested(&attempt.ruleset);
    let mut setters = std::mem::take(&mut attempt.ruleset.setters);
    setters.tested = tests.values().fold(tested_elsewhere, |all, bits| all | bits);
    marks::note_whole_chains(&mut setters, &attempt.ruleset);
    let mut well_known_found = false;
    for (id, bits) in &tests {
        for (_, setter) in WELL_KNOWN.iter().filter(|(chain, _)| *chain == id.chain) {
            let setter = ChainId { chain: (*setter).into(), ..id.clone() };
            if !bases.is_empty() && setters.missing() & bits != 0 {
                let rules = well_known(attempt, &setter);
                well_known_found |= !rules.is_empty();
                note(&mut setters.found, *bits, &setter, &rules);
            }
        }
    }
    let for_udp = attempt.devices.is_some() || attempt.follow_udp;
    let settled = setters.missing() == 0 && well_known_found;
    if !attempt.pending && (for_udp || !settled) {
        match read_small(attempt, &bases, &mut setters.found) {
            Ok(chains) => attempt.ruleset.chains.extend(chains),
            Err(why) => setters.why = why,
        }
    }
    let missing = setters.missing();
    if setters.why.is_empty() && !attempt.pending {
        setters.none = missing;
    } else {
        setters.given_up = missing;
    }
    attempt.ruleset.setters = setters;
    if for_udp && !attempt.pending {
        let output = bases.iter().filter(|(_, base)| base.hook == Hook::Output);
        let output: Vec<ChainId> = output.map(|(id, _)| id.clone()).collect();
        follow_for_udp(attempt, output);
    }
    for (id, base) in bases {
        let chain = attempt.ruleset.chains.entry(id);
        chain.or_insert_with(|| Chain::new(None, Reading::Failed(Failure::not_needed(SEARCHED)))).base = Some(base);
    }
}

/// Why a chain has no rules.
const SEARCHED: &str = "only searched for rules that set a mark";

/// All of these chains and those that they lead to, if they are few; who sets which bits, in any case. While answers are
/// missing, what there is of them. `Err`: why not.
fn read_small(
    attempt: &mut Attempt<'_>,
    bases: &[(ChainId, Base)],
    setters: &mut BTreeMap<u32, (ChainId, u32)>,
) -> Result<BTreeMap<ChainId, Chain>, String> {
    let mut open: Vec<(ChainId, Option<Base>)> =
        bases.iter().map(|(id, base)| (id.clone(), Some(base.clone()))).collect();
    let mut found: BTreeMap<ChainId, Chain> = BTreeMap::new();
    let (mut count, mut bytes, mut gave_up) = (0, 0, None);
    while let Some((id, base)) = open.pop() {
        if found.contains_key(&id) {
            continue;
        }
        if found.len() >= MAX_CHAINS || bytes > MAX_BYTES || count > services::MAX_RULES {
            let rules = services::MAX_RULES;
            return Err(format!("more than {MAX_CHAINS} chains, {rules} rules or {MAX_BYTES} bytes of them"));
        }
        let request = wire::rules(attempt.generation, &id).at_most(MAX_BYTES);
        bytes += attempt.capture.get(&request).ok().map_or(0, |answer| answer.len());
        let Reading::Ok(mut rules) = attempt.answered_rules(request.clone(), &id) else {
            let unread = attempt.capture.get(&request).map(|_| Arc::default());
            if attempt.capture.has(&request) {
                gave_up_on(attempt, &unread, &mut gave_up);
            }
            found.insert(id, Chain::new(base, unread));
            continue;
        };
        let is_map = |step: &Step| matches!(step, Step::Verdict(Verdict::Map { .. }));
        if rules.iter().flat_map(|rule| &rule.steps).any(is_map) {
            bytes += {
                let rules: &mut Vec<Rule> = Arc::make_mut(&mut rules);
                fill_small_maps(attempt, rules, &mut gave_up)
            };
        }
        note(setters, u32::MAX, &id, &rules);
        count += rules.len();
        let targets = rules.iter().flat_map(Rule::jumps);
        open.extend(targets.map(|chain| (ChainId { chain: chain.clone(), ..id.clone() }, None)));
        found.insert(id, Chain::new(base, Reading::Ok(rules)));
    }
    gave_up.map_or(Ok(found), Err)
}

/// Verdicts of maps; returns how many bytes these took.
fn fill_small_maps(attempt: &mut Attempt<'_>, rules: &mut [Rule], gave_up: &mut Option<String>) -> usize {
    let mut bytes = 0;
    for step in rules.iter_mut().flat_map(|rule| &mut rule.steps) {
        let Step::Verdict(Verdict::Map { set, verdicts, .. }) = step else { continue };
        let Some(request) = wire::map_of(attempt.generation, set).map(|request| request.at_most(MAX_MAP)) else {
            continue;
        };
        bytes += attempt.capture.get(&request).ok().map_or(0, |answer| answer.len());
        let map = attempt.answer(request.clone(), |bytes| wire::decode_map(bytes, set));
        if attempt.capture.has(&request) && map.ok().is_none() {
            gave_up_on(attempt, &map, gave_up);
        }
        *verdicts = map.map(|map| {
            attempt.fades |= map.fades;
            map.verdicts
        });
    }
    bytes
}

/// Only what is too large stays so; anything else may succeed in the next look, at the same generation.
fn gave_up_on<T>(attempt: &mut Attempt<'_>, reading: &Reading<T>, why: &mut Option<String>) {
    attempt.fades |= !reading.failure().is_some_and(Failure::stays);
    why.get_or_insert_with(|| reading.why());
}

/// Only what UDP packets can meet. Whether a verdict map has an element for them is asked later.
fn follow_for_udp(attempt: &mut Attempt<'_>, mut open: Vec<ChainId>) {
    let mut found: BTreeMap<ChainId, Chain> = BTreeMap::new();
    while let Some(id) = open.pop() {
        if found.contains_key(&id) || attempt.ruleset.chains.contains_key(&id) {
            continue;
        }
        let rules = attempt.answered_rules(wire::rules_for_udp(attempt.generation, &id), &id);
        let mut chain = Chain::new(None, Reading::Failed(Failure::not_needed(SEARCHED)));
        match rules {
            Reading::Ok(rules) => {
                let rules = services::for_udp(&rules);
                let targets = rules.iter().flat_map(Rule::jumps);
                open.extend(targets.map(|chain| ChainId { chain: chain.clone(), ..id.clone() }));
                chain.udp_rules = Some(Arc::new(rules));
            }
            other => chain.rules = other,
        }
        found.insert(id, chain);
        if found.len() > services::MAX_CHAINS {
            return;
        }
    }
    attempt.ruleset.chains.extend(found);
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
