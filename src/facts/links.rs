//! Links, tunnels, offload features, and the routing that carries a tunnel's outer packets.

use super::outer_header::OuterHeader;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::{HashSet, HashSetExt as _};

use super::netfilter::Family;
use super::{Failure, Reading, names};

/// A network device (`struct net_device`) as rtnetlink tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in the namespace.
    pub index: u32,
    /// Name, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`; `None` for physical devices and the loopback device.
    pub kind: Option<String>,
    /// `ifi_type`: `ARPHRD_*`, of which 1 is Ethernet and 772 the loopback device.
    pub hardware_type: u16,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Maximum transmission unit, bytes.
    pub mtu: Option<u32>,
    /// `IFLA_GROUP`: the number that `ip link set group` gives; `None` where the kernel does not tell.
    pub group: Option<u32>,
    /// `IFLA_LINK`: the device it sits on, or a veth's peer.
    pub lower: Option<u32>,
    /// `IFLA_MASTER`: the bridge, bond or team that it is a port of.
    pub master: Option<u32>,
    /// `IFLA_BR_NF_CALL_IPTABLES`, `IFLA_BR_NF_CALL_IP6TABLES`: frames that cross this bridge pass the rules of IPv4, of IPv6,
    /// whatever the sysctls of the namespace say, once br_netfilter is loaded; `false` where it is no bridge.
    pub calls_rules: [bool; 2],
    /// `IFLA_LINK_NETNSID`: id of the namespace that `lower` lives in; `None` when it is this one.
    pub link_netnsid: Option<i32>,
    /// What a VXLAN or Geneve device adds.
    pub tunnel: Option<Tunnel>,
    /// Driver bound to the parent device; `Absent` for a virtual device, `Failed` when not looked up.
    pub driver: Reading<String>,
    /// An XDP program is attached.
    pub xdp: bool,
    /// Filters of traffic control; `Failed` when not looked up: only tunnels that are up and what carries them
    /// are, and while packets are forwarded all devices. Absent: it has no queueing discipline that takes them.
    pub filters: Reading<Vec<Filter>>,
    /// Offload features; `Failed` when not looked up (only tunnels and what carries them are).
    pub features: Reading<Features>,
}

/// A filter of traffic control.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its kind: `u32`.
    pub kind: String,
    /// Where it is, in the words of `tc filter show`: `ingress`, `egress`, `root`, `parent 1:10`.
    pub place: String,
    /// It sees packets that come in, and may write their mark.
    pub marks_incoming: bool,
}

names! {
    /// UDP tunnel kinds.
    TunnelKind {
        /// RFC 7348
        Vxlan = "vxlan",
        /// RFC 8926
        Geneve = "geneve",
    }
}

names! {
    /// Whether the tunnel fills in the outer UDP checksum.
    UdpChecksum {
        /// It does
        On = "on",
        /// It sends 0
        Off = "off",
        /// A flow-based device: each packet's metadata decides
        PerPacket = "per_packet",
        /// The kernel does not say
        Unknown = "unknown",
    }
}

/// A UDP tunnel device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// VXLAN or Geneve
    pub kind: TunnelKind,
    /// Network identifier (VNI); `None` on a flow-based device.
    pub id: Option<u32>,
    /// UDP destination port of outer packets.
    pub port: Option<u16>,
    /// Range of outer source ports, both ends included; `None`: `ip_local_port_range`.
    pub source_ports: Option<(u16, u16)>,
    /// `IFLA_VXLAN_LINK`: the device that packets to the default destination must leave by.
    pub link: Option<u32>,
    /// Source address of outer packets (VTEP).
    pub local: Option<IpAddr>,
    /// Default destination of outer packets.
    pub remote: Option<IpAddr>,
    /// Outer UDP checksum.
    pub udp_checksum: UdpChecksum,
    /// `IFLA_*_COLLECT_METADATA`: remotes come from each packet's metadata (Open vSwitch, Cilium).
    pub flow_based: bool,
    /// `IFLA_VXLAN_GBP`: packets that come in have the mark that their sender wrote into the header (`vxlan_rcv`).
    pub group_policy: bool,
    /// What the device's settings make of the headers of outer packets; read only while it is up.
    pub header: OuterHeader,
    /// Its device lives in another network namespace, and only its sockets are seen: whether there is one of IPv4, of IPv6.
    pub elsewhere: Option<[bool; 2]>,
    /// Forwarding database of the device; read only while it is up.
    pub fdb: Reading<Vec<FdbEntry>>,
    /// Ways that outer packets take, found by route look-ups; as `underlay`.
    pub outer: Reading<Vec<OuterRoute>>,
    /// Devices that outer packets leave by, found by route look-ups. Absent: no route is fixed (a flow-based device, or
    /// one that knows no remote).
    pub underlay: Reading<Vec<u32>>,
}

