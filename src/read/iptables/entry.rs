//! Decodes one rule of a legacy table: header, matches, target.

use std::hash::{BuildHasher as _, Hash, Hasher};

use foldhash::fast::FixedState;

use super::family;
use crate::facts::netfilter::{Comparison, Counter, Field, FieldTest, Match, Rule, Step, Verdict};
use crate::facts::{Failure, Name};
use crate::netfilter::xtables::targets::verdict::{ACCEPT, DROP, QUEUE, RETURN};
use crate::netfilter::xtables::{Entry, Ip, XtEntry, XtFamily, XtTable};
use crate::read::xtables::{self, Extension};

type Result<T> = std::result::Result<T, Failure>;

/// Matches with state in their data, which the kernel changes while the rule stays the same.
const MOVING: &[&str] = &["connlimit", "hashlimit", "limit", "quota", "rateest", "recent", "statistic"];

/// Decodes a rule.
pub(crate) fn rule(table: &XtTable<'_>, entry: &Entry<'_>, position: u32) -> Result<Rule> {
    let ip = entry.ip();
    let mut hasher = FixedState::default().build_hasher();
    ip.hash(&mut hasher);
    let mut steps = Vec::new();
    tests(table.family, &ip, &mut steps);
    let mut comment = String::new();
    for found in entry.matches() {
        let found = found?;
        let extension = extension(table, &found)?;
        (extension.name, extension.revision).hash(&mut hasher);
        if !MOVING.contains(&extension.name) {
            extension.data.hash(&mut hasher);
        }
        if let Some(text) = xtables::comment(&extension) {
            comment = text;
        }
        steps.extend(xtables::decode_match(&extension)?);
    }
    match verdict(table, entry)? {
        Some(verdict) => {
            format!("{verdict:?}").hash(&mut hasher);
            steps.extend(Some(verdict).filter(|verdict| *verdict != Verdict::Continue).map(Step::Verdict));
        }
        None => {
            let target = entry.target()?;
            let extension = extension(table, &target)?;
            (extension.name, extension.revision, extension.data).hash(&mut hasher);
            steps.extend(xtables::decode_target(&extension)?);
        }
    }
    let (packets, bytes) = entry.counters();
    let counter = Some(Counter { packets, bytes });
    Ok(Rule { position, comment, steps, counter, from_xtables: true, fingerprint: hasher.finish() })
}

/// Whether a rule's header admits UDP packets.
pub(crate) fn can_be_udp(entry: &Entry<'_>) -> bool {
    const UDP: u16 = 17;
    const INV_PROTO: u8 = 0x40;
    let Ip { proto, invflags, .. } = entry.ip();
    proto == 0 || (proto == UDP) != (invflags & INV_PROTO != 0)
}

/// What the target does; empty if it is a verdict.
pub(crate) fn target(table: &XtTable<'_>, entry: &Entry<'_>) -> Result<Vec<Step>> {
    if entry.target_is(b"\0") {
        return Ok(Vec::new());
    }
    xtables::decode_target(&extension(table, &entry.target()?)?)
}

fn extension<'a>(table: &XtTable<'_>, entry: &'a XtEntry<'_>) -> Result<Extension<'a>> {
    let name = std::str::from_utf8(entry.name()).map_err(|_| Failure::unexpected("a name is not UTF-8"))?;
    Ok(Extension { name, revision: entry.header.revision, family: family(table), data: &entry.data })
}

/// Index of the chain that the rule jumps to, and whether by goto; `None`: no jump.
pub(crate) fn jump(table: &XtTable<'_>, entry: &Entry<'_>) -> Result<Option<(usize, bool)>> {
    let Some(Ok(offset)) = entry.verdict()?.map(usize::try_from) else { return Ok(None) };
    if offset == entry.next() {
        return Ok(None);
    }
    // IPT_F_GOTO, IP6T_F_GOTO
    let goto = if table.family == XtFamily::Ipv6 { 0x04 } else { 0x02 };
    Ok(Some((table.chain_at(offset)?, entry.ip().flags & goto != 0)))
}

fn verdict(table: &XtTable<'_>, entry: &Entry<'_>) -> Result<Option<Verdict>> {
    if let Some((chain, goes)) = jump(table, entry)? {
        let name = Name::from_bytes(table.name(&table.chains[chain]));
        return Ok(Some(if goes { Verdict::Goto(name) } else { Verdict::Jump(name) }));
    }
    Ok(Some(match entry.verdict()? {
        None => return Ok(None),
        Some(0..) => Verdict::Continue,
        Some(DROP) => Verdict::Drop,
        Some(ACCEPT) => Verdict::Accept,
        Some(QUEUE) => Verdict::Stolen("QUEUE".into()),
        Some(RETURN) => Verdict::Return,
        Some(other) => return Err(Failure::unexpected(format!("verdict {other}"))),
    }))
}

/// Tests of the header: `ip_packet_match`, `ip6_packet_match`.
fn tests(family: XtFamily, ip: &Ip<'_>, steps: &mut Vec<Step>) {
    const INV_VIA_IN: u8 = 0x01;
    const INV_VIA_OUT: u8 = 0x02;
    const INV_SRCIP: u8 = 0x08;
    const INV_DSTIP: u8 = 0x10;
    const INV_FRAG: u8 = 0x20;
    const INV_PROTO: u8 = 0x40;
    const F_FRAG: u8 = 0x01;
    const F_PROTO: u8 = 0x01;
    if ip.has_unknown_flags(family) {
        steps.push(Step::Match(Match::Unsupported("flags that are not known".into())));
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0u128, |number, byte| number << 8 | u128::from(*byte));
    let mut test = |field, mask: u128, value: u128, flag| {
        let inverted = ip.invflags & flag != 0;
        if mask != 0 || inverted {
            let tests = vec![FieldTest { field, condition: Comparison::Masked { mask, value } }];
            steps.push(Step::Match(Match::Tests { tests, inverted }));
        }
    };
    let (source, destination) = match family {
        XtFamily::Ipv4 => (Field::Ipv4Source, Field::Ipv4Destination),
        XtFamily::Ipv6 => (Field::Ipv6Source, Field::Ipv6Destination),
    };
    test(source, number(ip.smsk), number(ip.src), INV_SRCIP);
    test(destination, number(ip.dmsk), number(ip.dst), INV_DSTIP);
    let (input, output) = (number(ip.iniface_mask), number(ip.outiface_mask));
    test(Field::InputName, input, number(ip.iniface) & input, INV_VIA_IN);
    test(Field::OutputName, output, number(ip.outiface) & output, INV_VIA_OUT);
    if ip.proto != 0 && (family == XtFamily::Ipv4 || ip.flags & F_PROTO != 0) {
        test(Field::L4Proto, 0xff, ip.proto.into(), INV_PROTO);
    }
    if family == XtFamily::Ipv4 && (ip.flags & F_FRAG != 0 || ip.invflags & INV_FRAG != 0) {
        // `! -f` without IPT_F_FRAG never holds; iptables does not write it.
        test(Field::Other("fragment".into()), u128::from(ip.flags & F_FRAG), 1, INV_FRAG);
    }
}
