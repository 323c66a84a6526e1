//! Fuzz targets: one function per parser of `natwatch::netfilter`, for `tests/fast/fuzz.rs` and the crate in `fuzz/`,
//! both of which include this file by path.
//!
//! Not in `src`, since only tests run it; and without dependencies other than natwatch, so that either side can use its
//! own mutator.
//!
//! A new parser needs a row in [`TARGETS`], a binary in `fuzz/Cargo.toml` (a test checks that) and seed bytes.

use std::fmt::Debug;

use natwatch::netfilter::Result;
use natwatch::netfilter::conntrack::CpuStats;
use natwatch::netfilter::ipset::{IpsetHeader, IpsetMessage};
use natwatch::netfilter::netlink::{self, AttributeList, AttributeValue, Emit, MessageWriter, NLA_F_NESTED, Text};
use natwatch::netfilter::nftables::expr::Expr;
use natwatch::netfilter::nftables::register::Machine;
use natwatch::netfilter::nftables::uapi::{NFPROTO_BRIDGE, NFPROTO_IPV4, NFPROTO_IPV6};
use natwatch::netfilter::nftables::{Body, Data, Expression, NftMessage, Rule, Set, SetElement, SetElements};
use natwatch::netfilter::xtables::{self, IptGetEntries, IptGetinfo, Structure as _, XtFamily};

/// A parser and the properties that must hold for it.
#[derive(Clone, Copy)]
pub struct Target {
    /// Name, also of the binary in `fuzz/Cargo.toml`.
    pub name: &'static str,
    /// Number of bytes before the first attribute, where a mutator that knows attributes begins.
    pub header: usize,
    /// Panics if a property does not hold.
    pub run: fn(&[u8]),
    /// Inputs to start from, made of a kernel's response and its name in a capture.
    pub seeds: fn(&str, &[u8]) -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "conntrack_stats", header: 0, run: block::<CpuStats<'_>>, seeds: conntrack_stats },
    Target { name: "ipset_message", header: 0, run: ipset_message, seeds: ipset_messages },
    Target { name: "netlink_messages", header: 20, run: framing, seeds: answers },
    Target { name: "netlink_attributes", header: 0, run: attributes, seeds: bodies },
    Target { name: "nftables_message", header: 6, run: nftables_message, seeds: nftables_messages },
    Target { name: "nftables_expression", header: 0, run: nftables_expression, seeds: nftables_expressions },
    Target { name: "nftables_element", header: 0, run: block::<SetElement<'_>>, seeds: nftables_elements },
    Target { name: "nftables_data", header: 0, run: block::<Data<'_>>, seeds: nftables_data },
    Target { name: "nftables_rule", header: 0, run: nftables_rule, seeds: nftables_rules },
    Target { name: "xtables_extension", header: 3, run: xtables_extension, seeds: xtables_extensions },
    Target { name: "xtables_rule", header: 1, run: xtables_rule, seeds: xtables_rules },
    Target { name: "xtables_table", header: 1, run: xtables_table, seeds: xtables_tables },
];

/// Runs the target of this name.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.unwrap_or_else(|| panic!("no target {name}")).run)(input);
}

/// A type that borrows from its input.
pub trait Parsed {
    /// The same type with that lifetime.
    type With<'a>: AttributeValue<'a> + Debug;
}

macro_rules! parsed {
    ($($name:ident)*) => {
        $(impl Parsed for $name<'_> {
            type With<'a> = $name<'a>;
        })*
    };
}
parsed!(CpuStats IpsetMessage SetElement Data Expression Rule Text);

fn emitted(value: &impl Emit) -> Vec<u8> {
    let mut out = MessageWriter::kernel();
    value.emit(&mut out);
    out.finish()
}

/// A parsed value, written and parsed again, is equal; if the input was canonical, its bytes are equal, too.
fn block<T: Parsed>(input: &[u8]) {
    let Ok(value) = T::With::parse(input) else { return };
    round_trip(input, &emitted(&value), canonical(input), &value, T::With::parse, emitted);
}

fn round_trip<'b, T: Debug>(
    input: &[u8],
    written: &'b [u8],
    canonical: bool,
    value: &impl Debug,
    parse: impl FnOnce(&'b [u8]) -> Result<T>,
    emit: impl FnOnce(&T) -> Vec<u8>,
) {
    let again = parse(written).unwrap_or_else(|error| panic!("{error}: {value:#?} was written as {written:02x?}"));
    // Values of two lifetimes have two types, but their debug output is complete.
    assert_eq!(format!("{again:?}"), format!("{value:?}"), "written as {written:02x?}");
    assert_eq!(emit(&again), written, "written twice: {again:#?}");
    assert!(!canonical || written == input, "{value:#?} was\n{input:02x?}, is written as\n{written:02x?}");
}

