//! Links and tunnels from rtnetlink, drivers from sysfs, and the order in which the parts around tunnels are read.
//!
//! Drivers count only if sysfs shows the same interface index, since it may be mounted for another network namespace.
//! The ioctl that would tell can make the kernel load a module if a device has just disappeared. Underneath a veth, a
//! tun device or a virtual switch packets go on outside what natwatch reads, so there is no verdict about the NIC
//! below.
//!
//! Kernel sources: `rtnl_fill_ifinfo`, `vxlan_fill_info`, `geneve_fill_info`, `vxlan_fdb_info`.

mod elsewhere;
mod standing;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use crate::capture::{NetlinkFamily, Request, Root};
use crate::facts::netfilter::Family;
use crate::facts::{
    ARPHRD_LOOPBACK, Failure, FdbEntry, Link, OuterHeader, Programs, Reading, Source, Tunnel, TunnelKind, UdpChecksum,
    may_forward, upper_devices, with_lower_devices,
};
use crate::netfilter::array;
use crate::netfilter::netlink::rtnl::*;
use crate::netfilter::netlink::{self, Attributes, Message};
use crate::read::known::links::{Standing, TunnelSockets};
use crate::read::{Node, datapath, ethtool};

/// Length of `struct ifinfomsg`.
const IFINFOMSG: usize = 16;
/// Length of `struct ndmsg`.
pub(super) const NDMSG: usize = 12;
const IFF_UP: u32 = 1;
const PF_BRIDGE: u8 = 7;
/// `RTEXT_FILTER_SKIP_STATS`: per-link statistics are not used.
const SKIP_STATS: u32 = 1 << 3;

/// Tunnels whose underlay is read; a node has one or two, an OpenStack host a few dozen.
const MAX_TUNNELS: usize = 128;
/// Physical devices whose driver is read; SR-IOV hosts have a few hundred.
const MAX_PHYSICAL: usize = 1024;

/// Devices queried for programs at ingress, some microseconds each; a node has a few hundred pods. Beyond this it is an
/// open question which devices have programs.
const MAX_ENTERED: usize = 16_384;

