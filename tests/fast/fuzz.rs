//! Runs the targets of `fuzz/` without cargo-fuzz: mutated kernel answers, for a number of seconds.
//!
//! `NATWATCH_FUZZ_SECONDS` is the time for all targets together, `NATWATCH_FUZZ_SEED` repeats a run.

use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::capture::walk;
use crate::support::fuzz_targets::{TARGETS, Target};
use crate::support::mutator::{Random, mutated};
use crate::support::round_trip::recorded_answers;

/// Directories with kernels' responses besides the recorded nodes; those of `fuzz-seeds` are about rules that use
/// everything (tests/live/redaction.rs).
const ANSWERS: [&str; 2] = ["tests/fuzz-seeds", "src/redact/testdata"];

/// CI has two CPUs.
const THREADS: usize = 2;

/// Duration under `cargo test`. CI sets a longer one.
const SECONDS: u64 = 10;

/// All responses, by name.
fn answers() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ANSWERS.iter().for_each(|dir| walk(&root.join(dir), &mut files));
    files.sort();
    let read = |path: &std::path::PathBuf| (path.to_string_lossy().into_owned(), fs::read(path).expect("a file"));
    files.iter().map(read).chain(recorded_answers()).collect()
}

/// A target's seeds without duplicates.
fn seeds(target: &Target, answers: &[(String, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = answers.iter().flat_map(|(name, bytes)| (target.seeds)(name, bytes)).collect();
    seeds.sort();
    seeds.dedup();
    assert!(seeds.len() > 4, "{}: {} seeds", target.name, seeds.len());
    seeds
}

/// Runs a target; a panic shows the input.
fn run(target: &Target, input: &[u8], seed: u64) {
    let start = Instant::now();
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        (target.run)(input);
        // A parser whose work grows with a number in its input would take minutes.
        assert!(start.elapsed() < Duration::from_secs(20), "it took {:?}", start.elapsed());
    }));
    if let Err(payload) = result {
        let hexadecimal: String = input.iter().map(|byte| format!("{byte:02x}")).collect();
        eprintln!("{}, NATWATCH_FUZZ_SEED={seed}, input:\n{hexadecimal}", target.name);
        panic::resume_unwind(payload);
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is no number: {text}")))
}

/// Every target on kernels' bytes and on mutations of them.
#[test]
fn no_bytes_break_a_parser() {
    let time = Duration::from_secs(number("NATWATCH_FUZZ_SECONDS").unwrap_or(SECONDS)) / TARGETS.len() as u32;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    let seed = number("NATWATCH_FUZZ_SEED").unwrap_or(now.as_secs());
    println!("NATWATCH_FUZZ_SEED={seed}");
    let answers = answers();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some(target) = TARGETS.get(next.fetch_add(1, Ordering::Relaxed)) {
            fuzz(target, &seeds(target, &answers), time, seed);
        }
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload)));
    });
}

/// Runs a target on all seeds, and then on mutations of them for this time.
fn fuzz(target: &Target, seeds: &[Vec<u8>], time: Duration, seed: u64) {
    seeds.iter().for_each(|input| run(target, input, seed));
    let mut random = Random::new(seed);
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < time {
        for _ in 0..100 {
            run(target, &mutated(seeds, target.header, &mut random), seed);
            count += 1;
        }
    }
    println!("{}: {} seeds, {count} inputs", target.name, seeds.len());
}

/// One input again: `NATWATCH_FUZZ_INPUT=nftables_message:0a06…`
#[test]
fn one_input_again() {
    let Ok(text) = std::env::var("NATWATCH_FUZZ_INPUT") else { return };
    let (name, hexadecimal) = text.split_once(':').expect("a target, a colon, bytes in hexadecimal");
    let digits: Vec<u8> =
        hexadecimal.bytes().map(|digit| (digit as char).to_digit(16).expect("a digit") as u8).collect();
    let input: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    crate::support::fuzz_targets::run(name, &input);
}

/// Writes cargo-fuzz's corpus, for `make fuzz`.
#[test]
#[ignore = "it writes into the repository"]
fn corpus_is_written() {
    let answers = answers();
    for target in TARGETS {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
        fs::create_dir_all(&directory).expect("a directory");
        for (number, seed) in seeds(target, &answers).into_iter().enumerate() {
            fs::write(directory.join(format!("seed-{number}")), seed).expect("a file");
        }
    }
}

/// cargo-fuzz has exactly one binary for each target.
#[test]
fn the_fuzz_crate_has_all_targets() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/Cargo.toml")).expect("it");
    let manifest: toml::Value = toml::from_str(&manifest).expect("TOML");
    let binaries = manifest["bin"].as_array().expect("a list").iter();
    let mut binaries: Vec<&str> = binaries.map(|binary| binary["name"].as_str().expect("a name")).collect();
    let mut targets: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    binaries.sort_unstable();
    targets.sort_unstable();
    assert_eq!(binaries, targets);
}
