//! Scenario: replies to connections with a translated source. An invalid segment is not translated back, so it is
//! delivered to this host, which has no such connection and answers with a reset (`tcp_v4_send_reset`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::connection::{
    self, CHOSEN, ConnectionPath, Flags, ends, if_addresses_are_so, resets_of, reversed, segments, through,
};
use super::devices::{self, may_send};
use super::given_source::given_source;
use super::idle::{Idle, IdleConnections, draws};
use super::translatable::may_give_timeouts;
use crate::facts::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, TypeScope, address_key};
use crate::symbolic::effort::Effort;
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::Walk;
use crate::symbolic::network::host::{Connected, LOCAL};
use crate::symbolic::network::{Hit, Network, Occurrence, RuleAt};
use crate::symbolic::packets::NO_DEVICE;
use crate::symbolic::space::{NOTHING, PacketSet};

/// Connections with a source translated to a local address, and segments in reply to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNatReplies {
    /// Whether there are such TCP connections, and which rule translates them.
    pub translated: Occurrence,
    /// That rule, if it was read.
    pub rule: Option<RuleAt>,
    /// Whether invalid segments in reply reach this host's TCP. If not, the place is a rule that drops them.
    pub arrive: Occurrence,
    /// Which connections with a translated source, whatever their address, depend on their entries.
    pub idle: Idle,
}

/// Runs new connections through the rules, invalid segments back, and this host's resets.
pub(crate) fn source_nat_replies(network: &Network<'_>, effort: &Effort<'_>) -> SourceNatReplies {
    let (found, is_all) = answers_by(network, effort, true);
    if is_all { found } else { answers_by(network, effort, false).0 }
}

/// The same for forwarded connections of a few devices, or of all; also whether all would give the same result.
fn answers_by(network: &Network<'_>, effort: &Effort<'_>, few: bool) -> (SourceNatReplies, bool) {
    let mut walk = connection::walk(network, effort);
    walk.follow_timeouts();
    walk.sampled = few.then(BTreeSet::new);
    let mut idle = IdleConnections::new();
    let (mut translated, mut arriving, mut found) = (NOTHING, NOTHING, Vec::new());
    let mut dropping = BTreeSet::new();
    for family in Family::IP {
        for own in [true, false] {
            let assumed = may_send(&mut walk, family, own);
            let mut path = ConnectionPath::new(family, own, true);
            path.connections(&mut walk);
            walk.dropping.clear();
            let mut mine = NOTHING;
            for (hit, packets) in std::mem::take(&mut path.sources) {
                for (nat, packets) in walk.each_translation(&hit, packets) {
                    let connected = devices::connected(&mut walk, &Field::OutputName);
                    let packets = walk.space.and(packets, walk.space.and(assumed, connected));
                    idle.add(&mut walk, &hit, nat.as_ref(), packets);
                    let here = answered_here(&mut walk, &hit, nat.as_ref());
                    let packets = walk.space.and(packets, here);
                    if packets.is_empty() {
                        continue;
                    }
                    found.push((walk.assumptions.doubt(&walk.space, packets), hit.clone()));
                    translated = walk.space.or(translated, packets);
                    let packets = with_source(&mut walk, family, nat.as_ref(), packets);
                    mine = walk.space.or(mine, packets);
                }
            }
            idle.end_path(&mut walk, &path);
            if walk.is_over() {
                break;
            }
            if !mine.is_empty() {
                let answered = answered(&mut walk, &path, family, mine);
                dropping.append(&mut walk.dropping);
                arriving = walk.space.or(arriving, answered);
            }
        }
    }
    let hit = found.into_iter().min_by_key(|(doubt, _)| *doubt).map(|(_, hit)| hit);
    let place = hit.as_ref().map(|hit| walk.place(hit)).unwrap_or_default();
    let rule = hit.and_then(Hit::rule);
    let translated = Occurrence { happens: walk.happens(translated), place };
    let dropping = dropping.iter().next().map(|at| network.describe(at)).unwrap_or_default();
    let idle = idle.found(&walk);
    let arrive = Occurrence { happens: walk.happens(arriving), place: dropping };
    let found = SourceNatReplies { translated, rule, arrive, idle };
    let is_all = walk.sampled.as_ref().is_none_or(BTreeSet::is_empty) || shows_all(&walk, &found);
    (found, is_all)
}

