//! Packets that get into a tunnel, and the marks that they may have when they do.

use super::packet::{Guesses, Kind, Packet, merge, state};
use super::tunnel::{Journey, Marks, TRANSLATED};
use super::values::Values;
use super::walk::{Certainty, Flow, Passed};
use super::world::LOCAL;
use crate::snapshot::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, Step, TypeScope, address_key};

/// Packets of one connection that are looked at in turn, for what each leaves in its mark.
const MAX_ROUNDS: usize = 8;

impl Journey<'_, '_> {
    /// All marks that a packet can leave the tunnel's device with.
    pub(super) fn inner(&mut self) -> Marks {
        let mut marks = Marks::new();
        if let Some(chain) = self.world().marks_elsewhere() {
            let why = format!("{chain} may write the mark of packets, and natwatch does not follow packets through it");
            let question = self.walk.unknowns.ask(why.clone(), 2, || why);
            marks.insert(Guesses::from([(question, 1)]), Values::any(&Field::Mark));
        }
        // Where nothing is routed into it, whatever enters it has passed no rule of IP.
        if self.facts.bridged || self.facts.inner.iter().all(Values::is_empty) {
            for family in [Family::Ipv4, Family::Ipv6] {
                self.walk.stage = format!("bridged {family}");
                let packet = Packet::new(Kind::Traffic, family).with(Field::Mark, Values::word(0));
                let device = self.facts.device.clone();
                for packet in self.hook(Hook::Egress, Some(&device), Flow::First, vec![packet]) {
                    self.add(&mut marks, &packet, packet.get(&Field::Mark));
                }
                for packet in self.facts.bridged.then(|| self.bridge_pass(family)).into_iter().flatten() {
                    self.add(&mut marks, &packet, packet.get(&Field::Mark));
                }
            }
        }
        for (at, family) in [Family::Ipv4, Family::Ipv6].into_iter().enumerate() {
            if self.facts.inner[at].is_empty() {
                continue;
            }
            for forwarded in [false, true] {
                let mut assumed = Guesses::new();
                match &self.facts.forwards[at] {
                    Ok(false) if forwarded => continue,
                    Err(why) if forwarded => {
                        let question = self.walk.unknowns.ask(format!("forwards {family}"), 2, || why.clone());
                        assumed.insert(question, 1);
                    }
                    _ => {}
                }
                // What the first packet leaves in the connection's mark is what later ones begin with.
                let mut saved = Marks::new();
                saved.insert(assumed.clone(), Values::word(0));
                for packet in self.inner_pass(family, forwarded, Flow::First, Values::word(0), &assumed) {
                    self.add(&mut marks, &packet, packet.get(&Field::Mark));
                    self.add(&mut saved, &packet, packet.get(&Field::ConnectionMark));
                }
                for packet in self.arriving(family, forwarded, &assumed) {
                    self.add(&mut saved, &packet, packet.get(&Field::ConnectionMark));
                }
                // A later packet may leave another one for those after it.
                let mut walked = Marks::new();
                for _ in 0..MAX_ROUNDS {
                    if !self.walk.spend(16 * saved.len()) {
                        return marks;
                    }
                    let new: Vec<(Guesses, Values)> = saved
                        .iter()
                        .filter(|(guesses, values)| walked.get(*guesses) != Some(*values))
                        .map(|(guesses, values)| (guesses.clone(), values.clone()))
                        .collect();
                    if new.is_empty() {
                        break;
                    }
                    walked.clone_from(&saved);
                    for (guesses, connection) in new {
                        if self.walk.is_over() {
                            return marks;
                        }
                        for packet in self.inner_pass(family, forwarded, Flow::Later, connection, &guesses) {
                            self.add(&mut marks, &packet, packet.get(&Field::Mark));
                            self.add(&mut saved, &packet, packet.get(&Field::ConnectionMark));
                        }
                    }
                }
                if walked != saved {
                    let why = || format!("after {MAX_ROUNDS} packets a connection's mark still changes");
                    self.walk.gave_up.get_or_insert_with(why);
                }
            }
        }
        marks
    }

    fn add(&mut self, marks: &mut Marks, packet: &Packet, values: Values) {
        if !self.walk.spend(8 * packet.weight()) {
            return;
        }
        match marks.get_mut(&packet.guesses) {
            Some(known) => *known = known.or(&values),
            None => drop(marks.insert(packet.guesses.clone(), values)),
        }
    }

