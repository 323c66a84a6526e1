//! Source-NAT rules, as reports list them and metrics count them.

use std::net::IpAddr;
use std::sync::Arc;

use super::{
    ChainId, ChainKind, Counter, Family, Hook, Nat, NatAction, PortRandomization, Rule, Ruleset, Step, resolve_map,
};
use crate::facts::{Failure, Name, Reading, names};

names! {
    /// Kernel interface that holds a rule.
    Backend {
        /// `ip_tables`, `ip6_tables`: `struct ipt_entry` behind getsockopt
        Legacy = "legacy",
        /// nf_tables, with targets of x_tables: written by iptables-nft
        IptablesNft = "iptables_nft",
        /// nf_tables
        Nftables = "nftables",
    }
}

impl Backend {
    /// Backend of a rule read from legacy tables or from nf_tables.
    pub fn of(rule: &Rule, legacy: bool) -> Self {
        match (legacy, rule.from_xtables) {
            (true, _) => Self::Legacy,
            (false, true) => Self::IptablesNft,
            (false, false) => Self::Nftables,
        }
    }
}

names! {
    /// Program that writes a rule, recognised by its signatures.
    Owner {
        /// kube-proxy in any mode
        KubeProxy = "kube-proxy",
        /// kubelet
        Kubelet = "kubelet",
        /// flannel
        Flannel = "flannel",
        /// Calico
        Calico = "calico",
        /// Cilium
        Cilium = "cilium",
        /// The CNI plugin of AWS
        AwsVpcCni = "aws-vpc-cni",
        /// Docker
        Docker = "docker",
        /// Podman's netavark
        Podman = "podman",
        /// libvirt
        Libvirt = "libvirt",
        /// firewalld
        Firewalld = "firewalld",
        /// Tailscale
        Tailscale = "tailscale",
        /// CNI plugin portmap
        CniPortmap = "cni-portmap",
        /// CNI plugins bridge and ptp with ipMasq
        CniBridge = "cni-bridge",
        /// ip-masq-agent
        IpMasqAgent = "ip-masq-agent",
        /// kindnet
        Kindnet = "kindnet",
        /// Antrea
        Antrea = "antrea",
        /// kube-router
        KubeRouter = "kube-router",
        /// Weave Net
        Weave = "weave",
        /// OpenShift SDN
        OpenshiftSdn = "openshift-sdn",
        /// Istio
        Istio = "istio",
        /// ovn-kubernetes
        OvnKubernetes = "ovn-kubernetes",
        /// Kube-OVN
        KubeOvn = "kube-ovn",
        /// OpenStack Neutron
        Neutron = "neutron",
        /// Azure CNS
        AzureCns = "azure-cns",
        /// OpenWrt's fw4 and fw3
        Openwrt = "openwrt",
        /// systemd-networkd, systemd-nspawn
        Systemd = "systemd",
        /// LXD
        Lxd = "lxd",
        /// Incus
        Incus = "incus",
        /// NetBird
        Netbird = "netbird",
        /// NetworkManager's shared connections
        NetworkManager = "networkmanager",
        /// Submariner
        Submariner = "submariner",
        /// CRI-O's host ports
        CriO = "cri-o",
        /// kubenet, of kubelet until Kubernetes 1.24, then of cri-dockerd
        Kubenet = "kubenet",
        /// Kilo
        Kilo = "kilo",
        /// Liqo
        Liqo = "liqo",
        /// NixOS's networking.nat
        Nixos = "nixos",
        /// OpenVPN Access Server
        OpenvpnAs = "openvpn-as",
        /// Anyone else
        Other = "other",
    }
}

