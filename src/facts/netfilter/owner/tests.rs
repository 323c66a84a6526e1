use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;
use crate::facts::Reading;
use crate::facts::netfilter::{Chain, Family, FieldTest, PortRandomization, Set};
use crate::netfilter::netlink::{self, MessageWriter};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables;
use crate::netfilter::nftables::uapi::NFT_MSG_NEWRULE;
use crate::read::testing;
use crate::redact::redact;

/// A rule in iptables' syntax, as far as owners depend on it.
fn rule(text: &str, comment: &str) -> Rule {
    let mut steps = Vec::new();
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut inverted = false;
    let mut nat: Option<Nat> = None;
    let next = |words: &mut dyn Iterator<Item = &str>| words.next().expect("a value").to_owned();
    while let Some(word) = words.next() {
        let test = |field, (mask, value)| FieldTest { field, condition: Comparison::Masked { mask, value } };
        let name = |name: &str| {
            let mut bytes = [0; 16];
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            (u128::MAX << (120 - 8 * name.len()), u128::from_be_bytes(bytes))
        };
        let one = match word {
            "!" => {
                inverted = true;
                continue;
            }
            "-j" => {
                let action = match next(&mut words).as_str() {
                    "MASQUERADE" => NatAction::Masquerade,
                    "SNAT" => NatAction::Snat,
                    _ => continue,
                };
                let (addresses, ports) = (Chosen::Unset, Chosen::Unset);
                nat = Some(Nat {
                    action,
                    addresses,
                    ports,
                    randomization: PortRandomization::None,
                    persistent: false,
                    map: None,
                });
                continue;
            }
            "--to-ports" => {
                next(&mut words);
                nat.as_mut().expect("a target").ports = Chosen::Range(1024, 65535);
                continue;
            }
            "-m" => {
                steps.push(Step::Match(Match::NonDeterministic(next(&mut words).replace('_', " "))));
                continue;
            }
            "--set" => {
                let index = next(&mut words).parse().expect("an index");
                let end = if next(&mut words) == "src" { End::Source } else { End::Destination };
                steps.push(Step::Match(Match::Ipset { index, ends: vec![end], inverted }));
                inverted = false;
                continue;
            }
            "--src-local" => FieldTest::within(Field::SourceType(TypeScope::Any), vec![(2, 2)]),
            "-o" => test(Field::OutputName, name(&next(&mut words))),
            "-p" => test(Field::L4Proto, (0xff, u128::from(next(&mut words).parse::<u8>().expect("a number")))),
            "--dport" => test(Field::DestinationPort, (0xffff, u128::from(next(&mut words).parse::<u16>().unwrap()))),
            "-s" | "-d" => {
                let text = next(&mut words);
                let (address, length) = text.split_once('/').expect("a prefix");
                let length: u32 = length.parse().expect("a length");
                let (field, mask, value) = match (address.parse().expect("an address"), word) {
                    (IpAddr::V4(a), "-s") => (Field::Ipv4Source, u32::MAX << (32 - length), a.to_bits().into()),
                    (IpAddr::V4(a), _) => (Field::Ipv4Destination, u32::MAX << (32 - length), a.to_bits().into()),
                    (IpAddr::V6(a), "-s") => (Field::Ipv6Source, 0, a.to_bits()),
                    (IpAddr::V6(a), _) => (Field::Ipv6Destination, 0, a.to_bits()),
                };
                let mask = if mask == 0 { u128::MAX << (128 - length) } else { mask.into() };
                test(field, (mask, value))
            }
            other => panic!("{other}?"),
        };
        steps.push(Step::Match(Match::Tests { tests: vec![one], inverted }));
        inverted = false;
    }
    steps.extend(nat.map(Step::Nat));
    Rule { position: 1, comment: comment.into(), steps, counter: None, from_xtables: true, fingerprint: 0 }
}

