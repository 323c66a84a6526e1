//! What the matches of x_tables test.

use std::ops::RangeInclusive;

use super::{Blob, Extension, all, masked, occasional, opaque_match, other, test, within};
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Condition, End, Family, Field, MarkWrite, Match, Step, Test, TypeScope};

mod conntrack;
mod ports;

pub(super) use conntrack::has_connection;

/// Matches whose outcome depends on chance, rate or circumstance: name, revisions, size up to the kernel's own fields.
pub(super) const OCCASIONAL: &[(&str, RangeInclusive<u8>, usize)] = &[
    ("cgroup", 0..=0, 8),
    ("cgroup", 1..=1, 4104),
    ("cgroup", 2..=2, 520),
    ("cluster", 0..=0, 16),
    ("connbytes", 0..=0, 24),
    ("connlabel", 0..=0, 4),
    ("connlimit", 0..=1, 24),
    ("cpu", 0..=0, 8),
    ("dst", 0..=0, 40),
    ("ecn", 0..=0, 4),
    ("eui64", 0..=0, 4),
    ("frag", 0..=0, 16),
    ("hashlimit", 1..=1, 48),
    ("hashlimit", 2..=2, 296),
    ("hashlimit", 3..=3, 304),
    ("hbh", 0..=0, 40),
    ("helper", 0..=0, 36),
    ("ipcomp", 0..=0, 12),
    ("ipv6header", 0..=0, 3),
    ("ipvs", 0..=0, 40),
    ("l2tp", 0..=0, 12),
    ("limit", 0..=0, 8),
    ("mac", 0..=0, 12),
    ("mh", 0..=0, 3),
    ("nfacct", 0..=1, 32),
    ("osf", 0..=0, 48),
    ("owner", 1..=1, 20),
    ("quota", 0..=0, 16),
    ("rateest", 0..=0, 56),
    ("recent", 0..=0, 212),
    ("recent", 1..=1, 228),
    ("rpfilter", 0..=0, 1),
    ("rt", 0..=0, 280),
    ("srh", 0..=0, 10),
    ("srh", 1..=1, 108),
    ("statistic", 0..=0, 16),
    ("tcpmss", 0..=0, 6),
    ("time", 0..=0, 24),
];

/// Matches that are known and not decoded.
pub(super) const OPAQUE: &[(&str, RangeInclusive<u8>, usize)] = &[
    ("bpf", 0..=1, 520),
    ("physdev", 0..=0, 66),
    ("policy", 0..=0, 308),
    ("string", 1..=1, 152),
    ("u32", 0..=0, 1984),
];

pub(super) fn size(table: &[(&str, RangeInclusive<u8>, usize)], extension: &Extension) -> Option<usize> {
    let known = |(name, revisions, _): &&(&str, RangeInclusive<u8>, usize)| {
        *name == extension.name && revisions.contains(&extension.revision)
    };
    table.iter().find(known).map(|(_, _, size)| *size)
}

/// What a match tests: steps that all have to hold, in order.
///
/// # Errors
/// The blob is too short for its structure, or holds what the kernel refuses.
pub fn decode_match(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let ipv6 = match extension.family {
        Family::Ipv4 => false,
        Family::Ipv6 => true,
        Family::Inet | Family::Netdev | Family::Bridge => return Ok(opaque_match(extension)),
    };
    match (extension.name, extension.revision) {
        ("addrtype", 0) if !ipv6 => addrtype_v0(extension),
        ("addrtype", 1) => addrtype_v1(extension, ipv6),
        ("ah", 0) => ah(extension, ipv6),
        ("comment", 0) => Blob::new(extension, 256).map(|_| Vec::new()),
        ("connmark", 1) => conntrack::connmark(extension),
        ("conntrack", 1..=3) => conntrack::conntrack(extension),
        ("dccp", 0) => ports::dccp(extension),
        ("devgroup", 0) => devgroup(extension),
        ("dscp", 0) => dscp(extension),
        ("esp", 0) => esp(extension, "esp spi"),
        ("hl", 0) if ipv6 => ttl(extension, "hop limit"),
        ("icmp", 0) if !ipv6 => icmp(extension, "icmp"),
        ("icmp6", 0) if ipv6 => icmp(extension, "icmpv6"),
        ("iprange", 1) => iprange(extension, ipv6),
        ("length", 0) => length(extension),
        ("mark", 1) => mark(extension),
        ("multiport", 0 | 1) => ports::multiport(extension),
        ("pkttype", 0) => pkttype(extension),
        ("realm", 0) => realm(extension),
        ("sctp", 0) => ports::sctp(extension),
        ("set", 0) => set_v0(extension),
        ("set", 1..=4) => set(extension),
        ("socket", 0..=3) => socket(extension),
        ("state", 0) => conntrack::state(extension),
        ("tcp", 0) => ports::tcp(extension),
        ("tos", 1) => tos(extension),
        ("ttl", 0) if !ipv6 => ttl(extension, "ttl"),
        ("udp" | "udplite", 0) => ports::udp(extension),
        (name, _) => {
            if let Some(size) = size(OCCASIONAL, extension) {
                return Blob::new(extension, size).map(|_| vec![occasional(name)]);
            }
            Blob::new(extension, size(OPAQUE, extension).unwrap_or(0))?;
            Ok(opaque_match(extension))
        }
    }
}

