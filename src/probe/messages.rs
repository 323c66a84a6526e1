//! The netlink messages that build the experiments: pure. Kernel sources: `rtnl_newlink`, `inet_rtm_newaddr`,
//! `vxlan_nl2conf`, `nf_tables_newrule` and its expressions.

use std::net::{IpAddr, Ipv4Addr};

use crate::netfilter::netlink::{HEADER_LENGTH, put, put_nested};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_APPEND: u16 = 0x800;
const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const RTM_NEWLINK: u16 = 16;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFNAME: u16 = 3;

fn message(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    // A few hundred bytes.
    let length = u32::try_from(HEADER_LENGTH + body.len()).unwrap_or(u32::MAX);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    message.extend([0; 8]); // sequence and port: one conversation at a time
    message.extend(body);
    message.resize(message.len().next_multiple_of(4), 0);
    message
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

/// `RTM_NEWLINK`: a device of a kind, with an index of our choice; `data` fills `IFLA_INFO_DATA`.
fn new_link(index: u32, name: &str, kind: &str, data: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = ifinfomsg(index, 0);
    text(&mut body, IFLA_IFNAME, name);
    put_nested(&mut body, IFLA_LINKINFO, |info| {
        text(info, 1, kind); // IFLA_INFO_KIND
        put_nested(info, 2, data); // IFLA_INFO_DATA
    });
    message(RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body)
}

/// A pair of veth devices.
pub fn veth(device: (u32, &str), peer: (u32, &str)) -> Vec<u8> {
    new_link(device.0, device.1, "veth", |data| {
        put_nested(data, 1, |out| {
            out.extend(ifinfomsg(peer.0, 0)); // VETH_INFO_PEER
            text(out, IFLA_IFNAME, peer.1);
        });
    })
}

/// A VXLAN tunnel to one peer.
#[derive(Clone, Copy, Debug)]
pub struct Vxlan {
    /// Interface index.
    pub index: u32,
    /// VXLAN network identifier.
    pub id: u32,
    /// Its address on the underlay.
    pub local: IpAddr,
    /// The peer's.
    pub remote: IpAddr,
    /// UDP port.
    pub port: u16,
    /// Whether its packets get a UDP checksum.
    pub checksum: bool,
}

impl Vxlan {
    /// `RTM_NEWLINK`
    pub fn create(&self, name: &str, underlay: u32) -> Vec<u8> {
        let (group, local) = if self.local.is_ipv4() { (2, 4) } else { (16, 17) };
        new_link(self.index, name, "vxlan", |data| {
            put(data, 1, &self.id.to_ne_bytes());
            address(data, group, self.remote); // IFLA_VXLAN_GROUP, IFLA_VXLAN_GROUP6
            put(data, 3, &underlay.to_ne_bytes());
            address(data, local, self.local);
            put(data, 7, &[0]); // IFLA_VXLAN_LEARNING
            put(data, 15, &self.port.to_be_bytes());
            put(data, 18, &[u8::from(self.checksum)]); // IFLA_VXLAN_UDP_CSUM
            put(data, 19, &[u8::from(!self.checksum)]); // IFLA_VXLAN_UDP_ZERO_CSUM6_TX
            put(data, 20, &[u8::from(!self.checksum)]); // IFLA_VXLAN_UDP_ZERO_CSUM6_RX
        })
    }
}

/// `RTM_NEWADDR`, usable at once.
pub fn new_address(index: u32, local: IpAddr, prefix: u8) -> Vec<u8> {
    const RTM_NEWADDR: u16 = 20;
    const IFA_F_NODAD: u8 = 2;
    let mut body = vec![family(local), prefix, IFA_F_NODAD, 0];
    body.extend(index.to_ne_bytes());
    address(&mut body, 2, local); // IFA_LOCAL
    address(&mut body, 1, local); // IFA_ADDRESS
    message(RTM_NEWADDR, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, &body)
}

/// `RTM_NEWLINK` for a device that is there: up, and without neighbour discovery.
pub fn set_up(index: u32) -> Vec<u8> {
    const IFF_UP: u32 = 1;
    const IFF_NOARP: u32 = 0x80;
    message(RTM_NEWLINK, NLM_F_ACK, &ifinfomsg(index, IFF_UP | IFF_NOARP))
}

/// Flags of `NFTA_MASQ_FLAGS` and `struct nf_nat_range`.
pub const NF_NAT_RANGE_PROTO_SPECIFIED: u32 = 2;
/// The same.
pub const NF_NAT_RANGE_PROTO_RANDOM: u32 = 4;

/// How a rule chooses the source port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// From a range, without any flag.
    Range(u16, u16),
    /// `random`
    Random,
}

/// The chain that rules of the experiments stand in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NatChain {
    /// Sources are translated here.
    Postrouting,
    /// Destinations of local packets.
    Output,
}

const TABLE: &str = "natwatch";
/// A register that takes an IPv6 address (`NFT_REG_1`).
const REGISTER: u32 = 1;

/// A batch that masquerades UDP to `destination`; table and chain are made if they are not there.
pub fn masquerade(destination: IpAddr, ports: Ports) -> Vec<u8> {
    rule(NatChain::Postrouting, family(destination), |rule| {
        to(rule, destination);
        let (flags, range) = match ports {
            Ports::Range(min, max) => (NF_NAT_RANGE_PROTO_SPECIFIED, Some((min, max))),
            Ports::Random => (NF_NAT_RANGE_PROTO_RANDOM, None),
        };
        if let Some((min, max)) = range {
            immediate(rule, REGISTER, &min.to_be_bytes());
            immediate(rule, REGISTER + 1, &max.to_be_bytes());
        }
        expression(rule, "masq", |data| {
            be32(data, 1, flags);
            if range.is_some() {
                be32(data, 2, REGISTER); // NFTA_MASQ_REG_PROTO_MIN
                be32(data, 3, REGISTER + 1); // NFTA_MASQ_REG_PROTO_MAX
            }
        });
    })
}

