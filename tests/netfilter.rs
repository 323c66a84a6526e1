//! What kernels have written is written again byte for byte from what was made of it.

#![allow(clippy::disallowed_types, reason = "its support runs the standard tools")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use natwatch::netfilter::nftables::uapi;
use natwatch::netfilter::xtables;
use proptest::prelude::*;
use support::capture::walk;
use support::round_trip::{extension, round_trips};

proptest! {
    #[test]
    fn random_bytes_are_written_again_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (target, names) in [(false, xtables::Match::NAMES), (true, xtables::Target::NAMES)] {
            for (name, revision) in names.iter().flat_map(|name| (0..=5).map(move |revision| (name, revision))) {
                for family in [uapi::NFPROTO_IPV4, uapi::NFPROTO_IPV6, uapi::NFPROTO_BRIDGE] {
                    if let Some(emitted) = extension(target, name.as_bytes(), revision, family, &bytes) {
                        prop_assert_eq!(&emitted, &bytes);
                    }
                }
            }
        }
        for ipv6 in [false, true] {
            if let Ok(rule) = xtables::Rule::parse(ipv6, &bytes) {
                let emitted = rule.emit();
                prop_assert_eq!(&emitted, &bytes[..emitted.len()]);
            }
            let _ = xtables::Table::new(&bytes, ipv6, "nat");
        }
    }
}

#[test]
fn what_kernels_wrote_is_written_again() {
    let (mut messages, mut extensions, mut entries) = (0, 0, 0);
    let mut files: Vec<PathBuf> = Vec::new();
    walk(Path::new("tests/fixtures"), &mut files);
    for path in files {
        let bytes = fs::read(&path).expect("a file");
        let counts = round_trips(&path.to_string_lossy(), &bytes).unwrap_or_default();
        messages += counts.messages;
        extensions += counts.extensions;
        entries += counts.entries;
    }
    println!("{messages} messages, {extensions} extensions, {entries} entries of legacy tables");
    assert!(messages > 100 && extensions > 100 && entries > 100, "{messages}, {extensions}, {entries}");
}
