//! Scenario: whether any rule changes a tunnel's outer packets, which are flows of their own but inherit the mark with
//! which the inner packet entered. So inner packets are walked first: first and later packets of a connection (which
//! skip nat chains), of this host and forwarded, of both families; then outer packets with all marks found.

mod arrivals;
mod bound;
mod inner;

use std::cell::OnceCell;
use std::collections::BTreeMap;

use super::first;
use super::rewriting::{Outer, Rewriting};
use crate::facts::Question;
use crate::facts::netfilter::{Family, Field, Hook, device_name, name_key};
use crate::symbolic::assumptions::About;
use crate::symbolic::effort::Effort;
use crate::symbolic::facts::{OuterPath, TunnelFacts};
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::{Flow, Walk};
use crate::symbolic::network::Network;
use crate::symbolic::packets::{PacketKind, Packets, state};
use crate::symbolic::space::{BitPattern, EVERYTHING, NOTHING, PacketSet};

/// What happens to a tunnel's outer packets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterPackets {
    /// Whether some are tracked.
    pub tracked: Happens,
    /// Whether some get another address or port.
    pub rewritten: Happens,
    /// Whether some get another port without conntrack; without a checksum, `nft_payload_set_eval` writes a wrong one.
    pub ports_written: Happens,
    /// Rules that rewrite them, and for which packets; empty if none.
    pub how: String,
    /// Rules that match them but leave them unchanged; empty if none.
    pub kept: String,
    /// If none is rewritten: whether some would be with a mark set outside the rules.
    pub with_other_marks: OtherMarks,
}

/// Effect of other marks, which a process (`SO_MARK`) or BPF program may set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherMarks {
    /// None.
    NoEffect,
    /// With this mark they would be rewritten.
    Rewritten(u32),
    /// With some marks they may be.
    Unclear,
}

/// The walk of a tunnel's packets.
pub(super) struct TunnelWalk<'f, 'a> {
    /// The walk.
    pub(super) walk: Walk<'a>,
    /// The tunnel.
    pub(super) facts: &'f TunnelFacts,
    rewritings: Vec<Rewriting>,
    tracked: PacketSet,
    kept: Vec<String>,
    /// What rules leave in the marks of outer packets that come in by these `Arrivals::ways`, once that was asked.
    arriving_marks: BTreeMap<usize, PacketSet>,
    /// Marks of packets that come out of the tunnel and connect to this host.
    accepted: PacketSet,
    /// Marks that packets may have when they get into the tunnel, if that was asked: no others do.
    pub(super) bound: OnceCell<Option<Vec<BitPattern>>>,
}

/// Number of marks that are described individually; others are "the mark of the packet inside".
pub(super) const MAX_WORDS: usize = 32;

/// Number of mark bits that are tried individually for a verdict's text.
const MAX_BITS: u32 = 4;

/// Walks all packets of a tunnel.
pub(crate) fn outer_packets(network: &Network<'_>, facts: &TunnelFacts, effort: &Effort<'_>) -> OuterPackets {
    let mut tunnel = TunnelWalk::walking(network, facts, effort);
    // Packets from another network namespace have no mark.
    let marks = if facts.is_elsewhere() { tunnel.marked((0, 0)) } else { tunnel.inner() };
    tunnel.outer(marks);
    let all = tunnel.rewritten();
    let TunnelWalk { walk, rewritings, tracked, kept, .. } = tunnel;
    let written = rewritings.iter().filter(|rewriting| rewriting.writes_port);
    let ports_written = walk.space.any(written.map(|rewriting| rewriting.packets));
    let rewritten = match (walk.happens(all), &facts.vague) {
        (Happens::May(why), Some(vague)) => Happens::May(Question::joined([vague.clone(), why])),
        (rewritten, _) => rewritten,
    };
    // Translated packets are tracked. Computed before the next walk uses the budget.
    let tracked = walk.happens(walk.space.or(tracked, all));
    let ports_written = walk.happens(ports_written);
    let doubt = |rewriting: &&Rewriting| walk.assumptions.doubt(&walk.space, rewriting.packets);
    let clearest = rewritings.iter().min_by_key(doubt);
    let with_other_marks = match rewritten == Happens::Never && !facts.is_elsewhere() {
        true => with_other_marks(network, facts, effort),
        false => OtherMarks::NoEffect,
    };
    let how = clearest.map(|Rewriting { how, pattern, .. }| {
        let asked = rewritten == Happens::Must && pattern.value != 0;
        let writer = asked.then(|| who_marks(network, facts, effort, *pattern)).flatten();
        writer.map_or_else(|| how.clone(), |writer| format!("{how}; {writer}"))
    });
    OuterPackets {
        tracked,
        rewritten,
        ports_written,
        how: how.unwrap_or_default(),
        kept: kept.into_iter().next().unwrap_or_default(),
        with_other_marks,
    }
}

