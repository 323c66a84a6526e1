//! Equivalent rules get the same verdict, however they are written.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::netns::{Netns, veth};
use crate::support::report::{LEVELS, Report, check_here};
use crate::support::rules::{load, nft};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rules")
}

/// A namespace with a tunnel that is up, and the devices that the rules of `every` need.
fn node() -> Netns {
    let ns = Netns::new();
    veth(&ns, "eth0", &ns, "eth1");
    ns.address("eth0", "192.0.2.1/24");
    for [one, other] in [["nicword1", "nicword2"], ["wlx025ec4e70091", "wwx025ec4e70092"]] {
        veth(&ns, one, &ns, other);
    }
    ns.cmd("ip link add flannel.1 type vxlan id 1 dstport 8472 remote 192.0.2.2 dev eth0");
    ns.up("flannel.1");
    ns.cmd("ip route add 10.244.1.0/24 dev flannel.1");
    ns.sysctl("net.ipv4.ip_forward", 1);
    ns
}

/// Input by file name: for ipset, for iptables and for ip6tables.
fn files() -> BTreeMap<String, [Option<String>; 3]> {
    let mut found: BTreeMap<String, [Option<String>; 3]> = BTreeMap::new();
    for folder in [directory(), directory().join("every")] {
        for entry in fs::read_dir(folder).expect("the rules").map(|entry| entry.expect("an entry").path()) {
            let kind = entry.extension().and_then(|kind| kind.to_str()).unwrap_or_default();
            let Some(at) = ["ipset", "rules", "rules6"].iter().position(|known| *known == kind) else { continue };
            let name = entry.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            // Accounting objects are not made here.
            let text = fs::read_to_string(&entry).expect("a file");
            let lines = text.lines().filter(|line| !line.contains("nfacct")).collect::<Vec<_>>();
            found.entry(name).or_default()[at] = Some(lines.join("\n") + "\n");
        }
    }
    assert!(found.len() > 15, "{:?}", found.keys());
    found
}

/// The advisories that depend on rules, without fill levels.
fn advisories(report: &Report) -> impl Iterator<Item = &Value> {
    let is_level = |id: &str| id == "conntrack-chain-limit" || LEVELS.contains(&id);
    let all = report.json["advisories"].as_array().expect("advisories").iter();
    all.filter(move |advisory| !is_level(advisory["id"].as_str().expect("an id")))
}

/// Verdicts and rules, without owners and counters. The advisory about rules in two backends is left out, as it is
/// about that.
fn told(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for advisory in advisories(report) {
        if advisory["id"] == "iptables-backend-split" {
            lines.push(format!("{} {}", advisory["id"], advisory["state"]));
            continue;
        }
        lines.push(format!("{} {} {}", advisory["id"], advisory["state"], advisory["summary"]));
        for condition in advisory["conditions"].as_array().expect("conditions") {
            lines.push(format!("{} {condition}", advisory["id"]));
        }
    }
    for rule in report.json["source_nat_rules"].as_array().expect("they were read") {
        let mut rule = rule.clone();
        for apart in ["backend", "packets", "bytes"] {
            rule.as_object_mut().expect("an object").remove(apart);
        }
        lines.push(rule.to_string());
    }
    lines.into_iter().map(|line| line.replace("legacy table", "table")).collect()
}

fn differences(one: &[String], other: &[String]) -> Vec<String> {
    let only = |these: &[String], those: &[String], sign: &str| {
        let missing = these.iter().filter(|line| !those.contains(line));
        missing.map(|line| format!("{sign} {line}")).collect::<Vec<_>>()
    };
    [only(one, other, "-"), only(other, one, "+")].concat()
}

/// `check`, repeated if a busy machine had no time left for judging: a test build takes seconds for the rules of
/// `every`.
fn judged_to_the_end(ns: &Netns) -> Report {
    let was_stopped = |report: &Report| report.json.to_string().contains("judging was stopped");
    let mut reports = (0..10).map(|_| check_here(ns, &[]));
    reports.find(|report| !was_stopped(report)).expect("a report that was judged to its end")
}

