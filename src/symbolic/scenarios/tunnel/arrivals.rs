//! Marks with which packets come in: none, but of those that come out of a tunnel.
//!
//! Outer packets meet prerouting and input, and the packet inside goes on with their mark (`vxlan_rcv`, `geneve_rx`: in one
//! namespace `skb_scrub_packet` leaves it). With a group policy (`IFLA_VXLAN_GBP`) the sender chooses another.

use super::TunnelWalk;
use super::inner::{MAX_ROUNDS, UNMARKED};
use crate::facts::netfilter::{Family, Field, Hook};
use crate::symbolic::machine::{Flow, OnNat, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::packets::SOME_DEVICE;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// `VXLAN_GBP_ID_MASK`, `VXLAN_GBP_POLICY_APPLIED`, `VXLAN_GBP_DONT_LEARN`
pub(super) const GROUP_POLICY: u32 = 0x0048_ffff;

/// What a rule sends elsewhere gets to no tunnel's socket.
struct ForSocket;

impl OnNat for ForSocket {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        // Another source keeps them from nothing, and one that is not known to translate may leave them as they are.
        if hook != Hook::Input && walk.nat(hit).is_some() { NOTHING } else { packets }
    }
}

impl TunnelWalk<'_, '_> {
    /// These packets, which come in, with the marks that they may have. `leave`: it is them that get into the tunnel again.
    pub(super) fn with_marks_of_arrivals(&mut self, packets: PacketSet, leave: bool) -> PacketSet {
        let arrivals = &self.facts.arrivals;
        let unmarked = self.walk.all_with(packets, &[(Field::Mark, UNMARKED)]);
        let inside = self.walk.with(&Field::InputName, arrivals.devices.as_ranges());
        let inside = self.walk.space.and(packets, inside);
        let chosen = self.walk.with(&Field::InputName, arrivals.marking.as_ranges());
        let chosen = self.walk.space.and(unmarked, chosen);
        if inside.is_empty() && chosen.is_empty() {
            return unmarked;
        }
        let assumed = if leave { self.if_checksums_are_left() } else { EVERYTHING };
        let inside = self.walk.space.and(inside, assumed);
        let marks = self.marks_of_outer();
        let marked = self.walk.space.and(inside, marks);
        let chosen = self.walk.space.and(chosen, assumed);
        let chosen =
            if chosen.is_empty() { NOTHING } else { self.walk.bring_along(chosen, &Field::Mark, GROUP_POLICY) };
        self.walk.space.any([unmarked, marked, chosen])
    }

    /// If checksums are left to a device of packets that come out of a tunnel: a card has verified them, and a virtual device may
    /// hand on what their sender has left (`CHECKSUM_PARTIAL`).
    fn if_checksums_are_left(&mut self) -> PacketSet {
        let why =
            "whether packets that come out of a tunnel leave their checksum to the device by which they enter it again";
        self.walk.if_so(why, &Err(why.into()))
    }

    /// What rules leave in the marks of the outer packets that come in.
    fn marks_of_outer(&mut self) -> PacketSet {
        if let Some(known) = self.arriving_marks {
            return known;
        }
        let (packets, stage) = (self.walk.packets.clone(), self.walk.stage.clone());
        let mut marks = NOTHING;
        for family in Family::IP {
            self.begin(family, String::new());
            self.walk.packets.past_services = true;
            let mut saved = self.unwritten();
            for number in 0..=MAX_ROUNDS {
                let flow = if number == 0 { Flow::First } else { Flow::Later };
                self.walk.stage = format!("outer that comes in {family} {flow:?}");
                let mut packets = self.unclassified();
                if flow == Flow::Later {
                    let fields = [Field::ConnectionMark, Field::ConnectionStatus, Field::ConnectionDirection];
                    packets = self.walk.forget(packets, &fields);
                    packets = self.walk.space.and(packets, saved);
                }
                let (_, destination) = self.walk.packets.ends();
                let local = self.facts.arrivals.addresses.clone().or_else(|| self.walk.network.local_addresses(family));
                let ports = self.facts.arrivals.ports.clone();
                packets = self.walk.all_with(
                    packets,
                    &[
                        (Field::L4Proto, &[(17, 17)]),
                        (Field::DestinationPort, ports.as_ranges()),
                        (Field::InputName, SOME_DEVICE),
                    ],
                );
                if let Some(local) = local {
                    packets = self.walk.all_with(packets, &[(destination, local.as_ranges())]);
                }
                for hook in [Hook::Prerouting, Hook::Input] {
                    packets = self.walk.hook(hook, None, flow, packets, &mut ForSocket);
                }
                let fields = self.walk.layout.variables(false);
                let left = self.walk.without(packets, fields);
                marks = self.walk.space.or(marks, left);
                let known = saved;
                saved = self.save(saved, packets);
                if number > 0 && saved == known {
                    break;
                }
                if number == MAX_ROUNDS {
                    let why = || format!("after {MAX_ROUNDS} packets a connection's mark still changes");
                    self.walk.gave_up.get_or_insert_with(why);
                }
            }
        }
        self.walk.packets = packets;
        self.walk.stage = stage;
        if !self.walk.is_over() {
            self.arriving_marks = Some(marks);
        }
        marks
    }
}
