//! Header fields, and number of bytes that expressions load. For an unknown key that is all registers, so that no old
//! contents are taken for its result.

use super::uapi::{
    NFT_CT_AVGPKT, NFT_CT_BYTES, NFT_CT_DIRECTION, NFT_CT_DST, NFT_CT_DST_IP, NFT_CT_DST_IP6, NFT_CT_EVENTMASK,
    NFT_CT_EXPIRATION, NFT_CT_HELPER, NFT_CT_ID, NFT_CT_L3PROTOCOL, NFT_CT_LABELS, NFT_CT_PKTS, NFT_CT_PROTO_DST,
    NFT_CT_PROTO_SRC, NFT_CT_PROTOCOL, NFT_CT_SRC, NFT_CT_SRC_IP, NFT_CT_SRC_IP6, NFT_CT_STATE, NFT_CT_STATUS,
    NFT_CT_ZONE, NFT_FIB_RESULT_ADDRTYPE, NFT_FIB_RESULT_OIF, NFT_FIB_RESULT_OIFNAME, NFT_META_BRI_IIFNAME,
    NFT_META_BRI_IIFPVID, NFT_META_BRI_IIFVPROTO, NFT_META_BRI_OIFNAME, NFT_META_CPU, NFT_META_IIFKIND,
    NFT_META_IIFNAME, NFT_META_IIFTYPE, NFT_META_L4PROTO, NFT_META_LEN, NFT_META_NFPROTO, NFT_META_NFTRACE,
    NFT_META_OIF, NFT_META_OIFKIND, NFT_META_OIFNAME, NFT_META_OIFTYPE, NFT_META_PKTTYPE, NFT_META_PRANDOM,
    NFT_META_PRIORITY, NFT_META_PROTOCOL, NFT_META_RTCLASSID, NFT_META_SDIF, NFT_META_SDIFNAME, NFT_META_SECMARK,
    NFT_META_SECPATH, NFT_META_SKGID, NFT_META_SKUID, NFT_META_TIME_DAY, NFT_META_TIME_HOUR, NFT_META_TIME_NS,
    NFT_PAYLOAD_NETWORK_HEADER, NFT_PAYLOAD_TRANSPORT_HEADER, NFT_RT_CLASSID, NFT_RT_NEXTHOP4, NFT_RT_NEXTHOP6,
    NFT_RT_TCPMSS, NFT_RT_XFRM, NFT_XFRM_KEY_DADDR_IP4, NFT_XFRM_KEY_DADDR_IP6, NFT_XFRM_KEY_REQID,
    NFT_XFRM_KEY_SADDR_IP4, NFT_XFRM_KEY_SADDR_IP6, NFT_XFRM_KEY_SPI, REGISTERS_LENGTH,
};

/// Maximum length of a device name, including its zero.
pub(super) const IFNAMSIZ: usize = 16;

/// Offset of the EtherType in an Ethernet header.
pub(super) const ETHER_TYPE: usize = 12;
/// Offset of the EtherType after a VLAN tag.
pub(super) const ETHER_TYPE_IN_VLAN: usize = 16;

/// `nft_meta_get_init`
pub(super) fn meta_width(key: u32) -> usize {
    match key {
        NFT_META_NFTRACE | NFT_META_NFPROTO | NFT_META_L4PROTO | NFT_META_PKTTYPE | NFT_META_SECPATH
        | NFT_META_TIME_DAY => 1,
        NFT_META_PROTOCOL | NFT_META_IIFTYPE | NFT_META_OIFTYPE | NFT_META_BRI_IIFPVID | NFT_META_BRI_IIFVPROTO => 2,
        NFT_META_LEN
        | NFT_META_PRIORITY..=NFT_META_OIF
        | NFT_META_SKUID
        | NFT_META_SKGID
        | NFT_META_RTCLASSID
        | NFT_META_SECMARK
        | NFT_META_CPU..=NFT_META_PRANDOM
        | NFT_META_TIME_HOUR
        | NFT_META_SDIF => 4,
        NFT_META_TIME_NS => 8,
        NFT_META_IIFNAME | NFT_META_OIFNAME | NFT_META_BRI_IIFNAME | NFT_META_BRI_OIFNAME | NFT_META_IIFKIND
        | NFT_META_OIFKIND | NFT_META_SDIFNAME => IFNAMSIZ,
        _ => REGISTERS_LENGTH,
    }
}

