//! A node with a tunnel to a peer and a client behind it, with any rules: sends real packets and checks what happens to
//! their checksums.
//!
//! ```text
//! client eth0 ──── lan0 node eth0 ════ eth0 peer
//!                       vx0  ┄┄┄┄┄┄┄┄  vx0
//! ```
//!
//! In a variant vx0 is in a namespace of its own, without the client.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::links::offload;
use super::netns::{Netns, fixed_neighbour, veth};
use super::wait::{PATIENCE, eventually};

/// The tunnel's device.
pub const DEVICE: &str = "vx0";
/// Port of the peer's echo server inside the tunnel.
pub const ECHO_PORT: u16 = 9000;
/// The peer inside the tunnel.
pub const INNER_PEER: [&str; 2] = ["10.88.0.2", "fd88::2"];
/// Flows opened for each family and sender: with an overlapping range of ports, all of them keep theirs once in a
/// million runs.
const FLOWS: usize = 8;

/// Which of the node's addresses the tunnel sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vtep {
    Primary,
    Secondary,
    Loopback,
}

/// How the tunnel is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    pub ipv6: bool,
    pub vtep: Vtep,
    pub port: u16,
    pub checksum: bool,
    pub offload: bool,
    pub forwarding: bool,
    pub source_ports: Option<(u16, u16)>,
    /// Further arguments of `ip link add`, at both ends.
    pub settings: &'static str,
    /// Routes, not the device, say where packets go (external mode).
    pub flow_based: bool,
    /// The device is in another namespace, as Docker Swarm's are, and so are its senders.
    pub elsewhere: bool,
}

impl Setup {
    pub fn local(&self) -> &'static str {
        match (self.ipv6, self.vtep) {
            (false, Vtep::Primary) => "192.168.88.1",
            (false, Vtep::Secondary) => "192.168.88.11",
            (false, Vtep::Loopback) => "192.0.2.1",
            (true, Vtep::Primary) => "fd00:88::1",
            (true, Vtep::Secondary) => "fd00:88::11",
            (true, Vtep::Loopback) => "2001:db8::1",
        }
    }

    pub fn remote(&self) -> &'static str {
        if self.ipv6 { "fd00:88::2" } else { "192.168.88.2" }
    }

    /// Another of the peer's addresses.
    pub fn other_remote(&self) -> &'static str {
        if self.ipv6 { "fd00:88::22" } else { "192.168.88.22" }
    }
}

/// The three namespaces.
#[derive(Debug)]
pub struct TunnelLab {
    pub node: Netns,
    pub peer: Netns,
    pub client: Netns,
    /// The namespace of the device.
    pub inside: Netns,
    pub setup: Setup,
}

impl TunnelLab {
    pub fn new(setup: Setup) -> Self {
        let lab = Self { node: Netns::new(), peer: Netns::new(), client: Netns::new(), inside: Netns::new(), setup };
        lab.underlay();
        lab.tunnel();
        if !lab.setup.elsewhere {
            lab.client();
        }
        lab
    }

    fn batch(ns: &Netns, lines: &str) {
        let script = format!("set -e\n{}", lines.trim());
        ns.run(&["sh", "-c", &script]);
    }

    fn underlay(&self) {
        veth(&self.node, "eth0", &self.peer, "eth0");
        for ns in [&self.node, &self.peer] {
            offload(ns, "eth0", "tx", false);
            offload(ns, "eth0", "rx", false);
        }
        Self::batch(
            &self.node,
            "ip addr add 192.168.88.1/24 dev eth0; ip addr add 192.168.88.11/24 dev eth0
             ip addr add fd00:88::11/64 dev eth0 nodad; ip addr add fd00:88::1/64 dev eth0 nodad
             ip addr add 192.0.2.1/32 dev lo; ip addr add 2001:db8::1/128 dev lo nodad",
        );
        Self::batch(
            &self.peer,
            "ip addr add 192.168.88.2/24 dev eth0; ip addr add 192.168.88.22/24 dev eth0
             ip addr add fd00:88::2/64 dev eth0 nodad; ip addr add fd00:88::22/64 dev eth0 nodad
             ip route add 192.0.2.1/32 via 192.168.88.1; ip route add 2001:db8::1/128 via fd00:88::1",
        );
        for (ns, owner, addresses) in [
            (&self.node, &self.peer, ["192.168.88.2", "192.168.88.22", "fd00:88::2", "fd00:88::22"]),
            (&self.peer, &self.node, ["192.168.88.1", "192.168.88.11", "fd00:88::1", "fd00:88::11"]),
        ] {
            for address in addresses {
                fixed_neighbour(ns, "eth0", address, (owner, "eth0"));
            }
        }
    }

