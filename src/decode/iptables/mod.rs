//! Legacy x_tables (`iptables-legacy`): which tables to ask for, and the rule set that they make up.
//!
//! A table is only asked for if `ip_tables_names` lists it: asking makes it otherwise, and hooks it in. It comes as one
//! blob, which is walked in place from the hooks; only rules that a hook leads to become values. The nat chains on
//! prerouting and output, where a node has its Services, are only searched for rules that set a mark.

mod entry;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;

use self::table::Table;
use crate::capture::{Capture, LastTables, Request, Root, XTABLES_INFO};
use crate::decode::{Problems, always_there, marks, nftables, services, sets};
use crate::snapshot::netfilter::{Base, Chain, ChainId, ChainKind, Family, Hook, Match, Rule, Ruleset, Step};
use crate::snapshot::{Failure, Reading, Source};

/// The half of legacy x_tables that is about one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// `ip_tables`
    Ipv4,
    /// `ip6_tables`
    Ipv6,
}

/// Tables whose rules can change what happens to a packet; there are no others.
const TABLES: &[&str] = &["raw", "mangle", "nat", "filter", "security"];

/// Priority of a table's chain (`enum nf_ip_hook_priorities`).
fn priority(table: &str, hook: Hook) -> i32 {
    match (table, hook) {
        ("raw", _) => -300,
        ("mangle", _) => -150,
        ("nat", Hook::Prerouting | Hook::Output) => -100,
        ("nat", _) => 100,
        ("security", _) => 50,
        _ => 0,
    }
}

fn kind(table: &str, hook: Hook) -> ChainKind {
    match (table, hook) {
        ("nat", _) => ChainKind::Nat,
        ("mangle", Hook::Output) => ChainKind::Route,
        _ => ChainKind::Filter,
    }
}

/// What to ask.
pub fn requests(capture: &Capture, links_on: bool) -> Vec<Request> {
    let mut requests = Vec::new();
    for half in [Half::Ipv4, Half::Ipv6] {
        requests.push(half.names());
        if matches!(capture.get(&half.names()), Reading::Absent(_)) {
            requests.push(neighbour());
        }
        requests.extend(half.infos(capture));
        if half.still_stands(capture) == Some(false) {
            requests.extend(half.tables(capture));
        }
        if let Some(ruleset) = half.ruleset(capture).ok()
            && asks_sets(ruleset)
            && let Some(values) = nftables::values(capture, links_on)
        {
            requests.extend(sets::requests(capture, "", ruleset, &values));
        }
    }
    requests
}

/// The tables that this look has read, for the next ones.
pub fn read_now(capture: &Capture) -> BTreeMap<Source, LastTables> {
    let halves = [Half::Ipv4, Half::Ipv6];
    halves.into_iter().filter_map(|half| Some((half.source(), half.read_now(capture)?))).collect()
}

/// Bits of the mark that rules of legacy tables test, as far as these were read: rules of nf_tables may set them.
pub fn tested_bits(capture: &Capture) -> u32 {
    let rulesets = [Half::Ipv4, Half::Ipv6].map(|half| half.ruleset(capture));
    rulesets.iter().filter_map(Reading::ok).fold(0, |all, ruleset| all | ruleset.setters.tested)
}

/// Every kernel has it, beside the lists of tables.
fn neighbour() -> Request {
    Request::file(Source::XtablesIpv4, Root::Procfs, "thread-self/net/stat/rt_cache").everywhere()
}

fn asks_sets(ruleset: &Ruleset) -> bool {
    let rules = ruleset.chains.values().flat_map(|chain| chain.rules_for_udp().unwrap_or_default());
    rules.flat_map(|rule| &rule.steps).any(|step| matches!(step, Step::Match(Match::Ipset { .. })))
}

impl Half {
    fn source(self) -> Source {
        match self {
            Self::Ipv4 => Source::XtablesIpv4,
            Self::Ipv6 => Source::XtablesIpv6,
        }
    }

