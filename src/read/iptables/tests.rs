use std::sync::LazyLock;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::capture::Response;
use crate::capture::archive::testing::recorded_answer;
use crate::facts::netfilter::{Comparison, Counter, Field, FieldTest, Match, Rule, Verdict};
use crate::netfilter::xtables::IptGetEntries;
use crate::read::Known;
use crate::read::testing::played_after;

static NAT: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("nat-iptables-legacy", "xtables/ipv4-nat"));
static NAT6: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("nat-iptables-legacy", "xtables/ipv6-nat"));
/// `offsetof(struct ipt_get_entries, entrytable)`, behind the response to the info request
const ENTRIES: usize = IptGetinfo::SIZE + IptGetEntries::SIZE;

fn read(bytes: &[u8], family: Family) -> Result<Ruleset, Failure> {
    let mut ruleset = Ruleset::default();
    let table = XtTable::new(bytes, XtFamily::of(family.nfproto()), "nat")?;
    add(&mut ruleset, &table, "nat", services::MAX_RULES)?;
    Ok(ruleset)
}

fn chain<'a>(ruleset: &'a Ruleset, family: Family, name: &str) -> &'a Chain {
    &ruleset.chains[&ChainId { family, table: "nat".into(), chain: name.into() }]
}

fn masked(field: Field, mask: u128, value: u128, inverted: bool) -> Step {
    let tests = vec![FieldTest { field, condition: Comparison::Masked { mask, value } }];
    Step::Match(Match::Tests { tests, inverted })
}

fn verdict(rule: &Rule) -> Option<&Verdict> {
    rule.steps.iter().find_map(|step| match step {
        Step::Verdict(verdict) => Some(verdict),
        _ => None,
    })
}

