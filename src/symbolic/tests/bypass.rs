//! Connections whose destination was translated, and segments that bypass the translation. The host has 192.0.2.1 on
//! eth0, which its default route uses, and containers behind docker0; pods are behind cni0.

use super::language::{effort, host, rules};
use super::unread::word;
use crate::facts::ForwardedPath;
use crate::facts::netfilter::{address_key, name_key};
use crate::symbolic::network::host::{Device, HostFacts, LOCAL, OwnAddresses};
use crate::symbolic::values::Numbers;
use crate::symbolic::{Bypass, bypass};

pub(crate) fn routed() -> HostFacts {
    let target = |(address, device): (&str, Option<&str>)| (address.parse().unwrap(), device.and_then(name_key));
    let targets = [
        ("172.17.0.2", Some("docker0")),
        ("10.244.0.5", Some("cni0")),
        ("192.0.2.7", Some("eth0")),
        ("192.0.2.1", None),
        ("fd00::5", Some("cni0")),
    ];
    HostFacts { outward: Ok(vec![name_key("eth0").unwrap()]), targets: Ok(targets.map(target).into()), ..host() }
}

pub(crate) fn devices(names: &[&'static str]) -> Option<Vec<Device<'static>>> {
    let device = |(at, name): (usize, &&'static str)| {
        let hardware_type = if *name == "lo" { 772 } else { 1 };
        Device { index: at as u32 + 1, name, group: None, kind: None, hardware_type, up: *name != "down0" }
    };
    Some(names.iter().enumerate().map(device).collect())
}

pub(crate) const DEVICES: &[&str] = &["lo", "eth0", "docker0", "cni0", "down0"];

fn walked(text: &str, host: HostFacts, devices: Option<Vec<Device<'_>>>) -> Bypass {
    let written = rules(text);
    let mut network = written.network();
    network.own = own();
    (network.host, network.devices) = (host, devices);
    bypass(&network, &effort())
}

/// Addresses of this host.
pub(crate) fn own() -> [Option<OwnAddresses>; 2] {
    let local = address_key("192.0.2.1".parse().unwrap());
    let loopback = address_key("127.0.0.0".parse().unwrap());
    let typed = vec![(LOCAL, (local, local), Some(2)), (LOCAL, (loopback, loopback | 0xff_ffff), Some(1))];
    [Some(OwnAddresses { typed }), Some(OwnAddresses::default())]
}

/// Whether there are such connections, and whether invalid segments reach their clients.
fn bypassed(text: &str) -> [&'static str; 2] {
    let found = walked(text, routed(), devices(DEVICES));
    [found.translated, found.arrive].map(|found| word(&found.happens))
}

const SERVICE: &str = "ip nat P: nat prerouting -100\n dst 10.96.0.1, proto 6 => dnat to 10.244.0.5 ports 443\n";
const PUBLISHED: &str = "ip nat P: nat prerouting -100\n !iif docker0, proto 6, dport 8080 => dnat to 172.17.0.2 ports 80\n\
                         ip nat O: nat output -100\n !iif docker0, proto 6, dport 8080 => dnat to 172.17.0.2 ports 80\n";

#[test]
fn a_client_behind_this_host_reaches_the_target_past_the_translation() {
    for (rule, translated) in [
        ("dst 10.96.0.1, proto 6 => dnat to 10.244.0.5", "yes"),
        ("dst 10.96.0.1 => dnat to 10.244.0.5", "yes"),
        ("iif cni0, proto 6 => dnat to 192.0.2.7", "yes"),
        ("dst 10.96.0.1, proto 17 => dnat to 10.244.0.5", "no"),
        ("iif eth0, proto 6 => dnat to 10.244.0.5", "no"),
        ("iif gone0, proto 6 => dnat to 10.244.0.5", "no"),
        ("iif down0, proto 6 => dnat to 10.244.0.5", "no"),
        ("src 192.0.2.1, proto 6 => dnat to 10.244.0.5", "no"), // nobody else has that address
        ("proto 6 => dnat to 192.0.2.1", "no"),                 // this host
        ("proto 6 => redirect ports 8080", "no"),
        ("=> accept\n proto 6 => dnat to 10.244.0.5", "no"),
        ("proto 6 => dnat to 10.9.9.9", "no"), // not looked up, and no route leads there
        ("proto 6 => odd", "maybe"),
        ("opaque, proto 6 => dnat to 10.244.0.5", "maybe"),
    ] {
        let text = format!("ip nat P: nat prerouting -100\n {rule}");
        assert_eq!(bypassed(&text)[0], translated, "{rule}");
    }
    let not_looked_up = |change: &dyn Fn(&mut HostFacts)| {
        let mut host = routed();
        host.first_paths[0] = Ok([(name_key("cni0").unwrap(), Numbers::ranges(vec![(0, u32::MAX.into())]))].into());
        change(&mut host);
        word(
            &walked("ip nat P: nat prerouting -100\n proto 6 => dnat to 10.9.9.9", host, devices(DEVICES))
                .translated
                .happens,
        )
    };
    assert_eq!(not_looked_up(&|_| ()), "yes");
    assert_eq!(not_looked_up(&|host| host.first_paths[0] = Err("no answer".into())), "maybe");
    assert_eq!(not_looked_up(&|host| host.routes_by_sender[0] = true), "maybe");
    assert_eq!(bypassed("ip nat P: nat postrouting 100\n => masquerade"), ["no", "no"]);
    let own = |rule: &str| bypassed(&format!("ip nat O: nat output -100\n {rule}"));
    assert_eq!(own("proto 6 => dnat to 10.244.0.5"), ["yes", "yes"]);
    assert_eq!(own("proto 6 => dnat to 192.0.2.7"), ["yes", "yes"]);
    assert_eq!(own("src 127.0.0.1, proto 6 => dnat to 10.244.0.5"), ["no", "no"], "it gets nowhere");
    assert_eq!(bypassed("ip6 nat P: nat prerouting -100\n proto 6 => dnat to fd00::5"), ["yes", "yes"]);
}

#[test]
fn what_connections_or_resets_do_not_pass_they_cannot_break() {
    for (chain, translated) in [
        ("ip raw P: filter prerouting -300\n dst 10.96.0.1 => notrack", "no"),
        ("ip raw P: filter prerouting -300\n dst 10.96.0.1 => drop", "no"),
        ("ip f F: filter forward 0 drop", "no"),
        ("ip f F: filter forward 0 drop\n status 0x20 => accept", "no"), // a reset has no connection
        ("ip f F: filter forward 0 drop\n status 0x20 => accept\n state 1 => accept", "yes"),
        ("ip f F: filter forward 0\n iif cni0, oif cni0 => drop\n iif docker0, oif cni0 => drop", "no"),
        ("ip f F: filter forward 0\n iif docker0, oif cni0 => drop", "yes"),
        ("ip m P: filter prerouting -150\n state 1 => drop", "no"),
        ("ip m P: filter postrouting -150\n state 1 => drop", "no"),
        ("ip nat S: nat postrouting 100\n => masquerade", "no"), // answers come back to this host
        ("ip nat S: nat postrouting 100\n !iif cni0 => masquerade", "yes"),
        ("ip nat S: nat postrouting 100\n mark 0x4000/0x4000 => masquerade", "yes"),
        ("ip nat S: nat postrouting 100\n => snat to 192.0.2.1", "no"),
        ("ip f F: filter forward 0\n opaque => drop", "maybe"),
        ("unread ip forward", "maybe"),
        ("unread ip output", "yes"),
    ] {
        assert_eq!(bypassed(&format!("{SERVICE}{chain}"))[0], translated, "{chain}");
    }
    let with = |change: &dyn Fn(&mut HostFacts)| {
        let mut host = routed();
        change(&mut host);
        word(&walked(SERVICE, host, devices(DEVICES)).translated.happens)
    };
    let everywhere = || ["eth0", "docker0", "cni0"].map(|name| name_key(name).unwrap()).to_vec();
    assert_eq!(with(&|host| host.forwards[0] = Ok(false)), "no");
    assert_eq!(with(&|host| host.forwards[0] = Err("no answer".into())), "maybe");
    assert_eq!(with(&|host| host.outward = Ok(everywhere())), "no");
    assert_eq!(with(&|host| host.outward = Err("no answer".into())), "maybe");
    assert_eq!(with(&|host| host.targets = Err("no answer".into())), "maybe");
    assert_eq!(
        with(&|host| host.forwarded_paths = Err("no answer".into())),
        "yes",
        "some go as this host's own packets"
    );
    let unread_and_nowhere = |host: &mut HostFacts| {
        host.forwarded_paths = Err("no answer".into());
        host.targets.as_mut().unwrap().values_mut().for_each(|device| *device = None);
    };
    assert_eq!(with(&unread_and_nowhere), "maybe");
    // Policy rules that refuse what comes from there.
    let nowhere = |names: &[&str], sources: (u128, u128)| {
        let path = |name: &&str| {
            let (input, target) = (name_key(name).unwrap(), "10.244.0.5".parse().unwrap());
            ForwardedPath { input, sources, target, output: None }
        };
        let paths: Vec<ForwardedPath<u128>> = names.iter().map(path).collect();
        with(&|host| host.forwarded_paths = Ok(paths.clone()))
    };
    let all = (0, u32::MAX.into());
    assert_eq!(nowhere(&["docker0", "cni0"], all), "no");
    assert_eq!(nowhere(&["docker0"], all), "yes");
    assert_eq!(nowhere(&["docker0", "cni0"], (0, 0x7fff_ffff)), "yes");
    assert_eq!(word(&walked(SERVICE, routed(), None).translated.happens), "maybe");
}

/// Services are routed by eth0 until their destination is translated.
#[test]
fn output_sees_the_device_that_the_first_destination_has() {
    let paths = |paths: &[(&str, (u128, u128))]| {
        paths.iter().map(|(device, to)| (name_key(device).unwrap(), Numbers::ranges(vec![*to]))).collect()
    };
    let pods = (address_key("10.244.0.0".parse().unwrap()), address_key("10.244.255.255".parse().unwrap()));
    let known = [Ok(paths(&[("eth0", (0, pods.0 - 1)), ("cni0", pods)])), Ok(paths(&[]))];
    let unread = [Err("no answer".into()), Err("no answer".into())];
    for (chain, when_known, when_unread) in [
        ("", "yes", "yes"),
        ("ip f O: filter output 0\n oif cni0, state 8 => drop", "yes", "maybe"),
        ("ip f O: filter output 0\n oif eth0, state 8 => drop", "no", "maybe"),
        ("ip f O: filter output 0\n !oif lo, state 8 => drop", "no", "no"),
        ("ip f O: filter output 0\n oif lo => drop", "yes", "yes"),
        ("ip f O: filter output 0\n dst 10.244.0.9, oif eth0 => drop", "yes", "yes"),
    ] {
        let text = format!("ip nat O: nat output -100\n dst 10.96.0.1, proto 6 => dnat to 10.244.0.5\n{chain}");
        for (first_paths, wanted) in [(&known, when_known), (&unread, when_unread)] {
            let host = HostFacts { first_paths: first_paths.clone(), ..routed() };
            let found = walked(&text, host, devices(DEVICES));
            assert_eq!(word(&found.translated.happens), wanted, "{chain} {:?}", found.translated);
        }
    }
}

#[test]
fn invalid_segments_take_the_way_of_the_answers() {
    for (chain, arrives) in [
        ("", "yes"),
        ("ip f I: filter input 0\n state 1 => drop", "yes"), // others forward theirs
        ("ip f F: filter forward 0\n src 10.244.0.5, state 1 => drop", "no"),
        ("ip f F: filter forward 0\n iif cni0, oif cni0, src 10.244.0.5, sport 443, state 1 => drop", "yes"), // to docker0
        ("ip f F: filter forward 0\n iif cni0, sport 443, state 1 => drop", "no"),
        ("ip f F: filter forward 0\n iif cni0, sport 444, state 1 => drop", "yes"),
        ("ip f F: filter forward 0\n oif docker0 => accept\n iif cni0, sport 443, state 1 => drop", "yes"),
        ("ip f F: filter forward 0\n sport 443, sometimes, state 1 => drop", "yes"),
        ("ip f F: filter forward 0\n sport 443 => jump C\nip f C:\n unread", "maybe"),
        ("ip m P: filter prerouting -150\n iif cni0, sport 443, state 1 => drop", "no"),
        ("ip6 f F: filter forward 0\n state 1 => drop", "yes"),
    ] {
        let found = bypassed(&format!("{SERVICE}{chain}"));
        assert_eq!(found, ["yes", arrives], "{chain}");
    }
    // A rule that rejects with a reset resets, whoever the client is.
    for (chain, expected) in [
        ("ip f F: filter forward 0\n src 10.244.0.5, state 1 => reset", ["yes", "yes"]),
        ("ip f F: filter forward 0\n state 1 => reset", ["yes", "yes"]),
        ("ip f F: filter forward 0\n oif eth0, state 1 => reset\n state 1 => drop", ["yes", "yes"]),
        ("ip f F: filter forward 0\n state 1 => drop\n state 1 => reset", ["no", "no"]),
        ("ip f F: filter forward 0\n state 1 => reset\nip f O: filter output 0\n state 1 => drop", ["no", "no"]),
        ("ip f F: filter forward 0\n src 10.244.0.6, state 1 => reset\n state 1 => drop", ["no", "no"]),
    ] {
        assert_eq!(bypassed(&format!("{SERVICE}{chain}")), expected, "{chain}");
    }
    // If packets of both directions are dropped there is nothing to reset, which looks the same.
    assert_eq!(bypassed(&format!("{SERVICE}ip f F: filter forward 0\n state 1 => drop")), ["no", "no"]);
    // Segments to this host traverse input.
    let own = PUBLISHED.split_once("ip nat O").map(|(_, own)| format!("ip nat O{own}")).unwrap();
    assert_eq!(bypassed(&format!("{own}ip f F: filter forward 0\n state 1 => drop")), ["yes", "yes"]);
    assert_eq!(bypassed(&format!("{own}ip f I: filter input 0\n state 1 => drop")), ["yes", "no"]);
    assert_eq!(bypassed(&format!("{own}ip f O: filter output 0\n state 1 => drop")), ["no", "no"]);
    // The whole output hook sees the device of the first destination.
    let local = "ip nat O: nat output -100\n dst 192.0.2.1, proto 6 => dnat to 172.17.0.2\n";
    for (test, translated) in [("oif docker0", "yes"), ("!oif docker0", "no"), ("oif lo", "no"), ("oif eth0", "yes")] {
        let found = bypassed(&format!("{local}ip f O: filter output 0\n {test}, state 8 => drop"));
        assert_eq!(found[0], translated, "{test}");
    }
    // Translating a source to itself changes nothing.
    for (rule, translated) in [
        ("=> masquerade", "yes"),
        ("=> snat to 192.0.2.1", "yes"),
        ("=> snat to 198.51.100.7", "no"),
        ("=> snat to 192.0.2.1 ports 1024-2047", "no"),
        ("=> masquerade random-fully", "no"),
        ("!src 192.0.2.1 => masquerade", "yes"),
    ] {
        let found = bypassed(&format!("{own}ip nat S: nat postrouting 100\n {rule}"));
        assert_eq!(found[0], translated, "{rule}");
    }
    // Nor is a first packet expected by another connection.
    assert_eq!(
        bypassed(&format!("{own}ip f O: filter output 0 drop\n state 4 => accept\n state 1 => accept")),
        ["no", "no"]
    );
}

#[test]
fn a_published_port_concerns_this_host_and_other_bridges() {
    let found = walked(PUBLISHED, routed(), devices(DEVICES));
    assert_eq!((found.clients, word(&found.arrive.happens)), ([true, true], "yes"));
    assert_eq!(found.rules.len(), 2, "one on each hook");
    let alone = walked(PUBLISHED, routed(), devices(&["lo", "eth0", "docker0", "down0"]));
    assert_eq!(alone.clients, [true, false], "nobody else is behind this host");
}

#[test]
fn where_clients_are_is_known_although_postrouting_does_not_see_it() {
    let older = HostFacts { input_in_postrouting: Ok(false), ..routed() };
    for (chain, translated) in [
        ("", "yes"),
        ("ip m S: filter postrouting -150\n iif docker0, state 1 => drop\n iif cni0, state 1 => drop", "yes"),
        ("ip m S: filter postrouting -150\n state 1 => drop", "no"),
    ] {
        let found = walked(&format!("{SERVICE}{chain}"), older.clone(), devices(DEVICES));
        assert_eq!((word(&found.translated.happens), found.clients[1]), (translated, translated == "yes"), "{chain}");
        if translated == "yes" {
            assert_eq!(word(&found.arrive.happens), "yes", "{chain}");
        }
    }
    let now =
        walked(&format!("{SERVICE}ip m S: filter postrouting -150\n state 1 => drop"), routed(), devices(DEVICES));
    assert_eq!(word(&now.translated.happens), "no");
}
