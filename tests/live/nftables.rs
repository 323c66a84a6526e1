//! Source-NAT rules in nf_tables: natwatch reports what `iptables-save` and `nft` list, rule by rule, for any writer.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::capture::CaptureDir;
use crate::support::exposition::metrics_here;
use crate::support::grammar::{Dice, count_kinds, nft_table, random_rule_sets, seeds};
use crate::support::netns::Netns;
use crate::support::report::{Report, check_here};
use crate::support::rules::{ChainName, assert_rules, assert_series, expected, load, nft, owners};

/// Rules that some software writes, and the owner of the source-NAT rules in each chain.
type Shape = (&'static str, &'static [(&'static str, &'static str)]);

#[rustfmt::skip]
const SHAPES: &[Shape] = &[
    ("administrator.rules", &[("DOCKER-CUSTOM", "other"), ("IP-MASQ", "other"), ("KUBE-POSTROUTING-CUSTOM", "other"), ("OVN-CUSTOM", "other"), ("POSTROUTING", "other"), ("neutron-custom-snat", "other")]),
    ("antrea.rules", &[("ANTREA-POSTROUTING", "antrea")]),
    ("aws-vpc-cni.rules", &[("AWS-SNAT-CHAIN-0", "aws-vpc-cni")]),
    ("azure-cns.rules", &[("SWIFT-POSTROUTING", "azure-cns")]),
    ("calico.nft", &[("nat-cali-POSTROUTING", "calico"), ("nat-cali-nat-outgoing", "calico")]),
    ("calico.rules", &[("cali-POSTROUTING", "calico"), ("cali-nat-outgoing", "calico")]),
    ("cilium.rules", &[("CILIUM_POST_nat", "cilium")]),
    ("cni-plugins.nft", &[("masquerading", "cni-portmap"), ("masq_checks", "cni-bridge")]),
    ("cni-portmap-and-bridge.rules", &[("CNI-HOSTPORT-MASQ", "cni-portmap"), ("CNI-0b9a2c0f2ea8f8bb2b8b6d1f", "cni-bridge")]),
    ("cri-o.nft", &[("masquerading", "cri-o")]),
    ("cri-o.rules", &[("CRIO-MASQ-5N7UH5JAXCVP5UJR", "cri-o")]),
    ("docker.nft", &[("nat-postrouting-out__docker0", "docker")]),
    ("docker.rules", &[("POSTROUTING", "docker")]),
    ("docker.rules6", &[("POSTROUTING", "docker")]),
    ("firewalld.nft", &[("nat_POST_public_allow", "firewalld")]),
    ("firewalld.rules", &[("POST_public_allow", "firewalld"), ("POSTROUTING_direct", "other")]),
    ("flannel-0.12-and-kube-proxy.rules", &[("POSTROUTING", "flannel"), ("KUBE-POSTROUTING", "kube-proxy")]),
    ("flannel-0.20.1-before-kube-proxy.rules", &[("FLANNEL-POSTRTG", "flannel"), ("KUBE-POSTROUTING", "kube-proxy")]),
    ("flannel-head-and-kube-proxy.rules", &[("FLANNEL-POSTRTG", "flannel"), ("KUBE-POSTROUTING", "kube-proxy")]),
    ("flannel-head-ipv6.nft", &[("postrtg", "flannel")]),
    ("flannel-head.nft", &[("postrtg", "flannel")]),
    ("flannel-head.rules6", &[("FLANNEL-POSTRTG", "flannel")]),
    ("incus.nft", &[("fwdpstrt.incusbr0", "incus"), ("pstrt.incusbr0", "incus")]),
    ("ip-masq-agent.rules", &[("IP-MASQ-AGENT", "ip-masq-agent")]),
    ("istio.rules", &[("ISTIO_POSTRT", "istio")]),
    ("k3s-2020.rules", &[("POSTROUTING", "flannel"), ("KUBE-POSTROUTING", "kube-proxy"), ("CNI-HOSTPORT-MASQ", "cni-portmap")]),
    ("kilo.rules", &[("KILO-NAT", "kilo")]),
    ("kindnet.nft", &[("postrouting", "kindnet")]),
    ("kube-ovn.rules", &[("OVN-MASQUERADE", "kube-ovn"), ("OVN-POSTROUTING", "kube-ovn")]),
    ("kube-proxy-1.15.rules", &[("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-proxy-1.16.rules", &[("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-proxy-1.19.rules", &[("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-proxy-1.19.rules6", &[("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-proxy-1.31-ipv6.nft", &[("masquerading", "kube-proxy")]),
    ("kube-proxy-1.31.nft", &[("masquerading", "kube-proxy")]),
    ("kube-proxy-ipvs-and-flannel-0.20.1.rules", &[("FLANNEL-POSTRTG", "flannel"), ("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-proxy-two-name-servers.rules", &[("KUBE-POSTROUTING", "kube-proxy")]),
    ("kube-router.rules", &[("POSTROUTING", "kube-router")]),
    ("kubenet.rules", &[("POSTROUTING", "kubenet")]),
    ("libvirt.rules", &[("LIBVIRT_PRT", "libvirt")]),
    ("liqo.nft", &[("pre-postrouting", "liqo"), ("incoming", "liqo")]),
    ("liqo.rules", &[("LIQO-PSTRT-CLS-2468ace0", "liqo")]),
    ("lxd.nft", &[("pstrt.lxdbr0", "lxd")]),
    ("lxd.rules", &[("POSTROUTING", "lxd")]),
    ("netbird.nft", &[("netbird-rt-postrouting", "netbird")]),
    ("netbird.rules", &[("NETBIRD-RT-NAT", "netbird")]),
    ("networkmanager.nft", &[("nat_postrouting", "networkmanager")]),
    ("networkmanager.rules", &[("POSTROUTING", "networkmanager")]),
    ("neutron.rules", &[("neutron-l3-agent-float-snat", "neutron"), ("neutron-l3-agent-snat", "neutron")]),
    ("nixos.nft", &[("post", "nixos")]),
    ("nixos.rules", &[("nixos-nat-post", "nixos")]),
    ("openvpn-as.rules", &[("AS0_NAT", "openvpn-as")]),
    ("openwrt-fw3.rules", &[("zone_wan_postrouting", "openwrt")]),
    ("openwrt.nft", &[("srcnat_wan", "openwrt"), ("upnp_postrouting", "other")]),
    ("ovn-kubernetes.nft", &[("mgmtport-snat", "ovn-kubernetes"), ("ovn-kube-local-gw-masq", "ovn-kubernetes")]),
    ("ovn-kubernetes.rules", &[("OVN-KUBE-EGRESS-SVC", "ovn-kubernetes"), ("OVN-KUBE-SNAT-MGMTPORT", "ovn-kubernetes")]),
    ("podman.nft", &[("POSTROUTING", "podman"), ("nv_10_88_0_0_nm16", "podman")]),
    ("submariner.nft", &[("SUBMARINER-POSTROUTING", "submariner")]),
    ("submariner.rules", &[("SM-GN-EGRESS-CLUSTER", "submariner"), ("SUBMARINER-POSTROUTING", "submariner")]),
    ("systemd.nft", &[("postrouting", "systemd")]),
    ("tailscale.rules", &[("ts-postrouting", "tailscale")]),
    ("weave.rules", &[("WEAVE", "weave")]),
];

fn shapes_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

fn shape(name: &str) -> String {
    fs::read_to_string(shapes_dir().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// Loads files of `tests/rules` with the program that their names select, in addition to what exists.
fn load_shapes(ns: &Netns, names: &[&str]) {
    for name in names {
        let (stem, kind) = name.rsplit_once('.').expect("an extension");
        let sets = fs::read_to_string(shapes_dir().join(format!("{stem}.ipset")));
        if let (Ok(sets), "rules") = (sets, kind) {
            load(ns, &["ipset", "restore"], &sets);
        }
        let program: &[&str] = match kind {
            "nft" => &["nft", "-f", "-"],
            "rules" => &["iptables-nft-restore", "-w", "--noflush"],
            _ => &["ip6tables-nft-restore", "-w", "--noflush"],
        };
        load(ns, program, &shape(name));
    }
}

/// Asserts rules and series, and each rule's owner by `owner`.
#[track_caller]
fn assert_owned(ns: &Netns, what: &str, owner: impl Fn(&ChainName) -> Option<&'static str>) {
    println!("{what}");
    let report = assert_rules(ns);
    assert_series(&report, &metrics_here(ns, &[]));
    for (chain, owners) in owners(&report) {
        let wanted = owner(&chain).unwrap_or_else(|| panic!("{what}: no owner of {chain:?} is expected"));
        assert!(owners.iter().all(|owner| owner == wanted), "{what}: {chain:?} is {wanted}'s, not {owners:?}");
    }
}

/// Each shape alone, and every file is in the list.
#[test]
fn each_shape_is_reported_as_listed_and_its_owner_is_known() {
    for (name, chains) in SHAPES {
        let ns = Netns::new();
        load_shapes(&ns, &[name]);
        let rules = expected(&ns);
        let mut listed: Vec<&str> = rules.keys().map(|(_, _, chain)| chain.as_str()).collect();
        listed.sort_unstable();
        let mut wanted: Vec<&str> = chains.iter().map(|(chain, _)| *chain).collect();
        wanted.sort_unstable();
        assert_eq!(listed, wanted, "{name}");
        assert_owned(&ns, name, |(_, _, chain)| {
            chains.iter().find(|(known, _)| known == chain).map(|(_, owner)| *owner)
        });
    }
    let files = fs::read_dir(shapes_dir()).expect("a directory").map(|e| e.expect("a file"));
    let files = files.filter(|file| file.path().is_file()).map(|file| file.file_name());
    let files = files.map(|name| name.into_string().expect("UTF-8"));
    let mut files: Vec<String> = files.filter(|name| name != "README.md" && !name.ends_with(".ipset")).collect();
    files.sort();
    assert_eq!(files, SHAPES.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}

/// Several owners' rules on one node, both families and both kinds of tables at once.
#[test]
fn shapes_on_one_node_keep_apart() {
    let groups: [&[&str]; 4] = [
        &["kube-proxy-1.31.nft", "flannel-0.20.1-before-kube-proxy.rules"],
        &["docker.rules", "kube-proxy-1.19.rules", "cni-portmap-and-bridge.rules"],
        &["kube-proxy-1.19.rules", "kube-proxy-1.19.rules6", "flannel-head.rules6", "docker.rules6", "podman.nft"],
        &["flannel-head.nft", "flannel-head-ipv6.nft", "kube-proxy-1.31.nft", "kube-proxy-1.31-ipv6.nft", "calico.nft"],
    ];
    for group in groups {
        let ns = Netns::new();
        load_shapes(&ns, group);
        assert_owned(&ns, &format!("{group:?}"), |(_, table, chain)| {
            let of_nft = |name: &str| name.ends_with(".nft");
            let here = SHAPES.iter().filter(|(name, _)| group.contains(name) && of_nft(name) == (table != "nat"));
            let mut all = here.flat_map(|(_, chains)| *chains);
            all.find(|(known, _)| known == chain).map(|(_, owner)| *owner)
        });
    }
    // All that can be loaded together; only the rules themselves are compared.
    let ns = Netns::new();
    let names: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    load_shapes(&ns, &names);
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    assert!(report.json["source_nat_rules"].as_array().expect("rules").len() > 40, "{}", report.json);
}

/// A table `ip t` whose nat chain on postrouting has these rules, after `more`.
fn post(more: &str, rules: &str) -> String {
    format!("table ip t {{\n{more}\n chain post {{\n  type nat hook postrouting priority srcnat\n{rules}\n }}\n}}\n")
}

/// Every form of source NAT that nft has.
#[test]
fn translations_of_nft_are_reported_as_listed() {
    let ns = Netns::new();
    let rules = "
        masquerade
        masquerade random
        masquerade fully-random
        masquerade persistent
        masquerade random,persistent
        masquerade fully-random,persistent
        masquerade random,fully-random
        ip protocol tcp masquerade to :1024-65535
        ip protocol udp masquerade to :1024
        meta l4proto { tcp, udp } masquerade to :40000-50000 fully-random
        snat to 192.0.2.7
        ip protocol tcp snat to 192.0.2.7:2000-3000 fully-random
        ip protocol tcp snat to 192.0.2.7:2000
        ip protocol tcp snat to 192.0.2.7-192.0.2.9:2000-3000 random
        snat to 10.0.0.1-10.0.0.9 persistent
        snat to ip saddr map @addresses
        snat to ip saddr map { 10.0.0.2 : 192.0.2.2 }
        snat ip prefix to ip saddr map { 10.0.0.0/24 : 192.0.2.0/24 }
        ip protocol tcp snat ip to ip saddr . tcp dport map { 10.0.0.1 . 80 : 192.0.2.1 . 2000 }
        snat to numgen inc mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 } random
        snat to jhash ip saddr mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }";
    let map = " map addresses { type ipv4_addr : ipv4_addr; elements = { 10.0.0.1 : 192.0.2.1 }; }";
    nft(&ns, &post(map, rules));
    nft(
        &ns,
        "table inet t {
        chain post {
            type nat hook postrouting priority srcnat
            masquerade
            meta nfproto ipv4 masquerade fully-random
            meta nfproto ipv4 snat ip to 10.0.0.1
            ip6 saddr fd00::/8 meta l4proto tcp snat ip6 to [fd00::1]:1-2
            ip protocol tcp snat ip to 10.0.0.1:1024-2048
            ip saddr 10.0.0.0/8 masquerade random
            meta nfproto ipv6 snat ip6 to fd00::1-fd00::9 fully-random
        }
    }",
    );
    nft(
        &ns,
        "table ip6 t {
        chain post {
            type nat hook postrouting priority srcnat
            meta l4proto udp masquerade to :1024-2048 random
            ip6 daddr != ff00::/8 snat to fd00::1
            snat ip6 prefix to ip6 saddr map { fd00:1::/64 : fd00:2::/64 }
        }
    }",
    );
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    assert_eq!(report.json["source_nat_rules"].as_array().expect("rules").len(), 31);
    let actions = |wanted: &str| {
        report.json["source_nat_rules"]
            .as_array()
            .expect("rules")
            .iter()
            .filter(|rule| rule["action"] == wanted)
            .count()
    };
    assert_eq!((actions("masquerade"), actions("snat"), actions("netmap")), (14, 15, 2));
}

/// Marks, counters, and tests that do not affect the translation.
#[test]
fn what_rules_test_does_not_hide_what_they_translate() {
    let ns = Netns::new();
    let rules = r#"
        meta mark 0x4000 masquerade
        meta mark != 0x4000 masquerade
        meta mark and 0x4000 == 0 masquerade
        meta mark and 0x4000 != 0 masquerade
        meta mark and 0x4000 == 0x4000 masquerade
        meta mark and 0xff0000 == 0x40000 masquerade
        meta mark and 0xff0000 != 0x40000 masquerade
        meta mark and 0xffffffff == 0x80000001 masquerade
        meta mark and 0x1 == 0x1 meta mark and 0x2 != 0x2 masquerade
        meta mark { 1, 2 } masquerade
        meta mark 0x10-0x20 masquerade
        meta mark > 0x10 masquerade
        ct mark 0x1 masquerade
        ct mark and 0xff == 0x1 masquerade
        counter packets 7 bytes 420 masquerade
        counter name named masquerade
        counter packets 9223372036854775807 bytes 9223372036854775807 masquerade
        masquerade comment "it's \\ ü 日本"
        limit rate 10/second masquerade
        limit rate over 1 mbytes/second masquerade
        quota over 25 mbytes masquerade
        numgen random mod 2 0 masquerade
        numgen inc mod 3 != 1 masquerade
        jhash ip saddr mod 2 1 masquerade
        ct state new masquerade
        ct state { new, related } masquerade
        ct status dnat masquerade
        ct direction original masquerade
        ip saddr @addresses masquerade
        ip saddr != @addresses masquerade
        ip saddr . ip daddr { 10.0.0.1 . 10.0.0.2 } masquerade
        ip saddr { 10.0.0.0/24, 10.1.0.0/16 } ip daddr != { 10.0.0.0/8 } masquerade
        tcp dport { 80, 443, 1000-2000 } masquerade
        udp sport 53 masquerade
        th dport 1-5 masquerade
        fib daddr type local masquerade
        fib saddr . oif type != local fib saddr type local masquerade
        oifname "eth*" masquerade
        oifname != { "lo", "docker0" } masquerade
        oif "lo" masquerade
        meta skuid 0 masquerade
        meta pkttype unicast masquerade
        meta length > 1000 masquerade
        ip ttl 64 masquerade
        ip dscp cs1 masquerade
        icmp type echo-request masquerade
        tcp flags & (syn|ack) == syn masquerade
        meta mark set 0x1 masquerade
        meta mark set mark and 0xffff0000 masquerade
        ct mark set mark masquerade
        log prefix "x" masquerade
        update @seen { ip saddr } masquerade
        ct original ip saddr 10.0.0.1 masquerade
        ct count over 5 masquerade
        ct bytes > 100 masquerade
        ct helper set "sip" masquerade
        ct zone 1 masquerade
        limit name "slow" masquerade
        quota name "volume" masquerade
        counter name ip saddr map { 10.0.0.1 : "named" } masquerade
        rt nexthop 10.0.0.1 masquerade
        ipsec out reqid 1 masquerade
        tcp option maxseg size set rt mtu masquerade
        meta oifkind "vxlan" masquerade
        meta priority set 1:2 masquerade
        ip daddr set 10.0.0.1 masquerade
        ip dscp set cs1 masquerade
        dup to 10.0.0.1 masquerade
        notrack masquerade
        @th,16,16 80 masquerade
        sctp chunk init exists masquerade
        meta mark . ip saddr vmap { 0x1 . 10.0.0.1 : accept } masquerade
        meta mark set ip saddr map { 10.0.0.1 : 0x1 } masquerade
        meta mark set numgen random mod 4 masquerade
        meta mark ^ 0x1 == 0x3 masquerade
        meta mark | 0x1 == 0x3 masquerade
        meta mark and 0x3 { 1, 2 } masquerade
        counter meta mark set mark xor 0x4000 counter masquerade"#;
    let more = " counter named { }
        limit slow { rate 10/second; }
        quota volume { 25 mbytes; }
        ct helper sip { type \"sip\" protocol udp; }
        set addresses { type ipv4_addr; elements = { 10.9.9.9 }; }
        set seen { type ipv4_addr; flags dynamic; timeout 1m; size 100; }";
    nft(&ns, &post(more, rules));
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    let lines = rules.lines().filter(|line| !line.trim().is_empty()).count();
    assert_eq!(report.json["source_nat_rules"].as_array().expect("rules").len(), lines);
}

/// Counters have 64 bits, and so has their sum.
#[test]
fn counters_at_their_end_are_reported() {
    let ns = Netns::new();
    let most = u64::MAX;
    nft(
        &ns,
        &post("", &format!("counter packets {most} bytes {most} masquerade\ncounter packets 7 bytes 420 masquerade")),
    );
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
}

/// Jumps, gotos and verdict maps are followed; chains that no nat hook leads to are not reported.
#[test]
fn only_what_a_hook_leads_to_is_reported() {
    let ns = Netns::new();
    let long = "n".repeat(120);
    let jumps = format!(
        "
        counter masquerade random
        oifname vmap @jumps
        oifname vmap {{ \"e0\" : jump direct, \"e1\" : goto direct.goto, \"e2\" : accept, \"e3\" : drop }}
        ip saddr vmap {{ 10.0.0.0/24 : jump ranges, 10.0.1.0/24 : return }}
        ip saddr . tcp dport vmap {{ 10.0.0.1 . 80 : jump pairs }}
        oifname vmap @empty
        jump a.b/c-d_e
        jump {long}
        jump twice
        jump twice
        goto deep1
        masquerade fully-random"
    );
    let chain = |name: &str, rule: &str| format!(" chain {name} {{\n  {rule}\n }}\n");
    let mut more = String::from(
        " map jumps { type ifname : verdict; elements = { \"docker0\" : jump mapped, \"br-x\" : goto mapped.goto }; }
        map empty { type ifname : verdict; }\n",
    );
    for level in (1..14).rev() {
        more += &chain(
            &format!("deep{level}"),
            &format!("jump deep{}\n  counter packets {level} bytes 1 masquerade", level + 1),
        );
    }
    more = chain("deep14", "return\n  masquerade") + &more;
    let names = ["direct", "direct.goto", "ranges", "pairs", "mapped", "mapped.goto", "a.b/c-d_e", "twice", &long];
    let leaves: String = names.iter().map(|name| chain(name, "return\n  snat to 192.0.2.1")).collect();
    let lost = chain("lost", "masquerade random") + &chain("lost2", "goto lost");
    nft(&ns, &post(&(leaves + &lost + &more), &jumps));
    nft(&ns, "table ip prerouting {
        chain pre { type nat hook prerouting priority -100; tcp dport 80 dnat to 10.0.0.1:80; tcp dport 81 redirect to :82; }
        chain out { type nat hook output priority -100; tcp dport 80 dnat to 10.0.0.1:80; redirect; }
        chain in { type nat hook input priority 100; meta l4proto tcp socket wildcard 0 snat to 192.0.2.7; snat to 192.0.2.8 random; }
        chain filter { type filter hook postrouting priority 0; accept; }
        chain early { type nat hook postrouting priority -50; masquerade; }
        chain late { type nat hook postrouting priority 200; drop; masquerade fully-random; }
    }
    table ip off {
        flags dormant
        chain post { type nat hook postrouting priority 100; masquerade; }
    }
    table bridge t {
        chain post { type filter hook postrouting priority 0; accept; }
    }
    table arp t {
        chain in { type filter hook input priority 0; accept; }
    }");
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    let found: Vec<String> = owners(&report).into_keys().map(|(_, table, chain)| format!("{table} {chain}")).collect();
    for chain in names.into_iter().chain(["deep1", "deep13", "deep14", "post"]) {
        assert!(found.contains(&format!("t {chain}")), "{chain}: {found:?}");
    }
    for chain in ["prerouting in", "prerouting early", "prerouting late"] {
        assert!(found.contains(&chain.to_owned()), "{chain}: {found:?}");
    }
    assert_eq!(found.len(), names.len() + 14 + 1 + 3, "{found:?}");
    // Awake again.
    nft(&ns, "add table ip off { flags 0; }".replace("{ flags 0; }", "").as_str());
    ns.run(&["nft", "delete", "table", "ip", "t"]);
    assert_rules(&ns);
}

/// Packets with marks that a chain at ingress or of a bridge sets reach a rule that translates their source, with or
/// without a tunnel.
#[test]
fn marks_of_ingress_and_bridge_are_seen_without_a_tunnel() {
    let hooks = [("netdev", "ingress device lo"), ("bridge", "prerouting"), ("inet", "ingress device lo")];
    for (family, hook) in hooks {
        let ns = Netns::new();
        nft(&ns, "table ip n {\n chain post { type nat hook postrouting priority 100; meta mark 1 masquerade; }\n}");
        assert_eq!(check_here(&ns, &[]).state("snat-port-race"), "not_affected", "{family}");
        nft(
            &ns,
            &format!("table {family} t {{\n chain c {{ type filter hook {hook} priority 0; meta mark set 1; }}\n}}"),
        );
        assert_ne!(check_here(&ns, &[]).state("snat-port-race"), "not_affected", "{family}");
    }
}

/// Names as long as the kernel accepts, and the same name in each family.
#[test]
fn names_do_not_confuse() {
    let ns = Netns::new();
    let name = |length: usize, end: &str| format!("{}{end}", "x".repeat(length - end.len()));
    // Equal in their first 120 characters.
    let (one, two, table) = (name(127, "one"), name(127, "two"), name(127, "table"));
    nft(
        &ns,
        &format!(
            "table ip {table} {{
        chain {one} {{
            masquerade
        }}
        chain {two} {{
            masquerade random
            masquerade fully-random
        }}
        chain post {{
            type nat hook postrouting priority srcnat
            jump {one}
            jump {two}
        }}
    }}"
        ),
    );
    for (family, rule) in [("ip", "masquerade"), ("ip6", "masquerade random"), ("inet", "masquerade fully-random")] {
        nft(
            &ns,
            &format!(
                "table {family} nat {{
            chain POSTROUTING {{
                type nat hook postrouting priority 99
                jump same
                jump CASE
                jump case
            }}
            chain same {{
                {rule}
            }}
            chain CASE {{
                counter packets 1 bytes 2 {rule}
            }}
            chain case {{
                return
                {rule}
            }}
        }}"
            ),
        );
    }
    let report = assert_rules(&ns);
    assert_series(&report, &metrics_here(&ns, &[]));
    assert_eq!(report.json["source_nat_rules"].as_array().expect("rules").len(), 3 + 9);
}

/// A namespace without rules, and one whose rules translate nothing.
#[test]
fn no_rules_is_an_empty_list() {
    let ns = Netns::new();
    let report = assert_rules(&ns);
    assert_eq!(report.json["source_nat_rules"], Value::Array(Vec::new()));
    nft(&ns, "table ip t { chain f { type filter hook forward priority 0; accept; }; }");
    ns.cmd("iptables-nft -w -t filter -A FORWARD -j ACCEPT");
    let report = assert_rules(&ns);
    assert_eq!(report.json["source_nat_rules"], Value::Array(Vec::new()));
    assert_series(&report, &metrics_here(&ns, &[]));
}

/// Random rule sets of iptables.
#[test]
fn random_rule_sets_of_iptables_are_reported_as_listed() {
    let found = random_rule_sets(["iptables-nft-restore", "ip6tables-nft-restore"]);
    assert_eq!(found.len(), 7, "every kind came up, netmap only without random ports: {found:?}");
}

/// The same of nft, in three families at once.
#[test]
fn random_rule_sets_of_nft_are_reported_as_listed() {
    let mut found = BTreeMap::new();
    for seed in seeds() {
        let mut dice = Dice(1_000_000 + seed);
        let ns = Netns::new();
        for family in ["ip", "ip6", "inet"] {
            nft(&ns, &nft_table(&mut dice, family));
        }
        println!("rule set {seed}");
        let report = assert_rules(&ns);
        assert_series(&report, &metrics_here(&ns, &[]));
        count_kinds(&report, &mut found);
    }
    assert_eq!(found.len(), 6, "every kind came up: {found:?}");
}

/// A capture is replayed to the same rules; a redacted one to rules of the same kinds in the same places.
#[test]
fn a_capture_has_the_same_rules() {
    let counted = "*nat\n[7:420] -A POSTROUTING -o eth9 -j MASQUERADE\nCOMMIT\n";
    for (name, _) in SHAPES {
        let ns = Netns::new();
        load_shapes(&ns, &[name]);
        if name.ends_with(".rules") {
            load(&ns, &["iptables-nft-restore", "-w", "--counters", "--noflush"], counted);
        }
        println!("{name}");
        let live = assert_rules(&ns);
        let replay = |flags: &[&str]| CaptureDir::of(&ns, flags).check(&["--format", "json"]).report();
        let plain = replay(&[]);
        assert_eq!(plain.json["source_nat_rules"], live.json["source_nat_rules"], "{name}");
        let redacted = replay(&["--redact"]);
        assert_eq!(without_networks(&redacted), without_networks(&live), "{name}");
        let again = check_here(&ns, &[]);
        assert_eq!(again.json["source_nat_rules"], live.json["source_nat_rules"], "{name}: their order rests");
    }
}

/// Netavark names chains after networks, which are redacted.
fn without_networks(report: &Report) -> Value {
    let mut rules = report.json["source_nat_rules"].clone();
    for rule in rules.as_array_mut().expect("rules") {
        if rule["chain"].as_str().is_some_and(|chain| chain.starts_with("nv_")) {
            rule["chain"] = "nv_".into();
        }
    }
    rules
}
