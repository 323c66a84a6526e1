//! New TCP connections, from where they enter or start to where they leave: destinations and sources that are
//! translated; and invalid segments of these connections.

use std::collections::BTreeSet;

use super::confirmed::Translated;
use super::devices::{entering, loopback};
use super::given_source::{NARROW, given_source};
use super::on_nat::{Passing, with_destination_translated};
use super::paths::paths_to;
use super::senders::{self, elsewhere, for_this_host};
use super::services::invalid_segments;
use super::{first, translatable};
use crate::facts::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, PortRandomization, address_key};
use crate::symbolic::effort::Effort;
use crate::symbolic::machine::{Flow, OnNat, Walk};
use crate::symbolic::network::{Hit, Network, RuleAt};
use crate::symbolic::packets::{NO_DEVICE, PacketKind, Packets, SOME_DEVICE, state};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// `IPPROTO_TCP`, as a range.
pub(super) const TCP: (u128, u128) = (6, 6);
/// Ephemeral ports, which clients choose.
pub(super) const CHOSEN: (u128, u128) = (1024, 65535);
/// `IPS_DST_NAT`
const DST_NAT: u128 = 0x20;

/// Mask and value of the TCP flags byte.
#[derive(Clone, Copy)]
pub(super) struct Flags(u128, u128);

impl Flags {
    /// The first segment: SYN.
    const FIRST: Self = Self(0x17, 0x02);
    /// A late one: ACK, neither SYN nor RST.
    pub(super) const LATE: Self = Self(0x16, 0x10);
    /// RST without SYN.
    pub(super) const RESET: Self = Self(0x06, 0x04);
    /// Names of tests of that byte, in x_tables and nf_tables.
    const FIELDS: [&str; 2] = ["tcp flags", "@th,104,8"];
}

/// A walk that distinguishes the devices towards DNAT addresses and those of default routes.
pub(super) fn walk<'a>(network: &'a Network<'a>, effort: &'a Effort<'a>) -> Walk<'a> {
    let targets = network.host.targets.iter().flat_map(|targets| targets.values().flatten());
    let told = network.host.outward.iter().flatten().chain(targets).map(|name| (*name, *name)).chain(loopback());
    let told: BTreeSet<(u128, u128)> = told.collect();
    Walk::of_connections(network, &told.into_iter().collect::<Vec<_>>(), effort)
}

/// Connections of one family, of this host or forwarded, on their path through the hooks.
pub(super) struct ConnectionPath {
    /// IPv4 or IPv6.
    pub(super) family: Family,
    /// Whether they are this host's own.
    pub(super) own: bool,
    /// Whether connections with an untranslated destination are included; then only source NAT is of interest.
    plain: bool,
    /// Routes to the translated destinations.
    routes: PacketSet,
    /// Rules that translate destinations, with the packets and their new destinations.
    pub(super) hits: Vec<(Hit, PacketSet)>,
    /// Rules that translate sources, with the packets as they leave, except for their source.
    pub(super) sources: Vec<(Hit, PacketSet)>,
    /// The same while they are under way; only where it is asked for.
    translated: Option<Translated>,
}

impl OnNat for ConnectionPath {
    fn untouched(&mut self, _: &mut Walk<'_>, hook: Hook, packets: PacketSet) -> PacketSet {
        if self.plain || hook == Hook::Postrouting { packets } else { NOTHING }
    }

    fn translated(&mut self, walk: &mut Walk<'_>, hook: Hook, hit: &Hit, packets: PacketSet) -> PacketSet {
        if hook == Hook::Postrouting {
            // Replies to others' connections come back to this host; see `answers`.
            let same = self.kept(walk, hit, packets);
            let others = walk.space.minus(packets, same);
            let others = self.translated.as_mut().map_or(NOTHING, |translated| translated.add(walk, hit, others));
            return walk.space.or(same, others);
        }
        let each = walk.each_translation(hit, packets).into_iter();
        let each: Vec<PacketSet> = each.map(|(nat, packets)| self.sent(walk, hit, nat, packets)).collect();
        walk.space.any(each)
    }
}

/// Whether this represents chains of Services that were only searched.
fn leads_to_services(walk: &Walk<'_>, hit: &Hit) -> bool {
    let Hit::Rule(RuleAt { set, position: 0, chain }, _) = hit else { return false };
    let searched = walk.network.chain(*set, chain).is_some_and(|chain| chain.only_searched());
    searched && walk.network.has_services(*set)
}

impl ConnectionPath {
    /// For connections of this family; see the fields.
    pub(super) fn new(family: Family, own: bool, plain: bool) -> Self {
        Self { family, own, plain, routes: NOTHING, hits: Vec::new(), sources: Vec::new(), translated: None }
    }

