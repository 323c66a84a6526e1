//! Owner signatures: names by which a rule's writer is recognised. Redaction keeps them, so that a redacted rule still has
//! its owner.

use super::Owner;

/// What a writer is recognised by.
#[derive(Clone, Copy, Debug)]
pub enum Signature {
    /// Name of a table.
    Table(Pattern),
    /// Name of a chain.
    Chain(Pattern),
    /// Name of a chain that means something only in this table.
    ChainOf(&'static str, Pattern),
    /// A rule's comment.
    Comment(Pattern),
    /// Name of an ipset that the rule asks.
    Ipset(Pattern),
}

/// What a name must be.
#[derive(Clone, Copy, Debug)]
pub enum Pattern {
    /// This.
    Is(&'static str),
    /// Begins like this.
    Starts(&'static str),
    /// Begins and ends like this.
    Around(&'static str, &'static str),
    /// This, then so many hexadecimal digits, then nothing.
    Hex(&'static str, usize),
}

use Pattern::{Around, Hex, Is, Starts};
use Signature::{Chain, ChainOf, Comment, Ipset, Table};

impl Pattern {
    /// Whether a name is so.
    pub fn fits(self, name: &str) -> bool {
        match self {
            Is(whole) => name == whole,
            Starts(start) => name.starts_with(start),
            Around(start, end) => name.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
            Hex(start, digits) => name.strip_prefix(start).is_some_and(|rest| {
                rest.len() == digits && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            }),
        }
    }

    /// What a name begins with by which its writer is recognised.
    const fn start(self) -> &'static str {
        let (Is(start) | Starts(start) | Around(start, _) | Hex(start, _)) = self;
        start
    }
}

/// How many bytes of a comment tell who writes its rule.
pub fn telling_comment(comment: &[u8]) -> usize {
    longest(comment, |signature| match signature {
        Comment(pattern) => Some(pattern.start()),
        _ => None,
    })
}

/// How many bytes of an ipset's name do.
pub fn telling_ipset(name: &[u8]) -> usize {
    longest(name, |signature| match signature {
        Ipset(pattern) => Some(pattern.start()),
        _ => None,
    })
}

/// How many bytes of a chain's name do.
pub fn telling_chain(name: &[u8]) -> usize {
    longest(name, |signature| match signature {
        Chain(pattern) | ChainOf(_, pattern) => Some(pattern.start()),
        _ => None,
    })
}

/// Whether a writer is recognised by this name of a table.
pub fn telling_table(name: &[u8]) -> bool {
    let fits = |pattern: &Pattern| std::str::from_utf8(name).is_ok_and(|name| pattern.fits(name));
    SIGNATURES.iter().any(|(_, signature)| matches!(signature, Table(pattern) if fits(pattern)))
}

fn longest(text: &[u8], start: impl Fn(&Signature) -> Option<&'static str>) -> usize {
    let starts = SIGNATURES.iter().filter_map(|(_, signature)| start(signature));
    starts.filter(|start| text.starts_with(start.as_bytes())).map(str::len).max().unwrap_or(0)
}

/// The first hit wins.
#[rustfmt::skip]
pub const SIGNATURES: &[(Owner, Signature)] = &[
    (Owner::KubeProxy,    Table(Is("kube-proxy"))),
    (Owner::Flannel,      Table(Is("flannel-ipv4"))),
    (Owner::Flannel,      Table(Is("flannel-ipv6"))),
    (Owner::Calico,       Table(Is("calico"))),
    (Owner::AwsVpcCni,    Table(Is("aws-cni"))),
    (Owner::Docker,       Table(Is("docker-bridges"))),
    (Owner::Podman,       Table(Is("netavark"))),
    (Owner::Firewalld,    Table(Is("firewalld"))),
    (Owner::Libvirt,      Table(Is("libvirt_network"))),
    (Owner::CniPortmap,   Table(Is("cni_hostport"))),
    (Owner::CniBridge,    Table(Is("cni_plugins_masquerade"))),
    (Owner::Kindnet,      Table(Is("kindnet-ipmasq"))),

    (Owner::Kubelet,      Chain(Is("KUBE-KUBELET-CANARY"))),
    (Owner::Kubelet,      Chain(Is("KUBE-IPTABLES-HINT"))),
    (Owner::Kubelet,      Chain(Is("KUBE-MARK-DROP"))),
    (Owner::Kubelet,      ChainOf("filter", Is("KUBE-FIREWALL"))), // in nat it was kube-proxy's (IPVS)
    (Owner::KubeRouter,   Chain(Starts("KUBE-ROUTER-"))),
    (Owner::KubeRouter,   Chain(Starts("KUBE-NWPLCY-"))),
    (Owner::KubeRouter,   Chain(Starts("KUBE-POD-FW-"))),
    (Owner::KubeProxy,    Chain(Starts("KUBE-"))),
    (Owner::Flannel,      Chain(Starts("FLANNEL-"))),
    (Owner::Calico,       Chain(Starts("cali-"))),
    (Owner::Cilium,       Chain(Starts("CILIUM_"))),
    (Owner::Cilium,       Chain(Starts("OLD_CILIUM_"))),
    (Owner::AwsVpcCni,    Chain(Starts("AWS-SNAT-CHAIN-"))),
    (Owner::AwsVpcCni,    Chain(Starts("AWS-CONNMARK-CHAIN-"))),
    (Owner::AwsVpcCni,    Chain(Starts("CNI-E4-"))),
    (Owner::AwsVpcCni,    Chain(Starts("CNI-E6-"))),
    (Owner::IpMasqAgent,  Chain(Is("IP-MASQ-AGENT"))),
    (Owner::IpMasqAgent,  Chain(Is("IP-MASQ"))),
    (Owner::Kindnet,      Chain(Is("KIND-MASQ-AGENT"))),
    (Owner::CniPortmap,   Chain(Starts("CNI-HOSTPORT-"))),
    (Owner::CniPortmap,   Chain(Starts("CNI-DN-"))),
    (Owner::CniPortmap,   Chain(Starts("CNI-SN-"))),
    (Owner::CniBridge,    Chain(Hex("CNI-", 24))),
    (Owner::Podman,       Chain(Starts("NETAVARK-"))),
    (Owner::Other,        Chain(Is("DOCKER-USER"))), // made by Docker, filled by the administrator
    (Owner::Docker,       Chain(Is("DOCKER"))),
    (Owner::Docker,       Chain(Starts("DOCKER-"))),
    (Owner::Docker,       Chain(Starts("DOCKER_"))),
    (Owner::Antrea,       Chain(Starts("ANTREA-"))),
    (Owner::Weave,        Chain(Is("WEAVE"))),
    (Owner::Weave,        Chain(Starts("WEAVE-"))),
    (Owner::OpenshiftSdn, Chain(Starts("OPENSHIFT-"))),
    (Owner::Istio,        Chain(Starts("ISTIO_"))),
    (Owner::Libvirt,      Chain(Starts("LIBVIRT_"))),
    (Owner::Tailscale,    Chain(Is("ts-postrouting"))),
    (Owner::Tailscale,    Chain(Is("ts-forward"))),
    (Owner::Tailscale,    Chain(Is("ts-input"))),
    (Owner::Firewalld,    Chain(Is("POSTROUTING_ZONES"))),
    (Owner::Firewalld,    Chain(Around("POST_", "_allow"))),
    (Owner::Firewalld,    Chain(Around("POST_", "_pre"))),
    (Owner::Firewalld,    Chain(Around("POST_", "_post"))),

    (Owner::KubeProxy,    Comment(Starts("kubernetes postrouting rules"))),
    (Owner::KubeProxy,    Comment(Starts("kubernetes service traffic requiring SNAT"))),
    (Owner::KubeProxy,    Comment(Starts("kubernetes service "))),
    (Owner::KubeProxy,    Comment(Starts("Kubernetes endpoints dst ip:port"))),
    (Owner::Kubelet,      Comment(Starts("kubenet: "))),
    (Owner::Flannel,      Comment(Is("flanneld masq"))),
    (Owner::Calico,       Comment(Starts("cali:"))),
    (Owner::Cilium,       Comment(Starts("cilium-feeder:"))),
    (Owner::Cilium,       Comment(Starts("cilium masquerade "))),
    (Owner::Cilium,       Comment(Starts("cilium host->cluster "))),
    (Owner::AwsVpcCni,    Comment(Is("AWS SNAT CHAIN"))),
    (Owner::AwsVpcCni,    Comment(Starts("AWS, "))),
    (Owner::AwsVpcCni,    Comment(Starts("name: \"aws-cni\" id: \""))),
    (Owner::IpMasqAgent,  Comment(Starts("ip-masq-agent:"))),
    (Owner::Kindnet,      Comment(Starts("kind-masq-agent:"))),
    (Owner::CniPortmap,   Comment(Starts("CNI portfwd "))),
    (Owner::CniBridge,    Comment(Around("name: \"", "\""))),
    (Owner::Podman,       Comment(Starts("netavark portfw "))),
    (Owner::Antrea,       Comment(Starts("Antrea: "))),
    (Owner::Weave,        Comment(Is("Prevent SNAT to locally running containers"))),
    (Owner::OpenshiftSdn, Comment(Is("rules for masquerading OpenShift traffic"))),

    (Owner::KubeRouter,   Ipset(Starts("kube-router-"))),
    (Owner::KubeRouter,   Ipset(Starts("inet6:kube-router-"))),
];
