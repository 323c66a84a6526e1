//! Devices and addresses of this host, as far as rules distinguish them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Network;
use crate::facts::netfilter::{DeviceProperty, Family, address_key, name_key, prefix_range};
use crate::facts::{
    ARPHRD_LOOPBACK, Address, Facts, ForwardedPath, KernelVersion, Link, Question, Reading, Route, routes_by_sender,
};
use crate::symbolic::values::Numbers;

/// `RTN_UNICAST`
const UNICAST: u128 = 1;
/// `RTN_LOCAL`
pub(crate) const LOCAL: u128 = 2;
/// `RTN_BROADCAST`
const BROADCAST: u128 = 3;
/// `RTN_ANYCAST`
const ANYCAST: u128 = 4;
/// `RTN_MULTICAST`
const MULTICAST: u128 = 5;
/// `RT_SCOPE_UNIVERSE`
const UNIVERSE: u8 = 0;
/// `RT_SCOPE_LINK`
const LINK: u8 = 253;
/// Since this version rules on postrouting see the input device.
const INPUT_IN_POSTROUTING: KernelVersion = KernelVersion::new(5, 7, 0);

/// Facts about this host besides rules and devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostFacts {
    /// Addresses of its devices. `Err`: not read.
    pub addresses: Result<Vec<Address>, Question>,
    /// Whether it forwards packets, by family (IPv4, IPv6). `Err`: not read.
    pub forwards: [Result<bool, Question>; 2],
    /// Whether IPVS is in use, which redirects connections independently of rules. `Err`: not read.
    pub ipvs_in_use: Result<bool, Question>,
    /// Whether rules on postrouting see the input device. `Err`: the kernel's version was not read.
    pub input_in_postrouting: Result<bool, Question>,
    /// Names of the devices of default routes in any table. `Err`: not read.
    pub outward: Result<Vec<u128>, Question>,
    /// Destinations of this host's unmarked packets by name of the device that they are routed to, by family (IPv4,
    /// IPv6); local destinations are under `lo`. `Err`: not known.
    pub first_paths: [Result<BTreeMap<u128, Numbers>, Question>; 2],
    /// Name of the device towards each DNAT address; `None`: there is none. `Err`: not read.
    pub targets: Result<BTreeMap<IpAddr, Option<u128>>, Question>,
    /// The ways there of packets that are forwarded, where policy rules go by where these come from. `Err`: not read.
    pub forwarded_paths: Result<Vec<ForwardedPath<u128>>, Question>,
    /// Policy rules of IPv4, and of IPv6, go by where packets come from.
    pub routes_by_sender: [bool; 2],
    /// Sockets have the marks of who connects to them (`tcp_fwmark_accept`). `Err`: that was not read.
    pub accepts_marks: Result<bool, Question>,
    /// Entries of connection tracking count packets and bytes. `Err`: that was not read.
    pub counts_entries: Result<bool, Question>,
    /// The date of the reading; see [`Facts::date`]. `Err`: it is not known.
    pub date: Result<u64, Question>,
}

