//! Builds the netlink messages that create the experiments' devices and rules. Pure.
//!
//! Kernel sources: `rtnl_newlink`, `inet_rtm_newaddr`, `vxlan_nl2conf`, `nf_tables_newrule` and its expressions.

use std::net::{IpAddr, Ipv4Addr};

use neli::consts::nl::NlmF;

use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{BlockLayout, MessageWriter, frame, put, put_nested};
use crate::netfilter::nfnetlink::{NFNL_MSG_BATCH_BEGIN, NFNL_MSG_BATCH_END, Nfgenmsg};
use crate::netfilter::nftables::expr::{Cmp, Immediate, Masq, Meta, NFTA_META_DREG, NFTA_META_KEY, Nat, Payload};
use crate::netfilter::nftables::uapi::{
    NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING, NFNL_SUBSYS_NFTABLES, NFT_CMP_EQ, NFT_META_CPU, NFT_NAT_DNAT,
    NFT_PAYLOAD_NETWORK_HEADER, NFT_REG_1, NFT_REG_2,
};
use crate::netfilter::nftables::{self, Body, Chain, Data, Expression, Hook, Rule, Table};

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A message with sequence number and port 0: there is one exchange at a time.
fn message(kind: u16, flags: NlmF, body: &[u8]) -> Vec<u8> {
    frame(kind, (NlmF::REQUEST | flags).bits(), body)
}

fn text(out: &mut Vec<u8>, kind: u16, text: &str) {
    put(out, kind, &[text.as_bytes(), &[0]].concat());
}

fn address(out: &mut Vec<u8>, kind: u16, address: IpAddr) {
    put(out, kind, &octets(address));
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

const fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `struct ifinfomsg`
fn ifinfomsg(index: u32, flags: u32) -> Vec<u8> {
    [&[AF_UNSPEC, 0, 0, 0][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
}

/// `RTM_NEWLINK`: a device of a kind with a given index; `data` fills `IFLA_INFO_DATA`.
fn new_link(index: u32, name: &str, kind: &str, data: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = ifinfomsg(index, 0);
    text(&mut body, IFLA_IFNAME, name);
    put_nested(&mut body, IFLA_LINKINFO, |info| {
        text(info, IFLA_INFO_KIND, kind);
        put_nested(info, IFLA_INFO_DATA, data);
    });
    message(RTM_NEWLINK, NlmF::ACK | NlmF::CREATE | NlmF::EXCL, &body)
}

/// A pair of veth devices.
pub(crate) fn veth(device: (u32, &str), peer: (u32, &str)) -> Vec<u8> {
    new_link(device.0, device.1, "veth", |data| {
        put_nested(data, VETH_INFO_PEER, |out| {
            out.extend(ifinfomsg(peer.0, 0));
            text(out, IFLA_IFNAME, peer.1);
        });
    })
}

/// A VXLAN tunnel to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vxlan {
    /// Interface index.
    pub index: u32,
    /// VXLAN network identifier.
    pub id: u32,
    /// Underlay address of this end.
    pub local: IpAddr,
    /// Underlay address of the peer.
    pub remote: IpAddr,
    /// UDP port.
    pub port: u16,
    /// Whether packets get a UDP checksum.
    pub checksum: bool,
}

impl Vxlan {
    /// `RTM_NEWLINK`
    pub(crate) fn create(&self, name: &str, underlay: u32) -> Vec<u8> {
        let (group, local) = match self.local {
            IpAddr::V4(_) => (IFLA_VXLAN_GROUP, IFLA_VXLAN_LOCAL),
            IpAddr::V6(_) => (IFLA_VXLAN_GROUP6, IFLA_VXLAN_LOCAL6),
        };
        new_link(self.index, name, "vxlan", |data| {
            put(data, IFLA_VXLAN_ID, &self.id.to_ne_bytes());
            address(data, group, self.remote);
            put(data, IFLA_VXLAN_LINK, &underlay.to_ne_bytes());
            address(data, local, self.local);
            put(data, IFLA_VXLAN_LEARNING, &[0]);
            put(data, IFLA_VXLAN_PORT, &self.port.to_be_bytes());
            put(data, IFLA_VXLAN_UDP_CSUM, &[u8::from(self.checksum)]);
            put(data, IFLA_VXLAN_UDP_ZERO_CSUM6_TX, &[u8::from(!self.checksum)]);
            put(data, IFLA_VXLAN_UDP_ZERO_CSUM6_RX, &[u8::from(!self.checksum)]);
        })
    }
}

/// `RTM_NEWADDR`, without duplicate address detection.
pub(crate) fn new_address(index: u32, local: IpAddr, prefix: u8) -> Vec<u8> {
    const IFA_F_NODAD: u8 = 2;
    let mut body = vec![family(local), prefix, IFA_F_NODAD, 0];
    body.extend(index.to_ne_bytes());
    address(&mut body, IFA_LOCAL, local);
    address(&mut body, IFA_ADDRESS, local);
    message(RTM_NEWADDR, NlmF::ACK | NlmF::CREATE | NlmF::EXCL, &body)
}

/// `RTM_NEWLINK` for an existing device: up, and without neighbour discovery.
pub(crate) fn set_up(index: u32) -> Vec<u8> {
    const IFF_UP: u32 = 1;
    const IFF_NOARP: u32 = 0x80;
    message(RTM_NEWLINK, NlmF::ACK, &ifinfomsg(index, IFF_UP | IFF_NOARP))
}

/// Flag of `NFTA_MASQ_FLAGS` and `struct nf_nat_range`.
pub(crate) const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
/// Likewise.
pub(crate) const NF_NAT_RANGE_PROTO_RANDOM: u32 = 4;

/// How a rule chooses source ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ports {
    /// From a range, both ends included, without flags.
    Range(u16, u16),
    /// `random`
    Random,
}

/// Chains of the experiments' rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NatChain {
    /// Translates sources.
    Postrouting,
    /// Translates destinations of local packets.
    Output,
}

