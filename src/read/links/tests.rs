//! Tests on bytes captured from Linux 6.18; `tests/nodes/README.md` says how.

use std::sync::LazyLock;

use super::*;
use crate::capture::archive::testing::recorded_answer;
use crate::facts::Collector;
use crate::netfilter::netlink;
use crate::read::testing::{answering, capture};
use crate::read::{Collectors, replay};

static FLANNEL: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/links"));
static FLANNEL_FDB: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("flannel", "netlink/route/fdb-flannel.1"));
static DUAL_STACK: LazyLock<&[u8]> = LazyLock::new(|| recorded_answer("dual-stack", "netlink/route/links"));

fn decode_links(bytes: &[u8]) -> Reading<Vec<Link>> {
    answering(bytes, |node| node.try_dump(&all_links(), |message| decode_link(message.body).map(Some)))
}

fn decode_fdb(bytes: &[u8], device: u32) -> Reading<Vec<FdbEntry>> {
    let request = fdb(&link(*FLANNEL, "flannel.1"));
    answering(bytes, |node| node.try_dump(&request, |message| decode_fdb_entry(message, device)))
}

fn link(bytes: &[u8], name: &str) -> Link {
    decode_links(bytes).into_result().unwrap().into_iter().find(|link| link.name == name).unwrap()
}

#[test]
fn a_flannel_device_is_read_in_full() {
    let flannel = link(*FLANNEL, "flannel.1");
    let eth0 = link(*FLANNEL, "eth0");
    assert_eq!((flannel.kind.as_deref(), flannel.up, flannel.mtu), (Some("vxlan"), true, Some(1450)));
    let tunnel = flannel.tunnel.unwrap();
    assert_eq!((tunnel.kind, tunnel.id, tunnel.port), (TunnelKind::Vxlan, Some(1), Some(8472)));
    assert_eq!((tunnel.link, tunnel.local), (Some(eth0.index), Some("192.0.2.10".parse().unwrap())));
    assert_eq!((tunnel.remote, tunnel.source_ports), (None, None));
    assert_eq!((tunnel.udp_checksum, tunnel.flow_based), (UdpChecksum::On, false));
    assert_eq!((eth0.kind, eth0.tunnel), (None, None), "its kind was edited away: it passes for a physical card");
    assert_eq!(link(*FLANNEL, "lo").hardware_type, ARPHRD_LOOPBACK);
}

#[test]
fn checksum_flags_follow_the_outer_family_and_the_mode() {
    let tunnel = |name| link(*DUAL_STACK, name).tunnel.unwrap();
    let vx6 = tunnel("vx6");
    assert_eq!(vx6.family(), Family::Ipv6);
    assert_eq!((vx6.udp_checksum, vx6.source_ports), (UdpChecksum::Off, Some((40000, 50000))));
    assert_eq!((vx6.id, vx6.port), (Some(6), Some(4789)));
    let flow = tunnel("flow0");
    assert_eq!((flow.udp_checksum, flow.flow_based, flow.id), (UdpChecksum::PerPacket, true, None));
    let down = link(*DUAL_STACK, "down0");
    assert!(!down.up);
    assert_eq!(down.tunnel.unwrap().udp_checksum, UdpChecksum::Off);
}

#[test]
fn the_forwarding_database_gives_remotes() {
    let index = link(*FLANNEL, "flannel.1").index;
    let entries = decode_fdb(*FLANNEL_FDB, index).into_result().unwrap();
    let mut remotes: Vec<_> = entries.iter().filter_map(|entry| entry.remote).collect();
    remotes.sort(); // the kernel lists them in the order of its hash table
    let expected: [std::net::IpAddr; 2] = ["192.0.2.20".parse().unwrap(), "198.51.100.30".parse().unwrap()];
    assert_eq!(remotes, expected);
    assert_eq!(decode_fdb(*FLANNEL_FDB, index + 1), Reading::Ok(vec![]), "another device's entries");
}

#[test]
fn geneve_differs_where_the_kernel_differs() {
    let attribute = |kind, body: &[u8]| {
        let mut bytes = Vec::new();
        netlink::put(&mut bytes, kind, body);
        bytes
    };
    let base = [
        attribute(1, &7u32.to_ne_bytes()),
        attribute(2, &[192, 0, 2, 1]),
        attribute(5, &6081u16.to_be_bytes()),
        attribute(8, &[0]),
    ]
    .concat();
    let tunnel = decode_geneve(&base).unwrap();
    assert_eq!((tunnel.id, tunnel.port, tunnel.udp_checksum), (Some(7), Some(6081), UdpChecksum::Off));
    assert_eq!(
        decode_geneve(&[base.clone(), attribute(6, &[])].concat()).unwrap().udp_checksum,
        UdpChecksum::PerPacket
    );
    assert!(!tunnel.group_policy);
    assert_eq!(tunnel.header, OuterHeader::default(), "nothing was said");
    let set = [base.clone(), attribute(IFLA_GENEVE_TTL, &[9]), attribute(IFLA_GENEVE_TOS, &[0x20])].concat();
    assert_eq!(decode_geneve(&set).unwrap().header, OuterHeader { dscp: Some(8), ttl: Some(9), dont_fragment: None });
    let over_v6 = [attribute(7, &[0x20; 16]), attribute(9, &[0])].concat();
    assert_eq!(decode_geneve(&over_v6).unwrap().udp_checksum, UdpChecksum::On);
    assert_eq!(decode_geneve(&attribute(7, &[0x20; 16])).unwrap().udp_checksum, UdpChecksum::Unknown);
}

