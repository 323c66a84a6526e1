//! What answers connections whose source was translated: a segment that connection tracking calls invalid is not translated
//! back, so it is for this host itself, which knows no such connection and answers with a reset (`tcp_v4_send_reset`).

use std::net::IpAddr;

use super::senders::loopback;
use super::services::{Passing, invalid_segments};
use crate::snapshot::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, TypeScope, address_key};
use crate::symbolic::assumptions::About;
use crate::symbolic::effort::Effort;
use crate::symbolic::host::LOCAL;
use crate::symbolic::machine::{Flow, Hit, Hits, Walk};
use crate::symbolic::packets::{Kind, Packets};
use crate::symbolic::space::{EVERYTHING, NOTHING, Set};
use crate::symbolic::world::{Found, RuleAt, World};

const TCP: (u128, u128) = (6, 6);
/// Ports that clients and translations choose.
const CHOSEN: (u128, u128) = (1024, 65535);
/// Flag of TCP, in the byte of flags.
const ACK: u128 = 0x10;
/// What tests of that byte are called: of x_tables, and of nf_tables.
const FLAGS: [&str; 2] = ["tcp flags", "1 bytes at 13 of header 2"];
/// Patterns of device names that are told apart; with more, segments may come by any device.
const MAX_DEVICES: usize = 4096;

/// Connections whose source is translated to an address of this host's, and segments that answer them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Whether there are such connections over TCP, and which rule translates them.
    pub translated: Found,
    /// That rule, if it was read.
    pub rule: Option<RuleAt>,
    /// Whether invalid segments that answer them get to this host's own TCP. If not, the place is a rule that drops them.
    pub arrive: Found,
}

/// Sends new connections to the rules that translate their source, and invalid segments back.
pub fn answers(world: &World<'_>, effort: &Effort<'_>) -> Answers {
    let mut walk = Walk::of_connections(world, loopback().as_slice(), effort);
    let (mut translated, mut arriving, mut found) = (NOTHING, NOTHING, Vec::new());
    for family in [Family::Ipv4, Family::Ipv6] {
        walk.stage = format!("leaving {family}");
        walk.packets = Packets::new(Kind::Traffic, family);
        let packets = walk.new_connections(&[TCP]);
        let mut hits = Hits::default();
        walk.nat_core(Hook::Postrouting, Flow::First, packets, &mut hits);
        let mut mine = NOTHING;
        for (hit, packets) in hits.0 {
            let packets = answered_here(&mut walk, &hit, packets);
            if !packets.is_empty() {
                found.push((walk.assumptions.doubt(&walk.space, packets), hit));
                mine = walk.space.or(mine, packets);
            }
        }
        if walk.is_over() {
            break;
        }
        translated = walk.space.or(translated, mine);
        if !mine.is_empty() {
            let arrived = back(&mut walk, family, mine);
            arriving = walk.space.or(arriving, arrived);
        }
    }
    let hit = found.into_iter().min_by_key(|(doubt, _)| *doubt).map(|(_, hit)| hit);
    let place = hit.as_ref().map(|hit| walk.place(hit)).unwrap_or_default();
    let rule = hit.and_then(|hit| match hit {
        Hit::Rule(at, _) => Some(at),
        Hit::Unread(_) => None,
    });
    let translated = Found { certainty: walk.certainty(translated), place };
    let dropping = walk.dropping.iter().next().map(|at| world.describe(at)).unwrap_or_default();
    Answers { translated, rule, arrive: Found { certainty: walk.certainty(arriving), place: dropping } }
}

/// Those of these packets that get an address of this host's from a rule: a masquerading one always gives one.
fn answered_here(walk: &mut Walk<'_>, hit: &Hit, packets: Set) -> Set {
    let each = match walk.nat(hit) {
        Some(nat) => walk.translations(hit, nat, packets).into_iter().map(|(nat, mine)| (Some(nat), mine)).collect(),
        None => vec![(None, packets)],
    };
    let mut here = NOTHING;
    for (nat, packets) in each {
        let known = match nat {
            Some(Nat { action: NatAction::Masquerade, .. }) => Some(true),
            Some(Nat { action: NatAction::Dnat | NatAction::Redirect, .. }) => Some(false),
            // Only the port is another one.
            Some(Nat { addresses: Chosen::Unset, .. }) => Some(false),
            Some(Nat { addresses: Chosen::Range(first, last), .. }) => is_local(walk, first, last),
            Some(Nat { addresses: Chosen::ByPacket, .. }) | None => None,
        };
        let assumed = match known {
            Some(true) => EVERYTHING,
            Some(false) => NOTHING,
            None => {
                let place = walk.place(hit);
                let why = || format!("whether {place} translates sources to an address of this host's is not known");
                walk.answer(format!("answered here {hit:?}"), About::All, 2, 1, why)
            }
        };
        here = walk.space.or(here, walk.space.and(packets, assumed));
    }
    here
}

/// Whether an address of this range is this host's. `None`: that was not read.
fn is_local(walk: &Walk<'_>, first: IpAddr, last: IpAddr) -> Option<bool> {
    if first == last
        && let Some(known) = walk.world.local_sources.get(&first)
    {
        return Some(*known);
    }
    let family = if first.is_ipv6() { Family::Ipv6 } else { Family::Ipv4 };
    let local = walk.world.addresses_of_types(family, |kind| kind == LOCAL, None)?;
    let (first, last) = (address_key(first), address_key(last));
    Some(local.as_ranges().iter().any(|(from, to)| *from <= last && first <= *to))
}

/// Invalid segments from where these connections lead to, which are for this host: those that get to its TCP.
fn back(walk: &mut Walk<'_>, family: Family, connections: Set) -> Set {
    walk.stage = format!("coming back {family}");
    let Some(segments) = invalid_segments(walk, family) else { return NOTHING };
    let output = walk.block(&Field::OutputName);
    let input = walk.block(&Field::InputName);
    let from = match walk.space.patterns(connections, &output, MAX_DEVICES) {
        Some(patterns) => {
            let each = patterns.iter().map(|pattern| walk.space.matching(&input, pattern.mask, pattern.value));
            walk.space.any(each.collect::<Vec<Set>>())
        }
        None => EVERYTHING,
    };
    let mut packets = walk.all_with(segments, &[(Field::DestinationPort, &[CHOSEN])]);
    // Nothing beyond this host answers by its loopback device.
    let possible = walk.by_device(&Field::InputName);
    packets = [from, possible].into_iter().fold(packets, |all, set| walk.space.and(all, set));
    for flags in FLAGS {
        let block = walk.block(&Field::Other(flags.into()));
        let acknowledges = walk.space.matching(&block, ACK, ACK);
        packets = walk.space.and(packets, acknowledges);
    }
    let (_, destination) = walk.packets.ends();
    packets = match walk.world.addresses_of_types(family, |kind| kind == LOCAL, None) {
        Some(local) => walk.all_with(packets, &[(destination, local.as_ranges())]),
        None => [TypeScope::Any, TypeScope::Input].into_iter().fold(packets, |packets, scope| {
            walk.all_with(packets, &[(Field::DestinationType(scope), &[(LOCAL, LOCAL)])])
        }),
    };
    for hook in [Hook::Prerouting, Hook::Input] {
        walk.stage = format!("coming back {family} {hook}");
        packets = walk.hook(hook, None, Flow::Invalid, packets, &mut Passing);
    }
    if walk.is_over() { NOTHING } else { packets }
}
