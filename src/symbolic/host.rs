//! Devices and addresses of this host, as far as rules tell them apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::values::Values;
use super::world::World;
use crate::snapshot::netfilter::{DeviceProperty, Family, address_key, name_key};
use crate::snapshot::{Link, Reading, Snapshot};

/// `RTN_UNICAST`
const UNICAST: u128 = 1;
/// `ARPHRD_LOOPBACK`
const ARPHRD_LOOPBACK: u16 = 772;
/// `RTN_LOCAL`
pub const LOCAL: u128 = 2;
/// `RTN_BROADCAST`
const BROADCAST: u128 = 3;
/// `RTN_MULTICAST`
const MULTICAST: u128 = 5;

/// A device, as far as rules can tell it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// Interface index.
    pub index: u32,
    /// Its name.
    pub name: &'a str,
    /// Number of its group; `None` where the kernel does not tell.
    pub group: Option<u32>,
    /// Its kind; `None`: it has none.
    pub kind: Option<&'a str>,
    /// `ARPHRD_*`
    pub hardware_type: u16,
}

/// How packets get through this host, as far as rules do not say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Whether it forwards packets, of IPv4 and of IPv6. `Err`: that was not read.
    pub forwards: [Result<bool, String>; 2],
    /// Names of the devices by which packets of IP come in from elsewhere. `None`: not read.
    pub entries: Option<Vec<u128>>,
    /// Names of the devices by which default routes of any table leave. `None`: not read.
    pub outward: Option<Vec<u128>>,
    /// Addresses that rules give to destinations, and the name of the device that leads there; `None`: none does. `Err`: not read.
    pub targets: Result<BTreeMap<IpAddr, Option<u128>>, String>,
}

impl Routing {
    /// Nothing of it was read.
    pub fn unread(why: &str) -> Self {
        let unread = || Err(why.to_owned());
        Self { forwards: [unread(), unread()], entries: None, outward: None, targets: Err(why.to_owned()) }
    }

    /// Of a node.
    pub fn of(snapshot: &Snapshot) -> Self {
        let forwards = [0, 1].map(|at| match &snapshot.forwarding[at] {
            Reading::Ok(forwards) => Ok(*forwards),
            Reading::Absent(_) => Ok(false),
            unread => Err(format!("whether this host forwards packets was not read: {}", unread.why())),
        });
        let links = snapshot.links.ok();
        let entries = links.and_then(|links| {
            let entries =
                links.iter().filter(|link| link.up && link.hardware_type != ARPHRD_LOOPBACK && !is_port(links, link));
            entries.map(|link| name_key(&link.name)).collect()
        });
        let name = |index: u32| {
            let link = links?.iter().find(|link| link.index == index)?;
            name_key(&link.name)
        };
        let outward = snapshot.routes.ok().and_then(|routes| {
            let defaults = routes.iter().filter(|route| route.prefix_length == 0 && route.kind == UNICAST as u8);
            // The devices of a next-hop object are not read.
            let devices =
                defaults.map(|route| (route.nexthop.is_none() || !route.devices.is_empty()).then_some(&route.devices));
            let devices: BTreeSet<u32> = devices.collect::<Option<Vec<_>>>()?.into_iter().flatten().copied().collect();
            devices.into_iter().map(name).collect()
        });
        let targets = match &snapshot.targets {
            Reading::Ok(targets) => {
                let named = |(address, device): (&IpAddr, &Option<u32>)| match device {
                    None => Some((*address, None)),
                    Some(index) => Some((*address, Some(name(*index)?))),
                };
                // What leads by a device that is not known was not looked up.
                Ok(targets.iter().filter_map(named).collect())
            }
            unread => Err(format!("which way translated packets go was not read: {}", unread.why())),
        };
        Self { forwards, entries, outward, targets }
    }
}

/// Whether a device hands what comes in to another one before rules of IP see it.
fn is_port(links: &[Link], link: &Link) -> bool {
    const TAKING: &[&str] = &["bridge", "bond", "team", "openvswitch"];
    let kind = link.master.and_then(|master| links.iter().find(|other| other.index == master)?.kind.as_deref());
    kind.is_some_and(|kind| TAKING.contains(&kind))
}

