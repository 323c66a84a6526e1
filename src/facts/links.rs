//! Network devices, tunnels, offload features, addresses, routes, policy rules. Filled by `read::links`,
//! `read::routing`.

use super::outer_header::OuterHeader;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use foldhash::{HashSet, HashSetExt as _};

use super::netfilter::Family;
use super::{Failure, Reading, names};

/// A network device (`struct net_device`), from `RTM_NEWLINK`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index, unique in the namespace.
    pub index: u32,
    /// `IFLA_IFNAME`, at most 15 bytes.
    pub name: String,
    /// `IFLA_INFO_KIND`; `None` for physical devices and loopback.
    pub kind: Option<String>,
    /// `ifi_type`: `ARPHRD_*`, such as 1 for Ethernet and 772 for loopback.
    pub hardware_type: u16,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Maximum transmission unit, bytes.
    pub mtu: Option<u32>,
    /// `IFLA_GROUP`, set by `ip link set group`; `None` if the kernel does not report it.
    pub group: Option<u32>,
    /// `IFLA_LINK`: index of the lower device, or of a veth's peer.
    pub lower: Option<u32>,
    /// `IFLA_MASTER`: index of the bridge, bond, team or VRF that it is enslaved to.
    pub master: Option<u32>,
    /// `IFLA_BR_NF_CALL_IPTABLES`, `IFLA_BR_NF_CALL_IP6TABLES`: once br_netfilter is loaded, frames bridged here
    /// traverse the IPv4 / IPv6 rules, whatever the namespace's sysctls say. `false` for other devices.
    pub calls_rules: [bool; 2],
    /// `IFLA_LINK_NETNSID`: id of the namespace that `lower` is in; `None` if it is this one.
    pub link_netnsid: Option<i32>,
    /// Settings of a VXLAN or Geneve device; `None` for other kinds.
    pub tunnel: Option<Tunnel>,
    /// Driver of the parent device. Absent: a virtual device. Failed: also if no tunnel is up, as it is not read then.
    pub driver: Reading<String>,
    /// An XDP program is attached.
    pub xdp: bool,
    /// tc filters. Absent: no qdisc that can have filters. Read only for tunnels that are up and their underlay
    /// devices, and for all devices while the host forwards; else `Failed(NotNeeded)`.
    pub filters: Reading<Vec<Filter>>,
    /// Offload features. Read only for tunnels and their underlay devices; else `Failed`.
    pub features: Reading<Features>,
}

/// A tc filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    /// `TCA_KIND`, such as `u32`.
    pub kind: String,
    /// Where it is attached, as `tc filter show` says: `ingress`, `egress`, `root`, `parent 1:10`.
    pub place: String,
    /// It sees ingress packets and may write their mark.
    pub marks_incoming: bool,
}

names! {
    /// Kinds of UDP tunnels.
    TunnelKind {
        /// RFC 7348
        Vxlan = "vxlan",
        /// RFC 8926
        Geneve = "geneve",
    }
}

names! {
    /// Whether the outer UDP checksum is filled in.
    UdpChecksum {
        /// Yes
        On = "on",
        /// No: the field is 0
        Off = "off",
        /// Flow-based device: each packet's tunnel metadata says
        PerPacket = "per_packet",
        /// Not reported by the kernel
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
    /// UDP destination port of outer packets, host byte order.
    pub port: Option<u16>,
    /// Range of outer source ports, both ends included; `None`: the tunnel uses `ip_local_port_range`.
    pub source_ports: Option<(u16, u16)>,
    /// `IFLA_VXLAN_LINK`: index of the device that packets to the default destination must leave by.
    pub link: Option<u32>,
    /// Source address of outer packets (the VTEP address).
    pub local: Option<IpAddr>,
    /// Default destination of outer packets.
    pub remote: Option<IpAddr>,
    /// Outer UDP checksum.
    pub udp_checksum: UdpChecksum,
    /// `IFLA_*_COLLECT_METADATA`: remotes come from each packet's tunnel metadata (Open vSwitch, Cilium).
    pub flow_based: bool,
    /// `IFLA_VXLAN_GBP`: received packets get the mark in the VXLAN-GBP header (`vxlan_rcv`).
    pub group_policy: bool,
    /// Outer IP header fields fixed by the device's settings; read only while it is up.
    pub header: OuterHeader,
    /// For a tunnel whose device is in another network namespace and of which only sockets are seen here: whether it
    /// has an IPv4 / IPv6 socket. `None`: the device is in this namespace.
    pub elsewhere: Option<[bool; 2]>,
    /// Forwarding database; read only while the device is up.
    pub fdb: Reading<Vec<FdbEntry>>,
    /// Paths of outer packets by mark, from route lookups. Absent as for `underlay`.
    pub outer: Reading<Vec<OuterRoute>>,
    /// Indexes of outer packets' output devices, by route lookups. Absent: none fixed (flow-based, or without remote).
    pub underlay: Reading<Vec<u32>>,
}

impl Tunnel {
    /// A tunnel that is down, with nothing but its kind known.
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

    /// Family of outer packets; IPv4 if neither a remote nor a local address is set.
    pub fn family(&self) -> Family {
        self.remote.or(self.local).map_or(Family::Ipv4, |address| Family::of(&address))
    }

    /// Addresses that outer packets are sent to, groups among them, in the order the kernel lists them.
    pub fn remotes(&self) -> Vec<IpAddr> {
        let mut seen = HashSet::new();
        self.listed_destinations().map(|(remote, _)| remote).filter(|remote| seen.insert(*remote)).collect()
    }

    /// Like [`Self::remotes`], each with the device that its packets must leave by. `link` applies to the default
    /// destination only: FDB entries have their own or none (`rdst->remote_ifindex` in `vxlan_xmit_one`).
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

/// The path of outer packets with one mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OuterRoute {
    /// The packet's mark: 0 for unmarked packets, others because a policy rule tests them.
    pub mark: u32,
    /// Outer destinations.
    pub remotes: Vec<IpAddr>,
    /// Indexes of the outgoing devices: the one that the lookup returned, then those of the route's other next hops.
    pub devices: Vec<u32>,
    /// Next hop on the first device; `None`: the destination is on-link.
    pub gateway: Option<IpAddr>,
    /// Source address that the kernel chooses for a tunnel without `local`.
    pub source: Option<IpAddr>,
}

/// An entry of a tunnel's forwarding database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdbEntry {
    /// Outer destination (`NDA_DST`); `None` if the entry uses a next-hop group.
    pub remote: Option<IpAddr>,
    /// Index of the device that its packets must leave by (`NDA_IFINDEX`).
    pub via: Option<u32>,
    /// UDP destination port, if not the tunnel's (`NDA_PORT`).
    pub port: Option<u16>,
    /// Id of the next-hop group with the remotes (`NDA_NH_ID`).
    pub nexthop_group: Option<u32>,
}

