//! Compares two rule sets by their effect on packets: everything but generation, comments and counters. Parts that are
//! the same object in both are skipped.
//!
//! Each type is destructured, so that a new field does not compile until this file says whether it counts.

use std::sync::Arc;

use super::{Chain, Rule, Ruleset};
use crate::facts::Reading;

impl Ruleset {
    /// Whether packets are treated the same by both.
    pub fn is_equivalent_to(&self, other: &Self) -> bool {
        let Self { generation: _, base_chains, devices, chains, sets, mark_writers, tracks, tracking_unread } = self;
        let same = |((id, chain), (other_id, other))| id == other_id && Chain::is_equivalent_to(chain, other);
        *base_chains == other.base_chains
            && *devices == other.devices
            && *mark_writers == other.mark_writers
            && *tracks == other.tracks
            && *tracking_unread == other.tracking_unread
            && (chains.is(&other.chains)
                || chains.len() == other.chains.len() && chains.iter().zip(&other.chains).all(same))
            && *sets == other.sets
    }
}

impl Chain {
    fn is_equivalent_to(&self, other: &Self) -> bool {
        let Self { base, rules, udp_rules } = self;
        *base == other.base
            && match (rules, &other.rules) {
                (Reading::Ok(rules), Reading::Ok(others)) => are_equivalent(rules, others),
                _ => *rules == other.rules,
            }
            && match (udp_rules, &other.udp_rules) {
                (Some(rules), Some(others)) => are_equivalent(rules, others),
                _ => *udp_rules == other.udp_rules,
            }
    }
}

fn are_equivalent(rules: &Arc<Vec<Rule>>, others: &Arc<Vec<Rule>>) -> bool {
    let same = |(rule, other): (&Rule, &Rule)| rules_do_the_same(rule, other);
    Arc::ptr_eq(rules, others) || rules.len() == others.len() && rules.iter().zip(others.iter()).all(same)
}

fn rules_do_the_same(rule: &Rule, other: &Rule) -> bool {
    let Rule { position, comment: _, steps, counter: _, from_xtables, fingerprint } = rule;
    *fingerprint == other.fingerprint // differs for almost all unequal rules
            && *position == other.position
            && *from_xtables == other.from_xtables
            && *steps == other.steps
}
