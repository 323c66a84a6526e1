//! Conntrack entries: the attributes after `struct nfgenmsg` in the responses to a dump, and in a request with a
//! filter.
//!
//! `net/netfilter/nf_conntrack_netlink.c`: `ctnetlink_fill_info`, `ctnetlink_dump_tuples`, `ctnetlink_alloc_filter`,
//! `ctnetlink_parse_tuple_filter`; `nf_conntrack_proto_tcp.c`: `tcp_to_nlattr`; read in 5.4, 6.1, 6.12.

use std::borrow::Cow;

use crate::netfilter::netlink::{AttributeValue, Emit, MessageWriter, Nest};
use crate::netfilter::{Error, Result, Visit, Visitor};

/// Subsystem of conntrack messages.
pub const NFNL_SUBSYS_CTNETLINK: u16 = 1;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW`: an entry.
pub const IPCTNL_MSG_CT_NEW: u16 = 1 << 8;
/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET`: requests entries.
pub const IPCTNL_MSG_CT_GET: u16 = 1 << 8 | 1;

/// Bit of `CTA_STATUS` (`enum ip_conntrack_status`): expected by another connection's helper.
pub const IPS_EXPECTED: u32 = 1;
/// Packets were seen in both directions.
pub const IPS_SEEN_REPLY: u32 = 1 << 1;
/// Not evicted by `early_drop`.
pub const IPS_ASSURED: u32 = 1 << 2;
/// Source NAT is set up.
pub const IPS_SRC_NAT: u32 = 1 << 4;
/// Destination NAT is set up.
pub const IPS_DST_NAT: u32 = 1 << 5;
/// Offloaded to a flowtable.
pub const IPS_OFFLOAD: u32 = 1 << 14;

/// Bit of `CTA_FILTER_*_FLAGS`, which fields of a tuple are compared (`CTA_FILTER_F_*`): the source address.
pub const CTA_FILTER_F_CTA_IP_SRC: u32 = 1;
/// The destination address.
pub const CTA_FILTER_F_CTA_IP_DST: u32 = 1 << 1;
/// The protocol.
pub const CTA_FILTER_F_CTA_PROTO_NUM: u32 = 1 << 3;
/// The source port.
pub const CTA_FILTER_F_CTA_PROTO_SRC_PORT: u32 = 1 << 4;
/// The destination port.
pub const CTA_FILTER_F_CTA_PROTO_DST_PORT: u32 = 1 << 5;

crate::netfilter::attributes! {
    /// An entry, or a filter for entries.
    Entry {
        /// Tuple of packets in the original direction
        CTA_TUPLE_ORIG = 1 => original: Option<Tuple<'a>>,
        /// Tuple of packets in the reply direction, as they arrive
        CTA_TUPLE_REPLY = 2 => reply: Option<Tuple<'a>>,
        /// Zone of both directions; missing means 0
        CTA_ZONE = 18 => zone: Option<u16>,
        /// `IPS_*`
        CTA_STATUS = 3 => status: Option<u32>,
        /// Mark of the connection
        CTA_MARK = 8 => mark: Option<u32>,
        /// SELinux context
        CTA_SECCTX = 19 => security: Option<Nest<'a>>,
        /// Unique id
        CTA_ID = 12 => id: Option<u32>,
        /// Reference count
        CTA_USE = 11 => references: Option<u32>,
        /// Tuple of the master connection that expected it
        CTA_TUPLE_MASTER = 14 => master: Option<Nest<'a>>,
        /// Adjusted sequence numbers
        CTA_SEQ_ADJ_ORIG = 15 => adjusted_original: Option<Nest<'a>>,
        /// Adjusted sequence numbers
        CTA_SEQ_ADJ_REPLY = 16 => adjusted_reply: Option<Nest<'a>>,
        /// Sequence numbers of SYNPROXY
        CTA_SYNPROXY = 24 => synproxy: Option<Nest<'a>>,
        /// Seconds until it expires, unless another packet refreshes it
        CTA_TIMEOUT = 7 => timeout: Option<u32>,
        /// Protocol state
        CTA_PROTOINFO = 4 => protocol: Option<ProtocolInfo<'a>>,
        /// Packets and bytes
        CTA_COUNTERS_ORIG = 9 => counters_original: Option<Nest<'a>>,
        /// Packets and bytes
        CTA_COUNTERS_REPLY = 10 => counters_reply: Option<Nest<'a>>,
        /// Start time
        CTA_TIMESTAMP = 20 => timestamp: Option<Nest<'a>>,
        /// Conntrack helper
        CTA_HELP = 5 => helper: Option<Nest<'a>>,
        /// Labels
        CTA_LABELS = 22 => labels: Option<Cow<'a, [u8]>>,
        /// Tuple fields that a request filters by (since Linux 5.8; ignored before)
        CTA_FILTER = 25 => filter: Option<Filter<'a>>,
        /// Status bits that a request filters by (since Linux 5.15; ignored before)
        CTA_STATUS_MASK = 26 => status_mask: Option<u32>,
    }
}

