//! What Services do to connections: destinations that are translated, name servers among which chance decides, and invalid
//! segments that nobody stops.

use super::effort::Effort;
use super::packet::{Kind, Packet, state};
use super::values::Values;
use super::walk::{Certainty, Flow, Passed, Walk};
use super::world::{Found, World};
use crate::snapshot::netfilter::{Chain, Family, Field, Hook, Nat, NatAction, Step};

const TCP: u128 = 6;
const UDP: u128 = 17;
const DNS: u128 = 53;
/// Packets to name servers that are compared with each other.
const MAX_HITS: usize = 512;
/// Chains that only Services lead to.
const OF_SERVICES: &[&str] = &["KUBE-MARK-MASQ", "mark-for-masquerade"];

fn is_destination_nat(nat: &Nat) -> bool {
    matches!(nat.action, NatAction::Dnat | NatAction::Redirect)
}

/// Whether a rule gives connections another destination.
pub fn destination_nat(world: &World<'_>) -> Found {
    let found = world.find_step(&|step| matches!(step, Step::Nat(nat) if is_destination_nat(nat)));
    if found.certainty == Certainty::Happens {
        return found;
    }
    let searched = |set: &usize| world.rules[*set].ruleset.chains.values().any(Chain::only_searched);
    let searched: Vec<usize> = (0..world.rules.len()).filter(searched).collect();
    let setters = searched.iter().flat_map(|set| world.rules[*set].ruleset.setters.found.values());
    let mut setters = setters.map(|(chain, _)| chain);
    match (setters.find(|chain| OF_SERVICES.contains(&chain.chain.as_str())), found.certainty) {
        (Some(chain), _) => Found { certainty: Certainty::Happens, place: format!("Services lead to {}", chain.chain) },
        (None, Certainty::DoesNot) if !searched.is_empty() => {
            let why = "the chains of Services are too large to be read whole";
            Found { certainty: Certainty::Unknown(why.into()), place: String::new() }
        }
        (None, certainty) => Found { certainty, place: String::new() },
    }
}

/// Whether UDP packets to one address and port 53 get one of several destinations.
pub fn dns_to_several(world: &World<'_>, effort: &Effort<'_>) -> Found {
    let mut walk = Walk::new(world, effort);
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
                if !walk.spend((hits.len() - at) * one.packet.weight()) {
                    break;
                }
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
    passed.hit.as_ref().map(|hit| walk.place(hit)).unwrap_or_default()
}

/// Whether TCP segments that connection tracking calls invalid pass through this host. If not, the place is a rule that
/// drops them.
pub fn invalid_passes(world: &World<'_>, effort: &Effort<'_>) -> Found {
    let mut walk = Walk::new(world, effort);
    let mut passing = Vec::new();
    for family in [Family::Ipv4, Family::Ipv6] {
        let tracks = walk.tracks(family);
        if tracks == Certainty::DoesNot {
            continue;
        }
        let devices = Values::any(&Field::InputName).without(&Values::of(&[0]));
        let mut packet = Packet::new(Kind::Traffic, family)
            .with(Field::L4Proto, Values::of(&[TCP]))
            .with(Field::Mark, Values::word(0))
            .with(Field::ConnectionState, Values::of(&[state::INVALID]))
            .with(Field::InputName, devices.clone())
            .with(Field::OutputName, Values::of(&[0]));
        if let Certainty::Unknown(why) = tracks {
            packet.guess(walk.ask_whether_tracked(family, &why), 1);
        }
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