impl HostFacts {
    /// From a node's facts.
    pub fn of(facts: &Facts) -> Self {
        let name = |index: u32| {
            let link = facts.links.ok()?.iter().find(|link| link.index == index)?;
            name_key(&link.name)
        };
        Self {
            outward: outward(facts, name),
            first_paths: Family::IP.map(|family| first_paths(facts, family, name)),
            targets: match &facts.targets {
                Reading::Ok(targets) => {
                    let named = |(address, device): (&IpAddr, &Option<u32>)| match device {
                        None => Some((*address, None)),
                        Some(index) => Some((*address, Some(name(*index)?))),
                    };
                    // Addresses towards an unknown device count as not looked up.
                    Ok(targets.iter().filter_map(named).collect())
                }
                unread => Err(open(
                    unread,
                    "which way translated packets go was not read",
                    &["ip", "route", "show", "table", "all"],
                )),
            },
            routes_by_sender: Family::IP
                .map(|family| facts.rules.ok().is_some_and(|rules| routes_by_sender(rules, family))),
            forwarded_paths: forwarded_paths(facts, name),
            addresses: match &facts.addresses {
                Reading::Ok(addresses) => Ok(addresses.clone()),
                unread => Err(open(unread, "the addresses of this host were not read", &["ip", "address", "show"])),
            },
            forwards: facts.forwarding.each_ref().map(|forwarding| {
                let words = ["sysctl", "net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"];
                is_so(forwarding, "whether this host forwards packets was not read", &words)
            }),
            ipvs_in_use: is_so(
                &facts.ipvs_services.as_ref().map(|services| *services != 0),
                "whether IPVS translates destinations was not read",
                &["ipvsadm", "-Ln"],
            ),
            accepts_marks: is_so(
                &facts.accepts_marks,
                "whether sockets take over marks was not read",
                &["sysctl", "net.ipv4.tcp_fwmark_accept"],
            ),
            counts_entries: is_so(
                &facts.counts_entries,
                "whether entries of connection tracking count packets was not read",
                &["sysctl", "net.netfilter.nf_conntrack_acct"],
            ),
            date: match &facts.date {
                Reading::Ok(date) => Ok(*date),
                unread => Err(open(unread, "the date of the reading is not known", &["date"])),
            },
            input_in_postrouting: match &facts.kernel {
                Reading::Ok(kernel) => Ok(kernel.base >= INPUT_IN_POSTROUTING),
                unread => Err(open(
                    unread,
                    "whether rules on postrouting see the incoming device is not known",
                    &["uname", "-r"],
                )),
            },
        }
    }

    /// All fields `Err` for this reason.
    pub fn unread(why: &str) -> Self {
        let unread = || Err(why.into());
        Self {
            addresses: Err(why.into()),
            forwards: [unread(), unread()],
            ipvs_in_use: unread(),
            input_in_postrouting: unread(),
            outward: Err(why.into()),
            first_paths: [Err(why.into()), Err(why.into())],
            targets: Err(why.into()),
            forwarded_paths: Err(why.into()),
            routes_by_sender: [false, false],
            accepts_marks: unread(),
            counts_entries: unread(),
            date: Err(why.into()),
        }
    }
}

/// The ways of packets that are forwarded, by names.
fn forwarded_paths(facts: &Facts, name: impl Fn(u32) -> Option<u128>) -> Result<Vec<ForwardedPath<u128>>, Question> {
    let Reading::Ok(paths) = &facts.forwarded_paths else {
        let what = "which way translated packets go by where they come from was not read";
        return Err(open(&facts.forwarded_paths, what, &["ip", "rule", "show"]));
    };
    let all = paths.iter().map(|path| path.by_names(&name)).collect::<Option<Vec<_>>>();
    all.ok_or_else(|| Question::from("a route leads by a device that is not among the links").shown_by(["ip", "link"]))
}

/// Whether something is so. What is absent is not.
fn is_so(reading: &Reading<bool>, what: &str, words: &[&str]) -> Result<bool, Question> {
    match reading {
        Reading::Ok(is_so) => Ok(*is_so),
        Reading::Absent(_) => Ok(false),
        unread => Err(open(unread, what, words)),
    }
}

/// What was not read, why, and what shows it.
fn open<T>(reading: &Reading<T>, what: &str, words: &[&str]) -> Question {
    Question::unread(reading).reword(|why| format!("{what}: {why}")).shown_by(words.iter().copied())
}

/// Devices of the default routes.
fn outward(facts: &Facts, name: impl Fn(u32) -> Option<u128>) -> Result<Vec<u128>, Question> {
    let unread = |why: &str| {
        let why = format!("by which devices default routes leave was not read: {why}");
        Question::from(why).shown_by(["ip", "route", "show", "table", "all", "default"])
    };
    let routes = facts.routes.ok().ok_or_else(|| unread(&facts.routes.why()))?;
    let mut devices = BTreeSet::new();
    for route in routes.iter().filter(|route| route.prefix_length == 0 && u128::from(route.kind) == UNICAST) {
        if route.nexthop.is_some() && route.devices.is_empty() {
            return Err(unread("a route has a next-hop object, which is not read"));
        }
        devices.extend(&route.devices);
    }
    let names: Option<Vec<u128>> = devices.into_iter().map(name).collect();
    names.ok_or_else(|| unread("a device is not known by its name"))
}