/// The owner of the last of these rules, and what identifies it. Sets 7 and 8 are kube-router's, and table nat has a
/// chain of firewalld's.
fn hit(table: &str, chain: &str, rules: &[&str], comment: &str) -> (Owner, Option<String>) {
    let id = ChainId { family: Family::Ipv4, table: table.into(), chain: chain.into() };
    let zones = ChainId { family: Family::Ipv4, table: "nat".into(), chain: "POSTROUTING_ZONES".into() };
    let last = rules.len() - 1;
    let comment_of = |at| if at == last { comment } else { "" };
    let rules: Vec<Rule> = rules.iter().enumerate().map(|(at, text)| rule(text, comment_of(at))).collect();
    let set = |name: &str| Set {
        name: name.into(),
        kind: "hash:net".into(),
        stable: false,
        members: BTreeMap::new(),
        elements: Reading::Failed("not read".into()),
        verdicts: vec![],
        data: vec![],
        family: None,
        sets: Vec::new(),
    };
    let chain = |rules: Vec<Rule>| Chain::new(None, Reading::Ok(std::sync::Arc::new(rules)));
    let ruleset = Ruleset {
        chains: BTreeMap::from([(zones, chain(vec![])), (id.clone(), chain(rules.clone()))]).into(),
        sets: BTreeMap::from([
            (SetId::Ipset(7), set("kube-router-pod-subnets")),
            (SetId::Ipset(8), set("inet6:kube-router-pod-subnets")),
            (SetId::Ipset(9), set("kube-router-mine")),
        ])
        .into(),
        ..Ruleset::default()
    };
    let row = signature(&ruleset, &id, &rules[last]).map(|(owner, signature)| row(owner, signature));
    (owner(&ruleset, &id, &rules[last]), row)
}

fn row(owner: Owner, signature: Signature) -> String {
    format!("{owner} {signature:?}")
}

const MASQUERADE: &str = "-j MASQUERADE";
const IPVS: &str = "-m ipvs_--ipvs_--vdir_ORIGINAL_--vmethod_MASQ -j SNAT";

