//! Which chains a hook calls, in which orders: `nf_hook_entries_grow`, `nf_nat_register_fn`.
//!
//! Hooks are called by priority. Of equal priorities the last registered comes first, and no dump shows which that is.
//! All nat chains are called from one hook of the NAT core with a priority of its own; their own priorities only order
//! them among each other.
//!
//! Chains of equal priority of which none writes what another tests see all packets once, with one question about which
//! comes first for packets that several would end; up to four others are run in every order.

use super::network::Network;
use super::network::unread::BaseChainList;
use crate::facts::Reading;
use crate::facts::netfilter::{ChainId, ChainKind, Family, Hook};

/// Number of calls of equal priority that are run in every order: 4! orders.
const MAX_PERMUTED: usize = 4;

/// A call of a hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// Connection tracking: `nf_conntrack_in`.
    Conntrack,
    /// The NAT core: `nf_nat_inet_fn`.
    Nat,
    /// A base chain: index in [`Network::rules`], id.
    Chain(usize, ChainId),
    /// Unknown chains of an unread list.
    Unread(BaseChainList),
}

/// Calls of one priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PriorityCalls {
    /// The priority.
    pub priority: i32,
    /// The calls, unordered.
    pub calls: Vec<Call>,
}

/// `NF_IP_PRI_CONNTRACK`
const CONNTRACK: i32 = -200;

/// `NF_IP_PRI_NAT_DST`, `NF_IP_PRI_NAT_SRC`
fn nat_core(hook: Hook) -> Option<i32> {
    match hook {
        Hook::Prerouting | Hook::Output => Some(-100),
        Hook::Postrouting | Hook::Input => Some(100),
        Hook::Forward | Hook::Egress | Hook::Ingress => None,
    }
}

/// Calls of a hook for packets of a family. Chains that only let packets pass are left out, as they would only multiply
/// orders. `device`: the device of an egress hook.
pub(crate) fn calls(network: &Network<'_>, family: Family, hook: Hook, device: Option<&str>) -> Vec<PriorityCalls> {
    let mut calls: Vec<(i32, Call)> = Vec::new();
    let mut unread = Vec::new();
    for (list, chains) in network.lists(family, hook) {
        let Reading::Ok(chains) = chains else {
            unread.push(list);
            continue;
        };
        for (set, id, base) in chains {
            let elsewhere = hook == Hook::Egress && !device.is_some_and(|device| bound_to(&base.devices, device));
            if elsewhere {
                continue;
            }
            if base.kind != ChainKind::Nat && network.has_effect(set, id) {
                calls.push((base.priority, Call::Chain(set, id.clone())));
            }
        }
    }
    if matches!(hook, Hook::Prerouting | Hook::Output) {
        calls.push((CONNTRACK, Call::Conntrack));
    }
    calls.extend(nat_core(hook).filter(|_| may_have_nat(network, family)).map(|priority| (priority, Call::Nat)));
    everywhere(by_priority(calls), &unread)
}

/// Whether there is, or may be, a nat chain: the first one on any hook registers the NAT core on all four
/// (`nf_nat_register_fn`). The core alone has no effect; if a list is unread, its effect on later packets is a
/// question.
fn may_have_nat(network: &Network<'_>, family: Family) -> bool {
    let hooks = Hook::ALL.iter().filter(|hook| nat_core(**hook).is_some());
    hooks
        .flat_map(|hook| network.lists(family, *hook))
        .any(|(_, chains)| chains.ok().is_none_or(|chains| chains.iter().any(|(.., base)| base.kind == ChainKind::Nat)))
}

/// The nat chains that the NAT core calls.
pub(crate) fn nat_chains(network: &Network<'_>, family: Family, hook: Hook) -> Vec<PriorityCalls> {
    let mut calls: Vec<(i32, Call)> = Vec::new();
    let mut unread = Vec::new();
    for (list, chains) in network.lists(family, hook) {
        match chains {
            Reading::Ok(chains) => calls.extend(chains.into_iter().filter_map(|(set, id, base)| {
                let called = base.kind == ChainKind::Nat && network.has_effect(set, id);
                called.then(|| (base.priority, Call::Chain(set, id.clone())))
            })),
            _ => unread.push(list),
        }
    }
    everywhere(by_priority(calls), &unread)
}

