//! Policy rules and routes of both families, indexed by prefix, so that thousands of remotes can be sorted into classes
//! quickly.
//!
//! They are used for sorting only; routing is left to the kernel's lookups, which are exact, including policy rules. If
//! one response cannot stand for all packets (policy rules on ports, next-hop objects), none is used. Lookups are made
//! for every combination of marks that policy rules test; packets with other marks may take any path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt as _};

use super::wire::{decode_listed, decode_rule};
use super::{dump, routes, rules};
use crate::facts::netfilter::Family;
use crate::facts::{Failure, PolicyRule, Reading, Route};
use crate::read::Node;

/// Policy rules and routes.
pub(crate) struct Tables {
    ipv4: Reading<FamilyTables>,
    ipv6: Reading<FamilyTables>,
}

/// One family's policy rules and routes.
pub(crate) struct FamilyTables {
    /// In order of priority, as dumped.
    pub rules: Vec<PolicyRule>,
    /// As dumped.
    pub routes: Vec<Route>,
    /// By prefix length: prefixes and positions in `routes`, sorted.
    by_prefix: BTreeMap<u8, Vec<(u128, usize)>>,
    /// For each route, position of the first one that is equal except for its destination.
    content: Vec<usize>,
}

impl Tables {
    /// Reads both families; a family that the kernel lacks is empty. A family with more than `most` routes is not read,
    /// which is no failure of the source.
    pub(crate) fn read(node: &mut Node<'_>, most: usize) -> Self {
        let [ipv4, ipv6] = Family::IP.map(|family| {
            let rules = dump(node, &rules(family), |message| decode_rule(message).map(Some));
            let mut seen = 0;
            let routes = dump(node, &routes(family), |message| {
                seen += 1;
                if seen > most { Err(Failure::too_large(most, "routes")) } else { decode_listed(message, family) }
            });
            rules.and_then(|rules| routes.map(|routes| FamilyTables::new(rules, routes)))
        });
        Self { ipv4, ipv6 }
    }

    /// One family's rules and routes.
    pub(crate) fn of(&self, family: Family) -> &Reading<FamilyTables> {
        if family == Family::Ipv6 { &self.ipv6 } else { &self.ipv4 }
    }
}

impl FamilyTables {
    /// Indexes routes by prefix and content.
    pub(crate) fn new(rules: Vec<PolicyRule>, routes: Vec<Route>) -> Self {
        let mut by_prefix: BTreeMap<u8, Vec<(u128, usize)>> = BTreeMap::new();
        let mut seen = HashMap::new();
        let mut content = Vec::with_capacity(routes.len());
        for (at, route) in routes.iter().enumerate() {
            let Route { table, destination, prefix_length, kind, tos, priority, gateway, preferred_source, .. } = route;
            let bits = destination.map_or(0, |destination| masked(destination, *prefix_length));
            by_prefix.entry(*prefix_length).or_default().push((bits, at));
            let path = (gateway, preferred_source, &route.devices, route.nexthop);
            content.push(*seen.entry((table, prefix_length, kind, tos, priority, path)).or_insert(at));
        }
        by_prefix.values_mut().for_each(|prefixes| prefixes.sort_unstable());
        drop(seen);
        Self { rules, routes, by_prefix, content }
    }

    /// Positions of the routes, in any table, that cover an address.
    pub(crate) fn covering(&self, address: IpAddr) -> impl Iterator<Item = usize> {
        self.by_prefix
            .iter()
            .flat_map(move |(length, prefixes)| {
                let bits = masked(address, *length);
                let first = prefixes.partition_point(|(other, _)| *other < bits);
                prefixes[first..].iter().take_while(move |(other, _)| *other == bits)
            })
            .map(|(_, at)| *at)
    }

    /// Equal for two addresses that are routed alike: the rules for them, and the content of the routes that cover
    /// them.
    pub(crate) fn class(&self, address: IpAddr) -> (Vec<usize>, Vec<usize>) {
        let meets = |rule: &PolicyRule| {
            rule.destination.is_some_and(|(prefix, length)| {
                prefix.is_ipv4() == address.is_ipv4() && masked(prefix, length) == masked(address, length)
            })
        };
        let rules = self.rules.iter().enumerate().filter(|(_, rule)| meets(rule)).map(|(at, _)| at).collect();
        let mut routes: Vec<usize> = self.covering(address).map(|at| self.content[at]).collect();
        routes.sort_unstable();
        routes.dedup();
        (rules, routes)
    }
}

/// The first `length` bits of an address, left-aligned.
fn masked(address: IpAddr, length: u8) -> u128 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    };
    let keep = u128::MAX.checked_shl(128u32.saturating_sub(length.into())).unwrap_or(0);
    bits & keep
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_masked_at_any_length() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert_eq!(masked(ip("10.1.2.3"), 8), masked(ip("10.255.0.1"), 8));
        assert_ne!(masked(ip("10.1.2.3"), 8), masked(ip("11.1.2.3"), 8));
        assert_eq!(masked(ip("203.0.113.1"), 0), 0);
        assert_ne!(masked(ip("203.0.113.1"), 32), masked(ip("203.0.113.2"), 32));
        assert_eq!(masked(ip("2001:db8::1"), 32), masked(ip("2001:db8:1::1"), 32));
        assert_ne!(masked(ip("2001:db8::1"), 128), masked(ip("2001:db8::2"), 128));
        assert_eq!(masked(ip("2001:db8::1"), 255), masked(ip("2001:db8::1"), 128), "nonsense is survived");
    }
}
