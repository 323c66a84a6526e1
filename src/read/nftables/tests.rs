//! Readings of a rule set from a simulated kernel (`kernel`), message by message.

mod cuts;
mod headers;
mod kernel;
mod language;

use std::collections::BTreeMap;
use std::slice;

use self::kernel::{
    Data, Devices, FORWARD, Kernel, OUTPUT, POSTROUTING, PREROUTING, Seen, asked, base_chain, done, errno, message,
    observe_at, rule,
};
use self::language::*;
use super::*;
use crate::facts::netfilter::{Element, Field, MarkWrite, Match, name_key};
use crate::facts::{SourceState, SystemCall};
use crate::netfilter::netlink::{self, Attribute, BlockLayout};
use crate::netfilter::nftables::expr::{Cmp, Ct, Dynset, Expr, FlowOffload, Immediate, Meta, Nat, Synproxy};
use crate::netfilter::nftables::uapi::{
    NFPROTO_IPV4, NFT_CONTINUE, NFT_CT_MARK, NFT_META_MARK, NFT_NAT_SNAT, NFT_SET_MAP as MAP,
    NFT_SET_TIMEOUT as TIMEOUT,
};
use crate::netfilter::nftables::{self as wired, Table as WireTable};
use crate::read::Known;
use crate::read::testing::played;

fn chain_names(ruleset: &Ruleset) -> Vec<&str> {
    ruleset.chains.keys().map(|id| id.chain.as_str()).collect()
}

fn id(chain: &str) -> ChainId {
    ChainId { family: Family::Ipv4, table: "nat".into(), chain: chain.into() }
}

fn set_id(set: &str) -> SetId {
    SetId::Nftables { family: Family::Ipv4, table: "nat".into(), set: set.into() }
}

fn changed<T>(reading: &Reading<T>) -> bool {
    reading.failure().is_some_and(|failure| matches!(failure.root(), Failure::Changed { .. }))
}

fn passing() -> Failure {
    Failure::SystemCall { call: SystemCall::Receive, errno: 105 }
}

/// The first rule of a chain, from its message.
fn read_rule(rule: wired::Rule<'_>) -> Result<Rule, Failure> {
    let bytes = message(NFPROTO_IPV4, 7, rule);
    let (message, _) = netlink::message(&bytes).expect("a message");
    wire::decode_rule(&message, &id("post"), 1)
}

#[test]
fn a_rule_without_its_expressions_is_not_read() {
    let read = |change: &dyn Fn(&mut wired::Rule<'static>)| {
        let mut rule = rule("nat", "post", &[masquerade()]);
        change(&mut rule);
        read_rule(rule)
    };
    let empty = read(&|rule| rule.expressions = Some(Vec::new().into())).expect("a rule that does nothing");
    assert_eq!(empty.steps, []);
    let missing = read(&|rule| rule.expressions = None).expect_err("no list").to_string();
    assert!(missing.contains("NFTA_RULE_EXPRESSIONS is missing"), "{missing}");
    let stranger = read(&|rule| {
        let list = rule.expressions.as_mut().expect("a list");
        list.layout.keep_unknown(0, &Attribute { kind: 3, flags: 0, body: &[1, 2, 3, 4] });
    });
    let steps = stranger.expect("read").steps;
    assert!(matches!(&steps[..], [Step::Unsupported { may_translate: true, .. }, Step::Nat(_)]), "{steps:?}");
}

#[test]
fn what_an_unknown_attribute_changes_is_unknown() {
    let with = |attribute: &'static [u8]| {
        let mut layout = BlockLayout::default();
        layout.keep_unknown(0, &Attribute { kind: 99, flags: 0, body: attribute });
        let load = Meta { key: NFT_META_MARK, dreg: Some(1), layout: layout.clone(), ..Meta::default() };
        let data = wired::Data { layout, ..wired::Data::of(vec![0; 4]) };
        let compared = Cmp { sreg: 1, data: wired::Data::of(vec![0; 4]), ..Cmp::default() };
        let constant = Immediate { dreg: 2, data, ..Immediate::default() };
        let rule = rule("nat", "post", &[vec![load.into(), compared.into(), constant.into()], masquerade()]);
        read_rule(rule).expect("read").steps
    };
    // Empty ones fill up.
    assert!(matches!(&with(&[])[..], [Step::Match(Match::Tests { .. }), Step::Nat(_)]));
    let steps = with(&[1]);
    let unsupported = |step: &Step| matches!(step, Step::Unsupported { may_translate: true, .. });
    assert!(
        matches!(&steps[..], [load, Step::Match(Match::Unsupported(_)), constant, Step::Nat(_)] if unsupported(load) && unsupported(constant)),
        "{steps:?}"
    );
}

