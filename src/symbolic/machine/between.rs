//! What the host does with packets between hooks: forwarding, IPVS.

use super::Walk;
use crate::facts::Question;
use crate::facts::netfilter::{Family, Field};
use crate::symbolic::assumptions::About;
use crate::symbolic::packets::NO_DEVICE;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

impl Walk<'_> {
    /// Everything if `known` is true, nothing if false; if unknown, the packets under the assumption that it is true.
    pub(crate) fn assume(&mut self, key: impl Into<String>, known: &Result<bool, Question>) -> PacketSet {
        match known {
            Ok(true) => EVERYTHING,
            Ok(false) => NOTHING,
            Err(why) => self.answer(key.into(), About::All, 2, 1, || why.clone()),
        }
    }

    /// Everything if packets of this family are forwarded.
    pub(crate) fn if_forwarded(&mut self, family: Family) -> PacketSet {
        let network = self.network;
        self.assume(format!("forwards {family}"), &network.host.forwards[family.ip_index()])
    }

    /// Everything if IPVS is in use: it redirects connections between two hooks, independently of rules.
    pub(crate) fn if_ipvs_in_use(&mut self) -> PacketSet {
        let network = self.network;
        self.assume("IPVS", &network.host.ipvs_in_use)
    }

    /// Packets as seen by postrouting, where rules on older kernels do not see the input device.
    pub(crate) fn as_seen_by_postrouting(&mut self, packets: PacketSet) -> PacketSet {
        let network = self.network;
        let seen = self.assume("input in postrouting", &network.host.input_in_postrouting);
        let hidden = self.space.minus(packets, seen);
        let hidden = self.set(hidden, &Field::InputName, NO_DEVICE);
        self.space.or(self.space.and(packets, seen), hidden)
    }
}