#[test]
fn every_cut_is_an_error() {
    for (bytes, name) in [(*FLANNEL, "flannel"), (*DUAL_STACK, "dual stack")] {
        for cut in 0..bytes.len() {
            assert!(matches!(decode_links(&bytes[..cut]), Reading::Failed(_)), "{name} cut at {cut}");
        }
    }
    for cut in 0..FLANNEL_FDB.len() {
        assert!(matches!(decode_fdb(&FLANNEL_FDB[..cut], 1), Reading::Failed(_)), "forwarding database cut at {cut}");
    }
}

#[test]
fn any_bytes_inside_the_frames_are_survived() {
    proptest::proptest!(|(at in 0..FLANNEL.len(), byte: u8, bytes: Vec<u8>)| {
        let mut broken = FLANNEL.to_vec();
        broken[at] = byte;
        let _ = decode_links(&broken);
        let _ = decode_link(&bytes);
        let _ = decode_vxlan(&bytes);
        let _ = decode_geneve(&bytes);
    });
}

#[test]
fn device_names_are_printable_and_never_paths() {
    assert_eq!(device_name(b"eth0\0").unwrap(), "eth0");
    assert_eq!(device_name(b"a\x1b[1m\xff\0").unwrap(), "a\\x1b[1m\\xff");
    for name in [&b""[..], b".", b"..", b"../x", b"a b", b"sixteen-bytes-xx"] {
        assert!(device_name(name).is_err(), "{name:?}");
    }
}

/// A node with every kind of device that a tunnel can have as underlay.
#[test]
fn lower_devices_are_found_through_vlans_and_bonds_but_not_through_veths() {
    let device = |index, name: &str, kind: Option<&str>, lower, master| Link {
        index,
        name: name.into(),
        kind: kind.map(str::to_owned),
        lower,
        master,
        ..link(*FLANNEL, "eth0")
    };
    let mut links = vec![
        device(1, "bond0.5", Some("vlan"), Some(2), None),
        device(2, "bond0", Some("bond"), None, None),
        device(3, "nic0", None, None, Some(2)),
        device(4, "nic1", None, None, Some(2)),
        device(5, "veth0", Some("veth"), Some(6), None),
        device(6, "other", None, None, None),
    ];
    links.iter_mut().for_each(|link| link.link_netnsid = None);
    let names =
        |index| -> Vec<&str> { with_lower_devices(&links, index).iter().map(|at| links[*at].name.as_str()).collect() };
    assert_eq!(names(1), ["bond0.5", "bond0", "nic0", "nic1"]);
    assert_eq!(names(5), ["veth0"]);
    assert_eq!(names(99), [""; 0]);
}

#[test]
fn an_answer_that_never_comes_is_a_failed_source_and_never_an_empty_list() {
    let collectors = Collectors::from([Collector::Links]);
    let mut capture = capture();
    assert!(replay(&capture, &collectors).links.why().contains("captured before"));
    capture.answers.insert(all_links().name, Reading::Ok(FLANNEL.to_vec()));
    let read = replay(&capture, &collectors);
    assert_eq!(read.tunnels().count(), 1);
    let (_, tunnel) = read.tunnels().next().unwrap();
    assert!(tunnel.underlay.why().contains("captured before"));
    let state = |source| read.sources.iter().find(|status| status.source == source).unwrap().state;
    assert_eq!(state(Source::Rtnetlink), crate::facts::SourceState::Failed);
}

#[test]
fn what_a_device_writes_into_headers_and_takes_from_them() {
    let attribute = |kind, body: &[u8]| {
        let mut bytes = Vec::new();
        netlink::put(&mut bytes, kind, body);
        bytes
    };
    let header = |tos: u8, ttl: u8, inherit: u8, df: u8| {
        let attributes = [
            attribute(IFLA_VXLAN_TOS, &[tos]),
            attribute(IFLA_VXLAN_TTL, &[ttl]),
            attribute(IFLA_VXLAN_TTL_INHERIT, &[inherit]),
            attribute(IFLA_VXLAN_DF, &[df]),
        ];
        let tunnel = decode_vxlan(&attributes.concat()).unwrap();
        (tunnel.header.dscp, tunnel.header.ttl, tunnel.header.dont_fragment)
    };
    assert_eq!(header(0x23, 64, 0, 1), (Some(8), Some(64), Some(true)), "ECN is that of the packet inside");
    assert_eq!(header(0, 0, 0, 0), (Some(0), None, Some(false)), "the TTL is that of the route");
    assert_eq!(header(1, 64, 1, 2), (None, None, None), "inherited");
    let policy = attribute(IFLA_VXLAN_GBP, &[]);
    assert!(decode_vxlan(&policy).unwrap().group_policy);
    let with_metadata = [policy, attribute(IFLA_VXLAN_COLLECT_METADATA, &[1])].concat();
    assert!(!decode_vxlan(&with_metadata).unwrap().group_policy, "it is in the metadata");
}

#[test]
fn each_destination_has_its_own_device() {
    let [remote, other, group] = ["192.0.2.20", "192.0.2.21", "239.1.1.1"].map(|text| text.parse().unwrap());
    let entry = |remote, via| FdbEntry { remote: Some(remote), via, port: None, nexthop_group: None };
    let entries = vec![entry(remote, Some(2)), entry(other, None), entry(group, None)];
    let tunnel =
        Tunnel { link: Some(2), remote: Some(remote), fdb: Reading::Ok(entries), ..Tunnel::new(TunnelKind::Vxlan) };
    assert_eq!(tunnel.destinations(), [(remote, Some(2)), (other, None), (group, None)]);
    assert_eq!(tunnel.remotes(), [remote, other, group]);
}
