//! Marks of received packets: none, except for those that arrive through a tunnel.
//!
//! Outer packets traverse prerouting and input, and the inner packet keeps their mark (`vxlan_rcv`, `geneve_rx`; within
//! one namespace `skb_scrub_packet` leaves it). With a group policy (`IFLA_VXLAN_GBP`) the sender sets another.

use super::TunnelWalk;
use super::inner::UNMARKED;
use crate::facts::netfilter::{Family, Field, Hook, address_key, name_key};
use crate::symbolic::facts::{Arrival, TunnelFacts};
use crate::symbolic::machine::{Flow, OnNat, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::packets::SOME_DEVICE;
use crate::symbolic::space::{NOTHING, PacketSet};
use crate::symbolic::values::Numbers;

/// `VXLAN_GBP_ID_MASK`, `VXLAN_GBP_POLICY_APPLIED`, `VXLAN_GBP_DONT_LEARN`
pub(super) const GROUP_POLICY: u32 = 0x0048_ffff;

/// Names of devices that are told apart beside those of the rules.
pub(super) fn names(facts: &TunnelFacts) -> Vec<(u128, u128)> {
    let devices = facts.paths.iter().filter_map(|path| path.device).chain(name_key(&facts.device));
    let devices = devices.chain(name_key("lo"));
    let arrivals = facts.arrivals.ways.iter().map(|way| &way.devices);
    let ranges = arrivals
        .chain([&facts.upper_devices, &facts.arrivals.marking])
        .flat_map(|names| names.as_ranges().iter().copied());
    devices.map(|name| (name, name)).chain(ranges).collect()
}

/// What a rule sends elsewhere gets to no tunnel's socket.
struct ForSocket;

impl OnNat for ForSocket {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        // Source NAT does not matter, and an unsupported statement may leave packets unchanged.
        if hook != Hook::Input && walk.nat(hit).is_some() { NOTHING } else { packets }
    }
}

