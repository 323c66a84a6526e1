//! Marks that may route packets past a tunnel: `fib_rules_lookup`, `fib_table_lookup`.
//!
//! The result is a question, not an answer; see `scenarios/on_nat.rs`. It keeps a mark from being a certain exposure.
//!
//! It never leads to `not_affected`: a translation may lead back into the tunnel, and IPVS and sockets bound to a
//! device ignore it.

use std::collections::BTreeSet;

use super::values::Numbers;
use crate::facts::netfilter::{Family, prefix_range};
use crate::facts::{PolicyRule, Route};

/// Number of routes of one table that are considered per mark; a table for a mark has a few.
const MAX_ROUTES: usize = 1024;
/// `RTN_UNICAST`, `RTN_LOCAL`, `RTN_BLACKHOLE`, `RTN_UNREACHABLE`, `RTN_PROHIBIT`
const UNICAST: u8 = 1;
const TO_THIS_HOST: u8 = 2;
const REFUSING: std::ops::RangeInclusive<u8> = 6..=8;
/// `FR_ACT_TO_TBL`, `FR_ACT_BLACKHOLE`, `FR_ACT_UNREACHABLE`, `FR_ACT_PROHIBIT`
const TO_TABLE: u8 = 1;
const REFUSE: std::ops::RangeInclusive<u8> = 6..=8;
/// `FR_ACT_NOP`
const NOP: u8 = 3;
/// `RT_TABLE_MAIN`, `RT_TABLE_LOCAL`: their routes were read in part only.
const MAIN: u32 = 254;
const LOCAL: u32 = 255;

/// Packets with such a mark may be routed past the tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastTunnel {
    /// `mark & mask == value`, as mask and value.
    pub mark: (u32, u32),
    /// Destinations, least specific first, and whether they are routed past it; later ones take precedence.
    pub routes: Vec<((u128, u128), bool)>,
    /// Destinations that earlier rules may route into it, or that are not known.
    pub earlier: Numbers,
}

/// What a family's policy rules do to marked packets. `into`: indexes of devices by which packets enter the tunnel.
pub(crate) fn past(rules: &[PolicyRule], routes: &[Route], family: Family, into: &BTreeSet<u32>) -> Vec<PastTunnel> {
    let largest = if family == Family::Ipv6 { u128::MAX } else { u32::MAX.into() };
    let mut rules: Vec<&PolicyRule> = rules.iter().filter(|rule| rule.family == family).collect();
    rules.sort_by_key(|rule| rule.priority);
    let of_table = |table: u32| {
        let mine = routes.iter().filter(|route| route.table == table && is_of(route, family));
        mine.map(|route| (range_of(route, largest), route)).collect::<Vec<_>>()
    };
    let leads_in = |route: &Route| route.kind == UNICAST && route.devices.iter().any(|device| into.contains(device));
    let (mut found, mut earlier) = (Vec::new(), Vec::new());
    for rule in rules {
        let is_simple = !rule.inverted && rule.is_for_all_senders() && rule.destination.is_none();
        match rule.action {
            NOP => {}
            action if REFUSE.contains(&action) => {
                if let Some((value, mask)) = rule.fwmark.filter(|_| is_simple) {
                    let (mark, earlier) = ((mask, value & mask), Numbers::ranges(earlier.clone()));
                    found.push(PastTunnel { mark, routes: vec![((0, largest), true)], earlier });
                }
            }
            // With l3mdev, the table depends on the device, which is not known.
            TO_TABLE if rule.table != 0 => {
                let mut table = of_table(rule.table);
                if let Some((value, mask)) = rule.fwmark.filter(|_| is_simple)
                    && !matches!(rule.table, MAIN | LOCAL)
                    && table.len() <= MAX_ROUTES
                    && table.iter().all(|(_, route)| is_plain(route))
                {
                    // Of two routes to one destination either may apply: one into the tunnel counts.
                    table.sort_by_key(|(range, route)| (route.prefix_length, *range, leads_in(route)));
                    let routes = table.iter().map(|(range, route)| (*range, !leads_in(route))).collect();
                    let (mark, earlier) = ((mask, value & mask), Numbers::ranges(earlier.clone()));
                    found.push(PastTunnel { mark, routes, earlier });
                }
                earlier.extend(table.iter().filter(|(_, route)| leads_in(route)).map(|(range, _)| *range));
            }
            _ => return found, // its target is not known
        }
    }
    found.retain(|past| past.routes.iter().any(|(_, is_past)| *is_past));
    found
}

