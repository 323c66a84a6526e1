//! Decoded tests match the same packets as the kernel's code; no bytes make the decoders panic.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// Whether all steps match a packet; `None`: that depends on something that is not decoded.
fn hold(steps: &[Step], packet: &BTreeMap<Field, u128>) -> Option<bool> {
    let mut all_known = true;
    for step in steps {
        let Step::Match(Match::Tests { tests, inverted }) = step else {
            all_known = false;
            continue;
        };
        let holds = tests.iter().all(|test| {
            let value = packet[&test.field];
            match &test.condition {
                Comparison::Masked { mask, value: wanted } => value & mask == *wanted,
                Comparison::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&value)),
            }
        });
        if holds == *inverted {
            return Some(false);
        }
    }
    all_known.then_some(true)
}

fn decoded(name: &str, revision: u8, data: &[u8]) -> Result<Vec<Step>, Failure> {
    decode_match(&Extension { name, revision, family: Family::Ipv4, data })
}

/// `ports_match_v1`
fn ports_match(blob: &[u8], source: u16, destination: u16) -> bool {
    let port = |number: usize| u16::from_ne_bytes([blob[2 + 2 * number], blob[3 + 2 * number]]);
    let invert = blob[47] != 0;
    let mut number = 0;
    while number < usize::from(blob[1]) {
        let first = port(number);
        if blob[32 + number] != 0 {
            number += 1;
        }
        let ports = first..=port(number);
        let found = match blob[0] {
            0 => ports.contains(&source),
            1 => ports.contains(&destination),
            _ => ports.contains(&source) || ports.contains(&destination),
        };
        if found {
            return !invert;
        }
        number += 1;
    }
    invert
}

#[test]
fn multiport_is_what_the_kernel_does() {
    // Few distinct ports, so that they often coincide.
    let ports = proptest::collection::vec((0u16..8, any::<bool>()), 0..=15);
    let edges = prop_oneof![Just(0u16), Just(65535), 0u16..9];
    proptest!(|(ends in 0u8..3, ports in ports, invert in any::<bool>(), source in edges.clone(), destination in edges)| {
        let mut blob = vec![0; 48];
        blob[0] = ends;
        blob[1] = u8::try_from(ports.len()).unwrap();
        for (number, (port, is_range)) in ports.iter().enumerate() {
            blob[2 + 2 * number..][..2].copy_from_slice(&port.to_ne_bytes());
            blob[32 + number] = u8::from(*is_range && number < 14);
        }
        blob[47] = u8::from(invert);
        let packet = BTreeMap::from([
            (Field::SourcePort, source.into()),
            (Field::DestinationPort, destination.into()),
        ]);
        let steps = decoded("multiport", 1, &blob).unwrap();
        prop_assert_eq!(hold(&steps, &packet), Some(ports_match(&blob, source, destination)));
    });
}

/// A packet's connection: `ctinfo`, `status`; without one, whether it is untracked.
#[derive(Clone, Copy, Debug)]
enum Connection {
    Tracked { info: u32, status: u16 },
    None { untracked: bool },
}

/// `conntrack_mt`, for state, status and direction
fn conntrack_matches(wanted: u16, invert: u16, state: u16, status: u16, connection: Connection) -> bool {
    let agrees = |flag: u16, holds: bool| wanted & flag == 0 || holds != (invert & flag != 0);
    let (bits, is_original, have) = match connection {
        Connection::Tracked { info, status } => {
            let virtual_states = u16::from(status & 0x10 != 0) << 6 | u16::from(status & 0x20 != 0) << 7;
            (1u16 << (info % 3 + 1) | virtual_states, info < 3, status)
        }
        Connection::None { untracked } => {
            let bits = if untracked { 1 << 8 } else { 1 };
            return wanted & 1 != 0 && agrees(1, state & bits != 0);
        }
    };
    agrees(1, state & bits != 0) && agrees(1 << 12, is_original) && agrees(1 << 6, have & status != 0)
}

#[test]
fn conntrack_is_what_the_kernel_does() {
    let tracked = (0u32..5, any::<u16>()).prop_map(|(info, status)| Connection::Tracked { info, status });
    let connections = prop_oneof![tracked, any::<bool>().prop_map(|untracked| Connection::None { untracked })];
    let flags = (0u16..8).prop_map(|bits| bits & 1 | (bits & 2) << 5 | (bits & 4) << 10);
    let config = ProptestConfig { cases: 4096, ..ProptestConfig::default() };
    proptest!(config, |(
        revision in 1u8..=3, wanted in flags.clone(), invert in flags, state in 0u16..0x200,
        status in any::<u16>(),
        connection in connections,
    )| {
        let mut blob = vec![0; 164];
        blob[146..148].copy_from_slice(&wanted.to_ne_bytes());
        blob[148..150].copy_from_slice(&invert.to_ne_bytes());
        let (state, status) = if revision == 1 { (state & 0xff, status & 0xff) } else { (state, status) };
        if revision == 1 {
            blob[150] = u8::try_from(state).unwrap();
            blob[151] = u8::try_from(status).unwrap();
        } else {
            blob[150..152].copy_from_slice(&state.to_ne_bytes());
            blob[152..154].copy_from_slice(&status.to_ne_bytes());
        }
        let (bits, flags, direction) = match connection {
            Connection::Tracked { info, status } => (1u128 << (info % 3 + 1), status.into(), (info >= 3).into()),
            Connection::None { untracked } => (if untracked { 64 } else { 1 }, 0, 0),
        };
        let packet = BTreeMap::from([
            (Field::ConnectionState, bits),
            (Field::ConnectionStatus, flags),
            (Field::ConnectionDirection, direction),
        ]);
        let steps = decoded("conntrack", revision, &blob).unwrap();
        let wanted = conntrack_matches(wanted, invert, state, status, connection);
        if let Some(holds) = hold(&steps, &packet) {
            prop_assert_eq!(holds, wanted, "{:?}", steps);
        } else {
            // Only where packets without a connection match like all others.
            let unsupported = Step::Match(Match::Unsupported(format!("match conntrack revision {revision}")));
            prop_assert!(steps.contains(&unsupported));
        }
    });
}

#[test]
fn random_bytes_never_panic() {
    let mut names = [xtables::Match::NAMES, xtables::Target::NAMES, &["never-heard-of"]].concat();
    names.dedup();
    let lengths = prop_oneof![0usize..70, 140usize..320];
    let bytes = lengths.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    proptest!(|(data in bytes)| {
        for name in &names {
            for revision in 0..=5 {
                for family in [Family::Ipv4, Family::Ipv6, Family::Inet] {
                    let extension = Extension { name, revision, family, data: &data };
                    let _ = decode_match(&extension);
                    let _ = decode_target(&extension);
                    let _ = comment(&extension);
                }
            }
        }
    });
}
