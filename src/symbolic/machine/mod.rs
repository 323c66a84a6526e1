//! The way of packets through hooks: `nf_hook_slow`, `nf_conntrack_in`, `nf_nat_inet_fn`.
//!
//! All packets go together, as one set. A test branches it into those for which it holds and those for which it does not, and
//! ways join again where they meet, so that every way that a real packet can take is taken. Nothing here looks at names.

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
use super::certainty::Certainty;
use super::effort::{Effort, Ended, OF_CONNECTIONS, WALK};
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
    /// The first one, which nat chains see.
    First,
    /// A later one, which they do not.
    Later,
    /// One that belongs to none.
    Invalid,
}

/// Packets by what translates them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hits(pub BTreeMap<Hit, PacketSet>);

impl Hits {
    /// Adds packets.
    pub(crate) fn add(&mut self, space: &Space<'_>, hit: Hit, packets: PacketSet) {
        let known = self.0.entry(hit).or_insert(NOTHING);
        *known = space.or(*known, packets);
    }
}

/// Where a rule stands, and what of it is looked at.
pub(super) struct StepPlace<'r> {
    pub(super) at: &'r RuleAt,
    /// Of the step.
    pub(super) number: usize,
    pub(super) depth: usize,
}

/// How packets leave a chain.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// They came to its end, or returned.
    pub returned: PacketSet,
    /// Accepted.
    pub accepted: PacketSet,
    /// Translated, as they were when the rule met them.
    pub translated: Hits,
}

impl Default for Ends {
    fn default() -> Self {
        Self { returned: NOTHING, accepted: NOTHING, translated: Hits::default() }
    }
}

/// What becomes of packets that the NAT core gets.
pub(crate) trait OnNat {
    /// Of those that no rule translates.
    fn untouched(&mut self, walk: &mut Walk<'_>, hook: Hook, packets: PacketSet) -> PacketSet;

    /// Of those that one translates.
    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet;

    /// Of those that are routed again because a chain has changed their mark.
    fn routed_again(&mut self, _: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        packets
    }
}

/// Walks through one node's rules. Questions are shared by all of them; each packet has a stage of its own.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    /// What there is.
    pub network: &'a Network<'a>,
    /// Sets of packets.
    pub space: Space<'a>,
    /// Fields of packets.
    pub layout: PacketLayout,
    /// What could not be told.
    pub assumptions: Assumptions,
    /// The packets that are under way.
    pub packets: Packets,
    /// They are those around the first ones.
    pub outer: bool,
    /// What this is about; two packets of which the same cannot be told may differ.
    pub stage: String,
    /// Whose packets these are, for people.
    pub traffic: &'static str,
    /// Rules that dropped packets.
    pub dropping: BTreeSet<RuleAt>,
    /// Packets that rules answered with a reset; who asks for it empties it before.
    pub refused: PacketSet,
    /// Variables of marks that rules drew.
    pub drawn: BTreeSet<u32>,
    /// Rules that gave entries of connections a timeout of their own.
    pub timing: BTreeSet<RuleAt>,
    /// Why ways through the rules were not followed, beside the budget.
    pub gave_up: Option<String>,
    /// The work that the judgement may do.
    pub effort: &'a Effort<'a>,
    /// What was left of it when this walk began.
    begun: u64,
    /// How much of it this walk may do.
    share: u64,
    tracks: BTreeMap<Family, Certainty>,
    /// Bits of marks that are followed.
    relevant: Relevant,
    /// Who writes bits that are asked about, if that is asked.
    writers: Option<writers::Writers>,
    /// By rule set: whether a rule that was not read may change any of its sets.
    unread: Vec<bool>,
    /// Packets of which fields are an element of a set, by stage and by what the fields are: one that is not known any more is
    /// another.
    elements: BTreeMap<(String, usize, SetId, Vec<BitVector>), PacketSet>,
    /// Sets that rules fill and others test: see [`sets::Filled`].
    filled: BTreeMap<(Option<usize>, SetId), sets::Filled>,
    /// Packets that one of the rules of a run holds for, where only fields are asked that are known: by where the run begins,
    /// how many rules it has, and whose packets these are.
    runs: BTreeMap<(RuleAt, usize, bool, Family), PacketSet>,
    /// Only what may write a mark that is followed is walked through.
    sliced: bool,
    /// It is followed which packets' entries have a timeout of their own.
    follows_timeouts: bool,
    /// Where chains on forward are large, packets of a few devices stand for all: of what may translate these. `None`: never.
    pub sampled: Option<BTreeSet<Hit>>,
}

