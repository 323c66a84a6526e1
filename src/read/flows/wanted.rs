//! Which conntrack entries advisories need on this node, derived from rules, links and addresses.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::facts::netfilter::{ChainKind, Chosen, Hook, NatAction, Ruleset, Step, all_source_translations};
use crate::facts::{DEFAULT_PORTS, LOW_PORTS, Reading};
use crate::read::known::flows::{PortRange, Rulesets, Wanted};
use crate::read::links::LinkFacts;
use crate::read::services;

/// Table size from which the composition is read.
const COMPOSITION_FROM: u64 = 1024;
/// Fraction of the smallest port range in use from which exact counts are read.
pub(super) const PRESSURE_FROM: f64 = 0.5;
/// Distinct port ranges, including the default ones; each entry is compared with all.
const RANGES: usize = 64;
/// Tunnel ports that are dumped; a node has one or two.
const TUNNEL_PORTS: usize = 4;

/// What the rules call for.
pub(super) fn of_rules(rulesets: &Rulesets) -> Wanted {
    let translations = all_source_translations(rulesets.each_ref());
    let mut ranges = BTreeSet::new();
    for nat in translations.ok().into_iter().flatten() {
        match nat.ports {
            Chosen::Range(first, last) => {
                let addresses = match nat.addresses {
                    Chosen::Range(first, last) => Some((first, last)),
                    Chosen::Unset | Chosen::ByPacket => None,
                };
                ranges.insert(PortRange { ports: (first, last), addresses });
            }
            Chosen::Unset | Chosen::ByPacket => {
                let all = [DEFAULT_PORTS].into_iter().chain(LOW_PORTS);
                ranges.extend(all.map(|ports| PortRange { ports, addresses: None }));
            }
        }
    }
    let mut ranges: Vec<PortRange> = ranges.into_iter().collect();
    ranges.sort_by_key(|range| (range.available(), range.clone()));
    let too_many_ranges = ranges.len() > RANGES;
    ranges.truncate(RANGES);
    Wanted { ranges, too_many_ranges, udp: rulesets.iter().any(may_translate_udp), ..Wanted::default() }
}

/// Adds what the links call for.
pub(super) fn beside(wanted: Wanted, links: &LinkFacts) -> Wanted {
    let tunnels = links.known().iter().filter(|link| link.up).filter_map(|link| link.tunnel.as_ref());
    Wanted { tunnel_ports: tunnels.filter_map(|tunnel| tunnel.port).take(TUNNEL_PORTS).collect(), ..wanted }
}

/// Whether an advisory may depend on entries of a table of this size; `None`: size not known.
pub(super) fn is_worth_reading(wanted: &Wanted, entries: Option<u64>) -> bool {
    let entries = entries.unwrap_or(u64::MAX); // not known
    let smallest = wanted.ranges.iter().map(PortRange::available).min();
    let pressed = smallest.is_some_and(|smallest| entries as f64 >= PRESSURE_FROM * smallest as f64);
    entries >= COMPOSITION_FROM || pressed || entries > 0 && (wanted.udp || !wanted.tunnel_ports.is_empty())
}

/// Whether rules translate UDP destinations, or may, as far as they were read.
fn may_translate_udp(ruleset: &Reading<Arc<Ruleset>>) -> bool {
    let ruleset = match ruleset {
        Reading::Ok(ruleset) => ruleset,
        Reading::Absent(_) => return false,
        Reading::Denied(_) | Reading::Failed(_) => return true,
    };
    let chains = match ruleset.all_reachable(ChainKind::Nat, &[Hook::Prerouting, Hook::Output]) {
        Reading::Ok(chains) => chains,
        _ => return true,
    };
    let translates = |step: &Step| match step {
        Step::Nat(nat) => matches!(nat.action, NatAction::Dnat | NatAction::Redirect | NatAction::Netmap),
        Step::Unsupported { may_translate, .. } => *may_translate,
        _ => false,
    };
    let mut rules = chains.iter().flat_map(|(_, chain)| chain.known_rules());
    rules.any(|rule| services::meets_udp(rule) && rule.steps.iter().any(translates))
        || chains.iter().any(|(_, chain)| chain.only_searched())
}
