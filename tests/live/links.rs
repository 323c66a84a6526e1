//! Tunnels, underlay devices and offload features on a live kernel: natwatch reports what `ip` and `ethtool` do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket};
use serde_json::Value;

use crate::support::counters::{nstat, proc_netstat, proc_snmp6};
use crate::support::exposition::{Exposition, metrics_here};
use crate::support::links::{features, kind_supported, links, offload};
use crate::support::netns::{Netns, veth};
use crate::support::program::natwatch_in;
use crate::support::report::{Report, check, check_here};
use crate::support::server::Server;
use crate::support::vxlan::{Peering, Underlay, Vxlan, VxlanPair};
use crate::support::wait::{PATIENCE, eventually};

/// natwatch's feature names, and ethtool's where it prints the name of a group instead.
const FEATURES: [(&str, &str); 6] = [
    ("tx-checksum-ip-generic", "tx-checksum-ip-generic"),
    ("tx-checksum-ipv4", "tx-checksum-ipv4"),
    ("tx-checksum-ipv6", "tx-checksum-ipv6"),
    ("tx-udp_tnl-segmentation", "tx-udp_tnl-segmentation"),
    ("tx-udp_tnl-csum-segmentation", "tx-udp_tnl-csum-segmentation"),
    ("rx-checksum", "rx-checksumming"),
];

/// Runs each line, without quoting.
fn build(ns: &Netns, lines: &[&str]) {
    for line in lines {
        ns.cmd(line);
    }
}

/// `veth` pair `NAME` and `NAME-peer` in one namespace, up, with an address.
fn nic(ns: &Netns, name: &str, address: &str) {
    veth(ns, name, ns, &format!("{name}-peer"));
    ns.address(name, address);
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().expect("flags").iter().any(|flag| flag == "UP")
}

/// The properties of a VXLAN device that `ip` shows, in natwatch's words.
fn expected_tunnel(ns: &Netns, name: &str, link: &Value) -> BTreeMap<&'static str, Value> {
    let data = &link["linkinfo"]["info_data"];
    let external = data["external"] == true;
    let ipv6 = data["remote6"].is_string() || data["local6"].is_string() || data["group6"].is_string();
    let checksum = match (external, ipv6) {
        (true, _) => "per_packet",
        (false, true) if data["udp_zero_csum6_tx"] == true => "off",
        (false, true) => "on",
        (false, false) if data["udp_csum"] == true => "on",
        (false, false) => "off",
    };
    let offload = match is_up(link) {
        true if features(ns, name)["tx-checksum-ip-generic"].on => "on",
        true => "off",
        false => "unknown", // only tunnels that are up are asked about
    };
    BTreeMap::from([
        ("device", name.into()),
        ("kind", "vxlan".into()),
        ("id", if external { Value::Null } else { data["id"].clone() }),
        ("port", data["port"].clone()),
        ("up", is_up(link).into()),
        ("udp_checksum", checksum.into()),
        ("tx_checksum_offload", offload.into()),
    ])
}

/// Destinations of outer packets: the device's remote and those of its forwarding database.
fn remotes(ns: &Netns, name: &str, data: &Value) -> BTreeSet<IpAddr> {
    let entries: Value = serde_json::from_str(&ns.run(&["bridge", "-j", "fdb", "show", "dev", name])).expect("JSON");
    let listed = entries.as_array().expect("a list").iter().map(|entry| entry["dst"].clone());
    let all = [data["remote"].clone(), data["remote6"].clone()].into_iter().chain(listed);
    let all = all.filter_map(|address| address.as_str().map(|text| text.parse::<IpAddr>().expect("an address")));
    all.filter(|address| !address.is_unspecified() && !address.is_multicast()).collect()
}

/// The devices that `ip route get` names for each remote.
fn routed_by(ns: &Netns, link: &Value, remotes: &BTreeSet<IpAddr>) -> BTreeSet<String> {
    let data = &link["linkinfo"]["info_data"];
    let port = data["port"].to_string();
    let local = [&data["local"], &data["local6"]].into_iter().find_map(Value::as_str);
    let mut devices = BTreeSet::new();
    for remote in remotes {
        let remote = remote.to_string();
        let mut words = vec!["ip", "-j", "route", "get", &remote];
        words.extend(local.into_iter().flat_map(|local| ["from", local]));
        words.extend(data["link"].as_str().into_iter().flat_map(|device| ["oif", device]));
        words.extend(["ipproto", "udp", "dport", &port]);
        let routes: Value = serde_json::from_str(&ns.run(&words)).expect("JSON");
        devices.insert(routes[0]["dev"].as_str().expect("a device").to_owned());
    }
    devices
}