impl<'a> Walk<'a> {
    /// A walk that takes from this budget. When it is used up, packets get no further, and what was not seen to happen is
    /// uncertain. `names`: ranges of device names that are told apart beside those of the rules; `marks`: bits of the mark that
    /// decide beside those that rules test.
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

    /// A walk that is about no tunnel, but about connections.
    pub(crate) fn of_connections(network: &'a Network<'a>, names: &[(u128, u128)], effort: &'a Effort<'a>) -> Self {
        Self { share: OF_CONNECTIONS, ..Self::new(network, names, 0, effort) }
    }

    /// A walk in which chains that can only drop packets let all of them pass: what comes out of it has every mark, among
    /// these bits, that packets can have, and maybe others.
    pub(crate) fn slice(network: &'a Network<'a>, names: &[(u128, u128)], marks: u32, effort: &'a Effort<'a>) -> Self {
        let walk = Self::new(network, names, marks, effort);
        Self { relevant: network.relevant_to_marks(marks), sliced: true, ..walk }
    }

    /// From now on it is followed which packets' entries have a timeout of their own.
    pub(crate) fn follow_timeouts(&mut self) {
        self.follows_timeouts = true;
    }

    /// From now on packets pass chains that can only drop them, or no longer.
    pub(crate) fn leave_out_drops(&mut self, leave_out: bool) {
        self.sliced = leave_out;
    }

    /// Whether packets pass chains that can only drop them.
    pub(crate) fn is_sliced(&self) -> bool {
        self.sliced
    }

    /// Bits of a mark that are followed.
    pub(super) fn followed(&self, mark: &Field) -> u32 {
        if *mark == Field::Mark { self.relevant.mark } else { self.relevant.connection }
    }

    /// Work that another walk has done meanwhile is not this one's.
    pub(super) fn was_spent_elsewhere(&mut self, units: u64) {
        self.begun = self.begun.saturating_sub(units);
    }

    /// Whether this walk gets no further: it has had its share.
    pub(crate) fn is_over(&self) -> bool {
        self.space.is_over() || self.begun - self.effort.left() > self.share
    }

    /// Why ways through the rules are missing, if some are.
    pub(crate) fn why_incomplete(&self) -> Option<String> {
        let ended = self.effort.ended().or(self.is_over().then_some(Ended::UsedUp));
        match ended {
            Some(Ended::Stopped) => Some(Ended::Stopped.why().to_owned()),
            _ => self.gave_up.clone().or(ended.map(|ended| ended.why().to_owned())),
        }
    }

    /// Whether connections of a family are tracked.
    pub(crate) fn tracks(&self, family: Family) -> Certainty {
        self.tracks.get(&family).cloned().unwrap_or(Certainty::Happens)
    }

    /// Packets for which this is the answer to a question with so many.
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

    /// If connections of a family are tracked, which is not known.
    pub(crate) fn if_tracked(&mut self, family: Family, why: &Question) -> PacketSet {
        let why = || why.clone().reword(|why| format!("whether connections are tracked is not known: {why}"));
        self.answer(format!("tracked {family}"), About::All, 2, 1, why)
    }

    /// For people: where it is.
    pub(crate) fn place(&self, hit: &Hit) -> String {
        self.network.place(hit)
    }

    /// A question about what a rule, or something that was not read, does.
    pub(crate) fn question(&self, hit: &Hit, text: impl Into<Question>) -> Question {
        self.network.question_of(hit, text)
    }