    /// Packets with the destination that a translation gives. `None` for `nat`: unsupported or unread.
    fn sent(&mut self, walk: &mut Walk<'_>, hit: &Hit, nat: Option<Nat>, packets: PacketSet) -> PacketSet {
        let (addresses, ports, assumed) = match nat {
            Some(Nat { action: NatAction::Masquerade | NatAction::Snat | NatAction::Redirect, .. }) => {
                return NOTHING; // local
            }
            Some(Nat { addresses: addresses @ (Chosen::Range(..) | Chosen::Unset), ports, .. }) => {
                (addresses, ports, EVERYTHING)
            }
            None if leads_to_services(walk, hit) => (Chosen::ByPacket, Chosen::ByPacket, EVERYTHING),
            Some(Nat { addresses: Chosen::ByPacket, .. }) | None => {
                let why = walk.question(hit, format!("which destination {} gives is not known", walk.place(hit)));
                let assumed = walk.assume(format!("destination {hit:?}"), &Err(why));
                (Chosen::ByPacket, Chosen::ByPacket, assumed)
            }
        };
        let (_, destination) = walk.packets.ends();
        let before = walk.space.and(packets, assumed);
        let paths = match addresses {
            Chosen::Range(first, last) => paths_to(walk, self.own, first, last),
            Chosen::Unset | Chosen::ByPacket => walk.with(&Field::OutputName, SOME_DEVICE),
        };
        if paths.is_empty() {
            return NOTHING;
        }
        let devices = walk.block(&Field::OutputName).0.into_iter().collect();
        let targets = walk.space.exists(paths, &devices);
        let mut packets = before;
        if addresses != Chosen::Unset {
            packets = walk.forget(packets, std::slice::from_ref(&destination));
        }
        if let Some(local) = walk.network.local_addresses(self.family) {
            let local = walk.with(&destination, local.as_ranges());
            packets = walk.space.minus(packets, local);
        }
        packets = walk.space.and(packets, targets);
        if let Chosen::Range(first, last) = addresses
            && first == last
            && !(self.own || self.plain)
        {
            // Where its source stays, what gets back to where it came from is refused there (`fib_validate_source`).
            let (source, _) = walk.packets.ends();
            let itself = walk.with(&source, &[(address_key(first), address_key(first))]);
            packets = walk.space.minus(packets, itself);
        }
        let ports = match ports {
            Chosen::Range(first, last) => walk.with(&Field::DestinationPort, &[(first.into(), last.into())]),
            Chosen::Unset | Chosen::ByPacket => EVERYTHING,
        };
        if ports != EVERYTHING || addresses == Chosen::ByPacket {
            packets = walk.forget(packets, &[Field::DestinationPort]);
            packets = walk.space.and(packets, ports);
        }
        packets = with_destination_translated(walk, packets);
        self.hits.push((hit.clone(), walk.space.and(targets, ports)));
        self.routes = walk.space.or(self.routes, paths);
        packets
    }

    /// Of the packets, those that source NAT leaves unchanged, because they already have what it would give
    /// (`get_unique_tuple`).
    fn kept(&self, walk: &mut Walk<'_>, hit: &Hit, packets: PacketSet) -> PacketSet {
        let each = if self.own { walk.each_translation(hit, packets) } else { Vec::new() };
        let each = each.into_iter().filter_map(|(nat, packets)| Some((nat?, packets)));
        let each = each.filter(|(nat, _)| (nat.ports, nat.randomization) == (Chosen::Unset, PortRandomization::None));
        let kept = each.map(|(nat, packets)| {
            let given = if nat.addresses == Chosen::ByPacket {
                let why = walk.question(hit, format!("{}: a map tells which address is written", walk.place(hit)));
                Some(walk.assume(format!("keeps {hit:?}"), &Err(why)))
            } else {
                given_source(walk, self.family, &nat)
            };
            given.map_or(NOTHING, |given| walk.space.and(packets, given))
        });
        let kept: Vec<PacketSet> = kept.collect();
        walk.space.any(kept)
    }

    /// Starts a new stage with packets of this family.
    pub(super) fn begin(&self, walk: &mut Walk<'_>, what: &str) {
        let who = if self.own { "own" } else { "forwarded" };
        walk.stage = format!("{what} {} {who}", self.family);
        walk.packets = Packets::new(PacketKind::Traffic, self.family);
    }

    fn hook(&mut self, walk: &mut Walk<'_>, what: &str, hook: Hook, packets: PacketSet) -> PacketSet {
        walk.stage = format!("{what} {} {hook} {}", self.family, self.own);
        walk.hook(hook, None, Flow::First, packets, self)
    }

