//! nf_tables over nfnetlink: generation, tables, base chains, chains reachable from them, sets, generation.
//!
//! All that is read belongs to one generation of the rule set, which is requested before and after. Only what can
//! affect a verdict is read: base chains on relevant hooks and chains reachable from them. The nat chains on prerouting
//! and output, which have the Services of a node, are only searched for rules that write a mark.
//!
//! Every rule dump carries the lower 16 bits of the generation; on a mismatch everything is read again. While the
//! generation is unchanged, a reading requests only the generation, chains with counters, and what changes without it:
//! ipsets, and sets with timeouts or elements added by packets. Decoded rules are kept, not responses.
//!
//! Chains are requested by table and name, so that the kernel filters. The dump of chains cannot be filtered; only its
//! base chains are kept (`capture::Keep`), because a node with thousands of Services has tens of thousands of others.
//!
//! A base chain without rules may be in the middle of a replacement: while a table is replaced by one of the same name,
//! nf_tables briefly shows the new generation without rules. The chain's use count shows that.

mod counters;
mod elements;
mod expressions;
mod headers;
mod loads;
mod maps;
mod mark_writers;
mod registers;
pub(crate) mod sets;
mod verdicts;
pub(super) mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::wire::Table;
use crate::capture::Request;
use crate::facts::netfilter::{
    Base, BaseChains, Chain, ChainId, ChainKind, Family, Hook, Rule, Ruleset, SetId, Step, Verdict,
};
use crate::facts::{Failure, Reading};
use crate::netfilter::netlink::Message;
use crate::read::known::KnownRules;
use crate::read::lookups::Lookups;
use crate::read::sets::OuterValues;
use crate::read::{Node, modules};
pub(crate) use verdicts::decode_verdict;

/// Number of attempts to read the rules within one generation.
const MAX_READINGS: usize = 8;
/// Number of chains that are read: a node with 5,000 network policies and 500 pod devices has some 5,500, a dump each.
const MAX_CHAINS: usize = 16_384;

/// Inputs other than the rules that decide how much is read.
#[derive(Debug, Default)]
pub(crate) struct RulesetInputs {
    /// Devices whose egress chains tunnel packets traverse: upper and underlay devices, tunnels. `None`: no tunnel is
    /// up.
    pub devices: Option<BTreeSet<String>>,
    /// Values to look up in sets that are too large to be read.
    pub values: OuterValues,
    /// Mark bits tested by rules of other backends.
    pub tested_elsewhere: u32,
    /// Whether the kernel may drop DNS queries, so that rules for UDP to Services are read even without a tunnel that
    /// is up.
    pub drops_clashes: bool,
}

/// Reads the rule set. Absent: nf_tables is not built or not loaded.
pub(crate) fn read(node: &mut Node<'_>, inputs: &RulesetInputs) -> Reading<Arc<Ruleset>> {
    node.left.nftables = None;
    let first = wire::generation(1);
    let presence = modules::presence(node, &modules::NF_TABLES);
    let reading = match node.note(&first, presence) {
        Reading::Ok(()) => read_at_one_generation(node, inputs),
        other => return other.map(|()| Arc::default()),
    };
    node.note(&first, reading)
}

