//! The machine: runs packets through hooks as `nf_hook_slow`, `nf_conntrack_in` and `nf_nat_inet_fn` do.
//!
//! All packets are one set. A test branches it into taken and not taken, and branches join where they lead to the same
//! place, so that every path that a real packet can take is covered. Scenarios call [`Walk::hook`] for each hook in
//! turn. Nothing here depends on names of chains.

mod between;
mod chain;
mod hooks;
mod maps;
mod matches;
mod nat_core;
mod runs;
mod sets;
mod verdict_map;
mod writers;
mod writes;

use std::collections::{BTreeMap, BTreeSet};

use super::assumptions::{About, Assumptions};
use super::effort::{Effort, Ended, OF_CONNECTIONS, WALK};
use super::happens::Happens;
use super::network::survey::Relevant;
use super::network::{Hit, Network, RuleAt};
use super::packets::{PacketKind, PacketLayout, Packets, state};
use super::space::{BitVector, EVERYTHING, NOTHING, PacketSet, Space};
use crate::facts::Question;
use crate::facts::netfilter::{ChainId, Family, Field, Hook, Nat, SetId, Step};

/// Sets of which it is followed which packets rules have put into them; of others that is not known.
const MAX_FILLED: usize = 64;

/// Which packet of its connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    /// The first packet, which traverses nat chains.
    First,
    /// A later packet, which does not.
    Later,
    /// An invalid packet, without a connection.
    Invalid,
}

/// Translated packets by the rule that translates them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hits(pub BTreeMap<Hit, PacketSet>);

impl Hits {
    /// Adds packets of a rule.
    pub(crate) fn add(&mut self, space: &Space<'_>, hit: Hit, packets: PacketSet) {
        let known = self.0.entry(hit).or_insert(NOTHING);
        *known = space.or(*known, packets);
    }
}

/// A step of a rule being evaluated.
pub(super) struct StepPlace<'r> {
    /// The rule.
    pub(super) at: &'r RuleAt,
    /// Index of the step in the rule.
    pub(super) number: usize,
    /// Nesting depth of jumps.
    pub(super) depth: usize,
}

/// Packets that leave a chain, by how they leave it.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// At its end, or by return.
    pub returned: PacketSet,
    /// By accept.
    pub accepted: PacketSet,
    /// By a NAT statement, as they were before it.
    pub translated: Hits,
}

impl Default for Ends {
    fn default() -> Self {
        Self { returned: NOTHING, accepted: NOTHING, translated: Hits::default() }
    }
}

/// Handler for the results of the NAT core: what happens to packets next.
pub(crate) trait OnNat {
    /// Packets that no rule translates.
    fn untouched(&mut self, walk: &mut Walk<'_>, hook: Hook, packets: PacketSet) -> PacketSet;

    /// Packets that a rule translates.
    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet;

    /// Packets that are re-routed because a chain changed their mark.
    fn routed_again(&mut self, _: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        packets
    }
}

/// A walk through one node's rules. Questions are shared by all its packets; each pass of packets has a stage.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    /// Rules, links and addresses.
    pub network: &'a Network<'a>,
    /// Diagrams of packet sets.
    pub space: Space<'a>,
    /// Variables of packet fields.
    pub layout: PacketLayout,
    /// Open questions.
    pub assumptions: Assumptions,
    /// The present packets.
    pub packets: Packets,
    /// Whether they are outer packets.
    pub outer: bool,
    /// Name of the present pass; the same per-packet question may have another answer in another stage.
    pub stage: String,
    /// Description of the packets, for reports.
    pub traffic: &'static str,
    /// Rules that dropped packets.
    pub dropping: BTreeSet<RuleAt>,
    /// Packets that rules answered with a reset; callers clear it first.
    pub refused: PacketSet,
    /// Variables of marks that rules generated.
    pub drawn: BTreeSet<u32>,
    /// Rules that set timeouts of entries.
    pub timing: BTreeSet<RuleAt>,
    /// Why some paths were not followed, other than the budget.
    pub gave_up: Option<String>,
    /// Work budget of the judgement.
    pub effort: &'a Effort<'a>,
    /// Budget left when this walk began.
    begun: u64,
    /// Maximum work of this walk.
    share: u64,
    tracks: BTreeMap<Family, Happens>,
    /// Mark bits that are followed.
    relevant: Relevant,
    /// Rules that wrote certain mark bits, if followed.
    writers: Option<writers::Writers>,
    /// By rule set: whether an unread rule may change any of its sets.
    unread: Vec<bool>,
    /// Packets whose fields are an element of a set, by stage, rule set, set, and variables of the fields; a rewritten
    /// field has new variables.
    elements: BTreeMap<(String, usize, SetId, Vec<BitVector>), PacketSet>,
    /// Sets that rules fill and others test: see [`sets::Filled`].
    filled: BTreeMap<(Option<usize>, SetId), sets::Filled>,
    /// Packets that one of the rules of a run holds for, where only fields are asked that are known: by where the run begins,
    /// how many rules it has, and whose packets these are.
    runs: BTreeMap<(RuleAt, usize, bool, Family), PacketSet>,
    /// Whether chains that cannot write a followed mark are skipped.
    sliced: bool,
    /// Whether packets record that their entry has its own timeout.
    follows_timeouts: bool,
    /// Rules reached by sampled packets: where chains on forward are large, packets of a few devices represent all.
    /// `None`: no sampling.
    pub sampled: Option<BTreeSet<Hit>>,
}

