//! Matches of x_tables on ports.

use super::{Extension, all, masked, non_deterministic, other, test, unsupported_match, within};
use crate::facts::Failure;
use crate::facts::netfilter::{Field, FieldTest, Step};
use crate::netfilter::xtables::matches::tcp::XtTcp;

/// A range of ports; `None` if it includes all.
fn range([first, last]: [u16; 2], field: Field, inverted: bool) -> Option<Step> {
    let any = (first, last, inverted) == (0, u16::MAX, false);
    (!any).then(|| test(within(field, first, last), inverted))
}

/// Source and destination ports of TCP, UDP and UDP-Lite.
pub(crate) fn both(source: [u16; 2], destination: [u16; 2], invert: u8) -> Vec<Step> {
    let source = range(source, Field::SourcePort, invert & 0x1 != 0);
    source.into_iter().chain(range(destination, Field::DestinationPort, invert & 0x2 != 0)).collect()
}

/// `tcp_mt`: ports, flags and TCP option.
pub(crate) fn tcp(info: &XtTcp<'_>) -> Vec<Step> {
    let mut steps = both(info.spts, info.dpts, info.invflags);
    let (mask, value, inverted) = (info.flg_mask, info.flg_cmp, info.invflags & 0x4 != 0);
    if (mask, value, inverted) != (0, 0, false) {
        steps.push(test(masked(other("tcp flags"), mask, value), inverted));
    }
    if info.option != 0 {
        steps.push(non_deterministic(&format!("tcp option {}", info.option)));
    }
    steps
}

/// Ports of SCTP and DCCP, each tested only if its flag is set, and names of the other tests.
pub(crate) fn flagged(
    source: [u16; 2],
    destination: [u16; 2],
    flags: u32,
    invert: u32,
    rest: &[(u32, &str)],
) -> Vec<Step> {
    let mut steps = Vec::new();
    if flags & 0x1 != 0 {
        steps.extend(range(source, Field::SourcePort, invert & 0x1 != 0));
    }
    if flags & 0x2 != 0 {
        steps.extend(range(destination, Field::DestinationPort, invert & 0x2 != 0));
    }
    steps.extend(rest.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, what)| non_deterministic(what)));
    steps
}

/// `struct xt_multiport_v1`
pub(crate) struct Multiport {
    /// `XT_MULTIPORT_*`
    pub ends: u8,
    /// Number of ports in use.
    pub count: u8,
    /// Ports, host byte order.
    pub ports: [u16; 15],
    /// Not 0: this port begins a range, which the next one ends.
    pub begins: [u8; 15],
    /// Whether it matches all other ports.
    pub inverted: bool,
}

/// Any of several ports and port ranges.
pub(crate) fn multiport(extension: &Extension, tested: &Multiport) -> Result<Vec<Step>, Failure> {
    let Multiport { ends, count, ports, begins, inverted } = *tested;
    let count = usize::from(count);
    if count > ports.len() {
        return Err(Failure::unexpected(format!("multiport: {count} ports, {} fit", ports.len())));
    }
    let mut ranges = Vec::new();
    let mut number = 0;
    while number < count {
        let first = ports[number];
        let mut last = first;
        if begins[number] != 0 {
            number += 1;
            let end = ports.get(number);
            let no_end = || Failure::unexpected(format!("multiport: the range from {first} has no end"));
            last = *end.ok_or_else(no_end)?;
        }
        if first <= last {
            ranges.push((u128::from(first), u128::from(last)));
        }
        number += 1;
    }
    let within = FieldTest::within;
    Ok(match ends {
        0 => vec![test(within(Field::SourcePort, ranges), inverted)],
        1 => vec![test(within(Field::DestinationPort, ranges), inverted)],
        2 => {
            let ranges = complement(ranges);
            let neither = vec![within(Field::SourcePort, ranges.clone()), within(Field::DestinationPort, ranges)];
            vec![all(neither, !inverted)]
        }
        _ => unsupported_match(extension),
    })
}

/// Ports outside all ranges.
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
