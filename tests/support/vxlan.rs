//! Two nodes connected by a VXLAN tunnel, as flannel and others set it up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::links::{kind_supported, offload};
use super::netns::{Netns, fixed_neighbour, veth};
use super::wait::PATIENCE;

/// The overlay addresses of the two nodes.
pub const OVERLAY: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 88, 0, 1), Ipv4Addr::new(10, 88, 0, 2)];
/// The hardware addresses of the two tunnel devices.
const TUNNEL_MAC: [&str; 2] = ["02:00:00:00:58:01", "02:00:00:00:58:02"];
/// The veth device of each node, below whatever the tunnel uses.
pub const NIC: &str = "eth0";

/// The underlay device; all but `Veth` are made on top of the veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Underlay {
    Veth,
    Bridge,
    Macvlan,
    Vlan(u16),
    Bond,
}

impl Underlay {
    /// The name of the device with the node's address.
    pub fn device(self) -> &'static str {
        match self {
            Underlay::Veth => NIC,
            Underlay::Bridge => "br0",
            Underlay::Macvlan => "mac0",
            Underlay::Vlan(_) => "vlan0",
            Underlay::Bond => "bond0",
        }
    }

    /// Whether this kernel has devices of this kind.
    pub fn supported(self) -> bool {
        match self {
            Underlay::Veth => true,
            Underlay::Bridge => kind_supported("bridge"),
            Underlay::Macvlan => kind_supported("macvlan"),
            Underlay::Vlan(_) => kind_supported("vlan"),
            Underlay::Bond => kind_supported("bond"),
        }
    }

    /// Makes the device and sets it up.
    fn make(self, ns: &Netns) {
        let device = self.device();
        match self {
            Underlay::Veth => {}
            Underlay::Bridge => {
                ns.cmd("ip link add br0 type bridge");
                ns.cmd("ip link set eth0 master br0");
            }
            Underlay::Macvlan => {
                ns.cmd("ip link add link eth0 name mac0 type macvlan mode bridge");
            }
            Underlay::Vlan(id) => {
                ns.cmd(&format!("ip link add link eth0 name vlan0 type vlan id {id}"));
            }
            Underlay::Bond => {
                ns.cmd("ip link add bond0 type bond mode active-backup");
                ns.cmd("ip link set eth0 down");
                ns.cmd("ip link set eth0 master bond0");
                ns.up(NIC);
            }
        }
        ns.up(device);
    }
}

/// How each end knows the other end's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peering {
    /// `remote` of the device.
    Remote,
    /// A forwarding entry, with learning off.
    Fdb,
}

/// A tunnel to build. Start from `Vxlan::default()`.
#[derive(Clone, Debug)]
pub struct Vxlan {
    pub device: &'static str,
    pub id: u32,
    pub port: u16,
    /// Outer UDP checksum: `udpcsum` or `noudpcsum`; None leaves the kernel's default.
    ///
    /// Over IPv6 it is `noudp6zerocsumtx` or `udp6zerocsumtx`, and the receiving side follows.
    pub udp_checksum: Option<bool>,
    /// Range of outer source ports.
    pub source_ports: Option<(u16, u16)>,
    pub peering: Peering,
    pub underlay: Underlay,
    /// Whether the underlay's addresses are IPv6 ones.
    pub ipv6: bool,
    /// Whether the device names its underlay; otherwise only the route determines it.
    pub bind_underlay: bool,
}

impl Default for Vxlan {
    /// Like flannel's: id 1, port 8472, forwarding entries, kernel's default checksum.
    fn default() -> Self {
        Self {
            device: "flannel.1",
            id: 1,
            port: 8472,
            udp_checksum: None,
            source_ports: None,
            peering: Peering::Fdb,
            underlay: Underlay::Veth,
            ipv6: false,
            bind_underlay: true,
        }
    }
}

impl Vxlan {
    /// The underlay address of node 0 or 1.
    pub fn node(&self, node: usize) -> IpAddr {
        let last = node as u8 + 1;
        if self.ipv6 {
            return Ipv6Addr::new(0xfd00, 0x88, 0, 0, 0, 0, 0, last.into()).into();
        }
        Ipv4Addr::new(192, 168, 88, last).into()
    }