    /// Frames that a bridge forwards into the tunnel, if they pass the rules of IP (`br_nf_pre_routing`).
    fn bridge_pass(&mut self, family: Family) -> Vec<Packet> {
        self.walk.stage = format!("bridge {family}");
        let why = "whether frames of bridges pass the rules (bridge-nf-call-iptables) was not read";
        let question = self.walk.unknowns.ask(why.into(), 2, || why.into());
        let mut packet = self.unclassified(family).with(Field::ConnectionMark, Values::any(&Field::ConnectionMark));
        packet.guess(question, 1);
        packet.forget(&Field::ConnectionDirection);
        let packets = self.pass(Hook::Prerouting, vec![packet]);
        let feeders = self.facts.feeders.clone();
        let leaving = packets.into_iter().map(|packet| packet.with(Field::OutputName, feeders.clone())).collect();
        let packets = self.pass(Hook::Forward, leaving);
        let packets = self.pass(Hook::Postrouting, packets);
        let device = self.facts.device.clone();
        self.hook(Hook::Egress, Some(&device), Flow::First, packets)
    }

    /// The first packet of a connection, not yet routed, that came in by some device.
    fn unclassified(&self, family: Family) -> Packet {
        let no_device = Values::of(&[0]);
        Packet::new(Kind::Traffic, family)
            .with(Field::Mark, Values::word(0))
            .with(Field::ConnectionState, Values::of(&[state::INVALID]))
            .with(Field::ConnectionDirection, Values::of(&[0]))
            .with(Field::ConnectionStatus, Values::free_bits(!TRANSLATED))
            .with(Field::InputName, Values::any(&Field::InputName).without(&no_device))
            .with(Field::OutputName, no_device)
    }

    /// A hook, behind which translated packets may be of any ends.
    fn pass(&mut self, hook: Hook, packets: Vec<Packet>) -> Vec<Packet> {
        self.walk.hook(hook, None, Flow::First, packets, &mut |_, Passed { mut packet, hit }| {
            if hit.is_some() {
                let (source, destination) = packet.ends();
                for field in [source, destination, Field::SourcePort, Field::DestinationPort, Field::ConnectionStatus] {
                    packet.forget(&field);
                }
            }
            vec![packet]
        })
    }

    /// First packets that come out of the tunnel: what they leave in the connection's mark, answers begin with.
    fn arriving(&mut self, family: Family, forwarded: bool, guesses: &Guesses) -> Vec<Packet> {
        self.walk.stage = format!("arriving {family} {forwarded}");
        let mut packet = self
            .unclassified(family)
            .with(Field::ConnectionMark, Values::word(0))
            .with(Field::InputName, self.facts.feeders.clone());
        packet.guesses.clone_from(guesses);
        let packets = self.pass(Hook::Prerouting, vec![packet]);
        if !forwarded {
            return self.pass(Hook::Input, packets);
        }
        let no_device = Values::of(&[0]);
        let device = Values::any(&Field::OutputName).without(&no_device);
        let leaving = packets.into_iter().map(|packet| packet.with(Field::OutputName, device.clone())).collect();
        let packets = self.pass(Hook::Forward, leaving);
        let packets = self.as_postrouting_sees(packets);
        self.pass(Hook::Postrouting, packets)
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
        // Of others no checksum is left to the device.
        let no_checksum = Values::of(&[1, 58]);
        packet.set(Field::L4Proto, Values::any(&Field::L4Proto).without(&no_checksum));
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
        let starts = if forwarded { vec![packet] } else { self.routed_first(packet) };
        let mut packets = self.hook(first, None, flow, starts);
        if self.facts.balanced != Ok(false) {
            // IPVS does it between the two hooks, whatever the rules say.
            let mut elsewhere: Vec<Packet> =
                packets.iter().map(|packet| somewhere(packet, &self.facts.inner)).collect();
            if let Err(why) = &self.facts.balanced {
                let question = self.walk.unknowns.ask("IPVS".into(), 2, || why.clone());
                elsewhere.retain_mut(|packet| packet.guess(question, 1));
            }
            packets = elsewhere.into_iter().chain(packets).collect();
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
            packets = self.as_postrouting_sees(packets);
        }
        packets = self.hook(Hook::Postrouting, None, flow, packets);
        // Whether a packet takes the way by the bridge or device above is a matter of its route.
        for above in self.facts.above.clone() {
            let through = self.hook(Hook::Egress, Some(&above), flow, packets.clone());
            packets = merge([packets, through].concat(), self.walk.effort);
        }
        let device = self.facts.device.clone();
        self.hook(Hook::Egress, Some(&device), flow, packets)
    }

