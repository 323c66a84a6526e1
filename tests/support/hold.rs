//! Packets held after NAT, before their connections are confirmed: of connections that got equal addresses and ports
//! meanwhile, all but one lose their packet for certain (`__nf_conntrack_confirm`), where a race would depend on
//! microseconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use natwatch::netfilter::netlink::{Attributes, MessageWriter, frame, message};
use natwatch::netfilter::nfnetlink::{NFGENMSG, Nfgenmsg};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink, recv, send, socket, sockopt};

use super::netns::Netns;

const NFQNL_MSG_PACKET: u16 = (libc::NFNL_SUBSYS_QUEUE as u16) << 8;
const NFQNL_MSG_VERDICT: u16 = NFQNL_MSG_PACKET | 1;
const NFQNL_MSG_CONFIG: u16 = NFQNL_MSG_PACKET | 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_CFG_QUEUE_MAXLEN: u16 = 3;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQA_PAYLOAD: u16 = 10;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_PACKET: u8 = 2;
const NF_ACCEPT: u32 = 1;

/// Length of the queue: more than any test sends at once.
const ROOM: u32 = 16_384;
/// Bytes copied of each packet: its headers.
const COPIED: u32 = 96;
/// Without a packet for this long, none is expected any more.
const QUIET: Duration = Duration::from_millis(300);

/// Holds back TCP SYNs and all UDP as they leave this namespace, after every source-NAT chain. Dropping it lets packets
/// pass.
#[derive(Debug)]
pub struct Hold {
    socket: OwnedFd,
}

/// A held packet, as it leaves.
#[derive(Clone, Debug)]
pub struct Held {
    id: u32,
    pub ttl: u8,
    pub tcp: bool,
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// What follows the UDP header.
    pub data: Vec<u8>,
}

impl Hold {
    /// nft cannot write `queue` where the kernel lacks that expression; `iptables-nft` uses the x_tables target
    /// instead, in a chain that a base chain of later priority jumps to.
    pub fn new(ns: &Netns) -> Self {
        for (program, family) in [("iptables-nft", "ip"), ("ip6tables-nft", "ip6")] {
            ns.cmd(&format!("{program} -w -t security -N held"));
            for first in ["tcp --syn", "udp"] {
                ns.cmd(&format!("{program} -w -t security -A held -p {first} -j NFQUEUE --queue-num 0 --queue-bypass"));
            }
            ns.run(&[
                "nft",
                &format!(
                    "add chain {family} security late {{ type filter hook postrouting priority 300; }}; \
                     add rule {family} security late jump held"
                ),
            ]);
        }
        let socket = ns.enter(|| socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER)));
        let hold = Self { socket: socket.expect("a socket") };
        sockopt::set_socket_recv_buffer_size_force(&hold.socket, 64 << 20).expect("room for all");
        let bind = [NFQNL_CFG_CMD_BIND, 0, 0, libc::AF_INET as u8];
        let copy = [&COPIED.to_be_bytes()[..], &[NFQNL_COPY_PACKET]].concat();
        for (attribute, value) in
            [(NFQA_CFG_CMD, &bind[..]), (NFQA_CFG_PARAMS, &copy), (NFQA_CFG_QUEUE_MAXLEN, &ROOM.to_be_bytes())]
        {
            hold.send(NFQNL_MSG_CONFIG, libc::NLM_F_ACK as u16, attribute, value);
            let answer = hold.receive().expect("an answer");
            let (answer, _) = message(&answer).expect("a whole message");
            assert_eq!(answer.errno(), Ok(0), "attribute {attribute}");
        }
        hold
    }

    fn send(&self, kind: u16, flags: u16, attribute: u16, value: &[u8]) {
        let mut body = MessageWriter::user();
        Nfgenmsg::default().emit(&mut body);
        body.attribute(attribute, |out| out.bytes(value));
        let request = frame(kind, libc::NLM_F_REQUEST as u16 | flags, &body.finish());
        send(&self.socket, &request, SendFlags::empty()).expect("a request");
    }

    /// The next message; `None` after [`QUIET`].
    fn receive(&self) -> Option<Vec<u8>> {
        let quiet = Timespec::try_from(QUIET).expect("a short time");
        if poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&quiet)).expect("poll") == 0 {
            return None;
        }
        let mut buffer = vec![0; 1024];
        let (length, _) = recv(&self.socket, &mut buffer[..], RecvFlags::empty()).expect("a message");
        buffer.truncate(length);
        Some(buffer)
    }

    /// All packets held, including those still on their way through this namespace.
    pub fn packets(&self) -> Vec<Held> {
        std::iter::from_fn(|| self.receive())
            .map(|packet| {
                let (packet, _) = message(&packet).expect("a whole message");
                assert_eq!(packet.kind, NFQNL_MSG_PACKET);
                let attributes = Attributes::after(packet.body, NFGENMSG, "packet").expect("attributes");
                let header = attributes.get(NFQA_PACKET_HDR).expect("its number");
                let id = u32::from_be_bytes(header[..4].try_into().expect("four bytes"));
                Held::read(id, attributes.get(NFQA_PAYLOAD).expect("its bytes"))
            })
            .collect()
    }

    /// Accepts them, one after the other.
    pub fn release(&self, packets: &[Held]) {
        for held in packets {
            let verdict = [NF_ACCEPT.to_be_bytes(), held.id.to_be_bytes()].concat();
            self.send(NFQNL_MSG_VERDICT, 0, NFQA_VERDICT_HDR, &verdict);
        }
    }
}

impl Held {
    fn read(id: u32, bytes: &[u8]) -> Self {
        let address = |at: usize, six: bool| -> IpAddr {
            match six {
                true => Ipv6Addr::from(<[u8; 16]>::try_from(&bytes[at..at + 16]).expect("16 bytes")).into(),
                false => Ipv4Addr::from(<[u8; 4]>::try_from(&bytes[at..at + 4]).expect("4 bytes")).into(),
            }
        };
        let six = bytes[0] >> 4 == 6;
        let (from, to, transport) = if six { (8, 24, 40) } else { (12, 16, usize::from(bytes[0] & 15) * 4) };
        let port = |at: usize| u16::from_be_bytes([bytes[transport + at], bytes[transport + at + 1]]);
        Self {
            id,
            ttl: bytes[if six { 7 } else { 8 }],
            tcp: i32::from(bytes[if six { 6 } else { 9 }]) == libc::IPPROTO_TCP,
            from: SocketAddr::new(address(from, six), port(0)),
            to: SocketAddr::new(address(to, six), port(2)),
            data: bytes[transport + 8..].to_vec(),
        }
    }
}
