//! The inputs of walks: rules of all backends, links, and local addresses.

pub(crate) mod host;
pub(crate) mod slice;
pub(crate) mod survey;
mod translations;
pub(crate) mod unread;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use self::host::{Device, HostFacts, OwnAddresses, own_addresses, taking};
use self::survey::{Relevant, Survey};
pub(crate) use self::unread::Hit;
use self::unread::is_unread_map;
use super::happens::Happens;
use super::values::Numbers;
use crate::facts::netfilter::{Backend, Chain, ChainId, ChainKind, Family, Rule, Ruleset, SetId, Step, Verdict};
use crate::facts::{Facts, Link, Question, Reading};

/// A rule set with its backend.
#[derive(Clone, Copy, Debug)]
pub struct BackendRules<'a> {
    /// Whether it is of legacy tables; else of nf_tables.
    pub legacy: bool,
    /// The rule set.
    pub ruleset: &'a Ruleset,
}

/// Everything that packets traverse. Walks use nothing else of the node but [`super::TunnelFacts`], so their results
/// are a function of both.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// Unordered; hooks define the order.
    pub rules: Vec<BackendRules<'a>>,
    /// Devices; `None`: not read.
    pub devices: Option<Vec<Device<'a>>>,
    /// Addresses with a type, by family (IPv4, IPv6); `None`: not read.
    pub own: [Option<OwnAddresses>; 2],
    /// Whether each address given by SNAT rules is local, as far as it was read.
    pub local_sources: BTreeMap<IpAddr, bool>,
    /// Whether IPsec applies to packets. `Err`: not read.
    pub ipsec: Result<bool, Question>,
    /// Other facts about this host.
    pub host: HostFacts,
    /// What rules distinguish, found on first use.
    pub(super) survey: OnceCell<Survey>,
    /// Results of searches through all rules.
    pub(super) remembered: Remembered,
}

/// Results of searches through all rules, by key.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    leads_to: RefCell<BTreeMap<(Wanted, usize, ChainId), bool>>,
    unread: RefCell<BTreeMap<Family, Option<Question>>>,
    steps: RefCell<BTreeMap<(usize, ChainId), usize>>,
    unread_sets: RefCell<BTreeMap<usize, Option<Question>>>,
    doubtful: OnceCell<Option<(u32, Question)>>,
    elsewhere: RefCell<BTreeMap<u32, Option<String>>>,
    pub(super) destinations: RefCell<BTreeMap<(Family, bool), Happens>>,
    /// By family and whether on output: see [`Network::targets`].
    pub(super) targets: RefCell<BTreeMap<(Family, bool), Targets>>,
    /// By family: see [`Network::answered`].
    pub(super) answered: RefCell<BTreeMap<Family, Option<Numbers>>>,
}

/// Destinations that rules give, and why there may be others.
pub(super) type Targets = (Numbers, Option<Question>);

/// Commands that list the rules: nf_tables, and legacy iptables of both families.
const DUMPS: [&str; 3] = ["nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save"];

/// Kinds of steps that are searched for in a chain and those it jumps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// Steps that do anything but let packets pass.
    Effect,
    /// Steps that write what other rules test.
    Write,
    /// Steps that set timeouts of entries.
    Timeout,
    /// Steps that do more than drop packets or write irrelevant mark bits.
    Mark(Relevant),
}

/// Whether something happens, with the rule concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Whether it happens.
    pub happens: Happens,
    /// Where; empty if nowhere.
    pub place: String,
}

/// Location of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleAt {
    /// Index in [`Network::rules`].
    pub set: usize,
    /// Its chain.
    pub chain: ChainId,
    /// Position in its chain, from 1; 0: the chain, which was not read.
    pub position: u32,
}

