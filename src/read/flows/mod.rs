//! Conntrack entries, from ctnetlink: which dumps are made, and when. Called by `parts` after rules and links.
//!
//! A dump walks the hash table. The hash is keyed, so its first entries are a random sample of the table, whatever its
//! size, after which the socket is closed. What a sample cannot show is dumped with a kernel filter (`CTA_FILTER` since
//! Linux 5.8, `CTA_STATUS_MASK` since 5.15). Older kernels silently ignore filters, so each entry is checked here as
//! well.
//!
//! A filtered dump walks the whole table, some 0.4 s for a million entries; `serve` repeats it only after 200 times
//! that time (`Known::age_flows`). If no advisory can depend on entries, none are dumped: even an empty table of
//! 262,144 buckets takes 7 ms.
//!
//! Kernel sources: `ctnetlink_dump_table`, `ctnetlink_filter_match`, `ctnetlink_filter_match_tuple`.

mod frequent;
mod gather;
mod requests;
mod wanted;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::links::LinkFacts;
use super::{Node, Sources, modules};
use crate::capture::{Request, Take};
use crate::facts::netfilter::Family;
use crate::facts::{
    Failure, FlowReading, Flows, PortsUsed, Reading, RewrittenFlows, SnatPorts, Source, UdpTranslations, Unanswered,
};
use crate::netfilter::conntrack::{Entry, IPS_DST_NAT, IPS_SRC_NAT};
use crate::netfilter::netlink;
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::read::known::flows::{KeptPart, KnownFlows, PortRange, Rulesets, Wanted, are_equivalent};
use gather::{Composition, FlowEntry, PortCounts, Translations, Tunnels};
use requests::{entries, of_udp, towards};
use wanted::PRESSURE_FROM;

/// Destinations whose ports are counted exactly, by a filtered dump each, in one reading.
const COUNTED_EXACTLY: usize = 4;
/// Size limit of a filtered dump, bytes: half a million entries.
const MAX_FILTERED: usize = 128 << 20;

/// Limits on what is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowLimits {
    /// Number of entries in the sample (`--collector.flows.sample`).
    pub sample: u64,
    /// Size limit of one dump, bytes; it is cut off there.
    pub most_bytes: usize,
}

impl FlowLimits {
    /// For a capture: number of entries dumped without a filter, and size of each dump.
    pub const CAPTURE: Self = Self { sample: 65_536, most_bytes: 20 << 20 };
}

impl Default for FlowLimits {
    fn default() -> Self {
        Self { sample: 16_384, most_bytes: MAX_FILTERED }
    }
}

/// Prefix of the names of requests in a second UDP reading.
pub(crate) const SECOND_READING: &str = "netlink/netfilter/ct-entries-udp-again-";

/// Reads the parts that are needed and due. `count`: size of the table.
pub(crate) fn read(node: &mut Node<'_>, rulesets: Rulesets, links: &LinkFacts, count: &Reading<u64>) -> Flows {
    let mut known = std::mem::take(&mut node.left.flows);
    let of_rules = match known.rules.take() {
        Some((same, wanted)) if are_equivalent(&same, &rulesets) => wanted,
        _ => wanted::of_rules(&rulesets),
    };
    let mut wanted = wanted::beside(of_rules.clone(), links);
    // Entries outlive rules: groups seen before are followed until they disappear.
    wanted.udp |= known.udp.part.as_ref().and_then(|part| part.found.ok()).is_some_and(|udp| !udp.each.is_empty());
    if known.wanted != wanted && !known.second {
        // Other rules invalidate everything but the groups of translated UDP entries.
        known = KnownFlows { udp: known.udp, ..KnownFlows::default() };
    }
    known.wanted = wanted;
    known.rules = Some((rulesets, of_rules));
    if let Some(unread) = unread(node, &known.wanted, count) {
        let KnownFlows { rules, wanted, .. } = known;
        node.left.flows = KnownFlows { rules, wanted, ..KnownFlows::default() };
        return Flows::unread(&unread);
    }
    let flows = read_due(node, &mut known, links, count.ok().copied());
    known.second = false;
    node.left.flows = known;
    flows
}

/// Why nothing is to be read; `None`: something is.
fn unread(node: &mut Node<'_>, wanted: &Wanted, count: &Reading<u64>) -> Option<Reading<()>> {
    let needless = |why: &str| Some(Reading::Failed(Failure::not_needed(why)));
    match count {
        Reading::Absent(_) => return needless("not read: nf_conntrack is not there"),
        count if !wanted::is_worth_reading(wanted, count.ok().copied()) => {
            return needless(
                "not read: with so few entries, no tunnel and no UDP that is translated nothing depends on them",
            );
        }
        _ => {}
    }
    let presence = without_entries(modules::presence(node, &modules::CONNTRACK_ENTRIES));
    node.sources.note(Source::CtnetlinkEntries, &presence);
    match presence {
        Reading::Ok(()) => None,
        other => Some(other),
    }
}

