//! Scenario: segments that bypass destination NAT. An invalid segment reaches the client with the real server's
//! address. The client has no such connection and answers with a reset, which the server accepts if it arrives.

use std::collections::BTreeSet;

use super::connection::{self, ConnectionPath, Flags, ends, resets_of, reversed, segments, through};
use super::devices::{entering, may_send};
use crate::facts::netfilter::{Family, Field, Hook};
use crate::symbolic::effort::Effort;
use crate::symbolic::machine::Walk;
use crate::symbolic::network::{Network, Occurrence, RuleAt};
use crate::symbolic::packets::{NO_DEVICE, SOME_DEVICE};
use crate::symbolic::space::{NOTHING, PacketSet};

/// Connections whose clients can also reach the real server directly, and segments of that server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// Whether there are such TCP connections, and which rule translates them. If not, the place is a rule that drops
    /// the resets, if any.
    pub translated: Occurrence,
    /// Whether any rule that TCP reaches translates destinations.
    pub is_translating: bool,
    /// The rules that translate these, most certain first; position 0: an unread chain.
    pub rules: Vec<RuleAt>,
    /// Whether invalid segments from real servers reach such clients. If not, the place is a rule that drops them.
    pub arrive: Occurrence,
    /// Whether this host is such a client, and whether other hosts are.
    pub clients: [bool; 2],
}

/// Runs new connections through the rules, resets of their clients past the translation, and invalid segments back.
pub(crate) fn bypass(network: &Network<'_>, effort: &Effort<'_>) -> Bypass {
    let mut walk = connection::walk(network, effort);
    let (mut translated, mut arriving, mut hits, mut clients) = (NOTHING, NOTHING, Vec::new(), [false; 2]);
    let mut is_translating = false;
    let (mut stopping, mut dropping) = (BTreeSet::new(), BTreeSet::new());
    for family in Family::IP {
        for own in [true, false] {
            let assumed = may_send(&mut walk, family, own);
            let mut way = ConnectionPath::new(family, own, false);
            let connections = way.connections(&mut walk);
            let connections = walk.space.and(connections, assumed);
            is_translating |= !way.hits.is_empty();
            walk.dropping.clear();
            let resets = resets(&way, &mut walk, connections);
            if !way.hits.is_empty() {
                stopping.append(&mut walk.dropping);
            }
            let refused = refused(&way, &mut walk, connections);
            walk.dropping.clear();
            let resets = walk.space.or(resets, refused);
            if walk.is_over() {
                break;
            }
            if resets.is_empty() {
                continue;
            }
            clients[usize::from(!own)] = true;
            translated = walk.space.or(translated, resets);
            for (hit, targets) in way.hits.drain(..) {
                let mine = walk.space.and(resets, targets);
                if !mine.is_empty() {
                    hits.push((walk.assumptions.doubt(&walk.space, mine), hit));
                }
            }
            let late = late(&way, &mut walk, resets);
            dropping.append(&mut walk.dropping);
            arriving = walk.space.any([arriving, late, refused]);
        }
    }
    hits.sort_by_key(|(doubt, _)| *doubt);
    let describe = |rules: BTreeSet<RuleAt>| rules.iter().next().map(|at| network.describe(at)).unwrap_or_default();
    let place = hits.first().map_or_else(|| describe(stopping), |(_, hit)| walk.place(hit));
    let rules = hits.into_iter().filter_map(|(_, hit)| hit.rule());
    let translated = Occurrence { happens: walk.happens(translated), place };
    let arrive = Occurrence { happens: walk.happens(arriving), place: describe(dropping) };
    Bypass { translated, is_translating, rules: rules.collect(), arrive, clients }
}

/// Resets from these connections' clients to the real server's address, as they leave.
fn resets(path: &ConnectionPath, walk: &mut Walk<'_>, connections: PacketSet) -> PacketSet {
    let ends = ends(walk, connections);
    path.begin(walk, "reset");
    let Some(resets) = segments(walk, path.family, ends, Flags::RESET) else { return NOTHING };
    if path.own {
        let packets = walk.all_with(resets, &[(Field::InputName, NO_DEVICE)]);
        return through(walk, "reset", path.family, &[Hook::Output, Hook::Postrouting], packets);
    }
    let packets = walk.forget(resets, &[Field::OutputName]);
    let packets = walk.all_with(packets, &[(Field::InputName, SOME_DEVICE), (Field::OutputName, NO_DEVICE)]);
    let packets = from_inside(walk, packets);
    let packets = through(walk, "reset", path.family, &[Hook::Prerouting], packets);
    let packets = path.routed(walk, packets);
    through(walk, "reset", path.family, &[Hook::Forward, Hook::Postrouting], packets)
}

/// Late segments from the real servers that reach the clients of these resets.
fn late(path: &ConnectionPath, walk: &mut Walk<'_>, resets: PacketSet) -> PacketSet {
    let resets = ends(walk, resets);
    let ends = reversed(walk, resets);
    path.begin(walk, "late");
    let Some(packets) = segments(walk, path.family, ends, Flags::LATE) else { return NOTHING };
    if path.own {
        return through(walk, "late", path.family, &[Hook::Prerouting, Hook::Input], packets);
    }
    let block = walk.block(&Field::OutputName).0;
    let clients = ends;
    let packets = walk.without(packets, block.into_iter().collect());
    let packets = walk.all_with(packets, &[(Field::OutputName, NO_DEVICE)]);
    let packets = through(walk, "late", path.family, &[Hook::Prerouting], packets);
    let packets = walk.forget(packets, &[Field::OutputName]);
    let packets = walk.space.and(packets, clients);
    let packets = through(walk, "late", path.family, &[Hook::Forward, Hook::Postrouting], packets);
    // A rule may have written the address of the Service into it, which the client knows.
    walk.space.and(packets, clients)
}

/// Resets by which rules refuse late segments from the real servers, for any clients.
fn refused(path: &ConnectionPath, walk: &mut Walk<'_>, connections: PacketSet) -> PacketSet {
    if !walk.network.survey().refuses_with_reset || connections.is_empty() {
        return NOTHING;
    }
    walk.refused = NOTHING;
    late(path, walk, connections);
    let refused = std::mem::replace(&mut walk.refused, NOTHING);
    resets_of(walk, path, refused)
}

/// Packets that enter by a device without a default route.
fn from_inside(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let packets = entering(walk, packets);
    match &walk.network.host.outward {
        Ok(outward) => {
            let outward: Vec<(u128, u128)> = outward.iter().map(|name| (*name, *name)).collect();
            let outward = walk.with(&Field::InputName, &outward);
            walk.space.minus(packets, outward)
        }
        Err(why) => {
            let assumed = walk.assume("outward", &Err(why.clone()));
            walk.space.and(packets, assumed)
        }
    }
}
