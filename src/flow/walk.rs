//! The way of a symbolic packet through hooks: `nf_hook_slow`, `nf_conntrack_in`, `nf_nat_inet_fn`.
//!
//! A test splits a packet into those for which it holds and those for which it does not, so that every way through the
//! rules that a real packet can take is taken. Packets that meet again are joined. Nothing here looks at names.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::effort::{Effort, Ended, WALK};
use super::order::{self, Call};
use super::packet::{Guesses, Kind, Packet, merge, state};
use super::unknowns::Unknowns;
use super::unread::List;
use super::values::Values;
use super::world::{RuleAt, World};
use crate::snapshot::netfilter::{ChainId, Family, Field, Hook, Nat, SetId, Step};

/// Symbolic packets under way at once; about a kilobyte each.
const MAX_PACKETS: usize = 4096;
/// Which packet of its connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// The first one, which nat chains see.
    First,
    /// A later one, which they do not.
    Later,
    /// One that belongs to none.
    Invalid,
}

/// What translates a packet, or may.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hit {
    /// A step of a rule, by its number; of position 0: a chain that was not read.
    Rule(RuleAt, usize),
    /// Some chain of a list that was not read.
    Unread(List),
}

/// How a packet leaves a chain.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    /// It came to its end, or returned.
    Return,
    /// Accepted.
    Accept,
    /// Translated.
    Translated(Hit),
}

/// A packet behind a hook, and the rule that translated it there, if any.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passed {
    /// The packet as it was when the rule met it, or as it left.
    pub packet: Packet,
    /// The rule.
    pub hit: Option<Hit>,
}

/// What a call of a hook makes of packets.
type Run<'r, 'a> = &'r mut dyn FnMut(&mut Walk<'a>, &Call, Vec<Packet>) -> Vec<Packet>;

/// Walks through one node's rules. Questions are shared by all walks; each packet has a stage of its own.
#[derive(Debug)]
pub struct Walk<'a> {
    /// What there is.
    pub world: &'a World<'a>,
    /// What could not be told.
    pub unknowns: Unknowns,
    /// What this walk is about; two packets that are asked the same opaque question may answer differently.
    pub stage: String,
    /// Rules that dropped packets.
    pub dropping: BTreeSet<RuleAt>,
    /// Why ways through the rules were not followed, beside the budget.
    pub gave_up: Option<String>,
    /// The work that the judgement may do.
    pub effort: &'a Effort<'a>,
    /// What was left of it when this walk began.
    begun: u64,
    /// This walk gets no further: it has had its share, or too many packets are under way.
    over: bool,
    tracks: BTreeMap<Family, Certainty>,
    /// Sets that rules take packets out of, and put packets into.
    pub(super) updates: BTreeMap<(usize, SetId), [bool; 2]>,
    /// By rule set: whether a rule that was not read may change any of its sets.
    pub(super) unread: Vec<bool>,
}

impl<'a> Walk<'a> {
    /// A walk that takes from this budget. When it is used up, packets get no further, and what was not seen to happen is
    /// uncertain.
    pub fn new(world: &'a World<'a>, effort: &'a Effort<'a>) -> Self {
        let chains = world.rules.iter().enumerate();
        let chains = chains.flat_map(|(set, rules)| rules.ruleset.chains.values().map(move |chain| (set, chain)));
        let mut updates: BTreeMap<(usize, SetId), [bool; 2]> = BTreeMap::new();
        for (set, step) in chains.flat_map(|(set, chain)| {
            let rules = chain.rules_for_udp().into_iter().flatten();
            rules.flat_map(|rule| &rule.steps).map(move |step| (set, step))
        }) {
            if let Step::UpdateSet { set: id, adds } = step {
                updates.entry((set, id.clone())).or_default()[usize::from(*adds)] = true;
            }
        }
        let tracks = [Family::Ipv4, Family::Ipv6].map(|family| (family, world.tracks(family))).into();
        Self {
            world,
            unknowns: Unknowns::default(),
            stage: String::new(),
            dropping: BTreeSet::new(),
            gave_up: None,
            effort,
            begun: effort.left(),
            over: false,
            tracks,
            updates,
            unread: (0..world.rules.len()).map(|set| world.unread_in_set(set).is_some()).collect(),
        }
    }

