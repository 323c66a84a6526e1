//! Responses that end too early, one at a time, yield nothing, not even the part that was received.

use super::kernel::OUTPUT;
use super::*;
use crate::read::services;

/// A kernel, other inputs of a reading, and what an earlier reading left.
type Scene = (Kernel, RulesetInputs, Known);

fn kernel() -> Kernel {
    let rules = [
        ("post", vec![vec![jump("KUBE-POSTROUTING")], vec![verdict_map("m")], vec![device_in("s"), masquerade()]]),
        ("KUBE-POSTROUTING", vec![vec![mark_test(0x4000), counter(3), masquerade()]]),
        ("KUBE-MARK-MASQ", vec![vec![set_mark(0x4000)]]),
        ("a", vec![vec![value_from("d")]]),
        ("b", vec![]),
        ("pre", vec![vec![jump("services")]]),
        ("services", vec![vec![verdict_map("m")], vec![jump("KUBE-MARK-MASQ")]]),
        ("out", vec![vec![jump("services")], vec![jump("a")]]),
        ("forward", vec![vec![jump("a")], vec![device_in("t")]]),
    ];
    let bases =
        [("post", POSTROUTING, true), ("pre", PREROUTING, true), ("out", OUTPUT, true), ("forward", FORWARD, false)];
    let mut kernel = Kernel::new(&bases, &rules);
    kernel.users.insert("KUBE-MARK-MASQ", 1);
    kernel.sets.insert("m", Devices::leading_to(&["a", "b"]));
    kernel.sets.insert("s", Devices::new(0, [("eth0", Data::None), ("eth1", Data::None)]));
    kernel.sets.insert("t", Devices::new(TIMEOUT, [("eth2", Data::None), ("eth3", Data::None)]));
    kernel.sets.insert("d", Devices::new(MAP, [("eth4", Data::Mark(1)), ("eth5", Data::Mark(2))]));
    kernel
}

fn scenes() -> Vec<Scene> {
    let inputs = |drops_clashes| RulesetInputs { drops_clashes, ..RulesetInputs::default() };
    let first = kernel().observe(&Known::default(), &inputs(false)).memory;
    assert!(first.nftables.is_some());
    let mut large = kernel();
    large.instead.insert("/rules/ipv4/nat/out", Reading::Failed(Failure::too_large(4 << 20, "bytes")));
    let mut untracked = Kernel::new(&[("forward", FORWARD, false)], &[("forward", vec![vec![device_in("s")]])]);
    untracked.sets = kernel().sets;
    untracked.rules.insert("idle", vec![vec![device_in("s")], vec![mark_test(1)]]);
    let mut without_writer = kernel();
    without_writer.rules.insert("KUBE-MARK-MASQ", vec![vec![set_mark(1)]]);
    vec![
        (kernel(), inputs(false), Known::default()),
        (without_writer, inputs(false), Known::default()),
        (kernel(), inputs(true), Known::default()),
        (kernel(), inputs(false), first),
        (large, inputs(true), Known::default()),
        (untracked, inputs(false), Known::default()),
    ]
}

#[test]
fn whatever_is_cut_nothing_is_built_of_the_rest() {
    let (mut cut, mut unset) = (BTreeSet::new(), 0);
    for (kernel, inputs, memory) in scenes() {
        let baseline = kernel.clone().observe(&memory, &inputs);
        assert_eq!((baseline.source(), baseline.whole().generation), ((SourceState::Ok, String::new()), Some(7)));
        unset |= baseline.whole().mark_writers.none;
        let truth = truth(&kernel);
        for name in &baseline.names {
            let mut whole = Reading::Absent("it was not asked".into());
            let mut played = kernel.clone();
            observe_at(&memory, &inputs, |request| {
                let answer = played.answer(request);
                if request.name.ends_with(name) {
                    whole = answer.clone();
                }
                answer
            });
            let Reading::Ok(whole) = whole else {
                assert!(kernel.instead.keys().any(|end| name.ends_with(&end[1..])), "{name}");
                continue;
            };
            cut.insert(kind(name));
            for at in cuts(&whole) {
                let mut played = kernel.clone();
                let seen = observe_at(&memory, &inputs, |request| match played.answer(request) {
                    Reading::Ok(bytes) if request.name.ends_with(name) => Reading::Ok(bytes[..at].to_vec()),
                    other => other,
                });
                let what = format!("{name} cut at {at} of {}", whole.len());
                check(&seen, &baseline, &kernel, &truth, &what);
            }
        }
    }
    assert_eq!(unset, 0x4000, "a bit that no rule sets is one that was searched for everywhere");
    let every = "chain chains-ipv4 counters elements generation header map rules table-rules tables";
    assert_eq!(cut.into_iter().collect::<Vec<_>>().join(" "), every);
}

/// The request's kind, without names.
fn kind(name: &str) -> String {
    match name.split('/').nth(1) {
        None => "generation".into(),
        Some(set) if set.starts_with("set-") => set.rsplit('-').next().unwrap().into(),
        Some(what) => what.into(),
    }
}

