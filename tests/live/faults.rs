//! Failures cannot be overlooked: every single answer of a node is made to fail in every possible way, and no verdict
//! may become better than the truth.
//!
//! For recorded nodes, and a live node per backend.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use natwatch::inside::advisory::defects::DefectState;
use natwatch::inside::advisory::{Catalogue, State};
use natwatch::inside::capture::archive;
use natwatch::inside::capture::{Capture, Response};
use natwatch::inside::facts::netfilter::SourceNatRule;
use natwatch::inside::facts::{Collector, Facts, Failure, Reading, SourceState, SystemCall};
use natwatch::inside::judge::{self, Options};
use natwatch::inside::read::{self, Collectors};
use serde_json::Value;

use crate::support::capture::{CaptureDir, recorded_nodes};
use crate::support::netns::{Netns, veth};
use crate::support::program::{HERE, NATWATCH, natwatch_as};
use crate::support::rules::{load, nft};

/// The result of judging a node.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    verdicts: BTreeMap<String, State>,
    /// `None`: not read.
    rules: Option<Vec<SourceNatRule>>,
    /// Sources that are neither ok nor absent, with the reason.
    failed: BTreeMap<String, String>,
}

/// The kernel has the defects, as these tests are about exposures that disappear for lack of a reading. `plain`: it has
/// what the node itself says.
fn options(plain: bool) -> Options {
    if plain {
        return Options { this_namespace: true, ..Options::default() };
    }
    let present = ["nat-udp-zero-checksum", "nat-udp-lco-checksum", "nat-port-rover", "udp-clash-drop"];
    let kernel_defects = present.iter().map(|id| ((*id).to_owned(), DefectState::Present)).collect();
    Options { kernel_defects, this_namespace: true, ..Options::default() }
}

fn outcome(capture: &Capture, known: &Known, plain: bool) -> Outcome {
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let facts = read::replay(capture, &collectors);
    let shape = shape(&facts);
    let shape = (plain, shape);
    let verdicts = known.lock().expect("no panic").get(&shape).cloned();
    let verdicts = verdicts.unwrap_or_else(|| {
        let report = judge::judge(Catalogue::built_in(), &facts, &options(plain), &AtomicBool::new(false));
        let states = report.advisories.iter().map(|finding| (finding.id.clone(), finding.state));
        let verdicts: BTreeMap<String, State> = states.collect();
        known.lock().expect("no panic").insert(shape, verdicts.clone());
        verdicts
    });
    let bad = facts.sources.iter().filter(|status| status.state > SourceState::Absent);
    Outcome {
        verdicts,
        rules: facts.source_nat_rules.ok().cloned(),
        failed: bad.map(|status| (status.source.name().to_owned(), status.detail.clone())).collect(),
    }
}

/// Verdicts on facts that were judged before.
type Known = Mutex<BTreeMap<(bool, String), BTreeMap<String, State>>>;

/// The facts without the reasons for failures, which decide no verdict: judging is expensive.
fn shape(facts: &Facts) -> String {
    let facts = format!("{:?}", Facts { sources: Vec::new(), ..facts.clone() });
    let mut shape = String::new();
    let mut rest = facts.as_str();
    while let Some(at) = ["Failed(", "Denied("].iter().filter_map(|start| rest.find(start)).min() {
        shape.push_str(&rest[..at]);
        shape.push_str("unread");
        let (mut depth, mut quoted, mut end) = (0, false, rest.len());
        let mut letters = rest[at..].char_indices();
        while let Some((offset, letter)) = letters.next() {
            match letter {
                '\\' => drop(letters.next()),
                '"' => quoted = !quoted,
                '(' if !quoted => depth += 1,
                ')' if !quoted && depth == 1 => {
                    end = at + offset + 1;
                    break;
                }
                ')' if !quoted => depth -= 1,
                _ => {}
            }
        }
        rest = &rest[end..];
    }
    shape + rest
}

/// Whether a state may follow from less knowledge. A verdict may become unknown, and without a known ingredient the
/// safeguards remain.
fn is_no_better(before: State, after: State) -> bool {
    after == before || after == State::Unknown || (before, after) == (State::NotAffected, State::Mitigated)
}

/// A fault in a response, and the response.
type Fault = (String, Option<Response>);

fn failure() -> Failure {
    Failure::SystemCall { call: SystemCall::Receive, errno: 105 }
}

/// Responses that were played in an earlier node are not played a second time: most recorded nodes differ in a few.
/// With `NATWATCH_FAULTS=all` every fault is played in every node, and a response is cut in more places (`make
/// test-faults`).
type Seen = BTreeSet<(String, Vec<u8>)>;

