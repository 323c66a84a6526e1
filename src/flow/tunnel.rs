//! Whether any rule changes the outer packets of a tunnel.
//!
//! A packet that enters a tunnel keeps its mark, so the outer packet, which is a flow of its own, meets the rules with
//! whatever mark the inner one left with. The inner packet therefore walks first: as the first of its flow, and as a later
//! one, which nat chains do not see; from this host and from others; of both families. Then the outer packet does, once
//! with each mark that can survive, and once without.

use std::collections::BTreeMap;

use super::facts::{TunnelFacts, Way};
use super::nat::{Effect, effect};
use super::packet::{Guesses, Kind, Packet};
use super::values::{Pattern, Values};
use super::walk::{Certainty, Flow, Hit, Passed, Walk, state};
use super::world::{LOCAL, World};
use crate::snapshot::Reading;
use crate::snapshot::netfilter::{
    Chosen, Condition, Family, Field, Hook, Nat, NatAction, Step, TypeScope, address_key, name_key,
};

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
type Marks = BTreeMap<Guesses, Values>;

/// A rewriting that was found.
#[derive(Clone, Debug)]
struct Rewriting {
    how: String,
    guesses: Guesses,
}

/// One walk of a tunnel's packets.
struct Journey<'w, 'a> {
    walk: Walk<'a>,
    facts: &'w TunnelFacts,
    rewritings: Vec<Rewriting>,
    tracked: Vec<Guesses>,
    kept: Vec<String>,
}