/// Places to cut a response: before each message, and inside each one's header, attributes and last byte.
fn cuts(answer: &[u8]) -> Vec<usize> {
    let (mut rest, mut all) = (answer, Vec::new());
    while !rest.is_empty() {
        let start = answer.len() - rest.len();
        let (first, next) = crate::netfilter::netlink::split_message(rest).unwrap();
        all.extend([0, 1, 18, first.len() / 2, first.len() - 1].map(|at| start + at));
        rest = next;
    }
    all.dedup();
    all
}

/// All rules of all chains, verdict maps resolved.
fn truth(kernel: &Kernel) -> BTreeMap<ChainId, Arc<Vec<Rule>>> {
    let inputs = RulesetInputs::default();
    let mut kernel = kernel.clone();
    kernel.instead.clear();
    let chains: Vec<ChainId> = kernel.rules.keys().map(|chain| id(chain)).collect();
    let read = |node: &mut Node<'_>| {
        let mut reader = RulesetReader::new(node, 7, &inputs);
        let mut rules = |id: &ChainId| reader.rules(&wire::rules(7, id), id).ok().expect("it is whole").clone();
        chains.iter().map(|id| (id.clone(), rules(id))).collect()
    };
    played(|request| kernel.answer(request), read).0
}

fn check(seen: &Seen, baseline: &Seen, kernel: &Kernel, truth: &BTreeMap<ChainId, Arc<Vec<Rule>>>, what: &str) {
    let Reading::Ok(found) = &seen.ruleset else {
        assert_eq!(seen.source().0, SourceState::Failed, "{what}");
        return;
    };
    let whole = baseline.whole();
    if **found == *whole {
        return; // it was not needed after all
    }
    for ((at, list), (_, expected)) in lists(found).into_iter().zip(lists(whole)) {
        assert!(list == expected || list.failure().is_some(), "{what}: {at:?} {list:?}");
    }
    for (id, chain) in &found.chains {
        let all = &truth[id];
        if let Reading::Ok(rules) = &chain.rules {
            assert!(are_same(rules, all), "{what}: {id:?} {rules:#?}");
        }
        if let Some(rules) = &chain.udp_rules {
            assert!(
                are_same(rules, &all.iter().filter(|rule| services::meets_udp(rule)).cloned().collect::<Vec<_>>()),
                "{what}: {id:?} {rules:#?}"
            );
        }
    }
    for (id, set) in &found.sets {
        let SetId::Nftables { set: name, .. } = id else { panic!("{id:?}") };
        let elements: Vec<&str> = kernel.sets[name.as_str()].elements.iter().map(|(name, ..)| *name).collect();
        match &set.elements {
            Reading::Ok(found) => assert_eq!(*found, devices(&elements), "{what}: {id:?}"),
            other => assert!(other.failure().is_some() && set.verdicts.is_empty(), "{what}: {other:?}"),
        }
    }
    let mark_writers = &found.mark_writers;
    let set_by = mark_writers.found.keys().fold(0, |all, bit| all | bit);
    assert_eq!(
        mark_writers.tested & !(set_by | mark_writers.given_up | mark_writers.none),
        0,
        "{what}: {mark_writers:?}"
    );
    assert_eq!(mark_writers.none & !whole.mark_writers.none, 0, "{what}: {mark_writers:?}");
    assert!(found.tracks.is_superset(&whole.tracks), "{what}");
    // Only a search may fail without being reported: the bit is possible then, and connections are tracked.
    if seen.source().0 == SourceState::Ok {
        assert_eq!(lists(found), lists(whole), "{what}");
        let read_whole = |ruleset: &Ruleset| -> BTreeMap<ChainId, Chain> {
            let post = ruleset.reachable(ChainKind::Nat, &[Hook::Postrouting]);
            let other = ruleset.reachable(ChainKind::Filter, Hook::ALL);
            post.into_iter().chain(other).map(|(id, chain)| (id.clone(), chain.clone())).collect()
        };
        assert_eq!(read_whole(found), read_whole(whole), "{what}");
        let gave_up = !mark_writers.why.is_empty() || found.tracks != whole.tracks;
        let is_new = |id: &ChainId, rules: &Reading<Arc<Vec<Rule>>>| {
            whole.chains.get(id).is_none_or(|known| known.rules != *rules)
        };
        let unread = found.chains.iter().any(|(id, chain)| chain.rules.ok().is_none() && is_new(id, &chain.rules));
        assert!(gave_up || unread, "{what}: {found:#?}");
    }
}

/// Whether rules are equal except for verdicts of maps that were not read.
fn are_same(found: &[Rule], truth: &[Rule]) -> bool {
    let blank = |step: &Step, other: &Step| match (step, other) {
        (Step::Verdict(Verdict::Map { verdicts, .. }), Step::Verdict(Verdict::Map { fields, set, .. })) => {
            let (fields, set) = (fields.clone(), set.clone());
            match verdicts {
                Reading::Ok(_) => other.clone(),
                unread => Step::Verdict(Verdict::Map { fields, set, verdicts: unread.clone() }),
            }
        }
        _ => other.clone(),
    };
    let is_same = |(found, truth): (&Rule, &Rule)| {
        let steps = found.steps.iter().zip(&truth.steps).map(|(found, truth)| blank(found, truth)).collect();
        found.steps.len() == truth.steps.len() && *found == Rule { steps, ..truth.clone() }
    };
    found.len() == truth.len() && found.iter().zip(truth).all(is_same)
}
