//! Detects rules of the same program, or of related programs, in more than one backend.

use std::collections::BTreeMap;

use crate::facts::netfilter::{Backend, ChainKind, Family, Hook, Owner, Step, owner};
use crate::symbolic::{Happens, Network, Occurrence};

/// Programs that write rules for Services and pods, whose rules interfere across backends.
const SERVICES: &[Owner] =
    &[Owner::KubeProxy, Owner::Kubelet, Owner::Kubenet, Owner::Flannel, Owner::CniPortmap, Owner::CniBridge];
/// Programs whose rules interfere with their own only.
const OTHERS: &[Owner] = &[Owner::Calico, Owner::Docker];

/// A NAT rule: family of its packets, backend, owner, name of its chain.
type BackendHalf = (Family, Backend, Owner, String);

/// Whether rules for Services or pods are in two backends, and which.
pub(super) fn rules_in_two_backends(network: &Network<'_>) -> Occurrence {
    let mut halves: BTreeMap<(Family, Backend, Owner), BackendHalf> = BTreeMap::new();
    let (mut searched, mut unread) = (Vec::new(), None);
    for (at, rules) in network.rules.iter().enumerate() {
        let hooks = [Hook::Prerouting, Hook::Output, Hook::Input, Hook::Postrouting];
        let of_ip = [Family::Ipv4, Family::Ipv6, Family::Inet];
        if let Some((family, hook, list)) = rules.ruleset.base_chains.first_unread(&of_ip, &hooks) {
            unread.get_or_insert(format!("base chains of {family} {hook}: {}", list.why()));
        }
        for (id, chain) in rules.ruleset.reachable(ChainKind::Nat, &hooks) {
            if chain.only_searched() {
                searched.push((at, families(id.family), network.describe_chain(at, id)));
            } else if let Some(part) = rules.ruleset.first_unread_in(id, chain) {
                unread.get_or_insert(part.why());
            }
            let translates = |step: &Step| matches!(step, Step::Nat(_));
            for rule in chain.known_rules().iter().filter(|rule| rule.steps.iter().any(translates)) {
                let backend = Backend::of(rule, rules.legacy);
                let owner = owner::owner(rules.ruleset, id, rule);
                for family in families(id.family).iter().copied().filter(|_| is_known(owner)) {
                    let half = || (family, backend, owner, id.chain.to_string());
                    halves.entry((family, backend, owner)).or_insert_with(half);
                }
            }
        }
    }
    let all: Vec<&BackendHalf> = halves.values().collect();
    let pairs = all.iter().enumerate().flat_map(|(at, one)| all[at + 1..].iter().map(move |other| (*one, *other)));
    if let Some((one, other)) = pairs.into_iter().find(|(one, other)| are_split(one, other)) {
        let half = |(_, backend, owner, chain): &BackendHalf| {
            format!("{owner}'s rules stand in {} (chain {chain})", tables(*backend))
        };
        let place = format!("{}, and {} as well", half(one), half(other));
        return Occurrence { happens: Happens::Must, place };
    }
    // Another backend may have the other half of a part that was only searched.
    let large = searched.into_iter().find(|(at, families, _)| {
        let legacy = network.rules[*at].legacy;
        halves.keys().any(|(family, backend, _)| families.contains(family) && (*backend == Backend::Legacy) != legacy)
    });
    let large = large.map(|(.., chain)| format!("{chain} is too large to be read whole"));
    let happens = unread.or(large).map_or(Happens::Never, |why| Happens::May(why.into()));
    Occurrence { happens, place: String::new() }
}

fn is_known(owner: Owner) -> bool {
    SERVICES.contains(&owner) || OTHERS.contains(&owner)
}

/// Whether two such rules are halves unaware of each other: of one program, or of two that share their rules through
/// iptables. Native nf_tables rules next to another program's are not, since each program chooses its own interface.
fn are_split(
    (family, backend, owner, _): &BackendHalf,
    (other_family, other_backend, other_owner, _): &BackendHalf,
) -> bool {
    let shared = [backend, other_backend].iter().all(|backend| **backend != Backend::Nftables);
    let same = shared && [owner, other_owner].iter().all(|owner| SERVICES.contains(owner));
    family == other_family && backend != other_backend && (owner == other_owner || same)
}

/// Families of packets that traverse a table of this family.
fn families(of: Family) -> &'static [Family] {
    match of {
        Family::Ipv4 => &[Family::Ipv4],
        Family::Ipv6 => &[Family::Ipv6],
        _ => &[Family::Ipv4, Family::Ipv6],
    }
}

