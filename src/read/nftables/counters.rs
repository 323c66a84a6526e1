//! What moves while a generation stands: counters of rules that translate sources.

use std::sync::Arc;

use super::{RulesetReader, wire};
use crate::facts::netfilter::{Chain, ChainId, ChainKind, Hook, NatAction, Rule, Step};
use crate::facts::{Reading, Source};
use crate::read::known::KnownRules;

/// Takes over what was read before at the same generation; only counters have moved since.
pub(super) fn refresh(reader: &mut RulesetReader<'_, '_>, known: &KnownRules) {
    reader.node.sources.take_over(&known.sources, &[Source::Nftables]);
    reader.ruleset.clone_from(&known.ruleset);
    for (id, chain) in known.ruleset.reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]) {
        let Some(known) = chain.rules.ok().filter(|rules| rules.iter().any(counts_source_nat)) else { continue };
        let rules = with_fresh_counters(reader, id, known);
        // Where nothing was counted, all chains stay the same object.
        if rules != chain.rules {
            reader.ruleset.chains.insert(id.clone(), Chain::new(chain.base.clone(), rules));
        }
    }
}

/// Rules that are known but for their counters.
fn with_fresh_counters(
    reader: &mut RulesetReader<'_, '_>,
    id: &ChainId,
    known: &Arc<Vec<Rule>>,
) -> Reading<Arc<Vec<Rule>>> {
    let request = wire::counters(reader.generation, id);
    let asked = reader.asked;
    let fresh = reader.try_rules(&request, id);
    let rules = reader.needed(&request, fresh).map(|fresh| {
        reader.mismatch |= fresh.len() != known.len();
        let counted = known.iter().zip(&fresh);
        if counted.clone().all(|(known, fresh)| known.counter == fresh.counter) {
            return Arc::clone(known);
        }
        Arc::new(counted.map(|(known, fresh)| Rule { counter: fresh.counter, ..known.clone() }).collect())
    });
    // Each of these rules has told its generation, which need not be asked for again.
    reader.asked = asked || reader.mismatch || rules.ok().is_none();
    rules
}

fn counts_source_nat(rule: &Rule) -> bool {
    let translates = |step: &Step| match step {
        Step::Nat(nat) => matches!(nat.action, NatAction::Masquerade | NatAction::Snat | NatAction::Netmap),
        _ => false,
    };
    rule.counter.is_some() && rule.steps.iter().any(translates)
}