    fn family(self) -> Family {
        match self {
            Self::Ipv4 => Family::Ipv4,
            Self::Ipv6 => Family::Ipv6,
        }
    }

    /// The tables that are there, one a line.
    fn names(self) -> Request {
        let name = if self == Self::Ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
        Request::file(self.source(), Root::Procfs, format!("thread-self/net/{name}"))
    }

    fn table(self, name: &str) -> Request {
        // One that has gone since it was listed has no rules.
        Request::xtables(self.source(), self == Self::Ipv6, name).optional()
    }

    fn tables(self, capture: &Capture) -> Vec<Request> {
        let names = capture.text(&self.names());
        let names = names.ok().map_or("", String::as_str);
        TABLES.iter().filter(|table| names.lines().any(|name| name == **table)).map(|name| self.table(name)).collect()
    }

    /// Descriptions of the tables, if there is something to compare them with.
    fn infos(self, capture: &Capture) -> Vec<Request> {
        if !capture.last_tables.contains_key(&self.source()) {
            return Vec::new();
        }
        self.tables(capture).into_iter().map(Request::only_info).collect()
    }

    /// Whether what an earlier look has read still holds, as far as the descriptions tell; `None`: not known yet.
    fn still_stands(self, capture: &Capture) -> Option<bool> {
        let Some(last) = capture.last_tables.get(&self.source()) else { return Some(false) };
        let infos = self.infos(capture);
        if infos.iter().any(|request| !capture.has(request)) {
            return None;
        }
        let same =
            |request: &Request| capture.get(request).ok().copied() == last.infos.get(&request.name).map(Vec::as_slice);
        Some(infos.len() == last.infos.len() && infos.iter().all(same))
    }

    /// What the next looks may take over from this one: only what it has read itself, and without what sets hold.
    fn read_now(self, capture: &Capture) -> Option<LastTables> {
        let tables = self.tables(capture);
        let infos = tables.into_iter().map(|request| {
            let info = capture.get(&request).ok()?.get(..XTABLES_INFO)?.to_vec();
            Some((request.only_info().name, info))
        });
        let infos = infos.collect::<Option<BTreeMap<_, _>>>().filter(|infos| !infos.is_empty())?;
        Some(LastTables { infos, ruleset: self.ruleset(capture).ok()?.clone() })
    }

    /// The rules without what sets hold. Read once all tables have been asked for.
    fn ruleset(self, capture: &Capture) -> Reading<Arc<Ruleset>> {
        let names = always_there(capture, capture.text(&self.names()), &neighbour());
        let names = match names {
            Reading::Ok(names) => names,
            other => return other.map(|_| Arc::default()),
        };
        match (self.still_stands(capture), capture.last_tables.get(&self.source())) {
            (Some(true), Some(last)) => return Reading::Ok(Arc::clone(&last.ruleset)),
            (None, _) => return Reading::Failed(capture.unanswered("the tables' descriptions")),
            _ => {}
        }
        capture.ruleset(self.source(), &self.tables(capture), || {
            let mut ruleset = Ruleset::default();
            for name in TABLES.iter().filter(|table| names.lines().any(|name| name == **table)) {
                let answer = capture.get(&self.table(name));
                let answer = answer.decode(|bytes| {
                    let described = |error: Failure| error.within(format_args!("table {name}"));
                    let table = Table::new(bytes, self.family(), name).map_err(described)?;
                    add(&mut ruleset, &table, name, services::MAX_RULES).map_err(described)
                });
                if !matches!(answer, Reading::Ok(()) | Reading::Absent(_)) {
                    return answer.map(|()| Arc::default());
                }
            }
            let mut setters = std::mem::take(&mut ruleset.setters);
            marks::note_whole_chains(&mut setters, &ruleset);
            setters.none = setters.missing();
            ruleset.setters = setters;
            Reading::Ok(Arc::new(ruleset))
        })
    }