/// Destinations by device.
fn first_paths(
    facts: &Facts,
    family: Family,
    name: impl Fn(u32) -> Option<u128>,
) -> Result<BTreeMap<u128, Numbers>, Question> {
    let unread = |why: &str| {
        let words = if family == Family::Ipv6 {
            ["ip", "-6", "route", "show", "table", "all"]
        } else {
            ["ip", "-4", "route", "show", "table", "all"]
        };
        Question::from(format!("which way packets of this host first go is not known: {why}")).shown_by(words)
    };
    let reading = &facts.unmarked_routes[family.ip_index()];
    let routes = reading.ok().ok_or_else(|| unread(&reading.why()))?;
    let largest = if family == Family::Ipv6 { u128::MAX } else { u32::MAX.into() };
    let range = |route: &Route| match route.destination {
        Some(destination) => prefix_range(destination, route.prefix_length),
        None => (0, largest),
    };
    let routes: Vec<((u128, u128), &Route)> = routes.iter().map(|route| (range(route), route)).collect();
    let mut starts: BTreeSet<u128> = routes.iter().map(|((first, _), _)| *first).collect();
    starts.extend(routes.iter().filter_map(|((_, last), _)| last.checked_add(1)).filter(|start| *start <= largest));
    let ends = starts.iter().skip(1).map(|next| next - 1).chain([largest]);
    let mut found: BTreeMap<u128, Vec<(u128, u128)>> = BTreeMap::new();
    for (start, end) in starts.iter().zip(ends) {
        let covering = routes.iter().rev().find(|((first, last), _)| first <= start && start <= last);
        let Some((_, route)) = covering else { continue };
        let names = match u128::from(route.kind) {
            // `ip_route_output_key_hash_rcu`, `ip6_rt_get_dev_rcu`
            LOCAL | ANYCAST => vec![name_key("lo")],
            UNICAST | BROADCAST | MULTICAST => route.devices.iter().map(|device| name(*device)).collect(),
            _ => vec![], // rejected
        };
        for name in names {
            let name = name.ok_or_else(|| unread("a device is not known by its name"))?;
            found.entry(name).or_default().push((*start, end));
        }
    }
    Ok(found.into_iter().map(|(name, ranges)| (name, Numbers::ranges(ranges))).collect())
}

/// Whether the kernel may choose this address as a source.
pub(crate) fn may_be_chosen(address: &Address, family: Family) -> bool {
    !address.unpreferred
        && Family::of(&address.address) == family
        && address.scope == UNIVERSE
        && (family == Family::Ipv6 || !address.secondary)
}

/// Properties of a device that rules can test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device<'a> {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: &'a str,
    /// Group; `None`: not reported by the kernel.
    pub group: Option<u32>,
    /// `rtnl_link_ops.kind`; `None`: it has none.
    pub kind: Option<&'a str>,
    /// `ARPHRD_*`
    pub hardware_type: u16,
    /// Whether it is up and packets traverse IP rules with its name: not a port of a bridge or similar device.
    pub up: bool,
}

impl Device<'_> {
    /// Whether it leads to other hosts.
    pub fn is_connected(&self) -> bool {
        self.up && self.hardware_type != ARPHRD_LOOPBACK && self.name != "lo"
    }
}

/// Devices that lead to other hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connected {
    /// None yet.
    Nowhere,
    /// These devices, by index and name.
    By(Vec<(u32, u128)>),
    /// Not known: devices were not read, or the bytes of a name are not known.
    Unknown,
}

/// Indexes of devices that take over their ports' packets before IP rules see them.
pub(crate) fn taking(links: &[Link]) -> BTreeSet<u32> {
    const TAKING: &[&str] = &["bridge", "bond", "team", "openvswitch"];
    let takes = |link: &&Link| link.kind.as_deref().is_some_and(|kind| TAKING.contains(&kind));
    links.iter().filter(takes).map(|link| link.index).collect()
}

