//! Searches for rules that write the mark bits tested by source-NAT rules.
//!
//! Such rules are in the nat chains on prerouting and output, among those of all Services. Well-known chains are
//! searched first, which can only find one. The others are searched as far as they are small; if the search is
//! abandoned, the bit counts as possible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{RulesetReader, wire};
use crate::facts::netfilter::{Base, Chain, ChainId, Family, Hook, MarkWriters, Rule, Step, Verdict};
use crate::facts::{Failure, Reading};
use crate::netfilter::netlink::Message;
use crate::read::{marks, services};

/// A chain whose rules test a mark bit, and the chain in the same table whose rule sets it.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("KUBE-POSTROUTING", "KUBE-MARK-MASQ"),
    ("masquerading", "mark-for-masquerade"), // kube-proxy, nftables mode
    ("CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"),
    ("NETAVARK-HOSTPORT-MASQ", "NETAVARK-HOSTPORT-SETMARK"),
];

/// Number of chains that one search reads.
const MAX_CHAINS: usize = 512;
/// Number of target chains above which a chain counts as one that dispatches to Services; those are read last.
const FEW: usize = 64;
/// Bytes of rules that one search reads; a rule takes about 500.
const MAX_BYTES: usize = 4 << 20;
const ENOENT: i32 = 2;
/// Size limit, bytes, of verdict maps that a search reads.
const MAX_MAP: usize = 256 << 10;

/// Fills in [`crate::facts::netfilter::MarkWriters`]; `bases` are the nat chains on prerouting and output.
pub(crate) fn search(reader: &mut RulesetReader<'_, '_>, bases: Vec<(ChainId, Base)>) {
    let tests = marks::tested(&reader.ruleset);
    let mut mark_writers = std::mem::take(&mut reader.ruleset.mark_writers);
    mark_writers.tested = tests.values().fold(reader.inputs.tested_elsewhere, |all, bits| all | bits);
    marks::note_whole_chains(&mut mark_writers, &reader.ruleset);
    for (id, bits) in &tests {
        for (_, writer) in WELL_KNOWN.iter().filter(|(chain, _)| *chain == id.chain) {
            let writer = ChainId { chain: (*writer).into(), ..id.clone() };
            if !bases.is_empty() && mark_writers.missing() & bits != 0 {
                let rules = well_known(reader, &writer);
                note(&mut mark_writers.found, *bits, &writer, &rules);
            }
        }
    }
    let for_udp = reader.inputs.devices.is_some() || reader.inputs.drops_clashes;
    let (chains, gave_up) = read_small(reader, &bases, for_udp, &mut mark_writers);
    let failed = |chain: &Chain| chain.rules.ok().is_none() && !chain.rules.failure().is_some_and(is_limit);
    // If there are too many chains or they are too large, only the search result is kept; failed chains are kept with
    // their failure.
    if gave_up.is_none() || chains.values().any(failed) {
        reader.ruleset.chains.extend(chains);
    }
    mark_writers.why = gave_up.unwrap_or_default();
    if let Some((_, hook, unread)) = reader.ruleset.base_chains.first_unread(Family::ALL, Hook::ALL) {
        mark_writers.why = format!("the base chains on {hook} could not be read: {}", unread.why());
    }
    let missing = mark_writers.missing();
    if mark_writers.why.is_empty() {
        mark_writers.none = missing;
    } else {
        mark_writers.given_up = missing;
    }
    reader.ruleset.mark_writers = mark_writers;
    if for_udp {
        let output = bases.iter().filter(|(_, base)| base.hook == Hook::Output);
        let output: Vec<ChainId> = output.map(|(id, _)| id.clone()).collect();
        follow_for_udp(reader, output);
    }
    for (id, base) in bases {
        let chain = reader.ruleset.chains.entry(id);
        chain.or_insert_with(|| Chain::new(None, searched())).base = Some(base);
    }
}

/// The rules of a chain that was only searched.
fn searched() -> Reading<Arc<Vec<Rule>>> {
    Reading::Failed(Failure::not_needed("only searched for rules that set a mark"))
}

