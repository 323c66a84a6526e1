//! The values that matter to verdicts.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::facts::{Address, Link, Reading, Tunnel};

/// Values of one kind that are asked about: the peers of a large cluster. With more the source is a failed one.
pub(crate) const MAX_VALUES: usize = 1024;
/// `RT_SCOPE_UNIVERSE`
const GLOBAL: u8 = 0;
/// `IPPROTO_UDP`
pub(crate) const UDP: u8 = 17;

/// What outer packets of the tunnels that are up can look like; each list in order of first appearance, not sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OuterValues {
    /// Addresses of this node: tunnel end points first, then those of tunnels and of the devices below, then the rest.
    pub own: Vec<IpAddr>,
    /// Other ends of tunnels.
    pub peers: Vec<IpAddr>,
    /// Destination ports of outer packets.
    pub ports: Vec<u16>,
    /// Tunnels, and the devices that carry them: index and name.
    pub devices: Vec<(u32, String)>,
    /// Some list is as long as is asked about, and may have been longer.
    pub cut: bool,
}

impl OuterValues {
    /// Of these links, and of tunnels whose device lives elsewhere.
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

    /// Addresses on either end.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        let mut seen = BTreeSet::new();
        self.own.iter().chain(&self.peers).copied().filter(|address| seen.insert(*address)).collect()
    }
}

/// The first [`MAX_VALUES`] different ones.
fn unique<T: Copy + Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values.filter(|value| seen.insert(*value)).take(MAX_VALUES).collect()
}

/// A port as a dimension of an ipset has it: `ip_set_get_ip_port` tells the protocol too.
pub(crate) fn port_key(protocol: u8, port: u16) -> u128 {
    u128::from(protocol) << 16 | u128::from(port)
}
