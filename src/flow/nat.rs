//! What a translation makes of a packet: `get_unique_tuple`, `nf_nat_masquerade_ipv4`, `nf_nat_redirect`.

use std::net::IpAddr;

use super::packet::Packet;
use super::values::Values;
use crate::snapshot::netfilter::{Chosen, Field, Hook, Nat, NatAction, PortRandomization, address_key};

/// What becomes of a packet's addresses and ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// They stay as they are.
    Kept,
    /// They change for some packet; the text says what changes, after "gets".
    Changed(String),
    /// That cannot be told; the text says why.
    Unclear(String),
}

/// The effect on a packet. `primary`: the address that masquerading writes, if that is known.
pub fn effect(nat: &Nat, hook: Hook, packet: &Packet, primary: &Result<u128, String>) -> Effect {
    let on_source = matches!(hook, Hook::Postrouting | Hook::Input);
    let (source, destination) = packet.ends();
    match nat.action {
        NatAction::Masquerade => match (source_effect(nat, packet, None), primary) {
            (Effect::Kept, Ok(address)) => source_effect(nat, packet, Some((*address, *address))),
            (Effect::Kept, Err(why)) => Effect::Unclear(why.clone()),
            (changed, _) => changed,
        },
        NatAction::Snat => match nat.addresses {
            Chosen::ByPacket => Effect::Unclear("a map tells which address is written".into()),
            Chosen::Unset => source_effect(nat, packet, None),
            Chosen::Range(first, last) => source_effect(nat, packet, Some(range(first, last))),
        },
        NatAction::Netmap => {
            let end = if on_source { &source } else { &destination };
            let Chosen::Range(first, last) = nat.addresses else {
                return Effect::Unclear("a map tells which network is written".into());
            };
            match within(packet, end, range(first, last)) {
                false if !packet.knows(end) => Effect::Unclear("its address is not known".into()),
                true => Effect::Kept, // one to one: the bits of the network are there already
                false => Effect::Changed("an address of another network".into()),
            }
        }
        NatAction::Dnat => destination_effect(nat, packet),
        NatAction::Redirect => Effect::Changed("this host's address as destination".into()),
    }
}

fn range(first: IpAddr, last: IpAddr) -> (u128, u128) {
    (address_key(first), address_key(last))
}

/// Whether all that a field can hold is in a range.
fn within(packet: &Packet, field: &Field, range: (u128, u128)) -> bool {
    packet.get(field).without(&Values::Ranges(vec![range])).is_empty()
}

/// `addresses`: those to choose from; `None`: the packet keeps its own.
fn source_effect(nat: &Nat, packet: &Packet, addresses: Option<(u128, u128)>) -> Effect {
    if nat.randomization != PortRandomization::None {
        return Effect::Changed("a random source port".into());
    }
    let (source, _) = packet.ends();
    if let Some((first, last)) = addresses {
        if !packet.knows(&source) {
            return Effect::Unclear("its source address is not known".into());
        }
        if !within(packet, &source, (first, last)) {
            return Effect::Changed("another source address".into());
        }
    }
    match nat.ports {
        Chosen::Unset => Effect::Kept,
        Chosen::ByPacket => Effect::Unclear("a map tells which port is written".into()),
        Chosen::Range(..) if !packet.knows(&Field::SourcePort) => {
            Effect::Unclear("its source port is not known".into())
        }
        Chosen::Range(first, last) => match within(packet, &Field::SourcePort, (first.into(), last.into())) {
            true => Effect::Kept,
            false => Effect::Changed(format!("a source port of {first}-{last}")),
        },
    }
}

/// A destination is not kept because it is within the range, unless the range is that address.
fn destination_effect(nat: &Nat, packet: &Packet) -> Effect {
    let (_, destination) = packet.ends();
    match nat.addresses {
        Chosen::Unset => {}
        Chosen::ByPacket => return Effect::Unclear("a map tells which address is written".into()),
        Chosen::Range(first, last) => {
            let (first, last) = range(first, last);
            if !packet.knows(&destination) {
                return Effect::Unclear("its destination address is not known".into());
            }
            if first != last || packet.get(&destination) != Values::of(&[first]) {
                return Effect::Changed("another destination address".into());
            }
        }
    }
    match nat.ports {
        Chosen::Unset => Effect::Kept,
        Chosen::ByPacket => Effect::Unclear("a map tells which port is written".into()),
        Chosen::Range(..) if !packet.knows(&Field::DestinationPort) => {
            Effect::Unclear("its destination port is not known".into())
        }
        Chosen::Range(first, last) => {
            let within = within(packet, &Field::DestinationPort, (first.into(), last.into()));
            match within && (nat.randomization == PortRandomization::None || first == last) {
                true => Effect::Kept,
                false => Effect::Changed("another destination port".into()),
            }
        }
    }
}
