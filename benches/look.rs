//! Cost of one reading with and without the kernel's part: decoding and judging recorded nodes, rendering, and a
//! complete reading of this machine.
//!
//! `cargo bench`; compare medians of alternating runs, because machines are noisy.

#![allow(missing_docs, reason = "criterion generates public functions")]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use natwatch::inside::advisory::Catalogue;
use natwatch::inside::capture::archive;
use natwatch::inside::facts::{Collector, Failure};
use natwatch::inside::judge;
use natwatch::inside::kernel::{Live, Paths, Progress};
use natwatch::inside::metrics::{self, exposition};
use natwatch::inside::read::{self, Collectors, Known};
use natwatch::inside::report::json;

fn look(criterion: &mut Criterion) {
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let options = judge::Options::default();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nodes/flannel.txt");
    let capture = archive::load(&path).expect("the node is part of the repository");
    criterion.bench_function("decode and judge a captured node", |bencher| {
        bencher.iter(|| {
            let facts = read::replay(black_box(&capture), &collectors);
            judge::judge(Catalogue::built_in(), &facts, &options, &AtomicBool::new(false))
        });
    });

    let facts = read::replay(&capture, &collectors);
    let report = judge::judge(Catalogue::built_in(), &facts, &options, &AtomicBool::new(false));
    let mut derived = judge::Derived::default();
    criterion.bench_function("judge a captured node again", |bencher| {
        let stop = AtomicBool::new(false);
        bencher.iter(|| judge::judge_again(Catalogue::built_in(), &facts, &options, &stop, &mut derived));
    });
    criterion.bench_function("judge a captured node", |bencher| {
        bencher.iter(|| judge::judge(Catalogue::built_in(), &facts, &options, &AtomicBool::new(false)));
    });
    let settings = metrics::MetricSettings {
        max_devices: 8,
        per_cpu: false,
        flow_destinations: 0,
        conditions: false,
        collectors: collectors.clone(),
    };
    let families = || metrics::families(&report, &facts, &Default::default(), &settings);
    criterion.bench_function("render text 0.0.4", |bencher| bencher.iter(|| exposition::prometheus(&families())));
    criterion.bench_function("render OpenMetrics", |bencher| bencher.iter(|| exposition::openmetrics(families())));
    criterion.bench_function("render JSON", |bencher| bencher.iter(|| json::render(&report, &facts)));

    criterion.bench_function("look at this machine", |bencher| {
        bencher.iter(|| {
            let progress = Arc::new(Progress::new(Duration::from_secs(10)));
            let mut live = Live::new(paths(), progress);
            let meta = live.meta();
            let (parts, _) = read::all(&mut live, &collectors, &Known::default(), &mut |_| ());
            let facts = parts.facts(&meta, &collectors, &Failure::not_needed("every part is there"));
            judge::judge(Catalogue::built_in(), &facts, &options, &AtomicBool::new(false))
        });
    });
}

fn paths() -> Paths {
    Paths { procfs: "/proc".into(), sysfs: "/sys".into(), rootfs: "/".into() }
}

criterion_group!(benches, look);
criterion_main!(benches);