    /// The step that a hit stands for; `None`: it was not read.
    pub(crate) fn step(&self, hit: &Hit) -> Option<&'a Step> {
        let Hit::Rule(at, step) = hit else { return None };
        self.network.rule(at)?.steps.get(*step)
    }

    /// The translation that a rule stands for; `None`: it is one that was not understood, or not read.
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

    /// Packets with one of these numbers in a field; of a name, those of names.
    pub(crate) fn with(&mut self, field: &Field, ranges: &[(u128, u128)]) -> PacketSet {
        let block = self.block(field);
        match super::packets::is_name(field) {
            true => self.layout.names.pieces(ranges).map_or(NOTHING, |pieces| self.space.ranges(&block, &pieces)),
            false => self.space.ranges(&block, ranges),
        }
    }

    /// Those of these packets that have such numbers in all of these fields.
    pub(crate) fn all_with(&mut self, packets: PacketSet, fields: &[(Field, &[(u128, u128)])]) -> PacketSet {
        fields.iter().fold(packets, |packets, (field, ranges)| {
            let with = self.with(field, ranges);
            self.space.and(packets, with)
        })
    }

    /// Packets in one of these states of [`state`].
    pub(crate) fn in_state(&mut self, states: &[u128]) -> PacketSet {
        let numbers = (0..).zip(state::ALL).filter(|(_, bit)| states.contains(bit)).map(|(number, _)| (number, number));
        self.with(&Field::ConnectionState, &numbers.collect::<Vec<(u128, u128)>>())
    }

    /// The same packets of connections that may be translated, or not.
    pub(crate) fn translated_or_not(&mut self, packets: PacketSet) -> PacketSet {
        /// `IPS_SRC_NAT`, `IPS_DST_NAT`
        const TRANSLATED: u32 = 0x30;
        let block = self.block(&Field::ConnectionStatus);
        self.without(packets, block.bits(TRANSLATED.into()).collect())
    }

    /// The same packets with any numbers in these fields.
    pub(crate) fn forget(&mut self, packets: PacketSet, fields: &[Field]) -> PacketSet {
        let variables = fields.iter().flat_map(|field| self.block(field).0).collect();
        let packets = self.without(packets, variables);
        self.no_longer_put(packets, fields)
    }

    /// The same packets without these variables. Where answers are asked about each packet, what it was is kept: whether they
    /// hold for one and the same packet must not be lost.
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

    /// The same packets with these numbers in a field.
    pub(crate) fn set(&mut self, packets: PacketSet, field: &Field, ranges: &[(u128, u128)]) -> PacketSet {
        let (packets, new) = (self.forget(packets, std::slice::from_ref(field)), self.with(field, ranges));
        self.space.and(packets, new)
    }

    /// Packets that have met no rule: without a template, and routed once. What is left to a device of the packet inside is
    /// told by the rules that that one has met.
    pub(crate) fn start(&self) -> PacketSet {
        let flags = [self.layout.template, self.layout.rerouted, self.layout.own_timeout].into_iter();
        let flags = flags.chain(self.layout.put.iter().copied());
        let filled = (!self.outer).then_some(self.layout.filled);
        let writer = self.writers.iter().filter(|_| !self.outer).flat_map(|writers| writers.block.0.iter().copied());
        flags.chain(filled).chain(writer).fold(EVERYTHING, |all, flag| self.space.minus(all, self.space.is_set(flag)))
    }

    /// A base chain and its policy; packets that are dropped are gone.
    pub(super) fn base_chain(&mut self, set: usize, id: &ChainId, packets: PacketSet) -> Ends {
        let drops = self.network.chain(set, id).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.drops);
        let ends = self.chain(set, id, packets, 0);
        if drops { Ends { returned: NOTHING, ..ends } } else { ends }
    }

    /// Whether something happens to these packets for certain, perhaps, or not; the text says what could not be told.
    pub(crate) fn certainty(&self, packets: PacketSet) -> Certainty {
        if self.assumptions.must(&self.space, packets, &self.layout.determined()) {
            Certainty::Happens
        } else if self.effort.ended() == Some(Ended::Stopped) {
            Certainty::Unknown(Ended::Stopped.why().into())
        } else if !packets.is_empty() {
            let why = self.assumptions.why(&self.space, packets);
            Certainty::Unknown(if why.text.is_empty() { self.why_incomplete().unwrap_or_default().into() } else { why })
        } else if let Some(why) = self.why_incomplete() {
            Certainty::Unknown(why.into())
        } else {
            Certainty::DoesNot
        }
    }
}
