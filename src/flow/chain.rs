//! The way of a symbolic packet through one chain and those that it leads to: `nft_do_chain`, `ipt_do_table`.

use super::packet::{Kind, Packet, state};
use super::split::split_elements;
use super::values::Values;
use super::walk::{End, Hit, Walk};
use super::world::RuleAt;
use crate::snapshot::Reading;
use crate::snapshot::netfilter::{Chain, ChainId, Field, MarkWrite, Match, Rule, Step, Verdict};

/// `NFT_JUMP_STACK_SIZE` is 16; x_tables allow as many jumps as there are chains.
const MAX_DEPTH: usize = 128;

fn whole(chain: &Chain) -> Option<&[Rule]> {
    chain.rules.ok().map(|rules| rules.as_slice())
}

/// What a rule costs for each packet, in units of [`super::Effort`].
const RULE: usize = 8;

/// Elements of a verdict map that are looked at one by one.
const MAX_ELEMENTS: usize = 256;

/// The packet as `NOTRACK` leaves it; `None`: it does not change, as it has a connection or a template of one.
fn untracked(packet: &Packet) -> Option<Packet> {
    let (before, open) = (packet.get(&Field::ConnectionState), Values::of(&[state::INVALID]));
    let after = before.without(&open).or(&Values::of(&[state::UNTRACKED]));
    let changes = !packet.template && !before.and(&open).is_empty();
    changes.then(|| packet.clone().with(Field::ConnectionState, after))
}

