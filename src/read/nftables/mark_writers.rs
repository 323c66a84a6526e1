//! Whether any rule sets the mark bits that source-NAT rules look for.
//!
//! Such rules stand in the nat chains on prerouting and output, among those of every Service. The chains that are
//! known to hold them are looked at first; that can only find one. All others are searched as far as they are small, and a
//! search that is given up leaves the bit possible.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{RulesetReader, wire};
use crate::facts::netfilter::{Base, Chain, ChainId, Family, Hook, MarkWriters, Rule, Step, Verdict};
use crate::facts::{Failure, Reading};
use crate::netfilter::netlink::Message;
use crate::read::{marks, services};

/// Chain whose rules test a bit, and the chain of the same table whose rule sets it.
const WELL_KNOWN: &[(&str, &str)] = &[
    ("KUBE-POSTROUTING", "KUBE-MARK-MASQ"),
    ("masquerading", "mark-for-masquerade"), // kube-proxy, nftables mode
    ("CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"),
    ("NETAVARK-HOSTPORT-MASQ", "NETAVARK-HOSTPORT-SETMARK"),
];

/// Chains that one search reads.
const MAX_CHAINS: usize = 512;
/// Chains that one leads to, up to which they are not taken for those of Services, which are read last.
const FEW: usize = 64;
/// Bytes that one search reads; a rule takes about 500.
const MAX_BYTES: usize = 4 << 20;
const ENOENT: i32 = 2;
/// A verdict map that leads on is read up to this size.
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
    // Of chains that are too many or too large nothing but the search is known; what failed says so itself.
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

/// Why a chain has no rules.
fn searched() -> Reading<Arc<Vec<Rule>>> {
    Reading::Failed(Failure::not_needed("only searched for rules that set a mark"))
}

/// All of these chains and those that they lead to, as far as they are few, and why some are not known; who sets which bits,
/// in any case. Where it is seen that they are too many, and who sets each bit that is tested, no more of them are read.
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

/// What there is room for in a search.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// Rules of a chain.
    rules: usize,
    /// Those that UDP packets can meet are wanted in any case.
    for_udp: bool,
}

/// A chain while it is dumped, once: all of its rules while there is room, and those that UDP packets can meet. A rule that
/// these cannot meet waits in its bytes, so that of a chain that turns out too large nothing else was decoded.
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

    /// The rules, all of them or none.
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

/// The rules of one chain with the verdicts of its maps, as far as these are small. Not to read them is no failure of the
/// source.
fn search_chain(reader: &mut RulesetReader<'_, '_>, id: &ChainId, room: Room) -> Reading<Arc<Vec<Rule>>> {
    let request = wire::rules(reader.generation, id);
    let (mut searched, mut kind) = (Searched::default(), 0);
    let dumped = reader.dump(&request, |position, message| {
        if position == 1 {
            searched = Searched::default(); // or a change has interrupted the dump, and it begins again
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

/// Only what UDP packets can meet. Whether a verdict map has an element for them is asked later.
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

/// The rules of a chain that is in use; none if it is not there or nothing leads to it.
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

/// Writes down the first rule that sets each of these bits.
fn note(found: &mut BTreeMap<u32, (ChainId, u32)>, bits: u32, id: &ChainId, rules: &[Rule]) {
    for rule in rules {
        marks::note(found, bits, id, rule.position, &rule.steps);
    }
}
