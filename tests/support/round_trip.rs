//! What a kernel has written is written again byte for byte from what was made of it.

use natwatch::netfilter::netlink::{self, Writer};
use natwatch::netfilter::nftables;

/// Checks a recorded answer by its name; how many messages it had, `None` if its kind has no types yet.
#[track_caller]
pub fn round_trips(name: &str, bytes: &[u8]) -> Option<usize> {
    name.contains("netlink/netfilter/nft-").then(|| nftables_round_trips(name, bytes))
}

/// Checks all messages of an answer of nf_tables; how many there were.
#[track_caller]
fn nftables_round_trips(name: &str, bytes: &[u8]) -> usize {
    let mut count = 0;
    for message in netlink::messages(bytes) {
        let Ok(message) = message else { break };
        if message.is_control() {
            continue;
        }
        let parsed = nftables::Message::parse(message.kind, message.body);
        let parsed = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut out = Writer::kernel();
        parsed.emit(&mut out);
        assert_eq!(out.finish(), message.body, "{name}: {parsed:#?}");
        count += 1;
    }
    count
}