/// Reads until everything belongs to one generation.
fn read_at_one_generation(node: &mut Node<'_>, inputs: &RulesetInputs) -> Reading<Arc<Ruleset>> {
    let mut generation = match read_generation(node, 1) {
        Reading::Ok(generation) => generation,
        other => return other.map(|_| Arc::default()),
    };
    for reading in 1..=MAX_READINGS {
        let before = node.sources.clone();
        let mut reader = RulesetReader::new(node, generation, inputs);
        let lookups = match reader.node.memory.nftables.clone() {
            // What did not fit what is remembered is read anew.
            Some(known) if reading == 1 && reader.is_known(&known.ruleset) => {
                counters::refresh(&mut reader, &known);
                known.lookups
            }
            _ => {
                reader.read_all();
                Arc::new(Lookups::of(&reader.ruleset))
            }
        };
        // What sets hold, and about how many values they are asked, may change while the generation stands.
        let sources = reader.node.sources.clone();
        reader.read_sets(&lookups);
        let (mismatch, asked) = (reader.mismatch, reader.asked);
        let ruleset = reader.finish();
        let after = if asked { read_generation(node, reading + 1) } else { Reading::Ok(generation) };
        match after {
            Reading::Ok(after) if after == generation && !mismatch => {
                let keep = ruleset.generation.is_some();
                node.left.nftables = keep.then(|| KnownRules { ruleset: Arc::clone(&ruleset), lookups, sources });
                return Reading::Ok(ruleset);
            }
            Reading::Ok(after) => {
                generation = after;
                node.sources = before; // failures with rules that no longer exist do not count
            }
            other => return other.map(|_| Arc::default()),
        }
    }
    Reading::Failed(Failure::Changed { readings: MAX_READINGS as u32 }.within("the rules"))
}

fn read_generation(node: &mut Node<'_>, number: usize) -> Reading<u32> {
    const ENOENT: i32 = 2;
    const EINVAL: i32 = 22;
    const EOPNOTSUPP: i32 = 95;
    let request = wire::generation(number);
    let found = node.try_answer(&request, wire::decode_generation);
    match found.failure().and_then(Failure::refused) {
        Some(ENOENT | EINVAL | EOPNOTSUPP) => Reading::Absent("this kernel has no nf_tables".into()),
        _ => found,
    }
}

/// Reads the rules of one generation.
struct RulesetReader<'n, 'a> {
    node: &'n mut Node<'a>,
    inputs: &'n RulesetInputs,
    generation: u32,
    /// Whether anything but the generation was requested.
    asked: bool,
    /// Whether a response belonged to another generation.
    mismatch: bool,
    /// All tables; empty if they could not be read.
    tables: Vec<Table>,
    /// Base chains with rules.
    occupied: BTreeSet<ChainId>,
    /// Chains searched for mark writers that may not be part of the rule set.
    looked_at: BTreeMap<ChainId, Arc<Vec<Rule>>>,
    /// For searched chains, the rules that may match UDP packets, with verdict maps not yet filled in.
    for_udp: BTreeMap<ChainId, Reading<Arc<Vec<Rule>>>>,
    /// Whether another reading of the same generation may have a different result.
    volatile: bool,
    /// Bytes of rules and elements so far.
    bytes: usize,
    ruleset: Ruleset,
}

impl<'n, 'a> RulesetReader<'n, 'a> {
    fn new(node: &'n mut Node<'a>, generation: u32, inputs: &'n RulesetInputs) -> Self {
        let (tables, occupied, ruleset) = (Vec::new(), BTreeSet::new(), Ruleset::default());
        let (asked, mismatch, volatile, bytes) = (false, false, false, 0);
        let (looked_at, for_udp) = (BTreeMap::new(), BTreeMap::new());
        Self {
            node,
            inputs,
            generation,
            asked,
            mismatch,
            tables,
            occupied,
            looked_at,
            for_udp,
            volatile,
            bytes,
            ruleset,
        }
    }

    /// Whether an earlier reading at this generation read all that is needed now.
    fn is_known(&self, known: &Ruleset) -> bool {
        known.generation == Some(self.generation)
            && known.devices == self.inputs.devices
            && self.inputs.tested_elsewhere & !known.mark_writers.tested == 0
    }

    fn read_all(&mut self) {
        let (whole, searched) = self.base_chains().into_iter().partition(|(_, base)| is_read_whole(base));
        self.follow(whole);
        mark_writers::search(self, searched);
        self.find_tracking();
    }

    fn read_sets(&mut self, lookups: &Lookups) {
        let prefix = format!("netfilter/nft-{}", self.generation);
        let (node, known) = (&mut *self.node, &self.ruleset.sets);
        let found = sets::read(node, &prefix, self.generation, lookups, known, &self.inputs.values);
        self.asked |= found.asked;
        self.mismatch |= found.mismatch;
        self.volatile |= found.failed;
        // Keep the same object if nothing changed.
        if *self.ruleset.sets != found.sets {
            self.ruleset.sets = found.sets.into();
        }
    }

