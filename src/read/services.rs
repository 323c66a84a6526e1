//! The nat chains on prerouting and output, which have the Services of a node: tens of thousands of rules, a few of
//! which may match UDP packets, such as those of tunnels and DNS. Shared by both backends.
//!
//! Up to 512 chains and 4,096 rules they are read completely.

use crate::facts::netfilter::{Comparison, Field, Match, Rule, Step};

/// Number of rules up to which all are read.
pub(crate) const MAX_RULES: usize = 4096;
/// Number of chains up to which all are read, and of chains that are followed for UDP.
pub(crate) const MAX_CHAINS: usize = 512;

const UDP: u128 = 17;

/// Whether a step excludes all UDP packets.
pub(crate) fn excludes_udp(step: &Step) -> bool {
    match step {
        Step::Match(Match::Tests { tests, inverted: false }) => {
            tests.iter().any(|test| test.field == Field::L4Proto && !meets(&test.condition, UDP))
        }
        Step::Match(Match::Tests { tests, inverted: true }) => {
            tests.len() == 1 && tests[0].field == Field::L4Proto && meets(&tests[0].condition, UDP)
        }
        _ => false,
    }
}

/// Whether a step has no effect on packets.
pub(crate) fn only_tests(step: &Step) -> bool {
    matches!(step, Step::Match(_) | Step::NoEffect(_))
}

fn meets(condition: &Comparison, number: u128) -> bool {
    match condition {
        Comparison::Masked { mask, value } => number & mask == *value,
        Comparison::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)),
    }
}

/// Whether UDP packets may reach the end of a rule, or a step with an effect.
pub(crate) fn meets_udp(rule: &Rule) -> bool {
    let excluded = rule.steps.iter().position(excludes_udp);
    excluded.is_none_or(|excluded| !rule.steps[..excluded].iter().all(only_tests))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::{FieldTest, MarkWrite, Verdict};

    fn rule(steps: Vec<Step>) -> Rule {
        Rule { position: 1, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 }
    }

    fn protocol(number: u128, inverted: bool) -> Step {
        let condition = Comparison::Masked { mask: 0xff, value: number };
        Step::Match(Match::Tests { tests: vec![FieldTest { field: Field::L4Proto, condition }], inverted })
    }

    #[test]
    fn what_tests_another_protocol_is_left_out() {
        let end = || Step::Verdict(Verdict::Accept);
        let mark = || Step::SetMark(MarkWrite::Exact { keep: 0, take: 0, xor: 1 });
        for (steps, stays) in [
            (vec![end()], true),
            (vec![protocol(17, false), end()], true),
            (vec![protocol(6, false), end()], false),
            (vec![protocol(6, true), end()], true),
            (vec![protocol(17, true), end()], false),
            (vec![mark(), protocol(6, false)], true),
            (vec![protocol(6, true), mark(), protocol(6, false)], true),
            (vec![protocol(6, false), mark()], false),
        ] {
            assert_eq!(meets_udp(&rule(steps.clone())), stays, "{steps:?}");
        }
    }
}
