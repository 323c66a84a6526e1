//! Where connections begin: their first packets before any rule of IP.

use crate::facts::netfilter::{Family, Field};
use crate::symbolic::assumptions::About;
use crate::symbolic::machine::Walk;
use crate::symbolic::packets::state;
use crate::symbolic::space::{NOTHING, PacketSet};

/// `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`, `IPS_SRC_NAT`, `IPS_DST_NAT`: no first packet has one of these.
const FIRST: u32 = 0x3e;
/// `IPS_EXPECTED`
const IPS_EXPECTED: u32 = 0x1;

impl Walk<'_> {
    /// First packets of connections that have met no rule: neither they nor their connection have a mark.
    pub(super) fn first_packets(&mut self) -> PacketSet {
        let unseen = self.in_state(&[state::INVALID]); // connection tracking has not seen them
        let fields: &[(Field, &[(u128, u128)])] =
            &[(Field::Mark, &[(0, 0)]), (Field::ConnectionMark, &[(0, 0)]), (Field::ConnectionDirection, &[(0, 0)])];
        let packets = self.all_with(self.space.and(unseen, self.start()), fields);
        self.untranslated(packets)
    }

    /// These packets, which have no mark, and what becomes of them where something outside of the hooks of IP gives them one.
    pub(super) fn marked_outside(&mut self, packets: PacketSet) -> PacketSet {
        let network = self.network;
        let marked = self.bring_along(packets, &Field::Mark, network.bits_set_outside());
        let mut all = self.space.or(packets, marked);
        let elsewhere = self.if_marked_elsewhere();
        let doubtful = network.doubtful_bits().map(|(bits, why)| {
            let assumed = self.if_so(format!("doubtful bits {why}"), &Err(why));
            (bits | network.bits_set_outside(), assumed)
        });
        for (bits, assumed) in [(u32::MAX, elsewhere)].into_iter().chain(doubtful) {
            if !assumed.is_empty() {
                let marked = self.bring_along(packets, &Field::Mark, bits);
                all = self.space.or(all, self.space.and(marked, assumed));
            }
        }
        if self.is_over() { NOTHING } else { all }
    }

    /// If something writes marks that no packet is followed through.
    pub(super) fn if_marked_elsewhere(&mut self) -> PacketSet {
        let Some(chain) = self.network.marks_elsewhere() else { return NOTHING };
        let why = format!("{chain} may write the mark of packets, and they are not followed through it");
        self.if_so(why.clone(), &Err(why.into()))
    }

    /// Packets of this host by the devices that lead to their destinations, before any rule of IP.
    pub(super) fn first_ways(&mut self, packets: PacketSet) -> PacketSet {
        let (network, family) = (self.network, self.packets.family);
        let ways = match &network.host.first_ways[usize::from(family == Family::Ipv6)] {
            Ok(ways) => ways,
            // Some device for each packet, whichever that is.
            Err(why) => {
                let (device, space) = (self.block(&Field::OutputName), &self.space);
                let (key, bits) = (format!("{} first way", self.stage), device.0.len() as u32);
                let way =
                    self.assumptions.ask_number(key, About::EachPacket, || Some(space.block(bits)), || why.clone());
                let Some(way) = way else { return packets };
                let by_it = self.equal_bits(packets, &device, &way, u32::MAX);
                let possible = self.connected(&Field::OutputName);
                let possible = self.space.renamed(possible, &device.0, &way.0);
                return self.space.or(by_it, self.space.minus(packets, possible));
            }
        };
        let (_, destination) = self.packets.ends();
        let mut all = NOTHING;
        for (device, destinations) in ways {
            let to = self.with(&destination, destinations.as_ranges());
            let by = self.with(&Field::OutputName, &[(*device, *device)]);
            all = self.space.or(all, self.space.and(to, by));
        }
        self.space.and(packets, all)
    }

    /// Those of these that are the first of a connection: it is neither translated, nor answered, nor confirmed.
    pub(super) fn untranslated(&mut self, packets: PacketSet) -> PacketSet {
        let block = self.block(&Field::ConnectionStatus);
        // No outer packet was expected.
        let none = if self.outer { FIRST | IPS_EXPECTED } else { FIRST };
        self.space.and(packets, self.space.matching(&block, none.into(), 0))
    }
}
