//! Conditions about conntrack entries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use super::context::{Context, Evaluation};
use super::{StaleTranslation, source_nat};
use crate::facts::netfilter::{Chosen, NatAction, all_source_translations, resolve_map};
use crate::facts::{
    DEFAULT_PORTS, Facts, Failure, Kernel, KernelVersion, LOW_PORTS, PortsUsed, Question, Reading, RewrittenFlows,
    SnatPorts, UdpClient, UdpTranslations, ports_between,
};
use crate::symbolic::{Happens, ReachedSourceNats, TranslationStatus, UdpTargets};

/// Before this version the search for a free port tries the whole range (`nf_nat_l4proto_unique_tuple`).
const LIMITED_SEARCH: KernelVersion = KernelVersion::new(5, 0, 0);
/// Sampled entries that a full range would have to have for its absence to be significant.
const ENOUGH: f64 = 200.0;
/// Used if entries were not read.
static NO_TRANSLATIONS: LazyLock<Arc<UdpTranslations>> = LazyLock::new(Arc::default);

/// Number of clients that a detail names.
const NAMED: usize = 3;

/// Ratio of used ports from which new connections are lost, for a range of this size.
fn onset(available: u64, kernel: &Reading<Kernel>) -> f64 {
    let whole = kernel.ok().is_some_and(|kernel| kernel.base < LIMITED_SEARCH);
    match available {
        _ if whole => 1.0,
        0..=128 => 1.0,
        129..=8192 => 0.95,
        _ => 0.85,
    }
}

/// Number of used ports from which new connections are lost.
fn begins_at(range: (u16, u16), kernel: &Reading<Kernel>) -> f64 {
    let available = ports_between(range);
    onset(available, kernel) * available as f64
}

/// Measured losses of new connections at this ratio, for more than 128 ports, with and without expiring connections
/// (docs/snat-ports.md). `None`: none, or not measured.
fn lost(used: &PortsUsed, kernel: &Reading<Kernel>) -> Option<&'static str> {
    if onset(used.key.available(), kernel) == 1.0 {
        return None;
    }
    Some(match effective(used, kernel) as f64 / used.key.available() as f64 {
        0.96.. => "from 1.5 % to 13 %",
        0.94.. => "from 0.6 % to 8 %",
        0.92.. => "from 0.1 % to 1.5 %",
        0.90.. => "up to 0.5 %",
        0.85.. => "up to 0.1 %",
        _ => return None,
    })
}

/// Oldest kernel on which a SYN was seen to reuse the port of a connection in TIME_WAIT (`nf_nat_used_tuple_harder`);
/// on 6.1 it does not.
const TAKES_TIME_WAIT: KernelVersion = KernelVersion::new(6, 12, 0);

/// Number of ports that new connections cannot get.
fn effective(used: &PortsUsed, kernel: &Reading<Kernel>) -> u64 {
    const TCP: u8 = 6;
    let takes = used.key.protocol == TCP && kernel.ok().is_some_and(|kernel| kernel.base >= TAKES_TIME_WAIT);
    if takes { used.used.saturating_sub(used.time_wait) } else { used.used }
}

/// Port ranges of reached rules, direct or by map, smallest first.
fn ranges(facts: &Facts, reached: &ReachedSourceNats) -> Result<Vec<(u16, u16)>, Question> {
    let none = BTreeMap::new();
    let sets = facts.nftables.ok().map_or(&none, |ruleset| &*ruleset.sets);
    let mut ranges = Vec::new();
    for rule in reached.rules.iter().chain(&reached.few_ports) {
        let Some(nat) = &rule.nat else { return Err(format!("{} is not understood", rule.place).into()) };
        let by_map =
            || format!("a map tells which ports {} may choose from, and what it holds is not known", rule.place);
        for nat in resolve_map(nat, sets).ok_or_else(by_map)? {
            match nat.ports {
                _ if nat.action == NatAction::Netmap => {}
                Chosen::Range(first, last) => ranges.push((first, last)),
                Chosen::Unset => ranges.push(DEFAULT_PORTS),
                Chosen::ByPacket => return Err(by_map().into()),
            }
        }
    }
    ranges.sort_by_key(|range| ports_between(*range));
    ranges.dedup();
    Ok(ranges)
}

