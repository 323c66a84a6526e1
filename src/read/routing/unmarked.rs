//! Routes of this host's unmarked packets: `fib_rules_lookup`, `fib_table_lookup`.

use super::tables::{FamilyTables, Tables};
use crate::facts::netfilter::Family;
use crate::facts::{Failure, PolicyRule, Reading, Route};

/// Routes per family; with more they are not used, since each is tested for each class of packets.
const MAX_ROUTES: usize = 1024;
/// `FR_ACT_TO_TBL`, `FR_ACT_NOP`
const TO_TABLE: u8 = 1;
const NOP: u8 = 3;
/// `RTN_THROW`
const THROW: u8 = 9;

/// By family (IPv4, IPv6); see [`crate::facts::Facts::unmarked_routes`].
pub(crate) fn routes(tables: &Tables) -> [Reading<Vec<Route>>; 2] {
    Family::IP.map(|family| tables.of(family).as_ref().and_then(of_family))
}

fn of_family(family: &FamilyTables) -> Reading<Vec<Route>> {
    let mut rules: Vec<&PolicyRule> =
        family.rules.iter().filter(|rule| rule.action != NOP && !is_of_mark(rule) && !is_of_others(rule)).collect();
    rules.sort_by_key(|rule| rule.priority);
    let mut all: Vec<Route> = Vec::new();
    // The first rule's table takes precedence, so it comes last.
    for rule in rules.into_iter().rev() {
        let is_plain = rule.is_for_all_senders() && rule.fwmark.is_none() && rule.destination.is_none();
        if !is_plain || rule.inverted || rule.action != TO_TABLE || rule.table == 0 {
            return Reading::Failed(Failure::unsupported("a policy rule decides by more than the mark"));
        }
        let mut table: Vec<&Route> = family.routes.iter().filter(|route| route.table == rule.table).collect();
        if all.len() + table.len() > MAX_ROUTES {
            return Reading::Failed(Failure::too_large(MAX_ROUTES, "routes"));
        }
        table.sort_by_key(|route| (route.prefix_length, route.destination, std::cmp::Reverse(route.priority)));
        for route in table {
            if route.tos != 0 || route.kind == THROW || route.nexthop.is_some() && route.devices.is_empty() {
                return Reading::Failed(Failure::unsupported(
                    "a route is for some packets only, or has a next-hop object",
                ));
            }
            match all.last_mut().filter(|last| is_sibling(last, route)) {
                Some(last) => last.devices.extend(&route.devices),
                None => all.push(route.clone()),
            }
        }
    }
    Reading::Ok(all)
}

/// Whether a rule never matches unmarked packets.
fn is_of_mark(rule: &PolicyRule) -> bool {
    !rule.inverted && rule.fwmark.is_some_and(|(value, mask)| value & mask != 0)
}

/// Whether this host's own packets pass a rule by.
fn is_of_others(rule: &PolicyRule) -> bool {
    !rule.inverted && rule.input.as_ref().is_some_and(|input| *input != "lo")
}

/// Another next hop of the same route, as older kernels list those of IPv6.
fn is_sibling(route: &Route, other: &Route) -> bool {
    let key = |route: &Route| (route.table, route.prefix_length, route.destination, route.priority, route.kind);
    key(route) == key(other)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::Family;

    fn rule(priority: u32, table: u32) -> PolicyRule {
        PolicyRule {
            family: Family::Ipv4,
            priority,
            table,
            action: TO_TABLE,
            fwmark: None,
            inverted: false,
            source: None,
            destination: None,
            input: None,
            other: vec![],
        }
    }

    #[test]
    fn the_last_route_that_covers_an_address_is_the_one() {
        let [default, net, host] = [
            Route::to(254, "0.0.0.0/0", 1, 2),
            Route::to(254, "10.0.0.0/8", 1, 3),
            Route::to(255, "10.0.0.1/32", 2, 1),
        ];
        let dearer = Route { priority: Some(100), devices: vec![4], ..net.clone() };
        let other = Route::to(7, "10.0.0.0/16", 1, 5);
        let routes = vec![host.clone(), net.clone(), default.clone(), dearer.clone(), other];
        let marked = PolicyRule { fwmark: Some((0x4000, 0x4000)), ..rule(100, 7) };
        let of = |rules: &[&PolicyRule]| {
            let rules = rules.iter().map(|rule| (*rule).clone()).collect();
            of_family(&FamilyTables::new(rules, routes.clone()))
        };
        let (local, main) = (rule(0, 255), rule(32766, 254));
        assert_eq!(of(&[&local, &main, &marked]), Reading::Ok(vec![default, dearer, net.clone(), host]));
        for other in [
            PolicyRule { source: Some(("10.0.0.1".parse().unwrap(), 32)), ..rule(5, 7) },
            PolicyRule { other: vec![20], ..rule(5, 7) },
            PolicyRule { inverted: true, ..marked },
            PolicyRule { action: 2, ..rule(5, 7) },
        ] {
            assert!(of(&[&local, &main, &other]).ok().is_none(), "{other:?}");
        }
        let twice = Route { devices: vec![9], ..net.clone() };
        let found = of_family(&FamilyTables::new(vec![main.clone()], vec![net.clone(), twice]));
        assert_eq!(found.ok().map(|routes| routes[0].devices.clone()), Some(vec![3, 9]));
        for odd in [Route { tos: 8, ..net.clone() }, Route { kind: THROW, ..net.clone() }] {
            assert!(of_family(&FamilyTables::new(vec![main.clone()], vec![odd])).ok().is_none());
        }
        assert!(of_family(&FamilyTables::new(vec![main], vec![net; MAX_ROUTES + 1])).ok().is_none());
    }
}