/// A source-NAT rule reachable from a postrouting or input hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNatRule {
    /// Backend that holds it.
    pub backend: Backend,
    /// Family of its table.
    pub family: Family,
    /// Name of its table.
    pub table: Name,
    /// Name of its chain.
    pub chain: Name,
    /// Position in its chain, from 1.
    pub position: u32,
    /// Program that writes it.
    pub owner: Owner,
    /// masquerade, snat or netmap.
    pub action: NatAction,
    /// How source ports are chosen.
    pub randomization: PortRandomization,
    /// Range of source ports; `None`: not given, or from a map.
    pub to_ports: Option<(u16, u16)>,
    /// Range of source addresses, both ends included; `None`: not given, or from a map.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Its own matches on the packet's mark.
    pub marks: Vec<MarkTest>,
    /// Its counter; `None` if it has none.
    pub counter: Option<Counter>,
    /// See [`super::Rule::fingerprint`].
    pub fingerprint: u64,
}

/// A match on the packet's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkTest {
    /// Required value of the masked bits.
    pub value: u32,
    /// Bits tested.
    pub mask: u32,
    /// Whether the match is inverted.
    pub inverted: bool,
}

/// Properties that source-NAT rules are grouped by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceNatKind {
    /// Backend that holds them.
    pub backend: Backend,
    /// Family of their tables.
    pub family: Family,
    /// Program that writes them.
    pub owner: Owner,
    /// masquerade, snat or netmap.
    pub action: NatAction,
    /// How source ports are chosen.
    pub randomization: PortRandomization,
}

/// Number and counters of the source-NAT rules of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceNatTotal {
    /// Number of rules now.
    pub rules: u64,
    /// Number of rules without a counter.
    pub uncounted: u64,
    /// Sum of the counters; [`crate::monotonic`] makes it monotonic. `None`: no rule had a counter.
    pub counted: Option<Counter>,
}

impl SourceNatRule {
    /// The kind it is counted as.
    pub fn kind(&self) -> SourceNatKind {
        let Self { backend, family, owner, action, randomization, .. } = *self;
        SourceNatKind { backend, family, owner, action, randomization }
    }
}

/// A rule that translates source addresses: its chain, the rule, and how it translates.
pub type SourceTranslation<'a> = (&'a ChainId, &'a Rule, &'a Nat);

impl Ruleset {
    /// The rules that translate source addresses, of all chains that a postrouting or input hook leads to.
    ///
    /// Without a value: a list of base chains was not read, a chain that they lead to, or a verdict map in one; or a rule has a
    /// NAT target that is not supported.
    pub fn source_translations(&self) -> Reading<Vec<SourceTranslation<'_>>> {
        self.all_reachable(ChainKind::Nat, &[Hook::Postrouting, Hook::Input]).and_then(|chains| {
            let mut found = Vec::new();
            for (id, chain) in chains {
                for rule in chain.known_rules() {
                    if let Some(what) = rule.steps.iter().find_map(unsupported) {
                        return Reading::Failed(Failure::unsupported(format!(
                            "rule {} of {}: {what} is not understood",
                            rule.position, id.chain
                        )));
                    }
                    found.extend(rule.steps.iter().find_map(translates_source).map(|nat| (id, rule, nat)));
                }
            }
            Reading::Ok(found)
        })
    }
}