    fn tunnel(&self) {
        let Setup { port, settings, .. } = self.setup;
        let words = match (self.setup.ipv6, self.setup.checksum) {
            (false, true) => "udpcsum",
            (false, false) => "noudpcsum",
            (true, true) => "noudp6zerocsumtx udp6zerocsumrx",
            (true, false) => "udp6zerocsumtx udp6zerocsumrx",
        };
        if self.setup.elsewhere {
            Self::batch(
                &self.node,
                &format!(
                    "ip addr del 192.168.88.11/24 dev eth0
                     ip link add {DEVICE} address 02:00:00:00:88:01 type vxlan id 88 dstport {port} nolearning
                     ip link set {DEVICE} netns {}",
                    self.inside.name()
                ),
            );
        }
        let ends = [
            (&self.node, self.setup.local(), self.setup.remote()),
            (&self.peer, self.setup.remote(), self.setup.local()),
        ];
        for (number, (ns, local, remote)) in ends.into_iter().enumerate() {
            let (own, other) = (number + 1, 2 - number);
            let range = match self.setup.source_ports {
                Some((low, high)) if number == 0 => format!("srcport {low} {high}"),
                _ => String::new(),
            };
            if self.setup.flow_based && number == 0 {
                self.flow_based_tunnel();
                continue;
            }
            let (ns, add) = match self.setup.elsewhere && number == 0 {
                true => (&self.inside, String::new()),
                false => (
                    ns,
                    format!(
                        "ip link add {DEVICE} address 02:00:00:00:88:0{own} type vxlan id 88 local {local} dstport {port} nolearning {words} {range} {settings}"
                    ),
                ),
            };
            Self::batch(
                ns,
                &format!(
                    "{add}
                     ip addr add 10.88.0.{own}/24 dev {DEVICE}; ip addr add fd88::{own}/64 dev {DEVICE} nodad
                     ip link set {DEVICE} up
                     bridge fdb append 02:00:00:00:88:0{other} dev {DEVICE} dst {remote}
                     ip neigh replace 10.88.0.{other} lladdr 02:00:00:00:88:0{other} dev {DEVICE} nud permanent
                     ip neigh replace fd88::{other} lladdr 02:00:00:00:88:0{other} dev {DEVICE} nud permanent
                     ip neigh replace 10.88.0.3 lladdr 02:00:00:00:88:0{other} dev {DEVICE} nud permanent
                     ip neigh replace fd88::3 lladdr 02:00:00:00:88:0{other} dev {DEVICE} nud permanent"
                ),
            );
        }
        if !self.setup.offload && !self.setup.elsewhere {
            offload(&self.node, DEVICE, "tx-checksum-ip-generic", false);
        }
        if self.setup.elsewhere {
            return;
        }
        Self::batch(
            &self.peer,
            &format!(
                "ip route add 10.89.0.0/24 via 10.88.0.1 dev {DEVICE}; ip route add fd89::/64 via fd88::1 dev {DEVICE}"
            ),
        );
    }