/// Whether all these bytes are attributes as a kernel writes them, whole, padded with zeros and without flags, at every
/// level.
fn canonical(bytes: &[u8]) -> bool {
    let padded = bytes.len().is_multiple_of(4);
    let mut written = Vec::new();
    for attribute in netlink::attributes(bytes, "") {
        let Ok(attribute) = attribute else { return false };
        let nested = netlink::attributes(attribute.body, "").all(|attribute| attribute.is_ok());
        if attribute.flags != 0 || nested && !attribute.body.is_empty() && !canonical(attribute.body) {
            return false;
        }
        netlink::put(&mut written, attribute.kind, attribute.body);
    }
    padded && written == bytes
}

/// Messages follow each other without a gap, and each is framed as it was.
fn framing(input: &[u8]) {
    let count = netlink::messages(input).take_while(|message| message.is_ok()).count();
    let mut rest = input;
    for _ in 0..count {
        let (whole, next) = netlink::split_message(rest).expect("it was there");
        assert_eq!([whole, next].concat(), rest);
        let (message, _) = netlink::message(whole).expect("it was there");
        let framed = netlink::frame(message.kind, message.flags, message.body);
        let (again, none) = netlink::message(&framed).expect("what was framed");
        assert!(none.is_empty());
        assert_eq!((again.kind, again.flags, again.body), (message.kind, message.flags, message.body));
        let _ = (message.errno(), netlink::sequence(whole), netlink::is_control(whole));
        let _ = netlink::has_attribute(whole, 4, 1);
        rest = next;
    }
    assert!(netlink::messages(rest).next().is_none_or(|message| message.is_err()), "{rest:02x?}");
}

fn attributes(input: &[u8]) {
    let mut written = Vec::new();
    let mut whole = true;
    for attribute in netlink::attributes(input, "input") {
        let Ok(attribute) = attribute else {
            whole = false;
            break;
        };
        netlink::put(&mut written, attribute.kind | attribute.flags, attribute.body);
        assert_eq!(attribute.kind & NLA_F_NESTED, 0);
    }
    let again = netlink::attributes(&written, "written").map(|attribute| attribute.expect("what was written"));
    let again: Vec<_> = again.map(|attribute| (attribute.kind, attribute.flags, attribute.body.to_vec())).collect();
    let first = netlink::attributes(input, "input").filter_map(|attribute| attribute.ok());
    let first: Vec<_> = first.map(|attribute| (attribute.kind, attribute.flags, attribute.body.to_vec())).collect();
    assert_eq!(again, first);
    assert_eq!(netlink::Attributes::parse(input, "input").is_ok(), whole);
}

/// Type (in network order), `struct nfgenmsg`, attributes.
fn nftables_message(input: &[u8]) {
    let Some((kind, body)) = input.split_at_checked(2) else { return };
    let kind = u16::from_be_bytes([kind[0], kind[1]]);
    let Ok(message) = NftMessage::parse(kind, body) else { return };
    let write = |message: &NftMessage<'_>| {
        let mut out = MessageWriter::kernel();
        message.emit(&mut out);
        out.finish()
    };
    round_trip(body, &write(&message), canonical(&body[4..]), &message, |bytes| NftMessage::parse(kind, bytes), write);
    match &message.body {
        Body::Rule(rule) => run_rule(message.header.family, rule),
        Body::SetElements(elements) => run_elements(elements),
        Body::Table(_) | Body::Chain(_) | Body::Set(_) | Body::Generation(_) => {}
    }
}

fn ipset_message(input: &[u8]) {
    block::<IpsetMessage<'_>>(input);
    let Ok(message) = IpsetMessage::parse(input) else { return };
    let _ = message.elements();
    let _ = message.data.map(|data| IpsetHeader::parse(&data.0).is_ok());
}

fn nftables_expression(input: &[u8]) {
    block::<Expression<'_>>(input);
    let Ok(expression) = Expression::parse(input) else { return };
    Machine::new(1).run(0, &expression.expr);
}

fn nftables_rule(input: &[u8]) {
    block::<Rule<'_>>(input);
    let Ok(rule) = Rule::parse(input) else { return };
    for family in [1, 2, 10] {
        run_rule(family, &rule);
    }
}