/// Whether a mark that no rule sets would lead to a rewrite: with all marks at once, then, if so, with each bit alone.
fn with_other_marks(network: &Network<'_>, facts: &TunnelFacts, effort: &Effort<'_>) -> OtherMarks {
    let rewritten = |bit: Option<u32>| {
        let mut tunnel = TunnelWalk::walking(network, facts, effort);
        let marks = tunnel.marked(bit.map_or((0, u32::MAX), |bit| (bit, bit)));
        let bits = tunnel.decisive();
        tunnel.outer(marks);
        (tunnel.walk.happens(tunnel.rewritten()), bits)
    };
    let (happens, bits) = rewritten(None);
    if happens == Happens::Never {
        return OtherMarks::NoEffect;
    }
    if bits.count_ones() > MAX_BITS {
        return OtherMarks::Unclear;
    }
    let each = (0..u32::BITS).map(|bit| 1 << bit).filter(|bit| bits & bit != 0);
    let found = each.into_iter().find(|bit| rewritten(Some(*bit)).0 == Happens::Must);
    found.map_or(OtherMarks::Unclear, OtherMarks::Rewritten)
}

/// Which rule gives packets that enter the tunnel such a mark, and which packets these are, by walking them again.
fn who_marks(network: &Network<'_>, facts: &TunnelFacts, effort: &Effort<'_>, pattern: BitPattern) -> Option<String> {
    let mut tunnel = TunnelWalk::walking(network, facts, effort);
    tunnel.walk.follow_mark_writers(pattern.value as u32);
    let marks = tunnel.inner();
    let mark = tunnel.walk.block(&Field::Mark);
    let mine = tunnel.walk.space.and(marks, tunnel.walk.space.matching(&mark, pattern.mask, pattern.value));
    let (rule, traffic) = tunnel.walk.writers_of(mine).into_iter().next()?;
    Some(format!("{} sets it on {traffic}", network.describe(&rule)))
}

impl<'f, 'a> TunnelWalk<'f, 'a> {
    fn walking(network: &'a Network<'a>, facts: &'f TunnelFacts, effort: &'a Effort<'a>) -> Self {
        let walk = Walk::new(network, &arrivals::names(facts), facts.routing_bits(), effort);
        Self::new(walk, facts, OnceCell::new())
    }

    /// For this walk; `bound`: see the field.
    pub(super) fn new(walk: Walk<'a>, facts: &'f TunnelFacts, bound: OnceCell<Option<Vec<BitPattern>>>) -> Self {
        let (rewritings, kept, arriving_marks) = (vec![], vec![], BTreeMap::new());
        Self { walk, facts, rewritings, tracked: NOTHING, kept, arriving_marks, accepted: NOTHING, bound }
    }

