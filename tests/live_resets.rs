//! The verdicts about resets, held against the running kernel: a real connection, and a segment that is far out of its window.

#![allow(clippy::disallowed_types, reason = "tests compare natwatch with the standard tools")]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use support::report::check_here;
use support::router::{Router, TARGET};
use support::segment::send_out_of_window;
use support::wait::PATIENCE;

const ADVISORY: &str = "snat-invalid-reset";

/// Opens a connection from the client to the server, sends a segment of the server's that is out of the window, and tells whether the connection is reset.
fn is_reset(lab: &Router) -> bool {
    let listener = lab.server.enter(|| TcpListener::bind(TARGET).expect("a port"));
    let mut client = lab.client.enter(|| TcpStream::connect_timeout(&TARGET.into(), PATIENCE).expect("a connection"));
    let (mut server, _) = listener.accept().expect("the connection");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
    }
    assert!(goes_on(&mut client, &mut server), "before anything happens");
    lab.server.enter(|| send_out_of_window(&server));
    // An answer to it is there before that to what is sent later: it comes by the same devices.
    for _ in 0..20 {
        if !goes_on(&mut client, &mut server) {
            return true;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

/// Sends a byte there and another back; false: the server's connection was reset.
fn goes_on(client: &mut TcpStream, server: &mut TcpStream) -> bool {
    const ENDED: [ErrorKind; 3] = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe, ErrorKind::UnexpectedEof];
    let mut byte = [0];
    let there = client.write_all(b"a").and_then(|()| server.read_exact(&mut byte));
    let back = there.and_then(|()| server.write_all(b"b")).and_then(|()| client.read_exact(&mut byte));
    match back {
        Ok(()) => true,
        Err(error) if ENDED.contains(&error.kind()) => false,
        Err(error) => panic!("neither an answer nor a reset: {error}"),
    }
}

#[test]
fn a_masqueraded_connection_is_reset_where_the_verdict_says_so() {
    let legacy = |rule: &str| format!("iptables-legacy -w {rule}");
    let nft = |rule: &str| format!("iptables-nft -w {rule}");
    let masquerade = "-t nat -A POSTROUTING -o wan0 -j MASQUERADE";
    let invalid = "-p tcp -m conntrack --ctstate INVALID -j DROP";
    let vmap = "nft -f - <<'END'\ntable inet f { chain in { type filter hook input priority 0; ct state vmap { established : accept, related : accept, invalid : drop };\n}\n}\nEND";
    let not = "nft -f - <<'END'\ntable inet f { chain pre { type filter hook prerouting priority -150; iifname \"wan0\" ct state != { new, established, related, untracked } drop;\n}\n}\nEND";
    let elsewhere = "nft -f - <<'END'\ntable inet f { chain pre { type filter hook prerouting priority -150; iifname \"lan0\" ct state invalid drop;\n}\n}\nEND";
    let policy = "nft -f - <<'END'\ntable inet f { chain in { type filter hook input priority 0; policy drop; ct state established,related accept; tcp dport 22 accept;\n}\n}\nEND";
    let cases: Vec<(&str, Vec<String>, &str)> = vec![
        ("masqueraded", vec![legacy(masquerade)], "exposed"),
        ("dropped on the way through", vec![nft(masquerade), nft(&format!("-A FORWARD {invalid}"))], "exposed"),
        ("dropped on input", vec![nft(masquerade), nft(&format!("-A INPUT {invalid}"))], "mitigated"),
        (
            "dropped before routing",
            vec![legacy(masquerade), legacy(&format!("-t mangle -A PREROUTING {invalid}"))],
            "mitigated",
        ),
        ("dropped by a map", vec![nft(masquerade), vmap.into()], "mitigated"),
        ("dropped with what is not known", vec![nft(masquerade), not.into()], "mitigated"),
        ("dropped by a policy", vec![nft(masquerade), policy.into()], "mitigated"),
        ("dropped where others come in", vec![nft(masquerade), elsewhere.into()], "exposed"),
        (
            "accepted",
            vec![legacy(masquerade), "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1".into()],
            "mitigated",
        ),
        (
            "a local address",
            vec![
                "ip addr add 10.77.2.9/32 dev lo".into(),
                legacy("-t nat -A POSTROUTING -o wan0 -j SNAT --to-source 10.77.2.1"),
            ],
            "exposed",
        ),
        (
            "an address of nobody",
            vec![
                legacy("-t nat -A POSTROUTING -o wan0 -j SNAT --to-source 198.51.100.7"),
                "ip route add blackhole 198.51.100.7".into(),
            ],
            "not_affected",
        ),
        ("UDP only", vec![legacy("-t nat -A POSTROUTING -o wan0 -p udp -j MASQUERADE")], "not_affected"),
    ];
    for (name, lines, state) in cases {
        let lab = Router::plain();
        lab.router.run(&["sh", "-c", &format!("set -e\n{}", lines.join("\n"))]);
        let report = check_here(&lab.router, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{name}: {}", report.json);
        assert_eq!(is_reset(&lab), state == "exposed", "{name}");
    }
}
