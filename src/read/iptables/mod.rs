//! Legacy x_tables (`iptables-legacy`): which tables to request, and the rule set that they form.
//!
//! Only tables listed in `ip_tables_names` are requested, because a request creates and registers a missing table. A
//! table comes as one blob, which is traversed in place from the hooks; only reachable rules are decoded. The nat
//! chains on prerouting and output, which have the Services of a node, are only searched for rules that write a mark.
//!
//! The kernel returns whole tables only. Its description (`IPT_SO_GET_INFO`) is read before and after,
//! because a replacement of equal size succeeds with other chain offsets. The blob is freed at the end of the reading.
//! If a family's tables exceed 1 MiB, decoded rules are kept for 30 s while the descriptions stay the same.

mod entry;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::capture::{Request, Root};
use crate::facts::netfilter::{Base, Chain, ChainId, ChainKind, Family, Hook, Rule, Ruleset, Step};
use crate::facts::{Failure, Name, Reading, Source, SystemCall};
use crate::netfilter::xtables::{IptGetinfo, Structure, XtFamily, XtTable};
use crate::read::known::KnownTables;
use crate::read::lookups::Lookups;
use crate::read::{Node, marks, services};

/// Legacy x_tables of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LegacyFamily {
    /// `ip_tables`
    Ipv4,
    /// `ip6_tables`
    Ipv6,
}

/// Tables of a family up to this size in bytes are read in each reading, for smooth counter rates: about 3,000 rules.
/// Larger ones are remembered.
const READ_EACH_TIME: usize = 1 << 20;

/// All tables that can affect packets.
const TABLES: &[&str] = &["raw", "mangle", "nat", "filter", "security"];

/// Priority of a table's base chain (`enum nf_ip_hook_priorities`).
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

impl LegacyFamily {
    fn source(self) -> Source {
        match self {
            Self::Ipv4 => Source::XtablesIpv4,
            Self::Ipv6 => Source::XtablesIpv6,
        }
    }

    /// The list of registered tables, one per line.
    fn names(self) -> Request {
        let name = if self == Self::Ipv6 { "ip6_tables_names" } else { "ip_tables_names" };
        Request::file(self.source(), Root::Procfs, format!("thread-self/net/{name}"))
    }

    fn family(self) -> XtFamily {
        match self {
            Self::Ipv4 => XtFamily::Ipv4,
            Self::Ipv6 => XtFamily::Ipv6,
        }
    }

    fn table(self, name: &str) -> Request {
        Request::xtables(self.source(), self.family(), name)
    }

    /// Reads the listed tables. Absent: the kernel has no legacy x_tables of this family.
    pub(crate) fn read(self, node: &mut Node<'_>) -> Reading<Arc<Ruleset>> {
        self.read_remembering(node, READ_EACH_TIME)
    }

    /// Like [`Self::read`], remembering tables of more than `small` bytes.
    fn read_remembering(self, node: &mut Node<'_>, small: usize) -> Reading<Arc<Ruleset>> {
        let listed = match node.text(&self.names()) {
            Reading::Ok(names) => listed(&names),
            other => return other.map(|_| Arc::default()),
        };
        let ruleset = match self.still_known(node, &listed) {
            Some(known) => Reading::Ok(known),
            None => self.read_tables(node, &listed, small),
        };
        node.note(&self.names(), ruleset)
    }

