//! Unread parts of rules. Packets that reach one may be affected in any way, so nothing after it is certain.

use super::{Network, Occurrence, RuleAt, family_word};
use crate::facts::netfilter::{Base, ChainId, Family, Hook, Rule, Step, Verdict};
use crate::facts::{Question, Reading};
use crate::symbolic::happens::Happens;

/// A list of base chains: those of one rule set, one table family and one hook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BaseChainList {
    /// Index of the rule set in [`Network::rules`].
    pub set: usize,
    /// Family of the tables.
    pub family: Family,
    /// The hook.
    pub hook: Hook,
}

/// Something that translates packets, or may.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// A step of a rule, by index; position 0: an unread chain.
    Rule(RuleAt, usize),
    /// Chains of an unread list.
    Unread(BaseChainList),
}

impl Hit {
    /// The rule, if it is one that was read.
    pub fn rule(self) -> Option<RuleAt> {
        match self {
            Self::Rule(at, _) => Some(at),
            Self::Unread(_) => None,
        }
    }
}

/// A listed base chain: index of its rule set, id, properties.
pub(crate) type Listed<'a> = (usize, &'a ChainId, &'a Base);

/// Whether tables of a family have this hook.
fn has_hook(family: Family, hook: Hook) -> bool {
    match family {
        Family::Ipv4 | Family::Ipv6 => !matches!(hook, Hook::Ingress | Hook::Egress),
        Family::Inet => hook != Hook::Egress,
        Family::Netdev => matches!(hook, Hook::Ingress | Hook::Egress),
        Family::Bridge => !matches!(hook, Hook::Ingress | Hook::Egress),
    }
}

impl<'a> Network<'a> {
    /// Base chains for packets of a family on a hook, by list: tables of that family, of `inet` and of `netdev`.
    pub fn lists(&self, family: Family, hook: Hook) -> Vec<(BaseChainList, Reading<Vec<Listed<'a>>>)> {
        let families = [family, Family::Inet, Family::Netdev].into_iter().filter(|family| has_hook(*family, hook));
        let families: Vec<Family> = families.collect();
        let sets = 0..self.rules.len();
        let lists =
            sets.flat_map(|set| families.iter().map(move |family| BaseChainList { set, family: *family, hook }));
        lists.map(|list| (list, self.list(list))).collect()
    }

