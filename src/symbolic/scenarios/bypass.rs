//! Connections whose destination was translated, and segments that go round the translation: one that connection tracking calls
//! invalid gets to the client with the address of the real server; the client knows no such connection and answers with a reset,
//! which the real server takes for its own if it gets there.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::senders::loopback;
use super::services::{Passing, invalid_segments};
use crate::snapshot::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, address_key};
use crate::symbolic::assumptions::About;
use crate::symbolic::effort::Effort;
use crate::symbolic::machine::{Flow, Hit, OnNat, Walk};
use crate::symbolic::packets::{Kind, Packets, state};
use crate::symbolic::space::{EVERYTHING, NOTHING, Set};
use crate::symbolic::world::{Found, RuleAt, World};

const TCP: (u128, u128) = (6, 6);
/// Ports that clients choose.
const CHOSEN: (u128, u128) = (1024, 65535);
const NO_DEVICE: &[(u128, u128)] = &[(0, 0)];
const SOME_DEVICE: &[(u128, u128)] = &[(1, u128::MAX)];
/// `127.0.0.0/8`, `::1`: what leaves with one of these gets nowhere.
const LOOPBACK: [(u128, u128); 2] = [(0x7f00_0000, 0x7fff_ffff), (1, 1)];
/// Status bits of a first packet that are 0: `IPS_SEEN_REPLY`, `IPS_ASSURED`, `IPS_CONFIRMED`, `IPS_SRC_NAT`, `IPS_DST_NAT`.
const FIRST: u128 = 0x3e;
/// `IPS_DST_NAT`
const DST_NAT: u128 = 0x20;
/// Chains that only Services lead to.
const OF_SERVICES: &[&str] = &["KUBE-MARK-MASQ", "mark-for-masquerade"];

/// Flags of TCP, in the byte of flags: mask and value.
#[derive(Clone, Copy)]
struct Flags(u128, u128);

impl Flags {
    /// The first segment: SYN.
    const FIRST: Self = Self(0x17, 0x02);
    /// A late one: ACK, neither SYN nor RST.
    const LATE: Self = Self(0x16, 0x10);
    /// RST, no SYN.
    const RESET: Self = Self(0x06, 0x04);
    /// What tests of that byte are called: of x_tables, and of nf_tables.
    const FIELDS: [&str; 2] = ["tcp flags", "1 bytes at 13 of header 2"];
}

/// Connections whose clients can reach the real server past the translation of its address, and segments of that server's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bypass {
    /// Whether there are such connections over TCP, and which rule translates them. If not, the place is a rule that drops the
    /// resets, if one does.
    pub translated: Found,
    /// Whether any rule that TCP gets to translates destinations.
    pub is_translating: bool,
    /// The rules that translate these, the least doubtful first; of position 0: a chain that was not read.
    pub rules: Vec<RuleAt>,
    /// Whether invalid segments of the real servers get to such clients. If not, the place is a rule that drops them.
    pub arrive: Found,
    /// This host itself is such a client, and others are.
    pub clients: [bool; 2],
}

/// Sends new connections through the rules, resets of their clients past the translation, and invalid segments back.
pub fn bypass(world: &World<'_>, effort: &Effort<'_>) -> Bypass {
    let targets = world.host.targets.iter().flat_map(|targets| targets.values().flatten());
    let told = world.host.outward.iter().flatten().chain(targets).map(|name| (*name, *name)).chain(loopback());
    let told: BTreeSet<(u128, u128)> = told.collect();
    let mut walk = Walk::of_connections(world, &told.into_iter().collect::<Vec<_>>(), effort);
    let (mut translated, mut arriving, mut hits, mut clients) = (NOTHING, NOTHING, Vec::new(), [false; 2]);
    let mut is_translating = false;
    let (mut stopping, mut dropping) = (BTreeSet::new(), BTreeSet::new());
    for family in [Family::Ipv4, Family::Ipv6] {
        for own in [true, false] {
            let assumed = if own { EVERYTHING } else { walk.if_forwarded(family) };
            let mut way = Way { family, own, routes: NOTHING, hits: Vec::new() };
            let connections = way.connections(&mut walk);
            let connections = walk.space.and(connections, assumed);
            is_translating |= !way.hits.is_empty();
            walk.dropping.clear();
            let resets = way.resets(&mut walk, connections);
            if !way.hits.is_empty() {
                stopping.append(&mut walk.dropping);
            }
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
            let late = way.late(&mut walk, resets);
            dropping.append(&mut walk.dropping);
            arriving = walk.space.or(arriving, late);
        }
    }
    hits.sort_by_key(|(doubt, _)| *doubt);
    let describe = |rules: BTreeSet<RuleAt>| rules.iter().next().map(|at| world.describe(at)).unwrap_or_default();
    let place = hits.first().map_or_else(|| describe(stopping), |(_, hit)| walk.place(hit));
    let rules = hits.into_iter().filter_map(|(_, hit)| match hit {
        Hit::Rule(at, _) => Some(at),
        Hit::Unread(_) => None,
    });
    let translated = Found { certainty: walk.certainty(translated), place };
    let arrive = Found { certainty: walk.certainty(arriving), place: describe(dropping) };
    Bypass { translated, is_translating, rules: rules.collect(), arrive, clients }
}