impl Tunnel {
    /// One of which nothing but its kind is known: it is down, and nothing was looked up.
    pub fn new(kind: TunnelKind) -> Self {
        let down = |what: &str| Failure::from(format!("{what}: the tunnel is down"));
        Self {
            kind,
            id: None,
            port: None,
            source_ports: None,
            link: None,
            local: None,
            remote: None,
            udp_checksum: UdpChecksum::Unknown,
            flow_based: false,
            group_policy: false,
            header: OuterHeader::default(),
            elsewhere: None,
            fdb: Reading::Failed(down("not read")),
            outer: Reading::Failed(down("not looked up")),
            underlay: Reading::Failed(down("not looked up")),
        }
    }

    /// Family of its outer packets; IPv4 where it has neither a remote nor a local address.
    pub fn family(&self) -> Family {
        self.remote.or(self.local).map_or(Family::Ipv4, |address| Family::of(&address))
    }

    /// Addresses that outer packets are sent to, groups among them, in the order the kernel lists them.
    pub fn remotes(&self) -> Vec<IpAddr> {
        let mut seen = HashSet::new();
        self.listed_destinations().map(|(remote, _)| remote).filter(|remote| seen.insert(*remote)).collect()
    }

    /// The same, each with the device that its packets must leave by. `link` is that of the default destination alone: entries
    /// of the forwarding database have their own or none (`rdst->remote_ifindex` in `vxlan_xmit_one`).
    pub fn destinations(&self) -> Vec<(IpAddr, Option<u32>)> {
        let mut seen = HashSet::new();
        self.listed_destinations().filter(|to| seen.insert(*to)).collect()
    }

    /// The same, each as often as it is listed.
    pub fn listed_destinations(&self) -> impl Iterator<Item = (IpAddr, Option<u32>)> {
        let listed = self.fdb.ok().into_iter().flatten().filter_map(|entry| Some((entry.remote?, entry.via)));
        let all = self.remote.map(|remote| (remote, self.link)).into_iter().chain(listed);
        all.filter(|(remote, _)| !remote.is_unspecified())
    }
}

/// The path that outer packets take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterRoute {
    /// For packets with this mark. 0 stands for none; each other one for a policy rule that tests it.
    pub mark: u32,
    /// Where they go.
    pub remotes: Vec<IpAddr>,
    /// Devices that they leave by: the one that was found, then those of the other next hops of the same route.
    pub devices: Vec<u32>,
    /// Next hop by the first device; `None`: the remote itself.
    pub gateway: Option<IpAddr>,
    /// Source address that the kernel chooses if the tunnel has none.
    pub source: Option<IpAddr>,
}

/// One entry of a tunnel's forwarding database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Where frames for this entry are sent; `None` with a next-hop group.
    pub remote: Option<IpAddr>,
    /// Device that the entry insists on.
    pub via: Option<u32>,
    /// UDP port other than the tunnel's.
    pub port: Option<u16>,
    /// Next-hop group that holds the remotes instead.
    pub nexthop_group: Option<u32>,
}

names! {
    /// Offload features that decide something here, by their ethtool names.
    Feature {
        /// One checksum engine for any protocol (`NETIF_F_HW_CSUM`)
        TxChecksumIpGeneric = "tx-checksum-ip-generic",
        /// `NETIF_F_IP_CSUM`
        TxChecksumIpv4 = "tx-checksum-ipv4",
        /// `NETIF_F_IPV6_CSUM`
        TxChecksumIpv6 = "tx-checksum-ipv6",
        /// `NETIF_F_GSO_UDP_TUNNEL`
        TxUdpTnlSegmentation = "tx-udp_tnl-segmentation",
        /// `NETIF_F_GSO_UDP_TUNNEL_CSUM`
        TxUdpTnlCsumSegmentation = "tx-udp_tnl-csum-segmentation",
        /// `NETIF_F_RXCSUM`
        RxChecksum = "rx-checksum",
    }
}

/// One feature of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureState {
    /// In force now.
    pub enabled: bool,
    /// Asked for; differs from `enabled` where a dependency is missing.
    pub wanted: bool,
    /// Cannot be changed.
    pub fixed: bool,
}

/// Features of one device; one that this kernel does not know is not in the map.
pub(crate) type Features = BTreeMap<Feature, FeatureState>;

names! {
    /// An offload for people and JSON.
    Toggle {
        /// In force
        On = "on",
        /// Not in force
        Off = "off",
        /// Not seen
        Unknown = "unknown",
    }
}

/// Kinds that sit on the device that `IFLA_LINK` names.
const ON_TOP: &[&str] = &["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"];
/// Other kinds whose packets go to their ports, or nowhere. WireGuard ends the path of a checksum: it completes them
/// before it encrypts.
const CLOSED: &[&str] = &["bond", "team", "bridge", "vrf", "dummy", "wireguard"];

