//! Writes to packet headers: `nft_payload_set_eval`.

use super::registers::Registers;
use crate::facts::netfilter::{Field, HeaderBytes, Step};
use crate::netfilter::nftables::expr::Payload;
use crate::netfilter::nftables::register::NetworkHeader;
use crate::netfilter::nftables::uapi::{NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER};

const IPPROTO_UDP: u8 = 17;

/// The steps for a write of this register's bytes.
pub(crate) fn written(registers: &Registers, payload: &Payload<'_>, register: u32) -> Vec<Step> {
    let Payload { base, offset: from, len, .. } = *payload;
    let bytes = HeaderBytes { header: base, offset: from as usize, length: len as usize };
    let written = format!("{} set", bytes.field(""));
    let is_udp = registers.transport() == Some(IPPROTO_UDP);
    // A zero checksum means none.
    let none = registers.constant(register, 2) == Some(vec![0, 0]);
    if (base, from, len) == (NFT_PAYLOAD_TRANSPORT_HEADER, 6, 2) && none && is_udp {
        return vec![Step::FillChecksum];
    }
    let network = registers.network();
    let fields: &[(Field, usize, usize)] = match (base, network) {
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4)) => {
            &[(Field::Ipv4Source, 12, 4), (Field::Ipv4Destination, 16, 4)]
        }
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6)) => {
            &[(Field::Ipv6Source, 8, 16), (Field::Ipv6Destination, 24, 16)]
        }
        (NFT_PAYLOAD_TRANSPORT_HEADER, _) => &[(Field::SourcePort, 0, 2), (Field::DestinationPort, 2, 2)],
        _ => &[],
    };
    let makes_no_difference = |at: usize| match (base, network) {
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4)) => at < 9 || (10..12).contains(&at),
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6)) => at < 6 || at == 7,
        (NFT_PAYLOAD_NETWORK_HEADER, None | Some(NetworkHeader::Arp)) => at < 4,
        // Ports are at 0 to 3; a checksum of UDP or UDP-Lite at 6 may be a workaround.
        (NFT_PAYLOAD_TRANSPORT_HEADER, _) => at >= 8,
        _ => true,
    };
    let mut changed = registers.written(register, base, from as usize, len as usize);
    changed.retain(|(at, _)| !makes_no_difference(*at));
    if changed.is_empty() {
        return vec![Step::NoEffect(written)];
    }
    let mut steps = Vec::new();
    for (field, start, width) in fields {
        let own = *start..start + width;
        let mine: Vec<Option<u8>> = changed.iter().filter(|(at, _)| own.contains(at)).map(|(_, byte)| *byte).collect();
        changed.retain(|(at, _)| !own.contains(at));
        if !mine.is_empty() {
            let bytes = mine.iter().copied().collect::<Option<Vec<u8>>>().filter(|bytes| bytes.len() == *width);
            let value = bytes.map(|bytes| bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte)));
            steps.push(Step::Rewrite { field: field.clone(), value });
        }
    }
    if !changed.is_empty() {
        steps.push(Step::Unsupported { what: written, may_translate: false });
    }
    steps
}