    fn flow_based_tunnel(&self) {
        let Setup { port, .. } = self.setup;
        let (local, remote) = (self.setup.local(), self.setup.remote());
        let (kind, checksum) =
            (if self.setup.ipv6 { "ip6" } else { "ip" }, if self.setup.checksum { "csum" } else { "" });
        let encap = format!("encap {kind} id 88 src {local} dst {remote} {checksum}");
        Self::batch(
            &self.node,
            &format!(
                "ip link add {DEVICE} address 02:00:00:00:88:01 type vxlan external dstport {port} udp6zerocsumrx
                 ip addr add 10.88.0.1/32 dev {DEVICE}; ip addr add fd88::1/128 dev {DEVICE} nodad
                 ip link set {DEVICE} up
                 ip route add 10.88.0.2/32 {encap} dev {DEVICE}; ip route add fd88::2/128 {encap} dev {DEVICE}
                 ip neigh replace 10.88.0.2 lladdr 02:00:00:00:88:02 dev {DEVICE} nud permanent
                 ip neigh replace fd88::2 lladdr 02:00:00:00:88:02 dev {DEVICE} nud permanent"
            ),
        );
    }

    fn client(&self) {
        veth(&self.client, "eth0", &self.node, "lan0");
        Self::batch(&self.node, "ip addr add 10.89.0.1/24 dev lan0; ip addr add fd89::1/64 dev lan0 nodad");
        Self::batch(
            &self.client,
            "ip addr add 10.89.0.2/24 dev eth0; ip addr add fd89::2/64 dev eth0 nodad
             ip route add default via 10.89.0.1; ip -6 route add default via fd89::1",
        );
        for address in ["10.89.0.2", "fd89::2"] {
            fixed_neighbour(&self.node, "lan0", address, (&self.client, "eth0"));
        }
        for address in ["10.89.0.1", "fd89::1"] {
            fixed_neighbour(&self.client, "eth0", address, (&self.node, "lan0"));
        }
        let on = u8::from(self.setup.forwarding);
        self.node.sysctl("net.ipv4.ip_forward", on);
        self.node.sysctl("net.ipv6.conf.all.forwarding", on);
    }

    /// UDP checksum errors that any of the hosts has counted.
    pub fn errors(&self) -> u64 {
        [&self.node, &self.peer]
            .map(|ns| {
                let snmp = ns.proc_net("snmp");
                let udp: Vec<&str> = snmp.lines().filter(|line| line.starts_with("Udp:")).collect();
                let at = udp[0].split_whitespace().position(|name| name == "InCsumErrors").expect("the column");
                let ipv4: u64 = udp[1].split_whitespace().nth(at).expect("a value").parse().expect("a number");
                let snmp6 = ns.proc_net("snmp6");
                let line = snmp6.lines().find(|line| line.starts_with("Udp6InCsumErrors")).expect("the line");
                ipv4 + line.split_whitespace().nth(1).expect("a value").parse::<u64>().expect("a number")
            })
            .iter()
            .sum()
    }

    /// Deletes the connections of outer packets: the next packet of each inner flow opens a new one, as after a pause.
    fn forget_tunnel(&self) {
        let (family, port) = (if self.setup.ipv6 { "ipv6" } else { "ipv4" }, self.setup.port.to_string());
        // Until it reports that there was none.
        eventually(PATIENCE, || {
            let run = self.node.exec(&["conntrack", "-D", "-f", family, "-p", "udp", "--dport", &port]);
            let text = String::from_utf8_lossy(&run.stderr).into_owned();
            if text.contains(" 0 flow entries have been deleted") { Ok(()) } else { Err(text) }
        });
    }

