//! Tunnels that send from this namespace although their device is in another one, as Docker Swarm's do: only their
//! sockets are seen. Called by `standing`.
//!
//! Kernel sources: `udp4_seq_show`; `vxlan_dev_create`; `iptunnel_xmit`, which clears the mark of packets from another
//! namespace.

use std::collections::BTreeSet;

use crate::facts::{ARPHRD_LOOPBACK, Address, Link, Reading, Tunnel, TunnelKind, UdpChecksum};
use crate::read::known::links::TunnelSockets;

/// Geneve's port; the other ports are VXLAN's.
const GENEVE: u16 = 6081;
/// `RT_SCOPE_UNIVERSE`
const UNIVERSE: u8 = 0;

/// Sockets on tunnel ports that no device here owns; a device that is down has no socket.
pub(crate) fn unowned(sockets: &TunnelSockets, links: &[Link]) -> TunnelSockets {
    let here = links.iter().filter(|link| link.up && link.link_netnsid.is_none());
    let owned: BTreeSet<u16> = here.filter_map(|link| link.tunnel.as_ref()).filter_map(|tunnel| tunnel.port).collect();
    sockets.iter().filter(|(port, _)| !owned.contains(port)).map(|(port, families)| (*port, *families)).collect()
}

/// The tunnels of these sockets, as links that the kernel does not list, with the kernel's default settings.
/// `gateways`: devices by which routes lead to a next hop.
pub(crate) fn tunnels(
    sockets: &TunnelSockets,
    links: &[Link],
    addresses: &Reading<Vec<Address>>,
    gateways: &BTreeSet<u32>,
) -> Vec<Link> {
    let underlay = addresses.as_ref().and_then(|addresses| match underlay_devices(links, addresses, gateways) {
        none if none.is_empty() => Reading::Absent("no device here has an address that it could send from".into()),
        underlay_devices => Reading::Ok(underlay_devices),
    });
    sockets.iter().map(|(port, families)| tunnel(*port, *families, underlay.clone())).collect()
}

fn tunnel(port: u16, families: [bool; 2], underlay: Reading<Vec<u32>>) -> Link {
    let tunnel = Tunnel {
        port: Some(port),
        udp_checksum: UdpChecksum::On,
        elsewhere: Some(families),
        fdb: Reading::Absent("it lives in another network namespace".into()),
        underlay,
        ..Tunnel::new(if port == GENEVE { TunnelKind::Geneve } else { TunnelKind::Vxlan })
    };
    let index = u32::MAX - u32::from(port); // the kernel's indexes are positive
    let driver = Reading::Absent("a virtual device".into());
    Link { tunnel: Some(tunnel), driver, ..Link::new(index, format!("UDP port {port}")) }
}

/// Devices that may carry packets to other nodes: up, with an address of their own, and neither a dummy (which has the
/// addresses of IPVS) nor a bridge with nothing but containers attached.
fn underlay_devices(links: &[Link], addresses: &[Address], gateways: &BTreeSet<u32>) -> Vec<u32> {
    let has_address = |link: &Link| addresses.iter().any(|at| at.link == link.index && at.scope == UNIVERSE);
    let only_inside = |link: &Link| {
        let mut ports = links.iter().filter(|port| port.master == Some(link.index));
        match link.kind.as_deref() {
            Some("bridge") => ports.all(|port| port.kind.as_deref() == Some("veth")),
            kind => kind == Some("dummy"),
        }
    };
    let may_carry = |link: &Link| gateways.contains(&link.index) || has_address(link) && !only_inside(link);
    let usable = |link: &&Link| link.up && link.hardware_type != ARPHRD_LOOPBACK && may_carry(link);
    links.iter().filter(usable).map(|link| link.index).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_of_containers_carries_no_tunnel() {
        let kind = |link: Link, kind: &str, master| Link { kind: Some(kind.into()), master, ..link };
        let links = [
            Link { hardware_type: ARPHRD_LOOPBACK, ..Link::new(1, "lo") },
            Link::new(2, "eth0"),
            kind(Link::new(3, "docker0"), "bridge", None),
            kind(Link::new(4, "docker_gwbridge"), "bridge", None),
            kind(Link::new(5, "veth1"), "veth", Some(4)),
            kind(Link::new(6, "br0"), "bridge", None),
            Link { master: Some(6), ..Link::new(7, "eth1") },
            Link { up: false, ..Link::new(8, "eth2") },
            Link::new(9, "eth3"),
            kind(Link::new(10, "kube-ipvs0"), "dummy", None),
        ];
        let address = |link| Address {
            link,
            address: [192, 0, 2, link as u8].into(),
            prefix_length: 24,
            scope: UNIVERSE,
            peer: [192, 0, 2, link as u8].into(),
            unpreferred: false,
            secondary: false,
        };
        let addresses: Vec<Address> = [1, 2, 3, 4, 6, 8, 10].map(address).into();
        assert_eq!(underlay_devices(&links, &addresses, &[].into()), [2, 6]);
        assert_eq!(
            underlay_devices(&links, &addresses, &[4, 9].into()),
            [2, 4, 6, 9],
            "routes lead to a next hop there"
        );
        let sockets = TunnelSockets::from([(4789, [true, false])]);
        let [tunnel] = &tunnels(&sockets, &links, &Reading::Ok(addresses), &[].into())[..] else { panic!("one") };
        assert_eq!(tunnel.tunnel.as_ref().unwrap().underlay, Reading::Ok(vec![2, 6]));
        assert_eq!(
            unowned(&sockets, std::slice::from_ref(tunnel)),
            TunnelSockets::new(),
            "one with a device here is owned"
        );
    }
}