impl<'a> Walk<'a> {
    /// A walk with this budget. Once that is used up, packets get no further, and what was not found to happen is
    /// uncertain. `names`: ranges of device names to distinguish besides those in rules; `marks`: mark bits to follow
    /// besides those tested by rules.
    pub(crate) fn new(network: &'a Network<'a>, names: &[(u128, u128)], marks: u32, effort: &'a Effort<'a>) -> Self {
        let space = Space::new(effort);
        let mut layout = PacketLayout::new(&space, network, names);
        let filled: BTreeMap<_, _> =
            network.survey().filled().take(MAX_FILLED).map(|set| (set.clone(), sets::Filled::new(&space))).collect();
        layout.put = filled.values().map(|filled| filled.put).collect();
        Self {
            network,
            space,
            layout,
            assumptions: Assumptions::default(),
            packets: Packets::new(PacketKind::Traffic, Family::Ipv4),
            outer: false,
            stage: String::new(),
            traffic: "packets",
            dropping: BTreeSet::new(),
            refused: NOTHING,
            drawn: BTreeSet::new(),
            timing: BTreeSet::new(),
            gave_up: None,
            effort,
            begun: effort.left(),
            share: WALK,
            tracks: Family::IP.map(|family| (family, network.tracks(family))).into(),
            relevant: network.survey().relevant(marks),
            writers: None,
            unread: (0..network.rules.len()).map(|set| network.unread_in_set(set).is_some()).collect(),
            elements: BTreeMap::new(),
            filled,
            runs: BTreeMap::new(),
            sliced: false,
            follows_timeouts: false,
            sampled: None,
        }
    }

    /// A walk about connections rather than a tunnel.
    pub(crate) fn of_connections(network: &'a Network<'a>, names: &[(u128, u128)], effort: &'a Effort<'a>) -> Self {
        Self { share: OF_CONNECTIONS, ..Self::new(network, names, 0, effort) }
    }

    /// A walk in which chains that can only drop packets let all pass: the results have every mark (of these bits) that
    /// packets can have, and possibly others.
    pub(crate) fn slice(network: &'a Network<'a>, names: &[(u128, u128)], marks: u32, effort: &'a Effort<'a>) -> Self {
        let walk = Self::new(network, names, marks, effort);
        Self { relevant: network.relevant_to_marks(marks), sliced: true, ..walk }
    }

    /// From now on packets record whether their entry has its own timeout.
    pub(crate) fn follow_timeouts(&mut self) {
        self.follows_timeouts = true;
    }

    /// Sets whether chains that can only drop packets are skipped.
    pub(crate) fn leave_out_drops(&mut self, leave_out: bool) {
        self.sliced = leave_out;
    }

    /// Whether chains that can only drop packets are skipped.
    pub(crate) fn is_sliced(&self) -> bool {
        self.sliced
    }