crate::netfilter::visit!(Entry {
    plain: [zone, status, timeout, mark, id, references, status_mask],
    nested: [original, reply, protocol, filter],
    hidden: [
        counters_original,
        counters_reply,
        timestamp,
        helper,
        security,
        labels,
        master,
        adjusted_original,
        adjusted_reply,
        synproxy
    ]
});

crate::netfilter::attributes! {
    /// Addresses and ports of one direction.
    Tuple {
        /// Addresses
        CTA_TUPLE_IP = 1 => addresses: Option<Addresses<'a>>,
        /// Protocol and ports
        CTA_TUPLE_PROTO = 2 => protocol: Option<Protocol<'a>>,
        /// Zone of this direction only
        CTA_TUPLE_ZONE = 3 => zone: Option<u16>,
    }
}

crate::netfilter::visit!(Tuple { plain: [zone], nested: [addresses, protocol] });

crate::netfilter::attributes! {
    /// Addresses of one direction, of one family.
    Addresses {
        /// Source
        CTA_IP_V4_SRC = 1 => v4_source: Option<Cow<'a, [u8]>>,
        /// Destination
        CTA_IP_V4_DST = 2 => v4_destination: Option<Cow<'a, [u8]>>,
        /// Source
        CTA_IP_V6_SRC = 3 => v6_source: Option<Cow<'a, [u8]>>,
        /// Destination
        CTA_IP_V6_DST = 4 => v6_destination: Option<Cow<'a, [u8]>>,
    }
}

impl Visit for Addresses<'_> {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        let Self { v4_source, v4_destination, v6_source, v6_destination, layout } = self;
        for address in [v4_source, v4_destination, v6_source, v6_destination].into_iter().flatten() {
            visitor.network(address.to_mut(), None, None);
        }
        layout.visit(visitor);
    }
}

crate::netfilter::attributes! {
    /// Protocol and ports of one direction.
    Protocol {
        /// `IPPROTO_*`
        CTA_PROTO_NUM = 1 => number: Option<u8>,
        /// Source port of TCP, UDP, UDP-Lite, SCTP, DCCP
        CTA_PROTO_SRC_PORT = 2 => source_port: Option<u16>,
        /// Destination port of the same protocols
        CTA_PROTO_DST_PORT = 3 => destination_port: Option<u16>,
        /// Identifier of ICMP
        CTA_PROTO_ICMP_ID = 4 => icmp_id: Option<u16>,
        /// Type of ICMP
        CTA_PROTO_ICMP_TYPE = 5 => icmp_type: Option<u8>,
        /// Code of ICMP
        CTA_PROTO_ICMP_CODE = 6 => icmp_code: Option<u8>,
        /// Identifier of ICMPv6
        CTA_PROTO_ICMPV6_ID = 7 => icmpv6_id: Option<u16>,
        /// Type of ICMPv6
        CTA_PROTO_ICMPV6_TYPE = 8 => icmpv6_type: Option<u8>,
        /// Code of ICMPv6
        CTA_PROTO_ICMPV6_CODE = 9 => icmpv6_code: Option<u8>,
    }
}

crate::netfilter::visit!(Protocol {
    plain: [number, source_port, destination_port, icmp_id, icmp_type, icmp_code, icmpv6_id, icmpv6_type, icmpv6_code]
});

