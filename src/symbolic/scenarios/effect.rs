//! Effect of a translation on packets: `get_unique_tuple`, `nf_nat_masquerade_ipv4`, `nf_nat_redirect`.

use std::net::IpAddr;

use crate::facts::Question;
use crate::facts::netfilter::{Chosen, Field, Hook, Nat, NatAction, PortRandomization, address_key};
use crate::symbolic::machine::Walk;
use crate::symbolic::space::{NOTHING, PacketSet};

/// Effect on addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Unchanged.
    Kept,
    /// Changed; the text says what, to follow "gets".
    Changed(String),
    /// Not known; the question says why.
    Unclear(Question),
}

/// Effects of a NAT statement, with the packets each applies to. `primary`: the address that masquerading gives, if
/// known.
pub(crate) fn effects(
    walk: &mut Walk<'_>,
    nat: &Nat,
    hook: Hook,
    packets: PacketSet,
    primary: &Result<u128, Question>,
) -> Vec<(Effect, PacketSet)> {
    let mut sorted = Sorted { walk, left: packets, found: Vec::new() };
    let on_source = matches!(hook, Hook::Postrouting | Hook::Input);
    let (source, destination) = sorted.walk.packets.ends();
    match nat.action {
        NatAction::Masquerade => {
            sorted.source_ports(nat);
            match primary {
                Ok(address) => sorted.source(Some((*address, *address))),
                Err(why) => sorted.unclear(why),
            }
        }
        NatAction::Snat => match nat.addresses {
            Chosen::ByPacket => sorted.unclear("a map tells which address is written"),
            Chosen::Unset => sorted.source_ports(nat),
            Chosen::Range(first, last) => {
                sorted.random_ports(nat);
                sorted.source(Some(range(first, last)));
                sorted.source_ports(nat);
            }
        },
        NatAction::Netmap => {
            let end = if on_source { &source } else { &destination };
            match nat.addresses {
                // One to one: the network bits are there already.
                Chosen::Range(first, last) => {
                    sorted.within(end, range(first, last), "its address is not known", "an address of another network");
                }
                Chosen::ByPacket | Chosen::Unset => sorted.unclear("a map tells which network is written"),
            }
        }
        NatAction::Dnat => sorted.destination(nat, &destination),
        NatAction::Redirect => sorted.changed("this host's address as destination"),
    }
    let Sorted { left, mut found, .. } = sorted;
    found.push((Effect::Kept, left));
    found.retain(|(_, packets)| !packets.is_empty());
    found
}

/// Effect of a header write on packets with another value there.
pub(crate) fn rewriting(field: &Field, value: Option<u128>) -> Effect {
    let Some(value) = value else { return Effect::Unclear("what it writes into the header cannot be told".into()) };
    Effect::Changed(match field {
        Field::SourcePort => format!("source port {value}"),
        Field::DestinationPort => format!("destination port {value}"),
        Field::Ipv4Source | Field::Ipv6Source => "another source address".into(),
        _ => "another destination address".into(),
    })
}

fn range(first: IpAddr, last: IpAddr) -> (u128, u128) {
    (address_key(first), address_key(last))
}

/// Packets sorted by effect.
struct Sorted<'w, 'a> {
    walk: &'w mut Walk<'a>,
    /// Packets unchanged so far.
    left: PacketSet,
    found: Vec<(Effect, PacketSet)>,
}

impl Sorted<'_, '_> {
    fn changed(&mut self, what: &str) {
        self.all(Effect::Changed(what.to_owned()));
    }

    fn unclear(&mut self, why: impl Into<Question>) {
        self.all(Effect::Unclear(why.into()));
    }

    fn all(&mut self, effect: Effect) {
        self.found.push((effect, std::mem::replace(&mut self.left, NOTHING)));
    }

    /// Keeps packets with a field in this range; the others are `changed`, or `unknown` if the field is.
    fn within(&mut self, field: &Field, range: (u128, u128), unknown: &str, changed: &str) {
        if !self.walk.packets.knows(field) {
            return self.unclear(unknown);
        }
        let within = self.walk.with(field, &[range]);
        let others = self.walk.space.minus(self.left, within);
        self.left = self.walk.space.and(self.left, within);
        self.found.push((Effect::Changed(changed.to_owned()), others));
    }

    fn random_ports(&mut self, nat: &Nat) {
        if nat.randomization != PortRandomization::None {
            self.changed("a random source port");
        }
    }

    /// `addresses`: range to choose from; `None`: the packet's own.
    fn source(&mut self, addresses: Option<(u128, u128)>) {
        let (source, _) = self.walk.packets.ends();
        if let Some(range) = addresses {
            self.within(&source, range, "its source address is not known", "another source address");
        }
    }

    fn source_ports(&mut self, nat: &Nat) {
        self.random_ports(nat);
        match nat.ports {
            Chosen::Unset => {}
            Chosen::ByPacket => self.unclear("a map tells which port is written"),
            Chosen::Range(first, last) => {
                let changed = format!("a source port of {first}-{last}");
                self.within(&Field::SourcePort, (first.into(), last.into()), "its source port is not known", &changed);
            }
        }
    }

    /// A destination within the range is not kept, unless the range is a single address.
    fn destination(&mut self, nat: &Nat, destination: &Field) {
        match nat.addresses {
            Chosen::Unset => {}
            Chosen::ByPacket => self.unclear("a map tells which address is written"),
            Chosen::Range(first, last) if first == last || !self.walk.packets.knows(destination) => {
                let (unknown, changed) = ("its destination address is not known", "another destination address");
                self.within(destination, range(first, last), unknown, changed);
            }
            Chosen::Range(..) => self.changed("another destination address"),
        }
        match nat.ports {
            Chosen::Unset => {}
            Chosen::ByPacket => self.unclear("a map tells which port is written"),
            Chosen::Range(first, last) => {
                let (unknown, changed) = ("its destination port is not known", "another destination port");
                if nat.randomization != PortRandomization::None
                    && first != last
                    && self.walk.packets.knows(&Field::DestinationPort)
                {
                    return self.changed(changed);
                }
                self.within(&Field::DestinationPort, (first.into(), last.into()), unknown, changed);
            }
        }
    }
}