/// `ports_nearly_used`: so many of a rule's ports are in use towards one destination that new connections are dropped.
pub(super) fn ports_nearly_used(context: &Context<'_>) -> Evaluation {
    let reached = match source_nat::reached(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let kernel = &context.facts.kernel;
    let known = ranges(context.facts, &reached);
    let counts = |used: &&PortsUsed| known.as_ref().map_or(true, |ranges| is_of_one_of(used, ranges));
    let full = |used: &&PortsUsed| {
        let least = effective(used, kernel) as f64 - 3.0 * used.error.unwrap_or(0.0);
        least >= begins_at(used.key.range, kernel)
    };
    if let Some(used) = ports_used(context).iter().filter(counts).find(full) {
        return Evaluation::holds(describe_ports(context, used));
    }
    let ranges = match &known {
        Ok(ranges) => ranges.as_slice(),
        Err(why) => return Evaluation::unknown(why),
    };
    let smallest = match smallest_range(context.facts, &reached, ranges) {
        Ok(Some(smallest)) => smallest,
        Ok(None) => return Evaluation::fails("no port is chosen"),
        Err(why) => return Evaluation::unknown(why),
    };
    let least =
        low_range(ranges).into_iter().chain([smallest]).min_by_key(|range| ports_between(*range)).unwrap_or(smallest);
    let begins = begins_at(least, kernel);
    let entries = match &context.facts.conntrack.entries {
        Reading::Ok(entries) => *entries,
        Reading::Absent(_) => return Evaluation::fails("nf_conntrack is not in the running kernel"),
        other => return Evaluation::unknown(Question::unread(other).shown_by(["conntrack", "-C"])),
    };
    if (entries as f64) < begins {
        return Evaluation::fails(format!(
            "all {entries} entries together are fewer than the {begins:.0} of {} ports from which on connections are lost",
            ports_between(least)
        ));
    }
    match &reached.gave_up {
        Some(why) => Evaluation::unknown(why),
        None => none_is_full(context, ranges, smallest),
    }
}

/// Ports in use per destination; empty if not read.
fn ports_used<'a>(context: &Context<'a>) -> &'a [PortsUsed] {
    let flows = &context.facts.flows;
    flows.sample.found.ok().and(flows.ports.found.ok()).map_or(&[], |ports| ports.used.as_slice())
}

/// Whether these ports belong to one of the ranges of rules.
fn is_of_one_of(used: &PortsUsed, ranges: &[(u16, u16)]) -> bool {
    let low = LOW_PORTS.contains(&used.key.range) && ranges.contains(&DEFAULT_PORTS);
    low || ranges.contains(&used.key.range)
}

/// The range with the fewest ports that a reached rule chooses from. Where a walk gave up, of all rules that translate sources;
/// `Err`: these are not known, or none.
fn smallest_range(
    facts: &Facts,
    reached: &ReachedSourceNats,
    ranges: &[(u16, u16)],
) -> Result<Option<(u16, u16)>, Question> {
    let Some(why) = &reached.gave_up else { return Ok(ranges.first().copied()) };
    let all = all_source_translations([&facts.nftables, &facts.legacy_ipv4, &facts.legacy_ipv6]);
    let Reading::Ok(all) = all else { return Err(why.as_str().into()) };
    let chosen = all.into_iter().filter(|nat| nat.action != NatAction::Netmap).map(|nat| match nat.ports {
        Chosen::Range(first, last) => (first, last),
        Chosen::Unset => LOW_PORTS[0],
        Chosen::ByPacket => (1, 1), // what its map holds is not known
    });
    let all = chosen.chain(ranges.first().copied());
    all.min_by_key(|range| ports_between(*range)).map(Some).ok_or_else(|| why.as_str().into())
}

/// Smallest range for connections with a source port below 1024, if rules leave the choice to the kernel.
fn low_range(ranges: &[(u16, u16)]) -> Option<(u16, u16)> {
    ranges.contains(&DEFAULT_PORTS).then_some(LOW_PORTS[0])
}

/// Whether entries rule out that a range is full, given that none was found full.
fn none_is_full(context: &Context<'_>, ranges: &[(u16, u16)], smallest: (u16, u16)) -> Evaluation {
    let (kernel, ports, all) = (&context.facts.kernel, &context.facts.flows.ports, ports_used(context));
    let listed = ["conntrack", "-L", "--src-nat"];
    let Reading::Ok(found) = &ports.found else {
        return Evaluation::unknown(Question::unread(&ports.found).shown_by(listed));
    };
    if ports.complete {
        return Evaluation::fails(describe_fullest(context, all));
    }
    let begins = begins_at(smallest, kernel);
    let share = found.sampled as f64 / found.entries.max(1) as f64;
    if begins * share < ENOUGH {
        return Evaluation::unknown(
            Question::from(format!(
                "{} of {} entries were read: too few to tell whether a range of {} ports is used up",
                found.sampled,
                found.entries,
                ports_between(smallest)
            ))
            .shown_by(listed),
        );
    }
    if let Some(low) = low_range(ranges)
        && at_most_low(found) >= begins_at(low, kernel)
    {
        let (sampled, entries, low) = (found.sampled, found.entries, ports_between(low));
        let why = format!(
            "{sampled} of {entries} entries were read: too few to tell whether the {low} ports of connections from one below 1024 are used up"
        );
        return Evaluation::unknown(Question::from(why).shown_by(listed));
    }
    let mut counted = all.iter().filter(|used| is_of_one_of(used, ranges));
    match counted.find(|used| !is_below(used, found, kernel)) {
        Some(used) => {
            Evaluation::unknown(Question::from(format!("perhaps {}", describe_ports(context, used))).shown_by(listed))
        }
        None => Evaluation::fails(describe_fullest(context, all)),
    }
}