    /// The rule set of an earlier reading, if the tables' descriptions are unchanged.
    fn still_known(self, node: &mut Node<'_>, listed: &[&'static str]) -> Option<Arc<Ruleset>> {
        let known = node.memory.tables.get(&self.source())?;
        let mut infos = listed.iter().map(|table| self.table(table).only_info());
        let same = |request: Request| {
            let info = node.try_bytes(&request);
            info.ok().is_some() && info.ok() == known.infos.get(&request.name)
        };
        (listed.len() == known.infos.len() && infos.all(same)).then(|| Arc::clone(&known.ruleset))
    }

    fn read_tables(self, node: &mut Node<'_>, listed: &[&'static str], small: usize) -> Reading<Arc<Ruleset>> {
        node.left.tables.remove(&self.source());
        let (mut ruleset, mut infos, mut size) = (Ruleset::default(), BTreeMap::new(), 0);
        for name in listed {
            let request = self.table(name);
            let answer = node.try_bytes(&request);
            if is_refused(&answer) && !self.is_still_listed(node, name) {
                continue; // unregistered in the meantime
            }
            let added = answer.decode(|bytes| {
                let table = XtTable::new(&bytes, self.family(), name)?;
                size += bytes.len();
                infos.extend(bytes.get(..IptGetinfo::SIZE).map(|info| (request.only_info().name, info.to_vec())));
                add(&mut ruleset, &table, name, services::MAX_RULES)
            });
            if added.ok().is_none() {
                return added.within(format_args!("table {name}")).map(|()| Arc::default());
            }
        }
        let mut mark_writers = std::mem::take(&mut ruleset.mark_writers);
        marks::note_whole_chains(&mut mark_writers, &ruleset);
        mark_writers.none = mark_writers.missing();
        ruleset.mark_writers = mark_writers;
        let ruleset = Arc::new(ruleset);
        if size > small {
            let lookups = Arc::new(Lookups::of(&ruleset));
            let known = KnownTables { infos, ruleset: Arc::clone(&ruleset), lookups, since: None };
            node.left.tables.insert(self.source(), known);
        }
        Reading::Ok(ruleset)
    }

    /// An errno does not show that a table is absent, as sandboxes cause it too; the list does.
    fn is_still_listed(self, node: &mut Node<'_>, table: &str) -> bool {
        node.try_text(&self.names()).ok().is_none_or(|names| listed(names).contains(&table))
    }
}

/// Those of [`TABLES`] that are listed.
fn listed(names: &str) -> Vec<&'static str> {
    TABLES.iter().copied().filter(|table| names.lines().any(|name| name == *table)).collect()
}

fn is_refused<T>(reading: &Reading<T>) -> bool {
    let failure = reading.failure().map(Failure::root);
    matches!(failure, Some(Failure::SystemCall { call: SystemCall::GetSocketOption, .. }))
}

/// Adds a table's rules. Chains on prerouting and output are decoded completely only if the table has at most `few`
/// entries.
fn add(ruleset: &mut Ruleset, table: &XtTable<'_>, name: &str, few: usize) -> Result<(), Failure> {
    let (mut whole, mut searched) = (Vec::new(), Vec::new());
    for number in 0..table.chains.len() {
        let Some(hook) = hook(table, number) else { continue };
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
        ruleset.mark_writers.tested = marks::all_tested(ruleset);
        search(ruleset, table, name)?;
        follow_for_udp(ruleset, table, &searched, name)?;
    }
    find_tracking(ruleset, table, &seen, few)?;
    for number in searched {
        if !ruleset.chains.contains_key(&id(table, number, name)) {
            insert(ruleset, table, number, name, only_searched())?;
        }
    }
    Ok(())
}

/// A rule enables conntrack even in an unreachable chain. If the table is too large to search, that is not known.
fn find_tracking(ruleset: &mut Ruleset, table: &XtTable<'_>, seen: &[bool], few: usize) -> Result<(), Failure> {
    if table.count > few {
        let why = format!("more than {few} rules, too many to search all for one that starts connection tracking");
        ruleset.tracking_unread.insert(family(table), why);
        return Ok(());
    }
    let mut tracks = false;
    let unseen = table.chains.iter().enumerate().filter(|(number, _)| !seen[*number]);
    for (number, chain) in unseen {
        for (position, entry) in (1..).zip(table.rules(chain)) {
            let rule = entry::rule(table, &entry?, position);
            let rule = rule.map_err(|error| within_rule(error, table, number, position))?;
            tracks |= rule.steps.iter().any(Step::needs_conntrack);
        }
    }
    if tracks {
        ruleset.tracks.insert(family(table));
    }
    Ok(())
}

/// The rules of a chain that was only searched.
fn only_searched() -> Reading<Arc<Vec<Rule>>> {
    Reading::Failed(Failure::not_needed("only searched for rules that set a mark"))
}