fn is_of(route: &Route, family: Family) -> bool {
    // A default route does not say its family; its gateway does.
    route.destination.or(route.gateway).is_none_or(|address| Family::of(&address) == family)
}

/// Whether a route applies to every packet and ends the lookup.
fn is_plain(route: &Route) -> bool {
    route.tos == 0 && (matches!(route.kind, UNICAST | TO_THIS_HOST) || REFUSING.contains(&route.kind))
}

fn range_of(route: &Route, largest: u128) -> (u128, u128) {
    route.destination.map_or((0, largest), |destination| prefix_range(destination, route.prefix_length))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(priority: u32, table: u32, fwmark: Option<(u32, u32)>) -> PolicyRule {
        PolicyRule {
            family: Family::Ipv4,
            priority,
            table,
            action: TO_TABLE,
            fwmark,
            inverted: false,
            source: None,
            destination: None,
            input: None,
            other: vec![],
        }
    }

    #[test]
    fn what_a_mark_leads_elsewhere_is_told_apart() {
        let main = rule(32766, MAIN, None);
        let marked = rule(100, 7, Some((0x4000, 0x4000)));
        let into = BTreeSet::from([9]);
        let of = |rules: &[&PolicyRule], routes: &[Route]| {
            past(&rules.iter().map(|rule| (*rule).clone()).collect::<Vec<_>>(), routes, Family::Ipv4, &into)
        };
        let tunnel = Route::to(MAIN, "10.42.0.0/16", UNICAST, 9);
        let elsewhere = Route::to(7, "0.0.0.0/0", UNICAST, 2);
        let found = of(&[&main, &marked], &[tunnel.clone(), elsewhere.clone()]);
        let everything = (0, u32::MAX.into());
        let expected =
            PastTunnel { mark: (0x4000, 0x4000), routes: vec![(everything, true)], earlier: Numbers::of(&[]) };
        assert!(found == vec![expected.clone()]);
        let refused = Route::to(7, "0.0.0.0/0", *REFUSING.start(), 0);
        assert!(of(&[&main, &marked], &[tunnel.clone(), refused]) == vec![expected.clone()]);
        let proxied = Route::to(7, "0.0.0.0/0", TO_THIS_HOST, 1);
        assert!(of(&[&main, &marked], &[tunnel.clone(), proxied]) == vec![expected.clone()]);
        // A longer prefix leads in after all.
        let back = Route::to(7, "10.42.1.0/24", UNICAST, 9);
        let found = of(&[&main, &marked], &[tunnel.clone(), back.clone(), elsewhere.clone()]);
        assert_eq!(found[0].routes, [(everything, true), (prefix_range("10.42.1.0".parse().unwrap(), 24), false)]);
        // An earlier rule leads in.
        let early = rule(50, MAIN, None);
        let found = of(&[&early, &marked], &[tunnel.clone(), elsewhere.clone()]);
        assert_eq!(found[0].earlier, Numbers::ranges(vec![prefix_range("10.42.0.0".parse().unwrap(), 16)]));
        // What is not understood takes nothing away.
        let inverted = PolicyRule { inverted: true, ..marked.clone() };
        let other = PolicyRule { other: vec![20], ..marked.clone() };
        let goto = PolicyRule { action: 2, ..early };
        for rules in [[&inverted, &main], [&other, &main], [&goto, &marked]] {
            assert_eq!(of(&rules, &[tunnel.clone(), elsewhere.clone()]), []);
        }
        assert_eq!(of(&[&marked, &main], &[tunnel, back]), [], "nothing there leads past it");
        let blackhole = PolicyRule { action: *REFUSE.start(), ..marked };
        assert_eq!(of(&[&blackhole, &main], &[]), [expected]);
    }
}
