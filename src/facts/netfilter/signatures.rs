//! Owner signatures: names, comments and shapes by which the writer of a rule is recognised. `owner.rs` applies them,
//! redaction keeps them, and docs/owners.md is generated from them.
//!
//! A signature is something that only one program writes: complete names of chains or tables with the form of their
//! variable parts, complete comments, complete names of sets. A prefix is not enough: `KUBE-POSTROUTING-CUSTOM` is the
//! administrator's. Generic table names (`lxd`, `netbird`) count only together with the chain's name. A comment that
//! names its writer counts in any chain, other comments only in the chain that their writer uses.
//!
//! Left out because two programs write them: `IP-MASQ` (ip-masq-agent, scripts of GCE and kops), `KUBE-HOSTPORTS` and
//! `KUBE-HP-…` (kubelet, CRI-O, cri-dockerd), `SNAT for localhost access to hostports` except for kubenet's own bridge,
//! and `DOCKER-USER` and `POSTROUTING_direct`, which are reserved for the administrator.

use std::iter;
use std::ops::Range;

use super::Owner;
pub use super::pattern::Pattern;

/// nfacct objects (`-m nfacct`) of kube-proxy since 1.32 (`pkg/proxy/metrics`:
/// `IPTablesCTStateInvalidDroppedNFAcctCounter`, `LocalhostNodePortAcceptedNFAcctCounter`). They are created without a
/// quota, so the match holds for every packet.
pub const COUNTERS: [&str; 2] = ["ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"];