/// Chains of unread lists may have any priority: each list is called before the first step and after each.
fn everywhere(steps: Vec<PriorityCalls>, unread: &[BaseChainList]) -> Vec<PriorityCalls> {
    if unread.is_empty() {
        return steps;
    }
    let between = |priority: i32| {
        unread.iter().map(move |list| PriorityCalls { priority, calls: vec![Call::Unread(*list)] }).collect::<Vec<_>>()
    };
    let mut all = between(i32::MIN);
    for step in steps {
        let priority = step.priority;
        all.push(step);
        all.extend(between(priority));
    }
    all
}

fn bound_to(devices: &[String], device: &str) -> bool {
    devices.iter().any(|name| match name.strip_suffix('*') {
        Some(start) => device.starts_with(start),
        None => name == device,
    })
}

fn by_priority(mut calls: Vec<(i32, Call)>) -> Vec<PriorityCalls> {
    calls.sort_by_key(|(priority, _)| *priority);
    let groups = calls.chunk_by(|(one, _), (other, _)| one == other);
    groups
        .map(|group| PriorityCalls {
            priority: group[0].0,
            calls: group.iter().map(|(_, call)| call.clone()).collect(),
        })
        .collect()
}

/// Number of orders that are run for calls of equal priority of which one writes what another tests. With many calls,
/// each is first once and last once, where it sees most and fewest packets; that does not cover all orders.
pub(crate) fn orders(calls: usize) -> usize {
    if is_permuted(calls) { (1..=calls).product() } else { 2 * calls }
}

/// Whether all orders are run.
pub(crate) const fn is_permuted(calls: usize) -> bool {
    calls <= MAX_PERMUTED
}

/// One of these orders, by number.
pub(crate) fn order(calls: &[Call], mut number: usize) -> Vec<&Call> {
    let mut rest: Vec<&Call> = calls.iter().collect();
    if !is_permuted(calls.len()) {
        let one = rest.remove(number / 2);
        rest.insert(if number.is_multiple_of(2) { 0 } else { rest.len() }, one);
        return rest;
    }
    let mut order = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let ways: usize = (1..rest.len()).product();
        order.push(rest.remove(number / ways));
        number %= ways;
    }
    order
}

/// Description of a call.
pub(crate) fn name(network: &Network<'_>, call: &Call) -> String {
    match call {
        Call::Conntrack => "connection tracking".into(),
        Call::Nat => "the NAT core".into(),
        Call::Chain(set, id) => network.describe_chain(*set, id),
        Call::Unread(list) => network.describe_list(*list),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_is_tried_once() {
        let id = || ChainId { family: Family::Inet, table: "t".into(), chain: "c".into() };
        let calls = |count: usize| (0..count).map(|set| Call::Chain(set, id())).collect::<Vec<_>>();
        for (count, expected) in [(0, 1), (1, 1), (2, 2), (3, 6), (4, 24)] {
            let calls = calls(count);
            let all: Vec<String> = (0..orders(count)).map(|at| format!("{:?}", order(&calls, at))).collect();
            assert_eq!(all.len(), expected);
            assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), expected);
        }
        let many = calls(6);
        let all: Vec<Vec<&Call>> = (0..orders(6)).map(|at| order(&many, at)).collect();
        assert!(!is_permuted(6) && all.iter().all(|order| order.len() == 6));
        assert!(many.iter().all(|call| all.iter().any(|order| order.first() == Some(&call))));
        assert!(many.iter().all(|call| all.iter().any(|order| order.last() == Some(&call))));
    }

    #[test]
    fn egress_chains_are_bound_to_devices() {
        let devices = ["flannel.1".to_owned(), "vx*".to_owned()];
        assert!(bound_to(&devices, "flannel.1") && bound_to(&devices, "vxlan.calico"));
        assert!(!bound_to(&devices, "flannel.10") && !bound_to(&devices, "eth0"));
    }
}
