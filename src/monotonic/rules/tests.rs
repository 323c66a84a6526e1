use super::*;
use crate::facts::netfilter::{NatAction, Owner, PortRandomization};
use crate::facts::{Facts, Reading};
use crate::monotonic::Accumulators;
use crate::read;

/// A masquerade rule; the fingerprint stands for its content.
fn rule(fingerprint: u64, packets: u64) -> SourceNatRule {
    SourceNatRule {
        backend: Backend::IptablesNft,
        family: Family::Ipv4,
        table: "nat".into(),
        chain: "KUBE-POSTROUTING".into(),
        position: 1,
        owner: Owner::KubeProxy,
        action: NatAction::Masquerade,
        randomization: PortRandomization::None,
        to_ports: None,
        addresses: None,
        marks: Vec::new(),
        counter: Some(Counter { packets, bytes: packets * 60 }),
        fingerprint,
    }
}

fn random(fingerprint: u64, packets: u64) -> SourceNatRule {
    SourceNatRule { randomization: PortRandomization::RandomFully, ..rule(fingerprint, packets) }
}

fn uncounted(fingerprint: u64) -> SourceNatRule {
    SourceNatRule { counter: None, ..rule(fingerprint, 0) }
}

fn facts(rules: Reading<Vec<SourceNatRule>>) -> Facts {
    let mut facts = read::replay(&read::testing::capture(), &Default::default());
    facts.source_nat_totals = rules.as_ref().map(|rules| read::source_nat_totals(rules));
    facts.source_nat_rules = rules;
    facts
}

/// An exporter, reading after reading.
#[derive(Default)]
struct Exporter {
    accumulators: Accumulators,
    reading: u64,
}

impl Exporter {
    fn totals(&mut self, reading: u64, rules: &[SourceNatRule]) -> BTreeMap<SourceNatKind, SourceNatTotal> {
        let mut facts = facts(Reading::Ok(rules.to_vec()));
        self.accumulators.apply(reading, &mut facts);
        facts.source_nat_totals.ok().expect("readable").clone()
    }

    /// Packets of the kind of [`rule`] after the next reading.
    fn reading(&mut self, rules: &[SourceNatRule]) -> u64 {
        self.reading += 1;
        let counted = self.totals(self.reading, rules)[&rule(0, 0).kind()].counted.expect("a counter");
        assert_eq!(counted.bytes, counted.packets * 60, "bytes go with packets");
        counted.packets
    }
}

#[test]
fn increases_are_added_up_over_the_rules() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 100), rule(2, 10)]), 110, "the first reading shows what the kernel counted");
    assert_eq!(exporter.reading(&[rule(1, 100), rule(2, 15)]), 115);
    assert_eq!(exporter.reading(&[rule(1, 100), rule(2, 15), rule(3, 7)]), 122, "a new rule counts from 0");
}

#[test]
fn a_rule_that_goes_makes_no_dip_and_none_when_it_was_the_last() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 1000), rule(2, 10)]), 1010);
    assert_eq!(exporter.reading(&[rule(2, 11)]), 1011);
    assert_eq!(exporter.reading(&[]), 1011);
    let totals = exporter.totals(4, &[]);
    assert_eq!(totals[&rule(0, 0).kind()].rules, 0, "the kind stays, without rules");
}

#[test]
fn a_chain_written_anew_goes_on_whether_its_counters_restart_or_not() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 1000), rule(2, 10)]), 1010);
    assert_eq!(exporter.reading(&[rule(1, 1005), rule(2, 10)]), 1015, "restored with its counters");
    assert_eq!(exporter.reading(&[rule(1, 3), rule(2, 0)]), 1018, "restored without them, three packets ago");
    assert_eq!(exporter.reading(&[rule(1, 4), rule(2, 2000)]), 3019);
}

#[test]
fn a_counter_whose_bytes_alone_fell_began_again() {
    let mut exporter = Exporter::default();
    exporter.reading(&[rule(1, 10)]);
    let restarted = SourceNatRule { counter: Some(Counter { packets: 10, bytes: 400 }), ..rule(1, 0) };
    let total = exporter.totals(2, &[restarted])[&rule(0, 0).kind()];
    assert_eq!(total.counted, Some(Counter { packets: 20, bytes: 1000 }));
}

#[test]
fn a_rule_that_was_missed_by_one_look_comes_back_without_a_spike() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 1000)]), 1000);
    assert_eq!(exporter.reading(&[]), 1000);
    assert_eq!(exporter.reading(&[rule(1, 1002)]), 1002, "restored with its counters");
    assert_eq!(exporter.reading(&[]), 1002);
    assert_eq!(exporter.reading(&[rule(1, 5)]), 1007, "added anew");
    assert_eq!(exporter.reading(&[rule(1, 1003)]), 2005, "the old counts are past");
}

#[test]
fn equal_rules_are_told_apart_by_what_they_counted() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 10), rule(1, 1000)]), 1010);
    assert_eq!(exporter.reading(&[rule(1, 1001)]), 1011, "the first is gone");
    assert_eq!(exporter.reading(&[rule(1, 1001), rule(1, 10)]), 1011, "and back, behind the other");
    assert_eq!(exporter.reading(&[rule(1, 12), rule(1, 1003)]), 1015);
    assert_eq!(exporter.reading(&[rule(1, 2), rule(1, 1003)]), 1017, "one began again");
    assert_eq!(exporter.reading(&[rule(1, 2), rule(1, 0), rule(1, 1003)]), 1017, "the same once more");
    assert_eq!(exporter.reading(&[rule(1, 1), rule(1, 0), rule(1, 0)]), 1018, "all began again");
}

