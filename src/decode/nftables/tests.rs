//! A rule set told by a fake kernel, message by message.

use std::collections::BTreeMap;

use super::*;
use crate::capture::{Answer, Question};
use crate::decode::test_capture;
use crate::snapshot::netfilter::MarkWrite;
use crate::wire::{put, put_nested};

const NEWTABLE: u16 = 0xa00;
const NEWCHAIN: u16 = 0xa03;
const NEWRULE: u16 = 0xa06;
const NEWSETELEM: u16 = 0xa0c;
const NEWGEN: u16 = 0xa0f;

fn frame(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(16 + body.len()).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

fn message(kind: u16, family: u8, generation: u32, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![family, 0];
    body.extend(u16::try_from(generation & 0xffff).unwrap().to_be_bytes());
    fill(&mut body);
    frame(kind, 2, &body)
}

fn text(out: &mut Vec<u8>, kind: u16, text: &str) {
    put(out, kind, &[text.as_bytes(), &[0]].concat());
}

fn be32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

fn done(messages: impl IntoIterator<Item = Vec<u8>>) -> Answer {
    let mut bytes = messages.into_iter().collect::<Vec<_>>().concat();
    bytes.extend(frame(crate::wire::NLMSG_DONE, 2, &0i32.to_ne_bytes()));
    Reading::Ok(bytes)
}

fn errno(errno: i32) -> Answer {
    Reading::Ok(frame(crate::wire::NLMSG_ERROR, 0, &(-errno).to_ne_bytes()))
}

type Expression = Vec<u8>;

fn expression(name: &str, fill: impl FnOnce(&mut Vec<u8>)) -> Expression {
    let mut out = Vec::new();
    put_nested(&mut out, 1, |element| {
        text(element, 1, name);
        put_nested(element, 2, fill);
    });
    out
}

fn jump(chain: &str) -> Expression {
    expression("immediate", |out| {
        be32(out, 1, 0);
        put_nested(out, 2, |data| {
            put_nested(data, 2, |verdict| {
                be32(verdict, 1, (-3i32).cast_unsigned());
                text(verdict, 2, chain);
            });
        });
    })
}

fn masquerade() -> Expression {
    expression("masq", |out| be32(out, 1, 0x10))
}

fn counter(packets: u64) -> Expression {
    expression("counter", |out| {
        put(out, 1, &(packets * 60).to_be_bytes());
        put(out, 2, &packets.to_be_bytes());
    })
}

/// `meta mark & bit != 0`
fn mark_test(bit: u32) -> Expression {
    let load = expression("meta", |out| {
        be32(out, 2, 3);
        be32(out, 1, 1);
    });
    let mask = expression("bitwise", |out| {
        be32(out, 1, 1);
        be32(out, 2, 1);
        put_nested(out, 4, |data| put(data, 1, &bit.to_ne_bytes()));
        put_nested(out, 5, |data| put(data, 1, &[0; 4]));
    });
    let compare = expression("cmp", |out| {
        be32(out, 1, 1);
        be32(out, 2, 1);
        put_nested(out, 3, |data| put(data, 1, &[0; 4]));
    });
    [load, mask, compare].concat()
}

/// `meta mark set VALUE`
fn set_mark(value: u32) -> Expression {
    let immediate = expression("immediate", |out| {
        be32(out, 1, 1);
        put_nested(out, 2, |data| put(data, 1, &value.to_ne_bytes()));
    });
    let write = expression("meta", |out| {
        be32(out, 2, 3);
        be32(out, 3, 1);
    });
    [immediate, write].concat()
}

/// A lookup of the output device in a verdict map.
fn verdict_map(set: &str) -> Expression {
    let load = expression("meta", |out| {
        be32(out, 2, 7);
        be32(out, 1, 1);
    });
    let lookup = expression("lookup", |out| {
        text(out, 1, set);
        be32(out, 2, 1);
        be32(out, 3, 0);
    });
    [load, lookup].concat()
}

/// One table `ip nat`.
#[derive(Clone, Default)]
struct Kernel {
    /// Answers to successive questions for the generation; the last one stays.
    generations: Vec<u32>,
    dormant: bool,
    /// Base chains: name, hook, whether of type nat.
    bases: Vec<(&'static str, u32, bool)>,
    /// Rules by chain.
    rules: BTreeMap<&'static str, Vec<Vec<Expression>>>,
    /// Users of a chain beyond its rules.
    users: BTreeMap<&'static str, u32>,
    /// Chains that a verdict map leads to.
    map: Vec<&'static str>,
    /// Answers whose messages belong to another generation, as often as this.
    torn: usize,
    /// Base chains count one rule more than they show.
    hidden: bool,
}

impl Kernel {
    fn new(bases: &[(&'static str, u32, bool)], rules: &[(&'static str, Vec<Vec<Expression>>)]) -> Self {
        let rules = rules.iter().cloned().collect();
        Self { generations: vec![7], bases: bases.to_vec(), rules, ..Self::default() }
    }

    fn answer(&mut self, name: &str) -> Answer {
        let what: Vec<&str> = name.strip_prefix("netlink/netfilter/").unwrap_or(name).split('/').collect();
        let now = self.generations[0];
        let chain = what.last().copied().unwrap_or_default();
        match what.as_slice() {
            [generation] if generation.starts_with("nft-generation-") => {
                let body = message(NEWGEN, 0, now, |out| be32(out, 1, now));
                if self.generations.len() > 1 {
                    self.generations.remove(0);
                }
                Reading::Ok(body)
            }
            [_, "tables"] => done([message(NEWTABLE, 2, now, |out| {
                text(out, 1, "nat");
                be32(out, 2, self.dormant.into());
            })]),
            [_, "chains-ipv4"] => done(self.bases.iter().map(|(chain, hook, nat)| {
                message(NEWCHAIN, 2, now, |out| {
                    text(out, 1, "nat");
                    text(out, 3, chain);
                    put_nested(out, 4, |at| {
                        be32(at, 1, *hook);
                        be32(at, 2, 100);
                    });
                    let users = self.rules.get(chain).map_or(0, Vec::len) + usize::from(self.hidden);
                    be32(out, 6, u32::try_from(users).unwrap());
                    text(out, 7, if *nat { "nat" } else { "filter" });
                })
            })),
            [_, "chain", ..] => match self.rules.get(chain) {
                Some(rules) => Reading::Ok(message(NEWCHAIN, 2, now, |out| {
                    let users = self.users.get(chain).copied().unwrap_or(0);
                    be32(out, 6, u32::try_from(rules.len()).unwrap() + users);
                })),
                None => errno(2),
            },
            [_, "rules" | "counters", ..] => {
                let generation = if self.torn > 0 { now.wrapping_sub(1) } else { now };
                self.torn = self.torn.saturating_sub(1);
                done(self.rules.get(chain).into_iter().flatten().map(|expressions| {
                    message(NEWRULE, 2, generation, |out| {
                        text(out, 1, "nat");
                        text(out, 2, chain);
                        put_nested(out, 4, |list| list.extend(expressions.concat()));
                    })
                }))
            }
            [_, "map", ..] => done([message(NEWSETELEM, 2, now, |out| {
                put_nested(out, 3, |list| {
                    for chain in &self.map {
                        put_nested(list, 1, |element| {
                            put_nested(element, 2, |data| {
                                put_nested(data, 2, |verdict| {
                                    be32(verdict, 1, (-3i32).cast_unsigned());
                                    text(verdict, 2, chain);
                                });
                            });
                        });
                    }
                });
            })]),
            _ => Reading::Absent(format!("{name} is not there")),
        }
    }

    /// Everything that is asked, with its answers.
    fn converse(&mut self, last: Option<&Arc<Ruleset>>) -> Capture {
        let mut capture = test_capture();
        capture.last_rules = last.cloned();
        capture.answers.insert("procfs/version".into(), Reading::Ok(b"Linux version 6.18.0\n".to_vec()));
        for _ in 0..100 {
            let new: Vec<Request> =
                requests(&capture, false).into_iter().filter(|request| !capture.has(request)).collect();
            if new.is_empty() {
                return capture;
            }
            for request in new {
                let answer = match &request.question {
                    Question::Netlink(_) => self.answer(&request.name),
                    _ => Reading::Absent("no such file".into()),
                };
                capture.answers.insert(request.name, answer);
            }
        }
        panic!("the planner asks for ever: {:?}", capture.answers.keys());
    }

    fn read(&mut self) -> (Reading<Arc<Ruleset>>, Vec<String>) {
        let capture = self.converse(None);
        (decode(&capture, false, &mut Problems::default()), names(&capture))
    }
}

fn names(capture: &Capture) -> Vec<String> {
    let names = capture.answers.keys().filter_map(|name| name.strip_prefix("netlink/netfilter/"));
    names.map(str::to_owned).collect()
}

fn chain_names(ruleset: &Ruleset) -> Vec<&str> {
    ruleset.chains.keys().map(|id| id.chain.as_str()).collect()
}

const POSTROUTING: u32 = 4;
const PREROUTING: u32 = 0;

#[test]
fn chains_that_nothing_leads_to_are_not_read() {
    let post = vec![vec![jump("a")], vec![verdict_map("m")]];
    let mut kernel = Kernel::new(
        &[("post", POSTROUTING, true)],
        &[("post", post), ("a", vec![vec![masquerade()]]), ("b", vec![vec![jump("a")]]), ("lonely", vec![])],
    );
    kernel.map = vec!["b"];
    let (ruleset, names) = kernel.read();
    let ruleset = ruleset.ok().expect("it was read").clone();
    assert_eq!(chain_names(&ruleset), ["a", "b", "post"]);
    assert_eq!(ruleset.generation, Some(7));
    assert!(names.contains(&"nft-7/map/ipv4/nat/m".to_owned()), "{names:?}");
    assert!(!names.iter().any(|name| name.contains("lonely")), "{names:?}");
    assert_eq!(names.iter().filter(|name| name.contains("generation")).count(), 2);
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
    assert_eq!(names, ["nft-7/tables", "nft-generation-1", "nft-generation-2"]);
}

/// Measured while tables of one name replaced each other: 5 of 776,387 listings were empty, and the generation the same.
#[test]
fn a_base_chain_whose_rules_are_not_shown_was_being_replaced() {
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &[("post", vec![])]);
    assert!(kernel.read().0.ok().is_some(), "a chain without rules is one");
    kernel.hidden = true;
    assert!(changed(&kernel.read().0));
    // Rules that a transaction is about to add count already.
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
    kernel.generations = vec![7];
    kernel.torn = 1;
    let (ruleset, _) = kernel.read();
    assert!(changed(&ruleset), "the same generation, but of other messages: {ruleset:?}");
    kernel.torn = 0;
    kernel.generations = (7..100).collect();
    let (ruleset, names) = kernel.read();
    assert_eq!(ruleset.why(), "the rules: it changed 8 times in a row while it was read");
    assert_eq!(names.iter().filter(|name| name.contains("generation")).count(), 9);
}

#[test]
fn while_a_generation_stands_only_counters_are_read_again() {
    let rules = vec![vec![counter(3), masquerade()], vec![verdict_map("m")]];
    let counted = [("post", vec![vec![jump("a")]]), ("a", rules), ("b", vec![])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &counted);
    kernel.map = vec!["b"];
    let capture = kernel.converse(None);
    let first = decode(&capture, false, &mut Problems::default()).ok().expect("it was read").clone();
    kernel.rules.insert("a", vec![vec![counter(5), masquerade()], vec![verdict_map("m")]]);
    let capture = kernel.converse(Some(&first));
    assert_eq!(names(&capture), ["nft-7/counters/ipv4/nat/a", "nft-generation-1", "nft-generation-2"]);
    let second = decode(&capture, false, &mut Problems::default()).ok().expect("it was read").clone();
    let packets = |ruleset: &Ruleset| {
        let rules = ruleset.chains.values().flat_map(Chain::known_rules);
        rules.filter_map(|rule| rule.counter.map(|counter| counter.packets)).sum::<u64>()
    };
    assert_eq!((packets(&first), packets(&second)), (3, 5));
    assert_eq!(chain_names(&second), ["a", "b", "post"], "what the map leads to is known");
    let fingerprints = |ruleset: &Ruleset| -> Vec<u64> {
        ruleset.chains.values().flat_map(Chain::known_rules).map(|rule| rule.fingerprint).collect()
    };
    assert_eq!(fingerprints(&first), fingerprints(&second));
    kernel.rules.insert("a", vec![vec![masquerade()]]);
    let uncounted = kernel.read().0.ok().expect("it was read").clone();
    assert_eq!(names(&kernel.converse(Some(&uncounted))), ["nft-generation-1"]);
    kernel.generations = vec![8];
    assert!(names(&kernel.converse(Some(&uncounted))).contains(&"nft-8/tables".to_owned()));
}

#[test]
fn a_kernel_without_nf_tables_is_a_fact_and_a_refusal_is_not() {
    let mut capture = test_capture();
    capture.answers.insert("procfs/version".into(), Reading::Ok(b"Linux version 6.18.0\n".to_vec()));
    for request in requests(&capture, false) {
        capture.answers.insert(request.name, Reading::Absent("no such file".into()));
    }
    for (answer, state) in [
        (errno(22), "Absent"),
        (errno(105), "Failed"),
        (Reading::Denied("CAP_NET_ADMIN is missing".into()), "Denied"),
        (Reading::Ok(Vec::new()), "Failed"),
        (Reading::Ok(vec![1; 40]), "Failed"),
    ] {
        capture.answers.insert(wire::generation(1).name, answer);
        let found = decode(&capture, false, &mut Problems::default());
        assert!(format!("{found:?}").starts_with(state), "{found:?}");
    }
}

#[test]
fn the_well_known_setter_of_a_bit_is_enough_if_anything_leads_to_it() {
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
    assert_eq!(ruleset.setters.found[&0x4000].0.chain, "KUBE-MARK-MASQ");
    assert!(!names.iter().any(|name| name.ends_with("/pre") || name.ends_with("/services")), "{names:?}");
    let pre = ruleset.chains.iter().find(|(id, _)| id.chain == "pre").expect("a base chain").1;
    assert!(pre.base.is_some() && pre.rules.why().contains("only searched"));

    // Nothing leads to it: it proves nothing, and everything is searched.
    kernel.users.clear();
    kernel.rules.insert("services", vec![vec![set_mark(0x1)]]);
    let (ruleset, names) = kernel.read();
    let setters = ruleset.ok().expect("it was read").setters.clone();
    assert_eq!((setters.tested, setters.none, setters.given_up), (0x4000, 0x4000, 0), "{setters:?}");
    assert!(names.iter().any(|name| name.ends_with("rules/ipv4/nat/services")), "{names:?}");

    kernel.rules.insert("services", vec![vec![set_mark(0x1)], vec![set_mark(0xc000)]]);
    let setters = kernel.read().0.ok().expect("it was read").setters.clone();
    assert_eq!(setters.found[&0x4000], (id("services"), 2));
}

fn id(chain: &str) -> ChainId {
    ChainId { family: Family::Ipv4, table: "nat".into(), chain: chain.into() }
}

#[test]
fn a_search_that_is_given_up_leaves_the_bit_possible() {
    let many: Vec<Vec<Expression>> = (0..600).map(|_| vec![jump("x")]).collect();
    let mut rules = vec![("post", vec![vec![mark_test(2), masquerade()]]), ("pre", many)];
    // Each jump leads to another chain.
    let names: Vec<&'static str> = (0..600).map(|n| &*format!("chain-{n}").leak()).collect();
    rules[1].1 = names.iter().map(|name| vec![jump(name)]).collect();
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let (ruleset, asked) = kernel.read();
    let setters = ruleset.ok().expect("it was read").setters.clone();
    assert_eq!((setters.given_up, setters.none), (2, 0));
    assert!(setters.why.contains("more than 512 chains"), "{}", setters.why);
    assert!(asked.len() < 600);
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
    let whole = Kernel::new(&[("post", POSTROUTING, true)], &rules).answer("x/rules/ipv4/nat/post");
    let whole = whole.ok().expect("an answer").clone();
    assert_eq!(wire::decode_rules(&whole, &id("post"), 7).ok().map(Vec::len), Some(2));
    for cut in 0..whole.len() {
        let found = wire::decode_rules(&whole[..cut], &id("post"), 7);
        assert!(matches!(found, Reading::Failed(_)), "cut at {cut}: {found:?}");
    }
    assert!(wire::decode_rules(&whole, &id("other"), 7).why().contains("another chain"));
    assert_eq!(wire::decode_rules(&whole, &id("post"), 8).failure(), Some(&Failure::Changed { readings: 1 }));
    proptest::proptest!(|(noise: Vec<u8>, at in 0..whole.len(), byte: u8)| {
        let mut damaged = whole.clone();
        damaged[at] = byte;
        for bytes in [&noise, &damaged] {
            let _ = wire::decode_rules(bytes, &id("post"), 7);
            let _ = wire::decode_tables(bytes);
            let _ = wire::decode_base_chains(bytes);
            let _ = wire::decode_generation(bytes);
            let _ = wire::decode_use(bytes);
        }
        for name in ["payload", "meta", "ct", "fib", "cmp", "range", "bitwise", "byteorder", "immediate", "lookup",
                     "match", "target", "masq", "nat", "redir", "counter", "objref", "exthdr", "hash", "what"] {
            let _ = expressions::Reader::new(Family::Inet, &"t".into()).read(name, &noise);
        }
    });
}

fn ct_mark_set(value: u32) -> Expression {
    let immediate = expression("immediate", |out| {
        be32(out, 1, 1);
        put_nested(out, 2, |data| put(data, 1, &value.to_ne_bytes()));
    });
    let write = expression("ct", |out| {
        be32(out, 2, 3);
        be32(out, 4, 1);
    });
    [immediate, write].concat()
}

#[test]
fn a_connection_mark_may_be_restored_so_setting_it_counts() {
    let rules = [("post", vec![[mark_test(0x4000), masquerade()].concat()]), ("pre", vec![ct_mark_set(0x4000)])]
        .map(|(name, rules)| (name, rules.into_iter().map(|rule| vec![rule]).collect::<Vec<_>>()));
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let setters = kernel.read().0.ok().expect("it was read").setters.clone();
    assert_eq!((setters.tested, setters.none), (0x4000, 0), "{setters:?}");
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
    let setters = kernel.read().0.ok().expect("it was read").setters.clone();
    assert_eq!((setters.tested, setters.none), (0x4000, 0), "{setters:?}");
}

#[test]
fn what_a_packet_has_to_be_for_an_expression_is_a_test_before_it() {
    let table = "nat".into();
    let mut reader = expressions::Reader::new(Family::Inet, &table);
    let mut data = Vec::new();
    be32(&mut data, 1, 0);
    be32(&mut data, 2, 2);
    be32(&mut data, 3, 1);
    reader.read("nat", &data).unwrap();
    assert!(matches!(reader.steps[0], Step::Match(_)), "{:?}", reader.steps);
    let table = "nat".into();
    let mut reader = expressions::Reader::new(Family::Inet, &table);
    let mut data = Vec::new();
    be32(&mut data, 2, 3);
    be32(&mut data, 1, 1);
    reader.read("ct", &data).unwrap();
    reader.read("flow_offload", &[]).unwrap();
    reader.read("synproxy", &[]).unwrap();
    assert_eq!(reader.steps.len(), 4, "{:?}", reader.steps);
}

#[test]
fn a_set_of_marks_tests_every_bit() {
    let load = expression("meta", |out| {
        be32(out, 2, 3);
        be32(out, 1, 1);
    });
    let lookup = expression("lookup", |out| {
        text(out, 1, "__set0");
        be32(out, 2, 1);
    });
    let rules = [("post", vec![vec![load, lookup, masquerade()]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let setters = kernel.read().0.ok().expect("it was read").setters.clone();
    assert_ne!(setters.tested, 0, "{setters:?}");
}

#[test]
fn a_passing_failure_of_the_search_is_not_remembered() {
    let rules = [
        ("post", vec![vec![mark_test(0x4000), masquerade()]]),
        ("pre", vec![vec![jump("x")]]),
        ("x", vec![vec![set_mark(0x1)]]),
    ];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true), ("pre", PREROUTING, true)], &rules);
    let mut capture = kernel.converse(None);
    let why = passing();
    capture.answers.insert("netlink/netfilter/nft-7/rules/ipv4/nat/x".into(), Reading::Failed(why.clone()));
    *capture.rules.lock().unwrap() = BTreeMap::new();
    let first = decode(&capture, false, &mut Problems::default()).ok().expect("it was read").clone();
    assert_eq!(first.setters.given_up, 0x4000);
    assert_eq!(first.generation, None, "else it is never asked again");
}

#[test]
fn continue_goes_on_with_the_same_rule() {
    let mut data = Vec::new();
    be32(&mut data, 1, 0);
    put_nested(&mut data, 2, |data| put_nested(data, 2, |verdict| be32(verdict, 1, u32::MAX)));
    let table = "t".into();
    let mut reader = expressions::Reader::new(Family::Inet, &table);
    reader.read("immediate", &data).unwrap();
    assert_eq!(reader.steps, []);
}

/// What is too large or not understood stays so; it is not read again and again.
#[test]
fn a_lasting_failure_is_remembered_and_a_passing_one_is_not() {
    let rules = [("post", vec![vec![verdict_map("m")]])];
    let mut kernel = Kernel::new(&[("post", POSTROUTING, true)], &rules);
    let mut capture = kernel.converse(None);
    let mut known = None;
    for (why, generation) in [(passing(), None), (Failure::too_large(4 << 20, "bytes"), Some(7))] {
        capture.answers.insert("netlink/netfilter/nft-7/map/ipv4/nat/m".into(), Reading::Failed(why.clone()));
        let found = decode(&capture, false, &mut Problems::default()).ok().expect("the rest was read").clone();
        assert_eq!((found.generation, found.incomplete.as_deref()), (generation, Some(why.to_string().as_str())));
        known = Some(found);
    }
    let again = kernel.converse(known.as_ref());
    assert_eq!(names(&again), ["nft-generation-1"]);
    let found = decode(&again, false, &mut Problems::default()).ok().expect("it is known").clone();
    assert!(found.incomplete.is_some(), "and still said to be incomplete");
}

fn changed<T>(reading: &Reading<T>) -> bool {
    reading.failure().is_some_and(|failure| matches!(failure.root(), Failure::Changed { .. }))
}

fn passing() -> Failure {
    Failure::SystemCall { call: "recv".into(), errno: 105 }
}