fn everything() -> bool {
    std::env::var("NATWATCH_FAULTS").is_ok_and(|which| which == "all")
}

/// All faults of this response. `None`: there was no response.
fn faults(name: &str, answer: &Response, seen: &mut Seen) -> Vec<Fault> {
    let bytes = answer.ok().cloned().unwrap_or_default();
    if !seen.insert((name.to_owned(), bytes.clone())) && !everything() {
        return Vec::new();
    }
    let mut faults: Vec<Fault> = vec![
        ("failed".into(), Some(Reading::Failed(failure()))),
        ("denied".into(), Some(Reading::Denied("a permission is missing".into()))),
        ("unanswered".into(), None),
    ];
    if read::believed(name).is_none() {
        faults.push(("absent".into(), Some(Reading::Absent("ENOENT".into()))));
    }
    if answer.ok().is_none() {
        return faults;
    }
    if name.starts_with("netlink/") {
        faults.extend([2, 105].map(|errno| (format!("errno {errno}"), Some(Reading::Ok(refusal(errno))))));
    }
    let most = if everything() { 64 } else { 5 };
    let cuts = match name.split('/').next() {
        Some("netlink") => message_cuts(&bytes),
        Some("xtables") => (0..bytes.len()).collect(),
        Some("rootfs") => Vec::new(), // a file of the host's may end as it likes
        _ => (1..bytes.len()).filter(|at| bytes[at - 1] != b'\n').collect(),
    };
    let cuts = sampled(cuts, most).into_iter();
    faults.extend(cuts.map(|at| (format!("cut at {at}"), Some(Reading::Ok(bytes[..at].to_vec())))));
    faults
}

/// An errno in an NLMSG_ERROR.
fn refusal(errno: i32) -> Vec<u8> {
    let header = [&36u32.to_ne_bytes()[..], &2u16.to_ne_bytes(), &0u16.to_ne_bytes(), &[0; 8]].concat();
    [&header[..], &(-errno).to_ne_bytes(), &[0; 16]].concat()
}

/// Places behind each message but the last, and inside each.
fn message_cuts(bytes: &[u8]) -> Vec<usize> {
    let mut cuts = Vec::new();
    let mut at = 0;
    while at + 16 <= bytes.len() {
        let length = u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        cuts.extend([at, at + 2, at + 16.min(length), at + length / 2]);
        at += length.max(16).next_multiple_of(4);
    }
    cuts.retain(|cut| *cut < bytes.len());
    cuts
}

/// At most this many of them, first and last included.
fn sampled<T: Copy>(all: Vec<T>, most: usize) -> Vec<T> {
    if all.len() <= most {
        return all;
    }
    (0..most).map(|number| all[number * (all.len() - 1) / (most - 1)]).collect()
}

/// Errnos by which the kernel itself says that something does not exist.
fn is_word_of_the_kernel(name: &str, what: &str) -> bool {
    let (generation, set) = (name.contains("nft-generation-"), name.contains("/set-"));
    // nf_tables is missing; a chain or an element is; no classifiers, no route.
    what == "errno 2" && (generation || name.contains("/chain/") || set && name.contains("-element-"))
        || what == "errno 2" && set && name.ends_with("-catch-all")
}

/// The kind of a request, without names and numbers.
fn kind(name: &str) -> String {
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["netlink", "netfilter", generation, what, ..] if generation.starts_with("nft-") => {
            what.chars().filter(|c| !c.is_ascii_digit()).collect()
        }
        ["netlink", _, what] => what.split(['-', '.']).next().unwrap_or_default().to_owned(),
        ["netlink", _, set @ .., last] if !set.is_empty() => {
            last.trim_start_matches(|c: char| c.is_ascii_digit()).to_owned()
        }
        _ => name.to_owned(),
    }
}

/// Responses to play in one node: all, or a few of each kind, with the first and the last.
fn chosen(capture: &Capture) -> Vec<(&String, &Response)> {
    const OF_A_KIND: usize = 2;
    let mut kinds: BTreeMap<String, Vec<(&String, &Response)>> = BTreeMap::new();
    for (name, answer) in &capture.answers {
        kinds.entry(kind(name)).or_default().push((name, answer));
    }
    let most = if everything() { usize::MAX } else { OF_A_KIND };
    kinds.into_values().flat_map(|all| sampled(all, most)).collect()
}

/// Whether a response identifies the kernel.
fn tells_the_kernel(name: &str) -> bool {
    ["procfs/version", "procfs/sys/kernel/", "sysfs/kernel/"].iter().any(|start| name.starts_with(start))
}

