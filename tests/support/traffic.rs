//! Traffic that uses up exact numbers of ports or conntrack entries.

use std::fmt::Write as _;
use std::net::SocketAddrV4;

use rustix::io::Errno;
use rustix::net::{SendFlags, connect, sendto};

use super::netns::Netns;
use super::router::{CLIENTS, Proto, Router, TARGET};
use super::sockets::bound_socket;

/// Flows that one source port can open towards one address in [`fill_unassured`].
const FLOWS_PER_SOCKET: u64 = 60_000;
/// Lowest destination port of [`fill_unassured`].
const FIRST_TARGET_PORT: u64 = 1_025;

/// Opens `flows` flows to [`TARGET`], one packet each, from as many source ports.
///
/// Through a rule that leaves K ports, exactly `flows - K` are lost in the router. The
/// server should sink the protocol, because answers would end flows and free their ports.
pub fn exhaust(lab: &Router, proto: Proto, flows: u16) -> u64 {
    lab.client.enter(|| {
        for number in 0..flows {
            open_one(proto, 30_000 + number);
        }
    });
    u64::from(flows)
}

/// The socket is closed at once: a SYN sent again after 1 s would be counted again.
fn open_one(proto: Proto, port: u16) {
    let socket = bound_socket(proto, SocketAddrV4::new(CLIENTS[0], port));
    let result = match proto {
        Proto::Tcp => connect(&socket, &TARGET),
        Proto::Udp => sendto(&socket, b"x", SendFlags::empty(), &TARGET).map(|_| ()),
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS) => {}
        Err(e) => panic!("{} from port {port}: {e}", proto.name()),
    }
}

/// Opens `flows` UDP flows through the router, one datagram each, none of them answered.
///
/// The limit of a child namespace cannot be lowered, so filling a table means opening more
/// flows than the initial namespace's limit. The router keeps them for 120 s.
pub fn fill_unassured(lab: &Router, flows: u64) -> u64 {
    lab.router.sysctl("net.netfilter.nf_conntrack_udp_timeout", 120);
    lab.client.enter(|| {
        for first in (0..flows).step_by(FLOWS_PER_SOCKET as usize) {
            let port = 2_000 + (first / FLOWS_PER_SOCKET) as u16;
            send_to_ports(port, FLOWS_PER_SOCKET.min(flows - first));
        }
    });
    flows
}

/// One datagram from `source_port` to each of `count` destination ports.
fn send_to_ports(source_port: u16, count: u64) {
    let socket = bound_socket(Proto::Udp, SocketAddrV4::new(CLIENTS[0], source_port));
    for number in 0..count {
        let port = (FIRST_TARGET_PORT + number) as u16;
        let target = SocketAddrV4::new(*TARGET.ip(), port);
        sendto(&socket, b"x", SendFlags::empty(), &target).unwrap_or_else(|e| panic!("datagram to {target}: {e}"));
    }
}

/// Loads entries that the kernel will not evict until `ns` has `entries` of them or is full.
///
/// Each lives 600 s. Returns the number of entries afterwards.
pub fn fill_assured(ns: &Netns, entries: u64) -> u64 {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), assured_entries(entries)).expect("the list of entries");
    let path = file.path().to_str().expect("a UTF-8 path");
    // Entries beyond the limit are refused, which is not an error here.
    let output = ns.exec(&["conntrack", "-R", path]);
    let count = conntrack_count(ns);
    let wanted = entries.min(conntrack_limit(ns));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(count >= wanted, "{count} of {wanted} entries loaded: {errors}");
    count
}

/// Command lines for `conntrack -R`: UDP flows between addresses that nobody has.
fn assured_entries(entries: u64) -> String {
    let mut lines = String::new();
    for number in 0..entries {
        let (host, port) = (number / 60_000, 1_025 + number % 60_000);
        writeln!(
            lines,
            "-I -p udp -s 10.78.{host}.1 -d 10.79.0.1 --sport {port} --dport 53 \
             -r 10.79.0.1 -q 10.78.{host}.1 --reply-port-src 53 --reply-port-dst {port} \
             -u SEEN_REPLY,ASSURED -t 600"
        )
        .expect("a string grows");
    }
    lines
}

/// Entries in the namespace's table now.
pub fn conntrack_count(ns: &Netns) -> u64 {
    number(ns, "net.netfilter.nf_conntrack_count")
}

/// Entries a namespace may have; the initial namespace's setting.
pub fn conntrack_limit(ns: &Netns) -> u64 {
    number(ns, "net.netfilter.nf_conntrack_max")
}

fn number(ns: &Netns, key: &str) -> u64 {
    let text = ns.read_sysctl(key);
    text.parse().unwrap_or_else(|e| panic!("{key} = {text}: {e}"))
}