impl TunnelWalk<'_, '_> {
    /// The received packets with the marks that they may have. `leave`: these packets enter the tunnel again.
    pub(super) fn with_marks_of_arrivals(&mut self, packets: PacketSet, leave: bool) -> PacketSet {
        let facts = self.facts;
        let unmarked = self.walk.all_with(packets, &[(Field::Mark, UNMARKED)]);
        let by = |walk: &mut Walk<'_>, packets: PacketSet, devices: &Numbers| {
            let by = walk.with(&Field::InputName, devices.as_ranges());
            walk.space.and(packets, by)
        };
        let mut marked = NOTHING;
        for (number, way) in facts.arrivals.ways.iter().enumerate() {
            let inside = by(&mut self.walk, packets, &way.devices);
            if !inside.is_empty() {
                let marks = self.marks_of_outer(number, way);
                marked = self.walk.space.or(marked, self.walk.space.and(inside, marks));
            }
        }
        let chosen = by(&mut self.walk, unmarked, &facts.arrivals.marking);
        if !chosen.is_empty() {
            let chosen = self.walk.with_any_mark(chosen, &Field::Mark, GROUP_POLICY);
            marked = self.walk.space.or(marked, chosen);
        }
        if leave && !marked.is_empty() {
            let assumed = self.if_checksums_are_left();
            marked = self.walk.space.and(marked, assumed);
        }
        self.walk.space.or(unmarked, marked)
    }

    /// Packets under the assumption that checksums of packets from a tunnel are left to a device: a NIC has verified
    /// them, and a virtual device may pass on what its sender left open (`CHECKSUM_PARTIAL`).
    fn if_checksums_are_left(&mut self) -> PacketSet {
        let why =
            "whether packets that come out of a tunnel leave their checksum to the device by which they enter it again";
        self.walk.assume(why, &Err(why.into()))
    }

    /// What rules leave in the marks of the outer packets that come in.
    fn marks_of_outer(&mut self, number: usize, way: &Arrival) -> PacketSet {
        if let Some(known) = self.arriving_marks.get(&number) {
            return *known;
        }
        let (packets, stage) = (self.walk.packets.clone(), self.walk.stage.clone());
        let mut marks = NOTHING;
        for family in Family::IP {
            self.begin(family, String::new());
            self.walk.packets.past_services = true;
            let mut saved = self.walk.with(&Field::ConnectionMark, UNMARKED);
            let first = self.outer_pass_in((number, way), Flow::First, saved, &mut marks);
            saved = self.save(saved, first);
            self.later_packets(saved, |tunnel, saved| {
                tunnel.outer_pass_in((number, way), Flow::Later, saved, &mut marks)
            });
        }
        self.walk.packets = packets;
        self.walk.stage = stage;
        if !self.walk.is_over() {
            self.arriving_marks.insert(number, marks);
        }
        marks
    }

    /// Outer packets behind input, whose entries hold this; their marks join the others.
    fn outer_pass_in(
        &mut self,
        (number, way): (usize, &Arrival),
        flow: Flow,
        saved: PacketSet,
        marks: &mut PacketSet,
    ) -> PacketSet {
        self.walk.stage = format!("outer that comes in {number} {} {flow:?}", self.walk.packets.family);
        let mut packets = self.unclassified();
        if flow == Flow::Later {
            let fields = [Field::ConnectionMark, Field::ConnectionStatus, Field::ConnectionDirection];
            packets = self.walk.forget(packets, &fields);
            packets = self.walk.space.and(packets, saved);
        }
        packets = self.walk.all_with(packets, &[(Field::InputName, SOME_DEVICE)]);
        if !way.nested {
            let own = self.walk.with(&Field::InputName, way.devices.as_ranges());
            let (device, named) = (self.walk.block(&Field::InputName), self.walk.layout.names.possible());
            let others = self.walk.space.minus(self.walk.space.ranges(&device, &named), own);
            packets = self.walk.space.and(packets, others);
        }
        if let Some(ports) = &way.ports {
            let udp = [(Field::L4Proto, &[(17, 17)][..]), (Field::DestinationPort, ports.as_ranges())];
            packets = self.walk.all_with(packets, &udp);
        }
        packets = self.for_tunnels(packets, way);
        for hook in [Hook::Prerouting, Hook::Input] {
            packets = self.walk.hook(hook, None, flow, packets, &mut ForSocket);
        }
        let fields = self.walk.layout.variables(false);
        let left = self.walk.without(packets, fields);
        *marks = self.walk.space.or(*marks, left);
        packets
    }

    /// Those of these packets that are for this host, and for an address that its tunnels send from, if peers use these.
    fn for_tunnels(&mut self, packets: PacketSet, way: &Arrival) -> PacketSet {
        let (_, destination) = self.walk.packets.ends();
        let packets = match self.walk.network.local_addresses(self.walk.packets.family) {
            Some(local) => self.walk.all_with(packets, &[(destination.clone(), local.as_ranges())]),
            None => packets,
        };
        let Some(addresses) = &way.addresses else { return packets };
        let to_these = self.walk.all_with(packets, &[(destination.clone(), addresses.as_ranges())]);
        let others = self.other_addresses(way);
        let others = self.walk.all_with(packets, &[(destination, others.as_ranges())]);
        let others = self.walk.space.minus(others, to_these);
        let why = "whether peers send to other addresses of this host than those that its tunnels send from";
        let assumed = self.walk.assume(why, &Err(why.into()));
        self.walk.space.or(to_these, self.walk.space.and(others, assumed))
    }

    /// Addresses of this host that others may send to, any if they were not read: neither those of what comes out of tunnels, nor of `lo` alone.
    fn other_addresses(&mut self, way: &Arrival) -> Numbers {
        /// `RT_SCOPE_HOST`
        const HOST: u8 = 254;
        let network = self.walk.network;
        let Ok(addresses) = &network.host.addresses else {
            let (_, destination) = self.walk.packets.ends();
            return Numbers::ranges(vec![(0, self.walk.block(&destination).largest())]);
        };
        let inside = |index: u32| {
            let device = network.devices.iter().flatten().find(|device| device.index == index);
            let name = device.and_then(|device| name_key(device.name));
            name.is_some_and(|name| {
                way.devices.as_ranges().iter().any(|(first, last)| (*first..=*last).contains(&name))
            })
        };
        let own =
            addresses.iter().filter(|own| own.scope < HOST && !inside(own.link)).map(|own| address_key(own.address));
        Numbers::of(&own.collect::<Vec<_>>())
    }
}
