//! Scenario: which translations let connections compete for a port, because they can give two sources one address.
//!
//! After translation a packet has its new source, its destination and its ports. Two connections compete if their
//! sources differ and both can become equal. So for each bit of the source, packets with the bit set and packets with
//! it clear are translated and the results compared. Per-packet questions may have different answers for the two, so
//! they are decided before comparing.
//!
//! Routes are not considered: packets may leave by any device that is up. This host's own untranslated connections do
//! not count as the second one, nor does anything that leaves by loopback or has a link address.

use std::collections::{BTreeMap, BTreeSet};

use crate::facts::netfilter::{Chosen, Family, Field, Nat, NatAction, PortRandomization, address_key, device_name};
use crate::facts::{Address, Question};
use crate::symbolic::assumptions::About;
use crate::symbolic::happens::Happens;
use crate::symbolic::machine::{Hits, Walk};
use crate::symbolic::network::Hit;
use crate::symbolic::network::host::{Connected, may_be_chosen};
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// A rule with the packets that reach it.
#[derive(Clone)]
struct Translation {
    hit: Hit,
    /// Packets that reach it.
    before: PacketSet,
    /// Packets that it changes, reduced to what distinguishes connections: those that must reach it, and those that
    /// may.
    packets: [PacketSet; 2],
    /// Fields that it overwrites, and their new values.
    written: Written,
    /// Whether it chooses ports at random: then two connections share a port only by chance.
    draws: bool,
    /// Whether the rule gives a port range.
    is_ranged: bool,
    /// For those that must and those that may reach it: packets that become equal to others.
    colliding: [PacketSet; 2],
}

/// What a translation writes.
#[derive(Clone)]
pub(super) struct Written {
    /// Variables of fields that packets get anew.
    pub(super) fields: BTreeSet<u32>,
    /// What packets have there then.
    pub(super) value: PacketSet,
    /// Packets that have the address already, and one of the ports that the rule names (`nf_in_range`).
    kept: PacketSet,
}

/// Whether a rule makes two connections compete.
pub(super) struct Collision {
    /// The rule.
    pub(super) hit: Hit,
    /// Whether it does.
    pub(super) happens: Happens,
    /// Whether only connections of one source compete, by chance, because the rule gives each source a port range.
    pub(super) alone: bool,
}

/// Whether each rule makes two connections compete; one with a map is treated once per data.
pub(super) fn collisions(walk: &mut Walk<'_>, family: Family, hits: Hits) -> Vec<Collision> {
    let masquerading = masquerading(walk, family);
    let mut all = Vec::new();
    for (hit, packets) in hits.0 {
        for (nat, packets) in walk.each_translation(&hit, packets) {
            all.push(translation(walk, &masquerading, hit.clone(), nat.as_ref(), packets));
        }
    }
    let (mut compared, mut found) = (Vec::with_capacity(all.len()), Vec::with_capacity(all.len()));
    for mut group in groups(walk, all) {
        compare(walk, &mut group);
        found.extend(group.iter().map(|one| collision(walk, one)));
        compared.extend(group);
    }
    for drawn in [PortRandomization::None, PortRandomization::Random, PortRandomization::RandomFully] {
        let of_kind = |at: &usize| walk.nat(&compared[*at].hit).is_some_and(|nat| nat.randomization == drawn);
        let alike: Vec<usize> = (0..compared.len()).filter(of_kind).collect();
        let surely = walk.space.any(alike.iter().map(|at| compared[*at].colliding[0]));
        // Whatever the order of two chains is, one of the rules applies.
        if let Some(first) = alike.iter().find(|at| !compared[**at].colliding[0].is_empty())
            && alike.iter().all(|at| found[*at].happens != Happens::Must)
            && walk.happens(surely) == Happens::Must
        {
            found[*first].happens = Happens::Must;
        }
    }
    found
}

fn collision(walk: &Walk<'_>, translation: &Translation) -> Collision {
    let found = happens(walk, translation);
    let alone = found == Happens::Never && translation.is_ranged;
    // Each source has its own address, and more connections than ports.
    let happens = match alone {
        true => self::happens(walk, &Translation { colliding: translation.packets, ..translation.clone() }),
        false => found,
    };
    Collision { hit: translation.hit.clone(), happens, alone }
}

/// Groups rules that may give the same addresses.
fn groups(walk: &mut Walk<'_>, all: Vec<Translation>) -> Vec<Vec<Translation>> {
    let devices: BTreeSet<u32> = walk.block(&Field::OutputName).0.into_iter().collect();
    let mut by_value: BTreeMap<PacketSet, Vec<Translation>> = BTreeMap::new();
    for one in all {
        by_value.entry(walk.space.exists(one.written.value, &devices)).or_default().push(one);
    }
    let values: Vec<PacketSet> = by_value.keys().copied().collect();
    let mut later = vec![NOTHING; values.len() + 1];
    for (at, value) in values.iter().enumerate().rev() {
        later[at] = walk.space.or(later[at + 1], *value);
    }
    let (mut apart, mut mixed, mut earlier) = (Vec::new(), Vec::new(), NOTHING);
    for ((value, group), later) in by_value.into_iter().zip(&later[1..]) {
        let others = walk.space.or(earlier, *later);
        match walk.space.and(value, others).is_empty() {
            true => apart.push(group),
            false => mixed.extend(group),
        }
        earlier = walk.space.or(earlier, value);
    }
    apart.push(mixed);
    apart
}