/// Asserts that natwatch's tunnels equal what `ip` and `ethtool` show; returns the underlays.
#[track_caller]
fn assert_tunnels(ns: &Netns) -> BTreeMap<String, Option<BTreeSet<String>>> {
    let (report, metrics) = (check_here(ns, &[]), metrics_here(ns, &[]));
    for source in ["rtnetlink", "ethtool", "routing"] {
        assert!(report.source(source).is_none_or(|(state, _)| state == "ok"), "{}", report.json);
    }
    let mut found = report.tunnels().expect("tunnels");
    assert_eq!(metrics.get("natwatch_tunnels", &[]), Some(found.len() as f64));
    let mut underlays = BTreeMap::new();
    for (name, link) in links(ns).into_iter().filter(|(_, link)| link["linkinfo"]["info_kind"] == "vxlan") {
        let tunnel = found.remove(&name).unwrap_or_else(|| panic!("{name} is missing in {}", report.json));
        for (key, value) in expected_tunnel(ns, &name, &link) {
            assert_eq!(tunnel[key], value, "{key} of {name}: {tunnel}");
        }
        assert_info(&metrics, &tunnel);
        let underlay = report.underlay(&name);
        let data = &link["linkinfo"]["info_data"];
        let remotes = remotes(ns, &name, data);
        if is_up(&link) && data["external"] != true && !remotes.is_empty() {
            assert_eq!(underlay, Some(routed_by(ns, &link, &remotes)), "{name}: {tunnel}");
        }
        underlays.insert(name, underlay);
    }
    assert!(found.is_empty(), "no such tunnels: {found:?}");
    underlays
}

/// Asserts that the tunnel's only series has the labels of the document.
#[track_caller]
fn assert_info(metrics: &Exposition, tunnel: &Value) {
    let text = |key: &str| match &tunnel[key] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let labels = ["device", "kind", "id", "port", "underlay", "udp_checksum"].map(|key| (key, text(key)));
    let labels: Vec<(&str, &str)> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let series = metrics.series("natwatch_tunnel_info");
    assert_eq!(metrics.get("natwatch_tunnel_info", &labels), Some(1.0), "{labels:?} in {series:?}");
}

/// Asserts that the feature series are those of exactly these devices, and equal `ethtool -k`.
#[track_caller]
fn assert_features(ns: &Netns, devices: &[&str]) {
    let metrics = metrics_here(ns, &[]);
    for name in ["enabled", "wanted", "fixed"].map(|what| format!("natwatch_interface_feature_{what}")) {
        let shown: BTreeSet<&str> = metrics.series(&name).iter().map(|(labels, _)| labels["device"].as_str()).collect();
        assert_eq!(shown, devices.iter().copied().collect(), "{name}");
        assert_eq!(metrics.series(&name).len(), devices.len() * FEATURES.len(), "{name}");
    }
    for device in devices {
        let printed = features(ns, device);
        for (feature, printed_as) in FEATURES {
            let expected = printed[printed_as];
            let labels = [("device", *device), ("feature", feature)];
            let value = |what: &str| metrics.get(&format!("natwatch_interface_feature_{what}"), &labels) == Some(1.0);
            let got = (value("enabled"), value("wanted"), value("fixed"));
            assert_eq!(got, (expected.on, expected.wanted(), expected.fixed), "{labels:?}: {expected:?}");
        }
    }
    assert_eq!(metrics.get("natwatch_series_omitted", &[]), Some(0.0));
}

