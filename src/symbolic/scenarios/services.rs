//! Scenario: effects of Services on connections: DNAT to one of several name servers at random, and invalid segments
//! that nothing drops.

use std::collections::BTreeSet;

use super::devices::{self, loopback};
use super::first;
use crate::facts::netfilter::{Chosen, Element, Family, Field, Hook, Nat};
use crate::symbolic::effort::Effort;
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::{Flow, Hits, Walk};
use crate::symbolic::network::{Hit, Network, Occurrence};
use crate::symbolic::packets::{NO_DEVICE, PacketKind, Packets, SOME_DEVICE, state};
use crate::symbolic::space::{NOTHING, PacketSet};

const TCP: u128 = 6;
const UDP: u128 = 17;
const DNS: u128 = 53;
/// Number of rules that translate DNS queries and are compared with each other.
const MAX_HITS: usize = 2048;

/// Whether UDP packets to one address and port 53 may get one of several destinations.
pub(crate) fn dns_to_several(network: &Network<'_>, effort: &Effort<'_>) -> Occurrence {
    let mut walk = Walk::of_connections(network, loopback().as_slice(), effort);
    let (mut all, mut places) = (NOTHING, Vec::new());
    for family in Family::IP {
        for hook in [Hook::Output, Hook::Prerouting] {
            let hits = translating_udp(&mut walk, "dns", family, hook, (DNS, DNS));
            let hits = as_they_came(&walk, hits);
            if hits.len() > MAX_HITS {
                let why = || format!("more than {MAX_HITS} ways lead to name servers");
                walk.gave_up.get_or_insert_with(why);
            }
            for (at, (hit, packets)) in hits.iter().enumerate().take(MAX_HITS) {
                if walk.is_over() {
                    break;
                }
                let place = walk.place(hit);
                let several = match walk.nat(hit) {
                    nat if is_of_several(walk.network, hit, nat) == Some(true) => *packets,
                    nat if is_of_several(walk.network, hit, nat).is_none() => {
                        let why = walk.question(hit, format!("what {place} does is not known"));
                        let assumed = walk.assume(format!("dns {hit:?}"), &Err(why));
                        walk.space.and(*packets, assumed)
                    }
                    None => NOTHING,
                    Some(nat) => {
                        let others = hits[at + 1..].iter().take(MAX_HITS);
                        let others = others.filter(|(other, _)| walk.nat(other).is_some_and(|other| other != nat));
                        let others: Vec<PacketSet> = others.map(|(_, other)| *other).collect();
                        let each: Vec<PacketSet> =
                            others.into_iter().map(|other| alike(&mut walk, *packets, other)).collect();
                        walk.space.any(each)
                    }
                };
                if !several.is_empty() && !walk.is_over() {
                    all = walk.space.or(all, several);
                    places.push((walk.assumptions.doubt(&walk.space, several), place));
                }
            }
        }
    }
    let place = places.into_iter().min_by_key(|(doubt, _)| *doubt).map(|(_, place)| place);
    Occurrence { happens: walk.happens(all), place: place.unwrap_or_default() }
}

/// Packets reduced to the fields and marks they arrived with. A mark that a rule sets at random may differ between
/// queries of one socket; marks set elsewhere do not.
fn as_they_came(walk: &Walk<'_>, hits: Vec<(Hit, PacketSet)>) -> Vec<(Hit, PacketSet)> {
    if walk.network.bits_set_outside() != 0 {
        return hits;
    }
    let mut written = walk.layout.determined();
    written.extend(&walk.drawn);
    hits.into_iter().map(|(hit, packets)| (hit, walk.space.exists(packets, &written))).collect()
}

