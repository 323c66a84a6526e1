//! Handlers for NAT results and re-routing; for inner packets: which of them enter the tunnel.
//!
//! A scenario passes one of these to each hook. The NAT core (`machine::nat_core`) calls it with the packets that a
//! rule translates, and with those that no rule does.

use std::collections::BTreeSet;

use crate::facts::Question;
use crate::facts::netfilter::{Chosen, Field, Hook, Nat, NatAction, address_key};
use crate::symbolic::assumptions::About;
use crate::symbolic::facts::TunnelFacts;
use crate::symbolic::machine::{OnNat, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::space::{NOTHING, PacketSet};

/// `IPS_SRC_NAT_BIT`, `IPS_DST_NAT_BIT`
const SRC_NAT: u32 = 4;
const DST_NAT: u32 = 5;

/// Handler for packets that do not traverse nat chains.
pub(super) struct Passing;

impl OnNat for Passing {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, _: &mut Walk<'_>, _: Hook, _: &Hit, packets: PacketSet) -> PacketSet {
        packets
    }
}

/// Handler for inner packets of a tunnel.
pub(super) struct Inner<'f> {
    /// The tunnel.
    pub(super) facts: &'f TunnelFacts,
    /// For later packets of connections: the assumption that their destination is translated. `None`: first packets.
    pub(super) later: Option<PacketSet>,
}

impl Inner<'_> {
    /// Packets with a translated destination inside the tunnel. On output they are re-routed (`nf_nat_ipv4_local_fn`).
    fn sent_elsewhere(&self, walk: &mut Walk<'_>, hook: Hook, packets: PacketSet) -> PacketSet {
        let packets = somewhere(walk, packets, self.facts);
        if hook == Hook::Output { past_tunnel_or_not(walk, packets, self.facts) } else { packets }
    }
}

impl OnNat for Inner<'_> {
    fn untouched(&mut self, walk: &mut Walk<'_>, hook: Hook, packets: PacketSet) -> PacketSet {
        match self.later {
            // A later packet of a connection translated at its start.
            Some(assumed) if !is_on_source(hook) => {
                let (_, destination) = walk.packets.ends();
                let sent = match walk.network.answered(walk.packets.family).filter(|_| hook != Hook::Output) {
                    Some(sources) => walk.all_with(packets, &[(destination.clone(), sources.as_ranges())]),
                    None => packets,
                };
                let elsewhere = self.sent_elsewhere(walk, hook, sent);
                let (targets, unclear) = walk.network.targets(walk.packets.family, hook == Hook::Output);
                let mut there = walk.all_with(elsewhere, &[(destination, targets.as_ranges())]);
                if let Some(why) = unclear {
                    let others = walk.assume("other targets", &Err(why));
                    there = walk.space.or(there, walk.space.and(elsewhere, others));
                }
                walk.space.or(packets, walk.space.and(there, assumed))
            }
            _ => packets,
        }
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        if is_on_source(hook) {
            let (source, _) = walk.packets.ends();
            let packets = with_status(walk, packets, SRC_NAT);
            return walk.forget(packets, &[source, Field::SourcePort]);
        }
        let Some(nat) = walk.nat(hit) else { return self.sent_elsewhere(walk, hook, packets) };
        let mut left = NOTHING;
        for (nat, packets) in walk.translations(hit, nat, packets) {
            let packets = self.sent_elsewhere(walk, hook, packets);
            let packets = match nat.action {
                NatAction::Redirect => NOTHING, // to this host
                _ => towards(walk, hit, &nat, packets),
            };
            left = walk.space.or(left, packets);
        }
        left
    }

    fn routed_again(&mut self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        past_tunnel_or_not(walk, packets, self.facts)
    }
}

