//! What there is around a packet: rules of all backends, links, addresses that are this host's.

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
use super::certainty::Certainty;
use super::values::Numbers;
use crate::facts::netfilter::{Backend, Chain, ChainId, ChainKind, Family, Rule, Ruleset, SetId, Step, Verdict};
use crate::facts::{Facts, Link, Question, Reading};

/// A rule set, and who holds it.
#[derive(Clone, Copy, Debug)]
pub struct BackendRules<'a> {
    /// `Backend::Legacy`, or one of those that nf_tables serves.
    pub legacy: bool,
    /// The rules.
    pub ruleset: &'a Ruleset,
}

/// Everything that a packet can meet. Walks see nothing else of the node but [`super::TunnelFacts`], so what they find is a
/// function of both.
#[derive(Clone, Debug)]
pub struct Network<'a> {
    /// In no order: hooks have their own.
    pub rules: Vec<BackendRules<'a>>,
    /// Devices; `None`: not read.
    pub devices: Option<Vec<Device<'a>>>,
    /// IPv4's, IPv6's; `None`: not read.
    pub own: [Option<OwnAddresses>; 2],
    /// Addresses that rules give to sources, and whether each is this host's, as far as that was read.
    pub local_sources: BTreeMap<IpAddr, bool>,
    /// IPsec handles packets here. `Err`: whether it does was not read.
    pub ipsec: Result<bool, Question>,
    /// The rest of what is asked about this host.
    pub host: HostFacts,
    pub(super) survey: OnceCell<Survey>,
    pub(super) remembered: Remembered,
}

/// What is asked about rules again and again, and takes a look at all of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Remembered {
    leads_to: RefCell<BTreeMap<(Wanted, usize, ChainId), bool>>,
    unread: RefCell<BTreeMap<Family, Option<Question>>>,
    steps: RefCell<BTreeMap<(usize, ChainId), usize>>,
    unread_sets: RefCell<BTreeMap<usize, Option<Question>>>,
    doubtful: OnceCell<Option<(u32, Question)>>,
    elsewhere: RefCell<BTreeMap<u32, Option<String>>>,
    pub(super) destinations: RefCell<BTreeMap<(Family, bool), Certainty>>,
    pub(super) targets: RefCell<BTreeMap<(Family, bool), Targets>>,
    pub(super) answered: RefCell<BTreeMap<Family, Option<Numbers>>>,
}

/// Destinations that rules give, and why there may be others.
pub(super) type Targets = (Numbers, Option<Question>);

/// What lists the rules of each backend: nf_tables, and legacy iptables of both families.
const DUMPS: [&str; 3] = ["nft list ruleset", "iptables-legacy-save", "ip6tables-legacy-save"];

/// Steps that are looked for in a chain, and in those that it leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Wanted {
    /// That do anything but let packets pass.
    Effect,
    /// That change what others test.
    Write,
    /// That give entries of connections another timeout.
    Timeout,
    /// That do more than drop packets, or write bits that do not matter.
    Mark(Relevant),
}

/// Whether something is so, and which rule says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Occurrence {
    /// Whether it happens.
    pub certainty: Certainty,
    /// Where; empty if nowhere.
    pub place: String,
}

/// A rule, for people.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleAt {
    /// Position in [`Network::rules`].
    pub set: usize,
    /// Its chain.
    pub chain: ChainId,
    /// From 1 within its chain.
    pub position: u32,
}

impl<'a> Network<'a> {
    /// Of a node. `Err`: a backend whose rules could not be read, and why.
    pub fn new(facts: &'a Facts) -> Result<Self, Question> {
        let mut rules = Vec::new();
        let readings = [(&facts.nftables, false), (&facts.legacy_ipv4, true), (&facts.legacy_ipv6, true)];
        for (number, (reading, legacy)) in readings.into_iter().enumerate() {
            match reading {
                Reading::Ok(ruleset) => rules.push(BackendRules { legacy, ruleset }),
                Reading::Absent(_) => {} // a fact: it has no rules
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

    /// Of its parts.
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

    /// What its rules tell packets apart by; looked for once.
    pub fn survey(&self) -> &Survey {
        self.survey.get_or_init(|| Survey::of(self))
    }

    /// A chain by its name.
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

    /// A question about a rule, or about a chain that was not read (position 0): its command lists it.
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

    /// Whether the rule is written with x_tables in nf_tables, natively, or in a legacy table.
    pub fn backend(&self, at: &RuleAt) -> Backend {
        let legacy = self.rules[at.set].legacy;
        let unread = if legacy { Backend::Legacy } else { Backend::Nftables };
        self.rule(at).map_or(unread, |rule| Backend::of(rule, legacy))
    }

    /// A rule by its place, if it was read.
    pub fn rule(&self, at: &RuleAt) -> Option<&'a Rule> {
        self.chain(at.set, &at.chain)?.known_rules().iter().find(|rule| rule.position == at.position)
    }

    /// Chains that a packet of a family can meet: position in [`Network::rules`], name, chain.
    pub fn chains_of(&self, family: Family) -> impl Iterator<Item = (usize, &'a ChainId, &'a Chain)> + use<'a, '_> {
        let meets = move |id: &ChainId| matches!(id.family, Family::Inet | Family::Netdev) || id.family == family;
        self.rules.iter().enumerate().flat_map(move |(set, rules)| {
            rules.ruleset.chains.iter().filter(move |(id, _)| meets(id)).map(move |(id, chain)| (set, id, chain))
        })
    }

    /// Whether the packets of a chain on output are routed again when it has changed their mark.
    pub fn reroutes(&self, set: usize, id: &ChainId) -> bool {
        let route = |chain: &Chain| chain.base.as_ref().is_some_and(|base| base.kind == ChainKind::Route);
        if self.rules[set].legacy { id.table == "mangle" } else { self.chain(set, id).is_some_and(route) }
    }

    /// Whether a chain, or one that it leads to, does anything to a packet but let it pass.
    pub fn has_effect(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Effect, set, id)
            || self.chain(set, id).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.drops)
    }