impl<'a> Network<'a> {
    /// From a node's facts. `Err`: a backend whose rules could not be read, and why.
    pub fn new(facts: &'a Facts) -> Result<Self, Question> {
        let mut rules = Vec::new();
        let readings = [(&facts.nftables, false), (&facts.legacy_ipv4, true), (&facts.legacy_ipv6, true)];
        for (number, (reading, legacy)) in readings.into_iter().enumerate() {
            match reading {
                Reading::Ok(ruleset) => rules.push(BackendRules { legacy, ruleset }),
                Reading::Absent(_) => {} // a fact: no rules
                other @ (Reading::Denied(_) | Reading::Failed(_)) => {
                    return Err(Question::unread(other).shown_by(DUMPS[number].split(' ')));
                }
            }
        }
        let own = Family::IP.map(|family| own_addresses(facts, family));
        let taking = taking(facts.known_links());
        let device = |link: &'a Link| Device {
            index: link.index,
            name: &link.name,
            group: link.group,
            kind: link.kind.as_deref(),
            hardware_type: link.hardware_type,
            up: link.up && link.master.is_none_or(|master| !taking.contains(&master)),
        };
        let devices = facts.links.ok().map(|links| links.iter().map(device).collect());
        let ipsec = match &facts.ipsec {
            Reading::Ok(stands) => Ok(*stands),
            Reading::Absent(_) => Ok(false),
            unread => Err(Question::unread(unread).shown_by(["ip", "xfrm", "policy"])),
        };
        let local_sources = facts.local_sources.ok().cloned().unwrap_or_default();
        Ok(Self { ipsec, local_sources, host: HostFacts::of(facts), ..Self::of(rules, devices, own) })
    }

    /// From its parts.
    pub(super) fn of(
        rules: Vec<BackendRules<'a>>,
        devices: Option<Vec<Device<'a>>>,
        own: [Option<OwnAddresses>; 2],
    ) -> Self {
        Self {
            rules,
            devices,
            own,
            local_sources: BTreeMap::new(),
            ipsec: Err("not read".into()),
            host: HostFacts::unread("not read"),
            survey: OnceCell::new(),
            remembered: Remembered::default(),
        }
    }

    /// What rules distinguish packets by, found on first use.
    pub fn survey(&self) -> &Survey {
        self.survey.get_or_init(|| Survey::of(self))
    }

    /// A chain by id; `None`: not read.
    pub fn chain(&self, set: usize, id: &ChainId) -> Option<&'a Chain> {
        self.rules[set].ruleset.chains.get(id)
    }

    /// `rule 3 of chain POSTROUTING (legacy table ip nat)`
    pub fn describe(&self, at: &RuleAt) -> String {
        if at.position == 0 {
            return self.describe_chain(at.set, &at.chain);
        }
        format!("rule {} of {}", at.position, self.describe_chain(at.set, &at.chain))
    }

    /// `chain POSTROUTING (legacy table ip nat)`
    pub fn describe_chain(&self, set: usize, id: &ChainId) -> String {
        let backend = if self.rules[set].legacy { "legacy " } else { "" };
        format!("chain {} ({backend}table {} {})", id.chain, family_word(id.family), id.table)
    }

    /// A question about a rule, or about an unread chain (position 0), with the command that lists it.
    pub fn question(&self, at: &RuleAt, text: impl Into<Question>) -> Question {
        let RuleAt { chain: ChainId { family, table, chain }, .. } = at;
        let (table, chain) = (table.to_string(), chain.to_string());
        let program = match (self.backend(at), *family) {
            (Backend::Legacy, Family::Ipv6) => "ip6tables-legacy",
            (Backend::Legacy, _) => "iptables-legacy",
            (Backend::IptablesNft, Family::Ipv6) => "ip6tables-nft",
            (Backend::IptablesNft, Family::Ipv4) => "iptables-nft",
            (Backend::IptablesNft | Backend::Nftables, family) => {
                return text.into().shown_by(["nft", "-a", "list", "chain", family_word(family), &table, &chain]);
            }
        };
        text.into().shown_by([program, "-t", &table, "-S", &chain])
    }

    /// Backend of a rule: x_tables in nf_tables, native, or legacy.
    pub fn backend(&self, at: &RuleAt) -> Backend {
        let legacy = self.rules[at.set].legacy;
        let unread = if legacy { Backend::Legacy } else { Backend::Nftables };
        self.rule(at).map_or(unread, |rule| Backend::of(rule, legacy))
    }

    /// A rule by location; `None`: not read.
    pub fn rule(&self, at: &RuleAt) -> Option<&'a Rule> {
        self.chain(at.set, &at.chain)?.known_rules().iter().find(|rule| rule.position == at.position)
    }

    /// Chains that packets of a family may traverse: index in [`Network::rules`], id, chain.
    pub fn chains_of(&self, family: Family) -> impl Iterator<Item = (usize, &'a ChainId, &'a Chain)> + use<'a, '_> {
        let meets = move |id: &ChainId| matches!(id.family, Family::Inet | Family::Netdev) || id.family == family;
        self.rules.iter().enumerate().flat_map(move |(set, rules)| {
            rules.ruleset.chains.iter().filter(move |(id, _)| meets(id)).map(move |(id, chain)| (set, id, chain))
        })
    }

    /// Whether a chain on output causes re-routing of packets whose mark it changes.
    pub fn reroutes(&self, set: usize, id: &ChainId) -> bool {
        let route = |chain: &Chain| chain.base.as_ref().is_some_and(|base| base.kind == ChainKind::Route);
        if self.rules[set].legacy { id.table == "mangle" } else { self.chain(set, id).is_some_and(route) }
    }

    /// Whether a chain, or one it jumps to, does anything but let packets pass.
    pub fn has_effect(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Effect, set, id)
            || self.chain(set, id).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.drops)
    }

    /// Whether a chain, or one it jumps to, writes what other chains test.
    pub fn writes(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Write, set, id)
    }

    /// Whether a chain, or one it jumps to, sets timeouts of entries.
    pub fn sets_timeouts(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Timeout, set, id)
    }

    /// Whether a chain, or one it jumps to, may write a relevant mark bit, or do anything else but drop packets.
    pub fn writes_marks(&self, set: usize, id: &ChainId, relevant: Relevant) -> bool {
        self.leads_to_wanted(Wanted::Mark(relevant), set, id)
    }

    fn leads_to_wanted(&self, wanted: Wanted, of: usize, id: &ChainId) -> bool {
        let is_wanted = |step: &Step| match wanted {
            Wanted::Effect | Wanted::Write if self.survey().fills(of, step) => true,
            Wanted::Effect => is_effect(step),
            Wanted::Write => {
                is_effect(step)
                    && !matches!(step, Step::Nat(_) | Step::OwnTimeout | Step::Verdict(Verdict::Drop | Verdict::Reset))
            }
            Wanted::Timeout => matches!(step, Step::OwnTimeout),
            Wanted::Mark(relevant) => slice::writes_marks(step, relevant),
        };
        recall(&self.remembered.leads_to, (wanted, of, id.clone()), || self.leads_to(of, id, is_wanted))
    }

    /// Why rules for packets of a family may be missing: the first unread part. `None`: all was read.
    pub fn unread(&self, family: Family) -> Option<Question> {
        recall(&self.remembered.unread, family, || self.find_unread(family))
    }

    /// The same for a rule set, for all packets.
    pub fn unread_in_set(&self, set: usize) -> Option<Question> {
        recall(&self.remembered.unread_sets, set, || self.find_unread_in_set(set))
    }

    /// Mark bits that rules may set beyond those known to be set, and why that is not known.
    pub fn doubtful_bits(&self) -> Option<(u32, Question)> {
        self.remembered.doubtful.get_or_init(|| self.find_doubtful_bits()).clone()
    }

    /// What no packet is followed through and may write these bits of marks, if anything does: a chain of a bridge or on ingress.
    pub fn marks_elsewhere(&self, bits: u32) -> Option<String> {
        if bits == 0 {
            return None;
        }
        recall(&self.remembered.elsewhere, bits, || self.find_marks_elsewhere(bits))
    }

    /// A question about a set, with the command that lists it.
    pub fn question_of_set(&self, at: &RuleAt, id: &SetId, text: impl Into<Question>) -> Question {
        let question = text.into();
        let Some(set) = self.rules[at.set].ruleset.sets.get(id) else { return self.question(at, question) };
        match id {
            SetId::Ipset(_) => question.shown_by(["ipset", "list", &set.name]),
            SetId::Nftables { family, table, set: name } => {
                let kind = if set.verdicts.is_empty() && set.data.is_empty() { "set" } else { "map" };
                question.shown_by(["nft", "list", kind, family_word(*family), &table.to_string(), &name.to_string()])
            }
        }
    }

    /// A question about a chain.
    pub(super) fn question_of_chain(&self, set: usize, id: &ChainId, text: impl FnOnce(String) -> String) -> Question {
        let at = RuleAt { set, chain: id.clone(), position: 0 };
        self.question(&at, text(self.describe_chain(set, id)))
    }

    /// Whether a chain, or one it jumps to, has such a step; an unread one may.
    pub(super) fn leads_to(&self, set: usize, id: &ChainId, wanted: impl Fn(&Step) -> bool) -> bool {
        let has = |rule: &Rule| rule.steps.iter().any(|step| wanted(step) || is_unread_map(step));
        self.chains_from(set, id).any(|chain| match chain.map(|(_, chain)| &chain.rules) {
            Some(Reading::Ok(rules)) => rules.iter().any(has),
            _ => true,
        })
    }

    /// A chain and those reachable from it, each once. `None`: one that was not read.
    pub(super) fn chains_from(
        &self,
        set: usize,
        id: &ChainId,
    ) -> impl Iterator<Item = Option<(&'a ChainId, &'a Chain)>> + use<'a, '_> {
        let (mut open, mut seen) = (vec![id.clone()], BTreeSet::new());
        let mut last: Option<(&ChainId, &Chain)> = None;
        std::iter::from_fn(move || {
            // Jumps are followed lazily.
            if let Some((id, chain)) = last.take() {
                let jumps = chain.rules_for_udp().unwrap_or_default().iter().flat_map(Rule::jumps);
                open.extend(jumps.map(|chain| ChainId { chain: chain.clone(), ..id.clone() }));
            }
            let id = std::iter::from_fn(|| open.pop()).find(|id| seen.insert(id.clone()))?;
            last = self.rules[set].ruleset.chains.get_key_value(&id);
            Some(last)
        })
    }
}

