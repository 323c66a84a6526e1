//! Scenario: whether rules still give a UDP entry's translation. The entry is kept as long as packets refresh it,
//! whatever happens to the rules (`nf_nat_packet` uses the entry only).

use std::net::IpAddr;

use super::devices::loopback;
use super::services::translating_udp;
use crate::facts::netfilter::{Chosen, Family, Field, Hook, Nat, NatAction, address_key};
use crate::facts::{Question, UdpClient, UdpTranslation};
use crate::symbolic::effort::Effort;
use crate::symbolic::machine::Walk;
use crate::symbolic::network::{Hit, Network, Occurrence};
use crate::symbolic::packets::{PacketKind, Packets};
use crate::symbolic::space::{NOTHING, PacketSet};

const ANY_PORT: (u128, u128) = (0, u16::MAX as u128);

/// What rules do to UDP destinations, and whether they still give translations seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpTargets {
    /// Whether destinations of new UDP packets are translated, and by which rule.
    pub translated: Occurrence,
    /// Result for each translation, in order.
    pub each: Vec<TranslationStatus>,
}

/// Whether rules may give a translation now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TranslationStatus {
    /// To all of its known clients.
    AllClients,
    /// To no client.
    NoClient,
    /// Not to these clients.
    NotFor(Vec<UdpClient>),
    /// Not known.
    Unknown(Question),
}

/// Runs UDP packets with these addresses and ports through prerouting and output.
pub(crate) fn udp_targets(network: &Network<'_>, translations: &[UdpTranslation], effort: &Effort<'_>) -> UdpTargets {
    let mut walk = Walk::of_connections(network, loopback().as_slice(), effort);
    let mut each: Vec<TranslationStatus> = translations.iter().map(|_| TranslationStatus::NoClient).collect();
    let (mut all, mut places) = (NOTHING, Vec::new());
    for family in Family::IP {
        let mut hits = Vec::new();
        for hook in [Hook::Output, Hook::Prerouting] {
            hits.extend(translating_udp(&mut walk, "udp", family, hook, ANY_PORT));
            hits.retain(|(_, packets)| !packets.is_empty());
        }
        for (hit, packets) in &hits {
            all = walk.space.or(all, *packets);
            places.push((walk.assumptions.doubt(&walk.space, *packets), walk.place(hit)));
        }
        walk.stage = format!("stale {family}");
        walk.packets = Packets::new(PacketKind::Traffic, family);
        let mine = translations.iter().zip(&mut each);
        let mine = mine.filter(|(translation, _)| Family::of(&translation.target.0) == family);
        for (translation, given) in mine {
            if walk.is_over() {
                break;
            }
            *given = given_by_rules(&mut walk, &hits, translation);
        }
    }
    if walk.is_over() {
        let why = walk.gave_up.clone().unwrap_or_else(|| "the work that a judgement may do is used up".to_owned());
        each.fill(TranslationStatus::Unknown(why.into()));
    }
    let place = places.into_iter().min_by_key(|(doubt, _)| *doubt).map(|(_, place)| place);
    UdpTargets { translated: Occurrence { happens: walk.happens(all), place: place.unwrap_or_default() }, each }
}

fn given_by_rules(walk: &mut Walk<'_>, hits: &[(Hit, PacketSet)], translation: &UdpTranslation) -> TranslationStatus {
    let (_, destination) = walk.packets.ends();
    let (address, port) = (address_key(translation.destination.0), u128::from(translation.destination.1));
    let to = [(destination, &[(address, address)][..]), (Field::DestinationPort, &[(port, port)][..])];
    let sent: Vec<(&Hit, PacketSet)> = hits
        .iter()
        .map(|(hit, packets)| (hit, walk.all_with(*packets, &to)))
        .filter(|(_, packets)| !packets.is_empty())
        .collect();
    match may_give(walk, &sent, translation) {
        Ok(false) => return TranslationStatus::NoClient,
        Err(why) => return TranslationStatus::Unknown(why),
        Ok(true) => {}
    }
    let mut others = Vec::new();
    for client in &translation.clients {
        let (source, _) = walk.packets.ends();
        let (address, port) = (address_key(client.source.0), u128::from(client.source.1));
        let from = [(source, &[(address, address)][..]), (Field::SourcePort, &[(port, port)][..])];
        let mine: Vec<(&Hit, PacketSet)> = sent
            .iter()
            .map(|(hit, packets)| (*hit, walk.all_with(*packets, &from)))
            .filter(|(_, packets)| !packets.is_empty())
            .collect();
        match may_give(walk, &mine, translation) {
            Ok(true) => {}
            Ok(false) => others.push(*client),
            Err(why) => return TranslationStatus::Unknown(why),
        }
    }
    if others.is_empty() { TranslationStatus::AllClients } else { TranslationStatus::NotFor(others) }
}

/// Whether one of these rules may give this translation to some of its packets.
fn may_give(walk: &mut Walk<'_>, hits: &[(&Hit, PacketSet)], translation: &UdpTranslation) -> Result<bool, Question> {
    let mut unclear = None;
    for (hit, packets) in hits {
        for (nat, packets) in walk.each_translation(hit, *packets) {
            match nat.and_then(|nat| gives(walk.network, &nat, translation)) {
                _ if packets.is_empty() => {}
                Some(true) => return Ok(true),
                Some(false) => {}
                None => {
                    let why = format!("which destination {} gives is not known", walk.place(hit));
                    unclear.get_or_insert_with(|| walk.question(hit, why));
                }
            }
        }
    }
    unclear.map_or(Ok(false), Err)
}

/// Whether a NAT statement may give this translation. `None`: not known.
fn gives(network: &Network<'_>, nat: &Nat, translation: &UdpTranslation) -> Option<bool> {
    let ((address, port), (target, target_port)) = (translation.destination, translation.target);
    let within = |chosen: Chosen<IpAddr>| match chosen {
        Chosen::Range(first, last) => Some((first..=last).contains(&target)),
        Chosen::Unset => Some(target == address),
        Chosen::ByPacket => None,
    };
    let address = match nat.action {
        NatAction::Masquerade | NatAction::Snat => return Some(false),
        NatAction::Dnat | NatAction::Netmap => within(nat.addresses)?,
        NatAction::Redirect => {
            let family = Family::of(&target);
            let key = address_key(target);
            let local = network.local_addresses(family)?;
            local.as_ranges().iter().any(|(first, last)| (*first..=*last).contains(&key))
        }
    };
    let port = match nat.ports {
        Chosen::Range(first, last) => (first..=last).contains(&target_port),
        Chosen::Unset => port == target_port,
        Chosen::ByPacket => return None,
    };
    Some(address && port)
}
