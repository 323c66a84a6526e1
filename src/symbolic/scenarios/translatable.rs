//! Which packets that are forwarded a rule may still translate the source of. Others need not be followed through chains on
//! forward, of which policies of a thousand pods are made: nothing is asked about them.

use std::collections::BTreeSet;

use super::services::Passing;
use crate::facts::netfilter::{Family, Field, Hook, Step};
use crate::symbolic::machine::{Flow, Hits, Walk};
use crate::symbolic::network::Network;
use crate::symbolic::order::{self, Call};
use crate::symbolic::space::PacketSet;
use crate::symbolic::survey::Relevant;

/// Sends packets through forward; of those that no rule on postrouting gets, some or all are left out.
pub(super) fn forwarded(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let packets = translatable(walk, packets);
    walk.hook(Hook::Forward, None, Flow::First, packets, &mut Passing)
}

/// Those that may get to a rule behind forward: whatever is not dropped, with any marks that are written on the way.
fn translatable(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let family = walk.packets.family;
    let Some(written) = only_marks(walk.network, family, Hook::Forward) else { return packets };
    if may_rewrite(walk.network, family, Hook::Postrouting) {
        return packets;
    }
    let marks = [(Field::Mark, written.mark), (Field::ConnectionMark, written.connection)];
    let marks =
        marks.iter().flat_map(|(mark, bits)| walk.block(mark).bits((*bits).into()).collect::<Vec<_>>()).collect();
    let leaving = walk.space.exists(packets, &marks);
    let leaving = walk.as_postrouting_sees(leaving);
    let mut hits = Hits::default();
    walk.hook(Hook::Postrouting, None, Flow::First, leaving, &mut hits);
    let found = walk.space.any(hits.0.into_values());
    // Nothing on the way writes these, and rules on postrouting see them on all kernels.
    let (source, destination) = walk.packets.ends();
    let ends = [Field::OutputName, source, destination, Field::SourcePort, Field::DestinationPort];
    let kept: BTreeSet<u32> = ends.iter().flat_map(|field| walk.block(field).0).collect();
    let mut others = walk.space.support(found);
    others.retain(|variable| !kept.contains(variable));
    let found = walk.space.exists(found, &others);
    walk.space.and(packets, found)
}

/// Bits of marks that chains on a hook may write, if all else that they do to packets is to drop some. `None`: they do more.
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

/// Whether rules on a hook, those of nat chains among them, may write addresses or ports by other means than a translation.
fn may_rewrite(network: &Network<'_>, family: Family, hook: Hook) -> bool {
    let calls = [order::calls(network, family, hook, None), order::nat_chains(network, family, hook)];
    calls.into_iter().flatten().flat_map(|step| step.calls).any(|call| match call {
        Call::Chain(set, id) => network.leads_to(set, &id, |step| matches!(step, Step::Rewrite { .. })),
        Call::Unread(_) => true,
        Call::Conntrack | Call::Nat => false,
    })
}