/// Searches for packets with different sources that become equal.
fn compare(walk: &mut Walk<'_>, all: &mut [Translation]) {
    let (source, _) = walk.packets.ends();
    let source = walk.block(&source);
    if let [one] = all
        && walk.space.number(one.packets[1], &source).is_some()
    {
        return; // one source only
    }
    for bit in source.0.into_iter().rev() {
        if walk.is_over() || all.iter().all(|one| walk.happens(one.colliding[0]) == Happens::Must) {
            return;
        }
        compare_by(walk, all, bit);
    }
}

fn happens(walk: &Walk<'_>, translation: &Translation) -> Happens {
    let [sure, possible] = translation.colliding;
    match walk.happens(sure) {
        Happens::Must => Happens::Must,
        _ if possible.is_empty() => walk.happens(NOTHING),
        _ => {
            // Of those that may come, others surely do.
            let sure = walk.assumptions.for_certain(&walk.space, translation.before, &walk.layout.determined());
            let others = walk.space.minus(translation.before, sure);
            let asked =
                [possible, translation.before, others].map(|packets| walk.assumptions.why(&walk.space, packets));
            let why = asked.into_iter().find(|why| !why.text.is_empty());
            let why = why.or_else(|| walk.why_incomplete().map(Question::from));
            Happens::May(why.unwrap_or_default())
        }
    }
}

/// Searches for packets whose sources differ in this bit.
fn compare_by(walk: &mut Walk<'_>, all: &mut [Translation], bit: u32) {
    let devices: BTreeSet<u32> = walk.block(&Field::OutputName).0.into_iter().collect();
    let space = &walk.space;
    let has_bit = space.is_set(bit);
    // Without per-packet questions, packets that may reach it must.
    let same = all.iter().all(|one| one.packets[0] == one.packets[1]);
    for which in if same { 1..2 } else { 0..2 } {
        let left = |one: &Translation| {
            let packets = one.packets[which];
            [space.minus(packets, has_bit), space.and(packets, has_bit)].map(|packets| {
                let written = space.and(space.exists(packets, &one.written.fields), one.written.value);
                space.exists(written, &devices)
            })
        };
        let each: Vec<[PacketSet; 2]> = all.iter().map(left).collect();
        let keeping = || all.iter().zip(&each).filter(|(one, _)| !one.draws);
        let [without, with] = [0, 1].map(|at| space.any(keeping().map(|(_, left)| left[at])));
        for (one, left) in all.iter_mut().zip(each) {
            let both = space.or(space.and(left[0], with), space.and(left[1], without));
            one.colliding[which] = space.or(one.colliding[which], both);
        }
    }
    if same {
        all.iter_mut().for_each(|one| one.colliding[0] = one.colliding[1]);
    }
}

fn translation(
    walk: &mut Walk<'_>,
    masquerading: &Written,
    hit: Hit,
    nat: Option<&Nat>,
    before: PacketSet,
) -> Translation {
    let written = nat.map_or_else(nothing_written, |nat| written(walk, masquerading, &hit, nat));
    let changed = walk.space.minus(before, written.kept);
    let determined = walk.layout.determined();
    let sure = walk.assumptions.for_certain(&walk.space, changed, &determined);
    let packets = [sure, changed].map(|packets| told_apart(walk, packets));
    // With random ports, or an unknown effect, connections of one source compete too.
    let draws = nat.is_some_and(|nat| nat.randomization != PortRandomization::None);
    let colliding = if draws || nat.is_none() { packets } else { [NOTHING; 2] };
    let is_ranged = nat.is_some_and(|nat| matches!(nat.ports, Chosen::Range(..)));
    Translation { hit, before, packets, written, draws, is_ranged, colliding }
}

/// Packets reduced to what two of them must share, their source, and the output device.
fn told_apart(walk: &mut Walk<'_>, packets: PacketSet) -> PacketSet {
    let (source, destination) = walk.packets.ends();
    let fields = [source, destination, Field::SourcePort, Field::DestinationPort, Field::L4Proto, Field::OutputName];
    let kept: BTreeSet<u32> = fields.iter().flat_map(|field| walk.block(field).0).collect();
    let mut others = walk.space.support(packets);
    others.retain(|variable| !kept.contains(variable) && !walk.assumptions.about_all().contains(variable));
    walk.space.exists(packets, &others)
}

fn nothing_written() -> Written {
    Written { fields: BTreeSet::new(), value: EVERYTHING, kept: NOTHING }
}