#[test]
fn both_backends_of_iptables_are_judged_the_same() {
    let mut wrong = Vec::new();
    for (name, [sets, rules, rules6]) in files() {
        let reports = ["legacy", "nft"].map(|backend| {
            let ns = node();
            if let Some(sets) = &sets {
                load(&ns, &["ipset", "restore"], sets);
            }
            for (rules, program) in [(&rules, "iptables"), (&rules6, "ip6tables")] {
                if let Some(rules) = rules {
                    load(&ns, &[&format!("{program}-{backend}-restore")], rules);
                }
            }
            told(&judged_to_the_end(&ns))
        });
        let found = differences(&reports[0], &reports[1]);
        println!("{name}: {} lines, {} differences", reports[0].len(), found.len());
        wrong.extend(found.into_iter().map(|line| format!("{name}: {line}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A match of iptables, and how nft writes it.
#[rustfmt::skip]
const PAIRS: &[(&str, &str)] = &[
    ("-s 10.244.0.0/16", "ip saddr 10.244.0.0/16"),
    ("! -d 10.244.0.0/16", "ip daddr != 10.244.0.0/16"),
    ("-o eth0", "oifname \"eth0\""),
    ("! -o eth+", "oifname != \"eth*\""),
    ("-p udp", "meta l4proto udp"),
    ("-p tcp", "meta l4proto tcp"),
    ("! -p tcp", "meta l4proto != tcp"),
    ("-p udp --dport 8472", "udp dport 8472"),
    ("-p udp --sport 1024:65535", "udp sport 1024-65535"),
    ("-p udp -m multiport --dports 53,8472", "udp dport { 53, 8472 }"),
    ("-p udp -m multiport ! --dports 53,8472", "udp dport != { 53, 8472 }"),
    ("-m mark --mark 0x4000/0x4000", "meta mark & 0x4000 == 0x4000"),
    ("-m mark ! --mark 0x4000/0x4000", "meta mark & 0x4000 != 0x4000"),
    ("-m connmark --mark 0x1", "ct mark 0x1"),
    ("-m conntrack --ctstate NEW", "ct state new"),
    ("-m conntrack --ctstate RELATED,ESTABLISHED", "ct state related,established"),
    ("-m conntrack ! --ctstate NEW", "ct state != new"),
    ("-m conntrack --ctstate INVALID", "ct state invalid"),
    ("-m conntrack --ctstate DNAT", "ct status dnat"),
    ("-m conntrack --ctstatus EXPECTED", "ct status expected"),
    ("-m conntrack --ctdir REPLY", "ct direction reply"),
    ("-m state --state NEW", "ct state new"),
    ("-m addrtype --dst-type LOCAL", "fib daddr type local"),
    ("-m addrtype ! --dst-type LOCAL", "fib daddr type != local"),
    ("-m addrtype --src-type LOCAL", "fib saddr type local"),
    ("-m addrtype --dst-type LOCAL --limit-iface-out", "fib daddr . oif type local"),
    ("-m pkttype --pkt-type unicast", "meta pkttype unicast"),
    ("-m pkttype --pkt-type multicast", "meta pkttype multicast"),
    ("-m iprange --dst-range 192.0.2.1-192.0.2.9", "ip daddr 192.0.2.1-192.0.2.9"),
    ("-m devgroup --dst-group 0", "oifgroup 0"),
    ("-m devgroup --dst-group 7", "oifgroup 7"),
    ("-m limit --limit 5/s", "limit rate 5/second"),
    ("-m statistic --mode random --probability 0.5", "numgen random mod 2 0"),
    ("-m owner --uid-owner 0", "meta skuid 0"),
    ("-m length --length 100:200", "meta length 100-200"),
    ("-m ttl --ttl-eq 64", "ip ttl 64"),
    ("-m dscp --dscp 8", "ip dscp 8"),
    ("-f", "ip frag-off & 0x1fff != 0"),
    ("-m time --timestart 10:00 --timestop 11:00", "meta hour \"10:00\"-\"11:00\""),
];

/// Each as a test of a postrouting rule that translates: with nft, with iptables in nf_tables, and in a legacy table.
#[test]
fn a_match_of_iptables_is_judged_like_nfts_own() {
    let mut wrong = Vec::new();
    let states = |ns: &Netns| -> Vec<String> {
        let report = check_here(ns, &[]);
        let about_rules = advisories(&report).filter(|advisory| advisory["id"] != "iptables-backend-split");
        let of = |advisory: &Value| {
            let conditions = advisory["conditions"].as_array().expect("conditions").iter();
            let state = |condition: &Value| format!("{} {} {}", advisory["id"], condition["id"], condition["state"]);
            conditions.map(state).collect::<Vec<_>>()
        };
        about_rules.flat_map(of).collect()
    };
    let mut different = BTreeSet::new();
    for (iptables, native) in PAIRS {
        let native_states = {
            let ns = node();
            nft(
                &ns,
                &format!(
                    "table ip t {{ chain p {{ type nat hook postrouting priority 100; {native} masquerade; }}; }}"
                ),
            );
            states(&ns)
        };
        different.insert(native_states.clone());
        for backend in ["legacy", "nft"] {
            let ns = node();
            ns.cmd(&format!("iptables-{backend} -w -t nat -A POSTROUTING {iptables} -j MASQUERADE"));
            let found = differences(&native_states, &states(&ns));
            wrong.extend(found.into_iter().map(|line| format!("{iptables} ({backend}): {line}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(different.len() > 1, "what is tested decides: {different:?}");
}

/// A rule in POSTROUTING of table nat as iptables and as nft write it, and its owner.
#[rustfmt::skip]
const OWNED: &[(&str, &str, &str)] = &[
    ("docker", "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE", "ip saddr 172.17.0.0/16 oifname != \"docker0\" masquerade"),
    ("docker", "-s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp --dport 80 -j MASQUERADE",
        "ip saddr 172.17.0.2 ip daddr 172.17.0.2 tcp dport 80 masquerade"),
    ("docker", "-s 172.17.0.2/32 -d 172.17.0.2/32 -p udp --dport 53 -j MASQUERADE",
        "ip saddr 172.17.0.2 ip daddr 172.17.0.2 udp dport 53 masquerade"),
    ("docker", "-o docker_gwbridge -m addrtype --src-type LOCAL -j MASQUERADE",
        "oifname \"docker_gwbridge\" fib saddr type local masquerade"),
    ("flannel", "-s 10.244.0.0/16 ! -d 224.0.0.0/4 -j MASQUERADE", "ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade"),
    ("libvirt", "-s 192.168.122.0/24 ! -d 192.168.122.0/24 -p tcp -j MASQUERADE --to-ports 1024-65535",
        "meta l4proto tcp ip saddr 192.168.122.0/24 ip daddr != 192.168.122.0/24 masquerade to :1024-65535"),
    ("lxd", "-m comment --comment \"generated for LXD network lxdbr0\" -j MASQUERADE",
        "masquerade comment \"generated for LXD network lxdbr0\""),
    ("networkmanager", "-m comment --comment nm-shared-eth0 -j MASQUERADE", "masquerade comment \"nm-shared-eth0\""),
    ("kubenet", "-o cbr0 -m comment --comment \"SNAT for localhost access to hostports\" -j MASQUERADE",
        "oifname \"cbr0\" masquerade comment \"SNAT for localhost access to hostports\""),
    ("other", "-o lo -m comment --comment \"SNAT for localhost access to hostports\" -j MASQUERADE",
        "oifname \"lo\" masquerade comment \"SNAT for localhost access to hostports\""),
    ("other", "-s 172.17.0.0/24 -d 172.17.0.0/24 -p tcp --dport 80 -j MASQUERADE",
        "ip saddr 172.17.0.0/24 ip daddr 172.17.0.0/24 tcp dport 80 masquerade"),
    ("other", "-s 172.17.0.2/32 -d 172.17.0.2/32 -p tcp --dport 80:81 -j MASQUERADE",
        "ip saddr 172.17.0.2 ip daddr 172.17.0.2 tcp dport 80-81 masquerade"),
    ("other", "-s 10.0.0.0/8 -o eth0 -j MASQUERADE", "ip saddr 10.0.0.0/8 oifname \"eth0\" masquerade"),
];

#[test]
fn a_rule_has_the_same_owner_however_it_is_written() {
    let owner = |ns: &Netns| check_here(ns, &[]).json["source_nat_rules"][0]["owner"].as_str().map(str::to_owned);
    for (wanted, iptables, native) in OWNED {
        let ns = Netns::new();
        nft(
            &ns,
            &format!("table ip nat {{ chain POSTROUTING {{ type nat hook postrouting priority 100; {native}; }}; }}"),
        );
        assert_eq!(owner(&ns).as_deref(), Some(*wanted), "{native}");
        for backend in ["legacy", "nft"] {
            let ns = Netns::new();
            load(&ns, &[&format!("iptables-{backend}-restore")], &format!("*nat\n-A POSTROUTING {iptables}\nCOMMIT\n"));
            assert_eq!(owner(&ns).as_deref(), Some(*wanted), "{iptables} ({backend})");
        }
    }
}
