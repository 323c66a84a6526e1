//! What becomes of packets behind a rule that translated their source: those that a later chain of the hook drops are no
//! connections (`nf_confirm` comes last), and compete with none.

use std::collections::BTreeSet;

use super::collisions::{Written, masquerading, written};
use super::on_nat::with_source_translated;
use crate::facts::netfilter::{Family, Field, Hook};
use crate::symbolic::machine::{Flow, Hits, OnNat, Walk};
use crate::symbolic::network::{Hit, Network};
use crate::symbolic::order::{self, Call};
use crate::symbolic::space::{BitVector, EVERYTHING, NOTHING, PacketSet};

/// Bits of the number of a rule; with more rules those beyond are not followed.
const BITS: u32 = 10;

/// Packets that rules translated the source of, each with the number of its rule, as long as chains follow.
pub(super) struct Translated {
    /// `None`: no chain follows.
    rules: Option<Numbered>,
    /// Rules, and what gets to each.
    hits: Vec<(Hit, PacketSet)>,
}

struct Numbered {
    number: BitVector,
    masquerading: Written,
    /// What each of the rules writes.
    written: Vec<BTreeSet<u32>>,
}

impl Translated {
    /// Nothing is translated yet.
    pub(super) fn new(walk: &mut Walk<'_>, family: Family, hook: Hook) -> Self {
        let rules = is_followed(walk.network, family, hook).then(|| Numbered {
            number: walk.space.block(BITS),
            masquerading: masquerading(walk, family),
            written: Vec::new(),
        });
        Self { rules, hits: Vec::new() }
    }

    /// Packets before any of these rules.
    pub(super) fn begin(&self, walk: &Walk<'_>, packets: PacketSet) -> PacketSet {
        match &self.rules {
            Some(rules) => walk.space.and(packets, walk.space.ranges(&rules.number, &[(0, 0)])),
            None => packets,
        }
    }

    /// Packets that get to a rule: as they go on.
    pub(super) fn add(&mut self, walk: &mut Walk<'_>, hit: &Hit, packets: PacketSet) -> PacketSet {
        self.hits.push((hit.clone(), packets));
        let at = self.hits.len();
        let Some(rules) = self.rules.as_mut().filter(|_| at < 1 << BITS) else { return NOTHING };
        let (mut all, mut changed) = (NOTHING, BTreeSet::from_iter(rules.number.0.iter().copied()));
        for (nat, packets) in walk.each_translation(hit, packets) {
            let (fields, value) = match &nat {
                Some(nat) => {
                    let Written { fields, value, .. } = written(walk, &rules.masquerading, hit, nat);
                    (fields, value)
                }
                // Any source may be written.
                None => {
                    let (source, _) = walk.packets.ends();
                    let fields = [walk.block(&source), walk.block(&Field::SourcePort)];
                    (fields.into_iter().flat_map(|block| block.0).collect(), EVERYTHING)
                }
            };
            changed.extend(fields);
            let after = walk.without(packets, changed.clone());
            all = walk.space.or(all, walk.space.and(after, value));
        }
        rules.written.push(changed);
        let all = with_source_translated(walk, all);
        walk.space.and(all, walk.space.ranges(&rules.number, &[(at as u128, at as u128)]))
    }

    /// Rules, and of what got to each what left the hook; `left`: all that did.
    pub(super) fn confirmed(self, walk: &mut Walk<'_>, left: PacketSet) -> Vec<(Hit, PacketSet)> {
        let Some(Numbered { number, written, .. }) = self.rules else { return self.hits };
        // What rules write on the way is not what it was.
        let mut others = walk.layout.determined();
        others.extend(walk.block(&Field::ConnectionStatus).0);
        let each =
            self.hits.into_iter().zip((1u128..).zip(written.into_iter().map(Some).chain(std::iter::repeat(None))));
        each.map(|((hit, packets), (at, written))| {
            let Some(written) = written else { return (hit, packets) };
            let mine = walk.space.and(left, walk.space.ranges(&number, &[(at, at)]));
            let mine = walk.space.exists(mine, &others.union(&written).copied().collect());
            (hit, walk.space.and(packets, mine))
        })
        .collect()
    }
}

impl OnNat for Translated {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, _: PacketSet) -> PacketSet {
        NOTHING
    }

    fn translated(&mut self, walk: &mut Walk<'_>, _: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        self.add(walk, hit, packets)
    }
}

/// Sends packets through a hook: rules that translate their source, and of what gets to each what leaves it.
pub(super) fn translated(walk: &mut Walk<'_>, hook: Hook, packets: PacketSet, hits: &mut Hits) {
    let mut found = Translated::new(walk, walk.packets.family, hook);
    let packets = found.begin(walk, packets);
    let left = walk.hook(hook, None, Flow::First, packets, &mut found);
    for (hit, packets) in found.confirmed(walk, left) {
        hits.add(&walk.space, hit, packets);
    }
}

/// Whether a hook calls chains behind the NAT core, or may.
fn is_followed(network: &Network<'_>, family: Family, hook: Hook) -> bool {
    let calls = order::calls(network, family, hook, None);
    let nat = calls.iter().position(|step| step.calls.contains(&Call::Nat));
    let is_other = |call: &Call| !matches!(call, Call::Nat | Call::Conntrack);
    nat.is_some_and(|nat| calls[nat..].iter().flat_map(|step| &step.calls).any(is_other))
}
