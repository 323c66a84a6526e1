//! What one look costs after the kernel has answered, and with it: decoding and judging captured nodes, rendering,
//! and a whole look at this machine.
//!
//! `cargo bench`; compare medians of alternated runs, machines are noisy.

#![allow(missing_docs, reason = "criterion generates public functions")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use natwatch::advisory::Catalogue;
use natwatch::decode::{self, Collectors};
use natwatch::kernel::{Kernel, Paths};
use natwatch::render::{exposition, json, metrics};
use natwatch::snapshot::{Collector, Unanswered};
use natwatch::{archive, judge};

fn look(criterion: &mut Criterion) {
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let options = judge::Options::default();
    let go_on = AtomicBool::new(false);
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/flannel");
    let capture = archive::load(&fixture).expect("the fixture is part of the repository");
    criterion.bench_function("decode and judge a captured node", |bencher| {
        bencher.iter(|| {
            let snapshot = decode::snapshot(black_box(&capture), &collectors);
            judge::judge(Catalogue::built_in(), &snapshot, &options, &go_on)
        });
    });

    let snapshot = decode::snapshot(&capture, &collectors);
    let report = judge::judge(Catalogue::built_in(), &snapshot, &options, &go_on);
    let settings = metrics::Settings { max_devices: 8, per_cpu: false, collectors: collectors.clone() };
    let families = || metrics::families(&report, &snapshot, &Default::default(), &settings);
    criterion.bench_function("render text 0.0.4", |bencher| bencher.iter(|| exposition::prometheus(&families())));
    criterion.bench_function("render OpenMetrics", |bencher| bencher.iter(|| exposition::openmetrics(families())));
    criterion.bench_function("render JSON", |bencher| bencher.iter(|| json::render(&report, &snapshot)));

    let kernel = Kernel::new(Paths { procfs: "/proc".into(), sysfs: "/sys".into(), rootfs: "/".into() });
    criterion.bench_function("look at this machine", |bencher| {
        bencher.iter(|| {
            let progress = Mutex::new(kernel.begin(Unanswered::in_time(Duration::from_secs(10))));
            let deadline = Instant::now() + Duration::from_secs(10);
            kernel.look(|capture| decode::plan(capture, &collectors), deadline, &progress);
            let capture = progress.into_inner().expect("no look panicked").capture;
            judge::judge(Catalogue::built_in(), &decode::snapshot(&capture, &collectors), &options, &go_on)
        });
    });
}

criterion_group!(benches, look);
criterion_main!(benches);
