//! What the targets of x_tables do.

use std::ops::RangeInclusive;

use super::matches::{has_connection, size};
use super::{Blob, Extension, test};
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Chosen, Family, MarkWrite, Nat, NatAction, PortRandomization, SetId, Step, Verdict};

/// Targets that touch neither marks nor NAT nor the way through the rules: name, revisions, size up to the kernel's own
/// fields.
pub(super) const HARMLESS: &[(&str, RangeInclusive<u8>, usize)] = &[
    ("AUDIT", 0..=0, 1),
    ("CHECKSUM", 0..=0, 1),
    ("CLASSIFY", 0..=0, 4),
    ("CONNSECMARK", 0..=0, 1),
    ("DSCP", 0..=0, 1),
    ("ECN", 0..=0, 3),
    ("HL", 0..=0, 2),
    ("IDLETIMER", 0..=0, 32),
    ("IDLETIMER", 1..=1, 40),
    ("LED", 0..=0, 32),
    ("LOG", 0..=0, 32),
    ("NFLOG", 0..=0, 76),
    ("RATEEST", 0..=0, 24),
    ("SECMARK", 0..=0, 264),
    ("SECMARK", 1..=1, 260),
    ("TCPMSS", 0..=0, 2),
    ("TCPOPTSTRIP", 0..=0, 32),
    ("TEE", 1..=1, 32),
    ("TOS", 1..=1, 2),
    ("TRACE", 0..=0, 0),
    ("TTL", 0..=0, 2),
    ("ULOG", 0..=0, 56),
];

/// Targets that take the packet away.
pub(super) const GONE: &[(&str, RangeInclusive<u8>, usize)] =
    &[("NFQUEUE", 0..=0, 2), ("NFQUEUE", 1..=1, 4), ("NFQUEUE", 2..=3, 6), ("SYNPROXY", 0..=0, 4)];

/// What a target does.
///
/// # Errors
/// The blob is too short for its structure, or holds what the kernel refuses.
pub fn decode_target(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let ipv6 = match extension.family {
        Family::Ipv4 => false,
        Family::Ipv6 => true,
        Family::Inet | Family::Netdev | Family::Bridge => return Ok(opaque(extension)),
    };
    match (extension.name, extension.revision) {
        ("SNAT", 0) if !ipv6 => nat(extension, NatAction::Snat, &IPV4_RANGE),
        ("SNAT", 1) => nat(extension, NatAction::Snat, &RANGE),
        ("SNAT", 2) => nat(extension, NatAction::Snat, &RANGE2),
        ("DNAT", 0) if !ipv6 => nat(extension, NatAction::Dnat, &IPV4_RANGE),
        ("DNAT", 1) => nat(extension, NatAction::Dnat, &RANGE),
        ("DNAT", 2) => nat(extension, NatAction::Dnat, &RANGE2),
        ("MASQUERADE", 0) => nat(extension, NatAction::Masquerade, if ipv6 { &RANGE } else { &IPV4_RANGE }),
        ("REDIRECT", 0) => nat(extension, NatAction::Redirect, if ipv6 { &RANGE } else { &IPV4_RANGE }),
        ("NETMAP", 0) => nat(extension, NatAction::Netmap, if ipv6 { &RANGE } else { &IPV4_RANGE }),
        ("MARK", 2) => mark(extension),
        ("CONNMARK", 1 | 2) => connmark(extension),
        ("HMARK", 0) => {
            Blob::new(extension, 60).map(|_| vec![Step::SetMark(MarkWrite::Unknown("hash of the flow".into()))])
        }
        ("TPROXY", 0) if !ipv6 => tproxy(extension, 16),
        ("TPROXY", 1) => tproxy(extension, 28),
        ("SET", revision @ 0..=3) => set(extension, revision),
        ("CT", 0) => ct(extension, 32),
        ("CT", 1 | 2) => ct(extension, 64),
        ("NOTRACK", 0) => Ok(vec![Step::Notrack]),
        ("REJECT", 0) => Blob::new(extension, 4).map(|_| vec![Step::Verdict(Verdict::Drop)]),
        (name, _) => {
            if let Some(size) = size(HARMLESS, extension) {
                return Blob::new(extension, size).map(|_| vec![Step::Harmless(name.to_owned())]);
            }
            if let Some(size) = size(GONE, extension) {
                return Blob::new(extension, size).map(|_| vec![Step::Verdict(Verdict::Gone(name.to_owned()))]);
            }
            Ok(opaque(extension))
        }
    }
}

fn opaque(extension: &Extension) -> Vec<Step> {
    vec![Step::Opaque(format!("target {} revision {}", extension.name, extension.revision))]
}

/// Where a structure has its fields.
struct RangeLayout {
    size: usize,
    flags: usize,
    addresses: (usize, usize),
    ports: (usize, usize),
}