    /// Sends through the tunnel: new flows of both families, of this host and (if it forwards) of the client, and then
    /// more packets of the same flows, which are established by now. Returns how many checksum errors were counted.
    ///
    /// Rules translate the first packet of a connection of the tunnel's own, so "no error" is true only if each kind of
    /// packet inside has opened one: those from before are forgotten, and the later packets go when the first ones have
    /// been answered. It ends with the first error; without one every packet was answered.
    pub fn send(&self) -> u64 {
        let before = self.errors();
        let peer = self.peer.enter(|| INNER_PEER.map(|address| bind(address, ECHO_PORT)));
        let senders: &[&Netns] = match (self.setup.elsewhere, self.setup.forwarding) {
            (true, _) => &[&self.inside],
            (false, true) => &[&self.node, &self.client],
            (false, false) => &[&self.node],
        };
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| echo(&peer, &stop));
            let _stop = StopOnDrop(&stop);
            for (sender, address) in senders.iter().flat_map(|sender| INNER_PEER.map(|address| (sender, address))) {
                let any = if address.contains(':') { "::" } else { "0.0.0.0" };
                let flows = sender.enter(|| [(); FLOWS].map(|()| bind(any, 0)));
                let own = self.setup.ipv6 == address.contains(':') && sender.name() == self.node.name();
                let sources = [Some(any), own.then(|| self.setup.local())].into_iter().flatten();
                let unanswered: Vec<UdpSocket> = sender.enter(|| sources.map(|source| bind(source, 0)).collect());
                for packet in ["first", "later"] {
                    self.forget_tunnel();
                    self.through_rules_for_the_tunnel(&unanswered, address, packet);
                    self.exchange(&flows, address, packet, before);
                    if self.errors() > before {
                        return;
                    }
                }
            }
        });
        self.errors() - before
    }

    /// Sends packets inside the tunnel that match rules meant for outer packets: to the tunnel's port, and from the
    /// tunnel's own address; and packets that do not match rules for the inner peer: to another address. None of them
    /// is answered.
    fn through_rules_for_the_tunnel(&self, sockets: &[UdpSocket], address: &str, packet: &str) {
        let nobody = if address.contains(':') { "fd88::3" } else { "10.88.0.3" };
        let nobody = (!self.setup.flow_based).then_some((nobody, ECHO_PORT));
        for to in [Some((address, self.setup.port)), nobody].into_iter().flatten() {
            sockets.iter().for_each(|socket| send(socket, packet, to));
        }
    }

    /// Sends a packet of each flow, and waits until all are answered or one has arrived broken.
    fn exchange(&self, flows: &[UdpSocket], address: &str, packet: &str, errors: u64) {
        flows.iter().for_each(|socket| send(socket, packet, (address, ECHO_PORT)));
        let mut open: Vec<&UdpSocket> = flows.iter().collect();
        eventually(PATIENCE, || {
            open.retain(|socket| !answered(socket, packet));
            let done = open.is_empty() || self.errors() > errors;
            if done { Ok(()) } else { Err(format!("{} of the {packet} packets to {address} vanished", open.len())) }
        });
    }
}

/// Stops the echo server, also when a test fails.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn bind(address: &str, port: u16) -> UdpSocket {
    let address: IpAddr = address.parse().expect("an address");
    let socket = UdpSocket::bind((address, port)).expect("a socket");
    socket.set_nonblocking(true).expect("a socket that does not wait");
    socket
}

fn send(socket: &UdpSocket, packet: &str, to: (&str, u16)) {
    let send = || socket.send_to(packet.as_bytes(), to);
    match send() {
        // Masqueraded, and now routed by another device: its entry is removed (`nf_nat_oif_changed`).
        Err(error) if error.kind() == ErrorKind::PermissionDenied => send(),
        sent => sent,
    }
    .expect("a packet that no rule refuses");
}

/// Whether the reply to this packet has arrived.
fn answered(socket: &UdpSocket, packet: &str) -> bool {
    let mut buffer = [0; 64];
    match socket.recv(&mut buffer) {
        Ok(length) => &buffer[..length] == packet.as_bytes(),
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Err(error) => panic!("an answer: {error}"),
    }
}

/// Echoes what arrives.
fn echo(sockets: &[UdpSocket], stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::SeqCst) {
        for socket in sockets {
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) => {
                    socket.send_to(&buffer[..length], from).expect("an answer is sent");
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(Duration::from_millis(1)),
                Err(error) => panic!("the peer: {error}"),
            }
        }
    }
}