fn tables(backend: Backend) -> &'static str {
    match backend {
        Backend::Legacy => "legacy tables",
        Backend::IptablesNft => "nf_tables, by way of iptables-nft",
        Backend::Nftables => "nf_tables itself",
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::facts::netfilter::{
        Base, Chain, ChainId, Chosen, Nat, NatAction, PortRandomization, Rule, Ruleset, Verdict,
    };
    use crate::facts::{Facts, Failure, Reading};

    fn rule(steps: Vec<Step>, from_xtables: bool) -> Reading<Arc<Vec<Rule>>> {
        Reading::Ok(Arc::new(vec![Rule {
            position: 1,
            comment: String::new(),
            steps,
            counter: None,
            from_xtables,
            fingerprint: 0,
        }]))
    }

    /// Rules with a chain on a hook, which leads to one that translates: family, name of the chain, how it is written.
    fn ruleset(chains: &[(Family, &str, bool)]) -> Ruleset {
        let mut ruleset = Ruleset::default();
        for (family, name, from_xtables) in chains {
            let id = |chain: &str| ChainId { family: *family, table: "nat".into(), chain: chain.into() };
            let (action, hook) = match name.contains("POST") {
                true => (NatAction::Masquerade, Hook::Postrouting),
                false => (NatAction::Dnat, Hook::Prerouting),
            };
            let nat = Nat {
                action,
                addresses: Chosen::Unset,
                ports: Chosen::Unset,
                randomization: PortRandomization::None,
                persistent: false,
                map: None,
            };
            let base = Base { hook, kind: ChainKind::Nat, priority: -100, drops: false, devices: vec![] };
            let jump = Step::Verdict(Verdict::Jump((*name).into()));
            let base_id = id(&format!("from {name} {from_xtables}"));
            ruleset.base_chains.add(hook, base_id.clone());
            ruleset.chains.insert(base_id, Chain::new(Some(base), rule(vec![jump], *from_xtables)));
            ruleset.chains.insert(id(name), Chain::new(None, rule(vec![Step::Nat(nat)], *from_xtables)));
        }
        ruleset
    }

    fn node(nftables: Ruleset, legacy: [Ruleset; 2]) -> Facts {
        let mut node = crate::judge::tests::blank();
        let [ipv4, ipv6] = legacy.map(|ruleset| Reading::Ok(Arc::new(ruleset)));
        (node.nftables, node.legacy_ipv4, node.legacy_ipv6) = (Reading::Ok(Arc::new(nftables)), ipv4, ipv6);
        node
    }

    fn happens(node: &Facts) -> Happens {
        rules_in_two_backends(&Network::new(node).unwrap()).happens
    }

    #[test]
    fn halves_of_one_family_in_two_backends_are_split() {
        use Family::{Inet, Ipv4, Ipv6};
        let (xt, native) = (true, false);
        for (nftables, legacy, is_split) in [
            (vec![(Ipv4, "KUBE-POSTROUTING", xt)], vec![(Ipv4, "KUBE-POSTROUTING", xt)], true),
            (vec![(Ipv4, "KUBE-SERVICES", xt)], vec![(Ipv4, "KUBE-SERVICES", xt)], true),
            (vec![(Ipv4, "KUBE-POSTROUTING", xt)], vec![(Ipv4, "KUBE-SERVICES", xt)], true),
            (vec![(Ipv4, "KUBE-SERVICES", xt)], vec![(Ipv4, "FLANNEL-POSTRTG", xt)], true),
            (vec![(Ipv6, "KUBE-SERVICES", xt)], vec![(Ipv4, "KUBE-SERVICES", xt)], false),
            (vec![(Inet, "KUBE-SERVICES", native)], vec![(Ipv4, "KUBE-SERVICES", xt)], true),
            (vec![(Ipv4, "KUBE-SERVICES", native), (Ipv4, "KUBE-POSTROUTING", xt)], vec![], true),
            (vec![(Ipv4, "KUBE-SERVICES", native)], vec![(Ipv4, "FLANNEL-POSTRTG", xt)], false),
            (vec![(Ipv4, "DOCKER", xt)], vec![(Ipv4, "DOCKER", xt)], true),
            (vec![(Ipv4, "cali-PREROUTING", xt)], vec![(Ipv4, "cali-POSTROUTING", xt)], true),
            (vec![(Ipv4, "DOCKER", xt)], vec![(Ipv4, "KUBE-SERVICES", xt)], false),
            (vec![(Ipv4, "mine", xt)], vec![(Ipv4, "mine", xt)], false),
            (vec![(Ipv4, "KUBE-SERVICES", xt), (Ipv4, "KUBE-POSTROUTING", xt)], vec![], false),
        ] {
            let found = happens(&node(ruleset(&nftables), [ruleset(&legacy), Ruleset::default()]));
            let expected = if is_split { Happens::Must } else { Happens::Never };
            assert_eq!(found, expected, "{nftables:?} beside {legacy:?}");
        }
    }

    #[test]
    fn what_is_too_large_to_be_read_may_hold_a_half() {
        let chains = [(Family::Ipv4, "KUBE-SERVICES", true)];
        let mut large = ruleset(&chains);
        for chain in large.chains.values_mut() {
            chain.rules = Reading::Failed(Failure::not_needed("only searched"));
        }
        let beside = |legacy: Ruleset| happens(&node(large.clone(), [legacy, Ruleset::default()]));
        assert_eq!(beside(Ruleset::default()), Happens::Never);
        assert!(matches!(beside(ruleset(&chains)), Happens::May(why) if why.text.contains("too large")));
    }
}
