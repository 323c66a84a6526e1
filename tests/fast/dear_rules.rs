//! Rule sets that are expensive to judge: a judgement is bounded, and stops soon when told to.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use natwatch::inside::advisory::{Catalogue, State};
use natwatch::inside::capture::archive;
use natwatch::inside::facts::netfilter::{
    Base, Chain, ChainId, ChainKind, Chosen, Comparison, Family, Field, FieldTest, Hook, MarkWrite, Match, Nat,
    NatAction, PortRandomization, Rule, Ruleset, Set, SetId, Step, Verdict,
};
use natwatch::inside::facts::{Collector, Facts, Reading};
use natwatch::inside::judge::{self, Report};
use natwatch::inside::read::{self, Collectors};

fn id(chain: &str) -> ChainId {
    ChainId { family: Family::Ipv4, table: "t".into(), chain: chain.into() }
}

fn test(field: Field, mask: u32, value: u32) -> Step {
    let condition = Comparison::Masked { mask: mask.into(), value: value.into() };
    Step::Match(Match::Tests { tests: vec![FieldTest { field, condition }], inverted: false })
}

fn from(number: u32) -> Step {
    test(Field::Ipv4Source, u32::MAX, u32::from(Ipv4Addr::new(10, 42, 0, 0)) | number)
}

fn protocol(number: u32) -> Step {
    test(Field::L4Proto, 0xff, number)
}

fn port(number: u32) -> Step {
    test(Field::DestinationPort, 0xffff, number)
}

fn write(keep: u32, xor: u32) -> Step {
    Step::SetMark(MarkWrite::Exact { keep, take: 0, xor })
}

fn masquerade() -> Step {
    let (action, randomization) = (NatAction::Masquerade, PortRandomization::RandomFully);
    Step::Nat(Nat {
        action,
        addresses: Chosen::Unset,
        ports: Chosen::Unset,
        randomization,
        persistent: false,
        map: None,
    })
}

#[derive(Default)]
struct Dear(Ruleset);

impl Dear {
    fn chain(mut self, name: &str, base: Option<(ChainKind, Hook, i32)>, rules: Vec<Vec<Step>>) -> Self {
        let rules = rules.into_iter().zip(1..).map(|(steps, position)| Rule {
            position,
            comment: String::new(),
            steps,
            counter: None,
            from_xtables: false,
            fingerprint: 0,
        });
        let base = base.map(|(kind, hook, priority)| Base { hook, kind, priority, drops: false, devices: Vec::new() });
        if let Some(base) = &base {
            self.0.base_chains.add(base.hook, id(name));
        }
        let rules: Vec<Rule> = rules.collect();
        for (bit, rule) in rules.iter().flat_map(|rule| (0..32).map(move |shift| (1u32 << shift, rule))) {
            let sets = |step: &Step| matches!(step, Step::SetMark(write) if write.can_set() & bit != 0);
            if rule.steps.iter().any(sets) {
                self.0.mark_writers.found.entry(bit).or_insert_with(|| (id(name), rule.position));
            }
        }
        self.0.chains.insert(id(name), Chain::new(base, Reading::Ok(Arc::new(rules))));
        self
    }

    fn marking(self, rules: Vec<Vec<Step>>) -> Self {
        self.chain("O", Some((ChainKind::Filter, Hook::Postrouting, -150)), rules)
    }

    fn translating(self, mut tests: Vec<Step>) -> Self {
        tests.push(masquerade());
        self.chain("P", Some((ChainKind::Nat, Hook::Postrouting, 100)), vec![tests])
    }
}

/// Rule sets by name; `size` scales them.
fn dear(size: u32) -> Vec<(&'static str, Ruleset)> {
    let marked = || vec![test(Field::Mark, 0x4000, 0x4000)];
    let each = |rule: &dyn Fn(u32) -> Vec<Step>, count: u32| (0..count).map(rule).collect::<Vec<_>>();
    let opaque = || Step::Match(Match::Unsupported("a match that nobody knows".into()));
    let mut equal = Dear::default();
    for number in 0..12 {
        let name = format!("E{number}");
        let rule = vec![opaque(), test(Field::Mark, 1 << number, 0), write(u32::MAX, 1 << ((number + 1) % 12))];
        equal = equal.chain(&name, Some((ChainKind::Filter, Hook::Output, 0)), vec![rule; size as usize / 100]);
    }
    let set = SetId::Nftables { family: Family::Ipv4, table: "t".into(), set: "s".into() };
    let elements =
        (0..8 * size).map(|number| vec![(u128::from(0x0a2a_0000 + 2 * number), u128::from(0x0a2a_0000 + 2 * number))]);
    let elements = Set {
        name: "s".into(),
        kind: "4 bytes".into(),
        stable: true,
        members: Default::default(),
        elements: Reading::Ok(elements.collect()),
        verdicts: Vec::new(),
        data: Vec::new(),
        family: None,
        sets: Vec::new(),
    };
    let looked_up = Step::Match(Match::Set { fields: vec![Field::Ipv4Source], set: set.clone(), inverted: false });
    let mut sets = Dear::default().marking(each(&|number| vec![looked_up.clone(), write(0, number + 1)], size / 10));
    sets.0.sets.insert(set.clone(), elements.clone());
    let pairs = (0..size / 4).map(|number| {
        vec![(u128::from(0x0a2a_0000 + number), u128::from(0x0a2a_0000 + number)), (number.into(), number.into())]
    });
    let fields = vec![Field::Ipv4Source, Field::DestinationPort];
    let by_pair = Step::Match(Match::Set { fields, set: set.clone(), inverted: false });
    let mut pair_sets =
        Dear::default().marking(each(&|number| vec![by_pair.clone(), write(u32::MAX, 1 << (number % 31))], 64));
    pair_sets.0.sets.insert(set, Set { elements: Reading::Ok(pairs.collect()), ..elements });
    vec![
        (
            "addresses with marks of their own",
            Dear::default()
                .marking(each(&|number| vec![from(number), write(0, number + 1)], 4 * size))
                .translating(marked())
                .0,
        ),
        (
            "addresses with one mark",
            Dear::default()
                .marking(each(&|number| vec![from(number), write(u32::MAX, 0x1000)], 4 * size))
                .translating(marked())
                .0,
        ),
        (
            "ports that turn bits round",
            Dear::default()
                .marking(each(&|number| vec![protocol(6), port(number + 1), write(u32::MAX, 1 << (number % 24))], size))
                .translating(marked())
                .0,
        ),
        (
            "opaque matches with bits of their own",
            Dear::default()
                .marking(each(&|number| vec![opaque(), write(u32::MAX, 1 << (number % 31))], size))
                .translating(marked())
                .0,
        ),
        (
            "addresses and ports dropped",
            Dear::default()
                .chain(
                    "F",
                    Some((ChainKind::Filter, Hook::Forward, 0)),
                    each(
                        &|number| vec![from(number), protocol(6), port(number + 1), Step::Verdict(Verdict::Drop)],
                        4 * size,
                    ),
                )
                .translating(marked())
                .0,
        ),
        ("chains of one priority", equal.translating(marked()).0),
        ("a large set asked often", sets.translating(marked()).0),
        ("a set of pairs asked often", pair_sets.translating(marked()).0),
    ]
}

