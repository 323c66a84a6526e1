//! Which source-NAT rules new connections get to.

use std::collections::BTreeMap;

use super::effort::Effort;
use super::packet::{Guesses, Kind, Packet, state};
use super::values::Values;
use super::walk::{Certainty, Flow, Hit, Walk};
use super::world::{RuleAt, World};
use crate::snapshot::netfilter::{Backend, Family, Field, Hook, Nat, NatAction};

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

/// Rules that a new connection with ports, forwarded or of this host, can end in.
///
/// A mark may have any bits that some rule sets, whichever connections that rule is for.
pub fn reached(world: &World<'_>, effort: &Effort<'_>) -> ReachedRules {
    let mut walk = Walk::new(world, effort);
    let mut hits: BTreeMap<Hit, Vec<Guesses>> = BTreeMap::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for hook in [Hook::Postrouting, Hook::Input] {
            walk.stage = format!("{family} {hook}");
            let packet = Packet::new(Kind::Traffic, family)
                .with(Field::L4Proto, Values::of(&WITH_PORTS))
                .with(Field::ConnectionState, Values::of(&[state::NEW, state::RELATED]))
                .with(Field::ConnectionDirection, Values::of(&[0]))
                .with(Field::Mark, Values::free_bits(world.settable_bits()));
            let mut packets = vec![packet.clone()];
            if let Some((bits, why)) = world.doubtful_bits() {
                let mut packet = packet.with(Field::Mark, Values::free_bits(bits | world.settable_bits()));
                packet.guess(walk.unknowns.ask(format!("doubtful bits {why}"), 2, || why), 1);
                packets.push(packet);
            }
            walk.nat_core(hook, Flow::First, packets, &mut |_, passed| {
                if let Some(hit) = passed.hit {
                    hits.entry(hit).or_default().push(passed.packet.guesses);
                }
                Vec::new()
            });
        }
    }
    let found = hits.into_iter().map(|(hit, guesses)| Reached {
        place: walk.place(&hit),
        nat: walk.nat(&hit).cloned(),
        certainty: walk.certainty(guesses.iter()),
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
