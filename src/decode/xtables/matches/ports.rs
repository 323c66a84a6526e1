//! Matches that test ports.

use crate::decode::xtables::{Blob, Extension, all, masked, occasional, opaque_match, other, test, within};
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Condition, Field, Step, Test};

/// Two `__u16`: first and last port.
fn range(blob: &Blob, at: usize, field: Field, inverted: bool) -> Result<Option<Step>, Failure> {
    let (first, last) = (blob.u16(at)?, blob.u16(at + 2)?);
    let any = (first, last, inverted) == (0, u16::MAX, false);
    Ok((!any).then(|| test(within(field, first, last), inverted)))
}

/// `struct xt_tcp`
pub fn tcp(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 12)?;
    let invert = blob.u8(11)?;
    let mut steps = Vec::new();
    steps.extend(range(&blob, 0, Field::SourcePort, invert & 0x1 != 0)?);
    steps.extend(range(&blob, 4, Field::DestinationPort, invert & 0x2 != 0)?);
    let (mask, value, inverted) = (blob.u8(9)?, blob.u8(10)?, invert & 0x4 != 0);
    if (mask, value, inverted) != (0, 0, false) {
        steps.push(test(masked(other("tcp flags"), mask, value), inverted));
    }
    let option = blob.u8(8)?;
    if option != 0 {
        steps.push(occasional(&format!("tcp option {option}")));
    }
    Ok(steps)
}

/// `struct xt_udp`
pub fn udp(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 10)?;
    let invert = blob.u8(8)?;
    let mut steps = Vec::new();
    steps.extend(range(&blob, 0, Field::SourcePort, invert & 0x1 != 0)?);
    steps.extend(range(&blob, 4, Field::DestinationPort, invert & 0x2 != 0)?);
    Ok(steps)
}

/// `struct xt_sctp_info`
pub fn sctp(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 292)?;
    flagged(&blob, blob.u32(284)?, blob.u32(288)?, &[(0x4, "sctp chunks")])
}

/// `struct xt_dccp_info`
pub fn dccp(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let blob = Blob::new(extension, 16)?;
    let (flags, invert) = (blob.u16(8)?.into(), blob.u16(10)?.into());
    flagged(&blob, flags, invert, &[(0x4, "dccp type"), (0x8, "dccp option")])
}

/// Destination ports, then source ports, each only if its flag is set.
fn flagged(blob: &Blob, flags: u32, invert: u32, rest: &[(u32, &str)]) -> Result<Vec<Step>, Failure> {
    let mut steps = Vec::new();
    if flags & 0x1 != 0 {
        steps.extend(range(blob, 4, Field::SourcePort, invert & 0x1 != 0)?);
    }
    if flags & 0x2 != 0 {
        steps.extend(range(blob, 0, Field::DestinationPort, invert & 0x2 != 0)?);
    }
    steps.extend(rest.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, what)| occasional(what)));
    Ok(steps)
}

/// Ports that fit into `struct xt_multiport`.
const MULTI_PORTS: usize = 15;

/// `struct xt_multiport`, `struct xt_multiport_v1`
pub fn multiport(extension: &Extension) -> Result<Vec<Step>, Failure> {
    let with_ranges = extension.revision == 1;
    let blob = Blob::new(extension, if with_ranges { 48 } else { 32 })?;
    let (ends, count) = (blob.u8(0)?, usize::from(blob.u8(1)?));
    let inverted = with_ranges && blob.u8(47)? != 0;
    if count > MULTI_PORTS {
        return Err(Failure::unexpected(format!("multiport: {count} ports, {MULTI_PORTS} fit")));
    }
    let port = |number: usize| blob.u16(2 + 2 * number);
    let mut ranges = Vec::new();
    let mut number = 0;
    while number < count {
        let first = port(number)?;
        let mut last = first;
        if with_ranges && blob.u8(32 + number)? != 0 {
            number += 1;
            if number == MULTI_PORTS {
                return Err(Failure::unexpected(format!("multiport: the range from {first} has no end")));
            }
            last = port(number)?;
        }
        if first <= last {
            ranges.push((u128::from(first), u128::from(last)));
        }
        number += 1;
    }
    let within = |field, ranges| Test { field, condition: Condition::Ranges(ranges) };
    Ok(match ends {
        0 => vec![test(within(Field::SourcePort, ranges), inverted)],
        1 => vec![test(within(Field::DestinationPort, ranges), inverted)],
        2 => {
            let ranges = complement(ranges);
            let neither = vec![within(Field::SourcePort, ranges.clone()), within(Field::DestinationPort, ranges)];
            vec![all(neither, !inverted)]
        }
        _ => opaque_match(extension),
    })
}

/// The ports that are in none of the ranges.
fn complement(mut ranges: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    ranges.sort_unstable();
    let mut free = Vec::new();
    let mut next = 0;
    for (first, last) in ranges {
        if next < first {
            free.push((next, first - 1));
        }
        next = next.max(last + 1);
    }
    let last = u128::from(u16::MAX);
    if next <= last {
        free.push((next, last));
    }
    free
}