#[test]
fn chains_that_nothing_leads_to_are_not_read() {
    let post = vec![vec![jump("a")], vec![verdict_map("m")]];
    let mut kernel = Kernel::new(
        &[("post", POSTROUTING, true)],
        &[("post", post), ("a", vec![vec![masquerade()]]), ("b", vec![vec![jump("a")]]), ("lonely", vec![])],
    );
    kernel.sets.insert("m", Devices::leading_to(&["b"]));
    let (ruleset, names) = kernel.read();
    let ruleset = ruleset.ok().expect("it was read").clone();
    assert_eq!(chain_names(&ruleset), ["a", "b", "post"]);
    assert_eq!(ruleset.generation, Some(7));
    assert!(names.contains(&"nft-7/map/ipv4/nat/m".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("lonely")), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.contains("generation")).count(), 2);
    assert_eq!(
        (names.first().unwrap().as_str(), names.last().unwrap().as_str()),
        ("nft-generation-1", "nft-generation-2")
    );
}

#[test]
fn chains_that_lead_to_each_other_are_read_once() {
    let rules = [("post", vec![vec![jump("a")]]), ("a", vec![vec![jump("b")]]), ("b", vec![vec![jump("a")]])];
    let (ruleset, _) = Kernel::new(&[("post", POSTROUTING, true)], &rules).read();
    assert_eq!(chain_names(ruleset.ok().expect("it was read")), ["a", "b", "post"]);
}

#[test]
fn a_dormant_table_is_not_there() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![vec![masquerade()]])]);
    kernel.dormant = true;
    let (ruleset, names) = kernel.read();
    assert!(ruleset.ok().expect("it was read").chains.is_empty());
    // A dormant table's rules make the kernel track connections nevertheless.
    assert_eq!(names, ["nft-generation-1", "nft-7/tables", "nft-7/table-rules/ipv4/nat", "nft-generation-2"]);
}

/// Measured while tables of one name replaced each other: 5 of 776,387 listings were empty, with the same generation.
#[test]
fn a_base_chain_whose_rules_are_not_shown_was_being_replaced() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![])]);
    assert!(kernel.read().0.ok().is_some(), "a chain without rules is one");
    kernel.hidden = true;
    assert!(changed(&kernel.read().0));
    // Rules that a transaction is about to add are counted already.
    kernel.rules.insert("post", vec![vec![masquerade()]]);
    assert!(kernel.read().0.ok().is_some());
}

#[test]
fn rules_that_change_while_they_are_read_are_read_again() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![vec![masquerade()]])]);
    kernel.generations = vec![7, 8];
    let (ruleset, names) = kernel.read();
    assert_eq!(ruleset.ok().expect("it was read").generation, Some(8));
    assert!(names.contains(&"nft-7/tables".to_owned()) && names.contains(&"nft-8/tables".to_owned()));
    let generations = |names: &[String]| names.iter().filter(|name| name.contains("generation")).count();
    assert_eq!(generations(&names), 3);

    // The same generation, but messages of another one: once, and then for ever.
    kernel.generations = vec![7];
    let undisturbed = kernel.observe(&Known::default(), &RulesetInputs::default());
    kernel.mismatch = 1;
    let healed = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!(healed.whole(), undisturbed.whole());
    assert_eq!((generations(&healed.names), healed.source()), (3, (SourceState::Ok, String::new())));
    kernel.mismatch = usize::MAX;
    let mismatch = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert!(changed(&mismatch.ruleset), "{:?}", mismatch.ruleset);
    assert_eq!((generations(&mismatch.names), mismatch.source().0), (9, SourceState::Failed));
    assert!(mismatch.memory.nftables.is_none());

    kernel.mismatch = 0;
    kernel.generations = (7..100).collect();
    let (ruleset, names) = kernel.read();
    assert_eq!(ruleset.why(), "the rules: it changed 8 times in a row while it was read");
    assert_eq!(generations(&names), 9);
}

/// Failures about rules that no longer exist are dropped.
#[test]
fn a_failure_in_a_reading_that_was_interrupted_is_forgotten() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![vec![masquerade()]])]);
    kernel.generations = vec![7, 8];
    kernel.instead.insert("nft-7/rules/ipv4/nat/post", Reading::Failed(passing()));
    let seen = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!((seen.whole().generation, seen.source()), (Some(8), (SourceState::Ok, String::new())));
}