fn describe_fullest(context: &Context<'_>, all: &[PortsUsed]) -> String {
    all.first().map_or_else(|| "no connection has a translated source".to_owned(), |used| describe_ports(context, used))
}

/// `10.0.0.1 uses 61894 of 64512 ports towards 198.18.0.1:443/tcp (95.9 %)`
fn describe_ports(context: &Context<'_>, used: &PortsUsed) -> String {
    let PortsUsed { key, used: ports, time_wait, error, clients } = used;
    let about = error.map_or(String::new(), |error| format!(", estimated, ± {error:.0}"));
    let (source, destination) = match context.flow_addresses {
        true => (key.source.to_string(), format!("{}/{}", socket(key.destination, key.port), key.protocol_name())),
        false => ("an address".to_owned(), format!("one {} destination", key.protocol_name())),
    };
    let waiting = if *time_wait > 0 { format!("; {time_wait} of them in TIME_WAIT") } else { String::new() };
    let loss = match lost(used, &context.facts.kernel) {
        Some(lost) => format!("; at such a share {lost} of new connections there were lost when it was measured"),
        None => String::new(),
    };
    let clients = match context.flow_addresses && clients.len() > 1 {
        true => {
            let each = clients.iter().take(NAMED).map(|(client, ports)| format!("{client} ({ports})"));
            format!("; most by {}", each.collect::<Vec<_>>().join(", "))
        }
        false => String::new(),
    };
    format!(
        "{source} uses {ports} of {} ports towards {destination} ({:.1} %{about}){waiting}{loss}{clients}",
        key.available(),
        100.0 * used.ratio()
    )
}

/// What rules do to UDP destinations, and whether they still give the translations seen.
fn udp_targets(context: &Context<'_>) -> Result<Arc<UdpTargets>, Question> {
    let translations = context.facts.flows.udp.found.ok().unwrap_or(&NO_TRANSLATIONS);
    context.network().map(|network| context.derived.udp_targets(network, translations, &context.effort))
}

/// `udp_destination_nat`: UDP destinations are translated.
pub(super) fn udp_destination_nat(context: &Context<'_>) -> Evaluation {
    let found = match udp_targets(context) {
        Ok(found) => found,
        Err(why) => return Evaluation::unknown(why),
    };
    let entries = context.facts.flows.udp.found.ok().map_or(0, |udp| udp.each.len());
    match &found.translated.happens {
        Happens::Must => Evaluation::holds(format!("UDP is sent to other destinations: {}", found.translated.place)),
        _ if entries > 0 => Evaluation::holds("entries of UDP have another destination than they were sent to"),
        Happens::May(why) => Evaluation::unknown(why),
        Happens::Never => Evaluation::fails("no rule sends UDP to another destination"),
    }
}

/// UDP entries with a translation that no rule gives any more, seen once or twice; or why that is not known.
pub(super) fn stale_translations(context: &Context<'_>) -> Result<Vec<StaleTranslation>, Question> {
    let (translations, targets) = translations_and_targets(context)?;
    Ok(stale_of(translations, &targets))
}

/// The UDP translations seen, and what the rules give now.
fn translations_and_targets<'a>(context: &Context<'a>) -> Result<(&'a UdpTranslations, Arc<UdpTargets>), Question> {
    let found = &context.facts.flows.udp.found;
    let translations = found.ok().ok_or_else(|| Question::unread(found))?;
    Ok((translations, udp_targets(context)?))
}

fn stale_of(translations: &UdpTranslations, targets: &UdpTargets) -> Vec<StaleTranslation> {
    let mut stale = Vec::new();
    for (translation, given) in translations.each.iter().zip(&targets.each) {
        let clients: &[UdpClient] = match given {
            TranslationStatus::NoClient => &translation.clients,
            TranslationStatus::NotFor(clients) => clients,
            TranslationStatus::AllClients | TranslationStatus::Unknown(_) => continue,
        };
        stale.extend(clients.iter().map(|client| StaleTranslation {
            client: client.source,
            destination: translation.destination,
            target: translation.target,
            refilled: client.refilled,
        }));
    }
    stale
}