    /// First packets of connections with an untranslated source, as they leave.
    pub(super) fn connections(&mut self, walk: &mut Walk<'_>) -> PacketSet {
        self.begin(walk, "new");
        let packets = first::first_packets(walk);
        let packets = first::marked_outside(walk, packets);
        let packets = flagged(walk, packets, Flags::FIRST);
        let packets = walk.all_with(
            packets,
            &[
                (Field::L4Proto, &[TCP]),
                (Field::SourcePort, &[CHOSEN]),
                (Field::InputName, if self.own { NO_DEVICE } else { SOME_DEVICE }),
                (Field::OutputName, if self.own { SOME_DEVICE } else { NO_DEVICE }),
            ],
        );
        let packets = self.sent_by_clients(walk, packets);
        let packets = if self.own { self.first_routed(walk, packets) } else { entering(walk, packets) };
        let hook = if self.own { Hook::Output } else { Hook::Prerouting };
        let packets = self.hook(walk, "new", hook, packets);
        // Without a nat chain on the hook, nothing is known about these.
        let status = walk.block(&Field::ConnectionStatus);
        let wanted = if self.plain { 0 } else { DST_NAT };
        let packets = walk.space.and(packets, walk.space.matching(&status, wanted, wanted));
        // Not expected connections.
        let new = walk.in_state(&[state::NEW, state::INVALID, state::UNTRACKED]);
        let packets = walk.space.and(packets, new);
        let by_ipvs = if self.plain { self.by_ipvs(walk, packets) } else { NOTHING };
        let mut packets = self.routed(walk, packets);
        if !self.own {
            packets = match self.plain {
                true => translatable::forwarded(walk, packets),
                false => walk.hook(Hook::Forward, None, Flow::First, packets, &mut Passing),
            };
        }
        let packets = walk.space.or(packets, by_ipvs);
        past_postrouting(walk, packets, |walk, packets| self.past_source_nat(walk, packets))
    }

    /// The last hook, of those that become connections.
    fn past_source_nat(&mut self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        if !self.plain {
            return self.hook(walk, "new", Hook::Postrouting, packets);
        }
        let translated = Translated::new(walk, self.family, Hook::Postrouting);
        let packets = translated.begin(walk, packets);
        self.translated = Some(translated);
        let left = self.hook(walk, "new", Hook::Postrouting, packets);
        self.sources = self.translated.take().map_or_else(Vec::new, |translated| translated.confirmed(walk, left));
        left
    }

    /// Packets redirected by IPVS: those delivered locally after input, and those sent by this host.
    fn by_ipvs(&self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        let by_ipvs = walk.if_ipvs_in_use();
        let mut packets = walk.space.and(packets, by_ipvs);
        if !self.own {
            packets = for_this_host(walk, packets);
            packets = walk.hook(Hook::Input, None, Flow::First, packets, &mut Passing);
        }
        let packets = elsewhere(walk, true, packets);
        walk.set(packets, &Field::InputName, NO_DEVICE)
    }

    /// Of these packets, those with a local source, or with a source of other hosts.
    fn sent_by_clients(&self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        let (source, _) = walk.packets.ends();
        let narrow = walk.with(&source, NARROW[self.family.ip_index()]);
        let packets = walk.space.minus(packets, narrow);
        match walk.network.local_addresses(self.family) {
            Some(local) => {
                let local = walk.with(&source, local.as_ranges());
                if self.own { walk.space.and(packets, local) } else { walk.space.minus(packets, local) }
            }
            None => if_addresses_are_so(walk, packets),
        }
    }

    /// This host's packets with the device towards their untranslated destination, as all of output sees it
    /// (`nf_hook_state`): `lo` if local. Routes to others are considered only if a rule on output tests the device.
    fn first_routed(&self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        let Some(local) = walk.network.local_addresses(self.family) else { return packets };
        let (_, destination) = walk.packets.ends();
        let to_here = walk.with(&destination, local.as_ranges());
        let by_lo = walk.with(&Field::OutputName, loopback().as_slice());
        let here = walk.space.and(to_here, by_lo);
        let mut elsewhere = walk.space.minus(packets, walk.space.or(to_here, by_lo));
        if !self.plain && walk.network.asks_for_first_path(self.family) {
            elsewhere = first::first_paths(walk, elsewhere);
        }
        walk.space.or(walk.space.and(packets, here), elsewhere)
    }

    /// The packets with the devices towards their destinations.
    pub(super) fn routed(&self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        let plain = if self.plain { self.elsewhere(walk, packets) } else { NOTHING };
        let first: BTreeSet<u32> = walk.block(&Field::OutputName).0.into_iter().collect();
        let packets = match self.own && !self.plain {
            true => walk.space.exists(packets, &first), // follows from the packet and answers
            false => walk.forget(packets, &[Field::OutputName]),
        };
        let packets = walk.space.and(packets, self.routes);
        walk.space.or(packets, plain)
    }

