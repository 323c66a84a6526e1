//! nf_tables over nfnetlink: which questions to ask, and the rule set that the answers make up.
//!
//! Everything that is read belongs to one generation of the rule set, which is asked for before and after; the
//! answers are named by it, so that they are remembered as long as it stands. Only what can change a verdict is read:
//! base chains on the hooks that a packet of ours crosses and the chains that they lead to. The nat chains on
//! prerouting and output, where a node has its Services, are only searched for rules that set a mark.

mod expressions;
mod nat;
mod payload;
mod registers;
mod setters;
mod wire;

use std::collections::BTreeSet;
use std::sync::Arc;

use self::wire::Table;
use crate::capture::{Capture, Request};
use crate::decode::modules::{self, Presence};
use crate::decode::sets::{self, Values};
use crate::decode::{Problems, identity, iptables, links, routing};
use crate::snapshot::netfilter::{
    Base, BaseChains, Chain, ChainId, ChainKind, Family, Hook, NatAction, Rule, Ruleset, SetId, Step, Verdict,
};
use crate::snapshot::{Failure, Reading, Source};
pub use expressions::verdict as decode_verdict;

/// How often the rules are read while they change under us.
const MAX_READINGS: usize = 8;
/// Chains that are read; a node with hundreds of pods and network policies has a few thousand.
const MAX_CHAINS: usize = 4096;

/// What there is around the rules.
#[derive(Debug)]
struct Around {
    /// Devices whose egress chains a tunnel's packets cross: tunnels, what leads into them, and what carries them. `None`: no
    /// tunnel is up.
    devices: Option<BTreeSet<String>>,
    /// What sets are asked about.
    values: Values,
}

impl Around {
    /// `None`: the links are still being read.
    fn of(capture: &Capture, links_on: bool) -> Option<Self> {
        if !links_on {
            return Some(Self { devices: None, values: Values::default() });
        }
        if !links::requests(capture).iter().all(|request| capture.has(request)) {
            return None;
        }
        let links = links::known(capture).unwrap_or_default();
        let names: BTreeSet<String> = links::relevant(&links).iter().map(|at| links[*at].name.clone()).collect();
        let values = Values::of(&links, &routing::known_addresses(capture));
        Some(Self { devices: (!names.is_empty()).then_some(names), values })
    }
}

/// What sets are asked about; `None`: the links are still being read.
pub fn values(capture: &Capture, links_on: bool) -> Option<Values> {
    Around::of(capture, links_on).map(|around| around.values)
}

fn module(capture: &Capture) -> Presence {
    modules::presence(capture, &modules::NF_TABLES)
}

/// What to ask.
pub fn requests(capture: &Capture, links_on: bool) -> Vec<Request> {
    match module(capture) {
        Presence::Ask(more) => more,
        Presence::There => read(capture, links_on, &mut Problems::default()).0,
        Presence::Missing(_) | Presence::Unclear(_) => Vec::new(),
    }
}

/// Reads the answers.
pub fn decode(capture: &Capture, links_on: bool, problems: &mut Problems) -> Reading<Arc<Ruleset>> {
    let reading = match module(capture) {
        Presence::There => read(capture, links_on, problems).1,
        Presence::Missing(why) => Reading::Absent(why),
        Presence::Unclear(module) => Reading::Failed(Failure::Unclear { module }),
        Presence::Ask(_) => Reading::Failed(capture.unanswered(&wire::generation(1).name)),
    };
    match reading {
        Reading::Ok(ruleset) => {
            if let Some(why) = &ruleset.incomplete {
                problems.fail(Source::Nftables, why.clone());
            }
            Reading::Ok(ruleset)
        }
        other => {
            problems.set(Source::Nftables, other.as_ref().map(|_| ()));
            other
        }
    }
}