/// `stale_flows`: UDP entries have a translation that no rule gives any more, and packets keep them alive.
pub(super) fn stale_flows(context: &Context<'_>) -> Evaluation {
    let listed = ["conntrack", "-L", "-p", "udp", "--dst-nat"];
    let unknown = |why: Question| Evaluation::unknown(why.shown_by(listed));
    let facts = context.facts;
    if facts.flows.udp.found.ok().is_none() && facts.conntrack.entries.ok() == Some(&0) {
        return Evaluation::fails("no connection is tracked");
    }
    let (udp, targets) = match translations_and_targets(context) {
        Ok(found) => found,
        Err(why) => return unknown(why),
    };
    let stale = stale_of(udp, &targets);
    let kept: Vec<&StaleTranslation> = stale.iter().filter(|stale| stale.refilled == Some(true)).collect();
    if let Some(first) = kept.first() {
        let mut outcome = Evaluation::holds(describe_stale(context, first, kept.len()));
        if context.flow_addresses {
            outcome = outcome
                .with("client", first.client.0)
                .with("client_port", first.client.1)
                .with("destination", first.destination.0)
                .with("destination_port", first.destination.1);
        }
        return outcome;
    }
    let once: Vec<&StaleTranslation> = stale.iter().filter(|stale| stale.refilled.is_none()).collect();
    if let Some(first) = once.first() {
        return unknown(
            format!("{}; it was seen once, and may be about to end", describe_stale(context, first, once.len())).into(),
        );
    }
    if let Some(why) = targets.each.iter().find_map(|given| match given {
        TranslationStatus::Unknown(why) => Some(why.clone()),
        _ => None,
    }) {
        return unknown(why);
    }
    if !context.facts.flows.udp.complete {
        return unknown("not all entries of UDP were read".into());
    }
    let entries: u64 = udp.each.iter().map(|translation| translation.entries).sum();
    Evaluation::fails(match (entries, stale.len()) {
        (0, _) => "no entry of UDP has another destination than it was sent to".to_owned(),
        (entries, 0) => format!("the rules give what each of {entries} entries of UDP has"),
        (_, 1) => "1 entry of UDP has what no rule gives any more, and no packet keeps it".to_owned(),
        (_, stale) => format!("{stale} entries of UDP have what no rule gives any more, and no packet keeps them"),
    })
}

fn describe_stale(context: &Context<'_>, stale: &StaleTranslation, count: usize) -> String {
    let StaleTranslation { client, destination, target, .. } = stale;
    let more = match count {
        1 => String::new(),
        count => format!(", and {} more", count - 1),
    };
    match context.flow_addresses {
        true => format!(
            "UDP from {} to {} goes to {}, which no rule gives any more{more}",
            socket(client.0, client.1),
            socket(destination.0, destination.1),
            socket(target.0, target.1)
        ),
        false => format!("{count} flows of UDP go where no rule sends them any more"),
    }
}

/// Whether the number of used ports is below the onset of losses, even allowing for the sample's error.
fn is_below(used: &PortsUsed, found: &SnatPorts, kernel: &Reading<Kernel>) -> bool {
    let unseen = match used.error {
        Some(error) => 3.0 * error + crate::facts::scaled(found.uncounted, found.sampled, found.entries) as f64,
        None => 0.0,
    };
    effective(used, kernel) as f64 + unseen < begins_at(used.key.range, kernel)
}

/// Upper bound of entries with a port below 1024 in the table: with more, a sample with so few has a probability below
/// one in a thousand.
fn at_most_low(found: &SnatPorts) -> f64 {
    let low = found.low as f64;
    (low + 3.0 * low.sqrt() + 7.0) * found.entries as f64 / found.sampled.max(1) as f64
}

fn socket(address: IpAddr, port: u16) -> String {
    std::net::SocketAddr::new(address, port).to_string()
}

/// Note for a verdict that tunnel flows may be rewritten: that some are now; `None` if none was seen.
pub(super) fn rewritten_now(flows: &Reading<Arc<RewrittenFlows>>) -> Option<String> {
    match flows {
        Reading::Ok(flows) if flows.count == 0 => Some("now: no flow of a tunnel leaves with another port".into()),
        Reading::Ok(flows) => {
            let mut peers: Vec<IpAddr> = flows.first.iter().map(|flow| flow.peer).collect();
            peers.sort_unstable();
            peers.dedup();
            let many = if flows.first.len() as u64 == flows.count { "" } else { "at least " };
            let (count, peers) = (flows.count, peers.len());
            let peers = if peers == 1 { "1 peer".to_owned() } else { format!("{peers} peers") };
            Some(match count {
                1 => format!("now: 1 flow to {peers} leaves with another port"),
                count => format!("now: {count} flows to {many}{peers} leave with another port"),
            })
        }
        Reading::Failed(failure) if matches!(failure.root(), Failure::NotNeeded(_)) || failure.is_not_captured() => {
            None
        }
        unread => Some(format!("whether flows of tunnels leave with another port now was not seen: {}", unread.why())),
    }
}

#[cfg(test)]
mod tests;