    /// Takes from the budget; `false`: this walk gets no further.
    pub(super) fn spend(&mut self, units: usize) -> bool {
        self.over |= !self.effort.spend(units) || self.begun - self.effort.left() > WALK;
        !self.over
    }

    /// This walk gets no further: there are more pieces than are followed.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    /// Whether this walk gets no further.
    pub(super) fn is_over(&self) -> bool {
        self.over || self.effort.ended().is_some()
    }

    /// Why ways through the rules are missing, if some are.
    pub fn why_incomplete(&self) -> Option<String> {
        let ended = self.effort.ended().or(self.over.then_some(Ended::UsedUp));
        match ended {
            Some(Ended::Stopped) => Some(Ended::Stopped.why().to_owned()),
            _ => self.gave_up.clone().or(ended.map(|ended| ended.why().to_owned())),
        }
    }

    /// Whether connections of a family are tracked.
    pub fn tracks(&self, family: Family) -> Certainty {
        self.tracks.get(&family).cloned().unwrap_or(Certainty::Happens)
    }

    /// A question whose answer 1 is that connections of a family are tracked.
    pub fn ask_whether_tracked(&mut self, family: Family, why: &str) -> usize {
        let why = || format!("whether connections are tracked is not known: {why}");
        self.unknowns.ask(format!("tracked {family}"), 2, why)
    }

    /// For people: where it is.
    pub fn place(&self, hit: &Hit) -> String {
        match hit {
            Hit::Rule(at, _) => self.world.describe(at),
            Hit::Unread(list) => self.world.describe_list(*list),
        }
    }