/// A way that connections take: those of one family, of this host or of others.
struct Way {
    family: Family,
    own: bool,
    /// Where packets to the translated destinations leave by.
    routes: Set,
    /// Rules that translate, and to where.
    hits: Vec<(Hit, Set)>,
}

impl OnNat for Way {
    fn untouched(&mut self, _: &mut Walk<'_>, hook: Hook, packets: Set) -> Set {
        if hook == Hook::Postrouting { packets } else { NOTHING }
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: Set) -> Set {
        if hook == Hook::Postrouting {
            return NOTHING; // the answers come back to this host itself: see `answers`
        }
        let each = match walk.nat(hit) {
            Some(nat) => {
                walk.translations(hit, nat, packets).into_iter().map(|(nat, mine)| (Some(nat), mine)).collect()
            }
            None => vec![(None, packets)],
        };
        let each: Vec<Set> = each.into_iter().map(|(nat, packets)| self.sent(walk, hit, nat, packets)).collect();
        walk.space.any(each)
    }
}

/// Whether this stands for chains of Services that are too many to be read whole.
fn leads_to_services(walk: &Walk<'_>, hit: &Hit) -> bool {
    let Hit::Rule(RuleAt { set, position: 0, chain }, _) = hit else { return false };
    let ruleset = walk.world.rules[*set].ruleset;
    let searched = walk.world.chain(*set, chain).is_some_and(|chain| chain.only_searched());
    searched && ruleset.setters.found.values().any(|(chain, _)| OF_SERVICES.contains(&chain.chain.as_str()))
}

/// Devices by which packets to these addresses leave, and if what that depends on is so. `None`: they are this host's, or
/// nobody's.
fn way_to(walk: &mut Walk<'_>, first: IpAddr, last: IpAddr) -> Option<(Vec<(u128, u128)>, Set)> {
    let why = match &walk.world.host.targets {
        Err(why) => why.clone(),
        Ok(targets) => match targets.get(&first).filter(|_| first == last) {
            Some(Some(device)) => return Some((vec![(*device, *device)], EVERYTHING)),
            Some(None) => return None,
            None => format!("which way packets to {first} go was not looked up"),
        },
    };
    let assumed = walk.answer(format!("way to {first}"), About::All, 2, 1, || why);
    Some((SOME_DEVICE.to_vec(), assumed))
}

impl Way {
    /// Packets whose destination is translated so, with that destination. `None`: by something that was not understood, or not read.
    fn sent(&mut self, walk: &mut Walk<'_>, hit: &Hit, nat: Option<Nat>, packets: Set) -> Set {
        let place = walk.place(hit);
        let (addresses, ports, assumed) = match nat {
            Some(Nat { action: NatAction::Masquerade | NatAction::Snat | NatAction::Redirect, .. }) => {
                return NOTHING; // it leads to this host itself
            }
            Some(Nat { addresses: addresses @ (Chosen::Range(..) | Chosen::Unset), ports, .. }) => {
                (addresses, ports, EVERYTHING)
            }
            None if leads_to_services(walk, hit) => (Chosen::ByPacket, Chosen::ByPacket, EVERYTHING),
            Some(Nat { addresses: Chosen::ByPacket, .. }) | None => {
                let why = || format!("which destination {place} gives is not known");
                let assumed = walk.answer(format!("destination {hit:?}"), About::All, 2, 1, why);
                (Chosen::ByPacket, Chosen::ByPacket, assumed)
            }
        };
        let (_, destination) = walk.packets.ends();
        let before = walk.space.and(packets, assumed);
        let (targets, devices, routed) = match addresses {
            Chosen::Range(first, last) => {
                let targets = walk.with(&destination, &[(address_key(first), address_key(last))]);
                let Some((devices, routed)) = way_to(walk, first, last) else { return NOTHING };
                (targets, devices, routed)
            }
            Chosen::Unset | Chosen::ByPacket => (EVERYTHING, SOME_DEVICE.to_vec(), EVERYTHING),
        };
        let mut packets = walk.space.and(before, routed);
        if addresses != Chosen::Unset {
            packets = walk.forget(packets, std::slice::from_ref(&destination));
        }
        if let Some(local) = walk.world.local_addresses(self.family) {
            let local = walk.with(&destination, local.as_ranges());
            packets = walk.space.minus(packets, local);
        }
        packets = walk.space.and(packets, targets);
        let ports = match ports {
            Chosen::Range(first, last) => walk.with(&Field::DestinationPort, &[(first.into(), last.into())]),
            Chosen::Unset | Chosen::ByPacket => EVERYTHING,
        };
        if ports != EVERYTHING || addresses == Chosen::ByPacket {
            packets = walk.forget(packets, &[Field::DestinationPort]);
            packets = walk.space.and(packets, ports);
        }
        let status = walk.block(&Field::ConnectionStatus);
        packets = walk.forget(packets, &[Field::ConnectionStatus]);
        packets = walk.space.and(packets, walk.space.matching(&status, FIRST, DST_NAT));
        self.hits.push((hit.clone(), walk.space.and(targets, ports)));
        let by = walk.with(&Field::OutputName, &devices);
        let by = walk.space.and(by, targets);
        self.routes = walk.space.or(self.routes, by);
        if self.own { walk.set(packets, &Field::OutputName, &devices) } else { packets }
    }