    /// Whether a chain, or one that it leads to, changes what other chains test.
    pub fn writes(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Write, set, id)
    }

    /// Whether a chain, or one that it leads to, gives entries of connections another timeout.
    pub fn sets_timeouts(&self, set: usize, id: &ChainId) -> bool {
        self.leads_to_wanted(Wanted::Timeout, set, id)
    }

    /// Whether a chain, or one that it leads to, may write a bit of a mark that matters, or do anything else to packets but
    /// drop them.
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

    /// Why rules may be missing of those that packets of a family can meet: the first part that was not read.
    pub fn unread(&self, family: Family) -> Option<Question> {
        recall(&self.remembered.unread, family, || self.find_unread(family))
    }

    /// The same of one rule set, whatever packets can meet.
    pub fn unread_in_set(&self, set: usize) -> Option<Question> {
        recall(&self.remembered.unread_sets, set, || self.find_unread_in_set(set))
    }

    /// Bits of the mark that rules may set beside those that some rule sets for certain, and why that is not known.
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

    /// A question about a set that a rule looks into: its command lists the set.
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

    /// The same about a chain.
    pub(super) fn question_of_chain(&self, set: usize, id: &ChainId, text: impl FnOnce(String) -> String) -> Question {
        let at = RuleAt { set, chain: id.clone(), position: 0 };
        self.question(&at, text(self.describe_chain(set, id)))
    }

    /// Whether a chain, or one that it leads to, has such a step; one that was not read may have any.
    pub(super) fn leads_to(&self, set: usize, id: &ChainId, wanted: impl Fn(&Step) -> bool) -> bool {
        let has = |rule: &Rule| rule.steps.iter().any(|step| wanted(step) || is_unread_map(step));
        self.chains_from(set, id).any(|chain| match chain.map(|(_, chain)| &chain.rules) {
            Some(Reading::Ok(rules)) => rules.iter().any(has),
            _ => true,
        })
    }

    /// A chain and those that it leads to, each once. `None`: one that was not read at all.
    pub(super) fn chains_from(
        &self,
        set: usize,
        id: &ChainId,
    ) -> impl Iterator<Item = Option<(&'a ChainId, &'a Chain)>> + use<'a, '_> {
        let (mut open, mut seen) = (vec![id.clone()], BTreeSet::new());
        let mut last: Option<(&ChainId, &Chain)> = None;
        std::iter::from_fn(move || {
            // What the last one leads to is only looked for if somebody wants to know.
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

/// What is known under a key; what is not is looked for, and known from then on.
pub(super) fn recall<K: Ord, V: Clone>(known: &RefCell<BTreeMap<K, V>>, key: K, find: impl FnOnce() -> V) -> V {
    if let Some(value) = known.borrow().get(&key) {
        return value.clone();
    }
    let value = find();
    known.borrow_mut().insert(key, value.clone());
    value
}

/// `ip`, `ip6`, …: as nft writes it.
pub(super) fn family_word(family: Family) -> &'static str {
    match family {
        Family::Ipv4 => "ip",
        Family::Ipv6 => "ip6",
        Family::Inet => "inet",
        Family::Netdev => "netdev",
        Family::Bridge => "bridge",
    }
}

/// Whether a step does anything but test, or let a packet pass.
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

/// Whether a verdict neither ends a packet nor hands it to somebody.
pub(super) fn lets_pass(verdict: &Verdict) -> bool {
    use Verdict::{Accept, Continue, Goto, Jump, Return};
    matches!(verdict, Accept | Return | Continue | Jump(_) | Goto(_))
}
