//! One rule: `struct ipt_entry` or `struct ip6t_entry`, with its matches and its target.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::table::{EXTENSION_HEADER, Entry, Table, name_of};
use crate::decode::xtables::{self, Extension};
use crate::netfilter::array;
use crate::snapshot::Failure;
use crate::snapshot::netfilter::{Condition, Counter, Family, Field, Match, Rule, Step, Test, Verdict};

type Result<T> = std::result::Result<T, Failure>;

/// Where `struct ipt_ip` and `struct ip6t_ip6` have their fields; source and destination are at 0 and after it.
struct Header {
    /// Bytes of an address
    width: usize,
    source: Field,
    destination: Field,
    /// `iniface`; `outiface` follows
    names: usize,
    /// `iniface_mask`; `outiface_mask` follows
    masks: usize,
    proto: usize,
    flags: usize,
    invflags: usize,
    /// `IPT_F_GOTO`
    goto: u8,
}

const IPV4: Header = Header {
    width: 4,
    source: Field::Ipv4Source,
    destination: Field::Ipv4Destination,
    names: 16,
    masks: 48,
    proto: 80,
    flags: 82,
    invflags: 83,
    goto: 0x02,
};

const IPV6: Header = Header {
    width: 16,
    source: Field::Ipv6Source,
    destination: Field::Ipv6Destination,
    names: 64,
    masks: 96,
    proto: 128,
    flags: 131,
    invflags: 132,
    goto: 0x04,
};

fn header(family: Family) -> &'static Header {
    if family == Family::Ipv6 { &IPV6 } else { &IPV4 }
}

/// Matches whose data the kernel changes while the rule stays the same.
const MOVING: &[&str] = &["connlimit", "hashlimit", "limit", "quota", "rateest", "recent", "statistic"];

/// Reads a rule.
pub fn rule(table: &Table<'_>, entry: &Entry<'_>, position: u32) -> Result<Rule> {
    let header = header(table.family);
    let mut hasher = DefaultHasher::new();
    entry.bytes[..=header.invflags].hash(&mut hasher);
    let mut steps = Vec::new();
    tests(table.family, header, entry.bytes, &mut steps)?;
    let mut comment = String::new();
    let mut at = table.layout.size;
    while at < entry.target {
        let all = &entry.bytes[at..entry.target];
        let size = usize::from(u16::from_ne_bytes(array(all, 0, "match")?));
        let Some(data) = all.get(EXTENSION_HEADER..size) else {
            return Err(Failure::unexpected(format!("a match of {size} bytes, of {} that are left", all.len())));
        };
        let extension = Extension { name: text(name_of(all))?, revision: all[31], family: table.family, data };
        (extension.name, extension.revision).hash(&mut hasher);
        if !MOVING.contains(&extension.name) {
            data.hash(&mut hasher);
        }
        if let Some(text) = xtables::comment(&extension) {
            comment = text;
        }
        steps.extend(xtables::decode_match(&extension)?);
        at += size;
    }
    match verdict(table, entry)? {
        Some(verdict) => {
            format!("{verdict:?}").hash(&mut hasher);
            steps.extend(Some(verdict).filter(|verdict| *verdict != Verdict::Continue).map(Step::Verdict));
        }
        None => {
            let extension = target(table, entry)?;
            (extension.name, extension.revision, extension.data).hash(&mut hasher);
            steps.extend(xtables::decode_target(&extension)?);
        }
    }
    let word = |at| array(entry.bytes, at, "counters").map(u64::from_ne_bytes);
    let counter = Counter { packets: word(table.layout.counters)?, bytes: word(table.layout.counters + 8)? };
    let fingerprint = hasher.finish();
    Ok(Rule { position, comment, steps, counter: Some(counter), from_xtables: true, fingerprint })
}

/// Whether a UDP packet can get past its header.
pub fn can_be_udp(table: &Table<'_>, entry: &Entry<'_>) -> Result<bool> {
    const UDP: u16 = 17;
    const INV_PROTO: u8 = 0x40;
    let header = header(table.family);
    let protocol = u16::from_ne_bytes(array(entry.bytes, header.proto, "proto")?);
    let inverted = entry.bytes[header.invflags] & INV_PROTO != 0;
    Ok(protocol == 0 || (protocol == UDP) != inverted)
}

