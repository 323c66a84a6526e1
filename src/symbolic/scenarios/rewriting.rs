//! Handler for outer packets of a tunnel: records where a rule translates or rewrites them.

use super::effect::{Effect, effects, rewriting};
use crate::facts::Question;
use crate::facts::netfilter::{Field, Hook, Step};
use crate::symbolic::assumptions::About;
use crate::symbolic::machine::{OnNat, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::space::{BitPattern, NOTHING, PacketSet};

/// A rewrite that was found, with its packets.
#[derive(Clone, Debug)]
pub(super) struct Rewriting {
    /// Description of the rewrite.
    pub(super) how: String,
    /// Mark of the packets before.
    pub(super) pattern: BitPattern,
    /// Whether a port is written without conntrack.
    pub(super) writes_port: bool,
    /// The packets.
    pub(super) packets: PacketSet,
}

/// Handler for outer packets.
pub(super) struct Outer<'w> {
    /// Address that masquerading gives.
    pub(super) primary: &'w Result<u128, Question>,
    /// Mark of the packets before.
    pub(super) pattern: BitPattern,
    /// Rewrites found.
    pub(super) rewritings: Vec<Rewriting>,
    /// Rules that leave the packets unchanged.
    pub(super) kept: Vec<String>,
}

impl OnNat for Outer<'_> {
    fn untouched(&mut self, _: &mut Walk<'_>, _: Hook, packets: PacketSet) -> PacketSet {
        packets
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        let place = walk.place(hit);
        let filled = walk.space.is_set(walk.layout.filled);
        let (complete, packets) = (walk.space.and(packets, filled), walk.space.minus(packets, filled));
        if !complete.is_empty() {
            self.kept.push(format!("{place} finds checksums that a rule has filled in"));
        }
        let step = walk.step(hit);
        let found = match step {
            Some(Step::Nat(nat)) => {
                let each = walk.translations(hit, nat, packets).into_iter();
                each.flat_map(|(nat, packets)| effects(walk, &nat, hook, packets, self.primary)).collect()
            }
            Some(Step::Rewrite { field, value }) => vec![(rewriting(field, *value), packets)],
            _ => vec![(Effect::Unclear(format!("what {place} does is not understood").into()), packets)],
        };
        let writes_port = match step {
            Some(Step::Rewrite { field, .. }) => matches!(field, Field::SourcePort | Field::DestinationPort),
            Some(Step::Nat(_)) => false,
            _ => true, // it may be
        };
        let understood = matches!(step, Some(Step::Nat(_) | Step::Rewrite { .. }));
        let mut left = complete;
        for (effect, packets) in found.into_iter().filter(|(_, packets)| !packets.is_empty()) {
            if walk.is_over() {
                return NOTHING;
            }
            match effect {
                Effect::Kept => {
                    self.kept.push(format!("{place} leaves address and port as they are"));
                    left = walk.space.or(left, packets);
                }
                Effect::Changed(what) => {
                    let how = format!("{} gets {what} from {place}", packets_with(self.pattern));
                    self.rewritings.push(Rewriting { how, pattern: self.pattern, writes_port, packets });
                }
                Effect::Unclear(why) => {
                    let why = if understood { why.reword(|why| format!("{place}: {why}")) } else { why };
                    let why = walk.question(hit, why);
                    let key = format!("{} effect {hit:?}", walk.stage);
                    let changes = walk.answer(key, About::All, 2, 1, || why);
                    let how = format!("{} may be changed by {place}", packets_with(self.pattern));
                    self.rewritings.push(Rewriting {
                        how,
                        pattern: self.pattern,
                        writes_port,
                        packets: walk.space.and(packets, changes),
                    });
                    left = walk.space.or(left, walk.space.minus(packets, changes));
                }
            }
        }
        left
    }
}

/// Description of the packets: `every outer packet`, `an outer packet with mark 0x4000`.
fn packets_with(pattern: BitPattern) -> String {
    match pattern {
        BitPattern { mask: 0xffff_ffff, value: 0 } => "every outer packet".into(),
        BitPattern { mask: 0xffff_ffff, value } => format!("an outer packet with mark {value:#x}"),
        _ => "an outer packet with the mark of the packet inside".into(),
    }
}
