//! The values that are looked up in large sets: addresses, ports and devices of tunnel packets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::facts::{Address, Link, Reading, Tunnel};

/// Number of values of one kind: peers of a large cluster. With more the source is `Failed`.
pub(crate) const MAX_VALUES: usize = 1024;
/// `RT_SCOPE_UNIVERSE`
const GLOBAL: u8 = 0;
/// `IPPROTO_UDP`
pub(crate) const UDP: u8 = 17;

/// Values in outer packets of tunnels that are up; lists in order of first appearance, unsorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OuterValues {
    /// Addresses of this node: of tunnels first, then of underlay devices, then the rest.
    pub own: Vec<IpAddr>,
    /// Remote addresses of tunnels.
    pub peers: Vec<IpAddr>,
    /// UDP destination ports of outer packets.
    pub ports: Vec<u16>,
    /// Tunnels and their underlay devices: index and name.
    pub devices: Vec<(u32, String)>,
    /// Whether a list has reached its limit and may be incomplete.
    pub cut: bool,
}

impl OuterValues {
    /// For these links, and tunnels with their device in another namespace.
    pub(crate) fn of(links: &[Link], foreign: &[Link], addresses: &Reading<Vec<Address>>) -> Self {
        let tunnels: Vec<(&Link, &Tunnel)> = links
            .iter()
            .filter(|link| link.up)
            .chain(foreign)
            .filter_map(|link| Some((link, link.tunnel.as_ref()?)))
            .collect();
        if tunnels.is_empty() {
            return Self::default();
        }
        let underlay_devices =
            tunnels.iter().flat_map(|(_, tunnel)| tunnel.underlay.ok().into_iter().flatten().copied());
        let indices = unique(tunnels.iter().map(|(link, _)| link.index).chain(underlay_devices));
        let near: BTreeSet<u32> = indices.iter().copied().collect();
        let global: Vec<&Address> =
            addresses.ok().into_iter().flatten().filter(|address| address.scope == GLOBAL).collect();
        let (close, far): (Vec<&Address>, Vec<&Address>) =
            global.into_iter().partition(|address| near.contains(&address.link));
        let locals = tunnels.iter().filter_map(|(_, tunnel)| tunnel.local);
        let own = locals.chain(close.into_iter().chain(far).map(|address| address.address));
        let device = |index: u32| links.iter().find(|link| link.index == index).map(|link| (index, link.name.clone()));
        let own = unique(own.filter(|address| !address.is_unspecified() && !address.is_multicast()));
        let peers =
            unique(tunnels.iter().flat_map(|(_, tunnel)| tunnel.listed_destinations().map(|(remote, _)| remote)));
        let ports = unique(tunnels.iter().flat_map(|(_, tunnel)| {
            let others = tunnel.fdb.ok().into_iter().flatten().filter_map(|entry| entry.port);
            tunnel.port.into_iter().chain(others)
        }));
        let devices: Vec<(u32, String)> = indices.into_iter().filter_map(device).collect();
        let cut = [own.len(), peers.len(), ports.len(), devices.len()].contains(&MAX_VALUES);
        Self { own, peers, ports, devices, cut }
    }

    /// Addresses of this node and of peers.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut seen = BTreeSet::new();
        self.own.iter().chain(&self.peers).copied().filter(|address| seen.insert(*address)).collect()
    }
}

/// The first [`MAX_VALUES`] distinct values.
fn unique<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(*value)).take(MAX_VALUES).collect()
}

/// A port as the value of an ipset dimension, which includes the protocol (`ip_set_get_ip_port`).
pub(crate) fn port_key(protocol: u8, port: u16) -> u128 {
    u128::from(protocol) << 16 | u128::from(port)
}