/// A capture without entries was made without them, which is no failure.
fn without_entries<T>(reading: Reading<T>) -> Reading<T> {
    match reading {
        Reading::Failed(failure) if failure.is_not_captured() => {
            Reading::Failed(Failure::NotAnswered(Unanswered::NotCaptured).within("entries (capture --collector.flows)"))
        }
        reading => reading,
    }
}

fn read_due(node: &mut Node<'_>, known: &mut KnownFlows, links: &LinkFacts, count: Option<u64>) -> Flows {
    let wanted = known.wanted.clone();
    let parts = [known.sample.due, known.ports.due, known.tunnels.due, known.udp.due];
    if parts.contains(&true) {
        known.sources = Sources::default();
    }
    let before = std::mem::take(&mut node.sources);
    if known.sample.due {
        read_sample(node, known, links, count);
    }
    if known.ports.due {
        let (found, cost) = timed(node, |node| read_ports(node, &wanted, known.estimates.as_deref()));
        known.ports = KeptPart::new(found, cost);
    }
    if known.tunnels.due {
        let (found, cost) = timed(node, |node| read_tunnels(node, &wanted, links));
        known.tunnels = KeptPart::new(found, cost);
    }
    if known.udp.due {
        let earlier = known.udp.part.take();
        let again = known.second;
        let (found, cost) = timed(node, |node| read_udp(node, &wanted, earlier.as_ref(), again));
        known.udp = KeptPart::new(found, cost);
    }
    let asked = std::mem::replace(&mut node.sources, before);
    known.sources.take_over(&asked, &[Source::CtnetlinkEntries]);
    node.sources.asked(Source::CtnetlinkEntries);
    node.sources.take_over(&known.sources, &[Source::CtnetlinkEntries]);
    fn part<T: Clone>(kept: &KeptPart<T>) -> FlowReading<T> {
        kept.part.clone().unwrap_or_else(|| not_needed("not read"))
    }
    Flows {
        sample: part(&known.sample),
        ports: part(&known.ports),
        tunnels: part(&known.tunnels),
        udp: part(&known.udp),
    }
}

fn timed<T>(node: &mut Node<'_>, read: impl FnOnce(&mut Node<'_>) -> T) -> (T, Duration) {
    let before = node.cpu_time();
    let found = read(node);
    (found, node.cpu_time().saturating_sub(before))
}

/// Passes the entries of a dump to `take` until it has enough. Returns whether the dump was complete.
fn each(node: &mut Node<'_>, request: &Request, take: &mut dyn FnMut(&FlowEntry) -> Take) -> Reading<bool> {
    let (mut broken, mut ended, mut bytes) = (None, false, 0);
    let most = node.collectors.flows.most_bytes;
    let reading = node.try_ask(request, &mut |message| {
        bytes += message.len().next_multiple_of(4);
        let flow = match netlink::message(message) {
            Ok((message, _)) if message.is_control() => {
                ended = true;
                return Take::More;
            }
            Ok((message, _)) => Nfgenmsg::parse::<Entry<'_>>(message.body)
                .map_err(Failure::from)
                .and_then(|(_, entry)| FlowEntry::new(&entry)),
            Err(error) => Err(error.into()),
        };
        match flow {
            Ok(flow) if bytes < most => take(&flow),
            Ok(flow) => {
                take(&flow);
                Take::Enough
            }
            Err(failure) => {
                broken = Some(failure.within(&request.name));
                Take::Enough
            }
        }
    });
    let reading = match broken {
        Some(failure) => Reading::Failed(failure),
        None => without_entries(reading.map(|()| ended)),
    };
    node.note(request, reading)
}

/// Reads the sample; if it is the whole table, all other parts come from it.
fn read_sample(node: &mut Node<'_>, known: &mut KnownFlows, links: &LinkFacts, count: Option<u64>) {
    let wanted = &known.wanted;
    let earlier = known.udp.part.take();
    let earlier_found = earlier.as_ref().and_then(|part| since_then(part, false));
    let (mut composition, mut ports) = (Composition::default(), PortCounts::new(wanted));
    let (mut tunnels, mut udp) = (Tunnels::new(wanted, local_addresses(links)), Translations::new(earlier_found));
    let most = node.collectors.flows.sample;
    let reading = each(node, &entries("", 0, Entry::default()), &mut |flow| {
        composition.add(flow);
        ports.add(flow);
        tunnels.add(flow);
        udp.add(flow);
        if composition.sampled() >= most { Take::Enough } else { Take::More }
    });
    let entries = count.unwrap_or(0);
    let whole = reading.ok() == Some(&true);
    let found = reading.map(|whole| Arc::new(composition.end(entries, whole)));
    known.estimates = found.ok().map(|_| Arc::new(ports.end(entries, whole)));
    if whole {
        let exact = known.estimates.as_ref().filter(|ports| ports.uncounted == 0 && !wanted.too_many_ranges);
        known.ports = exact
            .map_or_else(KeptPart::default, |ports| KeptPart::new(read_now(Arc::clone(ports), true), Duration::ZERO));
        known.tunnels = KeptPart::new(read_now(tunnels.end(), true), Duration::ZERO);
        let complete = !udp.overflowed;
        known.udp = KeptPart::new(read_now(udp.end(), complete), Duration::ZERO);
    } else {
        drop(udp);
        known.udp.part = earlier;
    }
    // Its cost is bounded by its size.
    known.sample = KeptPart::new(FlowReading { found, complete: whole, age: Duration::ZERO }, Duration::ZERO);
}

