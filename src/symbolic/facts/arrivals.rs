//! Packets that arrive through a node's tunnels.

use std::collections::BTreeSet;

use super::super::values::Numbers;
use crate::facts::netfilter::{address_key, name_key};
use crate::facts::{Link, Tunnel, upper_devices};

/// Kinds of devices whose packets are whole packets of IP inside, and leave their mark to what is inside (`ip_tunnel_rcv`,
/// `__ip6_tnl_rcv`, `gre_rcv`, `vti_rcv_cb`, `xfrmi_rcv_cb`).
const OF_IP: &[&str] =
    &["erspan", "gre", "gretap", "ip6erspan", "ip6gre", "ip6gretap", "ip6tnl", "ipip", "sit", "vti", "vti6", "xfrm"];

/// What comes out of the tunnels of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// By what packets come around those inside.
    pub ways: Vec<Arrival>,
    /// Names of devices of which the sender chooses the mark ([`Tunnel::group_policy`]).
    pub marking: Numbers,
}

/// Outer packets that come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Addresses that they are sent to: those that these tunnels send from, as their peers do unless they are told another
    /// (sockets take what is sent to any). `None`: not known.
    pub addresses: Option<Numbers>,
    /// UDP ports by which they come in; `None`: they are of other protocols, or of any port.
    pub ports: Option<Numbers>,
    /// Names of devices that the packets inside come in by; where those come from another network namespace, nothing is left of
    /// their marks, and they are none of these.
    pub devices: Numbers,
    /// There are several tunnels: what is around packets of one may come out of another.
    pub nested: bool,
}

/// For the tunnels that are up. Names with unknown bytes are left out, since no rule can test for them.
pub(super) fn arrivals(links: &[Link]) -> Arrivals {
    let up = || links.iter().filter(|link| link.up && !link.is_elsewhere());
    let tunnels: Vec<(&Link, &Tunnel)> = up().filter_map(|link| Some((link, link.tunnel.as_ref()?))).collect();
    let here = || tunnels.iter().filter(|(link, _)| link.link_netnsid.is_none());
    let names = |of: &[&Link]| {
        let near: BTreeSet<u32> = of.iter().flat_map(|link| upper_devices(links, link.index)).collect();
        let near = links.iter().filter(|link| near.contains(&link.index)).filter_map(|link| name_key(&link.name));
        Numbers::of(&near.collect::<Vec<_>>())
    };
    let ports = here().filter_map(|(_, tunnel)| tunnel.port).map(u128::from);
    let addresses = |tunnel: &Tunnel| match tunnel.local.filter(|local| !local.is_unspecified()) {
        Some(local) => Some(vec![address_key(local)]),
        None => tunnel.outer.ok()?.iter().map(|route| route.source.map(address_key)).collect(),
    };
    // A tunnel without a peer may have any source address.
    let addresses = here().map(|(_, tunnel)| addresses(tunnel).filter(|all| !all.is_empty()));
    let addresses = addresses.collect::<Option<Vec<Vec<u128>>>>();
    let by_udp = Arrival {
        addresses: addresses.map(|all| Numbers::of(&all.concat())),
        ports: Some(Numbers::of(&ports.collect::<Vec<_>>())),
        devices: names(&here().map(|(link, _)| *link).collect::<Vec<_>>()),
        nested: here().count() > 1,
    };
    let of_ip: Vec<&Link> = up().filter(|link| link.link_netnsid.is_none() && link.is_any_of(OF_IP)).collect();
    let of_ip = Arrival { addresses: None, ports: None, devices: names(&of_ip), nested: of_ip.len() > 1 };
    Arrivals {
        ways: [by_udp, of_ip].into_iter().filter(|way| !way.devices.is_empty()).collect(),
        marking: names(
            &tunnels.iter().filter(|(_, tunnel)| tunnel.group_policy).map(|(link, _)| *link).collect::<Vec<_>>(),
        ),
    }
}
