//! What the bytes in registers of nf_tables identify.

use crate::netfilter::nftables::register::{Cell, Header, Load, Machine, Network, Source};
use crate::netfilter::nftables::uapi::{
    NFT_CT_DST, NFT_CT_DST_IP, NFT_CT_DST_IP6, NFT_CT_SRC, NFT_CT_SRC_IP, NFT_CT_SRC_IP6, NFT_EXTHDR_OP_IPV4,
    NFT_EXTHDR_OP_IPV6, NFT_PAYLOAD_LL_HEADER, NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER,
    NFT_RT_NEXTHOP4, NFT_RT_NEXTHOP6, NFT_XFRM_KEY_DADDR_IP4, NFT_XFRM_KEY_DADDR_IP6, NFT_XFRM_KEY_SADDR_IP4,
    NFT_XFRM_KEY_SADDR_IP6,
};

/// What a byte identifies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    /// Nobody.
    Other,
    /// A byte of an address, with the mask put on it.
    Address { ipv6: bool, octet: usize, mask: u8 },
    /// A byte of a hardware address.
    Hardware,
    /// The same with a mask put on it.
    HardwarePart,
    /// What was computed from an address, or a part of a packet that may be one.
    Mixed,
}

/// Whether these are all the bytes of one address, without a mask.
pub(super) fn is_address(labels: &[Label], length: usize) -> bool {
    let whole =
        |(index, label): (usize, &Label)| *label == Label::Address { ipv6: length == 16, octet: index, mask: 0xff };
    matches!(length, 4 | 16) && labels.get(..length).is_some_and(|labels| labels.iter().enumerate().all(whole))
}

/// A routing header, whose addresses begin so many bytes from its start (`struct rt0_hdr`, `struct ipv6_sr_hdr`).
const IPPROTO_ROUTING: u8 = 43;
const ROUTING_ADDRESSES: usize = 8;
/// Options of IPv4 with routes, whose addresses begin so many bytes from their start.
const IPOPT_RR: u8 = 7;
const IPOPT_LSRR: u8 = 131;
const IPOPT_SSRR: u8 = 137;
const OPTION_ADDRESSES: usize = 3;

/// What a byte identifies that was loaded from here.
fn label(load: &Load, cell: &Cell) -> Label {
    let changed = cell.computed != 0 || cell.xor != 0;
    let octet = |ipv6, octet| match changed {
        true => Label::Mixed,
        false => Label::Address { ipv6, octet, mask: cell.and },
    };
    let address = |ipv6| octet(ipv6, cell.byte);
    let hardware = match cell.and {
        _ if changed => Label::Mixed,
        0xff => Label::Hardware,
        _ => Label::HardwarePart,
    };
    match load.source {
        Source::Header(Header::Ipv4Source | Header::Ipv4Destination | Header::ArpSender | Header::ArpTarget) => {
            address(false)
        }
        Source::Header(Header::Ipv6Source | Header::Ipv6Destination) => address(true),
        Source::Header(Header::ArpSenderHardware | Header::ArpTargetHardware) => hardware,
        Source::Payload { base: NFT_PAYLOAD_LL_HEADER, offset, .. } if offset + cell.byte < 12 => hardware,
        // Where the rule has not told the protocol, the place and the length do.
        Source::Payload { base: NFT_PAYLOAD_NETWORK_HEADER, offset, length } if load.network.is_none() => {
            let ipv6 = matches!((offset, length), (_, 16) | (8, 4..) | (24, _));
            let (start, width) = if ipv6 { (8, 16) } else { (12, 4) };
            match (offset + cell.byte).checked_sub(start).filter(|at| *at < 2 * width) {
                Some(at) => octet(ipv6, at % width),
                None => Label::Other,
            }
        }
        Source::Payload { base: NFT_PAYLOAD_LL_HEADER..=NFT_PAYLOAD_TRANSPORT_HEADER, .. } => Label::Other,
        Source::Payload { .. } => Label::Mixed, // within a tunnel
        Source::Ct(NFT_CT_SRC | NFT_CT_DST, _) => address(load.network == Some(Network::Ipv6)),
        Source::Ct(NFT_CT_SRC_IP | NFT_CT_DST_IP, _)
        | Source::Rt(NFT_RT_NEXTHOP4)
        | Source::Xfrm(NFT_XFRM_KEY_DADDR_IP4 | NFT_XFRM_KEY_SADDR_IP4) => address(false),
        Source::Ct(NFT_CT_SRC_IP6 | NFT_CT_DST_IP6, _)
        | Source::Rt(NFT_RT_NEXTHOP6)
        | Source::Xfrm(NFT_XFRM_KEY_DADDR_IP6 | NFT_XFRM_KEY_SADDR_IP6) => address(true),
        Source::Exthdr(NFT_EXTHDR_OP_IPV6, IPPROTO_ROUTING, offset) => {
            let at = (offset as usize + cell.byte).checked_sub(ROUTING_ADDRESSES);
            at.map_or(Label::Other, |at| octet(true, at % 16))
        }
        Source::Exthdr(NFT_EXTHDR_OP_IPV4, IPOPT_RR | IPOPT_LSRR | IPOPT_SSRR, offset) => {
            let at = (offset as usize + cell.byte).checked_sub(OPTION_ADDRESSES);
            at.map_or(Label::Other, |at| octet(false, at % 4))
        }
        Source::Unsupported | Source::Computed => Label::Mixed,
        Source::Header(_)
        | Source::Meta(_)
        | Source::Ct(..)
        | Source::Fib(..)
        | Source::Rt(_)
        | Source::Xfrm(_)
        | Source::Constant
        | Source::Map
        | Source::Exthdr(..)
        | Source::Numgen
        | Source::Hash
        | Source::Socket
        | Source::Osf
        | Source::Tunnel
        | Source::NoRegister => Label::Other,
    }
}

pub(super) fn labels(machine: &Machine, register: u32) -> Vec<Label> {
    let label = |cell: &Cell| machine.load_of(cell).map_or(Label::Other, |load| label(load, cell));
    machine.from(register).iter().map(label).collect()
}
