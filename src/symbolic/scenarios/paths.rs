//! By which devices packets to the targets of rules leave.

use std::net::IpAddr;

use super::first;
use crate::facts::Question;
use crate::facts::netfilter::{Field, address_key};
use crate::symbolic::machine::Walk;
use crate::symbolic::packets::SOME_DEVICE;
use crate::symbolic::space::{EVERYTHING, NOTHING, PacketSet};

/// Packets to these addresses by the devices that lead there; those that are this host's, or nobody's, lead by none. If that was not
/// looked up, the way of this host's own packets without a mark stands for that of all.
pub(super) fn paths_to(walk: &mut Walk<'_>, own: bool, first: IpAddr, last: IpAddr) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let (first, last) = (first.min(last), first.max(last));
    let (network, ends) = (walk.network, (address_key(first), address_key(last)));
    let looked_up = network.host.targets.iter().flat_map(|targets| targets.range(first..=last));
    let looked_up: Vec<(&IpAddr, &Option<u128>)> = looked_up.collect();
    if looked_up.len() as u128 == (ends.1 - ends.0).saturating_add(1) {
        let each = looked_up.into_iter().map(|(target, device)| path_to(walk, own, *target, *device));
        let each: Vec<PacketSet> = each.collect();
        return walk.space.any(each);
    }
    let by_sender = !own && network.host.routes_by_sender[walk.packets.family.ip_index()];
    let by_sender = by_sender.then(|| Question::from("policy rules go by where packets come from"));
    let routes = &network.host.first_paths[walk.packets.family.ip_index()];
    match network.host.targets.as_ref().err().or(routes.as_ref().err()).or(by_sender.as_ref()) {
        None => {
            let to = walk.with(&destination, &[ends]);
            first::first_paths(walk, to)
        }
        Some(why) => {
            let why = why.clone().reword(|why| format!("which way packets to {first} go was not looked up: {why}"));
            let why = why.shown_by(["ip", "route", "get", &first.to_string()]);
            let assumed = walk.assume(format!("way to {first}"), &Err(why));
            let some = walk.all_with(EVERYTHING, &[(destination, &[ends]), (Field::OutputName, SOME_DEVICE)]);
            walk.space.and(some, assumed)
        }
    }
}

/// Packets to an address by the devices that lead there: `device`, if policy rules do not go by where they come from.
fn path_to(walk: &mut Walk<'_>, own: bool, target: IpAddr, device: Option<u128>) -> PacketSet {
    let (_, destination) = walk.packets.ends();
    let key = address_key(target);
    let mut leaving = device.map_or(NOTHING, |device| walk.with(&Field::OutputName, &[(device, device)]));
    if !own {
        leaving = by_where_from(walk, target, leaving);
    }
    walk.all_with(leaving, &[(destination, &[(key, key)])])
}

/// Packets to an address by the devices that lead there where policy rules go by where packets come from; of others, these.
fn by_where_from(walk: &mut Walk<'_>, target: IpAddr, mut leaving: PacketSet) -> PacketSet {
    let (network, (source, _)) = (walk.network, walk.packets.ends());
    let paths = match &network.host.forwarded_paths {
        Ok(paths) => paths,
        // Hosts whose packets policy rules lead elsewhere are few: of those that come in some go as this host's own do.
        Err(_) if !leaving.is_empty() => return leaving,
        Err(why) => {
            let assumed = walk.assume(format!("way to {target} by source"), &Err(why.clone()));
            let some = walk.with(&Field::OutputName, SOME_DEVICE);
            return walk.space.and(some, assumed);
        }
    };
    for path in paths.iter().filter(|path| path.target == target) {
        let from = [(Field::InputName, &[(path.input, path.input)][..]), (source.clone(), &[path.sources][..])];
        let mine = walk.all_with(EVERYTHING, &from);
        leaving = walk.space.minus(leaving, mine);
        if let Some(device) = path.output {
            let by = walk.with(&Field::OutputName, &[(device, device)]);
            leaving = walk.space.or(leaving, walk.space.and(mine, by));
        }
    }
    leaving
}
