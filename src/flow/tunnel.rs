//! Whether any rule changes the outer packets of a tunnel.
//!
//! A packet that enters a tunnel keeps its mark, so the outer packet, which is a flow of its own, meets the rules with
//! whatever mark the inner one left with. The inner packet therefore walks first: as the first of its flow, and as a later
//! one, which nat chains do not see; from this host and from others; of both families. Then the outer packet does, once
//! with each mark that can survive.

use std::collections::BTreeMap;

use super::effort::Effort;
use super::facts::{TunnelFacts, Way};
use super::nat::{Effect, effect};
use super::packet::{Guesses, Kind, Packet, state};
use super::values::{Pattern, Values};
use super::walk::{Certainty, Flow, Hit, Passed, Walk};
use super::world::World;
use crate::snapshot::netfilter::{Condition, Family, Field, Hook, name_key};

/// What happens to the outer packets of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterPackets {
    /// Connection tracking sees some of them.
    pub tracked: Certainty,
    /// Some of them get another address or port.
    pub rewritten: Certainty,
    /// How: which rule, for which packets. Empty if none.
    pub how: String,
    /// What they get to that leaves them as they are. Empty if nothing.
    pub kept: String,
}

/// Marks that outer packets start with, by what had to be guessed for them.
pub(super) type Marks = BTreeMap<Guesses, Values>;

/// A rewriting that was found.
#[derive(Clone, Debug)]
struct Rewriting {
    how: String,
    guesses: Guesses,
}

/// One walk of a tunnel's packets.
pub(super) struct Journey<'w, 'a> {
    pub(super) walk: Walk<'a>,
    pub(super) facts: &'w TunnelFacts,
    rewritings: Vec<Rewriting>,
    tracked: Vec<Guesses>,
    kept: Vec<String>,
}

/// Walks all packets of a tunnel.
pub fn outer_packets(world: &World<'_>, facts: &TunnelFacts, effort: &Effort<'_>) -> OuterPackets {
    let mut journey =
        Journey { walk: Walk::new(world, effort), facts, rewritings: vec![], tracked: vec![], kept: vec![] };
    let marks = journey.inner();
    journey.outer(&marks);
    let Journey { walk, rewritings, tracked, mut kept, .. } = journey;
    let rewritten = walk.certainty(rewritings.iter().map(|rewriting| &rewriting.guesses));
    let rewritten = match (rewritten, &facts.vague) {
        (Certainty::Unknown(why), Some(vague)) => Certainty::Unknown(format!("{vague}; {why}")),
        (rewritten, _) => rewritten,
    };
    let clearest = rewritings.iter().min_by_key(|rewriting| rewriting.guesses.len());
    kept.dedup();
    OuterPackets {
        // What was translated was tracked.
        tracked: walk.certainty(tracked.iter().chain(rewritings.iter().map(|rewriting| &rewriting.guesses))),
        rewritten,
        how: clearest.map(|rewriting| rewriting.how.clone()).unwrap_or_default(),
        kept: kept.into_iter().next().unwrap_or_default(),
    }
}