/// Every kind of VXLAN device that `ip` can make, all in one namespace.
#[test]
fn tunnels_of_all_shapes_are_described_as_ip_describes_them() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    nic(&ns, "eth1", "fd00:1::1/64");
    ns.route("default via 192.0.2.254");
    build(
        &ns,
        &[
            "ip link add plain type vxlan id 1 dstport 8472",
            "ip link add csum type vxlan id 2 dstport 4789 remote 192.0.2.2 udpcsum",
            "ip link add nocsum type vxlan id 3 dstport 4790 remote 192.0.2.2 noudpcsum",
            "ip link add highest type vxlan id 16777215 dstport 65535 remote 203.0.113.9 local 192.0.2.1",
            "ip link add zero type vxlan id 0 dstport 1 remote 192.0.2.2 local 192.0.2.1 dev eth0",
            "ip link add srcport type vxlan id 4 dstport 4791 remote 192.0.2.2 srcport 40000 40100",
            "ip link add six type vxlan id 5 dstport 4789 remote fd00:1::2",
            "ip link add sixoff type vxlan id 6 dstport 4792 remote fd00:1::2 local fd00:1::1 udp6zerocsumtx noudpcsum",
            "ip link add sixlocal type vxlan id 7 dstport 4793 local fd00:1::1 dev eth1 udp6zerocsumtx udp6zerocsumrx",
            "ip link add sixon type vxlan id 8 dstport 4794 remote fd00:1::2 noudp6zerocsumtx noudpcsum",
            "ip link add mcast type vxlan id 9 dstport 4795 group 239.1.1.1 dev eth0",
            "ip link add isdown type vxlan id 10 dstport 4796 remote 192.0.2.2",
            "ip link add flow type vxlan external dstport 4797",
            "ip link add flowdown type vxlan external dstport 4798",
            "ip link add many type vxlan id 11 dstport 4799 nolearning",
            "ip link add fdbport type vxlan id 12 dstport 4800 nolearning",
        ],
    );
    for device in links(&ns).keys().filter(|name| !name.contains("down") && !name.starts_with("eth")) {
        ns.up(device);
    }
    for last in 2..40 {
        ns.cmd(&format!("bridge fdb append 02:00:00:00:00:{last:02} dev many dst 192.0.2.{last}"));
    }
    ns.cmd("bridge fdb append 00:00:00:00:00:00 dev many dst 198.51.100.7");
    ns.cmd("bridge fdb append 02:00:00:00:00:01 dev fdbport dst 192.0.2.7 port 9999 vni 77");
    let underlays = assert_tunnels(&ns);
    let eth0 = Some(BTreeSet::from(["eth0".to_owned()]));
    for carried in ["csum", "highest", "zero", "srcport", "many", "mcast", "fdbport"] {
        assert_eq!(underlays[carried], eth0, "{carried}");
    }
    for carried in ["six", "sixoff", "sixon"] {
        assert_eq!(underlays[carried], Some(BTreeSet::from(["eth1".to_owned()])), "{carried}");
    }
    for unknown in ["plain", "isdown", "flow", "flowdown"] {
        assert_eq!(underlays[unknown], None, "{unknown}");
    }
    let report = check_here(&ns, &[]);
    for (device, checksum) in
        [("six", "on"), ("sixoff", "off"), ("sixlocal", "off"), ("sixon", "on"), ("csum", "on"), ("nocsum", "off")]
    {
        assert_eq!(report.tunnels().expect("tunnels")[device]["udp_checksum"], checksum, "{device}");
    }
}

/// Kinds that not every kernel has; `tunnels_of_all_shapes…` and `lower_devices…` cover the same code.
#[test]
fn optional_kinds_are_described_where_the_kernel_has_them() {
    if kind_supported("geneve") {
        let ns = Netns::new();
        nic(&ns, "eth0", "192.0.2.1/24");
        ns.cmd("ip link add gen type geneve id 7 remote 192.0.2.2 dstport 6081 udpcsum");
        ns.up("gen");
        let tunnel = check_here(&ns, &[]).tunnels().expect("tunnels")["gen"].clone();
        assert_eq!((&tunnel["kind"], &tunnel["id"], &tunnel["port"]), (&"geneve".into(), &7.into(), &6081.into()));
        assert_eq!((&tunnel["udp_checksum"], &tunnel["underlay"]), (&"on".into(), &"eth0".into()));
    }
    for underlay in [Underlay::Vlan(5), Underlay::Bond].into_iter().filter(|underlay| underlay.supported()) {
        let pair = Vxlan { underlay, ..Vxlan::default() }.build();
        assert_tunnels(&pair.nodes[0]);
        assert_features(&pair.nodes[0], &["flannel.1", underlay.device(), "eth0"]);
    }
}

/// Two nodes with a working tunnel of each kind: the underlay is the device that really carries it.
#[test]
fn working_tunnels_name_the_device_that_carries_them() {
    let shapes = [
        Vxlan::default(),
        Vxlan { peering: Peering::Remote, bind_underlay: false, udp_checksum: Some(false), ..Vxlan::default() },
        Vxlan { underlay: Underlay::Bridge, source_ports: Some((40_000, 40_100)), ..Vxlan::default() },
        Vxlan { underlay: Underlay::Macvlan, ..Vxlan::default() },
        Vxlan { ipv6: true, udp_checksum: Some(false), bind_underlay: false, ..Vxlan::default() },
        Vxlan { ipv6: true, underlay: Underlay::Bridge, udp_checksum: Some(true), ..Vxlan::default() },
    ];
    for shape in shapes {
        let pair = shape.clone().build();
        pair.connect();
        for ns in &pair.nodes {
            let underlay = BTreeSet::from([shape.underlay.device().to_owned()]);
            assert_eq!(assert_tunnels(ns)["flannel.1"], Some(underlay), "{shape:?}");
            match shape.underlay {
                Underlay::Veth => assert_features(ns, &["flannel.1", "eth0"]),
                other => assert_features(ns, &["flannel.1", other.device(), "eth0"]),
            }
        }
    }
}

