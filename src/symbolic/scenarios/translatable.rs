//! Which forwarded packets may still reach source NAT. Others need not be followed through chains on forward, which
//! policies of a thousand pods make large.
//!
//! Policies by source times policies by destination are too many to follow. What some packet does, one of a few devices
//! usually does too, in which case no others need be followed ([`Walk::sampled`]); what these do not do is searched for
//! among all.

use std::collections::BTreeSet;

use super::on_nat::Passing;
use crate::facts::netfilter::{ChainId, Family, Field, Hook, Step};
use crate::symbolic::machine::{Flow, Hits, Walk};
use crate::symbolic::network::Network;
use crate::symbolic::network::host::Connected;
use crate::symbolic::network::slice::MANY_STEPS;
use crate::symbolic::network::survey::Relevant;
use crate::symbolic::order::{self, Call};
use crate::symbolic::space::{NOTHING, PacketSet};

/// Devices of each direction that stand for all others.
const FEW: usize = 4;

/// Runs packets through forward: only those that a rule on postrouting may match, as far as known beforehand; when
/// sampling, only those of a few devices.
pub(super) fn forwarded(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let packets = match translatable(walk, packets) {
        None => packets,
        Some(hits) if walk.sampled.is_some() && has_many_steps(walk) => sample(walk, packets, hits),
        Some(hits) => {
            let any = walk.space.any(hits.0.into_values());
            walk.space.and(packets, any)
        }
    };
    walk.hook(Hook::Forward, None, Flow::First, packets, &mut Passing)
}

/// Packets that may reach a rule after forward, by their addresses, ports and devices: nothing is dropped, and marks
/// written on the way are any. `None`: more may happen to them there.
fn translatable(walk: &mut Walk<'_>, packets: PacketSet) -> Option<Hits> {
    let family = walk.packets.family;
    let written = only_marks(walk.network, family, Hook::Forward)?;
    if may_rewrite(walk.network, family, Hook::Postrouting) {
        return None;
    }
    let marks = [(Field::Mark, written.mark), (Field::ConnectionMark, written.connection)];
    let marks =
        marks.iter().flat_map(|(mark, bits)| walk.block(mark).bits((*bits).into()).collect::<Vec<_>>()).collect();
    let leaving = walk.space.exists(packets, &marks);
    let leaving = walk.as_seen_by_postrouting(leaving);
    let mut hits = Hits::default();
    // No packet has really got there yet.
    let seen = (walk.timing.clone(), walk.dropping.clone());
    walk.hook(Hook::Postrouting, None, Flow::First, leaving, &mut hits);
    (walk.timing, walk.dropping) = seen;
    // Fields that nothing on the way writes and that rules on postrouting see on all kernels.
    let (source, destination) = walk.packets.ends();
    let ends = [Field::OutputName, source, destination, Field::SourcePort, Field::DestinationPort];
    let kept: BTreeSet<u32> = ends.iter().flat_map(|field| walk.block(field).0).collect();
    for packets in hits.0.values_mut() {
        let mut others = walk.space.support(*packets);
        others.retain(|variable| !kept.contains(variable));
        *packets = walk.space.exists(*packets, &others);
    }
    Some(hits)
}

/// Of the packets that may reach each of these rules, those of a few devices.
fn sample(walk: &mut Walk<'_>, packets: PacketSet, hits: Hits) -> PacketSet {
    let mut all = NOTHING;
    for (hit, ends) in hits.0 {
        let mine = walk.space.and(packets, ends);
        let few = of_few_devices(walk, mine, &Field::OutputName);
        let few = of_few_devices(walk, few, &Field::InputName);
        // Packets whose entry got its own timeout on the way are sampled separately.
        let timed = walk.space.and(mine, walk.space.is_set(walk.layout.own_timeout));
        let few = walk.space.or(few, timed);
        if few != mine {
            walk.sampled.get_or_insert_default().insert(hit);
        }
        all = walk.space.or(all, few);
    }
    all
}

/// Of these packets, those with one of the first devices that occur; devices of default routes come first.
fn of_few_devices(walk: &mut Walk<'_>, packets: PacketSet, field: &Field) -> PacketSet {
    let Connected::By(devices) = walk.network.connected() else { return packets };
    let outward = walk.network.host.outward.iter().flatten().copied();
    let mut seen = BTreeSet::new();
    let names: Vec<u128> =
        outward.chain(devices.into_iter().map(|(_, name)| name)).filter(|name| seen.insert(*name)).collect();
    let each = names.into_iter().map(|name| {
        let by_it = walk.with(field, &[(name, name)]);
        walk.space.and(packets, by_it)
    });
    let few: Vec<PacketSet> = each.filter(|packets| !packets.is_empty()).take(FEW).collect();
    walk.space.any(few)
}

fn has_many_steps(walk: &Walk<'_>) -> bool {
    let chains = chains(walk.network, walk.packets.family, Hook::Forward);
    chains.map(|(set, id)| walk.network.steps(set, &id)).sum::<usize>() >= MANY_STEPS
}

/// Calls of a hook, including the NAT core's chains.
fn calls(network: &Network<'_>, family: Family, hook: Hook) -> impl Iterator<Item = Call> {
    let calls = [order::calls(network, family, hook, None), order::nat_chains(network, family, hook)];
    calls.into_iter().flatten().flat_map(|step| step.calls)
}

/// Their chains, as far as lists were read.
fn chains(network: &Network<'_>, family: Family, hook: Hook) -> impl Iterator<Item = (usize, ChainId)> {
    calls(network, family, hook).filter_map(|call| match call {
        Call::Chain(set, id) => Some((set, id)),
        Call::Unread(_) | Call::Conntrack | Call::Nat => None,
    })
}

/// Whether a rule between routing and leaving may set the entry's timeout.
pub(super) fn may_give_timeouts(network: &Network<'_>, family: Family) -> bool {
    [Hook::Forward, Hook::Postrouting].into_iter().any(|hook| {
        chains(network, family, hook).any(|(set, id)| {
            network.leads_to(set, &id, |step| matches!(step, Step::OwnTimeout | Step::Unsupported { .. }))
        })
    })
}

/// Mark bits that chains on a hook may write, if their only other effect is dropping. `None`: they have other effects.
fn only_marks(network: &Network<'_>, family: Family, hook: Hook) -> Option<Relevant> {
    let none = Relevant { mark: 0, connection: 0 };
    let mut written = none;
    for call in order::calls(network, family, hook, None).into_iter().flat_map(|step| step.calls) {
        let Call::Chain(set, id) = call else { return None };
        if network.writes_marks(set, &id, none) {
            return None;
        }
        network.each_step(set, &id, &mut |step| match step {
            Step::SetMark(write) => written.mark |= write.can_change(),
            Step::SetConnectionMark(write) => written.connection |= write.can_change(),
            _ => {}
        });
    }
    Some(written)
}

/// Whether rules on a hook, including nat chains, may write addresses or ports other than by NAT.
fn may_rewrite(network: &Network<'_>, family: Family, hook: Hook) -> bool {
    calls(network, family, hook).any(|call| match call {
        Call::Chain(set, id) => network.leads_to(set, &id, |step| matches!(step, Step::Rewrite { .. })),
        Call::Unread(_) => true,
        Call::Conntrack | Call::Nat => false,
    })
}
