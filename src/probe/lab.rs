//! The smallest node that translates packets: two ends of a veth pair in one network namespace. What is sent by one end
//! arrives at the other, is seen there by a packet socket, and ends: it has another hardware address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use super::datagram::{self, Datagram};
use super::legacy::{self, Masquerade};
use super::messages::{self, Ports, Vxlan};
use super::needs::{Backend, Means};
use crate::capture::NetlinkFamily;
use crate::facts::netfilter::Family;
use crate::kernel::netlink::NetlinkSender;
use crate::kernel::packet::PacketSocket;
use crate::kernel::xtables;
use crate::netfilter::xtables::XtFamily;

/// Index and name of the end that sends. A new namespace has devices of its own, with low indexes.
const LOW: (u32, &str) = (10_000, "low0");
/// Of the end that receives.
const FAR: (u32, &str) = (10_001, "low1");
/// The sender's addresses (RFC 5737, RFC 3849).
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOCAL_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Port that datagrams are sent to.
pub(crate) const DISCARD: u16 = 9;
/// How long a datagram is waited for; it takes microseconds.
const WAIT: Duration = Duration::from_secs(1);

/// The node.
pub(crate) struct Lab {
    means: Means,
    /// What writes rules for IPv4 and for IPv6.
    backends: [Backend; 2],
    /// One for all changes: the kernel takes ten milliseconds to close one.
    writer: NetlinkSender,
    /// Receives IPv4 and IPv6 at the far end; the latter where it can be used.
    sockets: [Option<PacketSocket>; 2],
    /// Why IPv6 cannot be used.
    pub ipv6: Result<(), NoIpv6>,
    deadline: Instant,
    /// Rules of the legacy table so far, which is replaced as a whole.
    masquerades: Vec<Masquerade>,
    /// Peers and tunnels so far.
    numbers: u8,
}

/// Why IPv6 is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoIpv6 {
    /// It, or NAT for it, is not in the running kernel.
    Absent(String),
    /// It could not be used.
    Unusable(String),
}

impl Lab {
    /// Builds it in this network namespace, which must be one of its own.
    ///
    /// # Errors
    /// What could not be built.
    pub(crate) fn build(means: Means, deadline: Instant) -> Result<Self, String> {
        let backend = means.backend.clone()?;
        let ipv6 = match &means.ipv6 {
            Ok(()) => Ok(()),
            Err(why) => Err(NoIpv6::Absent(why.clone())),
        };
        let mut lab = Self {
            means,
            backends: [backend; 2],
            writer: NetlinkSender::default(),
            sockets: [None, None],
            ipv6,
            deadline,
            masquerades: vec![],
            numbers: 1,
        };
        lab.route("a veth pair", &messages::veth(LOW, FAR))?;
        lab.route("an address", &messages::new_address(LOW.0, LOCAL.into(), 24))?;
        if lab.ipv6.is_ok() {
            lab.ipv6 = lab.add_ipv6();
        }
        // The far end first: then the near one has a carrier when it is set up, and can send at once.
        for (index, _) in [FAR, LOW] {
            lab.route("a device that is up", &messages::set_up(index))?;
        }
        let open = |ethertype| PacketSocket::open(ethertype).map_err(|error| format!("no packet socket: {error}"));
        lab.sockets = [Some(open(0x0800)?), if lab.ipv6.is_ok() { Some(open(0x86dd)?) } else { None }];
        Ok(lab)
    }