/// `struct xt_mark_mtinfo1`
fn mark(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    Ok(vec![test(masked(Field::Mark, blob.u32(4)?, blob.u32(0)?), blob.u8(8)? != 0)])
}

/// `struct xt_addrtype_info`
fn addrtype_v0(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    let ends = [(Field::SourceType, 0, 4), (Field::DestinationType, 2, 8)] as [(fn(TypeScope) -> Field, _, _); 2];
    let mut steps = Vec::new();
    for (field, types, invert) in ends {
        let types = blob.u16(types)?;
        if types != 0 {
            steps.push(test(one_of_types(field(TypeScope::Any), types), blob.u32(invert)? != 0));
        }
    }
    Ok(steps)
}

/// `struct xt_addrtype_info_v1`
fn addrtype_v1(extension: &Extension, ipv6: bool) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 8)?;
    let flags = blob.u32(4)?;
    let scope = match (flags & 0x4 != 0, flags & 0x8 != 0) {
        (true, _) => TypeScope::Input,
        (false, true) => TypeScope::Output,
        (false, false) => TypeScope::Any,
    };
    let mut steps = Vec::new();
    for (field, address, types, inverted) in [
        (Field::SourceType(scope), Field::Ipv6Source, blob.u16(0)?, flags & 0x1 != 0),
        (Field::DestinationType(scope), Field::Ipv6Destination, blob.u16(2)?, flags & 0x2 != 0),
    ] {
        if types == 0 {
            continue;
        }
        if !ipv6 {
            steps.push(test(one_of_types(field, types), inverted));
        } else if let Some(tests) = ipv6_types(&field, &address, types) {
            steps.push(all(tests, inverted));
        } else {
            steps.extend(opaque_match(extension));
        }
    }
    Ok(steps)
}

/// `match_type`: the address has one of these types.
fn one_of_types(field: Field, types: u16) -> Test {
    let types = (0..16u8).filter(|kind| types >> kind & 1 == 1).map(|kind| (kind.into(), kind.into()));
    Test { field, condition: Condition::Ranges(types.collect()) }
}

/// `match_type6`: the address has **all** of these types, the first three being prefixes. `None`: types of routes other
/// than local ones.
fn ipv6_types(field: &Field, address: &Field, types: u16) -> Option<Vec<Test>> {
    const UNSPECIFIED: u16 = 1;
    const UNICAST: u16 = 1 << 1;
    const LOCAL: u16 = 1 << 2;
    const MULTICAST: u16 = 1 << 5;
    if types & !(UNSPECIFIED | UNICAST | LOCAL | MULTICAST) != 0 {
        return None;
    }
    let first_multicast = 0xff00u128 << 112;
    let mut tests = Vec::new();
    if types & MULTICAST != 0 {
        tests.push(masked(address.clone(), first_multicast, first_multicast));
    }
    if types & UNICAST != 0 {
        tests.push(within(address.clone(), 1u8, first_multicast - 1));
    }
    if types & UNSPECIFIED != 0 {
        tests.push(masked(address.clone(), u128::MAX, 0u8));
    }
    if types & LOCAL != 0 {
        tests.push(one_of_types(field.clone(), LOCAL));
    }
    Some(tests)
}

/// `struct xt_set_info_match_v0`
fn set_v0(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 32)?;
    let mut ends = Vec::new();
    for at in [4, 8, 12, 16, 20] {
        match blob.u32(at)? {
            0 => break,
            flags => ends.push(if flags & 0x1 != 0 { End::Source } else { End::Destination }),
        }
    }
    let inverted = blob.u32(4)? & 0x4 != 0;
    Ok(vec![Step::Match(Match::Ipset { index: blob.u16(0)?, ends, inverted })])
}

/// `struct xt_set_info_match_v1` (revision 2 uses it too), `_v3`, `_v4`
fn set(extension: &Extension) -> Result<Vec<Step>, Failure> {
    const RETURN_NOMATCH: u8 = 1 << 7;
    let counters = extension.revision >= 3;
    let blob = Blob::new(extension, if counters { 48 } else { 4 })?;
    let (index, dimensions, flags) = (blob.u16(0)?, blob.u8(2)?, blob.u8(3)?);
    if dimensions > 6 {
        return Err(Failure::unexpected(format!("match set: {dimensions} dimensions, an ipset has at most 6")));
    }
    let inverted = flags & 0x1 != 0;
    // struct ip_set_counter_match0 has the comparison before the value, ip_set_counter_match after it.
    let compared = match extension.revision {
        3 => blob.u8(8)? != 0 || blob.u8(24)? != 0,
        4 => blob.u8(16)? != 0 || blob.u8(32)? != 0,
        _ => false,
    };
    let nomatch = flags & RETURN_NOMATCH != 0 || counters && blob.u32(40)? & u32::from(RETURN_NOMATCH) != 0;
    if nomatch || inverted && compared {
        return Ok(opaque_match(extension)); // which of both is inverted depends on the kernel
    }
    let end = |dimension: u8| if flags >> dimension & 1 == 1 { End::Source } else { End::Destination };
    let mut steps = vec![Step::Match(Match::Ipset { index, ends: (1..=dimensions).map(end).collect(), inverted })];
    if compared {
        steps.push(occasional("set: counters of an element"));
    }
    Ok(steps)
}

