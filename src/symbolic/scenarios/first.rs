//! Where connections begin: their first packets before any rule of IP.

use crate::facts::netfilter::Field;
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
        let elsewhere = network.marks_elsewhere();
        let why = |chain: String| {
            format!("{chain} may write the mark of packets, and they are not followed through it").into()
        };
        for (bits, why) in elsewhere.map(|chain| (u32::MAX, why(chain))).into_iter().chain(network.doubtful_bits()) {
            let assumed = self.if_so(format!("doubtful bits {why}"), &Err(why));
            let doubtful = self.bring_along(packets, &Field::Mark, bits | network.bits_set_outside());
            all = self.space.or(all, self.space.and(doubtful, assumed));
        }
        if self.is_over() { NOTHING } else { all }
    }

    /// Those of these that are the first of a connection: it is neither translated, nor answered, nor confirmed.
    pub(super) fn untranslated(&mut self, packets: PacketSet) -> PacketSet {
        let block = self.block(&Field::ConnectionStatus);
        // No outer packet was expected.
        let none = if self.outer { FIRST | IPS_EXPECTED } else { FIRST };
        self.space.and(packets, self.space.matching(&block, none.into(), 0))
    }
}
