//! Devices and addresses of this host, as far as rules tell them apart.

use std::net::IpAddr;

use super::values::Values;
use super::world::World;
use crate::snapshot::Snapshot;
use crate::snapshot::netfilter::{DeviceProperty, Family, address_key, name_key};

/// `RTN_UNICAST`
const UNICAST: u128 = 1;
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