/// Packets in the first set for which an equal one is in the second. Per-packet questions may have different answers
/// for the two.
fn alike(walk: &mut Walk<'_>, one: PacketSet, other: PacketSet) -> PacketSet {
    let both = walk.space.and(one, other);
    if !both.is_empty() || !walk.assumptions.depends_on_packets(&walk.space, one) {
        return both;
    }
    let [one_whole, other] = [one, other].map(|packets| walk.space.exists(packets, walk.assumptions.about_each()));
    let both = walk.space.and(one_whole, other);
    if both.is_empty() {
        return NOTHING;
    }
    let why = walk.assumptions.why(&walk.space, one);
    let assumed = walk.assume(format!("{} alike {}", walk.stage, why.text), &Err(why));
    walk.space.and(both, assumed)
}

/// Rules on output or prerouting that translate destinations of new UDP packets to these ports, with the packets.
pub(super) fn translating_udp(
    walk: &mut Walk<'_>,
    what: &str,
    family: Family,
    hook: Hook,
    ports: (u128, u128),
) -> Vec<(Hit, PacketSet)> {
    walk.stage = format!("{what} {family} {hook}");
    walk.packets = Packets::new(PacketKind::Traffic, family);
    let output = hook == Hook::Output;
    let packets = first::first_packets(walk);
    let packets = walk.all_with(
        packets,
        &[
            (Field::L4Proto, &[(UDP, UDP)]),
            (Field::DestinationPort, &[ports]),
            (Field::InputName, if output { NO_DEVICE } else { SOME_DEVICE }),
            (Field::OutputName, if output { SOME_DEVICE } else { NO_DEVICE }),
        ],
    );
    let device = if output { Field::OutputName } else { Field::InputName };
    let lo = if output { walk.with(&device, loopback().as_slice()) } else { NOTHING };
    let connected = devices::connected(walk, &device);
    let packets = walk.space.and(packets, walk.space.or(connected, lo));
    let packets = first::marked_outside(walk, packets);
    let mut hits = Hits::default();
    walk.hook(hook, None, Flow::First, packets, &mut hits);
    // Not expected connections.
    let new = walk.in_state(&[state::NEW]);
    hits.0.into_iter().map(|(hit, packets)| (hit, walk.space.and(packets, new))).collect()
}

/// Whether a single translation gives the queries of one socket, with equal fields and thus equal hash, several
/// destinations. `None`: not known, as for unsupported or unread statements.
fn is_of_several(network: &Network<'_>, hit: &Hit, nat: Option<&Nat>) -> Option<bool> {
    let nat = nat?;
    let Some(map) = &nat.map else { return (nat.addresses != Chosen::ByPacket).then_some(false) };
    if !map.lookup.fields.iter().any(Field::is_drawn) {
        return Some(false);
    }
    let Hit::Rule(at, _) = hit else { return None };
    let known = map.lookup.known_in(&network.rules[at.set].ruleset.sets)?;
    let drawn = |element: &Element| {
        map.lookup.fields.iter().zip(element).all(|(field, (from, to))| match field {
            Field::Number { first, last, hash: None, .. } => *from <= u128::from(*last) && *to >= u128::from(*first),
            _ => true,
        })
    };
    let data = known.filter(|(element, _)| drawn(element)).map(|(_, data)| data);
    Some(data.collect::<BTreeSet<&[u8]>>().len() > 1)
}

/// TCP segments from other hosts that conntrack marks invalid, before any hook. `None`: it marks none.
pub(super) fn invalid_segments(walk: &mut Walk<'_>, family: Family) -> Option<PacketSet> {
    walk.packets = Packets::new(PacketKind::Traffic, family);
    let tracks = walk.tracks(family);
    if tracks == Happens::Never {
        return None;
    }
    let invalid = walk.in_state(&[state::INVALID]);
    let packets = walk.all_with(
        walk.space.and(invalid, walk.start()),
        &[
            (Field::L4Proto, &[(TCP, TCP)]),
            (Field::Mark, &[(0, 0)]),
            (Field::InputName, &[(1, u128::MAX)]),
            (Field::OutputName, &[(0, 0)]),
        ],
    );
    Some(match tracks {
        Happens::May(why) => {
            let tracked = walk.if_tracked(family, &why);
            walk.space.and(packets, tracked)
        }
        _ => packets,
    })
}