    /// Of the packets, those with an untranslated, non-local destination, by any device.
    fn elsewhere(&self, walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
        let status = walk.block(&Field::ConnectionStatus);
        let mut packets = walk.space.and(packets, walk.space.matching(&status, DST_NAT, 0));
        let (_, destination) = walk.packets.ends();
        if let Some(local) = walk.network.local_addresses(self.family) {
            let local = walk.with(&destination, local.as_ranges());
            packets = walk.space.minus(packets, local);
        }
        if self.own { packets } else { senders::by_any_device(walk, packets) }
    }
}

/// Packets with these flags.
fn flagged(walk: &mut Walk<'_>, packets: PacketSet, Flags(mask, value): Flags) -> PacketSet {
    Flags::FIELDS.into_iter().fold(packets, |packets, field| {
        let block = walk.block(&Field::Other(field.into()));
        let such = walk.space.matching(&block, mask, value);
        walk.space.and(packets, such)
    })
}

/// Packets under the assumption that local addresses, which were not read, are as needed.
pub(super) fn if_addresses_are_so(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let why = "which addresses are this host's was not read";
    let assumed = walk.assume(why, &Err(why.into()));
    walk.space.and(packets, assumed)
}

/// Packets reduced to addresses, ports and devices of both ends.
pub(super) fn ends(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let (source, destination) = walk.packets.ends();
    let kept = [Field::InputName, source, Field::SourcePort, Field::OutputName, destination, Field::DestinationPort];
    let kept: BTreeSet<u32> = kept.iter().flat_map(|field| walk.block(field).0).collect();
    let mut others = walk.layout.variables(false);
    others.extend(walk.block(&Field::Mark).0);
    others.retain(|variable| !kept.contains(variable));
    walk.without(packets, others)
}

/// Invalid segments with these ends and flags, before any hook. `None`: conntrack marks none invalid.
pub(super) fn segments(walk: &mut Walk<'_>, family: Family, ends: PacketSet, flags: Flags) -> Option<PacketSet> {
    let segments = invalid_segments(walk, family)?;
    let segments = walk.forget(segments, &[Field::InputName, Field::OutputName]);
    let segments = walk.space.and(segments, ends);
    Some(flagged(walk, segments, flags))
}

/// Of these invalid segments, those that pass these hooks.
pub(super) fn through(
    walk: &mut Walk<'_>,
    what: &str,
    family: Family,
    hooks: &[Hook],
    packets: PacketSet,
) -> PacketSet {
    hooks.iter().fold(packets, |packets, hook| {
        walk.stage = format!("{what} {family} {hook}");
        let pass = |walk: &mut Walk<'_>, packets| walk.hook(*hook, None, Flow::Invalid, packets, &mut Passing);
        if *hook == Hook::Postrouting { past_postrouting(walk, packets, pass) } else { pass(walk, packets) }
    })
}

/// The resets in reply to these segments, as they leave.
pub(super) fn resets_of(walk: &mut Walk<'_>, path: &ConnectionPath, packets: PacketSet) -> PacketSet {
    let there = ends(walk, packets);
    let there = reversed(walk, there);
    path.begin(walk, "reset");
    let Some(resets) = segments(walk, path.family, there, Flags::RESET) else { return NOTHING };
    let resets = walk.forget(resets, &[Field::InputName]);
    let resets = walk.all_with(resets, &[(Field::InputName, NO_DEVICE)]);
    let resets = through(walk, "reset", path.family, &[Hook::Output, Hook::Postrouting], resets);
    if walk.is_over() { NOTHING } else { resets }
}

/// Packets that pass postrouting, with their input devices, whether or not rules there see these.
fn past_postrouting(
    walk: &mut Walk<'_>,
    packets: PacketSet,
    pass: impl FnOnce(&mut Walk<'_>, PacketSet) -> PacketSet,
) -> PacketSet {
    let seen = walk.as_seen_by_postrouting(packets);
    let left = pass(walk, seen);
    if seen == packets {
        return left;
    }
    let came_in = ends(walk, packets);
    let left = walk.forget(left, &[Field::InputName]);
    walk.space.and(left, came_in)
}

/// The ends of packets in the reverse direction.
pub(super) fn reversed(walk: &mut Walk<'_>, ends: PacketSet) -> PacketSet {
    let (source, destination) = walk.packets.ends();
    let there = [Field::InputName, source, Field::SourcePort, Field::OutputName, destination, Field::DestinationPort];
    let there: Vec<Vec<u32>> = there.iter().map(|field| walk.block(field).0).collect();
    let back = [&there[3..], &there[..3]].concat().concat();
    walk.space.renamed(ends, &there.concat(), &back)
}