fn read_now<T>(found: impl Into<Arc<T>>, complete: bool) -> FlowReading<T> {
    FlowReading { found: Reading::Ok(found.into()), complete, age: Duration::ZERO }
}

fn not_needed<T>(why: &str) -> FlowReading<T> {
    FlowReading::unread(Reading::Failed(Failure::not_needed(why)))
}

/// Counts exactly for destinations that may have many ports in use; the others keep their estimates.
fn read_ports(node: &mut Node<'_>, wanted: &Wanted, estimates: Option<&SnatPorts>) -> FlowReading<SnatPorts> {
    let Some(estimates) = estimates else {
        return FlowReading::unread(Reading::Failed(Failure::unexpected("no sample says which destinations to count")));
    };
    if wanted.ranges.is_empty() {
        return not_needed("not read: no rule translates sources");
    }
    if wanted.too_many_ranges {
        let why = "rules choose from more ranges of ports than are told apart";
        return FlowReading::unread(Reading::Failed(Failure::unsupported(why)));
    }
    let mut ports = estimates.clone();
    let upper = |used: &PortsUsed| used.used as f64 + 3.0 * used.error.unwrap_or(0.0);
    let candidates = ports.used.iter_mut().filter(|used| upper(used) >= PRESSURE_FROM * used.key.available() as f64);
    for (at, used) in candidates.take(COUNTED_EXACTLY).enumerate() {
        let alone = Wanted { ranges: vec![PortRange { ports: used.key.range, addresses: None }], ..Wanted::default() };
        let mut counted = PortCounts::new(&alone);
        let key = used.key;
        let reading = each(node, &towards(at, used), &mut |flow| {
            let is_towards = flow.reply.source == (key.destination, key.port)
                && flow.reply.destination.0 == key.source
                && flow.protocol == key.protocol;
            if is_towards {
                counted.add(flow);
            }
            Take::More
        });
        if reading.ok() == Some(&true) {
            let exact = counted.end(0, true).used.into_iter().find(|exact| exact.key == key);
            *used = exact.unwrap_or(PortsUsed { key, used: 0, time_wait: 0, error: None, clients: Vec::new() });
        }
    }
    ports.used.sort_by(PortsUsed::fuller_first);
    read_now(ports, false)
}

/// Addresses of this host; `None`: not known.
fn local_addresses(links: &LinkFacts) -> Option<BTreeSet<IpAddr>> {
    links.standing.addresses.ok().map(|all| all.iter().map(|address| address.address).collect())
}

fn read_tunnels(node: &mut Node<'_>, wanted: &Wanted, links: &LinkFacts) -> FlowReading<RewrittenFlows> {
    if wanted.tunnel_ports.is_empty() {
        return not_needed("not read: no tunnel is up");
    }
    let mut tunnels = Tunnels::new(wanted, local_addresses(links));
    let mut whole = true;
    for port in &wanted.tunnel_ports {
        for family in Family::IP {
            let request = of_udp(&format!("tunnel-{port}"), family, Some(*port), IPS_SRC_NAT);
            let reading = each(node, &request, &mut |flow| {
                if flow.original.destination.1 == *port {
                    tunnels.add(flow); // kernels that ignore the filter send all ports each time
                }
                Take::More
            });
            match reading {
                Reading::Ok(ended) => whole &= ended,
                other => return FlowReading::unread(other.map(drop)),
            }
        }
    }
    read_now(tunnels.end(), whole)
}

/// The earlier result and the minimum time since then. `again`: `age` is the pause between the two readings; else it is
/// measured between starts of readings, which precede the dumps by up to `BEFORE_ENTRIES`.
fn since_then(part: &FlowReading<UdpTranslations>, again: bool) -> Option<(&UdpTranslations, Duration)> {
    const BEFORE_ENTRIES: Duration = Duration::from_secs(1);
    let at_least = if again { part.age } else { part.age.saturating_sub(BEFORE_ENTRIES) };
    Some((part.found.ok()?, at_least))
}

fn read_udp(
    node: &mut Node<'_>,
    wanted: &Wanted,
    earlier: Option<&FlowReading<UdpTranslations>>,
    again: bool,
) -> FlowReading<UdpTranslations> {
    if !wanted.udp {
        return not_needed("not read: no rule translates destinations of UDP");
    }
    let mut udp = Translations::new(earlier.and_then(|part| since_then(part, again)));
    let mut whole = true;
    for family in Family::IP {
        let name = if again { "udp-again" } else { "udp" };
        let reading = each(node, &of_udp(name, family, None, IPS_DST_NAT), &mut |flow| {
            udp.add(flow);
            Take::More
        });
        match reading {
            Reading::Ok(ended) => whole &= ended,
            other => return FlowReading::unread(other.map(drop)),
        }
    }
    let complete = whole && !udp.overflowed;
    read_now(udp.end(), complete)
}
