//! What kernels have written is written again byte for byte from what was made of it.

use std::fs;
use std::path::{Path, PathBuf};

use natwatch::netfilter::netlink::{self, Writer};
use natwatch::netfilter::nftables;

/// Files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut open = vec![dir.to_owned()];
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        match fs::read_dir(&path) {
            Ok(entries) => open.extend(entries.map(|entry| entry.expect("an entry").path())),
            Err(_) => files.push(path),
        }
    }
    files
}

/// Checks all messages of an answer of nf_tables; how many there were.
fn nftables_round_trips(path: &Path, bytes: &[u8]) -> usize {
    let mut count = 0;
    for message in netlink::messages(bytes) {
        let Ok(message) = message else { break };
        if message.is_control() {
            continue;
        }
        let parsed = nftables::Message::parse(message.kind, message.body);
        let parsed = parsed.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut out = Writer::kernel();
        parsed.emit(&mut out);
        assert_eq!(out.finish(), message.body, "{}: {parsed:#?}", path.display());
        count += 1;
    }
    count
}

#[test]
fn what_kernels_wrote_is_written_again() {
    let mut count = 0;
    let dirs = std::env::var("CORPUS").unwrap_or("tests/fixtures".into());
    for path in files(Path::new(&dirs)) {
        let name = path.to_string_lossy().into_owned();
        if name.contains("/netlink/netfilter/nft-") {
            count += nftables_round_trips(&path, &fs::read(&path).expect("a file"));
        }
    }
    println!("{count} messages");
    assert!(count > 100, "{count} messages");
}