    /// The translation that a rule stands for; `None`: it is one that was not understood, or not read.
    pub fn nat(&self, hit: &Hit) -> Option<&'a Nat> {
        let Hit::Rule(at, step) = hit else { return None };
        let chain = self.world.chain(at.set, &at.chain)?;
        let rule = chain.known_rules().iter().find(|rule| rule.position == at.position)?;
        match rule.steps.get(*step) {
            Some(Step::Nat(nat)) => Some(nat),
            _ => None,
        }
    }

    /// What comes out of a hook. `settle` says what becomes of each packet that the NAT core gets, translated or not.
    pub fn hook(
        &mut self,
        hook: Hook,
        device: Option<&str>,
        flow: Flow,
        packets: Vec<Packet>,
        settle: &mut dyn FnMut(&mut Self, Passed) -> Vec<Packet>,
    ) -> Vec<Packet> {
        let Some(family) = packets.first().map(|packet| packet.family) else { return packets };
        if self.is_over() {
            return Vec::new();
        }
        let steps = order::calls(self.world, family, hook, device);
        self.in_every_order(hook, steps, packets, &mut |walk, call, packets| match call {
            Call::Conntrack => walk.conntrack(flow, packets),
            Call::Nat => walk.nat_core(hook, flow, packets, settle),
            Call::Chain(set, id) if hook == Hook::Output && walk.world.reroutes(*set, id) => {
                packets.into_iter().flat_map(|packet| walk.rerouting_chain(*set, id, packet)).collect()
            }
            Call::Chain(set, id) => {
                let ends = walk.base_chain(*set, id, packets);
                ends.into_iter().map(|(_, packet)| packet).collect()
            }
            Call::Unread(list) => {
                let ends = walk.unread_list(*list, packets);
                let passing = ends.into_iter().filter(|(end, _)| *end == End::Return);
                // One of the chains may route what it marks again.
                let mut packets: Vec<Packet> = passing.map(|(_, packet)| packet).collect();
                packets.iter_mut().for_each(|packet| packet.rerouted |= hook == Hook::Output);
                packets
            }
        })
    }

    /// Runs calls by priority, and those of equal priority in every order that they may have.
    pub(super) fn in_every_order(
        &mut self,
        hook: Hook,
        steps: Vec<order::Step>,
        mut packets: Vec<Packet>,
        run: Run<'_, 'a>,
    ) -> Vec<Packet> {
        for order::Step { priority, mut calls } in steps {
            if self.is_over() {
                return Vec::new();
            }
            let Some(family) = packets.first().map(|packet| packet.family) else { return packets };
            let independent = calls.iter().all(|call| match call {
                Call::Chain(set, id) => !self.world.writes(*set, id),
                Call::Conntrack | Call::Nat | Call::Unread(_) => false,
            });
            if calls.len() > 1 && independent {
                calls.retain(|call| self.decides(call, &packets));
            }
            let count = order::orders(calls.len());
            if !order::is_permuted(calls.len()) && !independent {
                let why =
                    format!("{} chains have priority {priority} in {hook}, in more orders than are tried", calls.len());
                self.gave_up.get_or_insert(why);
            }
            if count == 1 {
                packets = calls.iter().fold(packets, |packets, call| run(self, call, packets));
            } else {
                let names: Vec<String> = calls.iter().map(|call| order::name(self.world, call)).collect();
                let why = format!(
                    "{} have priority {priority} in {hook}, and the one that was created last is first",
                    names.join(" and ")
                );
                let question = self.unknowns.ask(format!("order {family} {why}"), count, || why);
                let weight = packets.iter().map(Packet::weight).sum::<usize>() + calls.len();
                let mut outcomes = Vec::new();
                for answer in 0..count {
                    if !self.spend(weight) {
                        break;
                    }
                    let mut mine = packets.clone();
                    mine.retain_mut(|packet| packet.guess(question, answer));
                    let calls = order::order(&calls, answer);
                    outcomes.push(calls.into_iter().fold(mine, |packets, call| run(self, call, packets)));
                }
                packets = if outcomes.len() == count {
                    without_needless_guess(question, outcomes, self.effort)
                } else {
                    outcomes.into_iter().flatten().collect()
                };
            }
            packets = self.joined(packets);
        }
        packets
    }

    /// Whether a chain does anything to one of these packets but let it pass.
    fn decides(&mut self, call: &Call, packets: &[Packet]) -> bool {
        let Call::Chain(set, id) = call else { return true };
        if self.is_unread(*set, id, packets) {
            return true;
        }
        if !self.spend(3 * packets.iter().map(Packet::weight).sum::<usize>()) {
            return true;
        }
        let ends = self.base_chain(*set, id, packets.to_vec());
        let translated = ends.iter().any(|(end, _)| matches!(end, End::Translated(_)));
        let passed = ends.into_iter().map(|(_, packet)| packet).collect();
        translated || !are_same(merge(passed, self.effort), &merge(packets.to_vec(), self.effort), self.effort)
    }

    /// Packets joined as far as possible. Where they are too many, they get no further.
    pub(super) fn joined(&mut self, packets: Vec<Packet>) -> Vec<Packet> {
        let packets = merge(packets, self.effort);
        let unwieldy = |packet: &Packet| packet.get(&Field::Mark).is_unwieldy();
        if packets.len() > MAX_PACKETS || packets.iter().any(unwieldy) {
            self.over = true;
            return Vec::new();
        }
        packets
    }

    /// `nf_conntrack_in`
    fn conntrack(&mut self, flow: Flow, packets: Vec<Packet>) -> Vec<Packet> {
        let mut passed = Vec::with_capacity(packets.len());
        for mut packet in packets {
            let (before, untracked) = (packet.get(&Field::ConnectionState), Values::of(&[state::UNTRACKED]));
            if !before.and(&untracked).is_empty() {
                passed.push(packet.clone().with(Field::ConnectionState, untracked.clone()));
            }
            if before.without(&untracked).is_empty() {
                continue;
            }
            packet.set(Field::ConnectionState, before.without(&untracked));
            match self.tracks(packet.family) {
                Certainty::Happens => {}
                Certainty::DoesNot => {
                    passed.push(packet);
                    continue;
                }
                Certainty::Unknown(why) => {
                    let question = self.ask_whether_tracked(packet.family, &why);
                    let mut untracked = packet.clone();
                    passed.extend(untracked.guess(question, 0).then_some(untracked));
                    if !packet.guess(question, 1) {
                        continue;
                    }
                }
            }
            let states: &[u128] = match (flow, packet.kind) {
                // A flow without an answer is still new when its second packet comes.
                (Flow::Invalid, _) => &[state::INVALID],
                (Flow::Later, _) => &[state::ESTABLISHED, state::RELATED, state::NEW],
                (Flow::First, Kind::Traffic) => &[state::NEW, state::RELATED],
                (Flow::First, Kind::Tunnel) => &[state::NEW],
            };
            packet.set(Field::ConnectionState, Values::of(states));
            passed.push(packet);
        }
        passed
    }

    /// `ipt_mangle_out`, `nf_route_table_hook4`: what has another mark than before is routed again.
    fn rerouting_chain(&mut self, set: usize, id: &ChainId, packet: Packet) -> Vec<Packet> {
        let before = packet.get(&Field::Mark);
        let ends = self.base_chain(set, id, vec![packet]);
        let mut packets: Vec<Packet> = ends.into_iter().map(|(_, packet)| packet).collect();
        packets.iter_mut().for_each(|packet| packet.rerouted |= packet.get(&Field::Mark) != before);
        packets
    }

    /// A base chain and its policy; packets that are dropped are gone.
    pub(super) fn base_chain(&mut self, set: usize, id: &ChainId, packets: Vec<Packet>) -> Vec<(End, Packet)> {
        let drops = self.world.chain(set, id).and_then(|chain| chain.base.as_ref()).is_some_and(|base| base.drops);
        let mut ends = self.chain(set, id, packets, 0);
        ends.retain(|(end, _)| !(drops && *end == End::Return));
        ends
    }

    /// Whether something happens for certain, perhaps, or not; the text says what could not be told.
    pub fn certainty<'g>(&self, guesses: impl Iterator<Item = &'g Guesses> + Clone) -> Certainty {
        if self.unknowns.certain(guesses.clone(), self.effort) {
            Certainty::Happens
        } else if self.effort.ended() == Some(Ended::Stopped) {
            Certainty::Unknown(Ended::Stopped.why().to_owned())
        } else if guesses.clone().next().is_some() {
            Certainty::Unknown(self.unknowns.why(guesses))
        } else if let Some(why) = self.why_incomplete() {
            Certainty::Unknown(why)
        } else {
            Certainty::DoesNot
        }
    }
}