names! {
    /// Offload features that verdicts depend on, by their ethtool names.
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

/// State of one feature on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FeatureState {
    /// Active now.
    pub enabled: bool,
    /// Requested; differs from `enabled` while a dependency is missing.
    pub wanted: bool,
    /// Cannot be changed.
    pub fixed: bool,
}

/// Features of one device; a feature that this kernel does not know is missing.
pub(crate) type Features = BTreeMap<Feature, FeatureState>;

names! {
    /// State of an offload, for reports.
    Toggle {
        /// Active
        On = "on",
        /// Inactive
        Off = "off",
        /// Not read
        Unknown = "unknown",
    }
}

/// [`Link::hardware_type`] of a loopback device.
pub(crate) const ARPHRD_LOOPBACK: u16 = 772;

/// Kinds whose lower device is the one in `IFLA_LINK`.
const ON_TOP: &[&str] = &["vlan", "macvlan", "macvtap", "ipvlan", "ipvtap"];
/// Other kinds whose packets go on to their ports or nowhere. WireGuard belongs here, because it completes checksums
/// before it encrypts.
const CLOSED: &[&str] = &["bond", "team", "bridge", "vrf", "dummy", "wireguard"];

impl Link {
    /// A physical device that is up, with nothing else known.
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

    /// Whether only the sockets of this tunnel are seen, its device being in another namespace.
    pub fn is_elsewhere(&self) -> bool {
        self.tunnel.as_ref().is_some_and(|tunnel| tunnel.elsewhere.is_some())
    }

    pub(crate) fn is_any_of(&self, kinds: &[&str]) -> bool {
        self.kind.as_deref().is_some_and(|kind| kinds.contains(&kind))
    }

    /// Whether all lower devices are known: not for veth, tun and virtual switches, whose packets leave what is read.
    pub fn shows_what_is_below(&self) -> bool {
        self.kind.is_none() || self.is_any_of(ON_TOP) || self.is_any_of(CLOSED)
    }

    /// State of one feature; unknown if the device's features were not read.
    pub fn feature(&self, feature: Feature) -> Toggle {
        match self.features.ok().and_then(|features| features.get(&feature)) {
            Some(state) if state.enabled => Toggle::On,
            Some(_) => Toggle::Off,
            None => Toggle::Unknown,
        }
    }
}

/// Positions in `links` of a device and all its lower devices: VLAN and MACVLAN parents, ports of a bond, team or
/// bridge.
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

/// Indexes of the devices whose packets can enter a device: itself, the bridge or VRF that it is enslaved to, and the
/// upper devices of these.
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
    /// The local address (`IFA_LOCAL`, or `IFA_ADDRESS` if there is no peer).
    pub address: IpAddr,
    /// Prefix length, bits.
    pub prefix_length: u8,
    /// `RT_SCOPE_*`: 0 global, 253 link, 254 host.
    pub scope: u8,
    /// `IFA_ADDRESS`: the peer's address if there is one, else the local address.
    pub peer: IpAddr,
    /// `IFA_F_DEPRECATED` or `IFA_F_TENTATIVE`: IPv6 source selection prefers other addresses.
    pub unpreferred: bool,
    /// `IFA_F_SECONDARY`: not the primary address of its subnet.
    pub secondary: bool,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// Routing table id.
    pub table: u32,
    /// Destination address; `None` for a default route.
    pub destination: Option<IpAddr>,
    /// Destination prefix length, bits; 0 for a default route.
    pub prefix_length: u8,
    /// `RTN_*`: 1 unicast, 2 local, 7 unreachable, …
    pub kind: u8,
    /// TOS that it applies to; 0 is any.
    pub tos: u8,
    /// Metric; the lowest wins. `None` if not reported.
    pub priority: Option<u32>,
    /// Next hop; `None` if on-link.
    pub gateway: Option<IpAddr>,
    /// Preferred source address (`RTA_PREFSRC`).
    pub preferred_source: Option<IpAddr>,
    /// Indexes of the next hops' devices.
    pub devices: Vec<u32>,
    /// Id of the next-hop object that has the devices (`RTA_NH_ID`).
    pub nexthop: Option<u32>,
}

#[cfg(test)]
impl Route {
    /// A route to a prefix through a device, of kind `RTN_*`; `/0` is a default route, which does not say its family.
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