    /// Packets that enter the tunnel with marks in this range, from anywhere.
    fn marked(&mut self, (first, last): (u32, u32)) -> PacketSet {
        self.walk.outer = false;
        let start = self.walk.start();
        self.walk.all_with(start, &[(Field::Mark, &[(first.into(), last.into())])])
    }

    /// Packets that some rule rewrites.
    fn rewritten(&self) -> PacketSet {
        self.walk.space.any(self.rewritings.iter().map(|rewriting| rewriting.packets))
    }

    /// Packets under the assumption that they take this path of a multipath route.
    fn by_this_path(&mut self, number: usize, family: Family) -> PacketSet {
        if let OuterPath { next_hop: Some((which, of)), mark, remotes, .. } = &self.facts.paths[number] {
            // By default chosen by a hash of the addresses with a secret (`fib_multipath_hash_policy`).
            let why = || {
                let why = "by which next hop of a multipath route its packets leave is not known";
                Question::from(why).shown_by(["ip", "route", "show", "table", "all"])
            };
            let key = format!("next hop of {family} {mark} {remotes:?}");
            return self.walk.answer(key, About::All, *of, *which, why);
        }
        let same = self.facts.paths.iter().filter(|path| path.family == family).count();
        let earlier = self.facts.paths[..number].iter().filter(|path| path.family == family).count();
        if !self.facts.is_elsewhere() || same < 2 {
            return EVERYTHING;
        }
        let why = || "by which device its packets leave is not known: it lives in another network namespace".to_owned();
        self.walk.answer(format!("way of {family}"), About::All, same, earlier, why)
    }

    /// Walks outer packets with these marks.
    fn outer(&mut self, marks: PacketSet) {
        for (pattern, marks) in self.words(marks) {
            if self.walk.is_over() {
                return;
            }
            for (number, path) in self.facts.paths.iter().enumerate() {
                // Without a known route, any mark may lead anywhere.
                let mine = match &self.facts.vague {
                    Some(_) => marks,
                    None => self.routed_like(marks, path.family, path.mark),
                };
                let chosen = self.by_this_path(number, path.family);
                let mine = self.walk.space.and(mine, chosen);
                self.outer_pass(path, mine, pattern);
            }
            for (path, packets) in self.unasked_paths(marks) {
                let assumed = self.unasked("such a mark", 1);
                let packets = self.walk.space.and(packets, assumed);
                self.outer_pass(&path, packets, pattern);
            }
        }
    }

    /// Mark bits that can affect outer packets.
    pub(super) fn decisive(&self) -> u32 {
        let decisive = self.walk.network.survey().tested_outside | self.facts.routing_bits();
        self.walk.followed(&Field::Mark) & decisive
    }

    /// The marks one by one, or together if they are too many.
    fn words(&mut self, marks: PacketSet) -> Vec<(BitPattern, PacketSet)> {
        self.walk.outer = true;
        let mark = self.walk.block(&Field::Mark);
        let any = BitPattern { mask: 0, value: 0 };
        let Some(patterns) = self.walk.space.patterns(marks, &mark, MAX_WORDS) else { return vec![(any, marks)] };
        let free = |pattern: &BitPattern| (!(pattern.mask as u32)).count_ones();
        let count = patterns.iter().fold(0u64, |sum, pattern| sum.saturating_add(1 << free(pattern)));
        let mut words = Vec::new();
        for pattern in patterns {
            let mut open = vec![pattern];
            while let Some(pattern) = open.pop() {
                let rest = !(pattern.mask as u32);
                if rest == 0 || count > MAX_WORDS as u64 {
                    let with = self.walk.space.matching(&mark, pattern.mask, pattern.value);
                    words.push((pattern, self.walk.space.and(marks, with)));
                    continue;
                }
                let bit = 1u128 << rest.trailing_zeros();
                open.push(BitPattern { mask: pattern.mask | bit, value: pattern.value | bit });
                open.push(BitPattern { mask: pattern.mask | bit, ..pattern });
            }
        }
        words
    }