/// `struct nf_nat_ipv4_multi_range_compat`
const IPV4_RANGE: RangeLayout = RangeLayout { size: 20, flags: 4, addresses: (8, 12), ports: (16, 18) };
/// `struct nf_nat_range`
const RANGE: RangeLayout = RangeLayout { size: 40, flags: 0, addresses: (4, 20), ports: (36, 38) };
/// `struct nf_nat_range2`
const RANGE2: RangeLayout = RangeLayout { size: 44, ..RANGE };

fn nat(extension: &Extension, action: NatAction, layout: &RangeLayout) -> Result<Vec<Step>, Failure> {
    const MAP_IPS: u32 = 0x1;
    const PROTO_SPECIFIED: u32 = 0x2;
    const PERSISTENT: u32 = 0x8;
    let blob = Blob::new(extension, layout.size)?;
    let flags = blob.u32(layout.flags)?;
    let has_addresses = match action {
        NatAction::Masquerade | NatAction::Redirect => false,
        NatAction::Netmap => true,
        NatAction::Snat | NatAction::Dnat => flags & MAP_IPS != 0,
    };
    let addresses = if has_addresses {
        Chosen::Range(blob.inet(layout.addresses.0)?, blob.inet(layout.addresses.1)?)
    } else {
        Chosen::Unset
    };
    let ports = if flags & PROTO_SPECIFIED != 0 {
        Chosen::Range(blob.be16(layout.ports.0)?, blob.be16(layout.ports.1)?)
    } else {
        Chosen::Unset
    };
    let randomization = PortRandomization::from_flags(flags);
    Ok(vec![Step::Nat(Nat { action, addresses, ports, randomization, persistent: flags & PERSISTENT != 0 })])
}

/// `struct xt_mark_tginfo2`
fn mark(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 8)?;
    Ok(vec![Step::SetMark(MarkWrite::Exact { keep: !blob.u32(4)?, take: 0, xor: blob.u32(0)? })])
}

/// `struct xt_connmark_tginfo1`; `struct xt_connmark_tginfo2`, which can shift
fn connmark(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let shifts = extension.revision == 2;
    let blob = Blob::new(extension, 16)?;
    let (value, connection, packet) = (blob.u32(0)?, blob.u32(4)?, blob.u32(8)?);
    let (mode, shift) = if shifts { (blob.u8(14)?, blob.u8(13)?) } else { (blob.u8(12)?, 0) };
    let shifted = |write| match shift {
        0 => write,
        _ => MarkWrite::Unknown(format!("shifted by {shift} bits")),
    };
    Ok(match mode {
        0 => vec![Step::SetConnectionMark(shifted(MarkWrite::Exact { keep: !connection, take: 0, xor: value }))],
        1 => vec![Step::SetConnectionMark(shifted(MarkWrite::Exact { keep: !connection, take: packet, xor: 0 }))],
        // connmark_tg_shift: without a connection the packet keeps its mark
        2 => vec![
            test(has_connection(), false),
            Step::SetMark(shifted(MarkWrite::Exact { keep: !packet, take: connection, xor: 0 })),
        ],
        _ => vec![Step::Opaque(format!("target CONNMARK revision {} mode {mode}", extension.revision))],
    })
}

/// `struct xt_tproxy_target_info`, `struct xt_tproxy_target_info_v1`: marks and accepts, or drops without a socket.
fn tproxy(extension: &Extension, size: usize) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, size)?;
    let write = MarkWrite::Exact { keep: !blob.u32(0)?, take: 0, xor: blob.u32(4)? };
    Ok(vec![Step::SetMark(write), Step::Verdict(Verdict::Accept)])
}

/// `struct xt_set_info_target_v0` to `v3`: adds to a set, deletes from another; the last can copy the mark of an element.
fn set(extension: &Extension, revision: u8) -> Result<Vec<Step>, Failure> {
    const INVALID_ID: u16 = u16::MAX;
    const MAP_MARK: u32 = 1 << 8;
    let (size, deletes_at) = match revision {
        0 => (64, 32),
        1 => (8, 4),
        2 => (16, 4),
        _ => (20, 4),
    };
    let blob = Blob::new(extension, size)?;
    let mut steps = Vec::new();
    for (adds, at) in [(true, 0), (false, deletes_at)] {
        let index = blob.u16(at)?;
        if index != INVALID_ID {
            steps.push(Step::UpdateSet { set: SetId::Ipset(index), adds });
        }
    }
    if revision == 3 && blob.u16(8)? != INVALID_ID && blob.u32(12)? & MAP_MARK != 0 {
        steps.push(Step::SetMark(MarkWrite::Unknown("mark of an ipset's element".into())));
    }
    Ok(steps)
}

/// `struct xt_ct_target_info`, `struct xt_ct_target_info_v1`
fn ct(extension: &Extension, size: usize) -> Result<Vec<Step>, Failure> {
    const NOTRACK: u16 = 0x1;
    let blob = Blob::new(extension, size)?;
    Ok(vec![if blob.u16(0)? & NOTRACK != 0 { Step::Notrack } else { Step::Template }])
}