/// Table, chain, rule, comment.
#[rustfmt::skip]
const NAMED: &[(Owner, &str, &str, &str, &str)] = &[
    (Owner::KubeProxy, "nat", "KUBE-POSTROUTING", MASQUERADE, "kubernetes service traffic requiring SNAT"),
    (Owner::KubeProxy, "nat", "KUBE-POSTROUTING", MASQUERADE, ""),
    (Owner::KubeProxy, "nat", "KUBE-FIREWALL", MASQUERADE, ""),
    (Owner::KubeProxy, "kube-proxy", "masquerading", MASQUERADE, ""),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE, "kubernetes postrouting rules"),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE, "kubernetes service traffic requiring SNAT"),
    (Owner::KubeProxy, "nat", "KUBE-LOAD-BALANCER", MASQUERADE, ""),
    (Owner::KubeProxy, "nat", "KUBE-SVC-NPX46M4PTMTKRN6Y", MASQUERADE, "default/kubernetes:https"),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE,
        "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    (Owner::Kubelet, "mangle", "KUBE-KUBELET-CANARY", "", ""),
    (Owner::Kubelet, "mangle", "KUBE-IPTABLES-HINT", "", ""),
    (Owner::Kubelet, "nat", "KUBE-MARK-DROP", "", ""),
    (Owner::Kubelet, "filter", "KUBE-FIREWALL", "", ""),
    (Owner::Kubenet, "nat", "POSTROUTING", MASQUERADE, "kubenet: SNAT for outbound traffic from cluster"),
    (Owner::Kubenet, "nat", "POSTROUTING", "-s 127.0.0.0/8 -o cbr0 -j MASQUERADE",
        "SNAT for localhost access to hostports"),
    (Owner::Other, "nat", "POSTROUTING", "-s 127.0.0.0/8 -o lo -j MASQUERADE", "SNAT for localhost access to hostports"),
    (Owner::KubeRouter, "filter", "KUBE-ROUTER-INPUT", "", ""),
    (Owner::KubeRouter, "filter", "KUBE-NWPLCY-DEFAULT", "", ""),
    (Owner::KubeRouter, "filter", "KUBE-POD-FW-ABCDEFGHIJKLMNO2", "", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", "--set 7 src ! --set 7 dst -j MASQUERADE", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", "--set 8 src ! --set 8 dst -j MASQUERADE", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", IPVS, ""),
    (Owner::KubeRouter, "nat", "POSTROUTING",
        "-m ipvs_--ipvs_--vdir_ORIGINAL_--vmethod_MASQ ! -s 10.0.0.0/8 ! -d 10.0.0.0/8 -j SNAT", ""),
    (Owner::Other, "nat", "POSTROUTING", "-m ipvs_--ipvs_--vaddr_--vport -j SNAT", ""),
    (Owner::KubeRouter, "nat", "KUBE-ROUTER-HAIRPIN", "-j SNAT", ""),
    (Owner::Flannel, "nat", "FLANNEL-POSTRTG", MASQUERADE, ""),
    (Owner::Flannel, "nat", "FLANNEL-POSTRTG", MASQUERADE, "flanneld masq"),
    (Owner::Flannel, "nat", "POSTROUTING", MASQUERADE, "flanneld masq"),
    (Owner::Flannel, "flannel-ipv4", "postrtg", MASQUERADE, ""),
    (Owner::Flannel, "flannel-ipv6", "postrtg", MASQUERADE, ""),
    (Owner::Calico, "nat", "cali-nat-outgoing", MASQUERADE, "cali:flqWnvo8yq4ULQLa"),
    (Owner::Calico, "nat", "POSTROUTING", MASQUERADE, "cali:O3lYWMrLQYEMJtB5"),
    (Owner::Calico, "nat", "cali-nat-outgoing", MASQUERADE, ""),
    (Owner::Calico, "calico", "nat-cali-nat-outgoing", MASQUERADE, ""),
    (Owner::Calico, "calico", "nat-cali-nat-outgoing", MASQUERADE, "cali:JjuWIaIfSLZi41Xk;"),
    (Owner::Cilium, "nat", "CILIUM_POST_nat", MASQUERADE, "cilium masquerade non-cluster"),
    (Owner::Cilium, "nat", "OLD_CILIUM_POST_nat", MASQUERADE, ""),
    (Owner::Cilium, "nat", "POSTROUTING", MASQUERADE, "cilium-feeder: CILIUM_POST_nat"),
    (Owner::Cilium, "nat", "POSTROUTING", MASQUERADE, "cilium masquerade non-cluster"),
    (Owner::Cilium, "nat", "POSTROUTING", MASQUERADE, "cilium hostport loopback masquerade"),
    (Owner::Cilium, "nat", "POSTROUTING", "-j SNAT", "cilium host->cluster from 127.0.0.1 masquerade"),
    (Owner::AwsVpcCni, "nat", "AWS-SNAT-CHAIN-0", "-j SNAT", "AWS, SNAT"),
    (Owner::AwsVpcCni, "nat", "AWS-CONNMARK-CHAIN-0", "", "AWS, CONNMARK"),
    (Owner::AwsVpcCni, "aws-cni", "nat-prerouting", "", ""),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "AWS SNAT CHAIN"),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "AWS, SNAT"),
    (Owner::AwsVpcCni, "nat", "CNI-E4-5740307710ebfd5fb24f5", "-j SNAT", "name: \"aws-cni\" id: \"0123\""),
    (Owner::AwsVpcCni, "nat", "CNI-E6-5740307710ebfd5fb24f5", "-j SNAT", ""),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "name: \"aws-cni\" id: \"0123\""),
    (Owner::IpMasqAgent, "nat", "IP-MASQ-AGENT", MASQUERADE, ""),
    (Owner::IpMasqAgent, "nat", "IP-MASQ-AGENT", MASQUERADE, "ip-masq-agent: outbound traffic"),
    (Owner::IpMasqAgent, "nat", "IP-MASQ", MASQUERADE,
        "ip-masq-agent: outbound traffic is subject to MASQUERADE (must be last in chain)"),
    (Owner::Other, "nat", "IP-MASQ", MASQUERADE,
        "ip-masq: outbound traffic is subject to MASQUERADE (must be last in chain)"),
    (Owner::IpMasqAgent, "nat", "POSTROUTING", MASQUERADE, "ip-masq-agent: ensure nat POSTROUTING directs all …"),
    (Owner::Kindnet, "nat", "KIND-MASQ-AGENT", MASQUERADE, ""),
    (Owner::Kindnet, "nat", "KIND-MASQ-AGENT", MASQUERADE, "kind-masq-agent: outbound traffic"),
    (Owner::Kindnet, "nat", "POSTROUTING", MASQUERADE, "kind-masq-agent: ensure nat POSTROUTING directs all …"),
    (Owner::Kindnet, "kindnet-ipmasq", "postrouting", MASQUERADE, "masquerade traffic"),
    (Owner::CniPortmap, "nat", "CNI-HOSTPORT-MASQ", MASQUERADE, ""),
    (Owner::CniPortmap, "nat", "POSTROUTING", MASQUERADE, "CNI portfwd requiring masquerade"),
    (Owner::CniPortmap, "nat", "CNI-DN-e39780ea08b399fa3bc03", "", ""),
    (Owner::CniPortmap, "nat", "CNI-SN-e39780ea08b399fa3bc03", MASQUERADE, ""),
    (Owner::CniPortmap, "cni_hostport", "masquerading", MASQUERADE, ""),
    (Owner::CniBridge, "nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f", MASQUERADE, ""),
    (Owner::CniBridge, "nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f",
        "! -d 224.0.0.0/4 -j MASQUERADE", "name: \"podman\" id: \"01\""),
    (Owner::CniBridge, "nat", "POSTROUTING", MASQUERADE, "name: \"podman\" id: \"0123abcd\""),
    (Owner::CniBridge, "cni_plugins_masquerade", "masq_checks", MASQUERADE, "0123abcd"),
    (Owner::Docker, "nat", "POSTROUTING", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", ""),
    (Owner::Docker, "nat", "POSTROUTING", "! -o br-0123456789ab -s 172.18.0.0/16 -j MASQUERADE", ""),
    (Owner::Docker, "nat", "POSTROUTING", "-s 172.19.0.0/16 ! -o docker_gwbridge -j SNAT", ""),
    (Owner::Docker, "nat", "POSTROUTING", "-o docker_gwbridge --src-local -j MASQUERADE", ""),
    (Owner::Other, "nat", "POSTROUTING", "-o eth0 --src-local -j MASQUERADE", ""),
    (Owner::Docker, "nat", "POSTROUTING", "-s fd00:1::/64 ! -o docker0 -j MASQUERADE", ""),
    (Owner::Docker, "nat", "POSTROUTING", "-s 172.17.0.2/32 -d 172.17.0.2/32 -p 6 --dport 80 -j MASQUERADE", ""),
    (Owner::Docker, "nat", "DOCKER", "", ""),
    (Owner::Docker, "nat", "DOCKER-INGRESS", "", ""),
    (Owner::Docker, "nat", "DOCKER_POSTROUTING", "-j SNAT", ""),
    (Owner::Docker, "docker-bridges", "nat-postrouting-out__br-dummy", MASQUERADE, "MASQUERADE"),
    (Owner::Other, "filter", "DOCKER-USER", "", ""),
    (Owner::Podman, "nat", "NETAVARK-HOSTPORT-MASQ", MASQUERADE, ""),
    (Owner::Podman, "nat", "POSTROUTING", MASQUERADE, "netavark portfw masq mark"),
    (Owner::Podman, "netavark", "nv_10_88_0_0_nm16", MASQUERADE, ""),
    (Owner::Podman, "nat", "NETAVARK-1D8721804F16F", MASQUERADE, ""),
    (Owner::Antrea, "nat", "ANTREA-POSTROUTING", MASQUERADE, ""),
    (Owner::Antrea, "nat", "ANTREA-POSTROUTING", MASQUERADE, "Antrea: masquerade Pod to external packets"),
    (Owner::Antrea, "nat", "POSTROUTING", MASQUERADE, "Antrea: jump to Antrea postrouting rules"),
    (Owner::Weave, "nat", "WEAVE", "-s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE", ""),
    (Owner::Weave, "nat", "WEAVE-EXPOSE", "", ""),
    (Owner::OpenshiftSdn, "nat", "OPENSHIFT-MASQUERADE-2", MASQUERADE, ""),
    (Owner::OpenshiftSdn, "nat", "POSTROUTING", MASQUERADE, "rules for masquerading OpenShift traffic"),
    (Owner::Tailscale, "nat", "ts-postrouting", MASQUERADE, ""),
    (Owner::Tailscale, "filter", "ts-forward", "", ""),
    (Owner::Tailscale, "filter", "ts-input", "", ""),
    (Owner::Libvirt, "nat", "LIBVIRT_PRT", "-s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE", ""),
    (Owner::Libvirt, "libvirt_network", "guest_nat", MASQUERADE, ""),
    (Owner::Firewalld, "nat", "POST_public_allow", "! -o lo -j MASQUERADE", ""),
    (Owner::Firewalld, "nat", "POST_public_pre", MASQUERADE, ""),
    (Owner::Firewalld, "nat", "POST_public_post", MASQUERADE, ""),
    (Owner::Firewalld, "nat", "POSTROUTING_ZONES", "", ""),
    (Owner::Firewalld, "firewalld", "nat_POST_public_allow", MASQUERADE, ""),
    (Owner::Istio, "nat", "ISTIO_POSTRT", "-j SNAT", ""),
    (Owner::Istio, "istio-ambient-nat", "istio-postrouting", "-j SNAT", ""),
    (Owner::OvnKubernetes, "nat", "OVN-KUBE-SNAT-MGMTPORT", "-o ovn-k8s-mp0 -j SNAT", "OVN SNAT to Management Port"),
    (Owner::OvnKubernetes, "ovn-kubernetes", "mgmtport-snat", "-j SNAT", ""),
    (Owner::KubeOvn, "nat", "OVN-MASQUERADE", MASQUERADE, ""),
    (Owner::KubeOvn, "nat", "OVN-POSTROUTING", "-j SNAT", ""),
    (Owner::KubeOvn, "nat", "OVN-NAT-PSUBNET-0123456789ab", MASQUERADE, "natPolicySubnet-ovn-default"),
    (Owner::Neutron, "nat", "neutron-l3-agent-float-snat", "-j SNAT", ""),
    (Owner::Neutron, "nat", "neutron-openvswi-snat", "-j SNAT", ""),
    (Owner::Neutron, "nat", "neutron-postrouting-bottom", "-j SNAT", "Perform source NAT on outgoing traffic."),
    (Owner::AzureCns, "nat", "SWIFT-POSTROUTING", "-j SNAT", ""),
    (Owner::AzureCns, "nat", "SWIFT", "-j SNAT", ""),
    (Owner::Openwrt, "fw4", "srcnat_wan", MASQUERADE, ""),
    (Owner::Openwrt, "fw4", "srcnat", "-j SNAT", ""),
    (Owner::Openwrt, "fw4", "upnp_postrouting", MASQUERADE, "!fw4: Masquerade IPv4 wan traffic"),
    (Owner::Other, "fw4", "upnp_postrouting", MASQUERADE, ""),
    (Owner::Openwrt, "nat", "zone_wan_postrouting", MASQUERADE, "!fw3"),
    (Owner::Openwrt, "nat", "zone_lan_postrouting", "-j SNAT", "!fw3: web (reflection)"),
    (Owner::Systemd, "io.systemd.nat", "postrouting", MASQUERADE, ""),
    (Owner::Lxd, "nat", "POSTROUTING", "-s 10.158.93.0/24 ! -d 10.158.93.0/24 -j MASQUERADE",
        "generated for LXD network lxdbr0"),
    (Owner::Lxd, "nat", "POSTROUTING", "-s 10.0.0.2/32 -d 10.0.0.2/32 -p 6 --dport 80 -j MASQUERADE",
        "generated for LXD container c1 (web)"),
    (Owner::Lxd, "lxd", "pstrt.lxdbr0", MASQUERADE, ""),
    (Owner::Other, "lxd", "postrouting", MASQUERADE, ""),
    (Owner::Incus, "nat", "POSTROUTING", MASQUERADE, "generated for Incus network incusbr0"),
    (Owner::Incus, "incus", "fwdpstrt.incusbr0", MASQUERADE, ""),
    (Owner::Netbird, "nat", "NETBIRD-RT-NAT", MASQUERADE, ""),
    (Owner::Netbird, "netbird", "netbird-rt-postrouting", MASQUERADE, ""),
    (Owner::NetworkManager, "nm-shared-wlan0", "nat_postrouting", MASQUERADE, ""),
    (Owner::NetworkManager, "nat", "POSTROUTING", "-s 10.42.0.0/24 ! -d 10.42.0.0/24 -j MASQUERADE", "nm-shared-wlan0"),
    (Owner::Submariner, "nat", "SUBMARINER-POSTROUTING", "-j SNAT", ""),
    (Owner::Submariner, "submariner", "SM-GN-EGRESS-CLUSTER", "-j SNAT", ""),
    (Owner::CriO, "nat", "CRIO-HOSTPORTS-MASQ", MASQUERADE, ""),
    (Owner::CriO, "nat", "CRIO-MASQ-5N7UH5JAXCVP5UJR", MASQUERADE, "pod3_ns1 hostport 8443"),
    (Owner::CriO, "crio-hostports", "masquerading", MASQUERADE, ""),
    (Owner::Kilo, "nat", "KILO-NAT", MASQUERADE, ""),
    (Owner::Kilo, "nat", "KILO-NAT", MASQUERADE, "Kilo: NAT remaining packets"),
    (Owner::Liqo, "nat", "LIQO-POSTROUTING", MASQUERADE, ""),
    (Owner::Liqo, "nat", "LIQO-PSTRT-CLS-0123abcd", "-j SNAT", ""),
    (Owner::Liqo, "remap-podcidr", "incoming", "-j SNAT", ""),
    (Owner::Liqo, "milan-masquerade-bypass", "pre-postrouting", "-j SNAT", ""),
    (Owner::Liqo, "web-remap-ipmapping-fabric-default", "postrouting", MASQUERADE, ""),
    (Owner::Nixos, "nat", "nixos-nat-post", MASQUERADE, ""),
    (Owner::Nixos, "nixos-nat", "post", MASQUERADE, "from internal IPs"),
    (Owner::OpenvpnAs, "nat", "AS0_NAT", "-o eth0 -j SNAT", ""),
    (Owner::OpenvpnAs, "nat", "AS0_NAT_TEST", "-j SNAT", ""),
    // The signature of the rule outweighs that of its chain.
    (Owner::Calico, "nat", "KUBE-POSTROUTING", MASQUERADE, "cali:flqWnvo8yq4ULQLa"),
    (Owner::Flannel, "kube-proxy", "masquerading", MASQUERADE, "flanneld masq"),
    (Owner::AwsVpcCni, "nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f", "-j SNAT", "name: \"aws-cni\" id: \"0123\""),
    (Owner::KubeProxy, "nat", "KUBE-POSTROUTING", MASQUERADE, "mine"),
];

