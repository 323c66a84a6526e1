//! First packets of connections, forwarded and of this host, up to source NAT.

use super::devices::{connected, loopback, may_forward};
use super::given_source::NARROW;
use super::on_nat::{Passing, towards, with_destination_translated};
use super::{confirmed, first, translatable};
use crate::facts::netfilter::{Chosen, Family, Field, Hook, NatAction, TypeScope, name_key};
use crate::symbolic::machine::{Flow, Hits, OnNat, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::network::host::{Connected, own_sources};
use crate::symbolic::packets::{NO_DEVICE, PacketKind, Packets};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};
use crate::symbolic::values::Numbers;

/// Handler for destination NAT and the routing after it.
struct Routed;

impl OnNat for Routed {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        let Some(nat) = walk.nat(hit) else { return elsewhere(walk, hook == Hook::Output, packets) };
        let mut all = NOTHING;
        for (nat, packets) in walk.translations(hit, nat, packets) {
            let packets = given_another(walk, hook == Hook::Output, nat.ports != Chosen::Unset, packets);
            let packets = match nat.action {
                NatAction::Redirect => for_this_host(walk, packets),
                _ => towards(walk, hit, &nat, packets),
            };
            all = walk.space.or(all, packets);
        }
        all
    }

    fn routed_again(&mut self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        by_any_device(walk, packets)
    }
}

/// Packets with any other destination; those of this host are re-routed.
pub(super) fn elsewhere(walk: &mut Walk<'_>, routed_again: bool, packets: PacketSet) -> PacketSet {
    given_another(walk, routed_again, true, packets)
}

/// The same; with another port, or their own.
fn given_another(walk: &mut Walk<'_>, routed_again: bool, ports: bool, packets: PacketSet) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let packets = if ports { walk.forget(packets, &[Field::DestinationPort]) } else { packets };
    let types = [TypeScope::Any, TypeScope::Input, TypeScope::Output].map(Field::DestinationType);
    let packets = with_destination_translated(walk, packets);
    let packets = walk.forget(packets, &[destination]);
    let packets = walk.forget(packets, &types);
    if routed_again { by_any_device(walk, packets) } else { packets }
}

/// The same packets, with any device that is up as output.
pub(super) fn by_any_device(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let packets = walk.forget(packets, &[Field::OutputName]);
    let connected = connected(walk, &Field::OutputName);
    walk.space.and(packets, connected)
}

/// Of these packets, those with a local destination; any, if local addresses were not read.
pub(super) fn for_this_host(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    match walk.network.local_addresses(walk.packets.family) {
        Some(own) => walk.all_with(packets, &[(destination, own.as_ranges())]),
        None => {
            let why = "which addresses are this host's was not read";
            let assumed = walk.assume(format!("{} for this host", walk.stage), &Err(why.into()));
            walk.space.and(packets, assumed)
        }
    }
}

/// First packets of a family's connections that reach rules which translate their source.
pub(super) fn senders(walk: &mut Walk<'_>, family: Family) -> Hits {
    walk.packets = Packets::new(PacketKind::Traffic, family);
    let mut hits = Hits::default();
    let assumed = may_forward(walk, family);
    forwarded(walk, family, assumed, &mut hits);
    bridged(walk, family, assumed, &mut hits);
    sent(walk, family, &mut hits);
    hits
}

/// Packets with a local address in this field, as far as known.
fn with_own_address(walk: &mut Walk<'_>, field: &Field) -> PacketSet {
    let own = walk.network.local_addresses(walk.packets.family);
    walk.with(field, own.as_ref().map_or(&[][..], Numbers::as_ranges))
}

/// Packets from other hosts: forwarded, local, or redirected by IPVS.
fn forwarded(walk: &mut Walk<'_>, family: Family, assumed: PacketSet, hits: &mut Hits) {
    let (source, destination) = walk.packets.ends();
    walk.stage = format!("arriving {family}");
    let connected = connected(walk, &Field::InputName);
    let packets = first::first_packets(walk);
    let packets = first::marked_outside(walk, packets);
    let packets = walk.space.and(packets, connected);
    let mut packets = walk.all_with(packets, &[(Field::OutputName, NO_DEVICE)]);
    // Received packets with a local source are dropped (`fib_validate_source`).
    let from_here = with_own_address(walk, &source);
    packets = walk.space.minus(packets, from_here);
    packets = walk.hook(Hook::Prerouting, None, Flow::First, packets, &mut Routed);

    let to_here = with_own_address(walk, &destination);
    let through = walk.space.and(walk.space.minus(packets, to_here), assumed);
    let narrow = walk.with(&source, NARROW[family.ip_index()]);
    let through = by_any_device(walk, walk.space.minus(through, narrow));
    let through = translatable::forwarded(walk, through);
    leaving(walk, through, hits);

    let here = for_this_host(walk, packets);
    confirmed::translated(walk, Hook::Input, here, hits);
    let by_ipvs = walk.if_ipvs_in_use();
    let here = walk.hook(Hook::Input, None, Flow::First, walk.space.and(here, by_ipvs), &mut Passing);
    let here = elsewhere(walk, true, here);
    let here = walk.set(here, &Field::InputName, NO_DEVICE);
    leaving(walk, here, hits);
}

