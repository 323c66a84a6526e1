//! What Services do to connections: destinations that are translated, name servers among which chance decides, and invalid
//! segments that nobody stops.

use super::packet::{Kind, Packet};
use super::values::Values;
use super::walk::{Certainty, Flow, Passed, Walk, state};
use super::world::{RuleAt, World};
use crate::snapshot::Reading;
use crate::snapshot::netfilter::{Family, Field, Hook, Nat, NatAction, Step};

const TCP: u128 = 6;
const UDP: u128 = 17;
const DNS: u128 = 53;
/// Packets to name servers that are compared with each other.
const MAX_HITS: usize = 512;
/// Chains that only Services lead to.
const OF_SERVICES: &[&str] = &["KUBE-MARK-MASQ", "mark-for-masquerade"];

/// Whether something is so, and which rule says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Whether it happens.
    pub certainty: Certainty,
    /// Where; empty if nowhere.
    pub place: String,
}

fn is_destination_nat(nat: &Nat) -> bool {
    matches!(nat.action, NatAction::Dnat | NatAction::Redirect)
}

/// Whether a rule gives connections another destination.
pub fn destination_nat(world: &World<'_>) -> Found {
    let mut unread = None;
    for family in [Family::Ipv4, Family::Ipv6] {
        for (set, id, chain) in world.chains_of(family) {
            let rules = chain.rules_for_udp().unwrap_or_default();
            let translates = |step: &Step| matches!(step, Step::Nat(nat) if is_destination_nat(nat));
            if let Some(rule) = rules.iter().find(|rule| rule.steps.iter().any(translates)) {
                let at = RuleAt { set, chain: id.clone(), position: rule.position };
                return Found { certainty: Certainty::Happens, place: world.describe(&at) };
            }
            if let Reading::Failed(why) = &chain.rules {
                unread = Some((set, why.to_string()));
            }
        }
    }
    let Some((set, why)) = unread else {
        return Found { certainty: Certainty::DoesNot, place: String::new() };
    };
    let setters = world.rules[set].ruleset.setters.found.values();
    match setters.map(|(chain, _)| chain).find(|chain| OF_SERVICES.contains(&chain.chain.as_str())) {
        Some(chain) => Found { certainty: Certainty::Happens, place: format!("Services lead to {}", chain.chain) },
        None => Found { certainty: Certainty::Unknown(why), place: String::new() },
    }
}

/// Whether UDP packets to one address and port 53 get one of several destinations.
pub fn dns_to_several(world: &World<'_>) -> Found {
    let mut walk = Walk::new(world);
    let mut pairs: Vec<(super::packet::Guesses, String)> = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        for hook in [Hook::Output, Hook::Prerouting] {
            walk.stage = format!("dns {family} {hook}");
            let packet = Packet::new(Kind::Traffic, family)
                .with(Field::L4Proto, Values::of(&[UDP]))
                .with(Field::DestinationPort, Values::of(&[DNS]))
                .with(Field::ConnectionState, Values::of(&[state::NEW]))
                .with(Field::ConnectionDirection, Values::of(&[0]));
            let mut hits: Vec<Passed> = Vec::new();
            walk.nat_core(hook, Flow::First, vec![packet], &mut |walk, passed| {
                if passed.hit.is_some() {
                    if hits.len() < MAX_HITS {
                        hits.push(passed);
                    } else {
                        let why = || format!("more than {MAX_HITS} ways lead to name servers");
                        walk.gave_up.get_or_insert_with(why);
                    }
                }
                Vec::new()
            });
            for (at, one) in hits.iter().enumerate() {
                let (Some(hit), place) = (&one.hit, place(&walk, one)) else { continue };
                match walk.nat(hit) {
                    // What was not understood, or not read, may lead to several.
                    None => {
                        let question =
                            walk.unknowns.ask(format!("dns {hit:?}"), 2, || format!("what {place} does is not known"));
                        let mut guesses = one.packet.guesses.clone();
                        guesses.insert(question, 1);
                        pairs.push((guesses, place));
                    }
                    Some(nat) => {
                        let others = hits[at + 1..].iter().filter(|other| {
                            let target = other.hit.as_ref().and_then(|hit| walk.nat(hit));
                            target.is_some_and(|other| other != nat) && one.packet.meets(&other.packet)
                        });
                        pairs.extend(others.map(|other| {
                            let guesses = one.packet.guesses.iter().chain(&other.packet.guesses);
                            (guesses.map(|(question, answer)| (*question, *answer)).collect(), place.clone())
                        }));
                    }
                }
            }
        }
    }
    let certainty = walk.certainty(pairs.iter().map(|(guesses, _)| guesses));
    let place = pairs.iter().min_by_key(|(guesses, _)| guesses.len()).map(|(_, place)| place.clone());
    Found { certainty, place: place.unwrap_or_default() }
}

fn place(walk: &Walk<'_>, passed: &Passed) -> String {
    passed.hit.as_ref().map(|hit| walk.world.describe(&hit.at)).unwrap_or_default()
}

/// Whether TCP segments that connection tracking calls invalid pass through this host. If not, the place is a rule that
/// drops them.
pub fn invalid_passes(world: &World<'_>) -> Found {
    let mut walk = Walk::new(world);
    let mut passing = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        if !walk.tracks(family) {
            continue;
        }
        let devices = Values::any(&Field::InputName).without(&Values::of(&[0]));
        let packet = Packet::new(Kind::Traffic, family)
            .with(Field::L4Proto, Values::of(&[TCP]))
            .with(Field::Mark, Values::word(0))
            .with(Field::ConnectionState, Values::of(&[state::INVALID]))
            .with(Field::InputName, devices.clone())
            .with(Field::OutputName, Values::of(&[0]));
        let mut packets = vec![packet];
        for hook in [Hook::Prerouting, Hook::Forward, Hook::Postrouting] {
            walk.stage = format!("invalid {family} {hook}");
            packets = walk.hook(hook, None, Flow::Invalid, packets, &mut |_, passed| vec![passed.packet]);
            packets.iter_mut().for_each(|packet| packet.set(Field::OutputName, devices.clone()));
        }
        passing.extend(packets.into_iter().map(|packet| packet.guesses));
    }
    let certainty = walk.certainty(passing.iter());
    let place = walk.dropping.iter().next().map(|at| world.describe(at)).unwrap_or_default();
    Found { certainty, place }
}
