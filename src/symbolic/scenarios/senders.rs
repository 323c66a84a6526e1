//! Who can send: first packets of connections, forwarded and of this host, up to where their source is translated.

use super::on_nat::{towards, with_destination_translated};
use super::services::Passing;
use crate::facts::netfilter::{DeviceProperty, Family, Field, Hook, NatAction, TypeScope, name_key};
use crate::symbolic::host::{ARPHRD_LOOPBACK, Connected, own_sources};
use crate::symbolic::machine::{Flow, Hit, Hits, OnNat, Walk};
use crate::symbolic::packets::{NO_DEVICE, PacketKind, Packets};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};
use crate::symbolic::values::Numbers;

/// The name of the loopback device, which walks of senders tell from others.
pub(super) fn loopback() -> Option<(u128, u128)> {
    name_key("lo").map(|lo| (lo, lo))
}

/// What rules do to destinations, and the routing behind it.
struct Routed;

impl OnNat for Routed {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        let Some(nat) = walk.nat(hit) else { return elsewhere(walk, hook == Hook::Output, packets) };
        let mut all = NOTHING;
        for (nat, packets) in walk.translations(hit, nat, packets) {
            let packets = elsewhere(walk, hook == Hook::Output, packets);
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

/// Packets that were given some other destination; those of this host are routed again.
pub(super) fn elsewhere(walk: &mut Walk<'_>, routed_again: bool, packets: PacketSet) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let types = [TypeScope::Any, TypeScope::Input, TypeScope::Output].map(Field::DestinationType);
    let packets = with_destination_translated(walk, packets);
    let packets = walk.forget(packets, &[destination, Field::DestinationPort]);
    let packets = walk.forget(packets, &types);
    if routed_again { by_any_device(walk, packets) } else { packets }
}

fn by_any_device(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let packets = walk.forget(packets, &[Field::OutputName]);
    let connected = walk.connected(&Field::OutputName);
    walk.space.and(packets, connected)
}

/// Those of these packets that are for this host. Where its addresses were not read, each may be.
pub(super) fn for_this_host(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    match walk.network.local_addresses(walk.packets.family) {
        Some(own) => walk.all_with(packets, &[(destination, own.as_ranges())]),
        None => {
            let why = "which addresses are this host's was not read";
            let assumed = walk.if_so(format!("{} for this host", walk.stage), &Err(why.into()));
            walk.space.and(packets, assumed)
        }
    }
}

impl Walk<'_> {
    /// Packets with a device in this field that is not the loopback one.
    pub(super) fn by_device(&mut self, field: &Field) -> PacketSet {
        let block = self.block(field);
        let possible = self.space.ranges(&block, &self.layout.names.possible());
        let loopback = self.network.names_with(DeviceProperty::HardwareType, |kind| kind == ARPHRD_LOOPBACK.into());
        let mut others: Vec<(u128, u128)> = loopback.map(|names| names.as_ranges().to_vec()).unwrap_or_default();
        others.extend(self::loopback().filter(|lo| !others.contains(lo)));
        others.extend(NO_DEVICE);
        let others = self.with(field, &others);
        self.space.minus(possible, others)
    }

    /// Packets with a device in this field that is up, and not the loopback one. Where no device is, nothing can arrive or
    /// leave yet: rules are judged for the devices that are to come.
    pub(super) fn connected(&mut self, field: &Field) -> PacketSet {
        let possible = self.by_device(field);
        match self.network.connected() {
            Connected::Nowhere => possible,
            Connected::By(devices) => {
                let names: Vec<u128> = devices.into_iter().map(|(_, name)| name).collect();
                let up = self.with(field, Numbers::of(&names).as_ranges());
                self.space.and(possible, up)
            }
            Connected::Unknown => {
                let why = "which devices are up, and what they are called, is not known";
                let assumed = self.if_so("devices", &Err(why.into()));
                self.space.and(possible, assumed)
            }
        }
    }

    /// If packets of a family are forwarded, or may be once devices are up.
    pub(super) fn may_forward(&mut self, family: Family) -> PacketSet {
        match self.network.connected() {
            Connected::Nowhere => EVERYTHING,
            _ => self.if_forwarded(family),
        }
    }

    /// First packets of connections of a family that get to rules which translate their source.
    pub(super) fn senders(&mut self, family: Family) -> Hits {
        self.packets = Packets::new(PacketKind::Traffic, family);
        let mut hits = Hits::default();
        let assumed = self.may_forward(family);
        self.forwarded(family, assumed, &mut hits);
        self.bridged(family, assumed, &mut hits);
        self.sent(family, &mut hits);
        hits
    }

    /// What other hosts send: on to others, to this host, or to where IPVS sends it.
    fn forwarded(&mut self, family: Family, assumed: PacketSet, hits: &mut Hits) {
        let (source, destination) = self.packets.ends();
        let own = self.network.local_addresses(family).map_or_else(Vec::new, |own| own.as_ranges().to_vec());
        self.stage = format!("arriving {family}");
        let connected = self.connected(&Field::InputName);
        let packets = self.first_packets();
        let packets = self.marked_outside(packets);
        let packets = self.space.and(packets, connected);
        let mut packets = self.all_with(packets, &[(Field::OutputName, NO_DEVICE)]);
        // What says that it is from this host is dropped (`fib_validate_source`).
        let from_here = self.with(&source, &own);
        packets = self.space.minus(packets, from_here);
        packets = self.hook(Hook::Prerouting, None, Flow::First, packets, &mut Routed);

        let to_here = self.with(&destination, &own);
        let through = self.space.and(self.space.minus(packets, to_here), assumed);
        let through = by_any_device(self, through);
        let through = self.hook(Hook::Forward, None, Flow::First, through, &mut Passing);
        self.leaving(through, hits);

        let here = for_this_host(self, packets);
        self.hook(Hook::Input, None, Flow::First, here, hits);
        let balanced = self.if_balanced();
        let here = self.hook(Hook::Input, None, Flow::First, self.space.and(here, balanced), &mut Passing);
        let here = elsewhere(self, true, here);
        let here = self.set(here, &Field::InputName, NO_DEVICE);
        self.leaving(here, hits);
    }

    /// Frames that cross a bridge may pass the rules (br_netfilter) although no packet is forwarded, and may meet others than
    /// packets do. Since that is a question, chains that can only drop them are not looked through.
    fn bridged(&mut self, family: Family, forwarded: PacketSet, hits: &mut Hits) {
        let devices = self.network.devices.iter().flatten();
        let bridges = devices.filter(|device| device.is_connected() && device.kind == Some("bridge"));
        let bridges: Vec<u128> = bridges.filter_map(|bridge| name_key(bridge.name)).collect();
        if bridges.is_empty() || forwarded == EVERYTHING && !self.network.survey().asks_for_ports {
            return;
        }
        self.stage = format!("bridged {family}");
        self.packets.bridged = true;
        self.leave_out_drops(true);
        let bridges = Numbers::of(&bridges);
        let why = "whether frames that cross bridges pass the rules was not read";
        let assumed = self.if_so("bridges", &Err(why.into()));
        let packets = self.first_packets();
        let packets = self.marked_outside(packets);
        let packets = self.space.and(packets, assumed);
        let packets =
            self.all_with(packets, &[(Field::InputName, bridges.as_ranges()), (Field::OutputName, NO_DEVICE)]);
        let packets = self.hook(Hook::Prerouting, None, Flow::First, packets, &mut Routed);
        let packets = self.set(packets, &Field::OutputName, bridges.as_ranges());
        let packets = self.hook(Hook::Forward, None, Flow::First, packets, &mut Passing);
        let packets = self.set(packets, &Field::InputName, NO_DEVICE);
        self.leaving(packets, hits);
        self.packets.bridged = false;
        self.leave_out_drops(false);
    }

    /// What this host sends itself, with addresses of its own.
    fn sent(&mut self, family: Family, hits: &mut Hits) {
        self.stage = format!("sent {family}");
        let (source, _) = self.packets.ends();
        let packets = self.first_packets();
        let mut packets = self.marked_outside(packets);
        packets = self.all_with(packets, &[(Field::InputName, NO_DEVICE)]);
        let network = self.network;
        packets = match (network.connected(), &network.host.addresses) {
            // Addresses come with devices that are to come, or that are not known.
            (Connected::Nowhere | Connected::Unknown, _) => packets,
            (Connected::By(_), Ok(addresses)) => {
                let own: Vec<u128> = own_sources(addresses, family).collect();
                self.all_with(packets, &[(source, Numbers::of(&own).as_ranges())])
            }
            (Connected::By(_), Err(why)) => {
                let assumed = self.if_so("addresses", &Err(why.clone()));
                self.space.and(packets, assumed)
            }
        };
        // What is for itself goes by the loopback device, until something gives it another destination.
        let lo = self.with(&Field::OutputName, loopback().as_slice());
        let connected = self.connected(&Field::OutputName);
        packets = self.space.and(packets, self.space.or(connected, lo));
        packets = self.hook(Hook::Output, None, Flow::First, packets, &mut Routed);
        let balanced = self.if_balanced();
        let balanced = elsewhere(self, true, self.space.and(packets, balanced));
        packets = self.space.or(self.space.and(packets, connected), balanced);
        self.leaving(packets, hits);
    }

    /// Packets behind routing, to the rules that translate their source.
    fn leaving(&mut self, packets: PacketSet, hits: &mut Hits) {
        let packets = self.as_postrouting_sees(packets);
        self.hook(Hook::Postrouting, None, Flow::First, packets, hits);
    }
}