/// Reads the rules until a reading belongs to one generation. Also returns all requests of that reading.
fn read(capture: &Capture, links_on: bool, problems: &mut Problems) -> (Vec<Request>, Reading<Arc<Ruleset>>) {
    let mut asked = vec![wire::generation(1)];
    let Some(Around { devices, values }) = Around::of(capture, links_on) else {
        return (asked, Reading::Failed(capture.unanswered("links")));
    };
    let tested_elsewhere = iptables::tested_bits(capture);
    for round in 1..=MAX_READINGS {
        let generation = match capture.get(&wire::generation(round)).and_then(wire::decode_generation) {
            Reading::Ok(generation) => generation,
            other => return (asked, other.map(|_| Arc::default())),
        };
        let mut attempt = Attempt::new(capture, generation, devices.clone());
        match &capture.last_rules {
            Some(last)
                if (last.generation, &last.devices) == (Some(generation), &devices)
                    && tested_elsewhere & !last.setters.tested == 0 =>
            {
                attempt.again(last);
            }
            _ => attempt.run(tested_elsewhere),
        }
        attempt.ask_sets(&values);
        let mut mine = [asked.clone(), attempt.asked.clone()].concat();
        let after = wire::generation(round + 1);
        if !attempt.pending && !attempt.asked.is_empty() {
            mine.push(after.clone());
            asked.push(after.clone());
            match capture.get(&after).and_then(wire::decode_generation) {
                Reading::Ok(same) if same != generation => continue,
                // The answers have names of this generation, so it cannot be read again in this look.
                Reading::Ok(_) if attempt.torn => {
                    return (mine, Reading::Failed(Failure::Changed { readings: 1 }.within("the rules")));
                }
                Reading::Ok(_) => {}
                other => return (mine, other.map(|_| Arc::default())),
            }
        }
        attempt.ruleset.sets = sets::decode(capture, &attempt.sets_prefix(), &attempt.ruleset, &values, problems);
        return (mine, Reading::Ok(attempt.finish()));
    }
    (asked, Reading::Failed(Failure::Changed { readings: MAX_READINGS as u32 }.within("the rules")))
}

/// A reading of the rules at one generation.
#[derive(Debug)]
struct Attempt<'c> {
    capture: &'c Capture,
    generation: u32,
    devices: Option<BTreeSet<String>>,
    /// Every request so far, answered or not.
    asked: Vec<Request>,
    /// Some are not answered yet.
    pending: bool,
    /// An answer belongs to another generation.
    torn: bool,
    /// Base chains that have rules.
    occupied: BTreeSet<ChainId>,
    /// Part of it may change without a new generation.
    fades: bool,
    /// What UDP packets to Services meet matters although no tunnel is up: the kernel may drop name queries.
    follow_udp: bool,
    ruleset: Ruleset,
}

impl<'c> Attempt<'c> {
    fn new(capture: &'c Capture, generation: u32, devices: Option<BTreeSet<String>>) -> Self {
        let ruleset = Ruleset::default();
        let follow_udp = identity::drops_clashes(capture);
        Self {
            capture,
            generation,
            devices,
            asked: vec![],
            pending: false,
            torn: false,
            occupied: BTreeSet::new(),
            fades: false,
            follow_udp,
            ruleset,
        }
    }

    /// Reads everything; rules of other backends test these bits of the mark.
    fn run(&mut self, tested_elsewhere: u32) {
        let (whole, searched) = self.bases().into_iter().partition(|(_, base)| is_read_whole(base));
        self.follow(whole);
        if !self.pending {
            setters::search(self, searched, tested_elsewhere);
        }
        if !self.pending && self.devices.is_some() {
            self.find_tracking();
        }
    }

    /// A rule starts connection tracking wherever it stands. Where none of those that packets can meet does, the others
    /// are looked at; where these are too many, connections count as tracked.
    fn find_tracking(&mut self) {
        let tables = self.answer(wire::tables(self.generation), wire::decode_tables);
        let tables = tables.ok().cloned().unwrap_or_default();
        for family in [Family::Ipv4, Family::Ipv6] {
            let mine = |other: Family| other == family || other == Family::Inet;
            let met = self.ruleset.chains.iter().filter(|(id, _)| mine(id.family));
            let mut steps = met.flat_map(|(_, chain)| chain.known_rules()).flat_map(|rule| &rule.steps);
            if steps.any(Step::needs_conntrack) {
                continue;
            }
            for table in tables.iter().filter(|table| mine(table.family)) {
                let found = self.answer(wire::table_rules(self.generation, table), wire::decode_needs_conntrack);
                if found.ok().copied().unwrap_or(true) {
                    self.ruleset.tracks.insert(family);
                }
            }
        }
    }