fn insert(
    ruleset: &mut Ruleset,
    table: &XtTable<'_>,
    number: usize,
    name: &str,
    rules: Reading<Arc<Vec<Rule>>>,
) -> Result<(), Failure> {
    let (id, base) = (id(table, number, name), base(table, number, name)?);
    if let Some(base) = &base {
        ruleset.base_chains.add(base.hook, id.clone());
    }
    match ruleset.chains.insert(id, Chain::new(base, rules)) {
        Some(_) => Err(Failure::unexpected(format!("two chains {}", name_of(table, number)))),
        None => Ok(()),
    }
}

/// Decodes the rules that outer packets of tunnels may match, where chains are too many to be decoded completely.
fn follow_for_udp(ruleset: &mut Ruleset, table: &XtTable<'_>, searched: &[usize], name: &str) -> Result<(), Failure> {
    let on_output = |number: &&usize| hook(table, **number) == Some(Hook::Output);
    let mut open: Vec<usize> = searched.iter().filter(on_output).copied().collect();
    let mut found = BTreeMap::new();
    while let Some(number) = open.pop() {
        if found.contains_key(&number) || ruleset.chains.contains_key(&id(table, number, name)) {
            continue;
        }
        let mut rules = Vec::new();
        for (position, entry) in (1..).zip(table.rules(&table.chains[number])) {
            let entry = entry?;
            if !entry::can_be_udp(&entry) {
                continue;
            }
            let rule = entry::rule(table, &entry, position);
            let rule = rule.map_err(|error| within_rule(error, table, number, position))?;
            if services::meets_udp(&rule) {
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
        insert(ruleset, table, number, name, only_searched())?;
        if let Some(chain) = ruleset.chains.get_mut(&id(table, number, name)) {
            chain.udp_rules = Some(Arc::new(rules));
        }
    }
    Ok(())
}

fn within_rule(error: Failure, table: &XtTable<'_>, number: usize, position: u32) -> Failure {
    error.within(format_args!("rule {position} of {}", name_of(table, number)))
}

fn family(table: &XtTable<'_>) -> Family {
    if table.family == XtFamily::Ipv6 { Family::Ipv6 } else { Family::Ipv4 }
}

/// Hook of a built-in chain; `None` for others.
fn hook(table: &XtTable<'_>, number: usize) -> Option<Hook> {
    /// `NF_INET_*`
    const HOOKS: [Hook; 5] = [Hook::Prerouting, Hook::Input, Hook::Forward, Hook::Output, Hook::Postrouting];
    table.chains[number].hook.map(|hook| HOOKS[hook])
}

fn name_of(table: &XtTable<'_>, number: usize) -> Name {
    Name::from_bytes(table.name(&table.chains[number]))
}

fn id(table: &XtTable<'_>, number: usize, name: &str) -> ChainId {
    ChainId { family: family(table), table: name.into(), chain: name_of(table, number) }
}

fn base(table: &XtTable<'_>, number: usize, name: &str) -> Result<Option<Base>, Failure> {
    let Some(hook) = hook(table, number) else { return Ok(None) };
    let drops = table.drops(&table.chains[number])?;
    Ok(Some(Base { hook, kind: kind(name, hook), priority: priority(name, hook), drops, devices: Vec::new() }))
}

/// Searches all chains reachable from prerouting and output for rules that write a mark, with any bit, since rules of
/// another backend may test it.
fn search(ruleset: &mut Ruleset, table: &XtTable<'_>, name: &str) -> Result<(), Failure> {
    let first = |number: &usize| matches!(hook(table, *number), Some(Hook::Prerouting | Hook::Output));
    let mut open: Vec<usize> = (0..table.chains.len()).filter(first).collect();
    let mark_writers = &mut ruleset.mark_writers;
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
            let steps = entry::target(table, &entry?);
            let steps = steps.map_err(|error| within_rule(error, table, number, position))?;
            if steps
                .iter()
                .any(|step| matches!(step, Step::SetMark(_) | Step::SetConnectionMark(_) | Step::Unsupported { .. }))
            {
                marks::note(&mut mark_writers.found, u32::MAX, &id(table, number, name), position, &steps);
            }
        }
    }
    mark_writers.none = mark_writers.missing();
    Ok(())
}

#[cfg(test)]
mod tests;