    fn begin(&self, walk: &mut Walk<'_>, what: &str) {
        let who = if self.own { "own" } else { "forwarded" };
        walk.stage = format!("{what} {} {who}", self.family);
        walk.packets = Packets::new(Kind::Traffic, self.family);
    }

    fn hook(&mut self, walk: &mut Walk<'_>, what: &str, hook: Hook, packets: Set) -> Set {
        walk.stage = format!("{what} {} {hook} {}", self.family, self.own);
        walk.hook(hook, None, Flow::First, packets, self)
    }

    /// First packets of connections whose destination was translated, and not their source, as they leave.
    fn connections(&mut self, walk: &mut Walk<'_>) -> Set {
        self.begin(walk, "new");
        let new = walk.in_state(&[state::INVALID]); // connection tracking has not seen them
        let packets = walk.space.and(new, walk.start());
        let packets = flagged(walk, packets, Flags::FIRST);
        let status = walk.block(&Field::ConnectionStatus);
        let packets = walk.space.and(packets, walk.space.matching(&status, FIRST, 0));
        let packets = walk.all_with(
            packets,
            &[
                (Field::L4Proto, &[TCP]),
                (Field::Mark, &[(0, 0)]),
                (Field::ConnectionMark, &[(0, 0)]),
                (Field::ConnectionDirection, &[(0, 0)]),
                (Field::SourcePort, &[CHOSEN]),
                (Field::InputName, if self.own { NO_DEVICE } else { SOME_DEVICE }),
                (Field::OutputName, if self.own { SOME_DEVICE } else { NO_DEVICE }),
            ],
        );
        let packets = self.sent_by_clients(walk, packets);
        let packets = match self.own {
            true => packets,
            false => {
                let connected = walk.connected(&Field::InputName);
                walk.space.and(packets, connected)
            }
        };
        let hook = if self.own { Hook::Output } else { Hook::Prerouting };
        let packets = self.hook(walk, "new", hook, packets);
        // Where there is no nat chain on the hook, nothing was asked about them.
        let packets = walk.space.and(packets, walk.space.matching(&status, DST_NAT, DST_NAT));
        if self.own {
            return self.hook(walk, "new", Hook::Postrouting, packets);
        }
        let packets = self.routed(walk, packets);
        let packets = walk.hook(Hook::Forward, None, Flow::First, packets, &mut Passing);
        self.hook(walk, "new", Hook::Postrouting, packets)
    }

    /// Those of these packets that have an address of this host's as their source, or of others.
    fn sent_by_clients(&self, walk: &mut Walk<'_>, packets: Set) -> Set {
        let (source, _) = walk.packets.ends();
        let loopback = walk.with(&source, &[LOOPBACK[usize::from(self.family == Family::Ipv6)]]);
        let packets = walk.space.minus(packets, loopback);
        match walk.world.local_addresses(self.family) {
            Some(local) => {
                let local = walk.with(&source, local.as_ranges());
                if self.own { walk.space.and(packets, local) } else { walk.space.minus(packets, local) }
            }
            None => {
                let why = "which addresses are this host's was not read";
                let assumed = walk.if_so(why, &Err(why.into()));
                walk.space.and(packets, assumed)
            }
        }
    }

    /// The same packets, by the devices that lead to their destinations.
    fn routed(&self, walk: &mut Walk<'_>, packets: Set) -> Set {
        let packets = walk.forget(packets, &[Field::OutputName]);
        walk.space.and(packets, self.routes)
    }

