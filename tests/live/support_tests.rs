//! Tests of the support code: tunnels, offload, programs and HTTP in namespaces.
//!
//! As in `lab`, no natwatch code runs here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::counters::{nstat, proc_netstat, proc_snmp6};
use crate::support::http;
use crate::support::links::{features, info_data, kind_supported, links, offload};
use crate::support::netns::{Netns, veth};
use crate::support::process::{Daemon, free_port};
use crate::support::strace::{Call, Message, Strace};
use crate::support::vxlan::{Peering, Underlay, Vxlan, VxlanPair};
use crate::support::wait::{PATIENCE, eventually};

#[test]
fn tunnels_of_all_shapes_carry_traffic_and_show_their_options() {
    let shapes = [
        Vxlan::default(),
        Vxlan {
            id: 77,
            port: 4789,
            udp_checksum: Some(false),
            source_ports: Some((40_000, 40_100)),
            peering: Peering::Remote,
            bind_underlay: false,
            ..Vxlan::default()
        },
        Vxlan { underlay: Underlay::Bridge, udp_checksum: Some(true), ..Vxlan::default() },
        Vxlan { ipv6: true, udp_checksum: Some(false), ..Vxlan::default() },
        Vxlan { underlay: Underlay::Macvlan, ..Vxlan::default() },
    ];
    for shape in shapes {
        check_shape(shape);
    }
    for optional in [Underlay::Vlan(5), Underlay::Bond] {
        if optional.supported() {
            check_shape(Vxlan { underlay: optional, ..Vxlan::default() });
        }
    }
}

fn check_shape(shape: Vxlan) {
    let pair = shape.clone().build();
    pair.connect();
    let data = info_data(&pair.nodes[0], shape.device);
    assert_eq!(data["id"], shape.id, "{shape:?}: {data}");
    assert_eq!(data["port"], shape.port, "{shape:?}: {data}");
    if !shape.ipv6 {
        let expected = shape.udp_checksum.unwrap_or(true);
        assert_eq!(data["udp_csum"], expected, "{shape:?}: {data}");
    }
    let bound = data["link"] == shape.underlay.device();
    assert_eq!(bound, shape.bind_underlay, "{shape:?}: {data}");
}

#[test]
fn old_kube_proxy_rules_break_outer_checksums_unless_offload_is_off() {
    for (offloaded, broken) in [(true, 1), (false, 0)] {
        let pair = VxlanPair::behind_old_kube_proxy(offloaded);
        let [a, b] = &pair.nodes;
        let took = pair.connect();
        assert_eq!(proc_netstat(b)["UdpInCsumErrors"], broken, "{offloaded}");
        assert_eq!(nstat(b)["UdpInCsumErrors"], broken, "{offloaded}");
        assert_eq!(proc_netstat(a)["TcpExtTCPSynRetrans"], broken, "{offloaded}");
        // Speed is not checked: a busy machine is slow for other reasons too.
        let slow = took >= Duration::from_millis(900);
        assert!(slow || !offloaded, "{took:?}");
    }
}

#[test]
fn offload_features_are_read_as_ethtool_prints_them() {
    let ns = Netns::new();
    veth(&ns, "eth0", &ns, "eth1");
    offload(&ns, "eth0", "tx-checksum-ip-generic", false);
    let found = features(&ns, "eth0");
    assert!(!found["tx-checksum-ip-generic"].on);
    assert!(found["tx-checksum-ipv4"].fixed);
    assert!(found["rx-checksumming"].wanted());
    // TCP segmentation needs checksumming, hence it is off although nobody requested that.
    let segmentation = found["tx-tcp-segmentation"];
    assert!(!segmentation.on && segmentation.wanted(), "{segmentation:?}");
    assert!(links(&ns).contains_key("eth1"));
    assert!(proc_snmp6(&ns).contains_key("Udp6InCsumErrors"));
    assert!(kind_supported("bridge") && !kind_supported("nonsense"));
}