fn all_links() -> Request {
    let mut body = vec![0; IFINFOMSG];
    netlink::put(&mut body, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    Request::netlink(Source::Rtnetlink, "route/links", NetlinkFamily::Route, RTM_GETLINK, true, body)
}

/// One link by index.
fn link_again(link: &Link) -> Request {
    let mut body = vec![0; IFINFOMSG];
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    netlink::put(&mut body, IFLA_EXT_MASK, &SKIP_STATS.to_ne_bytes());
    let name = format!("route/link-{}", link.name);
    Request::netlink(Source::Rtnetlink, &name, NetlinkFamily::Route, RTM_GETLINK, false, body)
}

fn fdb(link: &Link) -> Request {
    // For FDB dumps the kernel takes an ifinfomsg, whose index selects the device.
    let mut body = vec![0; IFINFOMSG];
    body[0] = PF_BRIDGE;
    body[4..8].copy_from_slice(&link.index.to_ne_bytes());
    let name = format!("route/fdb-{}", link.name);
    Request::netlink(Source::Rtnetlink, &name, NetlinkFamily::Route, RTM_GETNEIGH, true, body)
}

fn local_ports() -> Request {
    Request::file(Source::Routing, Root::Procfs, "sys/net/ipv4/ip_local_port_range")
}

/// Whether sockets have the marks of who connects to them.
pub(crate) fn accepts_marks(node: &mut Node<'_>) -> Reading<bool> {
    let request = Request::file(Source::Routing, Root::Procfs, "sys/net/ipv4/tcp_fwmark_accept");
    let read = node.try_switch(&request);
    // A capture from before it was asked for is as whole as it was: none is assumed.
    match read.failure().is_some_and(Failure::is_not_captured) {
        true => Reading::Ok(false),
        false => node.note(&request, read),
    }
}

/// The range of ports that sockets, and tunnels without a range of their own, send from.
fn read_local_ports(node: &mut Node<'_>) -> Reading<(u16, u16)> {
    let read = node.try_line(&local_ports()).decode(|line| {
        let numbers: Vec<&str> = line.split_whitespace().collect();
        match numbers.as_slice() {
            [first, last] => first.parse().ok().zip(last.parse().ok()),
            _ => None,
        }
        .ok_or_else(|| format!("ip_local_port_range: {line:?} is no range of ports"))
    });
    node.note(&local_ports(), read)
}

fn driver(link: &Link) -> Request {
    Request::link(Source::Ethtool, Root::Sysfs, format!("class/net/{}/device/driver", link.name))
}

/// sysfs may be mounted for another network namespace; the index shows that.
fn sysfs_index(link: &Link) -> Request {
    Request::file(Source::Ethtool, Root::Sysfs, format!("class/net/{}/ifindex", link.name))
}

/// What was read about links and tunnels.
#[derive(Clone, Debug)]
pub(crate) struct LinkFacts {
    /// See [`crate::facts::Facts::links`].
    pub links: Reading<Vec<Link>>,
    /// The parts that are valid until a notification.
    pub standing: Arc<Standing>,
    /// See [`crate::facts::Facts::local_ports`].
    pub local_ports: Reading<(u16, u16)>,
    /// See [`crate::facts::Facts::ipvs_services`].
    pub ipvs_services: Reading<u64>,
    /// See [`crate::facts::Facts::bridges_call_rules`].
    pub bridges_call_rules: [Reading<bool>; 2],
    /// See [`crate::facts::Facts::foreign_tunnels`].
    pub foreign_tunnels: Reading<Vec<Link>>,
    /// See [`crate::facts::Facts::programs`].
    pub programs: Reading<Programs>,
}

impl LinkFacts {
    /// All fields `Failed` for this reason.
    pub(crate) fn unread(why: &Failure) -> Self {
        Self {
            links: Reading::Failed(why.clone()),
            standing: Arc::new(Standing::unread(why)),
            local_ports: Reading::Failed(why.clone()),
            ipvs_services: Reading::Failed(why.clone()),
            bridges_call_rules: [Reading::Failed(why.clone()), Reading::Failed(why.clone())],
            foreign_tunnels: Reading::Failed(why.clone()),
            programs: Reading::Failed(why.clone()),
        }
    }

    /// All links; empty if unread.
    pub(crate) fn known(&self) -> &[Link] {
        self.links.ok().map_or(&[], Vec::as_slice)
    }
}

/// Reads what has notifications, unless it is still valid; then, for devices on the path of tunnel packets, what
/// changes without notifications (drivers, features, programs).
pub(crate) fn read(node: &mut Node<'_>) -> LinkFacts {
    let sockets = datapath::tunnel_sockets(node);
    let standing = standing::read(node, sockets.ok().unwrap_or(&TunnelSockets::new()));
    let mut links = standing.links.clone();
    let foreign_tunnels = sockets.and_then(|_| links.as_ref().map(|_| standing.foreign.clone()));
    let ipvs_services = datapath::ipvs_services(node);
    let why = links.failure().cloned().unwrap_or_else(no_tunnel);
    let mut local_ports = Reading::Failed(why);
    let mut programs = Reading::Absent("no tunnel is up".into());
    let not_needed = || Reading::Failed(Failure::not_needed("not read: no tunnel is a port of a bridge"));
    let mut bridges_call_rules = [not_needed(), not_needed()];
    if let Reading::Ok(links) = &mut links
        && !(followed(links).is_empty() && standing.foreign.is_empty())
    {
        local_ports = read_local_ports(node);
        if followed(links).into_iter().any(|at| links[at].master.is_some()) {
            bridges_call_rules = datapath::bridges_call_rules(node);
        }
        let crossed = relevant(links, &standing.foreign);
        let forwards = may_forward(&standing.forwarding);
        let enters = |(at, link): &(usize, &Link)| crossed.contains(at) || forwards && link.up;
        let entered: Vec<&Link> = links.iter().enumerate().filter(enters).map(|(_, link)| link).collect();
        let crossed: Vec<&Link> = crossed.iter().map(|at| &links[*at]).collect();
        programs = match entered.len() > MAX_ENTERED {
            true => Reading::Failed(Failure::too_large(MAX_ENTERED, "devices that packets may come in by")),
            false => datapath::programs(node, &entered, &crossed),
        };
        read_drivers(node, links);
        let names = ethtool::read(node);
        for at in relevant(links, &standing.foreign) {
            links[at].features = ethtool::features(&names, node, &links[at]);
        }
    }
    LinkFacts { links, standing, local_ports, ipvs_services, bridges_call_rules, foreign_tunnels, programs }
}

fn no_tunnel() -> Failure {
    Failure::not_needed("not read: no tunnel is up")
}

fn is_physical(link: &Link) -> bool {
    link.kind.is_none() && link.hardware_type != ARPHRD_LOOPBACK
}

/// Positions of the tunnels that are up, up to [`MAX_TUNNELS`].
fn followed(links: &[Link]) -> Vec<usize> {
    let up = links.iter().enumerate().filter(|(_, link)| link.up && link.tunnel.is_some());
    up.map(|(at, _)| at).take(MAX_TUNNELS).collect()
}

/// Positions of the tunnels that are up, their upper devices, their underlay devices (also those of tunnels in other
/// namespaces), and the lower devices of these.
pub(crate) fn relevant(links: &[Link], foreign: &[Link]) -> BTreeSet<usize> {
    let mut relevant: BTreeSet<usize> = followed(links).into_iter().collect();
    let into: Vec<BTreeSet<u32>> = relevant.iter().map(|at| upper_devices(links, links[*at].index)).collect();
    let tunnels = relevant.iter().map(|at| &links[*at]).chain(foreign).filter_map(|link| link.tunnel.as_ref());
    let underlay_devices: BTreeSet<u32> =
        tunnels.filter_map(|tunnel| tunnel.underlay.ok()).flatten().copied().collect();
    relevant.extend((0..links.len()).filter(|at| into.iter().any(|into| into.contains(&links[*at].index))));
    for underlay_device in underlay_devices {
        relevant.extend(with_lower_devices(links, underlay_device));
    }
    relevant
}

/// Reads the drivers of physical devices.
fn read_drivers(node: &mut Node<'_>, links: &mut [Link]) {
    let mut looked_up = 0;
    for link in links {
        if !is_physical(link) {
            link.driver = Reading::Absent("a virtual device".into());
            continue;
        }
        looked_up += 1;
        link.driver = if looked_up > MAX_PHYSICAL {
            Reading::Failed(Failure::too_large(MAX_PHYSICAL, "physical devices"))
        } else {
            read_driver(node, link)
        };
        if !matches!(link.driver, Reading::Absent(_)) {
            node.sources.note(Source::Ethtool, &link.driver);
        }
    }
}

fn read_driver(node: &mut Node<'_>, link: &Link) -> Reading<String> {
    match node.try_number(&sysfs_index(link)) {
        Reading::Ok(index) if index == u64::from(link.index) => {}
        Reading::Denied(why) => return Reading::Denied(why),
        _ => {
            let name = &link.name;
            let why = format!("sysfs does not show {name}: is it mounted for this network namespace?");
            return Reading::Failed(Failure::unexpected(why));
        }
    }
    node.try_line(&driver(link)).decode(|target| match target.rsplit('/').next() {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err(format!("{}: the driver link points to {target:?}", link.name)),
    })
}

/// Reads the forwarding database of each tunnel that is up; beyond the limit it is `Failed`.
fn read_fdb(node: &mut Node<'_>, links: &mut [Link]) {
    let followed: BTreeSet<usize> = followed(links).into_iter().collect();
    for (at, link) in links.iter_mut().enumerate().filter(|(_, link)| link.up) {
        let (request, index) = (fdb(link), link.index);
        let Some(tunnel) = &mut link.tunnel else { continue };
        tunnel.fdb = if followed.contains(&at) {
            node.dump(&request, |message| decode_fdb_entry(message, index))
        } else {
            let beyond = Reading::Failed(Failure::too_large(MAX_TUNNELS, "tunnels that are up"));
            node.note(&request, beyond)
        };
    }
}

/// One message of the response to `RTM_GETLINK`.
fn decode_link(body: &[u8]) -> Result<Link, Failure> {
    let attributes = Attributes::after(body, IFINFOMSG, "IFLA")?;
    let name = device_name(attributes.get(IFLA_IFNAME).unwrap_or_default())?;
    let info = attributes.nested(IFLA_LINKINFO, "IFLA_LINKINFO")?;
    let kind = info.as_ref().map(|info| info.string(IFLA_INFO_KIND)).transpose()?.flatten();
    let data = info.as_ref().and_then(|info| info.get(IFLA_INFO_DATA)).unwrap_or_default();
    let up = u32::from_ne_bytes(array(body, 8, "ifinfomsg")?) & IFF_UP != 0;
    let mut tunnel = match kind.as_deref() {
        Some("vxlan") => Some(decode_vxlan(data).map_err(|error| error.within(&name))?),
        Some("geneve") => Some(decode_geneve(data).map_err(|error| error.within(&name))?),
        _ => None,
    };
    // While a device is down, changes of these are not notified (`netdev_state_change`).
    if let Some(tunnel) = tunnel.as_mut().filter(|_| !up) {
        tunnel.header = OuterHeader::default();
    }
    Ok(Link {
        index: u32::from_ne_bytes(array(body, 4, "ifinfomsg")?),
        hardware_type: u16::from_ne_bytes(array(body, 2, "ifinfomsg")?),
        up,
        mtu: attributes.u32(IFLA_MTU)?,
        group: attributes.u32(IFLA_GROUP)?,
        lower: attributes.u32(IFLA_LINK)?.filter(|index| *index != 0),
        master: attributes.u32(IFLA_MASTER)?,
        calls_rules: match kind.as_deref() {
            Some("bridge") => decode_bridge(data).map_err(|error| error.within(&name))?,
            _ => [false; 2],
        },
        link_netnsid: attributes.u32(IFLA_LINK_NETNSID)?.map(u32::cast_signed),
        tunnel,
        driver: Reading::Failed("not looked up: no tunnel is up".into()),
        xdp: attributes
            .nested(IFLA_XDP, "IFLA_XDP")?
            .map(|xdp| xdp.u8(IFLA_XDP_ATTACHED))
            .transpose()?
            .flatten()
            .is_some_and(|mode| mode != 0),
        filters: Reading::Failed(Failure::not_needed("not looked up: it carries no tunnel that is up")),
        features: Reading::Failed("not looked up: it carries no tunnel that is up".into()),
        kind,
        name,
    })
}

/// A device name may have any bytes but zero, `/`, `:` and white space; unprintable ones become `\xNN`.
fn device_name(bytes: &[u8]) -> Result<String, Failure> {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    let mut name = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if character.is_control() {
                let _ = write!(name, "\\x{:02x}", u32::from(character));
            } else {
                name.push(character);
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(name, "\\x{byte:02x}");
        }
    }
    if name.is_empty() || bytes.len() > 15 || name == "." || name == ".." || name.contains(['/', ' ', ':']) {
        return Err(Failure::unexpected(format!("{name:?} is no device name")));
    }
    Ok(name)
}