    /// Reads the answers.
    pub fn decode(self, capture: &Capture, links_on: bool, problems: &mut Problems) -> Reading<Arc<Ruleset>> {
        let reading = problems.note(self.source(), self.ruleset(capture));
        reading.map(|ruleset| {
            let values = if asks_sets(&ruleset) { nftables::values(capture, links_on) } else { None };
            let Some(values) = values else { return ruleset };
            let sets = sets::decode(capture, "", &ruleset, &values, problems);
            Arc::new(Ruleset { sets, ..Arc::unwrap_or_clone(ruleset) })
        })
    }
}

/// Adds the rules of a table; the chains of Services whole if the table has no more than `few` entries.
fn add(ruleset: &mut Ruleset, table: &Table<'_>, name: &str, few: usize) -> Result<(), Failure> {
    let (mut whole, mut searched) = (Vec::new(), Vec::new());
    for (number, chain) in table.chains.iter().enumerate() {
        let Some(hook) = chain.hook else { continue };
        let services = kind(name, hook) == ChainKind::Nat && matches!(hook, Hook::Prerouting | Hook::Output);
        if services && table.count > few { searched.push(number) } else { whole.push(number) }
    }
    let mut seen = vec![false; table.chains.len()];
    while let Some(number) = whole.pop() {
        if std::mem::replace(&mut seen[number], true) {
            continue;
        }
        let mut rules = Vec::new();
        for (position, entry) in (1..).zip(table.rules(&table.chains[number])) {
            let entry = entry?;
            whole.extend(entry::jump(table, &entry)?.map(|(chain, _)| chain));
            let rule = entry::rule(table, &entry, position);
            rules.push(rule.map_err(|error| within_rule(error, table, number, position))?);
        }
        insert(ruleset, table, number, name, Reading::Ok(Arc::new(rules)))?;
    }
    if name == "nat" {
        ruleset.setters.tested = marks::all_tested(ruleset);
        search(ruleset, table, name)?;
        follow_for_udp(ruleset, table, &searched, name)?;
    }
    find_tracking(ruleset, table, &seen, few)?;
    for number in searched {
        if !ruleset.chains.contains_key(&id(table, number, name)) {
            insert(ruleset, table, number, name, Reading::Failed(Failure::not_needed(SEARCHED)))?;
        }
    }
    Ok(())
}

/// A rule starts connection tracking wherever it stands, also in chains that no hook leads to. Where these are too many,
/// connections count as tracked.
fn find_tracking(ruleset: &mut Ruleset, table: &Table<'_>, seen: &[bool], few: usize) -> Result<(), Failure> {
    let mut tracks = table.count > few;
    let unseen = table.chains.iter().enumerate().filter(|(number, _)| !seen[*number]);
    for (number, chain) in unseen.filter(|_| table.count <= few) {
        for (position, entry) in (1..).zip(table.rules(chain)) {
            let rule = entry::rule(table, &entry?, position);
            let rule = rule.map_err(|error| within_rule(error, table, number, position))?;
            tracks |= rule.steps.iter().any(Step::needs_conntrack);
        }
    }
    if tracks {
        ruleset.tracks.insert(table.family);
    }
    Ok(())
}

/// Why a chain has no rules.
const SEARCHED: &str = "only searched for rules that set a mark";

fn insert(
    ruleset: &mut Ruleset,
    table: &Table<'_>,
    number: usize,
    name: &str,
    rules: Reading<Arc<Vec<Rule>>>,
) -> Result<(), Failure> {
    let (id, base) = (id(table, number, name), base(table, number, name)?);
    if let Some(base) = &base {
        ruleset.base_chains.add(base.hook, id.clone());
    }
    match ruleset.chains.insert(id, Chain::new(base, rules)) {
        Some(_) => Err(Failure::unexpected(format!("two chains {}", table.name(&table.chains[number])))),
        None => Ok(()),
    }
}