/// A recorded node with a tunnel, with other rules.
fn node(rules: &Ruleset) -> Facts {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes/flannel.txt");
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let mut facts = read::replay(&archive::load(&path).expect("a recorded node"), &collectors);
    facts.nftables = Reading::Ok(Arc::new(rules.clone()));
    facts
}

/// CPU time of this thread.
fn cpu_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("every kernel has it");
    Duration::from_nanos(text.split(' ').next().expect("a number").parse().expect("a number"))
}

fn judged(facts: &Facts, stop: &AtomicBool) -> Report {
    judge::judge(Catalogue::built_in(), facts, &judge::Options::default(), stop)
}

/// The report of a judgement that is stopped after this time, and how long it continued then.
fn stopped_after(facts: &Facts, after: Duration) -> (Report, Duration) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let judging = scope.spawn(|| (judged(facts, &stop), Instant::now()));
        std::thread::sleep(after);
        stop.store(true, Ordering::Relaxed);
        let stopped = Instant::now();
        let (report, ended) = judging.join().expect("no judgement panics");
        (report, ended.saturating_duration_since(stopped))
    })
}

fn states(report: &Report) -> String {
    let wanted = ["vxlan-double-snat-checksum", "snat-port-race", "tcp-invalid-reset", "snat-invalid-reset"];
    let findings = report.advisories.iter().filter(|finding| wanted.contains(&finding.id.as_str()));
    findings.map(|finding| format!("{}={}", finding.id, finding.state)).collect::<Vec<_>>().join(" ")
}

/// Every verdict is that of the whole judgement, or unknown.
fn promises_nothing(stopped: &Report, whole: &Report) {
    for (finding, known) in stopped.advisories.iter().zip(&whole.advisories) {
        let protected = (known.state, finding.state) == (State::NotAffected, State::Mitigated);
        let kept = finding.state == known.state || finding.state == State::Unknown || protected;
        assert!(kept, "{}: {} and then {}", finding.id, known.state, finding.state);
    }
}

#[test]
fn a_judgement_ends_soon_after_it_is_stopped() {
    for (name, rules) in dear(600) {
        let facts = node(&rules);
        let whole = judged(&facts, &AtomicBool::new(false));
        assert!(!whole.was_stopped);
        let (report, late) = stopped_after(&facts, Duration::from_millis(30));
        // Tests are built without optimization, and machines are busy.
        assert!(late < Duration::from_secs(1), "{name}: {late:?} after the stop");
        promises_nothing(&report, &whole);
        let (report, _) = stopped_after(&facts, Duration::ZERO);
        promises_nothing(&report, &whole);
    }
}

/// `cargo test --release --test fast dear_rules:: -- --ignored --nocapture`
#[test]
#[ignore = "prints what judging costs"]
fn what_judging_costs() {
    for (name, rules) in dear(2400) {
        let facts = node(&rules);
        let start = cpu_time();
        let report = judged(&facts, &AtomicBool::new(false));
        let whole = cpu_time() - start;
        let mut derived = judge::Derived::default();
        let mut again = || {
            let (go_on, start) = (AtomicBool::new(false), Instant::now());
            let options = judge::Options::default();
            let again = judge::judge_again(Catalogue::built_in(), &facts, &options, &go_on, &mut derived);
            let took = start.elapsed();
            assert_eq!(again, report);
            took
        };
        again();
        let mut unchanged: Vec<Duration> = (0..101).map(|_| again()).collect();
        unchanged.sort_unstable();
        let late = (1..12).map(|number| {
            let (stopped, late) = stopped_after(&facts, whole.min(Duration::from_secs(2)) * number / 12);
            promises_nothing(&stopped, &report);
            late
        });
        let mut late: Vec<Duration> = late.collect();
        late.sort_unstable();
        let (seconds, unchanged) = (whole.as_secs_f64(), unchanged[50]);
        println!(
            "{name}: {seconds:.2} s of CPU, again {unchanged:.1?}, {}; after a stop {:.1?}",
            states(&report),
            &late[6..]
        );
    }
}