/// Plays every fault; returns their number.
fn play(node: &str, capture: &Capture, seen: &mut Seen) -> usize {
    let known = Known::default();
    let before = [false, true].map(|plain| outcome(capture, &known, plain));
    let cases: Vec<(String, Fault)> = chosen(capture)
        .into_iter()
        .flat_map(|(name, answer)| faults(name, answer, seen).into_iter().map(move |fault| (name.clone(), fault)))
        .filter(|(name, (what, _))| !is_word_of_the_kernel(name, what))
        .collect();
    let next = AtomicUsize::new(0);
    let problems = std::thread::scope(|scope| {
        let work = || {
            let mut problems = Vec::new();
            while let Some((name, (what, answer))) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                let mut faulty = capture.clone();
                match answer {
                    Some(answer) => faulty.answers.insert(name.clone(), answer.clone()),
                    None => faulty.answers.remove(name),
                };
                let plain = tells_the_kernel(name);
                let after = outcome(&faulty, &known, plain);
                let found = problems_of(&before[usize::from(plain)], &after);
                problems.extend(found.map(|why| format!("{node}: {name}: {what}: {why}")));
            }
            problems
        };
        let workers = [0; 2].map(|_| scope.spawn(work));
        workers.into_iter().flat_map(|worker| worker.join().expect("no fault makes natwatch panic")).collect::<Vec<_>>()
    });
    assert!(problems.is_empty(), "{} of {} faults:\n{}", problems.len(), cases.len(), problems.join("\n"));
    cases.len()
}

/// What has improved, or is missing without a failed source.
fn problems_of<'a>(before: &'a Outcome, after: &'a Outcome) -> impl Iterator<Item = String> + 'a {
    let verdicts = before.verdicts.iter().filter_map(|(id, old)| {
        let new = after.verdicts[id];
        (!is_no_better(*old, new)).then(|| format!("{id} is {new} instead of {old}"))
    });
    let lost = after.rules.is_some() && after.rules != before.rules;
    let rules = lost.then(|| "the list of rules is another one".to_owned());
    let changed = after.verdicts != before.verdicts || after.rules != before.rules;
    let silent = (changed && after.failed.is_empty()).then(|| "no source says why".to_owned());
    verdicts.chain(rules).chain(silent)
}

#[test]
fn no_recorded_node_gets_better_by_a_failure() {
    let (mut nodes, mut played) = (0, 0);
    let mut seen = BTreeSet::new();
    for entry in recorded_nodes() {
        let capture = archive::load(&entry).expect("a capture");
        let name = entry.file_stem().expect("a name").to_string_lossy().into_owned();
        played += play(&name, &capture, &mut seen);
        nodes += 1;
    }
    assert!(nodes > 15 && played > 1_500, "{played} faults in {nodes} nodes");
    println!("{played} faults in {nodes} nodes");
}

/// A flannel node that is exposed, with its rules in one of the backends.
fn live_node(backend: &str) -> [Netns; 2] {
    let (node, peer) = (Netns::new(), Netns::new());
    veth(&node, "eth0", &peer, "eth0");
    node.address("eth0", "192.0.2.10/24");
    node.up("eth0");
    peer.up("eth0");
    node.route("default via 192.0.2.1");
    node.cmd("ip link add flannel.1 type vxlan id 1 local 192.0.2.10 dev eth0 dstport 8472 nolearning");
    node.address("flannel.1", "10.42.0.0/32");
    node.up("flannel.1");
    node.route("10.42.1.0/24 via 10.42.1.0 dev flannel.1 onlink");
    node.cmd("bridge fdb append 00:00:5e:00:53:01 dev flannel.1 dst 192.0.2.20");
    match backend {
        "nftables" => nft(
            &node,
            "table ip t {\n\
             set services { type ipv4_addr . inet_service; elements = { 10.96.0.1 . 443 } }\n\
             chain out { type nat hook output priority -100; \
             ip daddr . tcp dport @services meta mark set 0x4000 dnat to 10.42.1.2:6443; }\n\
             chain post { type nat hook postrouting priority 100; \
             meta mark & 0x4000 == 0x4000 counter masquerade fully-random; }\n\
             chain through { type filter hook forward priority 0; \
             ct state vmap { established : accept, related : accept, invalid : drop }; }\n\
             }\n\
             table ip6 x {\n chain c { counter; }\n}\n",
        ),
        restore => load(
            &node,
            &[restore],
            "*nat\n:SET -\n-A OUTPUT -d 10.96.0.1/32 -p tcp --dport 443 -j SET\n\
             -A OUTPUT -d 10.96.0.1/32 -p tcp --dport 443 -j DNAT --to-destination 10.42.1.2:6443\n\
             -A SET -j MARK --set-xmark 0x4000/0x4000\n\
             -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully\nCOMMIT\n",
        ),
    }
    [node, peer]
}

