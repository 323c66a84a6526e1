//! The smallest node that translates packets: a veth pair in one network namespace. Packets sent by one end arrive at
//! the other, where a packet socket receives them; the stack drops them, because their destination hardware address
//! differs.

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

/// Index and name of the sending end. The high index avoids the namespace's own devices.
const LOW: (u32, &str) = (10_000, "low0");
/// Index and name of the receiving end.
const FAR: (u32, &str) = (10_001, "low1");
/// The sender's addresses (documentation ranges: RFC 5737, RFC 3849).
pub(crate) const LOCAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const LOCAL_IPV6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// Destination port of datagrams.
pub(crate) const DISCARD: u16 = 9;
/// How long to wait for a datagram; it takes microseconds.
const WAIT: Duration = Duration::from_secs(1);

/// The experiments' network.
pub(crate) struct Lab {
    means: Means,
    /// Backend of the rules, by family (IPv4, IPv6).
    backends: [Backend; 2],
    /// One for all changes, because closing a netlink socket takes the kernel ten milliseconds.
    writer: NetlinkSender,
    /// Receivers of IPv4 and IPv6 at the far end; the latter if usable.
    sockets: [Option<PacketSocket>; 2],
    /// Why IPv6 is not usable.
    pub ipv6: Result<(), NoIpv6>,
    deadline: Instant,
    /// Rules in the legacy table so far, which is replaced as a whole.
    masquerades: Vec<Masquerade>,
    /// Number of peers and tunnels so far.
    numbers: u8,
}

/// Why IPv6 is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoIpv6 {
    /// IPv6, or NAT for it, is not in the running kernel.
    Absent(String),
    /// It failed.
    Unusable(String),
}

impl Lab {
    /// Builds it in the current network namespace, which must be a private one.
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
        // Far end first, so that the near end has a carrier once it is up, and can send at once.
        for (index, _) in [FAR, LOW] {
            lab.route("a device that is up", &messages::set_up(index))?;
        }
        let open = |ethertype| PacketSocket::open(ethertype).map_err(|error| format!("no packet socket: {error}"));
        lab.sockets = [Some(open(0x0800)?), if lab.ipv6.is_ok() { Some(open(0x86dd)?) } else { None }];
        Ok(lab)
    }

    fn add_ipv6(&mut self) -> Result<(), NoIpv6> {
        let device = LOW.1;
        // May be disabled for new devices; the file is the namespace's own.
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

    /// Address and number of a peer not used before.
    fn next_peer(&mut self, family: Family) -> (IpAddr, u8) {
        self.numbers += 1;
        let number = self.numbers;
        let peer = match family {
            Family::Ipv6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, number.into()).into(),
            _ => Ipv4Addr::new(192, 0, 2, number).into(),
        };
        (peer, number)
    }

    /// The address of a new neighbour.
    pub(crate) fn peer(&mut self) -> Ipv4Addr {
        match self.next_peer(Family::Ipv4).0 {
            IpAddr::V4(peer) => peer,
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
        }
    }

    /// A VXLAN device to a new peer.
    ///
    /// # Errors
    /// The reason it cannot be created.
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

    /// Adds a rule that masquerades datagrams to `destination`.
    ///
    /// # Errors
    /// The kernel's error.
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
        // Whether this loads a module was checked for this backend too.
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

    /// Adds a rule that redirects datagrams from `destination` to `target`, if given only those processed by one CPU.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn redirect(&mut self, destination: Ipv4Addr, cpu: Option<u32>, target: Ipv4Addr) -> Result<(), String> {
        self.means.redirect.clone()?;
        let rule = messages::redirect(destination, cpu, target);
        let made = self.change(NetlinkFamily::Netfilter, &rule);
        made.map_err(|error| format!("an nf_tables rule that changes destinations could not be made: {error}"))
    }

    /// The next datagram at the far end for which `wanted` returns a value.
    ///
    /// # Errors
    /// None arrived, or receiving failed.
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
            // Other packets arrive as well, such as the kernel's own multicast.
            if let Ok(Some(datagram)) = datagram::read(&frame)
                && let Some(found) = wanted(datagram)
            {
                return Ok(found);
            }
        }
    }
}

/// A tunnel in the lab.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LabTunnel {
    /// Family of its outer packets.
    pub family: Family,
    /// Outer destination address.
    pub peer: IpAddr,
    /// UDP port.
    pub port: u16,
    /// An address reached through it.
    pub inside: Ipv4Addr,
}

/// Sends one datagram from an ordinary socket.
///
/// # Errors
/// The kernel's error.
pub(crate) fn send(source_port: u16, destination: Ipv4Addr, payload: &[u8]) -> Result<(), String> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source_port));
    let sent = socket.and_then(|socket| socket.send_to(payload, (destination, DISCARD)));
    sent.map(|_| ()).map_err(|error| format!("cannot send a datagram: {error}"))
}