/// `get_unique_tuple`, as far as it is about addresses; a port is kept unless the rule says which ones there are.
pub(super) fn written(walk: &mut Walk<'_>, masquerading: &Written, hit: &Hit, nat: &Nat) -> Written {
    let (source, _) = walk.packets.ends();
    let whole = walk.block(&source);
    let mut written = match (nat.action, nat.addresses) {
        (NatAction::Masquerade, _) => masquerading.clone(),
        // The host part is kept (`nf_nat_setup_info` with `NF_NAT_RANGE_NETMAP`, `netmap_tg4`).
        (NatAction::Netmap, Chosen::Range(first, last)) => {
            let (first, last) = (address_key(first), address_key(last));
            let network = whole.largest() & !(first ^ last);
            let value = walk.space.matching(&whole, network, first & network);
            Written { fields: whole.bits(network).collect(), value, kept: value }
        }
        (_, Chosen::Range(first, last)) => {
            let value = walk.with(&source, &[(address_key(first), address_key(last))]);
            Written { fields: whole.0.into_iter().collect(), value, kept: value }
        }
        (_, Chosen::ByPacket) => {
            let place = walk.place(hit);
            let why = walk.question(hit, format!("{place}: a map tells which address is written"));
            let value = walk.assume(format!("map {hit:?}"), &Err(why));
            Written { fields: whole.0.into_iter().collect(), value, kept: NOTHING }
        }
        (_, Chosen::Unset) => nothing_written(),
    };
    let ports = match nat.ports {
        Chosen::Range(first, last) => {
            let ports = walk.with(&Field::SourcePort, &[(first.into(), last.into())]);
            let keeps = nat.randomization == PortRandomization::None;
            written.kept = if keeps { walk.space.and(written.kept, ports) } else { NOTHING };
            ports
        }
        Chosen::ByPacket => EVERYTHING,
        Chosen::Unset if nat.randomization != PortRandomization::None => EVERYTHING,
        Chosen::Unset => return written,
    };
    written.fields.extend(walk.block(&Field::SourcePort).0);
    written.value = walk.space.and(written.value, ports);
    written
}

/// The address of the device that a packet leaves by (`nf_nat_masquerade_ipv4`, `nf_nat_masquerade_ipv6`).
pub(super) fn masquerading(walk: &mut Walk<'_>, family: Family) -> Written {
    let (source, _) = walk.packets.ends();
    let fields = walk.block(&source).0.into_iter().collect();
    let (network, ipv6) = (walk.network, family == Family::Ipv6);
    let connected = network.connected();
    let addresses = network.host.addresses.as_ref();
    let chosen: Option<Vec<&Address>> =
        addresses.ok().map(|addresses| addresses.iter().filter(|own| may_be_chosen(own, family)).collect());
    let (devices, chosen) = match (&connected, chosen) {
        // Without an address there is nothing to write (IPv6 may use a link address).
        (Connected::By(devices), Some(chosen)) if !(ipv6 && chosen.is_empty()) => (devices, chosen),
        // Each device has its own address, or not known.
        (connected, chosen) => {
            let own = by_device_alone(walk);
            let value = match (connected, chosen) {
                (Connected::Nowhere, _) | (Connected::By(_), Some(_)) => own,
                _ => {
                    let why = "which addresses masquerading writes is not known";
                    let any = walk.assume("masquerading", &Err(why.into()));
                    walk.space.or(own, any)
                }
            };
            return Written { fields, value, kept: NOTHING };
        }
    };
    let mut value = NOTHING;
    for (index, name) in devices {
        let here: Vec<&&Address> = chosen.iter().filter(|own| own.link == *index).collect();
        // `inet_select_addr` continues with other devices.
        let here = if here.is_empty() { chosen.iter().collect() } else { here };
        let by_it = walk.with(&Field::OutputName, &[(*name, *name)]);
        for (answer, own) in here.iter().enumerate() {
            let device = || device_name(*name).unwrap_or_default();
            let why = || format!("which address masquerading writes for {} is not known", device());
            let assumed = walk.answer(format!("masquerading {family} {index}"), About::All, here.len(), answer, why);
            let address = address_key(own.address);
            let address = walk.with(&source, &[(address, address)]);
            let address = walk.space.and(walk.space.and(by_it, assumed), address);
            value = walk.space.or(value, address);
        }
    }
    Written { fields, value, kept: value }
}

/// Represents each device's address by a number.
fn by_device_alone(walk: &mut Walk<'_>) -> PacketSet {
    let (source, _) = walk.packets.ends();
    let (address, device) = (walk.block(&source), walk.block(&Field::OutputName));
    let each =
        walk.layout.names.possible().into_iter().map(|number| {
            walk.space.and(walk.space.ranges(&device, &[number]), walk.space.ranges(&address, &[number]))
        });
    let each: Vec<PacketSet> = each.collect();
    walk.space.any(each)
}