/// Only what outer packets of tunnels can meet, in chains that are too many to be read whole.
fn follow_for_udp(ruleset: &mut Ruleset, table: &Table<'_>, searched: &[usize], name: &str) -> Result<(), Failure> {
    let on_output = |number: &&usize| table.chains[**number].hook == Some(Hook::Output);
    let mut open: Vec<usize> = searched.iter().filter(on_output).copied().collect();
    let mut found = BTreeMap::new();
    while let Some(number) = open.pop() {
        if found.contains_key(&number) || ruleset.chains.contains_key(&id(table, number, name)) {
            continue;
        }
        let mut rules = Vec::new();
        for (position, entry) in (1..).zip(table.rules(&table.chains[number])) {
            let entry = entry?;
            if !entry::can_be_udp(table, &entry)? {
                continue;
            }
            let rule = entry::rule(table, &entry, position);
            let rule = rule.map_err(|error| within_rule(error, table, number, position))?;
            if services::can_be_udp(&rule) {
                open.extend(entry::jump(table, &entry)?.map(|(chain, _)| chain));
                rules.push(rule);
            }
        }
        found.insert(number, rules);
        if found.len() > services::MAX_CHAINS {
            return Ok(());
        }
    }
    for (number, rules) in found {
        insert(ruleset, table, number, name, Reading::Failed(Failure::not_needed(SEARCHED)))?;
        if let Some(chain) = ruleset.chains.get_mut(&id(table, number, name)) {
            chain.udp_rules = Some(Arc::new(rules));
        }
    }
    Ok(())
}

fn within_rule(error: Failure, table: &Table<'_>, number: usize, position: u32) -> Failure {
    error.within(format_args!("rule {position} of {}", table.name(&table.chains[number])))
}

fn id(table: &Table<'_>, number: usize, name: &str) -> ChainId {
    ChainId { family: table.family, table: name.into(), chain: table.name(&table.chains[number]) }
}

fn base(table: &Table<'_>, number: usize, name: &str) -> Result<Option<Base>, Failure> {
    let chain = &table.chains[number];
    let Some(hook) = chain.hook else { return Ok(None) };
    let drops = table.drops(chain)?;
    Ok(Some(Base { hook, kind: kind(name, hook), priority: priority(name, hook), drops, devices: Vec::new() }))
}

/// Looks for rules that set a mark, in every chain that prerouting and output lead to. Any bit counts: rules of another
/// backend may test it.
fn search(ruleset: &mut Ruleset, table: &Table<'_>, name: &str) -> Result<(), Failure> {
    let first = |hook| matches!(hook, Some(Hook::Prerouting | Hook::Output));
    let chains = table.chains.iter().enumerate();
    let mut open: Vec<usize> = chains.filter(|(_, chain)| first(chain.hook)).map(|(number, _)| number).collect();
    let setters = &mut ruleset.setters;
    let mut seen = vec![false; table.chains.len()];
    while let Some(number) = open.pop() {
        if std::mem::replace(&mut seen[number], true) {
            continue;
        }
        let chain = &table.chains[number];
        for next in table.jumps(chain) {
            open.push(next?);
        }
        for (position, entry) in (1..).zip(table.rules(chain)).take_while(|_| chain.other_targets) {
            let entry = entry?;
            if entry.target_name().is_empty() {
                continue;
            }
            let steps = entry::target(table, &entry).and_then(|target| crate::decode::xtables::decode_target(&target));
            let steps = steps.map_err(|error| within_rule(error, table, number, position))?;
            if steps.iter().any(|step| matches!(step, Step::SetMark(_) | Step::SetConnectionMark(_) | Step::Opaque(_)))
            {
                marks::note(&mut setters.found, u32::MAX, &id(table, number, name), position, &steps);
            }
        }
    }
    setters.none = setters.missing();
    Ok(())
}

#[cfg(test)]
mod tests;