/// `struct xt_socket_mtinfo1`, the same for revisions 2 and 3; nothing for revision 0.
fn socket(extension: &Extension) -> Result<Vec<Step>, Failure> {
    const RESTORE_MARK: u8 = 1 << 2;
    let mut steps = vec![occasional("socket")];
    let blob = Blob::new(extension, usize::from(extension.revision != 0))?;
    if extension.revision == 3 && blob.u8(0)? & RESTORE_MARK != 0 {
        steps.push(Step::SetMark(MarkWrite::Unknown("mark of the socket".into())));
    }
    Ok(steps)
}

/// `struct xt_iprange_mtinfo`
fn iprange(extension: &Extension, ipv6: bool) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 68)?;
    let flags = blob.u8(64)?;
    let (source, destination) =
        if ipv6 { (Field::Ipv6Source, Field::Ipv6Destination) } else { (Field::Ipv4Source, Field::Ipv4Destination) };
    let mut steps = Vec::new();
    for (field, at, wanted, inverted) in [(source, 0, 0x01, 0x10), (destination, 32, 0x02, 0x20)] {
        if flags & wanted != 0 {
            let range = within(field, blob.inet_number(at)?, blob.inet_number(at + 16)?);
            steps.push(test(range, flags & inverted != 0));
        }
    }
    Ok(steps)
}

/// `struct ipt_icmp`, `struct ip6t_icmp`
fn icmp(extension: &Extension, name: &str) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 4)?;
    let (kind, first, last, inverted) = (blob.u8(0)?, blob.u8(1)?, blob.u8(2)?, blob.u8(3)? & 0x1 != 0);
    let (kinds, codes) = (other(&format!("{name} type")), other(&format!("{name} code")));
    if kind != 0xff {
        return Ok(vec![all(vec![within(kinds, kind, kind), within(codes, first, last)], inverted)]);
    }
    if extension.family == Family::Ipv6 {
        return Ok(opaque_match(extension)); // any type in new kernels, type 255 in old ones
    }
    Ok(vec![test(masked(kinds, 0u8, 0u8), inverted)])
}

/// `struct xt_esp`, `struct ipt_ah`
fn esp(extension: &Extension, name: &str) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    Ok(vec![test(within(other(name), blob.u32(0)?, blob.u32(4)?), blob.u8(8)? & 0x1 != 0)])
}

/// `struct ipt_ah`; `struct ip6t_ah`, which also tests that there is such a header
fn ah(extension: &Extension, ipv6: bool) -> Result<Vec<Step>, Failure> {
    if ipv6 { Blob::new(extension, 16).map(|_| vec![occasional("ah")]) } else { esp(extension, "ah spi") }
}

/// `struct xt_length_info`
fn length(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 6)?;
    Ok(vec![test(within(other("packet length"), blob.u16(0)?, blob.u16(2)?), blob.u8(4)? != 0)])
}

/// `struct ipt_ttl_info`, `struct ip6t_hl_info`
fn ttl(extension: &Extension, name: &str) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 2)?;
    let (mode, value, field) = (blob.u8(0)?, blob.u8(1)?, other(name));
    Ok(match mode {
        0 | 1 => vec![test(within(field, value, value), mode == 1)],
        2 => vec![test(within(field, value, u8::MAX), true)],
        3 => vec![test(within(field, 0u8, value), true)],
        _ => opaque_match(extension),
    })
}

/// `struct xt_dscp_info`
fn dscp(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 2)?;
    Ok(vec![test(masked(other("dscp"), u8::MAX, blob.u8(0)?), blob.u8(1)? != 0)])
}

/// `struct xt_tos_match_info`
fn tos(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 3)?;
    Ok(vec![test(masked(other("tos"), blob.u8(0)?, blob.u8(1)?), blob.u8(2)? != 0)])
}

/// `struct xt_pkttype_info`
fn pkttype(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 8)?;
    Ok(vec![test(masked(other("packet type"), u32::MAX, blob.u32(0)?), blob.u32(4)? != 0)])
}

/// `struct xt_realm_info`
fn realm(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    Ok(vec![test(masked(other("realm"), blob.u32(4)?, blob.u32(0)?), blob.u8(8)? != 0)])
}

/// `struct xt_devgroup_info`
fn devgroup(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 20)?;
    let flags = blob.u32(0)?;
    let mut steps = Vec::new();
    for (name, at, wanted, inverted) in [("input device group", 4, 0x1, 0x2), ("output device group", 12, 0x4, 0x8)] {
        let (group, mask) = (blob.u32(at)?, blob.u32(at + 4)?);
        if flags & wanted != 0 {
            steps.push(test(masked(other(name), mask, group & mask), flags & inverted != 0));
        }
    }
    Ok(steps)
}