/// A rule by destination leads to another table and another device; the main table would yield the wrong one.
#[test]
fn policy_routing_decides_the_underlay() {
    for (family, addresses, remote, prefix) in [
        ("-4", ["192.0.2.1/24", "198.51.100.1/24"], "203.0.113.9", "203.0.113.0/24"),
        ("-6", ["fd00:1::1/64", "fd00:2::1/64"], "fd00:99::9", "fd00:99::/64"),
    ] {
        let ns = Netns::new();
        nic(&ns, "eth0", addresses[0]);
        nic(&ns, "eth1", addresses[1]);
        ns.cmd(&format!("ip {family} route add default dev eth0"));
        ns.cmd(&format!("ip link add lone type vxlan id 1 dstport 8472 remote {remote}"));
        ns.up("lone");
        assert_eq!(assert_tunnels(&ns)["lone"], Some(BTreeSet::from(["eth0".to_owned()])));
        build(
            &ns,
            &[
                &format!("ip {family} route add default dev eth1 table 77"),
                &format!("ip {family} rule add to {prefix} lookup 77"),
            ],
        );
        assert_eq!(assert_tunnels(&ns)["lone"], Some(BTreeSet::from(["eth1".to_owned()])), "{family}");
        // One remote matches the rule, the other does not: both devices carry the tunnel.
        let other = if family == "-4" { "198.18.0.9" } else { "fd00:98::9" };
        ns.cmd(&format!("bridge fdb append 00:00:00:00:00:00 dev lone dst {other}"));
        let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
        assert_eq!(assert_tunnels(&ns)["lone"], Some(both), "{family}");
        // A rule by protocol and port matches the tunnel's packets and no others.
        ns.cmd(&format!("ip {family} route add default dev lone table 78"));
        let second = if family == "-4" { "10.9.9.1/24" } else { "fd00:3::1/64" };
        nic(&ns, "eth2", second);
        build(
            &ns,
            &[
                &format!("ip {family} route replace default dev eth2 table 78"),
                &format!("ip {family} rule add ipproto udp dport 8472 pref 10 lookup 78"),
            ],
        );
        assert_eq!(assert_tunnels(&ns)["lone"], Some(BTreeSet::from(["eth2".to_owned()])), "{family}");
    }
}

/// Rules that match only some of the tunnel's packets: by an entry's own port, or by a flow's source port.
#[test]
fn rules_by_port_never_make_half_an_answer() {
    let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
    for rule in ["ip rule add ipproto udp dport 9999 lookup 77", "ip rule add ipproto udp sport 40000-50000 lookup 77"]
    {
        let ns = Netns::new();
        nic(&ns, "eth0", "192.0.2.1/24");
        nic(&ns, "eth1", "198.51.100.1/24");
        build(
            &ns,
            &[
                "ip route add default dev eth0",
                "ip route add default dev eth1 table 77",
                rule,
                "ip link add tun type vxlan id 1 dstport 8472 remote 203.0.113.9",
                "ip link set tun up",
                "bridge fdb append 02:00:00:00:00:01 dev tun dst 203.0.113.10 port 9999",
            ],
        );
        let underlay = check_here(&ns, &[]).underlay("tun");
        assert!(underlay.is_none() || underlay.as_ref() == Some(&both), "{rule}: {underlay:?}");
    }
}

/// Two remotes behind two devices, and forty more behind either of them.
#[test]
fn remotes_over_two_devices_name_both() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    nic(&ns, "eth1", "198.51.100.1/24");
    ns.cmd("ip link add two type vxlan id 1 dstport 8472 nolearning");
    ns.up("two");
    for last in 2..42 {
        let net = if last % 2 == 0 { "192.0.2" } else { "198.51.100" };
        ns.cmd(&format!("bridge fdb append 02:00:00:00:00:{last:02} dev two dst {net}.{last}"));
    }
    let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
    assert_eq!(assert_tunnels(&ns)["two"], Some(both));
    assert_features(&ns, &["two", "eth0", "eth1"]);
    // An entry can name a device itself.
    nic(&ns, "eth2", "10.9.9.1/24");
    ns.cmd("bridge fdb append 02:00:00:00:00:99 dev two dst 10.9.9.2 via eth2");
    let all = ["eth0", "eth1", "eth2"].map(str::to_owned).into();
    assert_eq!(check_here(&ns, &[]).underlay("two"), Some(all));
}

/// With two equal next hops either device carries some packets; a route lookup names only one of them.
#[test]
fn a_multipath_route_names_every_device_it_uses() {
    for (family, nets, remote) in [
        ("-4", [("192.0.2.1/24", "192.0.2.254"), ("198.51.100.1/24", "198.51.100.254")], "203.0.113.9"),
        ("-6", [("fd00:1::1/64", "fd00:1::ff"), ("fd00:2::1/64", "fd00:2::ff")], "fd00:99::9"),
    ] {
        let ns = Netns::new();
        nic(&ns, "eth0", nets[0].0);
        nic(&ns, "eth1", nets[1].0);
        let hops = format!("nexthop via {} dev eth0 nexthop via {} dev eth1", nets[0].1, nets[1].1);
        ns.cmd(&format!("ip {family} route add default {hops}"));
        ns.cmd(&format!("ip link add multi type vxlan id 1 dstport 8472 remote {remote}"));
        ns.up("multi");
        let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
        let underlay = check_here(&ns, &[]).underlay("multi");
        // It may be unknown, but not incomplete.
        assert!(underlay.is_none() || underlay == Some(both), "{family}: {underlay:?}");
    }
}