#[test]
fn no_live_node_gets_better_by_a_failure() {
    for backend in ["iptables-nft-restore", "iptables-legacy-restore", "nftables"] {
        let [node, _peer] = live_node(backend);
        let capture = archive::load(&CaptureDir::of(&node, &[]).path()).expect("a capture");
        let baseline = outcome(&capture, &Known::default(), false);
        assert_eq!(baseline.failed, BTreeMap::new(), "{backend}");
        assert_eq!(baseline.verdicts["vxlan-double-snat-checksum"], State::Exposed, "{backend}: {baseline:?}");
        assert_eq!(baseline.rules.as_ref().map(Vec::len), Some(1), "{backend}");
        let played = play(backend, &capture, &mut BTreeSet::new());
        assert!(played > 200, "{backend}: {played} faults");
    }
}

/// System calls with their possible errnos: those of a kernel under pressure, and of a sandbox.
const CALLS: &[(&str, &[&str])] = &[
    ("socket", &["EAFNOSUPPORT", "EPERM", "EMFILE"]),
    ("bind", &["EPERM", "ENOMEM"]),
    ("sendto", &["EINTR", "EAGAIN", "ENOBUFS", "EPERM"]),
    ("recvfrom", &["EINTR", "EAGAIN", "ENOBUFS", "ENOMEM"]),
    ("getsockopt", &["ENOPROTOOPT", "ENOENT", "EPERM", "ENOMEM"]),
    ("openat2", &["ENOENT", "EACCES", "EMFILE"]),
    ("read", &["EIO", "EINTR"]),
    ("pread64", &["EIO", "EINTR"]),
    ("poll", &["EINTR", "ENOMEM"]),
];

/// States by advisory, and the number of rules if they were read.
type Told = (BTreeMap<String, String>, Option<usize>);

fn told(report: &Value) -> Told {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let findings = report["advisories"].as_array().expect("a list").iter();
    let states = findings.map(|finding| (text(&finding["id"]), text(&finding["state"])));
    (states.collect(), report["source_nat_rules"].as_array().map(Vec::len))
}

/// `natwatch check` while system calls fail: from the one with this number on, or only that one.
fn check_with(node: &Netns, inject: &str) -> Option<Told> {
    let words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject, NATWATCH];
    let flags = ["check", "--format", "json", "--kernel-defect=nat-udp-zero-checksum=present"];
    let run = natwatch_as(node, &words, &[&flags[..], &HERE].concat());
    // A program that cannot be loaded prints nothing.
    serde_json::from_str(&run.stdout).ok().map(|report| told(&report))
}

#[test]
fn no_live_node_gets_better_by_a_system_call() {
    let mut played = 0;
    for backend in ["iptables-nft-restore", "iptables-legacy-restore"] {
        let [node, _peer] = live_node(backend);
        let (states, rules) = check_with(&node, "inject=kexec_load:error=EPERM:when=1").expect("nothing went wrong");
        assert_eq!(states["vxlan-double-snat-checksum"], "exposed", "{backend}: {states:?}");
        let mut problems = Vec::new();
        for (call, errnos) in CALLS {
            let whens: &[&str] = if everything() {
                &["1", "2", "3", "4", "5", "6", "8", "10", "13", "17", "22", "30", "40", "55", "1+", "2+", "9+", "20+"]
            } else {
                &["2", "9", "2+"]
            };
            for (errno, when) in errnos.iter().flat_map(|errno| whens.iter().map(move |when| (errno, when))) {
                // No kernel interrupts a call for ever.
                if matches!(*errno, "EINTR" | "EAGAIN") && when.ends_with('+') {
                    continue;
                }
                let inject = format!("inject={call}:error={errno}:when={when}");
                let Some((after, after_rules)) = check_with(&node, &inject) else { continue };
                played += 1;
                for (id, before) in &states {
                    let after = &after[id];
                    let fine =
                        after == before || after == "unknown" || (before == "not_affected" && after == "mitigated");
                    if !fine {
                        problems.push(format!("{backend}: {inject}: {id} is {after} instead of {before}"));
                    }
                }
                if after_rules.is_some() && after_rules != rules {
                    problems.push(format!("{backend}: {inject}: {after_rules:?} rules instead of {rules:?}"));
                }
            }
        }
        assert!(problems.is_empty(), "{}", problems.join("\n"));
    }
    assert!(played > 60, "{played}");
}
