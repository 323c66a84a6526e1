//! Round trips: what was parsed from a kernel's bytes is written as the same bytes.

use std::fmt::Debug;

use natwatch::inside::capture::archive;
use natwatch::netfilter::conntrack::CpuStats;
use natwatch::netfilter::ipset::{IpsetElement, IpsetHeader, IpsetMessage};
use natwatch::netfilter::netlink::{self, AttributeValue, MessageWriter};
use natwatch::netfilter::nfnetlink::NFGENMSG;
use natwatch::netfilter::nftables::{self, expr::Expr};
use natwatch::netfilter::xtables::{self, IptGetEntries, IptGetinfo, Structure, XtFamily};

use super::capture::recorded_nodes;

/// Number of checked items.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Messages of netlink.
    pub messages: usize,
    /// Matches and targets of x_tables in them.
    pub extensions: usize,
    /// Entries of legacy tables.
    pub entries: usize,
}

/// The responses recorded in `tests/nodes`, by node and request.
pub fn recorded_answers() -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for path in recorded_nodes() {
        let node = path.file_stem().expect("a name").to_string_lossy().into_owned();
        for (request, answer) in archive::load(&path).expect("a capture").answers {
            found.extend(answer.into_result().ok().map(|bytes| (format!("{node}/{request}"), bytes)));
        }
    }
    assert!(found.len() > 500, "{} answers", found.len());
    found
}

/// Checks a recorded response by its name; `None` if there are no types for its kind.
#[track_caller]
pub fn round_trips(name: &str, bytes: &[u8]) -> Option<Counts> {
    if name.contains("netlink/netfilter/nft-") {
        return Some(nftables_round_trips(name, bytes));
    }
    let entries = |family| Some(Counts { entries: xtables_round_trips(family, bytes), ..Counts::default() });
    match name {
        name if name.contains("netlink/netfilter/ipset/") => Some(attributes_round_trip(bytes, ipset)),
        name if name.ends_with("netlink/netfilter/ct-stats-cpu") => {
            Some(attributes_round_trip(bytes, |attributes| drop(block::<CpuStats<'_>>(attributes))))
        }
        name if name.contains("xtables/ipv4-") => entries(XtFamily::Ipv4),
        name if name.contains("xtables/ipv6-") => entries(XtFamily::Ipv6),
        _ => None,
    }
}

/// Checks all messages of an nf_tables response.
#[track_caller]
fn nftables_round_trips(name: &str, bytes: &[u8]) -> Counts {
    let mut counts = Counts::default();
    for message in netlink::messages(bytes) {
        let Ok(message) = message else { break };
        if message.is_control() {
            continue;
        }
        let parsed = nftables::NftMessage::parse(message.kind, message.body);
        let parsed = parsed.unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut out = MessageWriter::kernel();
        parsed.emit(&mut out);
        assert_eq!(out.finish(), message.body, "{name}: {parsed:#?}");
        if let nftables::Body::Rule(rule) = &parsed.body {
            counts.extensions += rule_extensions(parsed.header.family, rule);
        }
        counts.messages += 1;
    }
    counts
}

/// Checks what follows `struct nfgenmsg` in each message.
#[track_caller]
fn attributes_round_trip(bytes: &[u8], check: fn(&[u8])) -> Counts {
    let messages = netlink::messages(bytes).map_while(Result::ok).filter(|message| !message.is_control());
    Counts { messages: messages.map(|message| check(&message.body[NFGENMSG..])).count(), ..Counts::default() }
}

/// Checks a message of ipset and its nested attributes.
#[track_caller]
fn ipset(attributes: &[u8]) {
    let message: IpsetMessage<'_> = block(attributes);
    if let Some(data) = &message.data {
        block::<IpsetHeader<'_>>(&data.0);
    }
    for element in message.adt.iter().flat_map(|adt| netlink::attributes(&adt.0, "IPSET_ATTR_ADT")) {
        block::<IpsetElement<'_>>(element.expect("an element").body);
    }
}

/// Checks a block of attributes.
#[track_caller]
fn block<'a, T: AttributeValue<'a> + Debug>(bytes: &'a [u8]) -> T {
    let parsed = T::parse(bytes).expect("a block");
    let mut out = MessageWriter::kernel();
    parsed.emit(&mut out);
    assert_eq!(out.finish(), bytes, "{parsed:#?}");
    parsed
}

/// Checks the x_tables extensions of an nf_tables rule; returns their number.
fn rule_extensions(family: u8, rule: &nftables::Rule<'_>) -> usize {
    let mut count = 0;
    for expression in rule.expressions() {
        let (target, name, revision, info) = match &expression.expr {
            Expr::Match(found) => (false, &found.name, found.rev, &found.info),
            Expr::Target(found) => (true, &found.name, found.rev, &found.info),
            _ => continue,
        };
        let info = info.as_deref().unwrap_or_default();
        let emitted = extension(target, name.as_bytes(), revision, family, info);
        assert_eq!(emitted.expect("its whole structure"), info, "{name:?}");
        count += 1;
    }
    count
}

/// A match or a target, read and written again.
pub fn extension(target: bool, name: &[u8], revision: u32, family: u8, info: &[u8]) -> Option<Vec<u8>> {
    if target {
        xtables::Target::parse(name, revision, family, info).ok().map(|found| found.emit())
    } else {
        xtables::Match::parse(name, revision, family, info).ok().map(|found| found.emit())
    }
}

/// Checks a legacy table; returns the number of its entries.
fn xtables_round_trips(family: XtFamily, bytes: &[u8]) -> usize {
    let mut written = IptGetinfo::parse(&bytes[..IptGetinfo::SIZE]).expect("a description").emit();
    let header = &bytes[written.len()..][..IptGetEntries::SIZE];
    written.extend(IptGetEntries::parse(header).expect("a header").emit());
    let mut count = 0;
    while written.len() < bytes.len() {
        let rest = &bytes[written.len()..];
        let rule = xtables::XtRule::parse(family, rest).expect("an entry");
        let entry = rule.emit();
        assert_eq!(entry, rest[..entry.len()], "{rule:#?}");
        let extensions = rule.matches.iter().map(|found| (false, found)).chain([(true, &rule.target)]);
        for (target, found) in extensions {
            let family = family.nfproto();
            let emitted = extension(target, found.name(), found.header.revision.into(), family, &found.data);
            assert_eq!(emitted.expect("its whole structure"), *found.data, "{found:#?}");
        }
        written.extend(entry);
        count += 1;
    }
    assert_eq!(written, bytes);
    count
}