/// The same with next-hop objects, which a route refers to by number.
#[test]
fn a_route_by_next_hop_objects_names_every_device_it_uses() {
    for compatible in [1, 0] {
        let ns = Netns::new();
        nic(&ns, "eth0", "192.0.2.1/24");
        nic(&ns, "eth1", "198.51.100.1/24");
        ns.sysctl("net.ipv4.nexthop_compat_mode", compatible);
        build(
            &ns,
            &[
                "ip nexthop add id 1 via 192.0.2.254 dev eth0",
                "ip nexthop add id 2 via 198.51.100.254 dev eth1",
                "ip nexthop add id 10 group 1/2",
                "ip route add 203.0.113.0/24 nhid 10",
                "ip route add 203.0.114.0/24 nhid 2",
                "ip link add several type vxlan id 1 dstport 8472 remote 203.0.113.9",
                "ip link add single type vxlan id 2 dstport 8473 remote 203.0.114.9",
            ],
        );
        ns.up("several");
        ns.up("single");
        let report = check_here(&ns, &[]);
        let both = BTreeSet::from(["eth0".to_owned(), "eth1".to_owned()]);
        let underlay = report.underlay("several");
        assert!(underlay.is_none() || underlay == Some(both), "{compatible}: {underlay:?}");
        let underlay = report.underlay("single");
        assert!(
            underlay.is_none() || underlay == Some(BTreeSet::from(["eth1".to_owned()])),
            "{compatible}: {underlay:?}"
        );
    }
}

/// Without a route to the remote, nothing carries the tunnel; the loopback device does not.
#[test]
fn a_remote_without_a_route_has_no_underlay() {
    let routes = ["", "unreachable", "blackhole", "prohibit"];
    for (family, address, remote) in [("-4", "192.0.2.1/24", "203.0.113.9"), ("-6", "fd00:1::1/64", "fd00:99::9")] {
        for kind in routes {
            let ns = Netns::new();
            nic(&ns, "eth0", address);
            if !kind.is_empty() {
                ns.cmd(&format!("ip {family} route add {kind} {remote}"));
            }
            ns.cmd(&format!("ip link add lost type vxlan id 1 dstport 8472 remote {remote}"));
            ns.up("lost");
            let report = check_here(&ns, &[]);
            assert_eq!(report.underlay("lost"), None, "{family} {kind:?}: {}", report.json);
            let shown = metrics_here(&ns, &[]);
            let devices = shown.series("natwatch_interface_feature_enabled").iter().map(|(l, _)| l["device"].clone());
            assert_eq!(devices.collect::<BTreeSet<_>>(), BTreeSet::from(["lost".to_owned()]), "{family} {kind:?}");
        }
    }
}

/// A tunnel that was moved here from another namespace sends its packets there.
#[test]
fn a_tunnel_that_sends_elsewhere_has_no_underlay_here() {
    let (home, ns) = (Netns::new(), Netns::new());
    nic(&home, "eth0", "192.0.2.1/24");
    nic(&ns, "wrong0", "192.0.2.1/24");
    home.cmd("ip link add moved type vxlan id 1 dstport 8472 remote 192.0.2.2");
    home.cmd(&format!("ip link set moved netns {}", ns.name()));
    ns.up("moved");
    let report = check_here(&ns, &[]);
    assert_eq!(report.underlay("moved"), None, "{}", report.json);
    assert_eq!(report.tunnels().expect("tunnels")["moved"]["id"], 1);
    assert_eq!(check_here(&home, &[]).tunnels(), Some(BTreeMap::new()), "it is not there any more");
}

/// Every combination that ethtool can set, on tunnel, bridge and port.
#[test]
fn offload_features_are_what_ethtool_prints() {
    let ns = Netns::new();
    nic(&ns, "port0", "10.9.9.1/24");
    nic(&ns, "port1", "10.9.8.1/24");
    build(
        &ns,
        &[
            "ip link add br0 type bridge",
            "ip link set port0 master br0",
            "ip link set port1 master br0",
            "ip addr add 192.0.2.1/24 dev br0",
            "ip link set br0 up",
            "ip link add tun type vxlan id 1 dstport 8472 remote 192.0.2.2",
            "ip link set tun up",
        ],
    );
    let devices = ["tun", "br0", "port0", "port1"];
    assert_features(&ns, &devices);
    for on in [false, true] {
        for device in devices {
            for feature in ["tx-checksum-ip-generic", "rx-checksumming", "tx-udp_tnl-segmentation"] {
                if !features(&ns, device)[feature].fixed {
                    offload(&ns, device, feature, on);
                    assert_features(&ns, &devices);
                }
            }
        }
    }
    // Requested but not possible: segmentation needs the checksum.
    for device in ["port0", "port1", "tun"] {
        offload(&ns, device, "tx", false);
        assert_features(&ns, &devices);
    }
    assert_eq!(check_here(&ns, &[]).tunnels().expect("tunnels")["tun"]["tx_checksum_offload"], "off");
}