const TABLE: &str = "natwatch";

/// A batch that adds a rule to masquerade UDP to `destination`; creates table and chain if missing.
pub(crate) fn masquerade(destination: IpAddr, ports: Ports) -> Vec<u8> {
    let mut expressions = to(destination).to_vec();
    let masq = match ports {
        Ports::Range(min, max) => {
            expressions.extend([immediate(NFT_REG_1, &min.to_be_bytes()), immediate(NFT_REG_2, &max.to_be_bytes())]);
            let (reg_proto_min, reg_proto_max) = (Some(NFT_REG_1), Some(NFT_REG_2));
            Masq { flags: Some(NF_NAT_RANGE_PROTO_SPECIFIED), reg_proto_min, reg_proto_max, ..Masq::default() }
        }
        Ports::Random => Masq { flags: Some(NF_NAT_RANGE_PROTO_RANDOM), ..Masq::default() },
    };
    expressions.push(masq.into());
    rule(NatChain::Postrouting, family(destination), expressions)
}

/// A batch that adds a rule to redirect packets from `destination` to `target`, if given only those processed by `cpu`.
pub(crate) fn redirect(destination: Ipv4Addr, cpu: Option<u32>, target: Ipv4Addr) -> Vec<u8> {
    let mut expressions = to(destination.into()).to_vec();
    if let Some(cpu) = cpu {
        let layout = BlockLayout::in_order(&[NFTA_META_DREG, NFTA_META_KEY]);
        let load = Meta { dreg: Some(NFT_REG_1), key: NFT_META_CPU, layout, ..Meta::default() };
        expressions.extend([load.into(), equals(cpu.to_ne_bytes().to_vec())]);
    }
    let reg_addr_min = Some(NFT_REG_1);
    let nat = Nat { kind: NFT_NAT_DNAT, family: AF_INET.into(), reg_addr_min, ..Nat::default() };
    expressions.extend([immediate(NFT_REG_1, &target.octets()), nat.into()]);
    rule(NatChain::Output, AF_INET, expressions)
}

/// Matches the destination address.
fn to(destination: IpAddr) -> [Expression<'static>; 2] {
    let octets = octets(destination);
    let offset = if destination.is_ipv4() { 16 } else { 24 };
    let (base, len) = (NFT_PAYLOAD_NETWORK_HEADER, octets.len() as u32);
    let load = Payload { dreg: Some(NFT_REG_1), base, offset, len, ..Payload::default() };
    [load.into(), equals(octets)]
}