/// A batch that sends packets to `destination` to `target` instead; only those that `cpu` handles, if one is given.
pub fn redirect(destination: Ipv4Addr, cpu: Option<u32>, target: Ipv4Addr) -> Vec<u8> {
    const NFT_META_CPU: u32 = 20;
    const NFT_NAT_DNAT: u32 = 1;
    rule(NatChain::Output, AF_INET, |rule| {
        to(rule, destination.into());
        if let Some(cpu) = cpu {
            expression(rule, "meta", |data| {
                be32(data, 1, REGISTER);
                be32(data, 2, NFT_META_CPU);
            });
            equals(rule, &cpu.to_ne_bytes());
        }
        immediate(rule, REGISTER, &target.octets());
        expression(rule, "nat", |data| {
            be32(data, 1, NFT_NAT_DNAT);
            be32(data, 2, AF_INET.into());
            be32(data, 3, REGISTER); // NFTA_NAT_REG_ADDR_MIN
        });
    })
}

fn be32(out: &mut Vec<u8>, kind: u16, value: u32) {
    put(out, kind, &value.to_be_bytes());
}

fn expression(rule: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    put_nested(rule, 1, |element| {
        text(element, 1, name);
        put_nested(element, 2, data);
    });
}

fn immediate(rule: &mut Vec<u8>, register: u32, value: &[u8]) {
    expression(rule, "immediate", |data| {
        be32(data, 1, register);
        put_nested(data, 2, |out| put(out, 1, value));
    });
}

/// The destination address is this.
fn to(rule: &mut Vec<u8>, destination: IpAddr) {
    const NFT_PAYLOAD_NETWORK_HEADER: u32 = 1;
    let octets = octets(destination);
    let offset = if destination.is_ipv4() { 16 } else { 24 };
    expression(rule, "payload", |data| {
        be32(data, 1, REGISTER);
        be32(data, 2, NFT_PAYLOAD_NETWORK_HEADER);
        be32(data, 3, offset);
        be32(data, 4, octets.len() as u32);
    });
    equals(rule, &octets);
}

fn equals(rule: &mut Vec<u8>, value: &[u8]) {
    const NFT_CMP_EQ: u32 = 0;
    expression(rule, "cmp", |data| {
        be32(data, 1, REGISTER);
        be32(data, 2, NFT_CMP_EQ);
        put_nested(data, 3, |out| put(out, 1, value));
    });
}

/// A batch that appends one rule. Only that is acknowledged: whatever fails before it is answered first.
fn rule(chain: NatChain, family: u8, expressions: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    const NFTABLES: u16 = 10;
    const BATCH_BEGIN: u16 = 0x10;
    const BATCH_END: u16 = 0x11;
    let subsystem = [&[AF_UNSPEC, 0][..], &NFTABLES.to_be_bytes()].concat();
    let change = |kind: u16, flags: u16, fill: &mut dyn FnMut(&mut Vec<u8>)| {
        let mut body = vec![family, 0, 0, 0];
        fill(&mut body);
        message(NFTABLES << 8 | kind, NLM_F_CREATE | flags, &body)
    };
    let (name, hook, priority) = match chain {
        NatChain::Postrouting => ("postrouting", 4, 100),
        NatChain::Output => ("output", 3, -100i32),
    };
    let mut list = Vec::new();
    expressions(&mut list);
    [
        message(BATCH_BEGIN, 0, &subsystem),
        change(0, 0, &mut |body| text(body, 1, TABLE)), // NFT_MSG_NEWTABLE
        change(3, 0, &mut |body| {
            text(body, 1, TABLE); // NFT_MSG_NEWCHAIN
            text(body, 3, name);
            put_nested(body, 4, |at| {
                be32(at, 1, hook);
                be32(at, 2, priority.cast_unsigned());
            });
            text(body, 7, "nat");
        }),
        change(6, NLM_F_APPEND | NLM_F_ACK, &mut |body| {
            text(body, 1, TABLE); // NFT_MSG_NEWRULE
            text(body, 2, name);
            put_nested(body, 4, |out| out.extend(&list));
        }),
        message(BATCH_END, 0, &subsystem),
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
        assert_eq!(all.iter().filter(|message| message.flags & NLM_F_ACK != 0).count(), 1);
        for message in &all {
            Attributes::after(message.body, 4, "test").expect("well-formed");
        }
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
        let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        assert_eq!(batches.iter().map(hex).collect::<String>(), include_str!("testdata/batches.hex"));
    }

    #[test]
    fn a_tunnel_says_what_it_does_with_checksums_in_both_families() {
        for (local, checksum) in [("192.0.2.1", true), ("2001:db8::1", false)] {
            let local: IpAddr = local.parse().unwrap();
            let tunnel = Vxlan { index: 7, id: 5, local, remote: local, port: 8472, checksum };
            let created = tunnel.create("vx", 3);
            let message = messages(&created).next().unwrap().unwrap();
            let attributes = Attributes::after(message.body, 16, "link").unwrap();
            let info = attributes.nested(IFLA_LINKINFO, "info").unwrap().unwrap();
            let data = info.nested(2, "data").unwrap().unwrap();
            assert_eq!(data.u8(18), Ok(Some(u8::from(checksum))));
            assert_eq!(data.u8(19), Ok(Some(u8::from(!checksum))));
            let keys = if local.is_ipv4() { [2, 4] } else { [16, 17] };
            assert!(keys.iter().all(|key| data.address(*key) == Ok(Some(local))));
        }
    }
}