/// A macvlan has fixed features, which are those of its lower device.
#[test]
fn fixed_features_are_shown_as_ethtool_prints_them() {
    let ns = Netns::new();
    nic(&ns, "eth0", "10.9.9.1/24");
    build(
        &ns,
        &[
            "ip link add link eth0 name mac0 type macvlan mode bridge",
            "ip addr add 192.0.2.1/24 dev mac0",
            "ip link set mac0 up",
            "ip link add tun type vxlan id 1 dstport 8472 remote 192.0.2.2",
            "ip link set tun up",
        ],
    );
    for on in [true, false] {
        offload(&ns, "eth0", "tx", on);
        offload(&ns, "eth0", "rx", on);
        assert_features(&ns, &["tun", "mac0", "eth0"]);
    }
    // A tunnel over the loopback device: most of its features are fixed, and on.
    let ns = Netns::new();
    ns.cmd("ip link add tun type vxlan id 1 dstport 8472 remote 127.0.0.1");
    ns.up("tun");
    assert_features(&ns, &["tun", "lo"]);
}

/// Devices beyond eight, or beyond the flag's value, have no series, and are counted.
#[test]
fn no_more_devices_than_asked_for_have_series() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    for number in 0..12 {
        ns.cmd(&format!("ip link add t{number:02} type vxlan id {number} dstport {} remote 192.0.2.2", 5000 + number));
        ns.up(&format!("t{number:02}"));
    }
    let devices = |metrics: &Exposition| -> BTreeSet<String> {
        metrics.series("natwatch_interface_feature_fixed").iter().map(|(labels, _)| labels["device"].clone()).collect()
    };
    let metrics = metrics_here(&ns, &[]);
    let first: BTreeSet<String> = ["eth0", "t00", "t01", "t02", "t03", "t04", "t05", "t06"].map(str::to_owned).into();
    assert_eq!(devices(&metrics), first);
    assert_eq!(metrics.get("natwatch_series_omitted", &[]), Some(5.0 * 18.0));
    for (limit, omitted) in [("0", 13.0), ("1", 12.0), ("3", 10.0), ("100", 0.0)] {
        let metrics = metrics_here(&ns, &["--collector.links.max-devices", limit]);
        let shown = devices(&metrics);
        assert_eq!(shown.len(), 13 - omitted as usize, "{limit}: {shown:?}");
        assert_eq!(metrics.get("natwatch_series_omitted", &[]), Some(omitted * 18.0), "{limit}");
    }
}

/// A node with 300 pods and 20 tunnels: within the budget of 500 series, and nothing fails.
#[test]
fn a_crowded_node_stays_within_the_budget_of_series() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    let mut batch = String::new();
    for number in 0..300 {
        batch += &format!("link add pod{number} type veth peer name peer{number}\nlink set pod{number} up\n");
    }
    for number in 0..20 {
        batch += &format!("link add v{number} type vxlan id {number} dstport {} remote 192.0.2.2\n", 5000 + number);
        batch += &format!("link set v{number} up\n");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch).expect("the batch");
    ns.run(&["ip", "-batch", file.path().to_str().expect("UTF-8")]);
    let text = natwatch_in(&ns, &["check", "--format", "prometheus", "--collector.conntrack.per-cpu"]);
    let metrics = Exposition::parse(&text.stdout);
    assert!(metrics.len() <= 500, "{} series", metrics.len());
    assert_eq!(metrics.get("natwatch_tunnels", &[]), Some(20.0));
    let shown = metrics.series("natwatch_tunnel_info").len();
    let omitted = metrics.get("natwatch_series_omitted", &[]).expect("a number");
    assert_eq!(omitted, (20 - shown) as f64 + f64::from(21 - 8) * 18.0);
    let report = check_here(&ns, &[]);
    assert!(report.source_states().values().all(|state| *state == "ok"), "{}", report.json);
    assert_eq!(report.tunnels().expect("tunnels").len(), 20, "the document lists all");
    for collector in ["links", "conntrack", "kernel", "netstat", "flows", "neighbours"] {
        let success = metrics.get("natwatch_scrape_collector_success", &[("collector", collector)]);
        assert_eq!(success, Some(1.0), "{collector}");
    }
    let server = Server::start(&ns, &["--collector.conntrack.per-cpu"]);
    let scraped = Exposition::parse(&server.ok("/metrics"));
    assert!(scraped.len() <= 500, "{} series with process_*", scraped.len());
}