fn equals(value: Vec<u8>) -> Expression<'static> {
    Cmp { sreg: NFT_REG_1, op: NFT_CMP_EQ, data: Data::of(value), ..Cmp::default() }.into()
}

fn immediate(dreg: u32, value: &[u8]) -> Expression<'static> {
    Immediate { dreg, data: Data::of(value.to_vec()), ..Immediate::default() }.into()
}

/// A batch that appends one rule. Only the rule is acknowledged; an earlier failure is answered first.
fn rule(chain: NatChain, family: u8, expressions: Vec<Expression<'_>>) -> Vec<u8> {
    let subsystem = Nfgenmsg { res_id: NFNL_SUBSYS_NFTABLES, ..Nfgenmsg::default() };
    let limit = |kind| {
        let mut out = MessageWriter::user();
        subsystem.emit(&mut out);
        message(kind, NlmF::empty(), &out.finish())
    };
    let change = |flags: NlmF, body: Body<'_>| {
        let mut out = MessageWriter::user();
        let header = Nfgenmsg { family, ..Nfgenmsg::default() };
        let kind = body.kind();
        nftables::NftMessage { header, body }.emit(&mut out);
        message(kind, NlmF::CREATE | flags, &out.finish())
    };
    let (name, hooknum, priority) = match chain {
        NatChain::Postrouting => ("postrouting", NF_INET_POST_ROUTING, 100),
        NatChain::Output => ("output", NF_INET_LOCAL_OUT, -100i32),
    };
    let hook = Some(Hook { hooknum, priority: priority.cast_unsigned(), ..Hook::default() });
    let (table, kind) = (|| TABLE.into(), Some("nat".into()));
    let rule =
        Rule { table: table(), chain: Some(name.into()), expressions: Some(expressions.into()), ..Rule::default() };
    [
        limit(NFNL_MSG_BATCH_BEGIN),
        change(NlmF::empty(), Table { name: table(), ..Table::default() }.into()),
        change(NlmF::empty(), Chain { table: table(), name: Some(name.into()), hook, kind, ..Chain::default() }.into()),
        change(NlmF::APPEND | NlmF::ACK, rule.into()),
        limit(NFNL_MSG_BATCH_END),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netfilter::netlink::{Attributes, messages};

    #[test]
    fn a_batch_is_five_messages_of_which_one_is_acknowledged() {
        let batch = masquerade("192.0.2.2".parse().unwrap(), Ports::Range(4444, 4444));
        let all: Vec<_> = messages(&batch).map(|message| message.expect("whole")).collect();
        assert_eq!(all.iter().map(|message| message.kind).collect::<Vec<_>>(), [0x10, 0xa00, 0xa03, 0xa06, 0x11]);
        assert_eq!(all.iter().filter(|message| message.flags & NlmF::ACK.bits() != 0).count(), 1);
        for message in &all {
            Attributes::after(message.body, 4, "test").expect("well-formed");
        }
    }

    /// A message a line.
    fn hex(messages: &[Vec<u8>]) -> String {
        let line = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        messages.iter().map(line).collect()
    }

    /// What kernels have accepted, byte for byte.
    #[test]
    fn batches_stay_what_they_are() {
        let (v4, v6) = ("192.0.2.2".parse().unwrap(), "2001:db8::2".parse().unwrap());
        let batches = [
            masquerade(v4, Ports::Range(4444, 4445)),
            masquerade(v6, Ports::Random),
            redirect(Ipv4Addr::new(198, 18, 0, 1), Some(3), Ipv4Addr::new(198, 18, 0, 2)),
            redirect(Ipv4Addr::new(198, 18, 0, 1), None, Ipv4Addr::new(198, 18, 0, 2)),
        ];
        assert_eq!(hex(&batches), include_str!("testdata/batches.hex"));
    }

    /// The same.
    #[test]
    fn links_and_addresses_stay_what_they_are() {
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap());
        let vxlan = |local, checksum| Vxlan { index: 7, id: 5, local, remote: local, port: 8472, checksum };
        let messages = [
            veth((7, "a"), (8, "b")),
            vxlan(v4, true).create("vx", 3),
            vxlan(v6, false).create("vx", 3),
            new_address(7, v4, 24),
            new_address(7, v6, 64),
            set_up(7),
        ];
        assert_eq!(hex(&messages), include_str!("testdata/links.hex"));
    }
}
