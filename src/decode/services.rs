//! The nat chains on prerouting and output, where a node has its Services: tens of thousands of rules, of which UDP
//! packets, as those of tunnels and of name servers are, can meet a few.

use crate::snapshot::netfilter::{Condition, Field, Match, Rule, Step};

/// Rules of these chains up to which all of them are read.
pub const MAX_RULES: usize = 4096;
/// Chains up to which all of them are read, and chains that are followed for UDP.
pub const MAX_CHAINS: usize = 512;

const UDP: u128 = 17;

/// Whether a UDP packet can get to the end of a rule.
pub fn can_be_udp(rule: &Rule) -> bool {
    !rule.steps.iter().any(|step| match step {
        Step::Match(Match::Tests { tests, inverted: false }) => {
            tests.iter().any(|test| test.field == Field::L4Proto && !meets(&test.condition, UDP))
        }
        Step::Match(Match::Tests { tests, inverted: true }) => {
            tests.len() == 1 && tests[0].field == Field::L4Proto && meets(&tests[0].condition, UDP)
        }
        _ => false,
    })
}

fn meets(condition: &Condition, number: u128) -> bool {
    match condition {
        Condition::Masked { mask, value } => number & mask == *value,
        Condition::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)),
    }
}

/// The rules that a UDP packet can meet. One that writes something before it tests the protocol stays as well.
pub fn for_udp(rules: &[Rule]) -> Vec<Rule> {
    let only_tests = |rule: &&Rule| {
        let protocol = |step: &Step| match step {
            Step::Match(Match::Tests { tests, .. }) => tests.iter().any(|test| test.field == Field::L4Proto),
            _ => false,
        };
        let first = rule.steps.iter().position(protocol).unwrap_or(0);
        rule.steps[..first].iter().all(|step| matches!(step, Step::Match(_) | Step::Harmless(_)))
    };
    rules.iter().filter(|rule| can_be_udp(rule) || !only_tests(rule)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::netfilter::{MarkWrite, Test, Verdict};

    fn rule(steps: Vec<Step>) -> Rule {
        Rule { position: 1, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 }
    }

    fn protocol(number: u128, inverted: bool) -> Step {
        let condition = Condition::Masked { mask: 0xff, value: number };
        Step::Match(Match::Tests { tests: vec![Test { field: Field::L4Proto, condition }], inverted })
    }

    #[test]
    fn what_tests_another_protocol_is_left_out() {
        let end = || Step::Verdict(Verdict::Accept);
        for (steps, stays) in [
            (vec![end()], true),
            (vec![protocol(17, false), end()], true),
            (vec![protocol(6, false), end()], false),
            (vec![protocol(6, true), end()], true),
            (vec![protocol(17, true), end()], false),
            (vec![Step::SetMark(MarkWrite::Exact { keep: 0, take: 0, xor: 1 }), protocol(6, false)], true),
        ] {
            assert_eq!(for_udp(&[rule(steps.clone())]).len(), usize::from(stays), "{steps:?}");
        }
    }
}