impl<'a> Journey<'_, 'a> {
    pub(super) fn world(&self) -> &'a World<'a> {
        self.walk.world
    }

    /// The outer packet, with each of these marks.
    fn outer(&mut self, marks: &Marks) {
        let each =
            marks.iter().flat_map(|(guesses, values)| values.words().into_iter().map(move |word| (guesses, word)));
        for (guesses, values) in each.collect::<Vec<_>>() {
            if self.walk.is_over() {
                return;
            }
            for way in &self.facts.ways {
                // Where no route is known, the mark may lead anywhere.
                let mine = match &self.facts.vague {
                    Some(_) => values.clone(),
                    None => self.routed_like(&values, way.family, way.mark),
                };
                if !mine.is_empty() {
                    self.outer_pass(way, mine, guesses);
                }
            }
            for way in self.unasked_ways(&values) {
                let mut guesses = guesses.clone();
                guesses.insert(self.unasked("such a mark"), 1);
                self.outer_pass(&way, values.clone(), &guesses);
            }
        }
    }

    /// A question whose answer 1 is that packets take a way that is not among those asked for.
    fn unasked(&mut self, what: &str) -> usize {
        let why = format!("which way packets go that have {what} was not asked");
        self.walk.unknowns.ask(why.clone(), 2, || why)
    }

    /// Ways of packets with marks of which none is like one that a route was asked for.
    fn unasked_ways(&self, marks: &Values) -> Vec<Way> {
        let mut found: Vec<Way> = Vec::new();
        if self.facts.vague.is_some() {
            return found;
        }
        for way in &self.facts.ways {
            let like = |other: &&Way| other.family == way.family && other.remotes == way.remotes;
            let asked = self.facts.ways.iter().filter(like).fold(marks.clone(), |left, other| {
                let mine = self.routed_like(&left, other.family, other.mark);
                left.without(&mine)
            });
            let unasked = unasked_way(way);
            if !asked.is_empty() && !found.contains(&unasked) {
                found.push(unasked);
            }
        }
        found
    }

    /// The marks that policy rules see like this one.
    fn routed_like(&self, marks: &Values, family: Family, like: u32) -> Values {
        let tested = &self.facts.fwmarks[usize::from(family == Family::Ipv6)];
        tested.iter().fold(marks.clone(), |marks, (mark, mask)| {
            let condition = Condition::Masked { mask: (*mask).into(), value: (mark & mask).into() };
            let Some((same, other)) = marks.split(&Field::Mark, &condition) else { return marks };
            if like & mask == mark & mask { same } else { other }
        })
    }

    fn outer_pass(&mut self, way: &Way, marks: Values, guesses: &Guesses) {
        let started_with = marks.clone();
        self.walk.stage = format!("outer {} {} {:?}", way.family, way.mark, way.device);
        let mut packet = Packet::new(Kind::Tunnel, way.family)
            .with(Field::Mark, marks)
            .with(Field::ConnectionMark, Values::word(0))
            .with(Field::ConnectionState, Values::of(&[state::INVALID]))
            .with(Field::ConnectionDirection, Values::of(&[0]))
            .with(Field::ConnectionStatus, Values::free_bits(!TRANSLATED))
            .with(Field::L4Proto, Values::of(&[17]))
            .with(Field::InputName, Values::of(&[0]));
        packet.guesses.clone_from(guesses);
        for (field, ports) in
            [(Field::SourcePort, &self.facts.source_ports), (Field::DestinationPort, &self.facts.ports)]
        {
            if let Some(ports) = ports {
                packet.set(field, ports.clone());
            }
        }
        let (source, destination) = packet.ends();
        if let Some(address) = way.source {
            packet.set(source, Values::of(&[address]));
        }
        if let Some(remotes) = &way.remotes {
            packet.set(destination, remotes.clone());
        }
        if let Some(device) = way.device {
            packet.set(Field::OutputName, Values::of(&[device]));
        }
        let packets = self.outer_hook(Hook::Output, vec![packet], way, &started_with);
        let new = Values::of(&[state::NEW]);
        let tracked = |packet: &&Packet| !packet.get(&Field::ConnectionState).and(&new).is_empty();
        self.tracked.extend(packets.iter().filter(tracked).map(|packet| packet.guesses.clone()));
        let tunnel = name_key(&self.facts.device);
        for (packet, way) in self.rerouted(packets, way) {
            let packet = match tunnel {
                Some(tunnel) => packet.with(Field::InputName, Values::of(&[tunnel])),
                None => packet,
            };
            let packets = self.as_postrouting_sees(vec![packet]);
            self.outer_hook(Hook::Postrouting, packets, &way, &started_with);
        }
    }

    /// Packets on their way to postrouting, where rules of older kernels do not see the device that they came in by.
    pub(super) fn as_postrouting_sees(&mut self, packets: Vec<Packet>) -> Vec<Packet> {
        let hidden = |packet: Packet| packet.with(Field::InputName, Values::of(&[0]));
        match &self.facts.input_in_postrouting {
            Ok(true) => packets,
            Ok(false) => packets.into_iter().map(hidden).collect(),
            Err(why) => {
                let question = self.walk.unknowns.ask("input in postrouting".into(), 2, || why.clone());
                let both = packets.into_iter().flat_map(|packet| [(0, hidden(packet.clone())), (1, packet)]);
                both.filter_map(|(answer, mut packet)| packet.guess(question, answer).then_some(packet)).collect()
            }
        }
    }

    /// A packet whose mark was changed is routed again (`ip_route_me_harder`), without the device that the tunnel insists
    /// on.
    fn rerouted(&mut self, packets: Vec<Packet>, way: &Way) -> Vec<(Packet, Way)> {
        let others = self.facts.ways.iter().filter(|other| other.family == way.family && other.mark != way.mark);
        let others: Vec<&Way> = others.collect();
        let mut found = Vec::new();
        for packet in packets {
            if !self.walk.spend(packet.weight()) {
                return Vec::new();
            }
            if self.facts.vague.is_some() || !packet.rerouted {
                found.push((packet, way.clone()));
                continue;
            }
            let mut packet = packet;
            if self.facts.strays || !self.unasked_ways(&packet.get(&Field::Mark)).is_empty() {
                let question = self.unasked("a mark that was changed");
                let mut elsewhere = packet.clone();
                if elsewhere.guess(question, 1) {
                    elsewhere.forget(&Field::OutputName);
                    found.push((elsewhere, unasked_way(way)));
                }
                if !packet.guess(question, 0) {
                    continue;
                }
            }
            for way in std::iter::once(way).chain(others.iter().copied()) {
                let marks = self.routed_like(&packet.get(&Field::Mark), way.family, way.mark);
                let (_, destination) = packet.ends();
                let there = way.remotes.as_ref().map(|remotes| packet.get(&destination).and(remotes));
                if marks.is_empty() || there.as_ref().is_some_and(Values::is_empty) {
                    continue;
                }
                let mut packet = packet.clone().with(Field::Mark, marks);
                if let Some(device) = way.device {
                    packet.set(Field::OutputName, Values::of(&[device]));
                }
                if let Some(there) = there {
                    packet.set(destination, there);
                }
                found.push((packet, way.clone()));
            }
        }
        found
    }

    /// What comes out of a hook as it went in; what was rewritten is written down.
    fn outer_hook(&mut self, hook: Hook, packets: Vec<Packet>, way: &Way, marks: &Values) -> Vec<Packet> {
        let (mut rewritings, mut kept) = (Vec::new(), Vec::new());
        let left = self.walk.hook(hook, None, Flow::First, packets, &mut |walk, Passed { mut packet, hit }| {
            let Some(hit) = hit else { return vec![packet] };
            let place = walk.place(&hit);
            let effect = walk.nat(&hit).map(|nat| effect(nat, hook, &packet, &way.primary));
            match effect {
                Some(Effect::Kept) => {
                    kept.push(format!("{place} leaves address and port as they are"));
                    vec![packet]
                }
                Some(Effect::Changed(what)) => {
                    let how = format!("{} gets {what} from {place}", packets_with(marks));
                    rewritings.push(Rewriting { how, guesses: packet.guesses });
                    Vec::new()
                }
                other => {
                    let why = match other {
                        Some(Effect::Unclear(why)) => format!("{place}: {why}"),
                        _ => format!("what {place} does is not understood"),
                    };
                    let question = unclear(walk, &hit, &why);
                    let mut changed = packet.clone();
                    if changed.guess(question, 1) {
                        let how = format!("{} may be changed by {place}", packets_with(marks));
                        rewritings.push(Rewriting { how, guesses: changed.guesses });
                    }
                    packet.guess(question, 0).then_some(packet).into_iter().collect()
                }
            }
        });
        self.rewritings.extend(rewritings);
        self.kept.extend(kept);
        left
    }
}

/// `IPS_SRC_NAT`, `IPS_DST_NAT`
pub(super) const TRANSLATED: u32 = 0x30;

fn unclear(walk: &mut Walk<'_>, hit: &Hit, why: &str) -> usize {
    let key = format!("{} effect {hit:?}", walk.stage);
    walk.unknowns.ask(key, 2, || why.to_owned())
}

/// A way of which only the remotes are known.
fn unasked_way(way: &Way) -> Way {
    let primary = Err("which device it leaves by is not known".into());
    Way { mark: 0, device: None, source: way.source, primary, family: way.family, remotes: way.remotes.clone() }
}

/// `every outer packet`, `an outer packet with mark 0x4000`: what a rewriting is about.
fn packets_with(marks: &Values) -> String {
    match marks.patterns() {
        [Pattern { mask: u32::MAX, value: 0 }] => "every outer packet".into(),
        [Pattern { mask: u32::MAX, value }] => format!("an outer packet with mark {value:#x}"),
        _ => "an outer packet with the mark of the packet inside".into(),
    }
}