/// Reads these chains and all reachable from them, as far as they are few, and says why some are missing; records mark
/// writers in any case. Stops early once there are too many and each tested bit has a writer.
fn read_small(
    reader: &mut RulesetReader<'_, '_>,
    bases: &[(ChainId, Base)],
    for_udp: bool,
    mark_writers: &mut MarkWriters,
) -> (BTreeMap<ChainId, Chain>, Option<String>) {
    let mut open: Vec<(ChainId, Option<Base>)> =
        bases.iter().map(|(id, base)| (id.clone(), Some(base.clone()))).collect();
    let mut of_services: Vec<ChainId> = Vec::new();
    let mut seen: BTreeSet<ChainId> = bases.iter().map(|(id, _)| id.clone()).collect();
    let mut found: BTreeMap<ChainId, Chain> = BTreeMap::new();
    let (mut count, mut gave_up) = (0, None);
    let start = reader.bytes;
    loop {
        let in_vain = open.is_empty() && seen.len() > MAX_CHAINS && mark_writers.missing() == 0;
        let Some((id, base)) = open.pop().or_else(|| Some((of_services.pop()?, None))) else { break };
        if in_vain || found.len() >= MAX_CHAINS || reader.bytes - start > MAX_BYTES {
            return (found, Some(format!("more than {MAX_CHAINS} chains, or {MAX_BYTES} bytes of their rules")));
        }
        let known = reader.ruleset.chains.get(&id).and_then(|known| known.rules.ok());
        let rules = match known.or_else(|| reader.looked_at.get(&id)).cloned() {
            Some(rules) => Reading::Ok(rules),
            None => search_chain(reader, &id, Room { rules: services::MAX_RULES - count, for_udp }),
        };
        let Reading::Ok(rules) = rules else {
            gave_up.get_or_insert_with(|| rules.why());
            found.insert(id, Chain::new(base, rules));
            continue;
        };
        note(&mut mark_writers.found, u32::MAX, &id, &rules);
        count += rules.len();
        let unread = |step: &Step| match step {
            Step::Verdict(Verdict::Map { verdicts, .. }) => verdicts.ok().is_none().then(|| verdicts.why()),
            _ => None,
        };
        gave_up = gave_up.or_else(|| rules.iter().flat_map(|rule| &rule.steps).find_map(unread));
        let targets = rules.iter().flat_map(Rule::jumps).map(|chain| ChainId { chain: chain.clone(), ..id.clone() });
        let unseen: Vec<ChainId> = targets.filter(|target| seen.insert(target.clone())).collect();
        match unseen.len() > FEW {
            true => of_services.extend(unseen),
            false => open.extend(unseen.into_iter().map(|target| (target, None))),
        }
        found.insert(id, Chain::new(base, Reading::Ok(rules)));
    }
    (found, gave_up)
}

fn is_limit(failure: &Failure) -> bool {
    matches!(failure.root(), Failure::TooLarge { .. })
}

/// Limits of the search of one chain.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Number of rules.
    rules: usize,
    /// Whether rules for UDP are collected even beyond the limit.
    for_udp: bool,
}

/// A chain while it is dumped: all rules up to the limit, and those that may match UDP packets. A rule that cannot
/// match UDP is kept undecoded, so that for a chain that turns out too large nothing else is decoded.
#[derive(Default)]
struct Searched {
    rules: Vec<(u32, Waiting)>,
    bytes: usize,
    for_udp: Vec<Rule>,
    too_large: Option<Failure>,
}

enum Waiting {
    Rule(Rule),
    Bytes(Vec<u8>),
}

impl Searched {
    fn add(&mut self, id: &ChainId, position: u32, message: &Message<'_>, room: Room) -> Result<(), Failure> {
        self.bytes += message.body.len();
        if self.bytes > MAX_BYTES {
            self.too_large.get_or_insert_with(|| Failure::too_large(MAX_BYTES, "bytes"));
        }
        if position as usize > room.rules {
            self.too_large.get_or_insert_with(|| Failure::too_large(services::MAX_RULES, "rules"));
        }
        if let Some(failure) = &self.too_large {
            self.rules = Vec::new();
            if !room.for_udp {
                return Err(failure.clone());
            }
        }
        let keep = self.too_large.is_none();
        if room.for_udp && !wire::excludes_udp(message, id) {
            let rule = wire::decode_rule(message, id, position)?;
            self.for_udp.extend(services::meets_udp(&rule).then(|| rule.clone()));
            self.rules.extend(keep.then_some((position, Waiting::Rule(rule))));
        } else if keep {
            self.rules.push((position, Waiting::Bytes(message.body.to_vec())));
        }
        Ok(())
    }

    /// All rules, or none if the chain is too large.
    fn rules(self, kind: u16, id: &ChainId) -> Result<Vec<Rule>, Failure> {
        match self.too_large {
            Some(failure) => Err(failure),
            None => {
                let rules = self.rules.into_iter().map(|(position, waiting)| match waiting {
                    Waiting::Rule(rule) => Ok(rule),
                    Waiting::Bytes(bytes) => wire::decode_rule(&Message { kind, flags: 0, body: &bytes }, id, position),
                });
                rules.collect()
            }
        }
    }
}