    /// Resets that clients of these connections send to the real server's address, as they leave.
    fn resets(&self, walk: &mut Walk<'_>, connections: Set) -> Set {
        let ends = ends(walk, connections);
        self.begin(walk, "reset");
        let Some(resets) = segments(walk, self.family, ends, Flags::RESET) else { return NOTHING };
        if self.own {
            let packets = walk.all_with(resets, &[(Field::InputName, NO_DEVICE)]);
            return through(walk, "reset", self.family, &[Hook::Output, Hook::Postrouting], packets);
        }
        let packets = walk.forget(resets, &[Field::OutputName]);
        let packets = walk.all_with(packets, &[(Field::InputName, SOME_DEVICE), (Field::OutputName, NO_DEVICE)]);
        let packets = from_inside(walk, packets);
        let packets = through(walk, "reset", self.family, &[Hook::Prerouting], packets);
        let packets = self.routed(walk, packets);
        through(walk, "reset", self.family, &[Hook::Forward, Hook::Postrouting], packets)
    }

    /// Late segments of the real servers to the clients of these resets that get to them.
    fn late(&self, walk: &mut Walk<'_>, resets: Set) -> Set {
        let resets = ends(walk, resets);
        let (source, destination) = walk.packets.ends();
        let there =
            [Field::InputName, source, Field::SourcePort, Field::OutputName, destination, Field::DestinationPort];
        let there: Vec<Vec<u32>> = there.iter().map(|field| walk.block(field).0).collect();
        let back = [&there[3..], &there[..3]].concat().concat();
        let ends = walk.space.renamed(resets, &there.concat(), &back);
        self.begin(walk, "late");
        let Some(packets) = segments(walk, self.family, ends, Flags::LATE) else { return NOTHING };
        if self.own {
            return through(walk, "late", self.family, &[Hook::Prerouting, Hook::Input], packets);
        }
        let block = walk.block(&Field::OutputName).0;
        let clients = ends;
        let packets = walk.without(packets, block.into_iter().collect());
        let packets = walk.all_with(packets, &[(Field::OutputName, NO_DEVICE)]);
        let packets = through(walk, "late", self.family, &[Hook::Prerouting], packets);
        let packets = walk.forget(packets, &[Field::OutputName]);
        let packets = walk.space.and(packets, clients);
        through(walk, "late", self.family, &[Hook::Forward, Hook::Postrouting], packets)
    }
}

/// Packets with such flags.
fn flagged(walk: &mut Walk<'_>, packets: Set, Flags(mask, value): Flags) -> Set {
    Flags::FIELDS.into_iter().fold(packets, |packets, field| {
        let block = walk.block(&Field::Other(field.into()));
        let such = walk.space.matching(&block, mask, value);
        walk.space.and(packets, such)
    })
}

/// Packets that come in by a device beyond which no default route leads.
fn from_inside(walk: &mut Walk<'_>, packets: Set) -> Set {
    let connected = walk.connected(&Field::InputName);
    let packets = walk.space.and(packets, connected);
    match &walk.world.host.outward {
        Ok(outward) => {
            let outward: Vec<(u128, u128)> = outward.iter().map(|name| (*name, *name)).collect();
            let outward = walk.with(&Field::InputName, &outward);
            walk.space.minus(packets, outward)
        }
        Err(why) => {
            let assumed = walk.if_so("outward", &Err(why.clone()));
            walk.space.and(packets, assumed)
        }
    }
}

/// What is known of both ends of packets: addresses, ports and devices.
fn ends(walk: &mut Walk<'_>, packets: Set) -> Set {
    let (source, destination) = walk.packets.ends();
    let kept = [Field::InputName, source, Field::SourcePort, Field::OutputName, destination, Field::DestinationPort];
    let kept: BTreeSet<u32> = kept.iter().flat_map(|field| walk.block(field).0).collect();
    let mut others = walk.layout.variables(false);
    others.extend(walk.block(&Field::Mark).0);
    others.retain(|variable| !kept.contains(variable));
    walk.without(packets, others)
}

/// Segments with these ends and flags that connection tracking calls invalid, before any hook. `None`: it calls none so.
fn segments(walk: &mut Walk<'_>, family: Family, ends: Set, flags: Flags) -> Option<Set> {
    let segments = invalid_segments(walk, family)?;
    let segments = walk.forget(segments, &[Field::InputName, Field::OutputName]);
    let segments = walk.space.and(segments, ends);
    Some(flagged(walk, segments, flags))
}

/// Those of these invalid segments that pass these hooks.
fn through(walk: &mut Walk<'_>, what: &str, family: Family, hooks: &[Hook], packets: Set) -> Set {
    hooks.iter().fold(packets, |packets, hook| {
        walk.stage = format!("{what} {family} {hook}");
        walk.hook(*hook, None, Flow::Invalid, packets, &mut Passing)
    })
}