/// `nft_ct_get_init`, `nft_ct_get_eval`: an address of a known IPv4 packet has 4 bytes.
pub(super) fn ct_width(key: u32, network: Option<NetworkHeader>) -> usize {
    match key {
        NFT_CT_DIRECTION | NFT_CT_L3PROTOCOL | NFT_CT_PROTOCOL => 1,
        NFT_CT_PROTO_SRC | NFT_CT_PROTO_DST | NFT_CT_ZONE => 2,
        NFT_CT_SRC | NFT_CT_DST if network == Some(NetworkHeader::Ipv4) => 4,
        NFT_CT_STATE
        | NFT_CT_STATUS..=NFT_CT_EXPIRATION
        | NFT_CT_EVENTMASK
        | NFT_CT_SRC_IP
        | NFT_CT_DST_IP
        | NFT_CT_ID => 4,
        NFT_CT_PKTS | NFT_CT_BYTES | NFT_CT_AVGPKT => 8,
        NFT_CT_SRC | NFT_CT_DST | NFT_CT_HELPER | NFT_CT_LABELS | NFT_CT_SRC_IP6 | NFT_CT_DST_IP6 => 16,
        _ => REGISTERS_LENGTH,
    }
}

/// `nft_fib_init`
pub(super) fn fib_width(result: u32) -> usize {
    match result {
        NFT_FIB_RESULT_OIF | NFT_FIB_RESULT_ADDRTYPE => 4,
        NFT_FIB_RESULT_OIFNAME => IFNAMSIZ,
        _ => REGISTERS_LENGTH,
    }
}

/// `nft_rt_get_init`
pub(super) fn rt_width(key: u32) -> usize {
    match key {
        NFT_RT_XFRM => 1,
        NFT_RT_TCPMSS => 2,
        NFT_RT_CLASSID | NFT_RT_NEXTHOP4 => 4,
        NFT_RT_NEXTHOP6 => 16,
        _ => REGISTERS_LENGTH,
    }
}

/// `nft_xfrm_get_init`
pub(super) fn xfrm_width(key: u32) -> usize {
    match key {
        NFT_XFRM_KEY_DADDR_IP4 | NFT_XFRM_KEY_SADDR_IP4 | NFT_XFRM_KEY_REQID | NFT_XFRM_KEY_SPI => 4,
        NFT_XFRM_KEY_DADDR_IP6 | NFT_XFRM_KEY_SADDR_IP6 => 16,
        _ => REGISTERS_LENGTH,
    }
}

/// The network header of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetworkHeader {
    /// `ETH_P_IP`
    Ipv4,
    /// `ETH_P_IPV6`
    Ipv6,
    /// `ETH_P_ARP`, for IPv4 over Ethernet
    Arp,
}

/// A field of a packet's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// `struct iphdr::protocol`
    Ipv4Protocol,
    /// `struct iphdr::saddr`
    Ipv4Source,
    /// `struct iphdr::daddr`
    Ipv4Destination,
    /// `struct ipv6hdr::nexthdr`
    Ipv6Next,
    /// `struct ipv6hdr::saddr`
    Ipv6Source,
    /// `struct ipv6hdr::daddr`
    Ipv6Destination,
    /// `ar_sha` of `struct arphdr`
    ArpSenderHardware,
    /// `ar_sip`
    ArpSender,
    /// `ar_tha`
    ArpTargetHardware,
    /// `ar_tip`
    ArpTarget,
    /// Source port of TCP, UDP, SCTP, …
    SourcePort,
    /// Destination port of the same protocols.
    DestinationPort,
}

/// The fields of a header with offset and length, bytes.
pub(super) fn headers(base: u32, network: Option<NetworkHeader>) -> &'static [(Header, usize, usize)] {
    match (base, network) {
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv4)) => {
            &[(Header::Ipv4Protocol, 9, 1), (Header::Ipv4Source, 12, 4), (Header::Ipv4Destination, 16, 4)]
        }
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Ipv6)) => {
            &[(Header::Ipv6Next, 6, 1), (Header::Ipv6Source, 8, 16), (Header::Ipv6Destination, 24, 16)]
        }
        (NFT_PAYLOAD_NETWORK_HEADER, Some(NetworkHeader::Arp)) => &[
            (Header::ArpSenderHardware, 8, 6),
            (Header::ArpSender, 14, 4),
            (Header::ArpTargetHardware, 18, 6),
            (Header::ArpTarget, 24, 4),
        ],
        (NFT_PAYLOAD_TRANSPORT_HEADER, _) => &[(Header::SourcePort, 0, 2), (Header::DestinationPort, 2, 2)],
        _ => &[],
    }
}