#[test]
fn a_table_of_this_kernel_is_read() {
    let ruleset = read(*NAT, Family::Ipv4).unwrap();
    let base = |name: &str| chain(&ruleset, Family::Ipv4, name).base.clone().unwrap();
    let expected = [
        ("PREROUTING", Hook::Prerouting, -100),
        ("INPUT", Hook::Input, 100),
        ("OUTPUT", Hook::Output, -100),
        ("POSTROUTING", Hook::Postrouting, 100),
    ];
    for (name, hook, priority) in expected {
        let devices = Vec::new();
        assert_eq!(base(name), Base { hook, kind: ChainKind::Nat, priority, drops: false, devices });
    }
    assert_eq!(chain(&ruleset, Family::Ipv4, "OUTPUT").known_rules().len(), 3, "few rules are read whole");
    let kube = chain(&ruleset, Family::Ipv4, "KUBE-POSTROUTING").known_rules();
    assert_eq!(kube[0].steps[0], masked(Field::Mark, 0x4000, 0x4000, true));
    assert_eq!(verdict(&kube[0]), Some(&Verdict::Return));
    assert_eq!(kube.iter().map(|rule| rule.position).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(kube[2].comment, "kubernetes service traffic requiring SNAT");
    assert_eq!(kube[2].counter, Some(Counter::default()));
    let docker = chain(&ruleset, Family::Ipv4, "POSTROUTING").known_rules();
    let docker = docker.iter().find(|rule| matches!(rule.steps.last(), Some(Step::Nat(_)))).unwrap();
    assert_eq!(docker.steps[0], masked(Field::Ipv4Source, 0xffff_0000, 0xac11_0000, false));
    let docker0 = u128::from_be_bytes(*b"docker0\0\0\0\0\0\0\0\0\0");
    let whole = u128::MAX << 64; // the name and the zero that ends it
    assert_eq!(docker.steps[1], masked(Field::OutputName, whole, docker0, true));
    assert_eq!(ruleset.mark_writers.tested & 0x4000, 0x4000);
    assert_eq!(ruleset.mark_writers.found[&0x4000].0.chain, "KUBE-MARK-MASQ");
    assert!(ruleset.chains.keys().any(|id| id.chain.starts_with("KUBE-SVC")));
}

#[test]
fn of_many_services_only_what_a_tunnel_can_meet_is_read() {
    let table = XtTable::new(*NAT, XtFamily::Ipv4, "nat").unwrap();
    let mut ruleset = Ruleset::default();
    add(&mut ruleset, &table, "nat", 0).unwrap();
    assert_eq!(ruleset.mark_writers.found[&0x4000].0.chain, "KUBE-MARK-MASQ");
    let output = chain(&ruleset, Family::Ipv4, "OUTPUT");
    assert!(output.rules.why().contains("only searched"));
    assert_eq!(output.rules_for_udp().map(<[Rule]>::len), Some(3));
    let services = chain(&ruleset, Family::Ipv4, "KUBE-SERVICES");
    let kept = services.rules_for_udp().unwrap();
    assert!(kept.iter().all(crate::read::services::meets_udp), "{kept:?}");
    assert_eq!(chain(&ruleset, Family::Ipv4, "PREROUTING").rules_for_udp(), None);
    assert_eq!(chain(&ruleset, Family::Ipv4, "KUBE-POSTROUTING").known_rules().len(), 3);
}

#[test]
fn ipv6_is_laid_out_otherwise() {
    let ruleset = read(*NAT6, Family::Ipv6).unwrap();
    let rules = chain(&ruleset, Family::Ipv6, "POSTROUTING").known_rules();
    let source = rules.iter().flat_map(|rule| &rule.steps).find_map(|step| match step {
        Step::Match(Match::Tests { tests, .. }) if tests[0].field == Field::Ipv6Source => Some(tests[0].clone()),
        _ => None,
    });
    let Comparison::Masked { mask, value } = source.unwrap().condition else { panic!("a mask") };
    assert!(mask.leading_ones() >= 48 && value >> 121 == 0xfc >> 1, "{mask:x} {value:x}");
}

#[test]
fn the_same_rule_has_the_same_fingerprint_whatever_it_counted() {
    let fingerprints = |bytes: &[u8]| {
        let ruleset = read(bytes, Family::Ipv4).unwrap();
        let rules =
            ruleset.chains.iter().flat_map(|(id, chain)| chain.known_rules().iter().map(move |rule| (id, rule)));
        rules.map(|(id, rule)| ((id.clone(), rule.position), rule.fingerprint)).collect::<BTreeMap<_, _>>()
    };
    let before = fingerprints(*NAT);
    let mut counted = NAT.to_vec();
    let table = XtTable::new(*NAT, XtFamily::Ipv4, "nat").unwrap();
    for entry in table.chains.iter().flat_map(|chain| table.rules(chain)) {
        let at = ENTRIES + entry.unwrap().at;
        counted[at + 92..at + 112].fill(7); // comefrom, counters
    }
    assert_eq!(fingerprints(&counted), before);
    let all: std::collections::BTreeSet<_> = before.values().collect();
    assert!(all.len() > before.len() / 2, "different rules have different ones");
}

#[test]
fn a_table_that_is_cut_off_is_an_error() {
    for length in 0..NAT.len() {
        assert!(read(&NAT[..length], Family::Ipv4).is_err(), "{length}");
        let mut shorter = NAT[..length].to_vec();
        if let Some(size) = length.checked_sub(ENTRIES).filter(|_| length % 8 == 4) {
            // The info agrees: only the entries reveal it.
            shorter[80..84].copy_from_slice(&u32::try_from(size).unwrap().to_ne_bytes());
            assert!(read(&shorter, Family::Ipv4).is_err(), "{length}");
        }
    }
    assert!(read(*NAT, Family::Ipv6).is_err());
    assert!(XtTable::new(*NAT, XtFamily::Ipv4, "mangle").unwrap_err().to_string().contains("it is about \"nat\""));
}

/// Jumps back must not lead to an endless loop.
#[test]
fn a_table_whose_chains_form_a_circle_comes_to_an_end() {
    let table = XtTable::new(*NAT, XtFamily::Ipv4, "nat").unwrap();
    let circle = table.chains.iter().find(|chain| table.name(chain) == b"KUBE-POSTROUTING").unwrap().start;
    let mut bytes = NAT.to_vec();
    for chain in &table.chains {
        for entry in table.rules(chain).map(Result::unwrap).filter(|entry| entry.verdict() != Ok(None)) {
            let at = ENTRIES + entry.at + entry.target + 32;
            bytes[at..at + 4].copy_from_slice(&u32::try_from(circle).unwrap().to_ne_bytes());
        }
    }
    let ruleset = read(&bytes, Family::Ipv4).unwrap();
    let jump = verdict(&chain(&ruleset, Family::Ipv4, "KUBE-POSTROUTING").known_rules()[0]).cloned();
    assert_eq!(jump, Some(Verdict::Jump("KUBE-POSTROUTING".into())));
    assert!(!ruleset.reachable(ChainKind::Nat, &[Hook::Postrouting]).is_empty());
}

proptest! {
    #[test]
    fn changed_bytes_are_an_answer_or_an_error(changes in proptest::collection::vec((0..NAT.len(), any::<u8>()), 1..20)) {
        let mut bytes = NAT.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let _ = read(&bytes, Family::Ipv4);
    }

    #[test]
    fn changed_offsets_are_an_answer_or_an_error(at in 0..NAT.len() / 4, value in 0..NAT.len() / 8) {
        let mut bytes = NAT.to_vec();
        let value = u32::try_from(8 * value).unwrap();
        bytes[4 * at..4 * at + 4].copy_from_slice(&value.to_ne_bytes());
        let _ = read(&bytes, Family::Ipv4);
        bytes[4 * at..4 * at + 2].copy_from_slice(&[0, 0]);
        let _ = read(&bytes, Family::Ipv4);
    }

    #[test]
    fn noise_is_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert!(read(&bytes, Family::Ipv4).is_err());
        prop_assert!(read(&bytes, Family::Ipv6).is_err());
    }
}

