//! Scenario: connections whose source is translated to a random port. If an entry expires, the next segment creates a
//! new entry with another port (`nf_conntrack_in` picks it up, `nf_nat_setup_info` chooses anew), and the server
//! answers with a reset.

use std::collections::BTreeSet;

use super::connection::{ConnectionPath, TCP, ends, reversed};
use super::on_nat::Passing;
use crate::facts::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, PortRandomization};
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::{Flow, Walk};
use crate::symbolic::network::{Hit, Occurrence};
use crate::symbolic::packets::{SOME_DEVICE, state};
use crate::symbolic::space::{NOTHING, PacketSet};

/// TCP connections with a translated source, and the lifetime of their entries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// Whether there are such connections, and which rule translates them.
    pub translated: Occurrence,
    /// Whether some of them get a random port, and by which rule.
    pub random: Occurrence,
    /// Whether entries of some of the latter must have the sysctl's timeout.
    pub by_sysctl: Happens,
    /// Whether entries of some may have another timeout, and by which rule.
    pub own_timeout: Occurrence,
}

/// Results so far.
#[derive(Debug)]
pub(super) struct IdleConnections {
    translated: PacketSet,
    by_sysctl: PacketSet,
    own_timeout: PacketSet,
    /// Connections of the present path with random ports, before flowtables are considered.
    drawn: PacketSet,
    all_drawn: PacketSet,
    hits: Vec<(Option<usize>, Hit)>,
    drawing: Vec<(Option<usize>, Hit)>,
}

impl IdleConnections {
    /// No connections yet.
    pub(super) fn new() -> Self {
        Self {
            translated: NOTHING,
            by_sysctl: NOTHING,
            own_timeout: NOTHING,
            drawn: NOTHING,
            all_drawn: NOTHING,
            hits: Vec::new(),
            drawing: Vec::new(),
        }
    }

    /// Adds packets that a rule translates, as they leave, except for their source.
    pub(super) fn add(&mut self, walk: &mut Walk<'_>, hit: &Hit, nat: Option<&Nat>, packets: PacketSet) {
        if matches!(nat, Some(Nat { action: NatAction::Dnat | NatAction::Redirect, .. })) || packets.is_empty() {
            return;
        }
        let open = walk.question(hit, format!("what {} does is not known", walk.place(hit)));
        let known = nat.map(draws).ok_or_else(|| open.clone());
        let translates = nat.map(|_| true).ok_or(open);
        let key = format!("translates {hit:?}");
        let translated = walk.assume(key.clone(), &translates);
        let translated = walk.space.and(packets, translated);
        self.translated = walk.space.or(self.translated, translated);
        self.hits.push((walk.assumptions.doubt(&walk.space, translated), hit.clone()));
        let drawn = walk.assume(key, &known);
        let drawn = walk.space.and(packets, drawn);
        if !drawn.is_empty() {
            self.drawn = walk.space.or(self.drawn, drawn);
            self.drawing.push((walk.assumptions.doubt(&walk.space, drawn), hit.clone()));
        }
    }

    /// Ends a path: determines which of its connections have entries with another timeout.
    pub(super) fn end_path(&mut self, walk: &mut Walk<'_>, path: &ConnectionPath) {
        let drawn = std::mem::replace(&mut self.drawn, NOTHING);
        if drawn.is_empty() || walk.is_over() {
            return;
        }
        self.all_drawn = walk.space.or(self.all_drawn, drawn);
        let policy = walk.space.is_set(walk.layout.own_timeout);
        let taken = if path.own { NOTHING } else { offloaded(walk, path.family, drawn) };
        let other = walk.space.and(drawn, walk.space.or(policy, taken));
        self.own_timeout = walk.space.or(self.own_timeout, other);
        let rest = walk.space.minus(drawn, other);
        self.by_sysctl = walk.space.or(self.by_sysctl, rest);
    }

    /// The results.
    pub(super) fn found(self, walk: &Walk<'_>) -> Idle {
        let least = |hits: Vec<(Option<usize>, Hit)>| {
            let hit = hits.into_iter().min_by_key(|(doubt, _)| *doubt);
            hit.map(|(_, hit)| walk.place(&hit)).unwrap_or_default()
        };
        let timing = walk.timing.iter().next().map(|at| walk.network.describe(at)).unwrap_or_default();
        Idle {
            translated: Occurrence { happens: walk.happens(self.translated), place: least(self.hits) },
            random: Occurrence { happens: walk.happens(self.all_drawn), place: least(self.drawing) },
            by_sysctl: walk.happens(self.by_sysctl),
            own_timeout: Occurrence { happens: walk.happens(self.own_timeout), place: timing },
        }
    }
}

/// Whether a rule gives each entry another port (`nf_nat_l4proto_unique_tuple`); never for netmap.
pub(super) fn draws(nat: &Nat) -> bool {
    let one = matches!(nat.ports, Chosen::Range(first, last) if first == last);
    nat.randomization != PortRandomization::None && nat.action != NatAction::Netmap && !one
}

/// Of these connections, those of which later packets, in either direction, may reach a rule that offloads them to a
/// flowtable, which accepts established ones on forward (`nft_flow_offload_eval`).
fn offloaded(walk: &mut Walk<'_>, family: Family, connections: PacketSet) -> PacketSet {
    let there = ends(walk, connections);
    let back = reversed(walk, there);
    let both = walk.space.or(there, back);
    walk.stage = format!("later {family}");
    let established = walk.in_state(&[state::ESTABLISHED]);
    let packets = walk.space.and(walk.start(), established);
    let packets = walk.space.and(packets, both);
    // Rules on postrouting of older kernels do not see the input device.
    let packets = walk.forget(packets, &[Field::InputName, Field::OutputName]);
    let packets = walk.all_with(
        packets,
        &[(Field::L4Proto, &[TCP]), (Field::InputName, SOME_DEVICE), (Field::OutputName, SOME_DEVICE)],
    );
    let packets = walk.hook(Hook::Forward, None, Flow::Later, packets, &mut Passing);
    let taken = walk.space.and(packets, walk.space.is_set(walk.layout.own_timeout));
    // Reduced to addresses and ports, so that no doubt remains about others.
    let (source, destination) = walk.packets.ends();
    let kept = [source, Field::SourcePort, destination, Field::DestinationPort];
    let kept: BTreeSet<u32> = kept.iter().flat_map(|field| walk.block(field).0).collect();
    let mut others = walk.space.support(taken);
    others.retain(|variable| !kept.contains(variable));
    let taken = walk.space.exists(taken, &others);
    let answers = reversed(walk, taken);
    walk.space.or(taken, answers)
}