/// `br_fill_info`: `calls_rules`.
fn decode_bridge(data: &[u8]) -> Result<[bool; 2], Failure> {
    let attributes = Attributes::parse(data, "IFLA_BR")?;
    let is_on = |attribute| Ok::<_, Failure>(attributes.u8(attribute)?.unwrap_or(0) != 0);
    Ok([is_on(IFLA_BR_NF_CALL_IPTABLES)?, is_on(IFLA_BR_NF_CALL_IP6TABLES)?])
}

fn decode_vxlan(data: &[u8]) -> Result<Tunnel, Failure> {
    let attributes = Attributes::parse(data, "IFLA_VXLAN")?;
    let flow_based = attributes.u8(IFLA_VXLAN_COLLECT_METADATA)?.unwrap_or(0) != 0;
    let mut tunnel = Tunnel {
        id: attributes.u32(IFLA_VXLAN_ID)?.filter(|_| !flow_based),
        port: attributes.be16(IFLA_VXLAN_PORT)?,
        source_ports: attributes.be16_pair(IFLA_VXLAN_PORT_RANGE)?.filter(|range| *range != (0, 0)),
        link: attributes.u32(IFLA_VXLAN_LINK)?.filter(|index| *index != 0),
        local: attributes.address(IFLA_VXLAN_LOCAL6)?.or(attributes.address(IFLA_VXLAN_LOCAL)?),
        remote: attributes.address(IFLA_VXLAN_GROUP6)?.or(attributes.address(IFLA_VXLAN_GROUP)?),
        flow_based,
        // With metadata the group id is there, and not in the mark.
        group_policy: attributes.get(IFLA_VXLAN_GBP).is_some() && !flow_based,
        header: OuterHeader::of(
            attributes.u8(IFLA_VXLAN_TOS)?.filter(|_| !flow_based),
            attributes.u8(IFLA_VXLAN_TTL)?.filter(|_| !flow_based),
            attributes.u8(IFLA_VXLAN_TTL_INHERIT)?,
            attributes.u8(IFLA_VXLAN_DF)?.filter(|_| !flow_based),
        ),
        ..Tunnel::new(TunnelKind::Vxlan)
    };
    tunnel.udp_checksum =
        udp_checksum(&tunnel, attributes.u8(IFLA_VXLAN_UDP_CSUM)?, attributes.u8(IFLA_VXLAN_UDP_ZERO_CSUM6_TX)?);
    Ok(tunnel)
}