impl Link {
    /// A physical device that is up, of which nothing more is known.
    pub fn new(index: u32, name: impl Into<String>) -> Self {
        let unread = || Failure::not_needed("not read");
        Self {
            index,
            name: name.into(),
            kind: None,
            hardware_type: 1,
            up: true,
            mtu: None,
            group: None,
            lower: None,
            master: None,
            calls_rules: [false; 2],
            link_netnsid: None,
            tunnel: None,
            driver: Reading::Failed(unread()),
            xdp: false,
            filters: Reading::Failed(unread()),
            features: Reading::Failed(unread()),
        }
    }

    /// A tunnel of which only its sockets are seen.
    pub fn is_elsewhere(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.elsewhere.is_some())
    }

    pub(crate) fn is_any_of(&self, kinds: &[&str]) -> bool {
        self.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
    }

    /// Whether everything below this device is among its lower devices: a packet that a veth, a tun device or a switch
    /// takes goes on where natwatch does not look.
    pub fn shows_what_is_below(&self) -> bool {
        self.kind.is_none() || self.is_any_of(ON_TOP) || self.is_any_of(CLOSED)
    }

    /// State of one feature.
    pub fn feature(&self, feature: Feature) -> Toggle {
        match self.features.ok().and_then(|features| features.get(&feature)) {
            Some(state) if state.enabled => Toggle::On,
            Some(_) => Toggle::Off,
            None => Toggle::Unknown,
        }
    }
}

/// Positions of a link and of everything below it: VLAN and MACVLAN parents, ports of a bond, team or bridge.
pub(crate) fn with_lower_devices(links: &[Link], index: u32) -> BTreeSet<usize> {
    let by_index: BTreeMap<u32, usize> = links.iter().enumerate().map(|(at, link)| (link.index, at)).collect();
    let mut ports: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for link in links {
        if let Some(master) = link.master {
            ports.entry(master).or_default().push(link.index);
        }
    }
    let mut found = BTreeSet::new();
    let mut open = vec![index];
    while let Some(index) = open.pop() {
        let Some(at) = by_index.get(&index) else { continue };
        if found.insert(*at) {
            let link = &links[*at];
            open.extend(link.lower.filter(|_| link.is_any_of(ON_TOP) && link.link_netnsid.is_none()));
            open.extend(ports.get(&index).into_iter().flatten());
        }
    }
    found
}

/// Devices by which packets get into a device: itself, a bridge or VRF that it is a port of, and devices on top of
/// these.
pub(crate) fn upper_devices(links: &[Link], index: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut open = vec![index];
    while let Some(index) = open.pop() {
        if found.insert(index) {
            open.extend(links.iter().find(|link| link.index == index).and_then(|link| link.master));
            let on_top = links.iter().filter(|link| link.lower == Some(index) && link.is_any_of(ON_TOP));
            open.extend(on_top.filter(|link| link.link_netnsid.is_none()).map(|link| link.index));
        }
    }
    found
}

/// A local address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Index of the link that has it.
    pub link: u32,
    /// The address itself (`IFA_LOCAL`, or `IFA_ADDRESS` where there is no peer).
    pub address: IpAddr,
    /// Length of the prefix, bits.
    pub prefix_length: u8,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// The address that the prefix is of (`IFA_ADDRESS`): the peer's where there is one.
    pub peer: IpAddr,
    /// `IFA_F_DEPRECATED`, `IFA_F_TENTATIVE`: IPv6 chooses another one if there is any.
    pub unpreferred: bool,
    /// `IFA_F_SECONDARY`: never chosen as the primary address of its subnet.
    pub secondary: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Routing table.
    pub table: u32,
    /// Destination prefix and its length in bits; `None` for the default route of length 0.
    pub destination: Option<IpAddr>,
    /// Length of the destination prefix, bits.
    pub prefix_length: u8,
    /// `RTN_*`: 1 unicast, 2 local, 7 unreachable, …
    pub kind: u8,
    /// Type of service that it is for; 0 is any.
    pub tos: u8,
    /// Metric; lower wins.
    pub priority: Option<u32>,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Preferred source address.
    pub preferred_source: Option<IpAddr>,
    /// Devices of the next hops.
    pub devices: Vec<u32>,
    /// Next-hop object that holds the devices instead.
    pub nexthop: Option<u32>,
}

#[cfg(test)]
impl Route {
    /// A route to a prefix by a device, of `RTN_*` kind; `/0`: a default route, which does not say its family.
    pub fn to(table: u32, prefix: &str, kind: u8, device: u32) -> Self {
        let (network, length) = prefix.split_once('/').expect("a length");
        Self {
            table,
            destination: (length != "0").then(|| network.parse().expect("an address")),
            prefix_length: length.parse().expect("a number"),
            kind,
            tos: 0,
            priority: None,
            gateway: None,
            preferred_source: None,
            devices: vec![device],
            nexthop: None,
        }
    }
}
