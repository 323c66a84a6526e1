use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::*;
use crate::decode::testing;
use crate::netfilter::netlink::{self, Writer};
use crate::netfilter::nfnetlink::Nfgenmsg;
use crate::netfilter::nftables;
use crate::netfilter::nftables::uapi::NFT_MSG_NEWRULE;
use crate::redact::redact;
use crate::snapshot::Reading;
use crate::snapshot::netfilter::{Chain, Family, PortRandomization, Set, Test};

/// A rule as it is written for iptables, as far as it matters here.
fn rule(text: &str, comment: &str) -> Rule {
    let mut steps = Vec::new();
    let mut words = text.split(' ').filter(|word| !word.is_empty());
    let mut inverted = false;
    let mut nat: Option<Nat> = None;
    let next = |words: &mut dyn Iterator<Item = &str>| words.next().expect("a value").to_owned();
    while let Some(word) = words.next() {
        let test = |field, (mask, value)| Test { field, condition: Condition::Masked { mask, value } };
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
                nat = Some(Nat { action, addresses, ports, randomization: PortRandomization::None, persistent: false });
                continue;
            }
            "--to-ports" => {
                next(&mut words);
                nat.as_mut().expect("a target").ports = Chosen::Range(1024, 65535);
                continue;
            }
            "-m" => {
                steps.push(Step::Match(Match::Occasional(next(&mut words))));
                continue;
            }
            "--set" => {
                let index = next(&mut words).parse().expect("an index");
                let end = if next(&mut words) == "src" { End::Source } else { End::Destination };
                steps.push(Step::Match(Match::Ipset { index, ends: vec![end], inverted }));
                inverted = false;
                continue;
            }
            "--src-local" => Test::within(Field::SourceType(TypeScope::Any), vec![(2, 2)]),
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

/// A chain of rules, the last of which is asked about; set 7 is kube-router's.
fn hit(table: &str, chain: &str, rules: &[&str], comment: &str) -> (Owner, Option<usize>) {
    let id = ChainId { family: Family::Ipv4, table: table.into(), chain: chain.into() };
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
        family: None,
        sets: Vec::new(),
    };
    let ruleset = Ruleset {
        chains: BTreeMap::from([(id.clone(), Chain::new(None, Reading::Ok(std::sync::Arc::new(rules.clone()))))])
            .into(),
        sets: BTreeMap::from([
            (SetId::Ipset(7), set("kube-router-pod-subnets")),
            (SetId::Ipset(8), set("inet6:kube-router-pod-subnets")),
        ])
        .into(),
        ..Ruleset::default()
    };
    let signed = SIGNATURES.iter().position(|(_, signature)| is_signed(*signature, &ruleset, &id, &rules[last]));
    let row = signed.or_else(|| Some(SIGNATURES.len() + shape(&ruleset, &id, &rules[last])?));
    (owner(&ruleset, &id, &rules[last]), row)
}

const MASQUERADE: &str = "-j MASQUERADE";