fn decode_geneve(data: &[u8]) -> Result<Tunnel, Failure> {
    let attributes = Attributes::parse(data, "IFLA_GENEVE")?;
    let flow_based = attributes.get(IFLA_GENEVE_COLLECT_METADATA).is_some();
    let mut tunnel = Tunnel {
        id: attributes.u32(IFLA_GENEVE_ID)?.filter(|_| !flow_based),
        port: attributes.be16(IFLA_GENEVE_PORT)?,
        source_ports: attributes.be16_pair(IFLA_GENEVE_PORT_RANGE)?.filter(|range| *range != (0, 0)),
        remote: attributes.address(IFLA_GENEVE_REMOTE6)?.or(attributes.address(IFLA_GENEVE_REMOTE)?),
        flow_based,
        header: OuterHeader::of(
            attributes.u8(IFLA_GENEVE_TOS)?.filter(|_| !flow_based),
            attributes.u8(IFLA_GENEVE_TTL)?.filter(|_| !flow_based),
            attributes.u8(IFLA_GENEVE_TTL_INHERIT)?,
            attributes.u8(IFLA_GENEVE_DF)?.filter(|_| !flow_based),
        ),
        ..Tunnel::new(TunnelKind::Geneve)
    };
    tunnel.udp_checksum =
        udp_checksum(&tunnel, attributes.u8(IFLA_GENEVE_UDP_CSUM)?, attributes.u8(IFLA_GENEVE_UDP_ZERO_CSUM6_TX)?);
    Ok(tunnel)
}