/// Bridged frames may traverse the rules (br_netfilter) although nothing is forwarded, and may match other rules than
/// packets do. Since that is a question, chains that can only drop are skipped.
fn bridged(walk: &mut Walk<'_>, family: Family, forwarded: PacketSet, hits: &mut Hits) {
    let devices = walk.network.devices.iter().flatten();
    let bridges = devices.filter(|device| device.is_connected() && device.kind == Some("bridge"));
    let bridges: Vec<u128> = bridges.filter_map(|bridge| name_key(bridge.name)).collect();
    if bridges.is_empty() || forwarded == EVERYTHING && !walk.network.survey().asks_for_ports {
        return;
    }
    walk.stage = format!("bridged {family}");
    walk.packets.bridged = true;
    walk.leave_out_drops(true);
    let bridges = Numbers::of(&bridges);
    let why = "whether frames that cross bridges pass the rules was not read";
    let assumed = walk.assume("bridges", &Err(why.into()));
    let packets = first::first_packets(walk);
    let packets = first::marked_outside(walk, packets);
    let packets = walk.space.and(packets, assumed);
    let packets = walk.all_with(packets, &[(Field::InputName, bridges.as_ranges()), (Field::OutputName, NO_DEVICE)]);
    let packets = walk.hook(Hook::Prerouting, None, Flow::First, packets, &mut Routed);
    let packets = walk.set(packets, &Field::OutputName, bridges.as_ranges());
    let packets = walk.hook(Hook::Forward, None, Flow::First, packets, &mut Passing);
    let packets = walk.set(packets, &Field::InputName, NO_DEVICE);
    leaving(walk, packets, hits);
    walk.packets.bridged = false;
    walk.leave_out_drops(false);
}

/// Packets sent by this host, with its own addresses.
fn sent(walk: &mut Walk<'_>, family: Family, hits: &mut Hits) {
    walk.stage = format!("sent {family}");
    let (source, destination) = walk.packets.ends();
    let packets = first::first_packets(walk);
    let mut packets = first::marked_outside(walk, packets);
    packets = walk.all_with(packets, &[(Field::InputName, NO_DEVICE)]);
    let network = walk.network;
    packets = match (network.connected(), &network.host.addresses) {
        // Addresses of devices that do not exist yet or are not known.
        (Connected::Nowhere | Connected::Unknown, _) => packets,
        (Connected::By(_), Ok(addresses)) => {
            let own: Vec<u128> = own_sources(addresses, family).collect();
            walk.all_with(packets, &[(source, Numbers::of(&own).as_ranges())])
        }
        (Connected::By(_), Err(why)) => {
            let assumed = walk.assume("addresses", &Err(why.clone()));
            walk.space.and(packets, assumed)
        }
    };
    // Local packets use loopback until a translation gives them another destination.
    let lo = walk.with(&Field::OutputName, loopback().as_slice());
    let connected = connected(walk, &Field::OutputName);
    packets = walk.space.and(packets, walk.space.or(connected, lo));
    packets = walk.hook(Hook::Output, None, Flow::First, packets, &mut Routed);
    let by_ipvs = walk.if_ipvs_in_use();
    let by_ipvs = elsewhere(walk, true, walk.space.and(packets, by_ipvs));
    // Packets translated to a local destination use loopback too.
    let to_here = with_own_address(walk, &destination);
    packets = walk.space.minus(walk.space.and(packets, connected), to_here);
    packets = walk.space.or(packets, by_ipvs);
    leaving(walk, packets, hits);
}

/// Packets after routing, up to the rules that translate their source.
fn leaving(walk: &mut Walk<'_>, packets: PacketSet, hits: &mut Hits) {
    let packets = walk.as_seen_by_postrouting(packets);
    confirmed::translated(walk, Hook::Postrouting, packets, hits);
}