/// Whether the connections of a few devices suffice: what happens to some is decided, and no rule that others may reach
/// changes the rest.
fn shows_all(walk: &Walk<'_>, found: &SourceNatReplies) -> bool {
    let must = |happens: &Happens| *happens == Happens::Must;
    let settled = [&found.translated, &found.arrive, &found.idle.translated];
    let draw = walk.sampled.iter().flatten().any(|hit| walk.nat(hit).is_none_or(draws));
    let drawn = || {
        let timed = Family::IP.into_iter().any(|family| may_give_timeouts(walk.network, family));
        must(&found.idle.random.happens) && must(&found.idle.by_sysctl) && !timed
    };
    settled.into_iter().all(|one| must(&one.happens)) && (!draw || drawn())
}

/// Packets under the assumption that a translation gives a local address; masquerading always does.
fn answered_here(walk: &mut Walk<'_>, hit: &Hit, nat: Option<&Nat>) -> PacketSet {
    let known = match nat {
        Some(Nat { action: NatAction::Masquerade, .. }) => Some(true),
        Some(Nat { action: NatAction::Dnat | NatAction::Redirect, .. }) => Some(false),
        // Only the port is changed.
        Some(Nat { addresses: Chosen::Unset, .. }) => Some(false),
        Some(Nat { addresses: Chosen::Range(first, last), .. }) => is_local(walk, *first, *last),
        Some(Nat { addresses: Chosen::ByPacket, .. }) | None => None,
    };
    let place = walk.place(hit);
    let why =
        || walk.question(hit, format!("whether {place} translates sources to an address of this host's is not known"));
    let known = known.ok_or_else(why);
    walk.assume(format!("answered here {hit:?} {nat:?}"), &known)
}

/// Whether an address in this range is local. `None`: not known.
fn is_local(walk: &Walk<'_>, first: IpAddr, last: IpAddr) -> Option<bool> {
    if first == last
        && let Some(known) = walk.network.local_sources.get(&first)
    {
        return Some(*known);
    }
    let family = Family::of(&first);
    let local = walk.network.local_addresses(family)?;
    let (first, last) = (address_key(first), address_key(last));
    Some(local.as_ranges().iter().any(|(from, to)| *from <= last && first <= *to))
}

/// The packets with the source that a rule gives, a local address.
fn with_source(walk: &mut Walk<'_>, family: Family, nat: Option<&Nat>, packets: PacketSet) -> PacketSet {
    let (source, _) = walk.packets.ends();
    let ports = match nat.map(|nat| nat.ports) {
        Some(Chosen::Range(first, last)) => (first.into(), last.into()),
        _ => CHOSEN,
    };
    let packets = walk.forget(packets, &[source.clone(), Field::SourcePort]);
    let packets = walk.all_with(packets, &[(Field::SourcePort, &[ports])]);
    if walk.network.connected() == Connected::Nowhere {
        return packets; // addresses not configured yet
    }
    if let Some(given) = nat.and_then(|nat| given_source(walk, family, nat)) {
        return walk.space.and(packets, given);
    }
    match walk.network.addresses_of_types(family, |kind| kind == LOCAL, None) {
        Some(local) => walk.all_with(packets, &[(source, local.as_ranges())]),
        None => if_addresses_are_so(walk, packets),
    }
}

/// Of the invalid segments in reply to these connections, those that reach this host's TCP and whose resets leave.
fn answered(walk: &mut Walk<'_>, path: &ConnectionPath, family: Family, connections: PacketSet) -> PacketSet {
    let back = ends(walk, connections);
    let back = reversed(walk, back);
    path.begin(walk, "late");
    let Some(packets) = segments(walk, family, back, Flags::LATE) else { return NOTHING };
    let packets = walk.forget(packets, &[Field::OutputName]);
    let mut packets = walk.all_with(packets, &[(Field::OutputName, NO_DEVICE)]);
    if walk.network.local_addresses(family).is_none() {
        packets = [TypeScope::Any, TypeScope::Input].into_iter().fold(packets, |packets, scope| {
            walk.all_with(packets, &[(Field::DestinationType(scope), &[(LOCAL, LOCAL)])])
        });
    }
    walk.refused = NOTHING;
    let packets = through(walk, "late", family, &[Hook::Prerouting, Hook::Input], packets);
    let packets = walk.space.or(packets, walk.refused);
    resets_of(walk, path, packets)
}