/// Its target, if that is no verdict.
pub fn target<'a>(table: &Table<'_>, entry: &Entry<'a>) -> Result<Extension<'a>> {
    let revision = entry.bytes[entry.target + 31];
    Ok(Extension { name: text(entry.target_name())?, revision, family: table.family, data: entry.target_data()? })
}

/// The chain that it jumps or goes to, and whether it goes.
pub fn jump(table: &Table<'_>, entry: &Entry<'_>) -> Result<Option<(usize, bool)>> {
    let Some(Ok(offset)) = entry.verdict()?.map(usize::try_from) else { return Ok(None) };
    if offset == entry.next() {
        return Ok(None);
    }
    let header = header(table.family);
    Ok(Some((table.chain_at(offset)?, entry.bytes[header.flags] & header.goto != 0)))
}

fn verdict(table: &Table<'_>, entry: &Entry<'_>) -> Result<Option<Verdict>> {
    if let Some((chain, goes)) = jump(table, entry)? {
        let name = table.name(&table.chains[chain]);
        return Ok(Some(if goes { Verdict::Goto(name) } else { Verdict::Jump(name) }));
    }
    Ok(Some(match entry.verdict()? {
        None => return Ok(None),
        Some(0..) => Verdict::Continue,
        Some(-1) => Verdict::Drop,
        Some(-2) => Verdict::Accept,
        Some(-4) => Verdict::Gone("QUEUE".into()),
        Some(-5) => Verdict::Return,
        Some(other) => return Err(Failure::unexpected(format!("verdict {other}"))),
    }))
}

fn text(name: &[u8]) -> Result<&str> {
    std::str::from_utf8(name).map_err(|_| Failure::unexpected("a name is not UTF-8"))
}

/// What `ip_packet_match` and `ip6_packet_match` look at.
fn tests(family: Family, header: &Header, bytes: &[u8], steps: &mut Vec<Step>) -> Result<()> {
    const INV_VIA_IN: u8 = 0x01;
    const INV_VIA_OUT: u8 = 0x02;
    const INV_SRCIP: u8 = 0x08;
    const INV_DSTIP: u8 = 0x10;
    const INV_FRAG: u8 = 0x20;
    const INV_PROTO: u8 = 0x40;
    const F_FRAG: u8 = 0x01;
    const F_PROTO: u8 = 0x01;
    let (flags, inverted) = (bytes[header.flags], bytes[header.invflags]);
    let number = |at: usize, width: usize| {
        bytes[at..at + width].iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte))
    };
    let mut test = |field, mask: u128, value: u128, flag| {
        let inverted = inverted & flag != 0;
        if mask != 0 || inverted {
            let tests = vec![Test { field, condition: Condition::Masked { mask, value } }];
            steps.push(Step::Match(Match::Tests { tests, inverted }));
        }
    };
    let width = header.width;
    test(header.source.clone(), number(2 * width, width), number(0, width), INV_SRCIP);
    test(header.destination.clone(), number(3 * width, width), number(width, width), INV_DSTIP);
    for (field, at, flag) in [(Field::InputName, 0, INV_VIA_IN), (Field::OutputName, 16, INV_VIA_OUT)] {
        let mask = number(header.masks + at, 16);
        test(field, mask, number(header.names + at, 16) & mask, flag);
    }
    let proto = u16::from_ne_bytes(array(bytes, header.proto, "proto")?);
    if proto != 0 && (family == Family::Ipv4 || flags & F_PROTO != 0) {
        test(Field::L4Proto, 0xff, proto.into(), INV_PROTO);
    }
    if family == Family::Ipv4 && (flags & F_FRAG != 0 || inverted & INV_FRAG != 0) {
        // `! -f` without `-f` in the flags never holds; iptables does not write it.
        test(Field::Other("fragment".into()), u128::from(flags & F_FRAG), 1, INV_FRAG);
    }
    Ok(())
}
