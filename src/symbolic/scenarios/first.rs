//! First packets of connections, before any IP rule.

use super::devices;
use crate::facts::netfilter::Field;
use crate::symbolic::assumptions::About;
use crate::symbolic::machine::Walk;
use crate::symbolic::packets::state;
use crate::symbolic::space::{NOTHING, PacketSet};

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`, `IPS_SRC_NAT`, `IPS_DST_NAT`: never set for a first packet.
const FIRST: u32 = 0x3e;
/// `IPS_EXPECTED`
const IPS_EXPECTED: u32 = 0x1;

/// First packets of connections, without marks.
pub(super) fn first_packets(walk: &mut Walk<'_>) -> PacketSet {
    let unseen = walk.in_state(&[state::INVALID]); // not seen by conntrack yet
    let fields: &[(Field, &[(u128, u128)])] =
        &[(Field::Mark, &[(0, 0)]), (Field::ConnectionMark, &[(0, 0)]), (Field::ConnectionDirection, &[(0, 0)])];
    let packets = walk.all_with(walk.space.and(unseen, walk.start()), fields);
    untranslated(walk, packets)
}

/// These unmarked packets, and the same with marks that may be set outside the IP hooks.
pub(super) fn marked_outside(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let network = walk.network;
    let marked = walk.with_any_mark(packets, &Field::Mark, network.bits_set_outside());
    let mut all = walk.space.or(packets, marked);
    let elsewhere = if_marked_elsewhere(walk, u32::MAX);
    let doubtful = network.doubtful_bits().map(|(bits, why)| {
        let assumed = walk.assume(format!("doubtful bits {why}"), &Err(why));
        (bits | network.bits_set_outside(), assumed)
    });
    for (bits, assumed) in [(u32::MAX, elsewhere)].into_iter().chain(doubtful) {
        if !assumed.is_empty() {
            let marked = walk.with_any_mark(packets, &Field::Mark, bits);
            all = walk.space.or(all, walk.space.and(marked, assumed));
        }
    }
    if walk.is_over() { NOTHING } else { all }
}

/// If something writes these bits of marks that no packet is followed through.
pub(super) fn if_marked_elsewhere(walk: &mut Walk<'_>, bits: u32) -> PacketSet {
    let Some(chain) = walk.network.marks_elsewhere(bits) else { return NOTHING };
    let why = format!("{chain} may write the mark of packets, and they are not followed through it");
    walk.assume(why.clone(), &Err(why.into()))
}

/// This host's packets with the devices towards their destinations, before any IP rule.
pub(super) fn first_paths(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let (network, family) = (walk.network, walk.packets.family);
    let paths = match &network.host.first_paths[family.ip_index()] {
        Ok(paths) => paths,
        // Each packet has some device.
        Err(why) => {
            let (device, space) = (walk.block(&Field::OutputName), &walk.space);
            let (key, bits) = (format!("{} first way", walk.stage), device.0.len() as u32);
            let path = walk.assumptions.ask_number(key, About::EachPacket, || Some(space.block(bits)), || why.clone());
            let Some(path) = path else { return packets };
            let by_it = walk.equal_bits(packets, &device, &path, u32::MAX);
            let possible = devices::connected(walk, &Field::OutputName);
            let possible = walk.space.renamed(possible, &device.0, &path.0);
            return walk.space.or(by_it, walk.space.minus(packets, possible));
        }
    };
    let (_, destination) = walk.packets.ends();
    let mut all = NOTHING;
    for (device, destinations) in paths {
        let to = walk.with(&destination, destinations.as_ranges());
        let by = walk.with(&Field::OutputName, &[(*device, *device)]);
        all = walk.space.or(all, walk.space.and(to, by));
    }
    walk.space.and(packets, all)
}

/// Of these packets, first packets of connections: not translated, answered or confirmed.
pub(super) fn untranslated(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let block = walk.block(&Field::ConnectionStatus);
    // Outer packets are never expected.
    let none = if walk.outer { FIRST | IPS_EXPECTED } else { FIRST };
    walk.space.and(packets, walk.space.matching(&block, none.into(), 0))
}