    /// Packets under the assumption that they take, or do not take, a path that was not looked up.
    fn unasked(&mut self, what: &str, answer: usize) -> PacketSet {
        let why = format!("which way packets go that have {what} was not asked");
        self.walk.answer(why.clone(), About::All, 2, answer, || Question::from(why).shown_by(["ip", "rule", "show"]))
    }

    /// Paths of packets whose marks differ from all that were looked up.
    fn unasked_paths(&mut self, packets: PacketSet) -> Vec<(OuterPath, PacketSet)> {
        let mut found: Vec<(OuterPath, PacketSet)> = Vec::new();
        if self.facts.vague.is_some() {
            return found;
        }
        for path in &self.facts.paths {
            let unasked = unasked_path(path);
            if found.iter().any(|(other, _)| *other == unasked) {
                continue;
            }
            let like = |other: &&OuterPath| other.family == path.family && other.remotes == path.remotes;
            let rest = self.facts.paths.iter().filter(like).fold(packets, |left, other| {
                let mine = self.routed_like(left, other.family, other.mark);
                self.walk.space.minus(left, mine)
            });
            if !rest.is_empty() {
                found.push((unasked, rest));
            }
        }
        found
    }

    /// Packets with marks that policy rules treat like this one.
    fn routed_like(&mut self, packets: PacketSet, family: Family, like: u32) -> PacketSet {
        let mark = self.walk.block(&Field::Mark);
        let tested = &self.facts.fwmarks[family.ip_index()];
        tested.iter().fold(packets, |packets, (own, mask)| {
            let same = self.walk.space.matching(&mark, (*mask).into(), (own & mask).into());
            match like & mask == own & mask {
                true => self.walk.space.and(packets, same),
                false => self.walk.space.minus(packets, same),
            }
        })
    }

    /// Of these packets, those with a path's addresses, ports and device, as far as known.
    fn with_ends_of(&mut self, path: &OuterPath, mut packets: PacketSet) -> PacketSet {
        let (source, destination) = self.walk.packets.ends();
        let address = path.source.map(|address| vec![(address, address)]);
        let remotes = path.remotes.as_ref().map(|remotes| remotes.as_ranges().to_vec());
        let device = path.device.map(|device| vec![(device, device)]);
        let ports =
            |ports: &Option<crate::symbolic::values::Numbers>| ports.as_ref().map(|ports| ports.as_ranges().to_vec());
        for (field, ranges) in [
            (source, address),
            (destination, remotes),
            (Field::OutputName, device),
            (Field::SourcePort, ports(&self.facts.source_ports)),
            (Field::DestinationPort, ports(&self.facts.ports)),
        ] {
            if let Some(ranges) = ranges {
                self.walk.packets.known.insert(field.clone());
                packets = self.walk.all_with(packets, &[(field, &ranges)]);
            }
        }
        packets
    }

