//! Cost within the process of a node with 50,000 Service rules: the first reading of a rule set, later ones while it is
//! unchanged, and legacy tables compared with the bare socket options. For whole processes see nodes.py.
//!
//! `cargo bench --bench rules`, as root: it enters a network namespace of its own, which is removed with it.

#![allow(missing_docs, reason = "criterion generates public functions")]
#![allow(clippy::disallowed_types, reason = "it loads the rules")]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, criterion_group, criterion_main};
use natwatch::inside::capture::{Ask, Request, Take};
use natwatch::inside::facts::{Collector, Facts, Failure, Source};
use natwatch::inside::kernel::{Live, Paths, Progress};
use natwatch::inside::read::{self, Collectors, Known};
use natwatch::netfilter::xtables::XtFamily;
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Rules as kube-proxy writes them, five for each Service.
fn kube_proxy(services: usize) -> String {
    let mut text = String::from("*nat\n:KUBE-SERVICES -\n:KUBE-POSTROUTING -\n:KUBE-MARK-MASQ -\n");
    for n in 0..services {
        let _ = write!(text, ":KUBE-SVC-{n:016X} -\n:KUBE-SEP-{n:016X} -\n");
    }
    text.push_str(
        "-A PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES\n\
         -A POSTROUTING -m comment --comment \"kubernetes postrouting rules\" -j KUBE-POSTROUTING\n\
         -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
         -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n\
         -A KUBE-POSTROUTING -m comment --comment \"kubernetes service traffic requiring SNAT\" \
         -j MASQUERADE --random-fully\n\
         -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n",
    );
    for n in 0..services {
        let (service, endpoint) = (
            format!("10.{}.{}.{}", 96 + n / 65536, n / 256 % 256, n % 256),
            format!("10.244.{}.{}", n / 256 % 256, n % 256),
        );
        let comment = format!("-m comment --comment \"default/svc{n}:http\"");
        let match_service = format!("-d {service}/32 -p tcp {comment} -m tcp --dport 80");
        let _ = write!(
            text,
            "-A KUBE-SERVICES {match_service} -j KUBE-SVC-{n:016X}\n\
             -A KUBE-SVC-{n:016X} ! -s 10.244.0.0/16 {match_service} -j KUBE-MARK-MASQ\n\
             -A KUBE-SVC-{n:016X} {comment} -j KUBE-SEP-{n:016X}\n\
             -A KUBE-SEP-{n:016X} -s {endpoint}/32 {comment} -j KUBE-MARK-MASQ\n\
             -A KUBE-SEP-{n:016X} -p tcp {comment} -m tcp -j DNAT --to-destination {endpoint}:8080\n"
        );
    }
    text + "COMMIT\n"
}

fn load(program: &str, rules: &str) {
    let mut restore = Command::new(program).stdin(Stdio::piped()).spawn().expect("iptables is there");
    restore.stdin.take().expect("a pipe").write_all(rules.as_bytes()).expect("it reads");
    assert!(restore.wait().expect("it ends").success());
}

fn paths() -> Paths {
    Paths { procfs: "/proc".into(), sysfs: "/sys".into(), rootfs: "/".into() }
}

fn live() -> Live {
    Live::new(paths(), Arc::new(Progress::new(Duration::from_secs(60))))
}

fn look(collectors: &Collectors, memory: &Known) -> (Facts, Known) {
    let mut live = live();
    let meta = live.meta();
    let (parts, left) = read::all(&mut live, collectors, memory, &mut |_| ());
    (parts.facts(&meta, collectors, &Failure::not_needed("every part is there")), left)
}

#[allow(unsafe_code, reason = "a namespace of its own, which rustix calls unsafe")]
fn rules(criterion: &mut Criterion) {
    // SAFETY: this thread alone gets a new network namespace; it shares no files with others that would mind.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("run it as root");
    let collectors = Collectors::from([Collector::Nat]);
    for services in [200, 10_000] {
        load("iptables-nft-restore", &kube_proxy(services));
        let mut group = criterion.benchmark_group(format!("{} rules", 5 * services));
        group.sample_size(10).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(8));
        let nothing = Known::default();
        let (first, memory) = look(&collectors, &nothing);
        assert_eq!(first.source_nat_rules.ok().map(Vec::len), Some(1), "{:?}", first.sources);
        group.bench_function("first look", |bencher| bencher.iter(|| look(&collectors, &nothing)));
        group.bench_function("next look", |bencher| bencher.iter(|| look(&collectors, &memory)));
        group.finish();
    }
}

/// A legacy table beside the bare socket options: what natwatch adds to what the kernel takes.
#[allow(unsafe_code, reason = "a namespace of its own, which rustix calls unsafe")]
fn legacy(criterion: &mut Criterion) {
    // SAFETY: as above.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.expect("run it as root");
    let collectors = Collectors::from([Collector::Nat]);
    load("iptables-legacy-restore", &kube_proxy(10_000));
    let table = Request::xtables(Source::XtablesIpv4, XtFamily::Ipv4, "nat");
    let bare = || {
        let mut length = 0;
        let answer = live().ask(&table, &mut |bytes| {
            length = bytes.len();
            Take::More
        });
        assert!(answer.ok().is_some() && length > 1 << 20);
        length
    };
    let nothing = Known::default();
    assert_eq!(look(&collectors, &nothing).0.source_nat_rules.ok().map(Vec::len), Some(1));
    let mut group = criterion.benchmark_group("50000 rules, legacy");
    group.sample_size(20).sampling_mode(SamplingMode::Flat).measurement_time(Duration::from_secs(8));
    group.bench_function("bare socket options", |bencher| bencher.iter(bare));
    group.bench_function("first look", |bencher| bencher.iter(|| look(&collectors, &nothing)));
    group.finish();
}

criterion_group!(benches, rules, legacy);
criterion_main!(benches);