    /// Bits of a mark that are followed.
    pub(super) fn followed(&self, mark: &Field) -> u32 {
        if *mark == Field::Mark { self.relevant.mark } else { self.relevant.connection }
    }

    /// Does not count work that another walk did meanwhile.
    pub(super) fn was_spent_elsewhere(&mut self, units: u64) {
        self.begun = self.begun.saturating_sub(units);
    }

    /// Whether this walk has used up its share.
    pub(crate) fn is_over(&self) -> bool {
        self.space.is_over() || self.begun - self.effort.left() > self.share
    }

    /// Why paths are missing; `None`: all were followed.
    pub(crate) fn why_incomplete(&self) -> Option<String> {
        let ended = self.effort.ended().or(self.is_over().then_some(Ended::UsedUp));
        match ended {
            Some(Ended::Stopped) => Some(Ended::Stopped.why().to_owned()),
            _ => self.gave_up.clone().or(ended.map(|ended| ended.why().to_owned())),
        }
    }

    /// Whether connections of a family are tracked.
    pub(crate) fn tracks(&self, family: Family) -> Happens {
        self.tracks.get(&family).cloned().unwrap_or(Happens::Must)
    }

    /// Packets with this answer to a question with this number of answers.
    pub(crate) fn answer<W: Into<Question>>(
        &mut self,
        key: String,
        about: About,
        answers: usize,
        answer: usize,
        why: impl FnOnce() -> W,
    ) -> PacketSet {
        let question = self.assumptions.ask(&self.space, key, about, answers, why);
        self.assumptions.answer(&self.space, question, answer)
    }

    /// Packets under the assumption that connections of a family are tracked.
    pub(crate) fn if_tracked(&mut self, family: Family, why: &Question) -> PacketSet {
        let why = || why.clone().reword(|why| format!("whether connections are tracked is not known: {why}"));
        self.answer(format!("tracked {family}"), About::All, 2, 1, why)
    }

    /// Location of a rule, for reports.
    pub(crate) fn place(&self, hit: &Hit) -> String {
        self.network.place(hit)
    }

    /// A question about the effect of a rule, or of something unread.
    pub(crate) fn question(&self, hit: &Hit, text: impl Into<Question>) -> Question {
        self.network.question_of(hit, text)
    }