#[test]
fn while_a_generation_stands_only_counters_are_read_again() {
    let rules = vec![vec![counter(3), masquerade()], vec![verdict_map("m")]];
    let counted = [("post", vec![vec![jump("a")]]), ("a", rules), ("b", vec![])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &counted);
    kernel.sets.insert("m", Devices::leading_to(&["b"]));
    let inputs = RulesetInputs::default();
    let first = kernel.observe(&Known::default(), &inputs);
    kernel.rules.insert("a", vec![vec![counter(5), masquerade()], vec![verdict_map("m")]]);
    let second = kernel.observe(&first.memory, &inputs);
    assert_eq!(second.names, ["nft-generation-1", "nft-7/counters/ipv4/nat/a"]);
    let packets = |ruleset: &Ruleset| {
        let rules = ruleset.chains.values().flat_map(Chain::known_rules);
        rules.filter_map(|rule| rule.counter.map(|counter| counter.packets)).sum::<u64>()
    };
    assert_eq!((packets(first.whole()), packets(second.whole())), (3, 5));
    assert_eq!(chain_names(second.whole()), ["a", "b", "post"], "what the map leads to is known");
    assert_eq!(first.whole().sets, second.whole().sets, "and what it holds");
    let fingerprints = |ruleset: &Ruleset| -> Vec<u64> {
        ruleset.chains.values().flat_map(Chain::known_rules).map(|rule| rule.fingerprint).collect()
    };
    assert_eq!(fingerprints(first.whole()), fingerprints(second.whole()));
    kernel.rules.insert("a", vec![vec![masquerade()]]);
    let uncounted = kernel.observe(&Known::default(), &inputs).memory;
    assert_eq!(kernel.observe(&uncounted, &inputs).names, ["nft-generation-1"]);
    let elsewhere = RulesetInputs { tested_elsewhere: 0x10, ..RulesetInputs::default() };
    assert!(
        kernel.observe(&uncounted, &elsewhere).names.contains(&"nft-7/tables".to_owned()),
        "a bit was not searched"
    );
    kernel.generations = vec![8];
    assert!(kernel.observe(&uncounted, &inputs).names.contains(&"nft-8/tables".to_owned()));
}

/// A chain that has lost a rule is not the one that was read before.
#[test]
fn counters_of_another_number_of_rules_are_of_other_rules() {
    let rule = vec![counter(3), masquerade()];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![rule.clone(), rule.clone()])]);
    let first = kernel.observe(&Known::default(), &RulesetInputs::default());
    kernel.rules.insert("post", vec![rule]);
    let second = kernel.observe(&first.memory, &RulesetInputs::default());
    assert_eq!(second.names.iter().filter(|name| name.contains("generation")).count(), 3, "they were read anew");
    let post = second.whole().chains.values().map(|chain| chain.known_rules().len()).sum::<usize>();
    assert_eq!(post, 1);
}

#[test]
fn a_kernel_without_nf_tables_is_a_fact_and_a_refusal_is_not() {
    for (answer, state) in [
        (errno(22), SourceState::Absent),
        (errno(105), SourceState::Failed),
        (Reading::Denied("CAP_NET_ADMIN is missing".into()), SourceState::Denied),
        (Reading::Ok(Vec::new()), SourceState::Failed),
        (Reading::Ok(vec![1; 40]), SourceState::Failed),
    ] {
        let seen = observe_at(&Known::default(), &RulesetInputs::default(), |_| answer.clone());
        assert_eq!((seen.ruleset.state(), seen.source().0), (state, state), "{:?}", seen.ruleset);
        assert_eq!(seen.names, ["nft-generation-1"]);
    }
}

#[test]
fn the_well_known_writer_of_a_bit_is_found_first_if_anything_leads_to_it() {
    let rules = [
        ("post", vec![vec![jump("KUBE-POSTROUTING")]]),
        ("KUBE-POSTROUTING", vec![vec![mark_test(0x4000), masquerade()]]),
        ("KUBE-MARK-MASQ", vec![vec![set_mark(0x4000)]]),
        ("pre", vec![vec![jump("services")]]),
        ("services", vec![vec![jump("KUBE-MARK-MASQ")]]),
    ];
    let bases = [("post", POSTROUTING, true), ("pre", PREROUTING, true)];
    let mut kernel = Kernel::new(&bases, &rules);
    kernel.users.insert("KUBE-MARK-MASQ", 1);
    let (ruleset, names) = kernel.read();
    let ruleset = ruleset.ok().expect("it was read").clone();
    assert_eq!(ruleset.mark_writers.found[&0x4000].0.chain, "KUBE-MARK-MASQ");
    let asked = |end: &str| names.iter().position(|name| name.ends_with(end));
    assert!(asked("/KUBE-MARK-MASQ") < asked("/services"), "{names:?}");
    let pre = ruleset.chains.iter().find(|(id, _)| id.chain == "pre").expect("a base chain").1;
    assert!(pre.base.is_some() && pre.known_rules().len() == 1, "what is small is read whole");

    // Nothing leads to the chain that sets the bit: it proves nothing, and all chains are searched.
    kernel.users.clear();
    kernel.rules.insert("services", vec![vec![set_mark(0x1)]]);
    let (ruleset, names) = kernel.read();
    let mark_writers = ruleset.ok().expect("it was read").mark_writers.clone();
    assert_eq!(
        (mark_writers.tested, mark_writers.none, mark_writers.given_up),
        (0x4000, 0x4000, 0),
        "{mark_writers:?}"
    );
    assert!(names.iter().any(|name| name.ends_with("rules/ipv4/nat/services")), "{names:?}");

    kernel.rules.insert("services", vec![vec![set_mark(0x1)], vec![set_mark(0xc000)]]);
    let mark_writers = kernel.read().0.ok().expect("it was read").mark_writers.clone();
    assert_eq!(mark_writers.found[&0x4000], (id("services"), 2));
}