/// Walks all packets of a tunnel.
pub fn outer_packets(world: &World<'_>, facts: &TunnelFacts) -> OuterPackets {
    let mut journey = Journey { walk: Walk::new(world), facts, rewritings: vec![], tracked: vec![], kept: vec![] };
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
    fn world(&self) -> &'a World<'a> {
        self.walk.world
    }

    /// All marks that a packet can leave the tunnel's device with.
    fn inner(&mut self) -> Marks {
        let mut marks = Marks::new();
        marks.insert(Guesses::new(), Values::word(0));
        for (at, family) in [Family::Ipv4, Family::Ipv6].into_iter().enumerate() {
            if self.facts.inner[at].is_empty() {
                continue;
            }
            for forwarded in [false, true] {
                if forwarded && !self.facts.forwards[at] {
                    continue;
                }
                // What the first packet leaves in the connection's mark is what later ones begin with.
                let mut saved = Marks::new();
                saved.insert(Guesses::new(), Values::word(0));
                for packet in self.inner_pass(family, forwarded, Flow::First, Values::word(0), &Guesses::new()) {
                    add(&mut marks, &packet, packet.get(&Field::Mark));
                    add(&mut saved, &packet, packet.get(&Field::ConnectionMark));
                }
                for (guesses, connection) in saved {
                    for packet in self.inner_pass(family, forwarded, Flow::Later, connection, &guesses) {
                        add(&mut marks, &packet, packet.get(&Field::Mark));
                    }
                }
            }
        }
        marks
    }

    /// The inner packet as it is when it gets to the tunnel.
    fn inner_pass(
        &mut self,
        family: Family,
        forwarded: bool,
        flow: Flow,
        connection_mark: Values,
        guesses: &Guesses,
    ) -> Vec<Packet> {
        self.walk.stage = format!("inner {family} {forwarded} {flow:?}");
        let no_device = Values::of(&[0]);
        let device = Values::any(&Field::InputName).without(&no_device);
        let mut packet = Packet::new(Kind::Traffic, family)
            .with(Field::Mark, Values::word(0))
            .with(Field::ConnectionMark, connection_mark)
            .with(Field::ConnectionState, Values::of(&[state::INVALID]))
            .with(Field::InputName, if forwarded { device } else { no_device.clone() })
            .with(Field::OutputName, if forwarded { no_device.clone() } else { self.facts.feeders.clone() });
        packet.guesses.clone_from(guesses);
        if flow == Flow::First {
            packet.set(Field::ConnectionDirection, Values::of(&[0]));
            packet.set(Field::ConnectionStatus, Values::free_bits(!TRANSLATED));
        }
        let (source, _) = packet.ends();
        let types = Values::of(&[LOCAL]);
        if let Some(own) = self.world().addresses_of_types(&packet, &types, TypeScope::Any) {
            let known = packet.get(&source);
            let from = if forwarded { known.without(&own) } else { own };
            if from.is_empty() {
                return Vec::new();
            }
            packet.set(source, from);
        }
        let first = if forwarded { Hook::Prerouting } else { Hook::Output };
        let mut packets = self.hook(first, None, flow, vec![packet]);
        if self.facts.balanced {
            // IPVS does it between the two hooks, whatever the rules say.
            let elsewhere = packets.iter().map(|packet| somewhere(packet, &self.facts.inner));
            packets = elsewhere.collect::<Vec<_>>().into_iter().chain(packets).collect();
        }
        let (_, destination) = Packet::new(Kind::Traffic, family).ends();
        let routed = &self.facts.inner[usize::from(family == Family::Ipv6)];
        packets.retain_mut(|packet| {
            let known = packet.get(&destination).and(routed);
            packet.set(Field::OutputName, self.facts.feeders.clone());
            packet.set(destination.clone(), known.clone());
            !known.is_empty()
        });
        if forwarded {
            packets = self.hook(Hook::Forward, None, flow, packets);
            if !self.facts.input_in_postrouting {
                packets.iter_mut().for_each(|packet| packet.set(Field::InputName, no_device.clone()));
            }
        }
        packets = self.hook(Hook::Postrouting, None, flow, packets);
        let device = self.facts.device.clone();
        self.hook(Hook::Egress, Some(&device), flow, packets)
    }

    fn hook(&mut self, hook: Hook, device: Option<&str>, flow: Flow, packets: Vec<Packet>) -> Vec<Packet> {
        let routed = self.facts.inner.clone();
        let translates = self.translates_destinations(packets.first().map_or(Family::Ipv4, |packet| packet.family));
        let later = flow == Flow::Later && translates;
        self.walk.hook(hook, device, flow, packets, &mut |walk, passed| {
            let nat = passed.hit.as_ref().map(|hit| walk.nat(hit).cloned());
            settle_inner(hook, passed.packet, nat, later, &routed)
        })
    }

    /// Whether connections can have another destination than their packets.
    fn translates_destinations(&self, family: Family) -> bool {
        self.world().chains_of(family).any(|(_, _, chain)| match &chain.rules {
            Reading::Ok(rules) => rules.iter().flat_map(|rule| &rule.steps).any(is_destination_nat),
            _ => true,
        })
    }

    /// The outer packet, with each of these marks.
    fn outer(&mut self, marks: &Marks) {
        let each =
            marks.iter().flat_map(|(guesses, values)| values.words().into_iter().map(move |word| (guesses, word)));
        for (guesses, values) in each.collect::<Vec<_>>() {
            match &self.facts.vague {
                Some(_) => {
                    for family in [Family::Ipv4, Family::Ipv6] {
                        let primary = Err("which device it leaves by is not known".into());
                        let way = Way { family, mark: 0, remotes: None, device: None, source: None, primary };
                        self.outer_pass(&way, values.clone(), guesses);
                    }
                }
                None => {
                    for way in &self.facts.ways {
                        let mine = self.routed_like(&values, way.family, way.mark);
                        if !mine.is_empty() {
                            self.outer_pass(way, mine, guesses);
                        }
                    }
                }
            }
        }
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
            .with(Field::SourcePort, self.facts.source_ports.clone())
            .with(Field::DestinationPort, self.facts.ports.clone())
            .with(Field::InputName, Values::of(&[0]));
        packet.guesses.clone_from(guesses);
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
        let tracked = |packet: &&Packet| packet.number(&Field::ConnectionState) == Some(state::NEW);
        self.tracked.extend(packets.iter().filter(tracked).map(|packet| packet.guesses.clone()));
        let tunnel = name_key(&self.facts.device).filter(|_| self.facts.input_in_postrouting);
        for (packet, way) in self.rerouted(packets, way) {
            let packet = packet.with(Field::InputName, Values::of(&[tunnel.unwrap_or(0)]));
            self.outer_hook(Hook::Postrouting, vec![packet], &way, &started_with);
        }
    }

    /// A packet whose mark has changed is routed again (`ip_route_me_harder`).
    fn rerouted(&self, packets: Vec<Packet>, way: &Way) -> Vec<(Packet, Way)> {
        let others = self.facts.ways.iter().filter(|other| other.family == way.family && other.mark != way.mark);
        let others: Vec<&Way> = others.collect();
        let mut found = Vec::new();
        for packet in packets {
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
            let place = walk.world.describe(&hit.at);
            let effect = walk.nat(&hit).map(|nat| effect(nat, hook, &packet, &way.primary));
            match effect {
                Some(Effect::Kept) => {
                    kept.push(format!("{place} leaves address and port as they are"));
                    vec![packet]
                }
                Some(Effect::Changed(what)) => {
                    let how = format!("{} {what} from {place}", packets_with(marks));
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
const TRANSLATED: u32 = 0x30;

fn unclear(walk: &mut Walk<'_>, hit: &Hit, why: &str) -> usize {
    let key = format!("{} effect {hit:?}", walk.stage);
    walk.unknowns.ask(key, 2, || why.to_owned())
}

fn is_destination_nat(step: &Step) -> bool {
    match step {
        Step::Nat(nat) => matches!(nat.action, NatAction::Dnat | NatAction::Redirect | NatAction::Netmap),
        Step::Opaque(_) => true,
        _ => false,
    }
}

fn add(marks: &mut Marks, packet: &Packet, values: Values) {
    match marks.get_mut(&packet.guesses) {
        Some(known) => *known = known.or(&values),
        None => drop(marks.insert(packet.guesses.clone(), values)),
    }
}

/// A packet whose connection was translated so.
fn with_status(packet: Packet, bit: u32) -> Packet {
    let set = packet.get(&Field::ConnectionStatus).written(&Values::word(0), !bit, 0, bit);
    packet.with(Field::ConnectionStatus, set)
}

/// A packet that was given another destination, one that is routed into the tunnel.
fn somewhere(packet: &Packet, inner: &[Values; 2]) -> Packet {
    let (_, destination) = packet.ends();
    let routed = inner[usize::from(packet.family == Family::Ipv6)].clone();
    let mut packet = with_status(packet.clone(), 0x20).with(destination, routed);
    packet.forget(&Field::DestinationPort);
    packet
}

/// What becomes of an inner packet that the NAT core got. `nat`: the rule that it ended in, or one that was not understood.
fn settle_inner(hook: Hook, packet: Packet, nat: Option<Option<Nat>>, later: bool, inner: &[Values; 2]) -> Vec<Packet> {
    let (source, destination) = packet.ends();
    let routed = &inner[usize::from(packet.family == Family::Ipv6)];
    let on_source = matches!(hook, Hook::Postrouting | Hook::Input);
    match nat {
        None if on_source => vec![packet],
        // A later packet of a flow that was translated when it began.
        None if later => vec![somewhere(&packet, inner), packet],
        None => vec![packet],
        Some(_) if on_source => {
            let mut packet = with_status(packet, 0x10);
            packet.forget(&source);
            packet.forget(&Field::SourcePort);
            vec![packet]
        }
        Some(nat) => {
            let mut packet = somewhere(&packet, inner);
            match nat.map(|nat| (nat.action, nat.addresses, nat.ports)) {
                Some((NatAction::Redirect, ..)) => return Vec::new(), // for this host
                Some((NatAction::Dnat, Chosen::Range(first, last), ports)) => {
                    let targets = Values::Ranges(vec![(address_key(first), address_key(last))]);
                    packet.set(destination, routed.and(&targets));
                    if let Chosen::Range(first, last) = ports {
                        packet.set(Field::DestinationPort, Values::Ranges(vec![(first.into(), last.into())]));
                    }
                }
                _ => {}
            }
            vec![packet]
        }
    }
}

/// `packets`, `packets that carry mark 0x4000`: what a rewriting is about.
fn packets_with(marks: &Values) -> String {
    match marks.patterns() {
        [Pattern { mask: u32::MAX, value: 0 }] => "every outer packet gets".into(),
        [Pattern { mask: u32::MAX, value }] => format!("an outer packet with mark {value:#x} gets"),
        _ => "an outer packet with the mark of the packet inside gets".into(),
    }
}
