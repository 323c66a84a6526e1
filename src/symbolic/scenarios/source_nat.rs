//! Which source-NAT rules new connections get to.

use crate::snapshot::netfilter::{Backend, Family, Field, Hook, Nat, NatAction};
use crate::symbolic::assumptions::About;
use crate::symbolic::effort::Effort;
use crate::symbolic::machine::{Certainty, Flow, Hit, Hits, OnNat, Walk};
use crate::symbolic::packets::{Kind, Packets, state};
use crate::symbolic::space::{NOTHING, Set};
use crate::symbolic::world::{RuleAt, World};

/// Protocols whose ports are translated: TCP, UDP, DCCP, SCTP, UDP-Lite.
const WITH_PORTS: [u128; 5] = [6, 17, 33, 132, 136];

/// A source-NAT rule that connections get to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// For people: where it stands.
    pub place: String,
    /// Who holds it, and where it stands; `None`: it is in some chain of a list that was not read.
    pub at: Option<(Backend, RuleAt)>,
    /// What it does; `None`: a target that was not understood, or a rule that was not read.
    pub nat: Option<Nat>,
    /// Whether some connection surely gets to it.
    pub certainty: Certainty,
}

/// Those that some connection gets to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReachedRules {
    /// In the order of backends, tables, chains.
    pub rules: Vec<Reached>,
    /// Why there may be more, if there may.
    pub gave_up: Option<String>,
}

impl OnNat for Hits {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, _: Set) -> Set {
        NOTHING
    }

    fn translated(&mut self, walk: &mut Walk<'_>, _: Hook, hit: &Hit, packets: Set) -> Set {
        self.add(&walk.space, hit.clone(), packets);
        NOTHING
    }
}

impl Walk<'_> {
    /// First packets of connections of these protocols, of any host, before source translation.
    ///
    /// A mark may have any bits that some rule sets, whichever connections that rule is for.
    pub(super) fn new_connections(&mut self, protocols: &[(u128, u128)]) -> Set {
        let protocols = self.with(&Field::L4Proto, protocols);
        let new = self.in_state(&[state::NEW, state::RELATED]);
        let original = self.with(&Field::ConnectionDirection, &[(0, 0)]);
        // `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`: no first packet has one of these.
        let status = self.block(&Field::ConnectionStatus);
        let unconfirmed = self.space.matching(&status, 0xe, 0);
        let all =
            [new, original, unconfirmed, self.start()].into_iter().fold(protocols, |all, set| self.space.and(all, set));
        let unmarked = self.with(&Field::Mark, &[(0, 0)]);
        let unmarked = self.space.and(all, unmarked);
        let settable = self.world.settable_bits();
        let mut packets = self.bring_along(unmarked, &Field::Mark, settable);
        if let Some((bits, why)) = self.world.doubtful_bits() {
            let assumed = self.answer(format!("doubtful bits {why}"), About::All, 2, 1, || why);
            let doubtful = self.bring_along(unmarked, &Field::Mark, bits | settable);
            packets = self.space.or(packets, self.space.and(doubtful, assumed));
        }
        packets
    }
}

/// Rules that a new connection with ports, forwarded or of this host, can end in.
///
/// A mark may have any bits that some rule sets, whichever connections that rule is for.
pub fn reached(world: &World<'_>, effort: &Effort<'_>) -> ReachedRules {
    let mut walk = Walk::new(world, &[], 0, effort);
    let mut hits = Hits::default();
    for family in [Family::Ipv4, Family::Ipv6] {
        for hook in [Hook::Postrouting, Hook::Input] {
            walk.stage = format!("{family} {hook}");
            walk.packets = Packets::new(Kind::Traffic, family);
            let packets = walk.new_connections(&WITH_PORTS.map(|protocol| (protocol, protocol)));
            walk.nat_core(hook, Flow::First, packets, &mut hits);
        }
    }
    let found = hits.0.into_iter().map(|(hit, packets)| Reached {
        place: walk.place(&hit),
        nat: walk.nat(&hit).cloned(),
        certainty: walk.certainty(packets),
        at: match hit {
            Hit::Rule(at, _) => Some((world.backend(&at), at)),
            Hit::Unread(_) => None,
        },
    });
    let rules = found.filter(|reached| reached.nat.as_ref().is_none_or(translates_source)).collect();
    ReachedRules { rules, gave_up: walk.why_incomplete() }
}

/// Whether it is the source that is translated.
pub fn translates_source(nat: &Nat) -> bool {
    matches!(nat.action, NatAction::Masquerade | NatAction::Snat | NatAction::Netmap)
}