    /// The words of `ip link add … type vxlan …` for one node.
    fn link_add(&self, node: usize) -> String {
        let mut line = format!(
            "ip link add {} address {} type vxlan id {} local {} dstport {}",
            self.device,
            TUNNEL_MAC[node],
            self.id,
            self.node(node),
            self.port
        );
        if self.bind_underlay {
            line += &format!(" dev {}", self.underlay.device());
        }
        line += &match self.peering {
            Peering::Remote => format!(" remote {}", self.node(1 - node)),
            Peering::Fdb => " nolearning".to_owned(),
        };
        if let Some((low, high)) = self.source_ports {
            line += &format!(" srcport {low} {high}");
        }
        line + self.checksum_words()
    }

    fn checksum_words(&self) -> &'static str {
        match (self.udp_checksum, self.ipv6) {
            (None, _) => "",
            (Some(true), false) => " udpcsum",
            (Some(false), false) => " noudpcsum",
            (Some(true), true) => " noudp6zerocsumtx noudp6zerocsumrx",
            (Some(false), true) => " udp6zerocsumtx udp6zerocsumrx",
        }
    }

    /// Builds both nodes and the tunnel between them.
    pub fn build(self) -> VxlanPair {
        let pair = VxlanPair { nodes: [Netns::new(), Netns::new()], spec: self };
        pair.make_underlay();
        pair.make_tunnel();
        pair
    }
}

/// Two nodes and the tunnel between them.
#[derive(Debug)]
pub struct VxlanPair {
    pub nodes: [Netns; 2],
    pub spec: Vxlan,
}

impl VxlanPair {
    /// Turns off checksum offload of the veth: across veth a checksum left to the "hardware" is never computed nor
    /// verified, and broken ones would go unnoticed.
    fn make_underlay(&self) {
        let [a, b] = &self.nodes;
        veth(a, NIC, b, NIC);
        let device = self.spec.underlay.device();
        let prefix = if self.spec.ipv6 { 64 } else { 24 };
        for (number, ns) in self.nodes.iter().enumerate() {
            offload(ns, NIC, "tx", false);
            offload(ns, NIC, "rx", false);
            self.spec.underlay.make(ns);
            ns.address(device, &format!("{}/{prefix}", self.spec.node(number)));
        }
        for (number, ns) in self.nodes.iter().enumerate() {
            ns.wait_up(device);
            let address = self.spec.node(1 - number).to_string();
            fixed_neighbour(ns, device, &address, (&self.nodes[1 - number], device));
        }
    }

    fn make_tunnel(&self) {
        let device = self.spec.device;
        for (number, ns) in self.nodes.iter().enumerate() {
            let (peer, mac) = (self.spec.node(1 - number), TUNNEL_MAC[1 - number]);
            ns.cmd(&self.spec.link_add(number));
            ns.address(device, &format!("{}/24", OVERLAY[number]));
            ns.cmd(&format!("ip link set {device} up"));
            let overlay = OVERLAY[1 - number];
            ns.cmd(&format!("ip neigh replace {overlay} lladdr {mac} dev {device} nud permanent"));
            if self.spec.peering == Peering::Fdb {
                ns.cmd(&format!("bridge fdb append {mac} dev {device} dst {peer}"));
            }
        }
    }

    /// Rules of old kube-proxy on node 0, which keep the mark on the encapsulated packet, so that the tunnel's own
    /// packet gets a new source port too.
    pub fn old_kube_postrouting(&self, iptables: &str) {
        let ns = &self.nodes[0];
        ns.cmd(&format!("{iptables} -w -t nat -A OUTPUT -d {} -p tcp -j MARK --or-mark 0x4000", OVERLAY[1]));
        ns.cmd(&format!(
            "{iptables} -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully"
        ));
    }

    /// A tunnel whose outer checksums the rules of old kube-proxy break on node 0, if its offload is on.
    pub fn behind_old_kube_proxy(tx_checksum_offload: bool) -> Self {
        let pair = Vxlan { udp_checksum: Some(true), ..Vxlan::default() }.build();
        pair.old_kube_postrouting("iptables-legacy");
        offload(&pair.nodes[0], "flannel.1", "tx-checksum-ip-generic", tx_checksum_offload);
        pair
    }

    /// Opens a TCP connection through the tunnel, from node 0 to node 1; returns how long it took.
    pub fn connect(&self) -> Duration {
        let address = SocketAddr::from((OVERLAY[1], 8080));
        let listener = self.nodes[1].enter(|| TcpListener::bind(address));
        let _listener = listener.expect("a listener on node 1");
        self.nodes[0].enter(|| {
            let start = Instant::now();
            TcpStream::connect_timeout(&address, PATIENCE).expect("a connection through the tunnel");
            start.elapsed()
        })
    }
}