/// With an IPv4 underlay: as the attribute says. With an IPv6 underlay: on unless zero checksums are allowed.
fn udp_checksum(tunnel: &Tunnel, csum: Option<u8>, zero_csum6_tx: Option<u8>) -> UdpChecksum {
    if tunnel.flow_based {
        return UdpChecksum::PerPacket;
    }
    let on =
        if tunnel.family() == Family::Ipv6 { zero_csum6_tx.map(|zero| zero == 0) } else { csum.map(|csum| csum != 0) };
    match on {
        Some(true) => UdpChecksum::On,
        Some(false) => UdpChecksum::Off,
        None => UdpChecksum::Unknown,
    }
}

/// One message of the response to `RTM_GETNEIGH` with family `PF_BRIDGE`.
fn decode_fdb_entry(message: &Message<'_>, device: u32) -> Result<Option<FdbEntry>, Failure> {
    let attributes = Attributes::after(message.body, NDMSG, "NDA")?;
    if u32::from_ne_bytes(array(message.body, 4, "ndmsg")?) != device {
        return Ok(None);
    }
    Ok(Some(FdbEntry {
        remote: attributes.address(NDA_DST)?,
        via: attributes.u32(NDA_IFINDEX)?,
        port: attributes.be16(NDA_PORT)?,
        nexthop_group: attributes.u32(NDA_NH_ID)?,
    }))
}

#[cfg(test)]
mod tests;