    /// Takes over what was read before at the same generation; only counters have moved since.
    fn again(&mut self, last: &Ruleset) {
        self.ruleset = last.clone();
        for (id, chain) in last.reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]) {
            if chain.known_rules().iter().any(counts_source_nat) {
                let rules = self.with_fresh_counters(id, chain.known_rules());
                self.ruleset.chains.insert(id.clone(), Chain::new(chain.base.clone(), rules));
            }
        }
    }

    /// Rules that are known but for their counters.
    fn with_fresh_counters(&mut self, id: &ChainId, known: &[Rule]) -> Reading<Arc<Vec<Rule>>> {
        let request = wire::counters(self.generation, id);
        let fresh = self.answered_rules(request.clone(), id);
        match &fresh {
            Reading::Ok(rules) => {
                self.torn |= rules.len() != known.len();
                let counted = known.iter().zip(rules.iter());
                let counted = counted.map(|(known, fresh)| Rule { counter: fresh.counter, ..known.clone() });
                Reading::Ok(Arc::new(counted.collect()))
            }
            _ => {
                self.missing(&request, &fresh);
                fresh
            }
        }
    }

    fn sets_prefix(&self) -> String {
        format!("netfilter/nft-{}", self.generation)
    }

    /// Asks sets about the values that matter, once all rules are known.
    fn ask_sets(&mut self, values: &Values) {
        if !self.pending {
            let requests = sets::requests(self.capture, &self.sets_prefix(), &self.ruleset, values);
            self.pending |= requests.iter().any(|request| !self.capture.has(request));
            self.asked.extend(requests);
        }
    }

    fn finish(mut self) -> Arc<Ruleset> {
        self.ruleset.generation = Some(self.generation).filter(|_| !self.pending && !self.fades);
        self.ruleset.devices = self.devices;
        Arc::new(self.ruleset)
    }

    /// Part of the rules is missing. An answer that was not understood, or is too large, stays so.
    fn missing<T>(&mut self, request: &Request, reading: &Reading<T>) {
        let stays = self.capture.get(request).ok().is_some() || reading.failure().is_some_and(Failure::stays);
        self.fades |= !stays;
        self.ruleset.incomplete.get_or_insert_with(|| reading.why());
    }

    /// Asks, and reads the answer.
    fn answer<T>(&mut self, request: Request, decode: impl FnOnce(&[u8]) -> Result<T, Failure>) -> Reading<T> {
        let answer = self.capture.get(&request);
        self.pending |= !self.capture.has(&request);
        if let Reading::Ok(bytes) = &answer {
            self.torn |= !wire::belongs(bytes, self.generation);
        }
        self.asked.push(request);
        answer.decode(decode)
    }

    /// The same; an answer that is no value is an error of the whole source.
    fn needed<T>(&mut self, request: Request, decode: impl FnOnce(&[u8]) -> Result<T, Failure>) -> Reading<T> {
        let reading = self.answer(request.clone(), decode);
        if reading.ok().is_none() {
            self.missing(&request, &reading);
        }
        reading
    }

    /// Base chains of tables that are not dormant, on hooks that matter.
    fn bases(&mut self) -> Vec<(ChainId, Base)> {
        let tables = match self.needed(wire::tables(self.generation), wire::decode_tables) {
            Reading::Ok(tables) => tables,
            other => {
                self.ruleset.base_chains = BaseChains::unread(&other);
                return Vec::new();
            }
        };
        let mut bases = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6, Family::Inet, Family::Netdev, Family::Bridge] {
            let skipped = matches!(family, Family::Netdev | Family::Bridge) && self.devices.is_none();
            if skipped || !tables.iter().any(|table| table.family == family && !table.dormant) {
                continue;
            }
            let request = wire::base_chains(self.generation, family);
            let found = match self.needed(request, wire::decode_base_chains) {
                Reading::Ok(found) => found,
                other => {
                    Hook::ALL.iter().for_each(|hook| self.ruleset.base_chains.lose(family, *hook, &other));
                    continue;
                }
            };
            for found in found {
                if found.in_use {
                    self.occupied.insert(found.id.clone());
                }
                bases.push((found.id, found.base));
            }
        }
        let mine = |base: &Base| match &self.devices {
            _ if base.hook != Hook::Egress => true,
            // A pattern may stand for any device.
            Some(devices) => base.devices.iter().any(|name| name.contains('*') || devices.contains(name)),
            None => false,
        };
        let awake = |id: &ChainId| Table { family: id.family, name: id.table.clone(), dormant: false };
        bases.retain(|(id, base)| tables.contains(&awake(id)) && mine(base));
        for (id, base) in &bases {
            self.ruleset.base_chains.add(base.hook, id.clone());
        }
        bases
    }

    /// Reads these chains and all that they lead to.
    fn follow(&mut self, bases: Vec<(ChainId, Base)>) {
        let mut level: Vec<(ChainId, Option<Base>)> = bases.into_iter().map(|(id, base)| (id, Some(base))).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for (id, base) in level {
                if self.ruleset.chains.contains_key(&id) {
                    continue;
                }
                let rules = if self.ruleset.chains.len() < MAX_CHAINS {
                    self.rules(wire::rules(self.generation, &id), &id)
                } else {
                    let why = format!("more than {MAX_CHAINS} chains are in use; {} is not read", id.chain);
                    self.ruleset.incomplete.get_or_insert_with(|| why.clone());
                    Reading::Failed(Failure::too_large(MAX_CHAINS, "chains in use"))
                };
                let chain = Chain::new(base, rules);
                let targets = chain.known_rules().iter().flat_map(Rule::jumps);
                next.extend(targets.map(|chain| (ChainId { chain: chain.clone(), ..id.clone() }, None)));
                self.ruleset.chains.insert(id, chain);
            }
            level = next;
        }
    }

    /// The rules of one chain, verdict maps filled in.
    fn rules(&mut self, request: Request, id: &ChainId) -> Reading<Arc<Vec<Rule>>> {
        let mut rules = self.answered_rules(request.clone(), id);
        if rules.ok().is_none() {
            self.missing(&request, &rules);
        }
        if let Reading::Ok(rules) = &mut rules {
            let is_map = |step: &Step| matches!(step, Step::Verdict(Verdict::Map { .. }));
            if rules.iter().flat_map(|rule| &rule.steps).any(is_map) {
                let rules: &mut Vec<Rule> = Arc::make_mut(rules);
                self.fill_maps(rules);
            }
        }
        rules
    }

    fn answered_rules(&mut self, request: Request, id: &ChainId) -> Reading<Arc<Vec<Rule>>> {
        let rules = self.capture.rules(&request, |bytes| wire::decode_rules(bytes, id, self.generation));
        self.pending |= !self.capture.has(&request);
        self.torn |= matches!(rules.failure(), Some(Failure::Changed { .. }));
        // While a table is being replaced by one of its name, the kernel finds the old one, in which nothing is valid any
        // more. Chains that rules lead to are asked for after these rules were found, when that is over.
        self.torn |= rules.ok().is_some_and(|rules| rules.is_empty()) && self.occupied.contains(id);
        self.asked.push(request);
        rules
    }

    fn fill_maps(&mut self, rules: &mut [Rule]) {
        for step in rules.iter_mut().flat_map(|rule| &mut rule.steps) {
            if let Step::Verdict(Verdict::Map { set, verdicts, .. }) = step {
                *verdicts = self.map(set);
            }
        }
    }

    fn map(&mut self, id: &SetId) -> Reading<Vec<Verdict>> {
        match wire::map_of(self.generation, id) {
            Some(request) => self.needed(request, |bytes| wire::decode_map(bytes, id)).map(|map| {
                self.fades |= map.fades;
                map.verdicts
            }),
            None => Reading::Failed("an ipset holds no verdicts".into()),
        }
    }
}

/// The nat chains that every new connection to a Service crosses are not read whole.
fn is_read_whole(base: &Base) -> bool {
    base.kind != ChainKind::Nat || matches!(base.hook, Hook::Postrouting | Hook::Input)
}

fn counts_source_nat(rule: &Rule) -> bool {
    let translates = |step: &Step| match step {
        Step::Nat(nat) => matches!(nat.action, NatAction::Masquerade | NatAction::Snat | NatAction::Netmap),
        _ => false,
    };
    rule.counter.is_some() && rule.steps.iter().any(translates)
}

#[cfg(test)]
mod tests;