/// Tests that nothing is sent depend on this: whether sent in parts or at once, messages are logged to the last byte.
#[test]
fn what_is_sent_to_the_kernel_is_seen() {
    let ns = Netns::new();
    for (line, kind) in [("ip link show dev lo", libc::RTM_GETLINK), ("ip link add d0 type veth", libc::RTM_NEWLINK)] {
        let strace = Strace::all();
        let words = [strace.words(), line.split_whitespace().collect()].concat();
        ns.run(&words);
        let calls = strace.calls();
        let of_kind = |message: &Message| message.protocol == i64::from(libc::NETLINK_ROUTE) && message.kind == kind;
        assert!(calls.iter().filter_map(Call::message).any(|message| of_kind(&message)), "{line}: {calls:?}");
        assert!(calls.iter().any(|call| call.makes_netlink(libc::NETLINK_ROUTE)), "{line}: {calls:?}");
        // The program's own output.
        let written = calls.iter().filter(|call| call.is(&["write"]) && call.number(0) == 1);
        let written: Vec<u8> = written.flat_map(|call| call.sent.clone()).collect();
        assert_eq!(String::from_utf8_lossy(&written).contains("LOOPBACK"), line.contains("show"), "{line}: {calls:?}");
    }
}

/// Answers one request with chunks, then serves no more.
fn serve_once(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().expect("a client");
    let mut request = [0; 512];
    let length = stream.read(&mut request).expect("a request");
    assert!(request[..length].starts_with(b"GET /metrics HTTP/1.1\r\n"));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let answer = format!("{head}5\r\nlab_u\r\na;x=y\r\np 1\n# EOF\n\r\n0\r\n\r\n");
    stream.write_all(answer.as_bytes()).expect("an answer");
}

#[test]
fn a_server_in_a_namespace_is_reached_over_http() {
    let ns = Netns::new();
    let port = free_port();
    let listener = ns.enter(|| TcpListener::bind(("127.0.0.1", port)));
    let listener = listener.expect("the port is free");
    let server = std::thread::spawn(move || serve_once(&listener));
    let address = ([127, 0, 0, 1], port).into();
    let response = http::get(&ns, address, "/metrics", &[("Accept", "text/plain")]);
    assert_eq!(response.status, 200);
    assert_eq!(response.header("content-type"), Some("text/plain"));
    assert_eq!(response.text(), "lab_up 1\n# EOF\n");
    server.join().expect("the server saw a good request");
}

#[test]
fn a_daemon_is_signalled_awaited_and_killed_with_its_handle() {
    let ns = Netns::new();
    let script = "trap 'echo bye; exit 7' TERM; echo ready >&2; while :; do sleep 0.01; done";
    let shell = || {
        let mut command = ns.command("sh");
        command.args(["-c", script]);
        Daemon::start(command)
    };
    let mut polite = shell();
    assert_eq!(polite.wait_stderr("ready"), "ready\n");
    polite.signal(Signal::TERM);
    assert_eq!(polite.wait(PATIENCE).code(), Some(7));
    assert_eq!(polite.stdout(), "bye\n");
    let mut other = shell();
    other.wait_stderr("ready");
    let entry = PathBuf::from(format!("/proc/{}", other.pid()));
    assert!(entry.exists());
    drop(other);
    assert!(!entry.exists());
}

#[test]
fn namespaces_vanish_even_when_the_test_panics() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let result = std::thread::spawn(move || {
        let ns = Netns::new();
        sender.send(ns.name().to_owned()).expect("a receiver");
        ns.cmd("ip link show dev missing");
    })
    .join();
    assert!(result.is_err());
    let name = receiver.recv().expect("a name");
    let list = Command::new("ip").args(["netns", "list"]).output();
    let list = String::from_utf8(list.expect("ip runs").stdout).expect("text");
    assert!(!list.contains(&name));
    let panic = std::panic::catch_unwind(|| eventually(Duration::ZERO, || None::<()>));
    assert!(panic.is_err());
}