/// The source translations of all backends (nf_tables, legacy IPv4, legacy IPv6), as `list` makes them of one: its second argument
/// tells whether the rule is a legacy one. An absent backend has none; one that could not be read leaves no list.
pub fn in_all_backends<T>(
    rulesets: [&Reading<Arc<Ruleset>>; 3],
    list: impl Fn(&Ruleset, bool, SourceTranslation<'_>) -> Vec<T>,
) -> Reading<Vec<T>> {
    let mut all = Vec::new();
    for (reading, is_legacy) in rulesets.into_iter().zip([false, true, true]) {
        let found = reading.as_ref().and_then(|ruleset| {
            let found = ruleset.source_translations();
            found.map(|found| found.into_iter().flat_map(|each| list(ruleset, is_legacy, each)).collect::<Vec<_>>())
        });
        match found {
            Reading::Ok(found) => all.extend(found),
            Reading::Absent(_) => {} // a fact: no rules
            other => return other,
        }
    }
    Reading::Ok(all)
}

/// How they translate: of one with a map, each of the map's data, or the rule as it is where these are not known.
pub fn all_source_translations(rulesets: [&Reading<Arc<Ruleset>>; 3]) -> Reading<Vec<Nat>> {
    in_all_backends(rulesets, |ruleset, _, (.., nat)| {
        resolve_map(nat, &ruleset.sets).unwrap_or_else(|| vec![nat.clone()])
    })
}

/// An expression or target that may translate the source address for all we know.
fn unsupported(step: &Step) -> Option<&str> {
    match step {
        Step::Unsupported { what, may_translate: true } => Some(what),
        _ => None,
    }
}

fn translates_source(step: &Step) -> Option<&Nat> {
    match step {
        Step::Nat(nat) => Some(nat).filter(|nat| !matches!(nat.action, NatAction::Dnat | NatAction::Redirect)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::netfilter::{Base, Chain, ChainId, Chosen, PortRandomization, SetId, Verdict};

    fn id(name: &str) -> ChainId {
        ChainId { family: Family::Ipv4, table: "nat".into(), chain: name.into() }
    }

    fn chain(base: bool, steps: Vec<Step>) -> Chain {
        let (hook, kind) = (Hook::Postrouting, ChainKind::Nat);
        let base = base.then(|| Base { hook, kind, priority: 100, drops: false, devices: vec![] });
        let rule =
            Rule { position: 1, comment: String::new(), steps, counter: None, from_xtables: false, fingerprint: 0 };
        Chain::new(base, Reading::Ok(Arc::new(vec![rule])))
    }

    /// A base chain that jumps to one with a rule that masquerades.
    fn ruleset() -> Ruleset {
        let (action, randomization) = (NatAction::Masquerade, PortRandomization::None);
        let nat =
            Nat { action, addresses: Chosen::Unset, ports: Chosen::Unset, randomization, persistent: false, map: None };
        let mut ruleset = Ruleset::default();
        ruleset.chains.insert(id("P"), chain(true, vec![Step::Verdict(Verdict::Jump("C".into()))]));
        ruleset.chains.insert(id("C"), chain(false, vec![Step::Nat(nat)]));
        ruleset.base_chains.add(Hook::Postrouting, id("P"));
        ruleset
    }

    #[test]
    fn a_part_that_was_not_read_leaves_no_list() {
        let listed = |ruleset: &Ruleset| ruleset.source_translations().map(|found| found.len());
        let lost: Reading<()> = Reading::Denied("no permission".into());
        assert_eq!(listed(&ruleset()), Reading::Ok(1));
        for (family, hook, is_known) in [
            (Family::Ipv4, Hook::Postrouting, false),
            (Family::Inet, Hook::Postrouting, false),
            (Family::Ipv6, Hook::Input, false),
            (Family::Ipv4, Hook::Forward, true),
            (Family::Netdev, Hook::Egress, true),
        ] {
            let mut ruleset = ruleset();
            ruleset.base_chains.lose(family, hook, &lost);
            assert_eq!(listed(&ruleset).ok().is_some(), is_known, "{family} {hook}");
        }
        let mut none = ruleset();
        none.chains.clear();
        assert!(listed(&none).ok().is_none(), "a chain that is listed and not there was not read");
        let mut ruleset = ruleset();
        ruleset.chains.get_mut(&id("C")).unwrap().rules = Reading::Failed("no answer".into());
        assert_eq!(listed(&ruleset).why(), "chain C: no answer");
        ruleset.chains.remove(&id("C"));
        assert!(listed(&ruleset).ok().is_none());
        let set = SetId::Ipset(1);
        let map = Verdict::Map { fields: vec![], set, verdicts: Reading::Failed("no answer".into()) };
        ruleset.chains.insert(id("P"), chain(true, vec![Step::Verdict(map)]));
        assert!(listed(&ruleset).ok().is_none(), "the map may lead to any chain");
    }
}
