//! Rules that translate source addresses, as they are listed and counted.

use std::net::IpAddr;

use super::{Counter, Family, NatAction, PortRandomization, Rule};
use crate::facts::{Name, names};

names! {
    /// Which user-space interface holds a rule.
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
    /// Who holds a rule, of legacy tables or of nf_tables.
    pub fn of(rule: &Rule, legacy: bool) -> Self {
        match (legacy, rule.from_xtables) {
            (true, _) => Self::Legacy,
            (false, true) => Self::IptablesNft,
            (false, false) => Self::Nftables,
        }
    }
}

names! {
    /// Who writes a rule, told from the names it uses.
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

/// A source-NAT rule that a postrouting or input hook leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceNatRule {
    /// Who holds it.
    pub backend: Backend,
    /// Family of its table.
    pub family: Family,
    /// Its table.
    pub table: Name,
    /// Its chain.
    pub chain: Name,
    /// From 1 within its chain.
    pub position: u32,
    /// Who writes it.
    pub owner: Owner,
    /// What it does: masquerade, snat or netmap.
    pub action: NatAction,
    /// How it chooses ports.
    pub randomization: PortRandomization,
    /// Ports that it chooses from; `None`: it does not say, or a map does.
    pub to_ports: Option<(u16, u16)>,
    /// Addresses that it chooses from, both ends included; `None`: it does not say, or a map does.
    pub addresses: Option<(IpAddr, IpAddr)>,
    /// Its own tests of the packet's mark.
    pub marks: Vec<MarkTest>,
    /// What it counted.
    pub counter: Option<Counter>,
    /// See [`super::Rule::fingerprint`].
    pub fingerprint: u64,
}

/// A test of the packet's mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MarkTest {
    /// What it must be …
    pub value: u32,
    /// … in these bits.
    pub mask: u32,
    /// Whether it must not.
    pub inverted: bool,
}

/// What source-NAT rules are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceNatKind {
    /// Who holds them.
    pub backend: Backend,
    /// Family of their tables.
    pub family: Family,
    /// Who writes them.
    pub owner: Owner,
    /// What they do.
    pub action: NatAction,
    /// How they choose ports.
    pub randomization: PortRandomization,
}

/// Source-NAT rules of one kind, taken together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceNatTotal {
    /// Rules there are now.
    pub rules: u64,
    /// Those of them without a counter.
    pub uncounted: u64,
    /// Sum over the rules; [`crate::monotonic`] makes it one that never falls. `None`: none had a counter.
    pub counted: Option<Counter>,
}

impl SourceNatRule {
    /// What it is counted by.
    pub fn kind(&self) -> SourceNatKind {
        let Self { backend, family, owner, action, randomization, .. } = *self;
        SourceNatKind { backend, family, owner, action, randomization }
    }
}