/// Both families as read, and the requests. A response that is not given is ENOENT.
struct Played {
    ipv4: Reading<Arc<Ruleset>>,
    ipv6: Reading<Arc<Ruleset>>,
    asked: Vec<String>,
    left: Known,
}

fn play(answers: &[(&str, Reading<&[u8]>)]) -> Played {
    play_after(&Known::default(), answers)
}

fn play_after(memory: &Known, answers: &[(&str, Reading<&[u8]>)]) -> Played {
    play_by(memory, |request, _| {
        let given = answers.iter().find(|(name, _)| *name == request.name).map(|(_, answer)| answer.clone());
        given.unwrap_or(Reading::Absent("ENOENT".into())).map(<[u8]>::to_vec)
    })
}

/// The response may depend on how often the same request came before.
fn play_by(memory: &Known, mut answer: impl FnMut(&Request, usize) -> Response) -> Played {
    let mut asked = Vec::new();
    let ([ipv4, ipv6], _, left) = played_after(
        memory,
        |request| {
            let before = asked.iter().filter(|name| **name == request.name).count();
            asked.push(request.name.clone());
            answer(request, before)
        },
        // Remembered however small the tables are.
        |node| [LegacyFamily::Ipv4, LegacyFamily::Ipv6].map(|half| half.read_remembering(node, 0)),
    );
    Played { ipv4, ipv6, asked, left }
}

const NAMES: &str = "procfs/thread-self/net/ip_tables_names";
const NAMES6: &str = "procfs/thread-self/net/ip6_tables_names";
const RT_CACHE: &str = "procfs/thread-self/net/stat/rt_cache";