/// Whether two lists hold the same packets, each once. Looked up and not sorted, so that a stop need not wait for it.
fn are_same(one: Vec<Packet>, other: &[Packet], effort: &Effort<'_>) -> bool {
    let mut known = HashSet::with_capacity(one.len());
    let is_same = one.len() == other.len();
    is_same
        && one.into_iter().all(|packet| effort.spend(packet.weight()) && known.insert(packet))
        && other.iter().all(|packet| effort.spend(packet.weight()) && known.contains(packet))
}

/// All packets; if they are the same whatever the answer is, without that guess.
fn without_needless_guess(question: usize, by_answer: Vec<Vec<Packet>>, effort: &Effort<'_>) -> Vec<Packet> {
    let stripped = |packets: &Vec<Packet>| {
        let strip = |packet: &Packet| {
            let mut packet = packet.clone();
            packet.guesses.remove(&question);
            packet
        };
        // None are left when the effort ends.
        let packets = packets.iter().map_while(|packet| effort.spend(packet.weight()).then(|| strip(packet)));
        merge(packets.collect(), effort)
    };
    let mut answers = by_answer.iter();
    let first = answers.next().map(stripped).unwrap_or_default();
    let needless = answers.all(|packets| are_same(stripped(packets), &first, effort));
    if needless { first } else { by_answer.into_iter().flatten().collect() }
}

/// Whether something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Certainty {
    /// To some packet, whatever could not be told.
    Happens,
    /// That depends on what could not be told.
    Unknown(String),
    /// To no packet.
    DoesNot,
}