#[test]
fn equal_rules_are_not_confused_by_heavy_packets() {
    let counted = |packets, bytes| SourceNatRule { counter: Some(Counter { packets, bytes }), ..rule(1, 0) };
    let mut exporter = Exporter::default();
    exporter.totals(1, &[counted(10, 15_000), counted(9, 900)]);
    let total = exporter.totals(2, &[counted(10, 15_000), counted(11, 960)])[&rule(0, 0).kind()];
    assert_eq!(total.counted, Some(Counter { packets: 21, bytes: 15_960 }));
}

#[test]
fn many_equal_rules_take_no_time() {
    let mut exporter = Exporter::default();
    let rules: Vec<SourceNatRule> = (0..20_000).map(|packets| rule(1, packets)).collect();
    let first = exporter.reading(&rules);
    assert_eq!(exporter.reading(&rules), first);
    assert_eq!(exporter.reading(&rules[1..]), first);
}

#[test]
fn a_rule_whose_flags_change_counts_for_its_new_kind_and_keeps_its_share_of_the_old() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 1000)]), 1000);
    assert_eq!(exporter.reading(&[random(2, 4)]), 1000);
    let totals = exporter.totals(3, &[random(2, 6)]);
    assert_eq!(totals.len(), 2);
    assert_eq!(totals[&random(0, 0).kind()].counted.map(|counter| counter.packets), Some(6));
    assert_eq!(totals[&random(0, 0).kind()].rules, 1);
}

#[test]
fn the_same_rule_elsewhere_is_another_one() {
    let mut exporter = Exporter::default();
    let elsewhere = [
        SourceNatRule { chain: "POSTROUTING".into(), ..rule(1, 500) },
        SourceNatRule { table: "other".into(), ..rule(1, 500) },
    ];
    assert_eq!(exporter.reading(&[rule(1, 1000)]), 1000);
    assert_eq!(exporter.reading(&[&elsewhere[..], &[rule(1, 1001)]].concat()), 2001);
}

#[test]
fn a_look_that_is_finished_late_changes_nothing() {
    let mut exporter = Exporter::default();
    let kind = rule(0, 0).kind();
    let mut packets =
        |reading, rules: &[SourceNatRule]| exporter.totals(reading, rules)[&kind].counted.unwrap().packets;
    assert_eq!(packets(1, &[rule(1, 100)]), 100);
    assert_eq!(packets(2, &[rule(1, 150)]), 150);
    assert_eq!(packets(1, &[rule(1, 100)]), 150, "the first reading, by a scrape that was late");
    assert_eq!(packets(1, &[]), 150);
    assert_eq!(packets(2, &[rule(1, 150)]), 150, "the same look for another scrape");
    assert_eq!(packets(3, &[rule(1, 151)]), 151);
}

#[test]
fn a_look_that_could_not_read_the_rules_says_so_and_the_next_one_goes_on() {
    let mut exporter = Exporter::default();
    assert_eq!(exporter.reading(&[rule(1, 1000)]), 1000);
    for unreadable in [Reading::Denied("no".into()), Reading::Failed("no".into()), Reading::Absent("no".into())] {
        let mut facts = facts(unreadable);
        exporter.reading += 1;
        exporter.accumulators.apply(exporter.reading, &mut facts);
        assert_eq!(facts.source_nat_totals.ok(), None);
    }
    assert_eq!(exporter.reading(&[rule(1, 1007)]), 1007);
}

#[test]
fn rules_without_counters_have_none_until_one_does_and_keep_it_afterwards() {
    let mut exporter = Exporter::default();
    let kind = rule(0, 0).kind();
    assert_eq!(exporter.totals(1, &[uncounted(1)])[&kind], SourceNatTotal { rules: 1, uncounted: 1, counted: None });
    assert_eq!(exporter.totals(2, &[])[&kind], SourceNatTotal::default(), "seen once, with no counter ever");
    exporter.totals(3, &[uncounted(1), rule(2, 5)]);
    let left = exporter.totals(4, &[uncounted(1)])[&kind];
    assert_eq!(left, SourceNatTotal { rules: 1, uncounted: 1, counted: Some(Counter { packets: 5, bytes: 300 }) });
}

#[test]
fn the_longest_gone_are_forgotten_first() {
    let mut exporter = Exporter::default();
    let many: Vec<SourceNatRule> = (100..100 + MAX_GONE as u64).map(|fingerprint| rule(fingerprint, 1)).collect();
    let kept = MAX_GONE as u64;
    assert_eq!(exporter.reading(&[rule(1, 1000)]), 1000);
    assert_eq!(exporter.reading(&[rule(2, 1000)]), 2000);
    assert_eq!(exporter.reading(&many), 2000 + kept, "as many as there are: those that are there do not count");
    assert_eq!(exporter.reading(&[]), 2000 + kept, "two too many: the first two go");
    let remembered = |exporter: &Exporter| exporter.accumulators.rules.rules.values().flatten().count();
    assert_eq!(remembered(&exporter), MAX_GONE);
    assert_eq!(exporter.reading(&[rule(2, 1000)]), 3000 + kept, "not remembered");
    assert_eq!(exporter.reading(&many), 3000 + kept, "remembered");
}

#[test]
fn whatever_rules_do_the_sums_never_fall() {
    let mut exporter = Exporter::default();
    let (mut state, mut last) = (1_u64, 0);
    for _ in 0..500 {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let rules: Vec<SourceNatRule> = (0..next() % 6 + 1).map(|_| rule(next() % 3, next() % 50)).collect();
        let highest: u64 = rules.iter().filter_map(|rule| rule.counter).map(|counter| counter.packets).sum();
        let now = exporter.reading(&rules);
        assert!((last..=last + highest).contains(&now), "{last} became {now} with {rules:?}");
        last = now;
    }
}