    fn outer_pass(&mut self, path: &OuterPath, marks: PacketSet, pattern: BitPattern) {
        if marks.is_empty() {
            return;
        }
        self.walk.outer = true;
        self.walk.stage = format!("outer {} {} {:?}", path.family, path.mark, path.device);
        self.walk.packets = Packets::new(PacketKind::Tunnel, path.family);
        let network = self.walk.network;
        if network.unread(path.family).is_none() {
            let mut header = self.facts.bytes_of_header(path);
            header.retain(|(at, ..)| !network.survey().written_bytes.contains(at));
            self.walk.packets.header = header;
        }
        let start = self.walk.space.and(marks, self.walk.start());
        let unseen = self.walk.in_state(&[state::INVALID]);
        let mut packets = self.walk.all_with(
            self.walk.space.and(start, unseen),
            &[
                (Field::ConnectionMark, &[(0, 0)]),
                (Field::ConnectionDirection, &[(0, 0)]),
                (Field::L4Proto, &[(17, 17)]),
                (Field::InputName, &[(0, 0)]),
            ],
        );
        packets = first::untranslated(&mut self.walk, packets);
        let packets = self.with_ends_of(path, packets);
        let packets = self.outer_hook(Hook::Output, packets, path, pattern);
        let new = self.walk.in_state(&[state::NEW]);
        if !self.walk.is_over() {
            self.tracked = self.walk.space.or(self.tracked, self.walk.space.and(packets, new));
        }
        let known = self.walk.packets.known.clone();
        for (mut packets, path) in self.rerouted(packets, path) {
            self.walk.packets.known.clone_from(&known);
            match path.device {
                Some(device) => {
                    self.walk.packets.known.insert(Field::OutputName);
                    packets = self.walk.set(packets, &Field::OutputName, &[(device, device)]);
                }
                None => drop(self.walk.packets.known.remove(&Field::OutputName)),
            }
            match name_key(&self.facts.device).filter(|_| !self.facts.is_elsewhere()) {
                Some(tunnel) => packets = self.walk.set(packets, &Field::InputName, &[(tunnel, tunnel)]),
                None => {
                    self.walk.packets.known.remove(&Field::InputName);
                    packets = self.walk.forget(packets, &[Field::InputName]);
                }
            }
            let packets = self.walk.as_seen_by_postrouting(packets);
            let packets = self.outer_hook(Hook::Postrouting, packets, &path, pattern);
            self.outer_hook(Hook::Egress, packets, &path, pattern);
        }
    }

    /// Packets with a changed mark are re-routed (`ip_route_me_harder`), without the device that the tunnel is bound
    /// to.
    fn rerouted(&mut self, packets: PacketSet, path: &OuterPath) -> Vec<(PacketSet, OuterPath)> {
        let again = self.walk.space.is_set(self.walk.layout.rerouted);
        if self.facts.vague.is_some() || self.walk.space.and(packets, again).is_empty() {
            return vec![(packets, path.clone())];
        }
        let mut found = vec![(self.walk.space.minus(packets, again), path.clone())];
        let mut again = self.walk.space.and(packets, again);
        if self.facts.is_rerouted || !self.unasked_paths(again).is_empty() {
            let [stays, rerouted] = [0, 1].map(|answer| self.unasked("a mark that was changed", answer));
            found.push((self.walk.space.and(again, rerouted), unasked_path(path)));
            again = self.walk.space.and(again, stays);
        }
        let others = self.facts.paths.iter().filter(|other| other.family == path.family && other.mark != path.mark);
        let (_, destination) = self.walk.packets.ends();
        for path in std::iter::once(path).chain(others) {
            let mut mine = self.routed_like(again, path.family, path.mark);
            if let Some(remotes) = &path.remotes {
                mine = self.walk.all_with(mine, &[(destination.clone(), remotes.as_ranges())]);
            }
            found.push((mine, path.clone()));
        }
        found
    }

    /// Runs a hook; returns the packets that leave it unchanged, and records rewrites.
    fn outer_hook(&mut self, hook: Hook, packets: PacketSet, path: &OuterPath, pattern: BitPattern) -> PacketSet {
        let mut outer = Outer { primary: &path.primary, pattern, rewritings: Vec::new(), kept: Vec::new() };
        let device = (hook == Hook::Egress).then(|| path.device.and_then(device_name)).flatten();
        let left = self.walk.hook(hook, device.as_deref(), Flow::First, packets, &mut outer);
        self.rewritings.append(&mut outer.rewritings);
        self.kept.append(&mut outer.kept);
        left
    }
}

/// A path of which only the remotes are known.
fn unasked_path(path: &OuterPath) -> OuterPath {
    let primary = Err("which device it leaves by is not known".into());
    OuterPath {
        mark: 0,
        device: None,
        next_hop: None,
        source: path.source,
        primary,
        family: path.family,
        remotes: path.remotes.clone(),
    }
}