#[test]
fn a_search_that_is_given_up_leaves_the_bit_possible() {
    let many: Vec<Vec<Expression>> = (0..600).map(|_| vec![jump("x")]).collect();
    let mut rules = vec![("post", vec![vec![mark_test(2), masquerade()]]), ("pre", many)];
    // Each jump leads to another chain.
    let names: Vec<&'static str> = (0..600).map(|n| &*format!("chain-{n}").leak()).collect();
    rules[1].1 = names.iter().map(|name| vec![jump(*name)]).collect();
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let (ruleset, asked) = kernel.read();
    let mark_writers = ruleset.ok().expect("it was read").mark_writers.clone();
    assert_eq!((mark_writers.given_up, mark_writers.none), (2, 0));
    assert!(mark_writers.why.contains("more than 512 chains"), "{}", mark_writers.why);
    assert!(asked.len() < 600);
}

#[test]
fn chains_of_services_that_are_too_many_are_not_read_in_vain() {
    let names: Vec<&'static str> = (0..600).map(|n| &*format!("KUBE-SVC-{n}").leak()).collect();
    let mut rules = vec![
        ("post", vec![vec![mark_test(0x4000), masquerade()]]),
        ("out", vec![vec![jump("services")], vec![jump("mine")]]),
        ("pre", vec![vec![jump("services")]]),
        ("services", names.iter().map(|name| vec![jump(*name)]).collect()),
        ("mine", vec![vec![set_mark(0x4000)]]),
    ];
    rules.extend(names.iter().map(|name| (*name, vec![vec![counter(1)]])));
    let bases = [("post", POSTROUTING, true), ("out", OUTPUT, true), ("pre", PREROUTING, true)];
    let (ruleset, asked) = Kernel::new(&bases, &rules).read();
    let mark_writers = ruleset.ok().expect("it was read").mark_writers.clone();
    assert_eq!(mark_writers.found[&0x4000].0.chain, "mine");
    assert!(mark_writers.why.contains("more than 512 chains"), "{}", mark_writers.why);
    assert_eq!((mark_writers.given_up, mark_writers.none), (0, 0));
    assert!(!asked.iter().any(|name| name.contains("KUBE-SVC-")), "{asked:?}");
}

#[test]
fn marks_are_written_as_the_registers_say() {
    let post = vec![vec![set_mark(0x4000)], vec![mark_test(1), counter(1)]];
    let (ruleset, _) = Kernel::new(&[("post", POSTROUTING, false)], &[("post", post)]).read();
    let ruleset = ruleset.ok().expect("it was read").clone();
    let rules = ruleset.chains[&id("post")].known_rules();
    let exact = MarkWrite::Exact { keep: 0, take: 0, xor: 0x4000 };
    assert_eq!(rules[0].steps, [Step::SetMark(exact)]);
    assert_eq!((rules[1].position, rules[1].counter.map(|counter| counter.bytes)), (2, Some(60)));
}