/// Devices appear and disappear during the reading: every result is right, or a failed source makes it unknown.
#[test]
fn devices_that_come_and_go_never_make_a_wrong_answer() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    nic(&ns, "eth1", "198.51.100.1/24");
    ns.cmd("ip link add stable type vxlan id 1 dstport 8472 remote 192.0.2.2");
    ns.up("stable");
    let batch = "link add fleeting type vxlan id 2 dstport 4789 remote 198.51.100.2 udpcsum\nlink set fleeting up\n\
                 link add pod type veth peer name pod-peer\nlink del fleeting\nlink del pod\n";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), batch.repeat(20)).expect("the batch");
    let path = file.path().to_str().expect("UTF-8");
    let over = AtomicBool::new(false);
    let mut seen = [0; 3];
    thread::scope(|scope| {
        let churn = scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                ns.run(&["ip", "-batch", path]);
            }
        });
        let _stop = StopOnDrop(&over);
        for _ in 0..50 {
            let report = check_here(&ns, &[]);
            assert_ne!(report.code, 1, "{}", report.json);
            seen[assert_whole(&report)] += 1;
        }
        for _ in 0..20 {
            let metrics = metrics_here(&ns, &[]);
            for (labels, _) in metrics.series("natwatch_tunnel_info") {
                assert!(["stable", "fleeting"].contains(&labels["device"].as_str()), "{labels:?}");
            }
        }
        drop(_stop);
        churn.join().expect("the churn");
    });
    println!("without / with the fleeting tunnel / links not known: {seen:?}");
    assert!(seen[0] + seen[1] > 0, "every look failed");
    assert_eq!(assert_tunnels(&ns).keys().collect::<Vec<_>>(), ["stable"]);
}

/// Stops the changes also when the test fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Asserts that each tunnel's properties are right, or null with a failed source; returns the number of tunnels seen.
fn assert_whole(report: &Report) -> usize {
    let failed = |source: &str| report.source(source).is_none_or(|(state, _)| state == "failed");
    let Some(tunnels) = report.tunnels() else {
        assert!(failed("rtnetlink"), "{}", report.json);
        return 2;
    };
    let known = ["stable", "fleeting"];
    assert!(tunnels.keys().all(|name| known.contains(&name.as_str())), "{}", report.json);
    assert!(tunnels.contains_key("stable"), "{}", report.json);
    for (name, tunnel) in &tunnels {
        let (id, port, underlay) = if name == "stable" { (1, 8472, "eth0") } else { (2, 4789, "eth1") };
        assert_eq!((&tunnel["id"], &tunnel["port"]), (&id.into(), &port.into()), "{tunnel}");
        assert_eq!(tunnel["udp_checksum"], "on", "{tunnel}");
        let excused = ["rtnetlink", "routing"].into_iter().any(failed) || tunnel["up"] == false;
        let right = tunnel["underlay"] == underlay || (tunnel["underlay"].is_null() && excused);
        assert!(right, "{name}: {}", report.json);
        let excused = ["rtnetlink", "routing", "ethtool"].into_iter().any(failed) || tunnel["up"] == false;
        let right = tunnel["tx_checksum_offload"] == "on" || (tunnel["tx_checksum_offload"] == "unknown" && excused);
        assert!(right, "{name}: {}", report.json);
    }
    tunnels.len() - 1
}