/// The value stored for a key, computed on first use.
pub(super) fn recall<K: Ord, V: Clone>(known: &RefCell<BTreeMap<K, V>>, key: K, find: impl FnOnce() -> V) -> V {
    if let Some(value) = known.borrow().get(&key) {
        return value.clone();
    }
    let value = find();
    known.borrow_mut().insert(key, value.clone());
    value
}

/// Family in nft's syntax: `ip`, `ip6`, ….
pub(super) fn family_word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
        Family::Inet => "inet",
        Family::Netdev => "netdev",
        Family::Bridge => "bridge",
    }
}

/// Whether a step does anything but match, or let packets pass.
fn is_effect(step: &Step) -> bool {
    match step {
        Step::Match(_) | Step::NoEffect(_) | Step::UpdateSet { .. } => false,
        Step::Verdict(Verdict::Map { verdicts, .. }) => {
            verdicts.ok().is_none_or(|verdicts| verdicts.iter().any(|verdict| !lets_pass(verdict)))
        }
        Step::Verdict(verdict) => !lets_pass(verdict),
        Step::SetMark(_)
        | Step::SetConnectionMark(_)
        | Step::Notrack
        | Step::Template
        | Step::OwnTimeout
        | Step::ToSocket
        | Step::FillChecksum
        | Step::Rewrite { .. }
        | Step::Nat(_)
        | Step::Unsupported { .. } => true,
    }
}

/// Whether a verdict lets packets continue.
pub(super) fn lets_pass(verdict: &Verdict) -> bool {
    use Verdict::{Accept, Continue, Goto, Jump, Return};
    matches!(verdict, Accept | Return | Continue | Jump(_) | Goto(_))
}