#[test]
fn answers_cut_anywhere_and_noise_never_pass_for_rules() {
    let rules = [("post", vec![vec![mark_test(1), counter(1), masquerade()], vec![jump("a")]]), ("a", vec![])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    let whole = kernel.answer(&wire::rules(7, &id("post"))).ok().expect("an answer").clone();
    assert_eq!(rules_in(&whole, "post", 7).ok().map(Vec::len), Some(2));
    for cut in 0..whole.len() {
        let found = rules_in(&whole[..cut], "post", 7);
        assert!(matches!(found, Reading::Failed(_)), "cut at {cut}: {found:?}");
    }
    assert!(rules_in(&whole, "other", 7).why().contains("another chain"));
    assert_eq!(rules_in(&whole, "post", 8).failure().map(Failure::root), Some(&Failure::Changed { readings: 1 }));
    proptest::proptest!(|(noise: Vec<u8>, at in 0..whole.len(), byte: u8)| {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        for bytes in [&noise, &damaged] {
            let _ = rules_in(bytes, "post", 7);
            for message in crate::netfilter::netlink::messages(bytes).flatten() {
                let _ = wire::decode_table(&message);
                let _ = wire::decode_base_chain(&message);
                let _ = wire::decode_generation(&message);
                let _ = wire::decode_use(&message);
                let _ = wire::needs_conntrack(&message);
                let _ = wire::belongs(&message, 7);
                let _ = wire::decode_elements(&message, &set_id("m"));
            }
            let mut kernel = kernel.clone();
            let answer = |request: &Request| {
                let known = request.name.contains("generation");
                if known { kernel.answer(request) } else { Reading::Ok(bytes.clone()) }
            };
            observe_at(&Known::default(), &RulesetInputs::default(), answer);
        }
        for name in ["payload", "meta", "ct", "fib", "cmp", "range", "bitwise", "byteorder", "immediate", "lookup",
                     "match", "target", "masq", "nat", "redir", "counter", "objref", "exthdr", "hash", "what"] {
            if let Ok(expression) = Expr::parse(name.as_bytes(), &noise) {
                let _ = expressions::RuleReader::new(Family::Inet, &"t".into()).read(0, &expression.into());
            }
        }
    });
}

/// The rules in a response.
fn rules_in(answer: &[u8], chain: &str, generation: u32) -> Reading<Vec<Rule>> {
    let inputs = RulesetInputs::default();
    let read = |node: &mut Node<'_>| {
        let request = wire::rules(generation, &id(chain));
        RulesetReader::new(node, generation, &inputs).try_rules(&request, &id(chain))
    };
    played(|_| Reading::Ok(answer.to_vec()), read).0
}

#[test]
fn a_connection_mark_may_be_restored_so_setting_it_counts() {
    let rules = [("post", vec![[mark_test(0x4000), masquerade()].concat()]), ("pre", vec![ct_mark_set(0x4000)])]
        .map(|(name, rules)| (name, rules.into_iter().map(|rule| vec![rule]).collect::<Vec<_>>()));
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let mark_writers = kernel.read().0.ok().expect("it was read").mark_writers.clone();
    assert_eq!((mark_writers.tested, mark_writers.none), (0x4000, 0), "{mark_writers:?}");
}

#[test]
fn chains_that_were_read_whole_are_searched_too() {
    let rules = [
        ("post", vec![[mark_test(0x4000), masquerade()].concat()]),
        ("forward", vec![set_mark(0x4000)]),
        ("pre", vec![jump("x")]),
    ]
    .map(|(name, rules)| (name, rules.into_iter().map(|rule| vec![rule]).collect::<Vec<_>>()));
    let bases = [("post", POSTROUTING, true), ("pre", PREROUTING, true), ("forward", 2, false)];
    let mut kernel = Kernel::new(&bases, &rules);
    let mark_writers = kernel.read().0.ok().expect("it was read").mark_writers.clone();
    assert_eq!((mark_writers.tested, mark_writers.none), (0x4000, 0), "{mark_writers:?}");
}

#[test]
fn what_a_packet_has_to_be_for_an_expression_is_a_test_before_it() {
    let table = "nat".into();
    let mut reader = expressions::RuleReader::new(Family::Inet, &table);
    let nat = Nat { kind: NFT_NAT_SNAT, family: NFPROTO_IPV4.into(), reg_addr_min: Some(1), ..Nat::default() };
    reader.read(0, &nat.into()).unwrap();
    assert!(matches!(reader.steps[0], Step::Match(_)), "{:?}", reader.steps);
    let table = "nat".into();
    let mut reader = expressions::RuleReader::new(Family::Inet, &table);
    reader.read(0, &Ct { key: NFT_CT_MARK, dreg: Some(1), ..Ct::default() }.into()).unwrap();
    reader.read(1, &FlowOffload::default().into()).unwrap();
    reader.read(2, &Synproxy::default().into()).unwrap();
    let steps = &reader.steps;
    assert!(matches!(steps[..], [_, Step::OwnTimeout, _, _, Step::Verdict(_)]), "{steps:?}");
}