/// Addresses of a family with a type other than unicast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    /// Type (`RTN_*`), range, index of the device.
    pub typed: Vec<(u128, (u128, u128), Option<u32>)>,
}

/// Addresses that this host may use as a source beyond itself and its links.
pub(crate) fn own_sources(addresses: &[Address], family: Family) -> impl Iterator<Item = u128> {
    let own = addresses.iter().filter(move |own| Family::of(&own.address) == family && own.scope < LINK);
    own.map(|own| address_key(own.address))
}

impl Network<'_> {
    /// The devices that lead to other hosts.
    pub fn connected(&self) -> Connected {
        let Some(devices) = &self.devices else { return Connected::Unknown };
        let up = devices.iter().filter(|device| device.is_connected());
        match up.map(|device| Some((device.index, name_key(device.name)?))).collect::<Option<Vec<_>>>() {
            Some(none) if none.is_empty() => Connected::Nowhere,
            Some(up) => Connected::By(up),
            None => Connected::Unknown,
        }
    }

    /// Local addresses. `None`: not read.
    pub fn local_addresses(&self, family: Family) -> Option<Numbers> {
        /// `127.0.0.0/8`
        const LOOPBACK: (u128, u128) = (0x7f00_0000, 0x7fff_ffff);
        self.addresses_of_types(family, |kind| kind == LOCAL, None).or_else(|| {
            let ipv6 = family == Family::Ipv6;
            let own = self.host.addresses.as_ref().ok()?.iter().filter(|own| Family::of(&own.address) == family);
            let own = own.map(|own| address_key(own.address)).map(|own| (own, own));
            Some(Numbers::ranges(own.chain((!ipv6).then_some(LOOPBACK)).collect()))
        })
    }

    /// Names of devices whose index passes a test; index 0 is no device, without a name. `None`: not known.
    pub fn names(&self, meets: impl Fn(u128) -> bool) -> Option<Numbers> {
        let mut names = self.names_of(|link| Some(meets(link.index.into())))?;
        names.extend(meets(0).then_some(0));
        Some(Numbers::of(&names))
    }

    /// Names of devices with a property that passes a test. `None`: not known.
    pub fn names_with(&self, property: DeviceProperty, meets: impl Fn(u128) -> bool) -> Option<Numbers> {
        let number = |link: &Device<'_>| match property {
            DeviceProperty::Group => link.group.map(u128::from),
            DeviceProperty::Kind => link.kind.map_or(Some(0), name_key),
            DeviceProperty::HardwareType => Some(link.hardware_type.into()),
        };
        Some(Numbers::of(&self.names_of(|link| number(link).map(&meets))?))
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

    /// Addresses of these types (`inet_dev_addr_type`: what is not local, broadcast or multicast is unicast). `None`:
    /// not known. `device`: name of the device whose addresses count; `None`: all.
    pub fn addresses_of_types(
        &self,
        family: Family,
        wanted: impl Fn(u128) -> bool,
        device: Option<u128>,
    ) -> Option<Numbers> {
        let ipv6 = family == Family::Ipv6;
        let own = self.own[family.ip_index()].as_ref()?;
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
            let special = Numbers::ranges(kinds.iter().map(|(_, range)| *range).collect());
            found.extend(special.others(last).as_ranges());
        }
        Some(Numbers::ranges(found))
    }
}

/// Addresses of a family that are not unicast, from routes; table `local` has a route for each local address.
pub(crate) fn own_addresses(facts: &Facts, family: Family) -> Option<OwnAddresses> {
    /// `RT_TABLE_LOCAL`; other tables apply only to packets that policy rules send there.
    const LOCAL_TABLE: u32 = 255;
    let routes = facts.routes.ok()?.iter().filter(|route| route.table == LOCAL_TABLE);
    let typed = routes.filter(|route| !matches!(u128::from(route.kind), UNICAST | MULTICAST)).filter_map(|route| {
        let destination = route.destination.filter(|destination| Family::of(destination) == family)?;
        Some((route.kind.into(), prefix_range(destination, route.prefix_length), route.devices.first().copied()))
    });
    Some(OwnAddresses { typed: typed.collect() })
}