/// Addresses that have a type of their own, in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Type (`RTN_*`), range, device.
    pub typed: Vec<(u128, (u128, u128), Option<u32>)>,
}

impl World<'_> {
    /// Names of the links whose index meets a test; 0 is no device and has no name. `None`: they are not known.
    pub fn names(&self, meets: impl Fn(u128) -> bool) -> Option<Values> {
        let mut names = self.names_of(|link| Some(meets(link.index.into())))?;
        names.extend(meets(0).then_some(0));
        Some(Values::of(&names))
    }

    /// Names of the links of which something meets a test. `None`: they are not known.
    pub fn names_with(&self, property: DeviceProperty, meets: impl Fn(u128) -> bool) -> Option<Values> {
        let number = |link: &Device<'_>| match property {
            DeviceProperty::Group => link.group.map(u128::from),
            DeviceProperty::Kind => link.kind.map_or(Some(0), name_key),
            DeviceProperty::HardwareType => Some(link.hardware_type.into()),
        };
        Some(Values::of(&self.names_of(|link| number(link).map(&meets))?))
    }

    fn names_of(&self, wanted: impl Fn(&Device<'_>) -> Option<bool>) -> Option<Vec<u128>> {
        let mut names = Vec::new();
        for link in self.devices.as_ref()? {
            if wanted(link)? {
                names.push(name_key(link.name)?);
            }
        }
        Some(names)
    }

    /// Addresses of these types (`inet_dev_addr_type`: whatever is not local, broadcast or multicast is unicast).
    /// `None`: it is not known which addresses are. `device`: the name of the one whose addresses count; `None`: those of all.
    pub fn addresses_of_types(
        &self,
        family: Family,
        wanted: impl Fn(u128) -> bool,
        device: Option<u128>,
    ) -> Option<Values> {
        let ipv6 = family == Family::Ipv6;
        let own = self.own[usize::from(ipv6)].as_ref()?;
        let links = if device.is_some() { self.devices.as_deref()? } else { &[] };
        let here = |index: &Option<u32>| {
            device.is_none_or(|name| {
                let link = links.iter().find(|link| Some(link.index) == *index);
                link.and_then(|link| name_key(link.name)) == Some(name)
            })
        };
        let last = if ipv6 { u128::MAX } else { u128::from(u32::MAX) };
        let multicast = if ipv6 { (0xff << 120, last) } else { (0xe000_0000, 0xefff_ffff) };
        let mut kinds = vec![(MULTICAST, multicast)];
        if !ipv6 {
            kinds.extend([(BROADCAST, (0, 0)), (BROADCAST, (last, last))]);
        }
        kinds.extend(own.typed.iter().filter(|(.., index)| here(index)).map(|(kind, range, _)| (*kind, *range)));
        let mut found: Vec<(u128, u128)> =
            kinds.iter().filter(|(kind, _)| wanted(*kind)).map(|(_, range)| *range).collect();
        if wanted(UNICAST) {
            let special = Values::ranges(kinds.iter().map(|(_, range)| *range).collect());
            found.extend(special.others(last).as_ranges());
        }
        Some(Values::ranges(found))
    }
}

/// Addresses of a family that are not unicast, as the routes tell; the table `local` has a route for each of this host's.
pub fn own_addresses(snapshot: &Snapshot, ipv6: bool) -> Option<OwnAddresses> {
    /// `RT_TABLE_LOCAL`; routes of other tables only hold for packets that policy rules send there.
    const LOCAL_TABLE: u32 = 255;
    let routes = snapshot.routes.ok()?.iter().filter(|route| route.table == LOCAL_TABLE);
    let typed = routes.filter(|route| !matches!(u128::from(route.kind), UNICAST | MULTICAST)).filter_map(|route| {
        let destination = route.destination.filter(|destination| destination.is_ipv6() == ipv6)?;
        Some((route.kind.into(), prefix_range(destination, route.prefix_length), route.devices.first().copied()))
    });
    Some(OwnAddresses { typed: typed.collect() })
}

/// The addresses of a prefix.
pub fn prefix_range(network: IpAddr, length: u8) -> (u128, u128) {
    let width = if network.is_ipv6() { 128 } else { 32 };
    let low = (u128::MAX >> (128 - width)).checked_shr(length.into()).unwrap_or(0);
    let first = address_key(network) & !low;
    (first, first | low)
}
