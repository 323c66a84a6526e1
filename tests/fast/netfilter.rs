//! Round trips: what was parsed from a kernel's bytes is written as the same bytes.

use crate::support::round_trip::{extension, recorded_answers, round_trips};
use natwatch::netfilter::netlink::{self, AttributeValue as _, BlockLayout, Emit as _, MessageWriter};
use natwatch::netfilter::nftables::expr::{
    NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_CSUM_FLAGS, NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_OFFSET,
    NFTA_PAYLOAD_SREG, Payload,
};
use natwatch::netfilter::nftables::uapi;
use natwatch::netfilter::xtables;
use proptest::prelude::*;

/// Attributes of `payload` in any order, among unknown ones: type, body.
fn attributes_in_any_order() -> impl Strategy<Value = Vec<(u16, Vec<u8>)>> {
    let number = || proptest::collection::vec(any::<u8>(), 4);
    let needed = [NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN].map(|kind| (Just(kind), number()));
    let others = proptest::collection::vec((100u16..0x3fff, proptest::collection::vec(any::<u8>(), 0..9)), 0..6);
    let optional =
        proptest::sample::subsequence(vec![NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_SREG, NFTA_PAYLOAD_CSUM_FLAGS], 0..=3);
    let all = (needed, optional, number(), others).prop_map(|(needed, optional, value, others)| {
        let optional = optional.into_iter().map(move |kind| (kind, value.clone()));
        needed.into_iter().chain(optional).chain(others).collect::<Vec<_>>()
    });
    all.prop_shuffle()
}

proptest! {
    /// Unknown attributes keep their place, and known ones their order.
    #[test]
    fn attributes_keep_their_place(all in attributes_in_any_order()) {
        let mut bytes = Vec::new();
        all.iter().for_each(|(kind, body)| netlink::put(&mut bytes, *kind, body));
        let payload = Payload::parse(&bytes).expect("all that it needs");
        let mut out = MessageWriter::kernel();
        payload.emit(&mut out);
        prop_assert_eq!(&out.finish(), &bytes);
        // Built anew without unknown attributes, they are in the kernel's order.
        let built = Payload { layout: BlockLayout::default(), ..payload };
        let mut out = MessageWriter::kernel();
        built.emit(&mut out);
        let written = out.finish();
        prop_assert_eq!(&Payload::parse(&written).expect("what was written"), &built);
        let kinds = netlink::attributes(&written, "written").map(|attribute| attribute.expect("whole").kind);
        let order = [NFTA_PAYLOAD_DREG, NFTA_PAYLOAD_SREG, NFTA_PAYLOAD_BASE, NFTA_PAYLOAD_OFFSET, NFTA_PAYLOAD_LEN, NFTA_PAYLOAD_CSUM_FLAGS];
        prop_assert!(kinds.map(|kind| order.iter().position(|known| *known == kind)).is_sorted());
    }

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
        for family in [xtables::XtFamily::Ipv4, xtables::XtFamily::Ipv6] {
            if let Ok(rule) = xtables::XtRule::parse(family, &bytes) {
                let emitted = rule.emit();
                prop_assert_eq!(&emitted, &bytes[..emitted.len()]);
            }
            let _ = xtables::XtTable::new(&bytes, family, "nat");
        }
    }
}

#[test]
fn what_kernels_wrote_is_written_again() {
    let (mut messages, mut extensions, mut entries) = (0, 0, 0);
    for (name, bytes) in recorded_answers() {
        let counts = round_trips(&name, &bytes).unwrap_or_default();
        messages += counts.messages;
        extensions += counts.extensions;
        entries += counts.entries;
    }
    println!("{messages} messages, {extensions} extensions, {entries} entries of legacy tables");
    assert!(messages > 100 && extensions > 100 && entries > 100, "{messages}, {extensions}, {entries}");
}
