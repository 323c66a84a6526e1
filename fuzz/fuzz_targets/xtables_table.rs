#![no_main]

#[path = "../../tests/support/fuzz_targets.rs"]
#[allow(dead_code, reason = "only the driver in tests/fast/fuzz.rs needs seeds")]
mod fuzz_targets;

libfuzzer_sys::fuzz_target!(|input: &[u8]| fuzz_targets::run("xtables_table", input));