/// What a writer is recognised by.
#[derive(Clone, Copy, Debug)]
pub enum Signature {
    /// Name of a table, with any chain.
    Table(Pattern),
    /// Name of a chain, in any table.
    Chain(Pattern),
    /// Name of a table and name of a chain in it.
    ChainIn(Pattern, Pattern),
    /// Name of a chain, in a table that also has this other chain.
    ChainBeside(Pattern, &'static str),
    /// The rule's comment, in any chain.
    Comment(Pattern),
    /// The rule's comment, in this chain.
    CommentIn(&'static str, Pattern),
    /// The rule's comment, if the rule matches this output device.
    CommentOut(&'static str, Pattern),
    /// Name of an ipset that the rule looks up.
    Ipset(Pattern),
    /// The rule's form, in `POSTROUTING` of table `nat`.
    Shape(Shape),
}

/// Rules without name and comment that are recognised by their form; see `owner.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// kube-router: IPVS Services
    KubeRouterServices,
    /// kube-router: pods
    KubeRouterPods,
    /// Docker: a bridge network
    DockerBridge,
    /// Docker: a container that reaches itself by a published port
    DockerHairpin,
    /// Docker: the host reaching a container by a published port
    DockerLocal,
    /// flannel: from pods
    FlannelOut,
    /// flannel: to pods
    FlannelIn,
    /// libvirt: TCP and UDP
    LibvirtPorts,
    /// libvirt: other protocols
    LibvirtRest,
}

impl Shape {
    /// The rule in iptables syntax.
    pub fn written(self) -> &'static str {
        match self {
            Self::KubeRouterServices => "-m ipvs --ipvs --vdir ORIGINAL --vmethod MASQ -j SNAT",
            Self::KubeRouterPods => {
                "-m set --match-set A src -m set ! --match-set A dst -m set ! --match-set B dst -j MASQUERADE"
            }
            Self::DockerBridge => "-s NET ! -o docker0|docker_gwbridge|br-{hex 12} -j MASQUERADE|SNAT",
            Self::DockerHairpin => "-s ADDRESS -d ADDRESS -p PROTOCOL --dport PORT -j MASQUERADE",
            Self::DockerLocal => "-o docker0|docker_gwbridge|br-{hex 12} -m addrtype --src-type LOCAL -j MASQUERADE",
            Self::FlannelOut => "-s NET ! -d 224.0.0.0/4|ff00::/8 -j MASQUERADE",
            Self::FlannelIn => "! -s NET -d NET -j MASQUERADE",
            Self::LibvirtPorts => "-s NET ! -d NET -p PROTOCOL -j MASQUERADE --to-ports 1024-65535",
            Self::LibvirtRest => "-s NET ! -d NET -j MASQUERADE",
        }
    }
}

impl Shape {
    /// Whether it counts only next to a rule of the preceding shape, because it is ambiguous alone.
    pub fn needs_former(self) -> bool {
        matches!(self, Self::FlannelIn | Self::LibvirtRest)
    }
}

const fn table(pattern: &'static str) -> Signature {
    Signature::Table(Pattern(pattern))
}

const fn chain(pattern: &'static str) -> Signature {
    Signature::Chain(Pattern(pattern))
}

const fn chain_in(table: &'static str, chain: &'static str) -> Signature {
    Signature::ChainIn(Pattern(table), Pattern(chain))
}

const fn comment(pattern: &'static str) -> Signature {
    Signature::Comment(Pattern(pattern))
}

const fn comment_in(chain: &'static str, pattern: &'static str) -> Signature {
    Signature::CommentIn(chain, Pattern(pattern))
}

const fn ipset(pattern: &'static str) -> Signature {
    Signature::Ipset(Pattern(pattern))
}

use Signature::{ChainBeside, CommentOut};

/// One entry per writer. Precedence is by kind of signature: a rule's contents, its chain, its table; then by order in
/// this list.
#[rustfmt::skip]
pub const SIGNATURES: &[(Owner, &[Signature])] = &[
    (Owner::KubeProxy, &[
        table("kube-proxy"),
        chain("KUBE-{SERVICES|EXTERNAL-SERVICES|NODEPORTS|POSTROUTING|MARK-MASQ|FORWARD|PROXY-CANARY|PROXY-FIREWALL}"),
        chain("KUBE-{LOAD-BALANCER|NODE-PORT|SOURCE-RANGES-FIREWALL|IPVS-FILTER|IPVS-OUT-FILTER}"), // IPVS
        chain("KUBE-{SVC|SVL|SEP|EXT|FW|XLB}-{base32 16}"),
        chain_in("nat", "KUBE-FIREWALL"), // in IPVS mode; in filter it is kubelet's
        comment_in("POSTROUTING", "kubernetes postrouting rules"),
        comment_in("POSTROUTING", "kubernetes service traffic requiring SNAT"),
        comment_in("POSTROUTING", "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    ]),
    (Owner::Kubelet, &[
        chain("KUBE-{KUBELET-CANARY|IPTABLES-HINT|MARK-DROP}"),
        chain_in("filter", "KUBE-FIREWALL"),
    ]),
    (Owner::Kubenet, &[
        comment("kubenet: SNAT for outbound traffic from cluster"),
        CommentOut("cbr0", Pattern("SNAT for localhost access to hostports")),
    ]),
    (Owner::KubeRouter, &[
        chain("KUBE-ROUTER-{INPUT|FORWARD|OUTPUT|SERVICES|HAIRPIN}"),
        chain("KUBE-NWPLCY-{DEFAULT|COMMON|TAIL}"),
        chain("KUBE-{NWPLCY|POD-FW}-{base32 16}"),
        ipset("{|inet6:}kube-router-pod-subnets"),
        Signature::Shape(Shape::KubeRouterServices),
        Signature::Shape(Shape::KubeRouterPods),
    ]),
    (Owner::Flannel, &[
        table("flannel-ipv{4|6}"),
        chain("FLANNEL-{POSTRTG|FWD}"),
        comment("flanneld masq"),
        Signature::Shape(Shape::FlannelOut),
        Signature::Shape(Shape::FlannelIn),
    ]),
    (Owner::Calico, &[
        table("calico"),
        chain("cali-{POSTROUTING|PREROUTING|OUTPUT|nat-outgoing|fip-snat|fip-dnat}"),
        comment("cali:{base64 16}"),
        comment("cali:{base64 16};{}"), // nftables
    ]),
    (Owner::Cilium, &[
        chain("{|OLD_}CILIUM_{POST_nat|PRE_nat|OUTPUT_nat}"),
        comment("cilium-feeder: {}"),
        comment("cilium masquerade non-cluster"),
        comment("cilium host->cluster {|from 127.0.0.1 }masquerade"),
        comment("cilium hostport loopback masquerade"),
    ]),
    (Owner::Antrea, &[
        chain("ANTREA-{POSTROUTING|PREROUTING|OUTPUT|INPUT|FORWARD|MANGLE|NODE-PORT-LOCAL}"),
        comment("Antrea: {}"),
    ]),
    (Owner::OvnKubernetes, &[
        table("ovn-kubernetes"),
        chain("OVN-KUBE-{SNAT-MGMTPORT|EGRESS-SVC|EGRESS-IP-MULTI-NIC|EGRESSIP|EXTERNALIP|NODEPORT|ETP|ITP}"),
    ]),
    (Owner::KubeOvn, &[
        chain("OVN-{POSTROUTING|PREROUTING|OUTPUT|MASQUERADE|NAT-POLICY}"),
        chain("OVN-NAT-PSUBNET-{hex 12}"),
    ]),
    (Owner::Weave, &[
        chain("WEAVE"),
        chain("WEAVE-EXPOSE"),
    ]),
    (Owner::OpenshiftSdn, &[
        chain("OPENSHIFT-MASQUERADE{|-2}"),
        comment("rules for masquerading OpenShift traffic"),
    ]),
    (Owner::AwsVpcCni, &[
        table("aws-cni"),
        chain("AWS-{SNAT|CONNMARK}-CHAIN-{number}"),
        chain("CNI-E{4|6}-{hex 21}"), // the plugin for egress
        comment("AWS SNAT CHAIN"),
        comment("AWS, SNAT"),
        comment("name: \"aws-cni\" id: \"{}\""),
    ]),
    (Owner::AzureCns, &[
        chain("SWIFT-POSTROUTING"),
        chain("SWIFT"), // by the CNI plugin, before 1.6.21
    ]),
    (Owner::Kilo, &[
        chain("KILO-NAT"),
        comment("Kilo: {}"),
    ]),
    (Owner::Liqo, &[
        chain("LIQO-{POSTROUTING|PREROUTING}"), // before 1.0
        chain("LIQO-{PSTRT|PRRT}-CLS-{}"),
        chain_in("remap-{podcidr|externalcidr}", "incoming"),
        chain_in("{}-remap-ipmapping-{gw|fabric}{}", "postrouting"),
        chain_in("{}-masquerade-bypass", "pre-postrouting"),
    ]),
    (Owner::Submariner, &[
        chain("SUBMARINER-{POSTROUTING|GN-EGRESS|GN-INGRESS|GN-MARK}"), // these of nftables too
        chain("SM-GN-EGRESS-{PODS|HDLS-PODS|HDLS-EPS|NS|CLUSTER}"),
    ]),
    (Owner::Istio, &[
        table("istio-{ambient|proxy}-nat"),
        chain("ISTIO_{POSTRT|PRERT|OUTPUT|INBOUND|REDIRECT|IN_REDIRECT|OUTPUT_DNS}"),
    ]),
    (Owner::IpMasqAgent, &[
        chain("IP-MASQ-AGENT"),
        comment("ip-masq-agent:{}"),
    ]),
    (Owner::Kindnet, &[
        table("kindnet-ipmasq"),
        chain("KIND-MASQ-AGENT"),
        comment("kind-masq-agent:{}"),
    ]),
    (Owner::CniPortmap, &[
        table("cni_hostport"),
        chain("CNI-HOSTPORT-{MASQ|SETMARK|DNAT|SNAT}"),
        chain("CNI-{DN|SN}-{hex 21}"),
        comment("CNI portfwd {requiring masquerade|masquerade mark}"),
    ]),
    (Owner::CniBridge, &[
        table("cni_plugins_masquerade"),
        chain("CNI-{hex 24}"),
        comment("name: \"{}\" id: \"{}\""),
    ]),
    (Owner::CriO, &[
        table("crio-hostports"),
        chain("CRIO-HOSTPORTS-{MASQ|POSTROUTING}"),
        chain("CRIO-MASQ-{base32 16}"),
    ]),
    (Owner::Docker, &[
        table("docker-bridges"),
        chain("DOCKER"),
        chain("DOCKER-INGRESS"),
        chain("DOCKER_{POSTROUTING|OUTPUT}"), // of the resolver, in a container's namespace
        Signature::Shape(Shape::DockerBridge),
        Signature::Shape(Shape::DockerHairpin),
        Signature::Shape(Shape::DockerLocal),
    ]),
    (Owner::Podman, &[
        table("netavark"),
        chain("NETAVARK-HOSTPORT-{MASQ|SETMARK|DNAT}"),
        chain("NETAVARK-{|DN-}{HEX 13}"),
        comment("netavark portfw masq mark"),
    ]),
    (Owner::Lxd, &[
        chain_in("lxd", "{|fwd}pstrt{.|_}{}"), // `_` up to 4.0
        comment("generated for LXD {network|network-forward|container} {}"),
    ]),
    (Owner::Incus, &[
        chain_in("incus", "{|fwd}pstrt.{}"),
        comment("generated for Incus {network|network-forward|container} {}"),
    ]),
    (Owner::Libvirt, &[
        table("libvirt_network"),
        chain("LIBVIRT_PRT"),
        Signature::Shape(Shape::LibvirtPorts),
        Signature::Shape(Shape::LibvirtRest),
    ]),
    (Owner::Neutron, &[ // the first 16 characters of the program's name, the first 11 of the chain's
        chain("neutron-{l3-agent|openvswi|linuxbri|dhcp-age|vpn-agen|meter}-{snat|float-snat|POSTROUTING|PREROUTING|OUTPUT}"),
        chain("neutron-postrouting-bottom"),
    ]),
    (Owner::Firewalld, &[
        table("firewalld"),
        chain("POSTROUTING_ZONES"),
        ChainBeside(Pattern("POST_{}_{pre|log|deny|allow|post}"), "POSTROUTING_ZONES"),
    ]),
    (Owner::Openwrt, &[
        chain_in("fw4", "srcnat"),
        chain_in("fw4", "srcnat_{}"),
        comment("!fw4: {}"),
        comment("!fw3"),
        comment("!fw3: {}"),
    ]),
    (Owner::Systemd, &[
        table("io.systemd.nat"),
    ]),
    (Owner::NetworkManager, &[
        chain_in("nm-shared-{device}", "nat_postrouting"),
        comment("nm-shared-{device}"),
    ]),
    (Owner::Nixos, &[
        table("nixos-nat"),
        chain("nixos-nat-{post|pre|out}"),
    ]),
    (Owner::Tailscale, &[
        chain("ts-{postrouting|forward|input}"),
    ]),
    (Owner::Netbird, &[
        chain("NETBIRD-RT-{NAT|RDR}"),
        chain_in("netbird", "netbird-rt-{postrouting|nat|redirect}"),
    ]),
    (Owner::OpenvpnAs, &[
        chain("AS0_NAT"),
        chain("AS0_NAT_{PRE|TEST|PRE_REL_EST|POST_REL_EST}"),
    ]),
];

/// All signatures with their owners.
pub fn all() -> impl Iterator<Item = (Owner, Signature)> {
    SIGNATURES.iter().flat_map(|(owner, signatures)| signatures.iter().map(|signature| (*owner, *signature)))
}

/// Byte ranges of a table's name that may identify someone: all of it unless a signature matches.
pub fn free_parts_of_table(name: &[u8]) -> Vec<Range<usize>> {
    free_parts(name, |signature| match signature {
        Signature::Table(pattern) | Signature::ChainIn(pattern, _) => Some(pattern),
        _ => None,
    })
}

/// The same for a chain's name.
pub fn free_parts_of_chain(name: &[u8]) -> Vec<Range<usize>> {
    free_parts(name, |signature| match signature {
        Signature::Chain(pattern) | Signature::ChainIn(_, pattern) | Signature::ChainBeside(pattern, _) => {
            Some(pattern)
        }
        _ => None,
    })
}

/// The same for a comment.
pub fn free_parts_of_comment(text: &[u8]) -> Vec<Range<usize>> {
    free_parts(text, |signature| match signature {
        Signature::Comment(pattern) | Signature::CommentIn(_, pattern) | Signature::CommentOut(_, pattern) => {
            Some(pattern)
        }
        _ => None,
    })
}

/// The same for an ipset's name.
pub fn free_parts_of_ipset(name: &[u8]) -> Vec<Range<usize>> {
    free_parts(name, |signature| match signature {
        Signature::Ipset(pattern) => Some(pattern),
        _ => None,
    })
}

fn free_parts(text: &[u8], pattern: impl Fn(Signature) -> Option<Pattern>) -> Vec<Range<usize>> {
    let mut known = all().filter_map(|(_, signature)| pattern(signature));
    let everything = || iter::once(0..text.len()).collect();
    known.find_map(|pattern| pattern.free_parts(text)).unwrap_or_else(everything)
}