    /// The step of a hit; `None`: unread.
    pub(crate) fn step(&self, hit: &Hit) -> Option<&'a Step> {
        let Hit::Rule(at, step) = hit else { return None };
        self.network.rule(at)?.steps.get(*step)
    }

    /// The NAT statement of a hit; `None`: unsupported or unread.
    pub(crate) fn nat(&self, hit: &Hit) -> Option<&'a Nat> {
        match self.step(hit) {
            Some(Step::Nat(nat)) => Some(nat),
            _ => None,
        }
    }

    /// The variables of a field.
    pub(crate) fn block(&mut self, field: &Field) -> BitVector {
        if let Field::MarkBits(bits) = field {
            let whole = self.block(if bits.connection { &Field::ConnectionMark } else { &Field::Mark });
            return BitVector(whole.bits(bits.mask.into()).collect());
        }
        if self.packets.knows(field) {
            return self.layout.block(&self.space, self.outer, field);
        }
        let usual = self.layout.block(&self.space, self.outer, field);
        let key = format!("{} {field:?}", self.stage);
        let why = || format!("their {field} is not known");
        let block = || Some(self.space.block(usual.0.len() as u32));
        self.assumptions.ask_number(key, About::All, block, why).unwrap_or(usual)
    }

    /// Packets with a field value in these ranges; for device names, ranges of names.
    pub(crate) fn with(&mut self, field: &Field, ranges: &[(u128, u128)]) -> PacketSet {
        let block = self.block(field);
        match super::packets::is_name(field) {
            true => self.layout.names.pieces(ranges).map_or(NOTHING, |pieces| self.space.ranges(&block, &pieces)),
            false => self.space.ranges(&block, ranges),
        }
    }

    /// Of these packets, those with such values in all these fields.
    pub(crate) fn all_with(&mut self, packets: PacketSet, fields: &[(Field, &[(u128, u128)])]) -> PacketSet {
        fields.iter().fold(packets, |packets, (field, ranges)| {
            let with = self.with(field, ranges);
            self.space.and(packets, with)
        })
    }

    /// Packets in one of these states ([`state`]).
    pub(crate) fn in_state(&mut self, states: &[u128]) -> PacketSet {
        let numbers = (0..).zip(state::ALL).filter(|(_, bit)| states.contains(bit)).map(|(number, _)| (number, number));
        self.with(&Field::ConnectionState, &numbers.collect::<Vec<(u128, u128)>>())
    }

    /// These packets, with or without their connection being translated.
    pub(crate) fn translated_or_not(&mut self, packets: PacketSet) -> PacketSet {
        /// `IPS_SRC_NAT`, `IPS_DST_NAT`
        const TRANSLATED: u32 = 0x30;
        let block = self.block(&Field::ConnectionStatus);
        self.without(packets, block.bits(TRANSLATED.into()).collect())
    }

    /// The same packets with any values in these fields.
    pub(crate) fn forget(&mut self, packets: PacketSet, fields: &[Field]) -> PacketSet {
        let variables = fields.iter().flat_map(|field| self.block(field).0).collect();
        let packets = self.without(packets, variables);
        self.no_longer_put(packets, fields)
    }

    /// The same packets without these variables. If they depend on per-packet questions, the old values are kept under
    /// other variables, because whether answers belong to the same packet must not be lost.
    pub(crate) fn without(&mut self, packets: PacketSet, variables: BTreeSet<u32>) -> PacketSet {
        if !self.assumptions.depends_on_packets(&self.space, packets) {
            return self.space.exists(packets, &variables);
        }
        let determined = self.layout.determined();
        let packets = self.space.exists(packets, &variables.intersection(&determined).copied().collect());
        let support = self.space.support(packets);
        let old: Vec<u32> = variables.intersection(&support).copied().collect();
        let new = self.space.block(old.len() as u32);
        self.space.renamed(packets, &old, &new.0)
    }

    /// The same packets with a field set to these values.
    pub(crate) fn set(&mut self, packets: PacketSet, field: &Field, ranges: &[(u128, u128)]) -> PacketSet {
        let (packets, new) = (self.forget(packets, std::slice::from_ref(field)), self.with(field, ranges));
        self.space.and(packets, new)
    }

    /// Packets that have not traversed any rule: no template, routed once. Whether a checksum is left to a device
    /// follows from the inner packet's walk.
    pub(crate) fn start(&self) -> PacketSet {
        let flags = [self.layout.template, self.layout.rerouted, self.layout.own_timeout].into_iter();
        let flags = flags.chain(self.layout.put.iter().copied());
        let filled = (!self.outer).then_some(self.layout.filled);
        let writer = self.writers.iter().filter(|_| !self.outer).flat_map(|writers| writers.block.0.iter().copied());
        flags.chain(filled).chain(writer).fold(EVERYTHING, |all, flag| self.space.minus(all, self.space.is_set(flag)))
    }

    /// Runs a base chain and applies its policy.
    pub(super) fn base_chain(&mut self, set: usize, id: &ChainId, packets: PacketSet) -> Ends {
        let drops = self.network.chain(set, id).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.drops);
        let ends = self.chain(set, id, packets, 0);
        if drops { Ends { returned: NOTHING, ..ends } } else { ends }
    }

    /// Whether something happens to these packets: must, may with the open question, or never.
    pub(crate) fn happens(&self, packets: PacketSet) -> Happens {
        if self.assumptions.must(&self.space, packets, &self.layout.determined()) {
            Happens::Must
        } else if self.effort.ended() == Some(Ended::Stopped) {
            Happens::May(Ended::Stopped.why().into())
        } else if !packets.is_empty() {
            let why = self.assumptions.why(&self.space, packets);
            Happens::May(if why.text.is_empty() { self.why_incomplete().unwrap_or_default().into() } else { why })
        } else if let Some(why) = self.why_incomplete() {
            Happens::May(why.into())
        } else {
            Happens::Never
        }
    }
}