/// Table, chain, rule, comment.
#[rustfmt::skip]
const NAMED: &[(Owner, &str, &str, &str, &str)] = &[
    (Owner::KubeProxy, "nat", "KUBE-POSTROUTING", MASQUERADE, "kubernetes service traffic requiring SNAT"),
    (Owner::KubeProxy, "nat", "KUBE-POSTROUTING", MASQUERADE, ""),
    (Owner::KubeProxy, "nat", "KUBE-FIREWALL", MASQUERADE, ""),
    (Owner::KubeProxy, "kube-proxy", "masquerading", MASQUERADE, ""),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE, "kubernetes postrouting rules"),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE, "kubernetes service traffic requiring SNAT"),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE, "kubernetes service portals"),
    (Owner::KubeProxy, "nat", "POSTROUTING", MASQUERADE,
        "Kubernetes endpoints dst ip:port, source ip for solving hairpin purpose"),
    (Owner::Kubelet, "mangle", "KUBE-KUBELET-CANARY", "", ""),
    (Owner::Kubelet, "mangle", "KUBE-IPTABLES-HINT", "", ""),
    (Owner::Kubelet, "nat", "KUBE-MARK-DROP", "", ""),
    (Owner::Kubelet, "filter", "KUBE-FIREWALL", "", ""),
    (Owner::Kubelet, "nat", "POSTROUTING", MASQUERADE, "kubenet: SNAT for outbound traffic from cluster"),
    (Owner::KubeRouter, "filter", "KUBE-ROUTER-INPUT", "", ""),
    (Owner::KubeRouter, "filter", "KUBE-NWPLCY-DEFAULT", "", ""),
    (Owner::KubeRouter, "filter", "KUBE-POD-FW-ABCDEF", "", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", "--set 7 src ! --set 7 dst -j MASQUERADE", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", "--set 8 src ! --set 8 dst -j MASQUERADE", ""),
    (Owner::KubeRouter, "nat", "POSTROUTING", "-m ipvs -j SNAT", ""),
    (Owner::Flannel, "nat", "FLANNEL-POSTRTG", MASQUERADE, "flanneld masq"),
    (Owner::Flannel, "nat", "POSTROUTING", MASQUERADE, "flanneld masq"),
    (Owner::Flannel, "flannel-ipv4", "postrtg", MASQUERADE, ""),
    (Owner::Flannel, "flannel-ipv6", "postrtg", MASQUERADE, ""),
    (Owner::Calico, "nat", "cali-nat-outgoing", MASQUERADE, "cali:flqWnvo8yq4ULQLa"),
    (Owner::Calico, "nat", "POSTROUTING", MASQUERADE, "cali:O3lYWMrLQYEMJtB5"),
    (Owner::Calico, "calico", "nat-cali-nat-outgoing", MASQUERADE, "cali:JjuWIaIfSLZi41Xk;"),
    (Owner::Cilium, "nat", "CILIUM_POST_nat", MASQUERADE, "cilium masquerade non-cluster"),
    (Owner::Cilium, "nat", "OLD_CILIUM_POST_nat", MASQUERADE, ""),
    (Owner::Cilium, "nat", "POSTROUTING", MASQUERADE, "cilium-feeder: CILIUM_POST_nat"),
    (Owner::Cilium, "nat", "POSTROUTING", MASQUERADE, "cilium masquerade non-cluster"),
    (Owner::Cilium, "nat", "POSTROUTING", "-j SNAT", "cilium host->cluster from 127.0.0.1 masquerade"),
    (Owner::AwsVpcCni, "nat", "AWS-SNAT-CHAIN-0", "-j SNAT", "AWS, SNAT"),
    (Owner::AwsVpcCni, "nat", "AWS-CONNMARK-CHAIN-0", "", "AWS, CONNMARK"),
    (Owner::AwsVpcCni, "aws-cni", "nat-prerouting", "", ""),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "AWS SNAT CHAIN"),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "AWS, SNAT"),
    (Owner::AwsVpcCni, "nat", "CNI-E4-5740307710ebfd5fb24f5", "-j SNAT", "name: \"aws-cni\" id: \"0123\""),
    (Owner::AwsVpcCni, "nat", "CNI-E6-5740307710ebfd5fb24f5", "-j SNAT", ""),
    (Owner::AwsVpcCni, "nat", "POSTROUTING", "-j SNAT", "name: \"aws-cni\" id: \"0123\""),
    (Owner::IpMasqAgent, "nat", "IP-MASQ-AGENT", MASQUERADE, "ip-masq-agent: outbound traffic"),
    (Owner::IpMasqAgent, "nat", "IP-MASQ", MASQUERADE, ""),
    (Owner::IpMasqAgent, "nat", "POSTROUTING", MASQUERADE, "ip-masq-agent: ensure nat POSTROUTING directs all …"),
    (Owner::Kindnet, "nat", "KIND-MASQ-AGENT", MASQUERADE, "kind-masq-agent: outbound traffic"),
    (Owner::Kindnet, "nat", "POSTROUTING", MASQUERADE, "kind-masq-agent: ensure nat POSTROUTING directs all …"),
    (Owner::Kindnet, "kindnet-ipmasq", "postrouting", MASQUERADE, "masquerade traffic"),
    (Owner::CniPortmap, "nat", "CNI-HOSTPORT-MASQ", MASQUERADE, ""),
    (Owner::CniPortmap, "nat", "POSTROUTING", MASQUERADE, "CNI portfwd requiring masquerade"),
    (Owner::CniPortmap, "nat", "CNI-DN-e39780ea08b399fa3bc03", "", ""),
    (Owner::CniPortmap, "nat", "CNI-SN-e39780ea08b399fa3bc03", MASQUERADE, ""),
    (Owner::CniPortmap, "cni_hostport", "masquerading", MASQUERADE, ""),
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
    (Owner::Antrea, "nat", "ANTREA-POSTROUTING", MASQUERADE, "Antrea: masquerade Pod to external packets"),
    (Owner::Antrea, "nat", "POSTROUTING", MASQUERADE, "Antrea: jump to Antrea postrouting rules"),
    (Owner::Weave, "nat", "WEAVE", "-s 10.32.0.0/12 ! -d 10.32.0.0/12 -j MASQUERADE", ""),
    (Owner::Weave, "nat", "WEAVE-EXPOSE", "", ""),
    (Owner::Weave, "nat", "POSTROUTING", "", "Prevent SNAT to locally running containers"),
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
    (Owner::Istio, "nat", "ISTIO_OUTPUT", "", ""),
];