    /// The chains of a list. If a listed chain is missing, the list is unread, since its priority is not known.
    pub fn list(&self, list: BaseChainList) -> Reading<Vec<Listed<'a>>> {
        let ruleset = self.rules[list.set].ruleset;
        let chains = ruleset.base_chains.at(list.family, list.hook).map(|ids| {
            let base = |id| Some((list.set, id, ruleset.chains.get(id)?.base.as_ref()?));
            ids.iter().map(base).collect::<Option<Vec<_>>>()
        });
        chains.and_then(|known| known.map_or_else(|| Reading::Failed("a chain of it was not read".into()), Reading::Ok))
    }

    /// `the base chains of ipv4 postrouting`
    pub fn describe_list(&self, list: BaseChainList) -> String {
        let backend = if self.rules[list.set].legacy { "legacy " } else { "" };
        format!("the base chains of {backend}{} {}", list.family, list.hook)
    }

    /// Location of a hit, for reports.
    pub fn place(&self, hit: &Hit) -> String {
        match hit {
            Hit::Rule(at, _) => self.describe(at),
            Hit::Unread(list) => self.describe_list(*list),
        }
    }

    /// A question about the effect of a rule, or of something unread.
    pub fn question_of(&self, hit: &Hit, text: impl Into<Question>) -> Question {
        match hit {
            Hit::Rule(at, _) => self.question(at, text),
            Hit::Unread(list) => self.question_of_list(*list, text),
        }
    }

    /// A question about a list of base chains.
    pub fn question_of_list(&self, list: BaseChainList, text: impl Into<Question>) -> Question {
        let question = text.into();
        match (self.rules[list.set].legacy, list.family) {
            (true, Family::Ipv6) => question.shown_by(["ip6tables-legacy-save"]),
            (true, _) => question.shown_by(["iptables-legacy-save"]),
            (false, family) => question.shown_by(["nft", "list", "chains", family_word(family)]),
        }
    }

    /// The first unread part that packets of a family may traverse.
    pub fn find_unread(&self, family: Family) -> Option<Question> {
        let meets = |other: Family| matches!(other, Family::Inet | Family::Netdev) || other == family;
        (0..self.rules.len()).find_map(|set| self.unread_in(set, &meets))
    }

    /// The same for a rule set, for all packets.
    pub fn find_unread_in_set(&self, set: usize) -> Option<Question> {
        self.unread_in(set, &|_| true)
    }

    /// nat chains that were only searched do not count: what they contain is known.
    fn unread_in(&self, set: usize, wanted: &dyn Fn(Family) -> bool) -> Option<Question> {
        let ruleset = self.rules[set].ruleset;
        for family in Family::ALL.iter().filter(|family| wanted(**family)) {
            for hook in Hook::ALL.iter().filter(|hook| has_hook(*family, **hook)) {
                let list = BaseChainList { set, family: *family, hook: *hook };
                if let why @ (Reading::Absent(_) | Reading::Denied(_) | Reading::Failed(_)) = self.list(list) {
                    return Some(
                        self.question_of_list(
                            list,
                            format!("{} were not read: {}", self.describe_list(list), why.why()),
                        ),
                    );
                }
            }
        }
        let chains = ruleset.chains.iter().filter(|(id, chain)| wanted(id.family) && !chain.only_searched());
        chains.into_iter().find_map(|(id, chain)| {
            let unread = ruleset.first_unread_in(id, chain)?.why();
            Some(self.question(&RuleAt { set, chain: id.clone(), position: 0 }, unread))
        })
    }

    /// Whether any rule enables conntrack for a family: the kernel does so for the first expression, match or target
    /// that needs it, in any chain. Chains that were only searched have the NAT rules of Services.
    pub fn tracks(&self, family: Family) -> Happens {
        if self.rules.iter().any(|rules| rules.ruleset.tracks.contains(&family)) {
            return Happens::Must;
        }
        let mut unclear = None;
        for (set, id, chain) in self.chains_of(family) {
            if chain.only_searched() {
                return Happens::Must;
            }
            for rule in chain.known_rules() {
                if rule.steps.iter().any(|step| step.needs_conntrack() && !matches!(step, Step::Unsupported { .. })) {
                    return Happens::Must;
                }
                if rule.steps.iter().any(|step| matches!(step, Step::Unsupported { .. })) {
                    unclear.get_or_insert_with(|| self.not_understood(set, id, rule));
                }
            }
        }
        let searched =
            || self.rules.iter().find_map(|rules| rules.ruleset.tracking_unread.get(&family).map(Question::from));
        let why = self.unread(family).or(unclear).or_else(searched);
        why.map_or(Happens::Never, Happens::May)
    }

    /// Whether any rule translates addresses or writes them into headers, and where; chains that were only searched
    /// have such rules.
    pub fn translates(&self) -> Occurrence {
        let found = self.find_step(&|step| matches!(step, Step::Nat(_) | Step::Rewrite { .. }));
        let families = Family::IP.into_iter();
        let searched = families.flat_map(|family| self.chains_of(family)).find(|(.., chain)| chain.only_searched());
        match searched {
            Some((set, id, _)) if found.happens != Happens::Must => {
                Occurrence { happens: Happens::Must, place: self.describe_chain(set, id) }
            }
            _ => found,
        }
    }

    /// Whether a rule that IPv4 or IPv6 packets may traverse has such a step, and which. For chains that were only
    /// searched, rules for UDP are known.
    pub fn find_step(&self, wanted: &dyn Fn(&Step) -> bool) -> Occurrence {
        let mut why = None;
        for family in Family::IP {
            for (set, id, chain) in self.chains_of(family) {
                for rule in chain.rules_for_udp().into_iter().flatten() {
                    if rule.steps.iter().any(wanted) {
                        let at = RuleAt { set, chain: id.clone(), position: rule.position };
                        return Occurrence { happens: Happens::Must, place: self.describe(&at) };
                    }
                    if rule.steps.iter().any(|step| matches!(step, Step::Unsupported { .. })) {
                        why.get_or_insert_with(|| self.not_understood(set, id, rule));
                    }
                }
            }
            why = self.unread(family).or(why);
        }
        Occurrence { happens: why.map_or(Happens::Never, Happens::May), place: String::new() }
    }

    fn not_understood(&self, set: usize, id: &ChainId, rule: &Rule) -> Question {
        let at = RuleAt { set, chain: id.clone(), position: rule.position };
        self.question(&at, format!("{} is not understood", self.describe(&at)))
    }

    /// Mark bits set by some rule.
    pub fn settable_bits(&self) -> u32 {
        let found = self.rules.iter().flat_map(|rules| rules.ruleset.mark_writers.found.keys());
        found.fold(0, |all, bit| all | bit)
    }

    /// Mark bits set by rules outside the IP hooks: bridge or ingress.
    pub fn bits_set_outside(&self) -> u32 {
        let found = self.rules.iter().flat_map(|rules| &rules.ruleset.mark_writers.found);
        let outside = |(_, (id, _)): &(&u32, &(ChainId, u32))| matches!(id.family, Family::Bridge | Family::Netdev);
        found.filter(outside).fold(0, |all, (bit, _)| all | bit)
    }

    /// Mark bits set by rules of chains that were only searched.
    pub fn searched_bits(&self, set: usize) -> u32 {
        let ruleset = self.rules[set].ruleset;
        let whole = |id: &ChainId| ruleset.chains.get(id).is_some_and(|chain| chain.rules.ok().is_some());
        let found = ruleset.mark_writers.found.iter().filter(|(_, (id, _))| !whole(id));
        found.fold(0, |all, (bit, _)| all | bit)
    }

    /// Mark bits that rules may set beyond those, and why that is not known: the search was abandoned, or rules were
    /// not read.
    pub fn find_doubtful_bits(&self) -> Option<(u32, Question)> {
        let unread = (0..self.rules.len()).find_map(|set| self.unread_in_set(set));
        if let Some(why) = unread {
            return Some((u32::MAX, why));
        }
        let mark_writers = self
            .rules
            .iter()
            .map(|rules| &rules.ruleset.mark_writers)
            .filter(|mark_writers| mark_writers.given_up != 0);
        let mark_writers: Vec<_> = mark_writers.collect();
        let bits = mark_writers.iter().fold(0, |all, mark_writers| all | mark_writers.given_up);
        let first = mark_writers.first()?;
        Some((bits, format!("whether rules set bits {bits:#x} of the mark is not known: {}", first.why).into()))
    }

    /// What no packet is followed through and may write these bits of marks, if anything does: a chain of a bridge, if there is one,
    /// or on ingress of a device that is up.
    pub fn find_marks_elsewhere(&self, bits: u32) -> Option<String> {
        let marks = |step: &Step| match step {
            Step::SetMark(write) => write.can_change() & bits != 0,
            Step::Unsupported { .. } => true,
            _ => false,
        };
        let devices = self.devices.as_deref();
        let has_bridge = devices.is_none_or(|devices| devices.iter().any(|device| device.kind == Some("bridge")));
        let is_down = |name: &String| {
            devices.is_some_and(|devices| devices.iter().any(|device| device.name == name && !device.up))
        };
        let meets = |id: &ChainId, base: &Base| match id.family {
            Family::Bridge => has_bridge,
            _ => base.devices.is_empty() || !base.devices.iter().all(is_down),
        };
        let mut apart = Vec::new();
        for set in 0..self.rules.len() {
            for hook in Hook::ALL {
                let families = Family::ALL.iter().filter(|family| has_hook(**family, *hook));
                let families = families.filter(|family| **family == Family::Bridge || *hook == Hook::Ingress);
                apart.extend(families.map(|family| BaseChainList { set, family: *family, hook: *hook }));
            }
        }
        apart.into_iter().find_map(|list| match self.list(list) {
            Reading::Ok(chains) => {
                let met = chains.into_iter().filter(|(_, id, base)| meets(id, base));
                let mut marking = met.filter(|(set, id, _)| self.leads_to(*set, id, marks));
                marking.next().map(|(set, id, _)| self.describe_chain(set, id))
            }
            unread => Some(format!("one of {} ({})", self.describe_list(list), unread.why())),
        })
    }
}

/// Whether a step is a verdict map whose verdicts were not read.
pub(crate) fn is_unread_map(step: &Step) -> bool {
    matches!(step, Step::Verdict(Verdict::Map { verdicts, .. }) if verdicts.ok().is_none())
}