/// Rules of one chain, with the owner of the last one.
#[rustfmt::skip]
const BESIDE: &[(Owner, &[&str])] = &[
    (Owner::Flannel, &["-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE"]),
    (Owner::Flannel, &["-s fd00:10::/48 ! -d ff00::/8 -j MASQUERADE"]),
    (Owner::Flannel, &["-s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "! -s 10.42.0.0/16 -d 10.42.0.0/16 -j MASQUERADE"]),
    (Owner::Libvirt, &["-s 192.168.122.0/24 ! -d 192.168.122.0/24 -p 6 -j MASQUERADE --to-ports 1024-65535"]),
    (Owner::Libvirt, &["-s 192.168.122.0/24 ! -d 192.168.122.0/24 -p 17 -j MASQUERADE --to-ports 1024-65535",
        "-s 192.168.122.0/24 ! -d 192.168.122.0/24 -j MASQUERADE"]),
    (Owner::Other, &["-s 192.168.122.0/24 ! -d 192.168.122.0/24 -p 17 -j MASQUERADE --to-ports 1024-65535",
        "-s 192.168.7.0/24 ! -d 192.168.7.0/24 -j MASQUERADE"]),
    (Owner::Other, &["-s 10.42.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE",
        "! -s 10.43.0.0/16 -d 10.43.0.0/16 -j MASQUERADE"]),
    (Owner::Other, &["! -s 10.42.0.0/16 -d 10.42.0.0/16 -j MASQUERADE"]),
    (Owner::Other, &["-s 10.8.0.0/24 ! -d 10.8.0.0/24 -j MASQUERADE"]),
    (Owner::Other, &["-s 10.0.0.0/8 -o eth0 -j MASQUERADE"]),
    (Owner::Other, &["-o eth0 -j MASQUERADE"]),
    (Owner::Other, &["-j MASQUERADE"]),
    (Owner::Other, &["-s 10.0.0.0/8 ! -o eth0 -j MASQUERADE"]),
    (Owner::Other, &["-s 172.17.0.0/16 -o docker0 -j MASQUERADE"]),
    (Owner::Other, &["! -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"]),
    (Owner::Other, &["-s 172.17.0.0/16 ! -o br-lan -j MASQUERADE"]),
    (Owner::Other, &["-s 172.17.0.0/16 ! -o br-0123456789ag -j MASQUERADE"]),
    (Owner::Other, &["-s 172.17.0.0/16 ! -o docker0 -m statistic -j MASQUERADE"]),
    (Owner::Other, &["-s 10.0.0.0/8 -d 224.0.0.0/4 -j MASQUERADE"]),
    (Owner::Other, &["-s 10.0.0.0/8 ! -d 239.0.0.0/8 -j MASQUERADE"]),
    (Owner::Other, &["-s 10.0.0.0/8 ! -d 224.0.0.0/4 -j SNAT"]),
    (Owner::Other, &["-s 10.0.0.0/8 ! -d 10.0.0.0/8 -o eth0 -j MASQUERADE --to-ports 1024-65535"]),
    (Owner::Other, &["-s 10.0.0.0/24 -d 10.0.0.0/24 -p 6 --dport 80 -j MASQUERADE"]),
    (Owner::Other, &["--set 1 src ! --set 2 dst -j MASQUERADE"]),
    (Owner::Other, &["--set 9 src ! --set 9 dst -j MASQUERADE"]),
    (Owner::Other, &["-m ipvs_--ipvs_--vdir_ORIGINAL_--vmethod_MASQ -j MASQUERADE"]),
    (Owner::KubeRouter, &["--set 1 src ! --set 1 dst ! --set 2 dst -j MASQUERADE"]),
];

/// Names that resemble those of an owner: table, chain, comment.
#[rustfmt::skip]
const NOBODYS: &[(&str, &str, &str)] = &[
    ("nat", "POSTROUTING", "kubernetes nodes go out here"),
    ("nat", "POSTROUTING", "kubernetes service portals of mine"),
    ("nat", "POSTROUTING", "AWS uplink"),
    ("nat", "POSTROUTING", "AWS, SNAT of mine"),
    ("nat", "POSTROUTING", "cilium is not used here"),
    ("nat", "POSTROUTING", "flanneld masq, but mine"),
    ("nat", "POSTROUTING", "calico"),
    ("nat", "POSTROUTING", "cali:mine"),
    ("nat", "POSTROUTING", "name: \"open"),
    ("nat", "POSTROUTING", "name: \"mine\""),
    ("nat", "POSTROUTING", "MASQUERADE"),
    ("nat", "POSTROUTING", "generated for my network"),
    ("nat", "POSTROUTING", "nm-shared-eth0 for guests"),
    ("nat", "POSTROUTING", "SNAT for localhost access to hostports"),
    ("nat", "KUBERNETES", ""),
    ("nat", "KUBE-POSTROUTING-CUSTOM", ""),
    ("nat", "KUBE-POSTROUTING-CUSTOM", "kubernetes service traffic requiring SNAT"),
    ("nat", "KUBE-SVC-CUSTOM", ""),
    ("nat", "KUBE-SEP-NPX46M4PTMTKRN6YA", ""),
    ("nat", "KUBE-ROUTER-MINE", ""),
    ("nat", "FLANNEL-CUSTOM", ""),
    ("nat", "cali-custom", ""),
    ("nat", "CILIUM_CUSTOM", ""),
    ("nat", "ANTREA-CUSTOM", ""),
    ("nat", "OVN-CUSTOM", ""),
    ("nat", "OVN-KUBE-CUSTOM", ""),
    ("nat", "OVN-NAT-PSUBNET-mine", ""),
    ("nat", "neutron-snat-custom", ""),
    ("nat", "neutron-mine-snat", ""),
    ("nat", "SWIFT-CUSTOM", ""),
    ("nat", "SUBMARINER-CUSTOM", ""),
    ("nat", "CRIO-CUSTOM", ""),
    ("nat", "KILO-CUSTOM", ""),
    ("nat", "LIQO-CUSTOM", ""),
    ("nat", "nixos-custom", ""),
    ("nat", "nixos-nat-post-custom", ""),
    ("nat", "AS0_CUSTOM", ""),
    ("nat", "NETBIRD-CUSTOM", ""),
    ("nat", "AWS-SNAT-CHAIN-CUSTOM", ""),
    ("nat", "CNI-mine", ""),
    ("nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1", ""),
    ("nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f0", ""),
    ("nat", "CNI-HOSTPORT-CUSTOM", ""),
    ("nat", "NETAVARK-CUSTOM", ""),
    ("nat", "DOCKER-CUSTOM", ""),
    ("nat", "DOCKER-USER", ""),
    ("nat", "ISTIO_CUSTOM", ""),
    ("nat", "OPENSHIFT-CUSTOM", ""),
    ("nat", "LIBVIRT_CUSTOM", ""),
    ("nat", "WEAVE-CUSTOM", ""),
    ("nat", "IP-MASQ", ""),
    ("nat", "POST_mine", ""),
    ("mine", "POST_mine_allow", ""),
    ("nat", "POSTROUTING_direct", ""),
    ("nat", "MY-DOCKER", ""),
    ("nat", "ts-mine", ""),
    ("nat", "pstrt.lxdbr0", ""),
    ("nat", "srcnat", ""),
    ("my-kube-proxy", "postrouting", ""),
    ("fw4", "mine", ""),
    ("lxd", "mine", ""),
    ("incus", "mine", ""),
    ("netbird", "mine", ""),
    ("submariner", "mine", ""),
    ("nm-shared-eth0", "mine", ""),
    ("nm-shared", "nat_postrouting", ""),
    ("mine", "pre-postrouting", ""),
    ("nixos", "post", ""),
    ("nat", "calico", ""),
];

#[test]
fn every_row_of_the_table_is_somebodys() {
    let mut rows = BTreeSet::new();
    for (expected, table, chain, text, comment) in NAMED {
        let (owner, row) = hit(table, chain, &[text], comment);
        assert_eq!(owner, *expected, "{table} {chain} {text} {comment}");
        rows.extend(row);
    }
    for (expected, rules) in BESIDE {
        let (owner, row) = hit("nat", "POSTROUTING", rules, "");
        assert_eq!(owner, *expected, "{rules:?}");
        rows.extend(row);
    }
    let all = signatures::all().map(|(owner, signature)| row(owner, signature));
    let missed: Vec<String> = all.filter(|row| !rows.contains(row)).collect();
    assert!(missed.is_empty(), "rows without a test: {missed:#?}");
    let owners: Vec<&str> = signatures::SIGNATURES.iter().map(|(owner, _)| owner.name()).collect();
    let missing = Owner::ALL.iter().filter(|owner| !owners.contains(&owner.name()));
    assert_eq!(missing.collect::<Vec<_>>(), [&Owner::Other], "an owner without a row");
    assert_eq!(owners.iter().collect::<BTreeSet<_>>().len(), owners.len(), "an owner with two entries");
}

#[test]
fn what_only_resembles_is_nobodys() {
    for (table, chain, comment) in NOBODYS {
        assert_eq!(hit(table, chain, &[MASQUERADE], comment), (Owner::Other, None), "{table} {chain} {comment}");
    }
}

#[test]
fn shapes_count_only_in_postrouting_without_a_comment() {
    let shape = "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";
    assert_eq!(hit("nat", "POSTROUTING", &[shape], "mine").0, Owner::Other);
    assert_eq!(hit("nat", "MINE", &[shape], "").0, Owner::Other);
    assert_eq!(hit("mine", "POSTROUTING", &[shape], "").0, Owner::Other);
}

/// A comment of an nf_tables rule after `capture --redact`.
fn redacted(comment: &str) -> String {
    let length = u8::try_from(comment.len() + 1).expect("a short comment");
    let userdata = Some([&[0, length], comment.as_bytes(), &[0]].concat().into());
    let rule = nftables::Rule { table: "nat".into(), userdata, ..nftables::Rule::default() };
    let mut out = MessageWriter::kernel();
    nftables::NftMessage { header: Nfgenmsg::default(), body: rule.into() }.emit(&mut out);
    let message = netlink::frame(NFT_MSG_NEWRULE, 0, &out.finish());
    let mut capture = testing::capture();
    let name = "netlink/netfilter/nft-1/rules/ipv4/nat/POSTROUTING";
    capture.answers.insert(name.into(), Reading::Ok(message));
    redact(&mut capture);
    let bytes = capture.answers[name].ok().expect("kept");
    let message = nftables::NftMessage::parse(NFT_MSG_NEWRULE, &bytes[netlink::HEADER_LENGTH..]).expect("framing");
    let nftables::Body::Rule(nftables::Rule { userdata: Some(data), .. }) = message.body else { panic!("a rule") };
    String::from_utf8(data[2..data.len() - 1].to_vec()).expect("text")
}

#[test]
fn redaction_leaves_everyone_recognisable() {
    for (expected, table, chain, text, comment) in NAMED {
        let comment = redacted(comment);
        assert_eq!(hit(table, chain, &[text], &comment).0, *expected, "{table} {chain}: {comment}");
    }
    for (table, chain, comment) in NOBODYS {
        assert_eq!(hit(table, chain, &[MASQUERADE], &redacted(comment)).0, Owner::Other, "{}", redacted(comment));
    }
    for (before, after) in [
        ("cali:flqWnvo8yq4ULQLa", "cali:xxxxxxxxxxxxxxxx"),
        ("generated for LXD container secret (web)", "generated for LXD container xxxxxxxxxxxx"),
        ("nm-shared-secret0", "nm-shared-xxxxxxx"),
        ("flanneld masq of mine", "xxxxxxxxxxxxxxxxxxxxx"),
        ("mine \"and mine\"", "xxxxxxxxxxxxxxx"),
    ] {
        assert_eq!(redacted(before), after);
    }
    assert_eq!(redacted("name: \"aws-cni\" id: \"42\""), "name: \"aws-cni\" id: \"xx\"");
}