/// The registers of every rule can be followed.
fn run_rule(family: u8, rule: &Rule<'_>) {
    let mut machine = Machine::new(family);
    for (at, expression) in rule.expressions().iter().enumerate() {
        machine.run(at, &expression.expr);
    }
}

fn run_elements(elements: &SetElements<'_>) {
    for element in elements.elements() {
        let _ = element.statements();
    }
}

/// Families that x_tables extensions may belong to.
const FAMILIES: [u8; 3] = [NFPROTO_IPV4, NFPROTO_IPV6, NFPROTO_BRIDGE];

/// Match or target with the family, index among the known ones, revision, structure.
fn xtables_extension(input: &[u8]) {
    let [kind, which, revision, info @ ..] = input else { return };
    let (family, revision) = (FAMILIES[usize::from(kind >> 1) % FAMILIES.len()], u32::from(*revision));
    let name = |names: &[&'static str]| names[usize::from(*which) % names.len()].as_bytes();
    let emitted = match kind & 1 {
        0 => xtables::Match::parse(name(xtables::Match::NAMES), revision, family, info).map(|found| found.emit()),
        _ => xtables::Target::parse(name(xtables::Target::NAMES), revision, family, info).map(|found| found.emit()),
    };
    assert!(emitted.is_err() || emitted.as_deref() == Ok(info), "{input:02x?} is written as {emitted:02x?}");
}

/// The family that an input's first byte selects.
fn family_of(byte: u8) -> XtFamily {
    if byte & 1 == 1 { XtFamily::Ipv6 } else { XtFamily::Ipv4 }
}

/// The family, then the entry and what follows it.
fn xtables_rule(input: &[u8]) {
    let [family, entry @ ..] = input else { return };
    let Ok(rule) = xtables::XtRule::parse(family_of(*family), entry) else { return };
    let written = rule.emit();
    assert_eq!(written, entry[..written.len()], "{rule:#?}");
}

/// The family, description and entries of a table `nat`.
fn xtables_table(input: &[u8]) {
    let [family, answer @ ..] = input else { return };
    let Ok(table) = xtables::XtTable::new(answer, family_of(*family), "nat") else { return };
    for chain in &table.chains {
        let _ = (table.drops(chain), table.name(chain), table.jumps(chain).count());
        for rule in table.rules(chain).map_while(|rule| rule.ok()) {
            let _ = (rule.ip(), rule.counters(), rule.target(), rule.verdict());
            let _ = rule.matches().take_while(|found| found.is_ok()).count();
        }
    }
}

/// A whole response, unless it is too long for a mutator.
fn answers(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let answer = bytes.len() < 16 << 10 && (name.contains("netlink/") || is_nftables(name));
    answer.then(|| bytes.to_vec()).into_iter().collect()
}

/// What follows `struct nfgenmsg`, or another header of that length.
fn bodies(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    if !name.contains("netlink/") && !is_nftables(name) {
        return Vec::new();
    }
    let messages = netlink::messages(bytes).filter_map(|message| message.ok());
    messages.filter_map(|message| Some(message.body.get(4..)?.to_vec())).collect()
}

fn ipset_messages(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    if name.contains("ipset") { bodies(name, bytes) } else { Vec::new() }
}

/// No recorded node needed these counters: attributes of numbers, as of any block.
fn conntrack_stats(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    if name.contains("nft-generation") || name.contains("forwarding") { bodies(name, bytes) } else { Vec::new() }
}

fn is_nftables(name: &str) -> bool {
    ["netlink/netfilter/nft-", "redact/testdata/", "fuzz-seeds/nftables"].iter().any(|part| name.contains(part))
}

/// The messages of an nf_tables response, parsed; nothing of other responses.
fn each_message(name: &str, bytes: &[u8], mut each: impl FnMut(u16, &[u8], NftMessage<'_>)) {
    if !is_nftables(name) {
        return;
    }
    for message in netlink::messages(bytes).filter_map(|message| message.ok()) {
        if let Ok(parsed) = NftMessage::parse(message.kind, message.body) {
            each(message.kind, message.body, parsed);
        }
    }
}

fn nftables_messages(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    each_message(name, bytes, |kind, body, _| seeds.push([&kind.to_be_bytes(), body].concat()));
    seeds
}

fn nftables_rules(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    each_message(name, bytes, |_, _, message| {
        if let Body::Rule(rule) = &message.body {
            seeds.push(emitted(rule));
        }
    });
    seeds
}

fn nftables_expressions(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    each_message(name, bytes, |_, _, message| match &message.body {
        Body::Rule(rule) => seeds.extend(rule.expressions().iter().map(emitted)),
        Body::SetElements(elements) => {
            let statements = elements.elements().iter().flat_map(|element| element.statements().unwrap_or_default());
            seeds.extend(statements.map(|statement| emitted(&statement)));
        }
        Body::Set(Set { expr, expressions, .. }) => {
            seeds.extend(expr.iter().map(|statement| statement.0.to_vec()));
            let lists = expressions.iter().filter_map(|list| AttributeList::<Expression<'_>>::parse(&list.0).ok());
            seeds.extend(lists.flat_map(|list| list.elements.iter().map(emitted).collect::<Vec<_>>()));
        }
        Body::Table(_) | Body::Chain(_) | Body::Generation(_) => {}
    });
    seeds
}

fn nftables_elements(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    each_message(name, bytes, |_, _, message| {
        if let Body::SetElements(elements) = &message.body {
            seeds.extend(elements.elements().iter().map(emitted));
        }
    });
    seeds
}

fn nftables_data(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    each_message(name, bytes, |_, _, message| {
        if let Body::SetElements(elements) = &message.body {
            let data = |element: &SetElement<'_>| {
                [element.key.clone(), element.key_end.clone(), element.data.clone()]
                    .map(|data| data.map(|data| emitted(&data)))
            };
            seeds.extend(elements.elements().iter().flat_map(data).flatten());
        }
    });
    seeds
}

/// The family of a legacy table by its name in a capture; `None`: it is no such response.
fn legacy_family(name: &str) -> Option<XtFamily> {
    let file = name.rsplit('/').next().unwrap_or_default();
    let table = name.contains("xtables") && !file.ends_with("-info");
    let families = [("ipv4-", XtFamily::Ipv4), ("ipv6-", XtFamily::Ipv6)];
    families.into_iter().find(|(part, _)| table && file.contains(part)).map(|(_, family)| family)
}

/// The rules of a legacy table.
fn legacy_rules(family: XtFamily, bytes: &[u8]) -> Vec<xtables::XtRule<'_>> {
    let mut rules = Vec::new();
    let mut rest = bytes.get(IptGetinfo::SIZE + IptGetEntries::SIZE..).unwrap_or_default();
    while let Ok(rule) = xtables::XtRule::parse(family, rest) {
        rest = &rest[rule.emit().len()..];
        rules.push(rule);
    }
    rules
}

fn xtables_tables(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let small = legacy_family(name).filter(|_| bytes.len() < 16 << 10);
    small.map(|family| [&[u8::from(family == XtFamily::Ipv6)], bytes].concat()).into_iter().collect()
}

fn xtables_rules(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let rules = |family| {
        let byte = u8::from(family == XtFamily::Ipv6);
        legacy_rules(family, bytes).iter().map(|rule| [vec![byte], rule.emit()].concat()).collect()
    };
    legacy_family(name).map(rules).unwrap_or_default()
}

fn xtables_extensions(name: &str, bytes: &[u8]) -> Vec<Vec<u8>> {
    let seed = |target: bool, family: u8, name: &[u8], revision: u32, info: &[u8]| {
        let names = if target { xtables::Target::NAMES } else { xtables::Match::NAMES };
        let which = names.iter().position(|known| known.as_bytes() == name)?;
        let family = FAMILIES.iter().position(|known| *known == family)?;
        let head = [(family << 1 | usize::from(target)) as u8, u8::try_from(which).ok()?, u8::try_from(revision).ok()?];
        Some([&head[..], info].concat())
    };
    let mut seeds = Vec::new();
    each_message(name, bytes, |_, _, message| {
        let Body::Rule(rule) = &message.body else { return };
        seeds.extend(rule.expressions().iter().filter_map(|expression| {
            let (target, name, revision, info) = match &expression.expr {
                Expr::Match(found) => (false, &found.name, found.rev, &found.info),
                Expr::Target(found) => (true, &found.name, found.rev, &found.info),
                _ => return None,
            };
            seed(target, message.header.family, name.as_bytes(), revision, info.as_deref().unwrap_or_default())
        }));
    });
    if let Some(of) = legacy_family(name) {
        let family = of.nfproto();
        for rule in legacy_rules(of, bytes) {
            let extensions = rule.matches.iter().map(|found| (false, found)).chain([(true, &rule.target)]);
            seeds.extend(extensions.filter_map(|(target, found)| {
                seed(target, family, found.name(), found.header.revision.into(), &found.data)
            }));
        }
    }
    seeds
}