#[test]
fn only_tables_that_are_listed_are_asked_for() {
    let none = play(&[(NAMES, Reading::Ok(b"")), (NAMES6, Reading::Ok(b""))]);
    assert_eq!(none.asked, [NAMES, NAMES6]);
    assert_eq!(none.ipv4.ok().map(|ruleset| ruleset.chains.len()), Some(0));
    let some = play_by(&Known::default(), |request, before| match (request.name.as_str(), before) {
        (NAMES, _) => Reading::Ok(b"nat\nother\n".to_vec()),
        (NAMES6, 0) => Reading::Ok(b"filter\n".to_vec()),
        (NAMES6, _) => Reading::Ok(Vec::new()),
        ("xtables/ipv4-nat", _) => Reading::Ok(NAT.to_vec()),
        _ => refused(2),
    });
    let asked = [NAMES, "xtables/ipv4-nat", NAMES6, "xtables/ipv6-filter", NAMES6];
    assert_eq!(some.asked, asked, "the list again for the table that was refused, and nothing else");
    assert!(some.ipv4.ok().is_some_and(|ruleset| ruleset.chains.len() > 4));
    assert_eq!(some.ipv6, Reading::Ok(Arc::default()), "a table that has gone since has no rules");
}

fn refused<T>(errno: i32) -> Reading<T> {
    Reading::Failed(Failure::SystemCall { call: SystemCall::GetSocketOption, errno }.within("xtables"))
}