/// The rules of one chain with its small verdict maps. Leaving out large ones is no failure of the source.
fn search_chain(reader: &mut RulesetReader<'_, '_>, id: &ChainId, room: Room) -> Reading<Arc<Vec<Rule>>> {
    let request = wire::rules(reader.generation, id);
    let (mut searched, mut kind) = (Searched::default(), 0);
    let dumped = reader.dump(&request, |position, message| {
        if position == 1 {
            searched = Searched::default(); // a change interrupted the dump, which begins anew
        }
        kind = message.kind;
        searched.add(id, position, message, room)?;
        Ok(None::<()>)
    });
    reader.mismatch |= dumped.ok().is_some() && searched.bytes == 0 && reader.occupied.contains(id);
    let for_udp = Arc::new(std::mem::take(&mut searched.for_udp));
    if room.for_udp {
        reader.for_udp.insert(id.clone(), dumped.as_ref().map(|_| for_udp));
    }
    let rules = dumped.decode(|_| searched.rules(kind, id).map_err(|failure| failure.within(&request.name)));
    reader.searched(&request, rules).map(|mut rules| {
        fill_small_maps(reader, &mut rules);
        Arc::new(rules)
    })
}

fn fill_small_maps(reader: &mut RulesetReader<'_, '_>, rules: &mut [Rule]) {
    for step in rules.iter_mut().flat_map(|rule| &mut rule.steps) {
        let Step::Verdict(Verdict::Map { set, verdicts, .. }) = step else { continue };
        let Some(request) = wire::map_of(reader.generation, set).map(|request| request.at_most(MAX_MAP)) else {
            continue;
        };
        let found = reader.try_map(&request, set);
        *verdicts = reader.searched(&request, found);
    }
}

/// Reads only rules that may match UDP packets. Elements of verdict maps are looked up later.
fn follow_for_udp(reader: &mut RulesetReader<'_, '_>, mut open: Vec<ChainId>) {
    let mut found: BTreeMap<ChainId, Chain> = BTreeMap::new();
    while let Some(id) = open.pop() {
        if found.contains_key(&id) || reader.ruleset.chains.contains_key(&id) {
            continue;
        }
        if !reader.for_udp.contains_key(&id) {
            let _ = search_chain(reader, &id, Room { rules: 0, for_udp: true });
        }
        let rules = reader.for_udp.remove(&id).unwrap_or_else(searched);
        let mut chain = Chain::new(None, searched());
        match rules {
            Reading::Ok(rules) => {
                let targets = rules.iter().flat_map(Rule::jumps);
                open.extend(targets.map(|chain| ChainId { chain: chain.clone(), ..id.clone() }));
                chain.udp_rules = Some(rules);
            }
            other => chain.rules = other.map(|_| Arc::default()),
        }
        found.insert(id, chain);
        if found.len() > services::MAX_CHAINS {
            return;
        }
    }
    reader.ruleset.chains.extend(found);
}

/// The rules of a chain that is in use; empty if it does not exist or is unused.
fn well_known(reader: &mut RulesetReader<'_, '_>, id: &ChainId) -> Arc<Vec<Rule>> {
    let request = wire::rules(reader.generation, id);
    let Reading::Ok(rules) = reader.rules(&request, id) else { return Arc::default() };
    reader.looked_at.insert(id.clone(), Arc::clone(&rules));
    let leads_on = |step: &Step| matches!(step, Step::Verdict(Verdict::Map { .. }));
    if !rules.iter().flat_map(|rule| &rule.steps).any(leads_on) {
        let for_udp = rules.iter().filter(|rule| services::meets_udp(rule)).cloned().collect();
        reader.for_udp.insert(id.clone(), Reading::Ok(Arc::new(for_udp)));
    }
    if rules.is_empty() {
        return rules;
    }
    let request = wire::chain(reader.generation, id);
    let users = reader.node.try_single(&request, wire::decode_use);
    reader.asked = true;
    let led_to = match users.failure().and_then(Failure::refused) {
        Some(ENOENT) => false,
        _ => reader.needed(&request, users).ok().copied().flatten().is_some_and(|users| users as usize > rules.len()),
    };
    if led_to { rules } else { Arc::default() }
}

/// Records the first rule that sets each of these bits.
fn note(found: &mut BTreeMap<u32, (ChainId, u32)>, bits: u32, id: &ChainId, rules: &[Rule]) {
    for rule in rules {
        marks::note(found, bits, id, rule.position, &rule.steps);
    }
}