    fn finish(mut self) -> Arc<Ruleset> {
        self.ruleset.generation = Some(self.generation).filter(|_| !self.volatile && !self.mismatch);
        self.ruleset.devices.clone_from(&self.inputs.devices);
        Arc::new(self.ruleset)
    }

    /// Records a required part, whose failure is one of its source. A temporary failure makes the result volatile.
    fn needed<T>(&mut self, request: &Request, reading: Reading<T>) -> Reading<T> {
        self.lasting(&reading);
        self.node.note(request, reading)
    }

    /// Records a part that is only searched if small; that it is too large is no failure of the source.
    fn searched<T>(&mut self, request: &Request, reading: Reading<T>) -> Reading<T> {
        self.lasting(&reading);
        match reading.failure().map(Failure::root) {
            Some(Failure::TooLarge { .. }) => reading,
            _ => self.node.note(request, reading),
        }
    }

    /// Whether another reading of the same generation would end the same.
    fn lasting<T>(&mut self, reading: &Reading<T>) {
        self.volatile |= reading.may_pass();
    }

    /// Decodes each message of a dump, all of this generation; positions count from 1.
    fn dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(u32, &Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Reading<Vec<T>> {
        let (generation, mut bytes) = (self.generation, 0);
        let found = self.node.try_numbered_dump(request, |number, message| {
            bytes += message.body.len();
            wire::belongs(message, generation)?;
            decode(number, message)
        });
        self.asked = true;
        self.bytes += bytes;
        self.mismatch |= found.failure().is_some_and(|failure| matches!(failure.root(), Failure::Changed { .. }));
        found
    }

    /// Base chains on relevant hooks in tables that are not dormant. A list that was not read is marked so, never
    /// empty.
    fn base_chains(&mut self) -> Vec<(ChainId, Base)> {
        let request = wire::tables(self.generation);
        let tables = self.dump(&request, |_, message| wire::decode_table(message));
        match self.needed(&request, tables) {
            Reading::Ok(tables) => self.tables = tables,
            other => {
                self.ruleset.base_chains = BaseChains::unread(&other);
                return Vec::new();
            }
        }
        let mut bases = Vec::new();
        for family in [Family::Ipv4, Family::Ipv6, Family::Inet, Family::Netdev, Family::Bridge] {
            if self.tables.iter().any(|table| table.family == family && !table.dormant) {
                bases.extend(self.base_chains_of(family));
            }
        }
        bases
    }

    fn base_chains_of(&mut self, family: Family) -> Vec<(ChainId, Base)> {
        let request = wire::base_chains(self.generation, family);
        let found = self.dump(&request, |_, message| wire::decode_base_chain(message));
        let found = match self.needed(&request, found) {
            Reading::Ok(found) => found,
            other => {
                Hook::ALL.iter().for_each(|hook| self.ruleset.base_chains.lose(family, *hook, &other));
                return Vec::new();
            }
        };
        let mut bases = Vec::new();
        for wire::BaseChain { id, hook, base, in_use } in found {
            if !self.tables.contains(&Table { family, name: id.table.clone(), dormant: false }) {
                continue;
            }
            match self.needed(&request, base) {
                Reading::Ok(base) if self.is_met(&base) => {
                    if in_use {
                        self.occupied.insert(id.clone());
                    }
                    self.ruleset.base_chains.add(hook, id.clone());
                    bases.push((id, base));
                }
                Reading::Ok(_) => {}
                other => self.ruleset.base_chains.lose(family, hook, &other),
            }
        }
        bases
    }

    fn is_met(&self, base: &Base) -> bool {
        match &self.inputs.devices {
            _ if base.hook != Hook::Egress => true,
            // A wildcard may match any device.
            Some(devices) => base.devices.iter().any(|name| name.contains('*') || devices.contains(name)),
            None => false,
        }
    }

    /// Reads these chains and all reachable from them.
    fn follow(&mut self, bases: Vec<(ChainId, Base)>) {
        let mut level: Vec<(ChainId, Option<Base>)> = bases.into_iter().map(|(id, base)| (id, Some(base))).collect();
        while !level.is_empty() {
            let mut next = Vec::new();
            for (id, base) in level {
                if self.ruleset.chains.contains_key(&id) {
                    continue;
                }
                let request = wire::rules(self.generation, &id);
                let rules = if self.ruleset.chains.len() < MAX_CHAINS {
                    self.rules(&request, &id)
                } else {
                    let why = Failure::too_large(MAX_CHAINS, "chains in use").within(&id.chain);
                    self.needed(&request, Reading::Failed(why))
                };
                let chain = Chain::new(base, rules);
                let targets = chain.known_rules().iter().flat_map(Rule::jumps);
                next.extend(targets.map(|chain| (ChainId { chain: chain.clone(), ..id.clone() }, None)));
                self.ruleset.chains.insert(id, chain);
            }
            level = next;
        }
    }

    /// The rules of one chain with their verdict maps.
    fn rules(&mut self, request: &Request, id: &ChainId) -> Reading<Arc<Vec<Rule>>> {
        let rules = self.try_rules(request, id);
        self.needed(request, rules).map(|mut rules| {
            for step in rules.iter_mut().flat_map(|rule| &mut rule.steps) {
                if let Step::Verdict(Verdict::Map { set, verdicts, .. }) = step
                    && let Some(request) = wire::map_of(self.generation, set)
                {
                    let found = self.try_map(&request, set);
                    *verdicts = self.needed(&request, found);
                }
            }
            Arc::new(rules)
        })
    }

    fn try_rules(&mut self, request: &Request, id: &ChainId) -> Reading<Vec<Rule>> {
        let rules = self.dump(request, |position, message| wire::decode_rule(message, id, position).map(Some));
        // While a table is replaced by one of the same name, the kernel returns the old one, in which nothing is
        // active. Other chains are requested after the rules that jump to them, by when the replacement is complete.
        self.mismatch |= rules.ok().is_some_and(Vec::is_empty) && self.occupied.contains(id);
        rules
    }

    fn try_map(&mut self, request: &Request, set: &SetId) -> Reading<Vec<Verdict>> {
        let found = self.dump(request, |_, message| wire::decode_elements(message, set).map(Some));
        found.map(|parts| {
            let map = wire::Map::of(parts);
            self.volatile |= map.volatile;
            map.verdicts
        })
    }

    /// A rule enables conntrack in any chain. If no reachable rule does, others are searched; if too many, it is
    /// unknown.
    fn find_tracking(&mut self) {
        for family in [Family::Ipv4, Family::Ipv6] {
            let mine = |other: Family| other == family || other == Family::Inet;
            let met = self.ruleset.chains.iter().filter(|(id, _)| mine(id.family));
            let mut steps = met.flat_map(|(_, chain)| chain.known_rules()).flat_map(|rule| &rule.steps);
            if steps.any(Step::needs_conntrack) {
                continue;
            }
            for table in self.tables.clone().iter().filter(|table| mine(table.family)) {
                let request = wire::table_rules(self.generation, table);
                let found = self.dump(&request, |_, message| wire::needs_conntrack(message).map(Some));
                let found = self.searched(&request, found);
                match found {
                    Reading::Ok(found) if found.contains(&true) => drop(self.ruleset.tracks.insert(family)),
                    Reading::Ok(_) => {}
                    other => drop(self.ruleset.tracking_unread.insert(family, other.why())),
                }
            }
        }
    }
}

/// nat chains that each new connection to a Service traverses are only searched.
fn is_read_whole(base: &Base) -> bool {
    base.kind != ChainKind::Nat || matches!(base.hook, Hook::Postrouting | Hook::Input)
}

#[cfg(test)]
mod tests;