/// A sandbox returns an errno just as the kernel does; whether a table has disappeared is decided by reading the list
/// of tables once more.
#[test]
fn a_table_has_gone_when_its_list_says_so_and_not_when_an_errno_does() {
    for errno in [2, 92] {
        let read = |then: Reading<&[u8]>| {
            play_by(&Known::default(), |request, before| match (request.name.as_str(), before) {
                (NAMES, 0) => Reading::Ok(b"nat\nfilter\n".to_vec()),
                (NAMES, _) => then.clone().map(<[u8]>::to_vec),
                ("xtables/ipv4-nat", _) => Reading::Ok(NAT.to_vec()),
                ("xtables/ipv4-filter", _) => refused(errno),
                _ => Reading::Absent("ENOENT".into()),
            })
        };
        for gone in [&b"nat\n"[..], b""] {
            let gone = read(Reading::Ok(gone)).ipv4;
            assert!(gone.ok().is_some_and(|ruleset| ruleset.chains.len() > 4), "the rest is read: {gone:?}");
        }
        let there = Reading::Ok(&b"nat\nfilter\n"[..]);
        let cut = Reading::Ok(&b"nat\nfil"[..]);
        for then in [there, cut, Reading::Denied("EACCES".into()), Reading::Absent("ENOENT".into())] {
            let read = read(then.clone());
            let expected = Failure::SystemCall { call: SystemCall::GetSocketOption, errno };
            assert_eq!(read.ipv4.failure().map(Failure::root), Some(&expected), "{then:?}");
            assert!(read.ipv4.why().contains("table filter"), "{}", read.ipv4.why());
            assert_eq!(read.left.tables.len(), 0, "half a rule set is not remembered");
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_empty() {
    let read = |answers: &[(&str, Reading<&[u8]>)]| play(answers).ipv4;
    let listed = (NAMES, Reading::Ok(&b"nat\n"[..]));
    let table = |answer| ("xtables/ipv4-nat", answer);
    assert!(matches!(read(&[(NAMES, Reading::Denied("EACCES".into()))]), Reading::Denied(_)));
    assert!(matches!(read(&[listed.clone(), table(Reading::Denied("EPERM".into()))]), Reading::Denied(_)));
    assert!(matches!(read(&[listed.clone(), table(Reading::Failed("EIO".into()))]), Reading::Failed(_)));
    assert!(matches!(read(&[listed, table(Reading::Ok(&NAT[..NAT.len() - 8]))]), Reading::Failed(_)));
    assert!(matches!(read(&[(RT_CACHE, Reading::Ok(b""))]), Reading::Absent(_)));
    assert!(read(&[]).why().contains("is it mounted"), "{:?}", read(&[]));
}

/// A reading that may reuse an earlier one requests the info only, until it changes.
#[test]
fn what_was_read_is_read_again_only_when_its_description_changes() {
    let listed = [(NAMES, Reading::Ok(&b"nat\n"[..])), (NAMES6, Reading::Ok(&b""[..]))];
    let first = [&listed[..], &[("xtables/ipv4-nat", Reading::Ok(*NAT))]].concat();
    let known = play(&first);
    let remembered = |played: &Played| -> Vec<_> {
        played.left.tables.iter().map(|(source, known)| (*source, Arc::as_ptr(&known.ruleset))).collect()
    };
    assert_eq!(remembered(&known).iter().map(|(source, _)| *source).collect::<Vec<_>>(), [Source::XtablesIpv4]);
    let again = |info: &'static [u8]| {
        let info = ("xtables/ipv4-nat.info", Reading::Ok(info));
        play_after(&known.left, &[&first[..], &[info]].concat())
    };
    let same = again(&NAT[..IptGetinfo::SIZE]);
    assert_eq!(same.asked, [NAMES, "xtables/ipv4-nat.info", NAMES6]);
    assert_eq!(same.ipv4, known.ipv4);
    assert_eq!(remembered(&same), remembered(&known), "what was taken over is no younger for it");
    let changed = again(&NAT[1..=IptGetinfo::SIZE]);
    assert_eq!(changed.asked, [NAMES, "xtables/ipv4-nat.info", "xtables/ipv4-nat", NAMES6]);
    assert_eq!(changed.ipv4, known.ipv4);
    assert_ne!(remembered(&changed), remembered(&known), "what was read is");
    let gone = play_after(&known.left, &[(NAMES, Reading::Ok(b"")), (NAMES6, Reading::Ok(b""))]);
    assert_eq!(gone.asked, [NAMES, NAMES6]);
    assert_eq!(gone.ipv4, Reading::Ok(Arc::default()));
}

#[test]
fn tables_are_forgotten_by_when_they_were_read_not_by_when_they_were_taken_over() {
    let (start, age) = (Instant::now(), Duration::from_secs(30));
    let at = |seconds| start + Duration::from_secs(seconds);
    let answers =
        [(NAMES, Reading::Ok(&b"nat\n"[..])), (NAMES6, Reading::Ok(&b""[..])), ("xtables/ipv4-nat", Reading::Ok(*NAT))];
    let info = ("xtables/ipv4-nat.info", Reading::Ok(&NAT[..IptGetinfo::SIZE]));
    let mut known = play(&answers).left;
    known.date(at(0));
    known.forget_tables(at(29), age);
    let mut taken_over = play_after(&known, &[&answers[..], &[info]].concat()).left;
    taken_over.date(at(29));
    assert_eq!(taken_over.tables.len(), 1);
    taken_over.forget_tables(at(30), age);
    assert_eq!(taken_over.tables.len(), 0);
}

/// Small tables are cheap to read, and cached counters would spoil rates.
#[test]
fn small_tables_are_read_each_time() {
    let answers = [(NAMES, Reading::Ok(&b"nat\n"[..])), ("xtables/ipv4-nat", Reading::Ok(*NAT))];
    let remembered = |small: usize| {
        let answer = |request: &Request| {
            let given = answers.iter().find(|(name, _)| *name == request.name).map(|(_, answer)| answer.clone());
            given.unwrap_or(Reading::Absent("ENOENT".into())).map(<[u8]>::to_vec)
        };
        let (_, _, left) =
            played_after(&Known::default(), answer, |node| LegacyFamily::Ipv4.read_remembering(node, small));
        left.tables.len()
    };
    assert_eq!((remembered(NAT.len() - 1), remembered(NAT.len())), (1, 0));
    assert_eq!(remembered(READ_EACH_TIME), 0);
}

#[test]
fn a_description_that_cannot_be_read_is_not_one_that_stands() {
    let listed = [(NAMES, Reading::Ok(&b"nat\n"[..])), (NAMES6, Reading::Ok(&b""[..]))];
    let known = play(&[&listed[..], &[("xtables/ipv4-nat", Reading::Ok(*NAT))]].concat());
    let info = ("xtables/ipv4-nat.info", Reading::Denied("EPERM".into()));
    let table = ("xtables/ipv4-nat", Reading::Denied("EPERM".into()));
    let denied = play_after(&known.left, &[&listed[..], &[info, table]].concat());
    assert!(matches!(denied.ipv4, Reading::Denied(_)), "{:?}", denied.ipv4);
}