    /// A packet of this host on output: where it is going before anything translates its destination or marks it.
    fn routed_first(&self, packet: Packet) -> Vec<Packet> {
        let (_, destination) = packet.ends();
        let at = usize::from(packet.family == Family::Ipv6);
        let by_mark = !self.facts.fwmarks[at].is_empty();
        let inner = &self.facts.inner[at];
        let translated = self.translates_destinations(packet.family, Hook::Output);
        if !by_mark && self.facts.balanced == Ok(false) && translated == Certainty::DoesNot {
            return vec![packet];
        }
        let others = Values::any(&Field::OutputName).without(&self.facts.feeders).without(&Values::of(&[0]));
        let known = packet.get(&destination);
        let elsewhere = if by_mark { known.clone() } else { known.without(inner) };
        let elsewhere = packet.clone().with(destination.clone(), elsewhere).with(Field::OutputName, others);
        let packets = [packet.with(destination.clone(), known.and(inner)), elsewhere];
        packets.into_iter().filter(|packet| !packet.get(&destination).is_empty()).collect()
    }

    fn hook(&mut self, hook: Hook, device: Option<&str>, flow: Flow, packets: Vec<Packet>) -> Vec<Packet> {
        let routed = &self.facts.inner;
        let Some(family) = packets.first().map(|packet| packet.family) else { return packets };
        let later = match self.translates_destinations(family, hook) {
            _ if flow != Flow::Later => None,
            Certainty::DoesNot => None,
            Certainty::Happens => Some(Guesses::new()),
            Certainty::Unknown(why) => {
                let why = || format!("whether destinations are translated is not known: {why}");
                Some(Guesses::from([(self.walk.unknowns.ask(format!("later {family} {hook}"), 2, why), 1)]))
            }
        };
        self.walk.hook(hook, device, flow, packets, &mut |walk, passed| {
            let nat = passed.hit.as_ref().map(|hit| walk.nat(hit).cloned());
            settle_inner(hook, passed.packet, nat, later.as_ref(), routed)
        })
    }

    /// Whether connections can have another destination than their packets. What arrives may also be an answer to what
    /// left with a translated source.
    fn translates_destinations(&self, family: Family, hook: Hook) -> Certainty {
        let translates = |step: &Step| match step {
            Step::Nat(nat) => {
                let destination = matches!(nat.action, NatAction::Dnat | NatAction::Redirect | NatAction::Netmap);
                destination || hook != Hook::Output
            }
            _ => false,
        };
        let mut unclear = None;
        for (set, id, chain) in self.world().chains_of(family) {
            if chain.only_searched() || chain.known_rules().iter().flat_map(|rule| &rule.steps).any(translates) {
                return Certainty::Happens;
            }
            let mut steps = chain.known_rules().iter().flat_map(|rule| &rule.steps);
            if steps.any(|step| matches!(step, Step::Opaque { .. })) {
                let chain = self.world().describe_chain(set, id);
                unclear.get_or_insert_with(|| format!("a rule of {chain} is not understood"));
            }
        }
        let why = self.world().unread(family).or(unclear);
        why.map_or(Certainty::DoesNot, Certainty::Unknown)
    }
}

/// A packet whose connection was translated so.
fn with_status(packet: Packet, bit: u32) -> Packet {
    let set = packet.get(&Field::ConnectionStatus).with_bits(bit);
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
/// `later`: it is a later one of a connection whose destination may be translated, if this is taken for granted.
fn settle_inner(
    hook: Hook,
    packet: Packet,
    nat: Option<Option<Nat>>,
    later: Option<&Guesses>,
    inner: &[Values; 2],
) -> Vec<Packet> {
    let (source, destination) = packet.ends();
    let routed = &inner[usize::from(packet.family == Family::Ipv6)];
    let on_source = matches!(hook, Hook::Postrouting | Hook::Input);
    match nat {
        None if on_source => vec![packet],
        // A later packet of a flow that was translated when it began.
        None => {
            let mut packets = Vec::new();
            if let Some(assumed) = later {
                let mut elsewhere = somewhere(&packet, inner);
                let fits = assumed.iter().all(|(question, answer)| elsewhere.guess(*question, *answer));
                packets.extend(fits.then_some(elsewhere));
            }
            packets.push(packet);
            packets
        }
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