#[test]
fn a_set_of_marks_tests_every_bit() {
    let rules = [("post", vec![vec![load_meta(3), mark_in("__set0"), masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    kernel.sets.insert("__set0", Devices::new(0, []));
    let mark_writers = kernel.read().0.ok().expect("it was read").mark_writers.clone();
    assert_ne!(mark_writers.tested, 0, "{mark_writers:?}");
}

#[test]
fn a_passing_failure_of_the_search_is_not_remembered() {
    let rules = [
        ("post", vec![vec![mark_test(0x4000), masquerade()]]),
        ("pre", vec![vec![jump("x")]]),
        ("x", vec![vec![set_mark(0x1)]]),
    ];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    kernel.instead.insert("nft-7/rules/ipv4/nat/x", Reading::Failed(passing()));
    let seen = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!(seen.whole().mark_writers.given_up, 0x4000);
    assert_eq!(seen.whole().generation, None, "else it is never asked again");
    assert!(seen.memory.nftables.is_none());
}

#[test]
fn continue_goes_on_with_the_same_rule() {
    let table = "t".into();
    let mut reader = expressions::RuleReader::new(Family::Inet, &table);
    let go_on = Immediate { data: wired::Data::to(NFT_CONTINUE, None), ..Immediate::default() };
    reader.read(0, &go_on.into()).unwrap();
    assert_eq!(reader.steps, []);
}

/// What is too large or not understood stays so; it is not read at each reading.
#[test]
fn a_lasting_failure_is_remembered_and_a_passing_one_is_not() {
    let rules = [("post", vec![vec![verdict_map("m")]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("m", Devices::leading_to(&["a"]));
    let mut memory = Known::default();
    for (why, generation) in [(passing(), None), (Failure::too_large(4 << 20, "bytes"), Some(7))] {
        kernel.instead.insert("nft-7/map/ipv4/nat/m", Reading::Failed(why.clone()));
        let seen = kernel.observe(&memory, &RulesetInputs::default());
        assert_eq!(seen.whole().generation, generation);
        assert_eq!(seen.source(), (SourceState::Failed, why.to_string()));
        memory = seen.memory;
        assert_eq!(memory.nftables.is_some(), generation.is_some());
    }
    let again = kernel.observe(&memory, &RulesetInputs::default());
    assert_eq!(again.names, ["nft-generation-1"]);
    let why = Failure::too_large(4 << 20, "bytes").to_string();
    assert_eq!(again.source(), (SourceState::Failed, why), "and still said to be incomplete");
}

/// Elements that time out, or that packets add, do not change the generation.
#[test]
fn a_set_with_a_timeout_is_read_whole_at_each_reading_and_a_stable_one_once() {
    let rules = [("post", vec![vec![device_in("stable"), masquerade()], vec![device_in("leases"), masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("stable", Devices::new(0, [("eth0", Data::None)]));
    let leases = [("eth1", Data::None, Some(1000)), ("eth2", Data::None, Some(0)), ("eth3", Data::None, None)];
    kernel.sets.insert("leases", Devices { elements: leases.to_vec(), ..Devices::new(TIMEOUT, []) });
    let inputs = RulesetInputs::default();
    let first = kernel.observe(&Known::default(), &inputs);
    let sets = &first.whole().sets;
    assert_eq!((sets[&set_id("stable")].stable, sets[&set_id("leases")].stable), (true, false));
    assert_eq!(elements(&first, "stable"), Reading::Ok(devices(&["eth0"])));
    assert_eq!(elements(&first, "leases"), Reading::Ok(devices(&["eth1", "eth3"])), "one that has expired is none");
    assert_eq!(first.whole().generation, Some(7), "the rules themselves stand");
    let names = ["nft-7/set-0-header", "nft-7/set-0-elements", "nft-7/set-1-header", "nft-7/set-1-elements"];
    let asked = |name: &&String| name.contains("/set-");
    assert_eq!(first.names.iter().filter(asked).collect::<Vec<_>>(), names);

    kernel.sets.get_mut("leases").unwrap().elements = vec![("eth7", Data::None, Some(1000))];
    kernel.sets.get_mut("stable").unwrap().elements.clear(); // nobody may see that at this generation
    let mut memory = first.memory;
    for _ in 0..2 {
        let next = kernel.observe(&memory, &inputs);
        let expected = ["nft-generation-1", "nft-7/set-1-header", "nft-7/set-1-elements", "nft-generation-2"];
        assert_eq!(next.names, expected);
        assert_eq!(elements(&next, "leases"), Reading::Ok(devices(&["eth7"])));
        assert_eq!(elements(&next, "stable"), Reading::Ok(devices(&["eth0"])));
        memory = next.memory;
    }
    kernel.generations = vec![8];
    assert_eq!(elements(&kernel.observe(&memory, &inputs), "stable"), Reading::Ok(Vec::new()));
}

/// The number of values to look up does not depend on the rules, so their generation says nothing about it.
#[test]
fn that_sets_were_asked_about_too_few_values_is_not_remembered() {
    let rules = [("post", vec![vec![device_in("s"), masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("s", Devices::new(0, []));
    kernel.instead.insert("-elements", Reading::Failed(Failure::too_large(64 << 10, "bytes")));
    let mut inputs = RulesetInputs::default();
    inputs.values.devices = vec![(2, "eth0".into())];
    inputs.values.cut = true;
    let first = kernel.observe(&Known::default(), &inputs);
    assert_eq!((first.whole().generation, first.source().0), (Some(7), SourceState::Failed));
    inputs.values.cut = false;
    let second = kernel.observe(&first.memory, &inputs);
    assert_eq!(second.names, ["nft-generation-1"], "what the set holds is known");
    assert_eq!(second.source(), (SourceState::Ok, String::new()));
}

/// Single marks are not looked up, so nothing is known of the set without its elements.
#[test]
fn a_set_that_failed_is_asked_again_at_each_reading() {
    let rules = [("post", vec![vec![load_meta(3), mark_in("marks"), masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("marks", Devices { key_length: 4, ..Devices::new(0, []) });
    kernel.instead.insert("-elements", Reading::Failed(Failure::unexpected("nonsense")));
    let first = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!(first.source(), (SourceState::Failed, "nonsense".to_owned()));
    let second = kernel.observe(&first.memory, &RulesetInputs::default());
    assert_eq!(second.source(), first.source());
    assert_eq!(second.names, first.names);
}

#[test]
fn a_set_that_rules_fill_is_read_at_each_reading() {
    let fill = vec![Dynset { set_name: "seen".into(), sreg_key: 1, ..Dynset::default() }.into()];
    let rules = [("post", vec![vec![device_in("seen"), masquerade()], vec![fill]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("seen", Devices::new(0, []));
    let first = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!(elements(&first, "seen"), Reading::Ok(Vec::new()));
    kernel.sets.insert("seen", Devices::new(0, [("eth0", Data::None)]));
    let second = kernel.observe(&first.memory, &RulesetInputs::default());
    assert_eq!(elements(&second, "seen"), Reading::Ok(devices(&["eth0"])));
    assert_eq!(second.names, ["nft-generation-1", "nft-7/set-0-header", "nft-7/set-0-elements", "nft-generation-2"]);
}

/// Packets without an element do not pass, so the keys decide; the data is not evaluated.
#[test]
fn the_keys_of_a_data_map_are_read() {
    let rules = [("post", vec![vec![mark_from("marks"), masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    kernel.sets.insert("marks", Devices::new(MAP, [("eth0", Data::Mark(1)), ("eth1", Data::Mark(2))]));
    let seen = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert_eq!(seen.source(), (SourceState::Ok, String::new()));
    assert_eq!(elements(&seen, "marks"), Reading::Ok(devices(&["eth0", "eth1"])));
    assert_eq!(seen.whole().sets[&set_id("marks")].verdicts, []);
    let lookup = Match::Set { fields: vec![Field::OutputName], set: set_id("marks"), inverted: false };
    assert!(seen.whole().chains[&id("post")].known_rules()[0].steps.contains(&Step::Match(lookup)));
}

/// A lookup of the key that was loaded before.
fn mark_in(set: &str) -> Expression {
    look_up(set, None)
}

fn elements(seen: &Seen, set: &str) -> Reading<Vec<Element>> {
    seen.whole().sets[&set_id(set)].elements.clone()
}

/// Elements that are device names.
fn devices(names: &[&str]) -> Vec<Element> {
    let key = |name: &&str| name_key(name).map(|key| vec![(key, key)]);
    names.iter().map(|name| key(name).expect("a name of a device")).collect()
}

#[test]
fn names_that_are_not_utf8_are_read_like_any_other() {
    let (table, base, chain) = (b"t\xff\\", b"post\xfd", b"c\n\xfe");
    let rule = |chain: &[u8], steps: Expression| done([message(NFPROTO_IPV4, 7, rule(&table[..], chain, &[steps]))]);
    let mut bodies = BTreeMap::new();
    let mut generations = Kernel { generations: vec![7], ..Kernel::default() };
    let seen = observe_at(&Known::default(), &RulesetInputs::default(), |request| {
        let name = request.name.strip_prefix("netlink/netfilter/").unwrap();
        let raw = |kind| asked(request).get(kind).map(<[u8]>::to_vec);
        bodies.insert(name.to_owned(), (raw(1), raw(2)));
        match name {
            "nft-7/tables" => {
                done([message(NFPROTO_IPV4, 7, WireTable { name: table[..].into(), ..WireTable::default() })])
            }
            "nft-7/chains-ipv4" => {
                done([message(NFPROTO_IPV4, 7, base_chain(&table[..], &base[..], POSTROUTING, "nat", 1))])
            }
            "nft-7/rules/ipv4/t%ff%5c/post%fd" => rule(base, jump(&chain[..])),
            "nft-7/rules/ipv4/t%ff%5c/c%0a%fe" => rule(chain, masquerade()),
            _ => generations.answer(request),
        }
    });
    assert_eq!(seen.source(), (SourceState::Ok, String::new()));
    let whole = seen.whole();
    let shown: Vec<_> = whole.chains.keys().map(|id| (id.table.as_str(), id.chain.as_str())).collect();
    assert_eq!(shown, [(r"t\xff\x5c", r"c\x0a\xfe"), (r"t\xff\x5c", r"post\xfd")]);
    assert!(whole.chains.values().all(|chain| chain.known_rules().len() == 1));
    let listed = whole.base_chains.at(Family::Ipv4, Hook::Postrouting).map(<[ChainId]>::to_vec);
    let id = whole.chains.keys().nth(1).unwrap().clone();
    assert_eq!(listed, Reading::Ok(vec![id]));
    let ended = |bytes: &[u8]| Some([bytes, &[0]].concat());
    assert_eq!(bodies["nft-7/rules/ipv4/t%ff%5c/post%fd"], (ended(table), ended(base)));
    assert_eq!(bodies["nft-7/rules/ipv4/t%ff%5c/c%0a%fe"], (ended(table), ended(chain)));
}

type AttributeList = ((Family, Hook), Reading<Vec<ChainId>>);

/// The attributes of every list of base chains, by family and hook.
fn lists(ruleset: &Ruleset) -> Vec<AttributeList> {
    let all = Family::ALL.iter().flat_map(|family| Hook::ALL.iter().map(move |hook| (*family, *hook)));
    all.map(|(family, hook)| ((family, hook), ruleset.base_chains.at(family, hook).map(<[ChainId]>::to_vec))).collect()
}

#[test]
fn a_base_chain_of_an_unknown_type_loses_the_list_of_its_hook() {
    let bases =
        [("post", POSTROUTING, true), ("odd", PREROUTING, true), ("pre", PREROUTING, true), ("f", FORWARD, false)];
    let mut kernel = Kernel::new(&bases, &[("post", vec![vec![mark_test(0x4000), masquerade()]])]);
    kernel.types.insert("odd", "fancy");
    let first = kernel.observe(&Known::default(), &RulesetInputs::default());
    let why = "chain odd of table ipv4 nat has type fancy, which is unknown";
    for ((family, hook), list) in lists(first.whole()) {
        match (family, hook) {
            (Family::Ipv4, Hook::Prerouting) => assert_eq!(list.failure(), Some(&Failure::unsupported(why))),
            (Family::Ipv4, Hook::Postrouting) => assert_eq!(list, Reading::Ok(vec![id("post")])),
            (Family::Ipv4, Hook::Forward) => assert_eq!(list, Reading::Ok(vec![id("f")])),
            _ => assert_eq!(list, Reading::Ok(Vec::new()), "{family} {hook}"),
        }
    }
    assert_eq!(first.source(), (SourceState::Failed, why.to_owned()));
    assert_eq!(chain_names(first.whole()), ["f", "post", "pre"], "the others are read all the same");
    let mark_writers = &first.whole().mark_writers;
    assert_eq!((mark_writers.given_up, mark_writers.none), (0x4000, 0), "the rules of that chain may set the bit");
    assert!(
        mark_writers.why.contains("the base chains on prerouting") && mark_writers.why.contains(why),
        "{}",
        mark_writers.why
    );
    // The failure stays, and is reported at each reading.
    let second = kernel.observe(&first.memory, &RulesetInputs::default());
    assert_eq!((second.source(), second.whole()), (first.source(), first.whole()));
    assert_eq!(second.names, ["nft-generation-1"]);
}

#[test]
fn a_list_that_could_not_be_read_is_lost_and_not_empty() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![vec![masquerade()]])]);
    for (what, lost) in [("/tables", Family::ALL), ("/chains-ipv4", slice::from_ref(&Family::Ipv4))] {
        for answer in [Reading::Failed(passing()), Reading::Denied("CAP_NET_ADMIN is missing".into()), errno(12)] {
            let state = if matches!(answer, Reading::Denied(_)) { SourceState::Denied } else { SourceState::Failed };
            kernel.instead = [(what, answer.clone())].into();
            let seen = kernel.observe(&Known::default(), &RulesetInputs::default());
            for ((family, hook), list) in lists(seen.whole()) {
                let expected = if lost.contains(&family) { state } else { SourceState::Ok };
                assert_eq!(list.state(), expected, "{what}: {family} {hook}");
                assert_eq!(list.why().is_empty(), expected == SourceState::Ok);
            }
            assert!(seen.whole().chains.is_empty());
            assert_eq!((seen.source().0, seen.whole().generation), (state, None), "it is asked again");
            assert!(seen.memory.nftables.is_none());
        }
    }
    kernel.instead.clear();
    let seen = kernel.observe(&Known::default(), &RulesetInputs::default());
    assert!(lists(seen.whole()).iter().all(|(_, list)| list.ok().is_some()));
}