/// Rules of one chain, of which the last is asked about.
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
    (Owner::Other, &["-m ipvs -j MASQUERADE"]),
    (Owner::KubeRouter, &["--set 1 src ! --set 1 dst ! --set 2 dst -j MASQUERADE"]),
];

/// Names that resemble.
#[rustfmt::skip]
const NOBODYS: &[(&str, &str, &str)] = &[
    ("nat", "POSTROUTING", "kubernetes nodes go out here"),
    ("nat", "POSTROUTING", "AWS uplink"),
    ("nat", "POSTROUTING", "cilium is not used here"),
    ("nat", "POSTROUTING", "flanneld masq, but mine"),
    ("nat", "POSTROUTING", "calico"),
    ("nat", "POSTROUTING", "name: \"open"),
    ("nat", "POSTROUTING", "MASQUERADE"),
    ("nat", "KUBERNETES", ""),
    ("nat", "CNI-mine", ""),
    ("nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1", ""),
    ("nat", "CNI-0b9a2c0f2ea8f8bb2b8b6d1f0", ""),
    ("nat", "POST_mine", ""),
    ("nat", "POSTROUTING_direct", ""),
    ("nat", "MY-DOCKER", ""),
    ("nat", "ts-mine", ""),
    ("my-kube-proxy", "postrouting", ""),
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
    let missed: Vec<usize> = (0..SIGNATURES.len() + SHAPES.len()).filter(|row| !rows.contains(row)).collect();
    assert!(missed.is_empty(), "rows without a test: {missed:?}");
    let owners: BTreeSet<&str> = SIGNATURES.iter().map(|(owner, _)| owner.name()).collect();
    assert!(Owner::ALL.iter().all(|owner| owners.contains(owner.name())), "an owner without a row");
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

/// A comment after `capture --redact`: that of a rule of nf_tables.
fn redacted(comment: &str) -> String {
    let length = u8::try_from(comment.len() + 1).expect("a short comment");
    let userdata = Some([&[0, length], comment.as_bytes(), &[0]].concat().into());
    let rule = nftables::Rule { table: "nat".into(), userdata, ..nftables::Rule::default() };
    let mut out = Writer::kernel();
    nftables::Message { header: Nfgenmsg::default(), body: rule.into() }.emit(&mut out);
    let message = netlink::frame(NFT_MSG_NEWRULE, 0, &out.finish());
    let mut capture = testing::capture();
    let name = "netlink/netfilter/nft-1/rules/ipv4/nat/POSTROUTING";
    capture.answers.insert(name.into(), Reading::Ok(message));
    redact(&mut capture);
    let bytes = capture.answers[name].ok().expect("kept");
    let message = nftables::Message::parse(NFT_MSG_NEWRULE, &bytes[netlink::HEADER_LENGTH..]).expect("framing");
    let nftables::Body::Rule(nftables::Rule { userdata: Some(data), .. }) = message.body else { panic!("a rule") };
    String::from_utf8(data[2..data.len() - 1].to_vec()).expect("text")
}

#[test]
fn redaction_leaves_everyone_recognisable() {
    for (expected, table, chain, text, comment) in NAMED {
        assert_eq!(hit(table, chain, &[text], &redacted(comment)).0, *expected, "{comment}: {}", redacted(comment));
    }
    for (table, chain, comment) in NOBODYS {
        assert_eq!(hit(table, chain, &[MASQUERADE], &redacted(comment)).0, Owner::Other, "{}", redacted(comment));
    }
    assert_eq!(redacted("name: \"aws-cni\" id: \"42\""), "name: \"aws-cni\" id: \"xx\"");
}
