//! What this host does with packets between its hooks, as far as that is known.

use super::Walk;
use crate::facts::Question;
use crate::facts::netfilter::{Family, Field};
use crate::symbolic::assumptions::About;
use crate::symbolic::packets::NO_DEVICE;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

impl Walk<'_> {
    /// All packets if it is so, none if not; what is not known is a question about all of them.
    pub(crate) fn if_so(&mut self, key: impl Into<String>, known: &Result<bool, Question>) -> PacketSet {
        match known {
            Ok(true) => EVERYTHING,
            Ok(false) => NOTHING,
            Err(why) => self.answer(key.into(), About::All, 2, 1, || why.clone()),
        }
    }

    /// If packets of a family are forwarded.
    pub(crate) fn if_forwarded(&mut self, family: Family) -> PacketSet {
        let network = self.network;
        self.if_so(format!("forwards {family}"), &network.host.forwards[family.ip_index()])
    }

    /// If IPVS gives connections other destinations: it does so between two hooks, whatever the rules say.
    pub(crate) fn if_ipvs_in_use(&mut self) -> PacketSet {
        let network = self.network;
        self.if_so("IPVS", &network.host.ipvs_in_use)
    }

    /// Packets on their way to postrouting, where rules of older kernels do not see the device that they came in by.
    pub(crate) fn as_postrouting_sees(&mut self, packets: PacketSet) -> PacketSet {
        let network = self.network;
        let seen = self.if_so("input in postrouting", &network.host.input_in_postrouting);
        let hidden = self.space.minus(packets, seen);
        let hidden = self.set(hidden, &Field::InputName, NO_DEVICE);
        self.space.or(self.space.and(packets, seen), hidden)
    }
}