    fn add_ipv6(&mut self) -> Result<(), NoIpv6> {
        let device = LOW.1;
        // A node may have it off for new devices; this is the namespace's own file.
        let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "0");
        let added = self.change(NetlinkFamily::Route, &messages::new_address(LOW.0, LOCAL_IPV6.into(), 64));
        added.map_err(|error| match error.raw_os_error() {
            Some(libc::EAFNOSUPPORT | libc::EOPNOTSUPP) => NoIpv6::Absent("this kernel has no IPv6".into()),
            _ => NoIpv6::Unusable(format!("an IPv6 address could not be added: {error}")),
        })
    }

    fn change(&mut self, family: NetlinkFamily, messages: &[u8]) -> io::Result<()> {
        self.writer.change(family, messages, self.deadline)
    }

    fn route(&mut self, what: &str, messages: &[u8]) -> Result<(), String> {
        self.change(NetlinkFamily::Route, messages).map_err(|error| format!("{what} could not be made: {error}"))
    }

    /// Address and number of a peer that nothing was sent to yet.
    fn next_peer(&mut self, family: Family) -> (IpAddr, u8) {
        self.numbers += 1;
        let number = self.numbers;
        let peer = match family {
            Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
            _ => Ipv4Addr::new(192, 0, 2, number).into(),
        };
        (peer, number)
    }

    /// A neighbour that datagrams may be sent to.
    pub(crate) fn peer(&mut self) -> Ipv4Addr {
        match self.next_peer(Family::Ipv4).0 {
            IpAddr::V4(peer) => peer,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// A VXLAN device that leads to a new peer.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) fn tunnel(&mut self, family: Family, checksum: bool) -> Result<LabTunnel, String> {
        self.means.tunnel.clone()?;
        let (peer, number) = self.next_peer(family);
        let local: IpAddr = if family == Family::Ipv6 { LOCAL_IPV6.into() } else { LOCAL.into() };
        let port = 10_000 + u16::from(number);
        let index = 20_000 + u32::from(number);
        let device = Vxlan { index, id: number.into(), local, remote: peer, port, checksum };
        self.route("a VXLAN device", &device.create(&format!("vx{number}"), LOW.0))?;
        self.route("an address", &messages::new_address(index, Ipv4Addr::new(198, 18, number, 1).into(), 24))?;
        self.route("a device that is up", &messages::set_up(index))?;
        Ok(LabTunnel { family, peer, port, inside: Ipv4Addr::new(198, 18, number, 2) })
    }

    /// Has the sources of datagrams to `destination` translated.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn masquerade(&mut self, destination: IpAddr, ports: Ports) -> Result<(), String> {
        let family = Family::of(&destination);
        if self.backends[family.ip_index()] == Backend::Legacy {
            return self.legacy_masquerade(family, destination, ports);
        }
        let Err(error) = self.change(NetlinkFamily::Netfilter, &messages::masquerade(destination, ports)) else {
            return Ok(());
        };
        let missing = [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::ENOENT, libc::EAFNOSUPPORT];
        let failed = format!("an nf_tables NAT rule could not be made: {error}");
        if !error.raw_os_error().is_some_and(|errno| missing.contains(&errno)) {
            return Err(failed);
        }
        // Whether that would load a module was looked at for this backend too.
        self.means.legacy[family.ip_index()].clone().map_err(|legacy| format!("{failed}; legacy tables: {legacy}"))?;
        self.legacy_masquerade(family, destination, ports).map_err(|legacy| format!("{failed}; {legacy}"))?;
        self.backends[family.ip_index()] = Backend::Legacy;
        Ok(())
    }

    fn legacy_masquerade(&mut self, family: Family, destination: IpAddr, ports: Ports) -> Result<(), String> {
        self.masquerades.push(Masquerade { destination, ports });
        let mine: Vec<_> =
            self.masquerades.iter().filter(|rule| Family::of(&rule.destination) == family).copied().collect();
        let family = XtFamily::of(family.nfproto());
        let table = legacy::nat_table(family, &mine);
        xtables::replace(family, "nat", table).map_err(|error| format!("a legacy NAT rule could not be made: {error}"))
    }

    /// Sends datagrams to `destination` to `target` instead; only those that one CPU handles, if it is given.
    ///
    /// # Errors
    /// What the kernel refused.
    pub(crate) fn redirect(&mut self, destination: Ipv4Addr, cpu: Option<u32>, target: Ipv4Addr) -> Result<(), String> {
        self.means.redirect.clone()?;
        let rule = messages::redirect(destination, cpu, target);
        let made = self.change(NetlinkFamily::Netfilter, &rule);
        made.map_err(|error| format!("an nf_tables rule that changes destinations could not be made: {error}"))
    }

    /// The next datagram that arrives at the far end and for which `wanted` has an answer.
    ///
    /// # Errors
    /// None arrived, or it could not be received.
    pub(crate) fn receive<T>(
        &self,
        family: Family,
        mut wanted: impl FnMut(Datagram) -> Option<T>,
    ) -> Result<T, String> {
        let socket = self.sockets[family.ip_index()].as_ref().ok_or("no packet socket")?;
        let deadline = self.deadline.min(Instant::now() + WAIT);
        loop {
            let frame = socket.receive(deadline).map_err(|error| format!("cannot receive: {error}"))?;
            let frame = frame.ok_or("no datagram arrived")?;
            // Others than ours are there too: multicast of the kernel's own.
            if let Ok(Some(datagram)) = datagram::read(&frame)
                && let Some(found) = wanted(datagram)
            {
                return Ok(found);
            }
        }
    }
}

/// A tunnel of the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabTunnel {
    /// Family of its outer packets.
    pub family: Family,
    /// Where they go to.
    pub peer: IpAddr,
    /// UDP port.
    pub port: u16,
    /// An address behind it.
    pub inside: Ipv4Addr,
}

/// Sends one datagram from an ordinary socket.
///
/// # Errors
/// What the kernel refused.
pub(crate) fn send(source_port: u16, destination: Ipv4Addr, payload: &[u8]) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port));
    let sent = socket.and_then(|socket| socket.send_to(payload, (destination, DISCARD)));
    sent.map(|_| ()).map_err(|error| format!("cannot send a datagram: {error}"))
}