crate::netfilter::attributes! {
    /// Protocol state.
    ProtocolInfo {
        /// Of TCP
        CTA_PROTOINFO_TCP = 1 => tcp: Option<TcpInfo<'a>>,
        /// Of DCCP
        CTA_PROTOINFO_DCCP = 2 => dccp: Option<Nest<'a>>,
        /// Of SCTP
        CTA_PROTOINFO_SCTP = 3 => sctp: Option<Nest<'a>>,
    }
}

crate::netfilter::visit!(ProtocolInfo { nested: [tcp], hidden: [dccp, sctp] });

crate::netfilter::attributes! {
    /// State of a TCP connection.
    TcpInfo {
        /// `enum tcp_conntrack`
        CTA_PROTOINFO_TCP_STATE = 1 => state: Option<u8>,
        /// Window scale
        CTA_PROTOINFO_TCP_WSCALE_ORIGINAL = 2 => scale_original: Option<u8>,
        /// Window scale
        CTA_PROTOINFO_TCP_WSCALE_REPLY = 3 => scale_reply: Option<u8>,
        /// Flags and mask
        CTA_PROTOINFO_TCP_FLAGS_ORIGINAL = 4 => flags_original: Option<u16>,
        /// Flags and mask
        CTA_PROTOINFO_TCP_FLAGS_REPLY = 5 => flags_reply: Option<u16>,
    }
}

crate::netfilter::visit!(TcpInfo { plain: [state, scale_original, scale_reply, flags_original, flags_reply] });

/// A number in host byte order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HostOrder(pub u32);

impl AttributeValue<'_> for HostOrder {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let exact = bytes.try_into().map(u32::from_ne_bytes).map(Self);
        exact.map_err(|_| Error::unexpected(format!("need 4 bytes, have {}", bytes.len())))
    }
}

impl Emit for HostOrder {
    fn emit(&self, out: &mut MessageWriter) {
        out.bytes(&self.0.to_ne_bytes());
    }
}

crate::netfilter::attributes! {
    /// Tuple fields that a request filters by: `CTA_FILTER_F_*`. Both directions are required.
    Filter {
        /// Original direction
        CTA_FILTER_ORIG_FLAGS = 1 => original: Option<HostOrder>,
        /// Reply direction
        CTA_FILTER_REPLY_FLAGS = 2 => reply: Option<HostOrder>,
    }
}

crate::netfilter::visit!(Filter { plain: [original, reply] });

#[cfg(test)]
mod tests {
    use super::*;

    /// An entry of TCP with another destination, in zone 7, with counters and a time, as Linux 6.18 wrote it.
    const ENTRY: &str = "\
        340001801400018008000100c633640908000200c63364091c000280050001000600000006000200aabe0000060003001f90000034000280\
        14000180080001000a63000108000200c63364091c0002800500010006000000060002000050000006000300aabe00000600120000070000\
        08000300000001ae080008000000000008000c00d9daab1608000b0000000001080007000006977f300004802c0001800500010003000000\
        050002000a000000050003000a000000060004002300000006000500230000001c0009800c00010000000000000000020c00020000000000\
        000000701c000a800c00010000000000000000010c000200000000000000003c100014800c00010018ec11247bef0722";

    fn bytes(hex: &str) -> Vec<u8> {
        hex.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    #[test]
    fn what_a_kernel_wrote_is_written_again() {
        let bytes = bytes(ENTRY);
        let entry = Entry::parse(&bytes).expect("whole");
        let reply = entry.reply.as_ref().expect("a reply");
        assert_eq!(reply.protocol.as_ref().and_then(|it| it.destination_port), Some(0xaabe));
        assert_eq!(entry.zone, Some(7));
        assert_eq!(entry.status, Some(0x1ae));
        assert_eq!(entry.protocol.as_ref().and_then(|it| it.tcp.as_ref()?.state), Some(3));
        let mut out = MessageWriter::kernel();
        entry.emit(&mut out);
        assert_eq!(out.finish(), bytes);
        assert!(!entry.has_unknown(), "nothing is left over");
        for cut in 0..bytes.len() {
            let _ = Entry::parse(&bytes[..cut]);
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>)| { let _ = Entry::parse(&bytes); });
    }
}