impl Walk<'_> {
    pub(super) fn ask(&mut self, key: &str, answers: usize, why: impl FnOnce() -> String) -> usize {
        let key = format!("{} {key}", self.stage);
        self.unknowns.ask(key, answers, why)
    }

    /// `nft_do_chain`
    pub(super) fn chain(&mut self, set: usize, id: &ChainId, packets: Vec<Packet>, depth: usize) -> Vec<(End, Packet)> {
        let chain = self.world.chain(set, id);
        let udp = packets.iter().all(Packet::is_udp);
        let rules = chain.and_then(|chain| if udp { chain.rules_for_udp() } else { whole(chain) });
        let rules = match rules {
            Some(rules) if depth < MAX_DEPTH => rules,
            other => {
                let why = match (other, chain) {
                    (Some(_), _) => format!("chain {} is called from {MAX_DEPTH} others", id.chain),
                    (None, Some(unread)) => unread.rules.why().to_owned(),
                    (None, None) => format!("chain {} was not read", id.chain),
                };
                let hit = Hit::Rule(RuleAt { set, chain: id.clone(), position: 0 }, 0);
                return self.anything(&hit, &why, packets);
            }
        };
        let mut live = packets;
        let mut ends = Vec::new();
        let mut joined = live.len();
        for rule in rules.iter() {
            if live.is_empty() {
                break;
            }
            let at = RuleAt { set, chain: id.clone(), position: rule.position };
            live = self.rule(&at, rule, live, &mut ends, depth);
            if live.len() > 2 * joined + 8 {
                live = self.joined(live);
                joined = live.len();
            }
        }
        ends.extend(live.into_iter().map(|packet| (End::Return, packet)));
        ends
    }

    /// One rule: returns the packets that go on with the next one.
    fn rule(
        &mut self,
        at: &RuleAt,
        rule: &Rule,
        packets: Vec<Packet>,
        ends: &mut Vec<(End, Packet)>,
        depth: usize,
    ) -> Vec<Packet> {
        if !self.spend(RULE * packets.len()) {
            return Vec::new();
        }
        let Some(last) = rule
            .steps
            .iter()
            .rposition(|step| !matches!(step, Step::Match(_) | Step::Harmless(_) | Step::UpdateSet { .. }))
        else {
            return packets; // it only counts or logs
        };
        let mut next = Vec::new();
        let mut current = packets;
        for (number, step) in rule.steps.iter().enumerate().take(last + 1) {
            if self.is_over() {
                return Vec::new(); // what the rest of the rule does was not seen
            }
            match step {
                Step::Match(found) => {
                    let mut holding = Vec::new();
                    for packet in std::mem::take(&mut current) {
                        if !self.spend(packet.weight()) {
                            return Vec::new();
                        }
                        let (holds, fails) = self.split(at, number, packet, found);
                        holding.extend(holds);
                        next.extend(fails);
                    }
                    current = holding;
                }
                Step::SetMark(write) => self.write(at, number, &mut current, write, Field::Mark, Field::ConnectionMark),
                Step::SetConnectionMark(write) => {
                    self.write(at, number, &mut current, write, Field::ConnectionMark, Field::Mark);
                }
                Step::Notrack => {
                    for packet in &mut current {
                        if let Some(untracked) = untracked(packet) {
                            *packet = untracked;
                        }
                    }
                }
                Step::Nat(_) => {
                    let hit = Hit::Rule(at.clone(), number);
                    ends.extend(current.drain(..).map(|packet| (End::Translated(hit.clone()), packet)));
                }
                Step::Verdict(verdict) => {
                    let packets = std::mem::take(&mut current);
                    current = self.verdict(at, number, verdict, packets, &mut next, ends, depth);
                }
                Step::Template => current.iter_mut().for_each(|packet| packet.template = true),
                Step::Harmless(_) | Step::UpdateSet { .. } => {}
                Step::Opaque { what, .. } => {
                    let mut open = Vec::new();
                    let hit = Hit::Rule(at.clone(), number);
                    for (end, packet) in self.anything(&hit, what, std::mem::take(&mut current)) {
                        if end == End::Return { open.push(packet) } else { ends.push((end, packet)) }
                    }
                    current = open;
                }
            }
            if current.is_empty() {
                break;
            }
        }
        next.extend(current);
        next
    }

    /// Returns the packets for which the same rule goes on.
    #[allow(clippy::too_many_arguments, reason = "the whole state of a rule")]
    fn verdict(
        &mut self,
        at: &RuleAt,
        number: usize,
        verdict: &Verdict,
        packets: Vec<Packet>,
        next: &mut Vec<Packet>,
        ends: &mut Vec<(End, Packet)>,
        depth: usize,
    ) -> Vec<Packet> {
        if packets.is_empty() {
            return packets;
        }
        match verdict {
            Verdict::Continue => return packets,
            Verdict::Accept => ends.extend(packets.into_iter().map(|packet| (End::Accept, packet))),
            Verdict::Return => ends.extend(packets.into_iter().map(|packet| (End::Return, packet))),
            Verdict::Drop => drop(self.dropping.insert(at.clone())),
            Verdict::Jump(chain) | Verdict::Goto(chain) => {
                let goes = matches!(verdict, Verdict::Goto(_));
                let id = ChainId { chain: chain.clone(), ..at.chain.clone() };
                for (end, packet) in self.chain(at.set, &id, packets, depth + 1) {
                    match end {
                        End::Return if !goes => next.push(packet),
                        end => ends.push((end, packet)),
                    }
                }
            }
            Verdict::Gone(what) => {
                let why = format!("{} hands packets to {what}", self.world.describe(at));
                ends.extend(self.handed_over(at, number, &why, packets));
            }
            Verdict::Map { fields, set, verdicts } => {
                let known = self.world.rules[at.set].ruleset.sets.get(set);
                let elements = known.and_then(|known| known.elements.ok().zip(Some(&known.verdicts)));
                if let Some((elements, verdicts)) = elements
                    && elements.len() == verdicts.len()
                    && elements.len() <= MAX_ELEMENTS
                    && packets.iter().all(|packet| split_elements(packet, fields, elements, self.effort).is_some())
                {
                    let (mut going_on, mut rest) = (Vec::new(), packets);
                    for (element, verdict) in elements.iter().zip(verdicts) {
                        let (mut inside, mut outside) = (Vec::new(), Vec::new());
                        for packet in rest {
                            let parts = split_elements(&packet, fields, std::slice::from_ref(element), self.effort);
                            let (holds, fails) = parts.unwrap_or_else(|| (Vec::new(), vec![packet]));
                            inside.extend(holds);
                            outside.extend(fails);
                        }
                        going_on.extend(self.verdict(at, number, verdict, inside, next, ends, depth));
                        rest = outside;
                    }
                    next.extend(rest);
                    return going_on;
                }
                let found = Match::Set { fields: fields.clone(), set: set.clone(), inverted: false };
                let mut inside = Vec::new();
                for packet in packets {
                    let (holds, fails) = self.split(at, number, packet, &found);
                    inside.extend(holds);
                    next.extend(fails);
                }
                let Reading::Ok(verdicts) = verdicts else {
                    if !inside.is_empty() {
                        ends.extend(self.anything(&Hit::Rule(at.clone(), number), &verdicts.why(), inside));
                    }
                    return Vec::new();
                };
                let unread = self.unread_elements(at, set).is_some();
                let mut going_on = Vec::new();
                for (answer, verdict) in verdicts.iter().enumerate() {
                    let mut mine = inside.clone();
                    let one_has_it = unread || mine.iter().any(|packet| packet.kind == Kind::Tunnel);
                    if verdicts.len() > 1 && one_has_it {
                        let key = format!("{at:?} {number} verdict");
                        let why = format!("which verdict {} gives was not read", self.world.describe(at));
                        let question = self.ask(&key, verdicts.len(), || why);
                        mine.retain_mut(|packet| packet.guess(question, answer));
                    }
                    going_on.extend(self.verdict(at, number, verdict, mine, next, ends, depth));
                }
                return going_on;
            }
        }
        Vec::new()
    }

    /// User space may give a packet back, with another mark.
    fn handed_over(&mut self, at: &RuleAt, number: usize, why: &str, packets: Vec<Packet>) -> Vec<(End, Packet)> {
        let question = self.ask(&format!("{at:?} {number} user space"), 3, || why.to_owned());
        let answers = [None, Some(false), Some(true)]; // kept, given back as it was, given back with any mark
        let mut ends = Vec::new();
        for (answer, marked) in answers.iter().enumerate() {
            let Some(marked) = marked else { continue };
            for mut packet in packets.iter().cloned() {
                if packet.guess(question, answer) {
                    if *marked {
                        packet.set(Field::Mark, Values::any(&Field::Mark));
                    }
                    ends.push((End::Accept, packet));
                }
            }
        }
        ends
    }

    /// Something that was not understood, or not read: it drops all packets, or does anything else with them. A drop is a
    /// case of its own, so that nothing is certain behind it; the other case therefore needs no finer ones.
    pub(super) fn anything(&mut self, hit: &Hit, why: &str, packets: Vec<Packet>) -> Vec<(End, Packet)> {
        let why = format!("{}: {why}", self.place(hit));
        let question = self.ask(&format!("{hit:?}"), 2, || why);
        let mut ends = Vec::new();
        for mut packet in packets {
            if !self.spend(4 * packet.weight()) {
                return Vec::new();
            }
            if !packet.guess(question, 1) {
                continue;
            }
            for mark in [Field::Mark, Field::ConnectionMark] {
                packet.set(mark.clone(), Values::any(&mark));
            }
            if let Some(untracked) = untracked(&packet) {
                ends.extend([(End::Return, untracked.clone()), (End::Accept, untracked)]);
            }
            ends.push((End::Translated(hit.clone()), packet.clone()));
            ends.extend([(End::Accept, packet.clone()), (End::Return, packet)]);
        }
        ends
    }

    fn write(
        &mut self,
        at: &RuleAt,
        number: usize,
        packets: &mut Vec<Packet>,
        write: &MarkWrite,
        own: Field,
        other: Field,
    ) {
        match write {
            MarkWrite::Exact { keep, take, xor } => {
                let units = packets.iter().map(|packet| packet.get(&own).cost() + packet.get(&other).cost()).sum();
                if !self.spend(units) {
                    packets.clear();
                }
                packets.retain_mut(|packet| {
                    let written = packet.get(&own).written(&packet.get(&other), *keep, *take, *xor);
                    written.map_or_else(|| self.give_up(), |written| packet.set(own.clone(), written));
                    !self.is_over()
                });
            }
            MarkWrite::Unknown(what) => {
                let why = format!("{} writes a mark that cannot be told: {what}", self.world.describe(at));
                let question = self.ask(&format!("{at:?} {number} mark"), 3, || why);
                let before = std::mem::take(packets);
                // It may be the same for all packets: what asks for a bit, or for its absence, is not certain to be met.
                let answers = [Values::word(0), Values::word(u32::MAX), Values::any(&own)];
                for (answer, values) in answers.into_iter().enumerate() {
                    for packet in before.iter().cloned() {
                        let mut packet = packet.with(own.clone(), values.clone());
                        if packet.guess(question, answer) {
                            packets.push(packet);
                        }
                    }
                }
            }
        }
    }

    /// Splits a packet by a test that cannot be told: it may hold, and it may fail.
    pub(super) fn split_opaquely(
        &mut self,
        at: &RuleAt,
        number: usize,
        why: &str,
        packet: Packet,
    ) -> (Vec<Packet>, Vec<Packet>) {
        let why = format!("{}: {why}", self.world.describe(at));
        let question = self.ask(&format!("{at:?} {number}"), 2, || why);
        let with = |answer| {
            let mut packet = packet.clone();
            packet.guess(question, answer).then_some(packet)
        };
        (with(1).into_iter().collect(), with(0).into_iter().collect())
    }
}