/// Packets of which some are routed past the tunnel because of their mark. That is a question: a later translation may
/// lead back, and sockets bound to a device and IPVS ignore policy rules.
pub(super) fn past_tunnel_or_not(walk: &mut Walk<'_>, packets: PacketSet, facts: &TunnelFacts) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let mark = walk.block(&Field::Mark);
    let mut left = packets;
    for past in &facts.past[walk.packets.family.ip_index()] {
        let mut elsewhere = NOTHING;
        for (range, is_past) in &past.routes {
            let to = walk.with(&destination, &[*range]);
            elsewhere = if *is_past { walk.space.or(elsewhere, to) } else { walk.space.minus(elsewhere, to) };
        }
        let earlier = walk.with(&destination, past.earlier.as_ranges());
        let elsewhere = walk.space.minus(elsewhere, earlier);
        let (mask, value) = past.mark;
        let marked = walk.space.matching(&mark, mask.into(), value.into());
        let marked = walk.space.and(elsewhere, marked);
        let gone = walk.space.and(left, marked);
        if gone.is_empty() {
            continue;
        }
        let bits = if mask == u32::MAX { String::new() } else { format!("/{mask:#x}") };
        let why = format!("whether a policy rule leads packets with mark {value:#x}{bits} past the tunnel");
        let assumed =
            walk.answer(why.clone(), About::All, 2, 1, || Question::from(why).shown_by(["ip", "rule", "show"]));
        left = walk.space.or(walk.space.minus(left, marked), walk.space.and(gone, assumed));
    }
    left
}

/// Handler for packets whose addresses no longer matter: after a translation they are any.
pub(super) struct AnyEnds;

impl OnNat for AnyEnds {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, _: Hook, _: &Hit, packets: PacketSet) -> PacketSet {
        let (source, destination) = walk.packets.ends();
        let packets = walk.translated_or_not(packets);
        walk.forget(packets, &[source, destination, Field::SourcePort, Field::DestinationPort])
    }
}

/// Of packets with any destination, those with one that a rule gives.
pub(super) fn towards(walk: &mut Walk<'_>, hit: &Hit, nat: &Nat, packets: PacketSet) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let packets = match (nat.action, nat.addresses) {
        (NatAction::Dnat, Chosen::Range(first, last)) => {
            walk.all_with(packets, &[(destination, &[(address_key(first), address_key(last))])])
        }
        (NatAction::Dnat, Chosen::ByPacket) => {
            let why = walk.question(hit, format!("{}: a map tells which address is written", walk.place(hit)));
            let assumed = walk.assume(format!("{} target {hit:?}", walk.stage), &Err(why));
            return walk.space.and(packets, assumed);
        }
        _ => return packets,
    };
    let Chosen::Range(first, last) = nat.ports else { return packets };
    walk.all_with(packets, &[(Field::DestinationPort, &[(first.into(), last.into())])])
}

fn is_on_source(hook: Hook) -> bool {
    matches!(hook, Hook::Postrouting | Hook::Input)
}

/// Packets of connections with this kind of translation.
fn with_status(walk: &mut Walk<'_>, packets: PacketSet, bit: u32) -> PacketSet {
    let block = walk.block(&Field::ConnectionStatus);
    let variable = block.0[31 - bit as usize];
    let any = walk.without(packets, BTreeSet::from([variable]));
    walk.space.and(any, walk.space.is_set(variable))
}

/// Packets of connections with a translated destination.
pub(super) fn with_destination_translated(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    with_status(walk, packets, DST_NAT)
}

/// Packets of connections whose source is translated.
pub(super) fn with_source_translated(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    with_status(walk, packets, SRC_NAT)
}

/// Packets that were given another destination, one that is routed into the tunnel.
pub(super) fn somewhere(walk: &mut Walk<'_>, packets: PacketSet, facts: &TunnelFacts) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let routed = &facts.inner[walk.packets.family.ip_index()];
    let packets = with_destination_translated(walk, packets);
    let packets = walk.set(packets, &destination, routed.as_ranges());
    walk.forget(packets, &[Field::DestinationPort])
}