/// Names as long and as odd as the kernel accepts, live and in a replayed capture.
#[test]
fn odd_device_names_are_told_apart_and_printed_safely() {
    let ns = Netns::new();
    nic(&ns, "eth0", "192.0.2.1/24");
    // As they are, and as natwatch prints them.
    let names = [
        ("fifteen-bytes-x", "fifteen-bytes-x"),
        ("eth0.failed", "eth0.failed"),
        ("eth0.denied", "eth0.denied"),
        ("meta.json", "meta.json"),
        ("größe", "größe"),
        ("隧道", "隧道"),
        ("a\u{1}b\u{7f}", "a\\x01b\\x7f"),
        ("\u{1b}[31mred", "\\x1b[31mred"),
        ("q\"uo'te\\n", "q\"uo'te\\n"),
        ("a=b,c{d}", "a=b,c{d}"),
        ("-dash", "-dash"),
        ("CON", "CON"),
        ("con", "con"),
    ];
    for (number, (name, _)) in names.iter().enumerate() {
        let (id, port) = (number.to_string(), (5000 + number).to_string());
        let words = ["ip", "link", "add", "name", name, "type", "vxlan", "id", &id, "dstport", &port];
        ns.run(&[&words[..], &["remote", "192.0.2.2"]].concat());
        ns.run(&["ip", "link", "set", "dev", name, "up"]);
    }
    let report = check_here(&ns, &[]);
    let tunnels = report.tunnels().expect("tunnels");
    let metrics = metrics_here(&ns, &[]);
    assert_eq!(tunnels.len(), names.len(), "{}", report.json);
    for (number, (_, name)) in names.iter().enumerate() {
        let tunnel = tunnels.get(*name).unwrap_or_else(|| panic!("no {name:?} in {}", report.json));
        assert_eq!((&tunnel["id"], &tunnel["underlay"]), (&number.into(), &"eth0".into()), "{name}");
        assert_eq!(tunnel["tx_checksum_offload"], "on", "{name}");
        assert_info(&metrics, tunnel);
    }
    let text = natwatch_in(&ns, &["check", "--network-namespace", "current"]);
    assert!(text.stdout.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    let directory = tempfile::tempdir().expect("a directory");
    let saved = directory.path().join("capture");
    let saved = saved.to_str().expect("UTF-8");
    let capture = natwatch_in(&ns, &["capture", saved]);
    assert_eq!(capture.code, 0, "{capture:?}");
    let replayed = check(&Netns::new(), &["--network-namespace", "current", "--from", saved]);
    assert_eq!(replayed.tunnels(), Some(tunnels));
    assert_eq!(replayed.source_states(), report.source_states());
}

/// The four protocol counters equal what nstat prints.
#[track_caller]
fn assert_netstat(ns: &Netns) -> [u64; 4] {
    let names = [
        ("udp_in_csum_errors", "UdpInCsumErrors"),
        ("udp6_in_csum_errors", "Udp6InCsumErrors"),
        ("tcp_in_csum_errors", "TcpInCsumErrors"),
        ("tcp_syn_retransmits", "TcpExtTCPSynRetrans"),
    ];
    let expected = |name: &str| nstat(ns)[name];
    eventually(PATIENCE, || {
        let before = names.map(|(_, name)| expected(name));
        let metrics = metrics_here(ns, &[]);
        if before != names.map(|(_, name)| expected(name)) {
            return Err("the counters do not rest");
        }
        for ((metric, name), expected) in names.iter().zip(before) {
            let got = metrics.get(&format!("natwatch_netstat_{metric}_total"), &[]);
            assert_eq!(got, Some(expected as f64), "{metric} and {name}");
        }
        Ok(before)
    })
}

/// Old kube-proxy rules break the tunnel's checksums: the far node counts them, the near one retransmits SYNs.
#[test]
fn checksum_errors_of_a_broken_tunnel_are_counted_as_nstat_counts_them() {
    let pair = VxlanPair::behind_old_kube_proxy(true);
    let [a, b] = &pair.nodes;
    pair.connect();
    assert_eq!(proc_netstat(b)["UdpInCsumErrors"], 1, "the tunnel was not broken");
    assert_eq!(assert_netstat(b)[0], 1);
    assert_eq!(assert_netstat(a)[3], 1);
}

/// Sends bytes as the payload of a bare IP packet to the loopback address.
fn send_raw(ns: &Netns, target: IpAddr, protocol: rustix::net::Protocol, payload: &[u8]) {
    let family = if target.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    ns.enter(|| {
        let socket = socket(family, SocketType::RAW, Some(protocol)).expect("a raw socket");
        sendto(&socket, payload, SendFlags::empty(), &SocketAddr::new(target, 0)).expect("a packet");
    });
}

/// Packets with wrong checksums of three protocols, in different numbers, so that they cannot be mistaken.
#[test]
fn checksum_errors_of_each_protocol_have_their_own_counter() {
    let ns = Netns::new();
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let bound = ns.enter(|| {
        let udp = UdpSocket::bind((v4, 7777)).expect("a socket");
        (udp, UdpSocket::bind((v6, 7777)).expect("a socket"), TcpListener::bind((v4, 7777)).expect("a listener"))
    });
    // Ports 1 and 7777, and a checksum that is wrong whatever the addresses are.
    let udp = |checksum: u8| [0, 1, 0x1e, 0x61, 0, 10, 0xab, checksum, b'h', b'i'];
    let tcp = [0, 1, 0x1e, 0x61, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 16, 0, 0xab, 0xcd, 0, 0];
    for _ in 0..3 {
        send_raw(&ns, v4, ipproto::UDP, &udp(0xcd));
    }
    for _ in 0..5 {
        send_raw(&ns, v6, ipproto::UDP, &udp(0xce));
    }
    for _ in 0..2 {
        send_raw(&ns, v4, ipproto::TCP, &tcp);
    }
    for socket in [&bound.0, &bound.1] {
        socket.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        // UDP checksums are verified at the latest when the socket is read.
        assert!(socket.recv(&mut [0; 16]).is_err(), "a wrong checksum passed");
    }
    eventually(PATIENCE, || {
        let counted = (proc_netstat(&ns)["UdpInCsumErrors"], proc_snmp6(&ns)["Udp6InCsumErrors"]);
        let all = (counted.0, counted.1, proc_netstat(&ns)["TcpInCsumErrors"]);
        if all == (3, 5, 2) { Ok(()) } else { Err(format!("{all:?}")) }
    });
    assert_eq!(assert_netstat(&ns), [3, 5, 2, 0]);
}
