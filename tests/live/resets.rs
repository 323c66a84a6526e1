//! Verdicts about resets compared with the running kernel: a real connection, and a segment far out of its window.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use crate::support::netns::Netns;
use crate::support::report::check_here;
use crate::support::router::{Router, TARGET};
use crate::support::segment::send_out_of_window;
use crate::support::wait::{PATIENCE, eventually};

/// Connections whose source is translated, and those whose destination is.
const SOURCES: &str = "snat-invalid-reset";
const DESTINATIONS: &str = "tcp-invalid-reset";

/// Opens a connection from here to an address that leads to the server, sends a segment of the server's outside the
/// window, and returns whether the connection is reset.
fn is_reset(lab: &Router, from: &Netns, to: SocketAddr) -> bool {
    is_reset_by(lab, from, to, |_, server| lab.server.enter(|| send_out_of_window(server)))
}

/// The same, by a segment that is sent for one of both ends.
fn is_reset_by(lab: &Router, from: &Netns, to: SocketAddr, send: impl Fn(&TcpStream, &TcpStream)) -> bool {
    // Another test's child has a copy of the last listener until it runs its program.
    let listener = lab.server.enter(|| eventually(PATIENCE, || TcpListener::bind(TARGET).ok()));
    let mut client = from.enter(|| TcpStream::connect_timeout(&to, PATIENCE).expect("a connection"));
    let (mut server, _) = listener.accept().expect("the connection");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a deadline");
        stream.set_nodelay(true).expect("no delay");
    }
    assert!(goes_on(&mut client, &mut server), "before anything happens");
    send(&client, &server);
    // An answer to it is there before that to what is sent later: it comes by the same devices.
    for _ in 0..20 {
        if !goes_on(&mut client, &mut server) {
            return true;
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
    false
}

/// Sends a byte in each direction; false: the server's connection was reset.
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
            "refused with a reset",
            vec![
                nft(masquerade),
                nft("-A INPUT -p tcp -m conntrack --ctstate INVALID -j REJECT --reject-with tcp-reset"),
            ],
            "exposed",
        ),
        (
            "refused with an error",
            vec![legacy(masquerade), legacy("-A INPUT -p tcp -m conntrack --ctstate INVALID -j REJECT")],
            "mitigated",
        ),
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
        let report = check_here(&lab.router, &["--advisory", SOURCES]);
        assert_eq!(report.state(SOURCES), state, "{name}: {}", report.json);
        assert_eq!(is_reset(&lab, &lab.client, TARGET.into()), state == "exposed", "{name}");
    }
}

/// The address of a Service, and rules that lead from there to the server.
const SERVICE: &str = "10.96.0.1:80";

fn service(program: &str, chain: &str) -> String {
    format!("{program} -w -t nat -A {chain} -d 10.96.0.1 -p tcp --dport 80 -j DNAT --to-destination {TARGET}")
}

#[test]
fn a_connection_to_a_service_is_reset_where_the_verdict_says_so() {
    let legacy = |rule: &str| format!("iptables-legacy -w {rule}");
    let nft = |rule: &str| format!("iptables-nft -w {rule}");
    let native = |chain: &str| format!("nft -f - <<'END'\ntable ip f {{ chain c {{ {chain}\n}}\n}}\nEND");
    let invalid = "-p tcp -m conntrack --ctstate INVALID -j DROP";
    let service = |program: &str| service(program, "PREROUTING");
    // The client has a route to the Service but none to the server, as a client beyond the default route has.
    let outside = "ip route add default via 10.77.1.11 dev lan0";
    let map = native(
        "type nat hook prerouting priority -100; ip daddr . tcp dport vmap { 10.96.0.1 . 80 : goto d };\n}\nchain d { meta l4proto tcp dnat to 10.77.2.2:7777;",
    );
    let cases: Vec<(&str, Vec<String>, [&str; 2])> = vec![
        ("translated", vec![service("iptables-legacy")], ["exposed", "not_affected"]),
        ("by a map", vec![map.clone()], ["exposed", "not_affected"]),
        (
            "from outside",
            vec![service("iptables-nft").replace("-d 10", "-i lan0 -d 10"), outside.into()],
            ["not_affected", "not_affected"],
        ),
        (
            "dropped on the way through",
            vec![service("iptables-nft"), nft(&format!("-A FORWARD {invalid}"))],
            ["not_affected", "not_affected"],
        ),
        (
            "only answers are dropped",
            vec![service("iptables-legacy"), legacy(&format!("-A FORWARD -i wan0 {invalid}"))],
            ["mitigated", "not_affected"],
        ),
        (
            "dropped before routing",
            vec![service("iptables-legacy"), legacy(&format!("-t mangle -A PREROUTING -i wan0 {invalid}"))],
            ["mitigated", "not_affected"],
        ),
        (
            "dropped on input",
            vec![service("iptables-nft"), nft(&format!("-A INPUT {invalid}"))],
            ["exposed", "not_affected"],
        ),
        (
            "dropped by a map",
            vec![
                map,
                native("type filter hook forward priority 0; ct state vmap { established : accept, invalid : drop };")
                    .replace("ip f", "ip g"),
            ],
            ["not_affected", "not_affected"],
        ),
        (
            "dropped by a policy",
            vec![
                service("iptables-nft"),
                native(
                    "type filter hook forward priority 0; policy drop; ct status dnat accept; ct state established accept;",
                ),
            ],
            ["not_affected", "not_affected"],
        ),
        (
            "refused with a reset",
            vec![
                service("iptables-nft"),
                nft(&format!("-A FORWARD {}", invalid.replace("DROP", "REJECT --reject-with tcp-reset"))),
            ],
            ["exposed", "not_affected"],
        ),
        (
            "refused with a reset by a chain that has none for the first",
            vec![
                service("iptables-legacy"),
                native(
                    "type filter hook forward priority 0; policy drop; ct state new accept; ct state established accept; meta l4proto tcp reject with tcp reset;",
                ),
            ],
            ["exposed", "not_affected"],
        ),
        (
            "masqueraded too",
            vec![service("iptables-legacy"), legacy("-t nat -A POSTROUTING -o wan0 -j MASQUERADE")],
            ["not_affected", "exposed"],
        ),
        (
            "accepted",
            vec![service("iptables-legacy"), "sysctl -qw net.netfilter.nf_conntrack_tcp_be_liberal=1".into()],
            ["mitigated", "not_affected"],
        ),
    ];
    for (name, lines, states) in cases {
        let lab = Router::plain();
        lab.router.run(&["sh", "-c", &format!("set -e\n{}", lines.join("\n"))]);
        if lines.iter().any(|line| line == outside) {
            lab.client.run(&["ip", "route", "replace", "10.96.0.1", "via", "10.77.1.1"]);
            lab.client.run(&["ip", "route", "del", "default"]);
        }
        agree(&lab, &lab.client, states, name);
    }
}

#[test]
fn a_host_that_asks_a_service_itself_is_reset_where_the_verdict_says_so() {
    let nft = |rule: &str| format!("iptables-nft -w {rule}");
    let invalid = "-p tcp -m conntrack --ctstate INVALID -j DROP";
    for (name, rule, states) in [
        ("alone", None, ["exposed", "not_affected"]),
        ("dropped on the way through", Some(format!("-A FORWARD {invalid}")), ["exposed", "not_affected"]),
        ("dropped on input", Some(format!("-A INPUT {invalid}")), ["mitigated", "not_affected"]),
        ("its resets are dropped", Some(format!("-A OUTPUT {invalid}")), ["not_affected", "not_affected"]),
        ("dropped before routing", Some(format!("-t mangle -A PREROUTING {invalid}")), ["mitigated", "not_affected"]),
    ] {
        let lab = Router::plain();
        lab.router.run(&["ip", "route", "add", "10.96.0.0/12", "via", "10.77.2.2"]);
        let lines: Vec<String> =
            [service("iptables-nft", "OUTPUT")].into_iter().chain(rule.as_deref().map(nft)).collect();
        lab.router.run(&["sh", "-c", &format!("set -e\n{}", lines.join("\n"))]);
        agree(&lab, &lab.router, states, name);
    }
}

/// Asserts that both verdicts are these, and that the connection is reset if one of them says so.
fn agree(lab: &Router, client: &Netns, states: [&str; 2], name: &str) {
    let report = check_here(&lab.router, &["--advisory", SOURCES, "--advisory", DESTINATIONS]);
    assert_eq!([report.state(DESTINATIONS), report.state(SOURCES)], states, "{name}: {}", report.json);
    let reset = is_reset(lab, client, SERVICE.parse().expect("an address"));
    assert_eq!(reset, states.contains(&"exposed"), "{name}");
}

/// The advisory about connections whose entries are lost.
const IDLE: &str = "idle-connection-reset";

/// Opens a connection, calls `lose` to remove its entry, and returns whether the client's next segment reaches the
/// server (true) or is answered with a reset.
fn outlives_its_entry(lab: &Router, lose: impl Fn()) -> bool {
    // A child process that has not called exec yet still holds an earlier listener.
    let listener = eventually(PATIENCE, || lab.server.enter(|| TcpListener::bind(TARGET)));
    let mut client = lab.client.enter(|| TcpStream::connect_timeout(&TARGET.into(), PATIENCE).expect("a connection"));
    let (mut server, _) = listener.accept().expect("the connection");
    assert!(goes_on(&mut client, &mut server), "before anything happens");
    lose();
    client.write_all(b"a").expect("it is sent");
    for stream in [&client, &server] {
        stream.set_nonblocking(true).expect("it does not wait");
    }
    let mut lives = None;
    eventually(PATIENCE, || {
        let mut byte = [0];
        let (there, back) = (server.read(&mut byte), client.read(&mut byte));
        lives = match (there, back) {
            (Ok(1), _) => Some(true),
            (_, Err(error)) if error.kind() == ErrorKind::ConnectionReset => Some(false),
            _ => None,
        };
        lives.is_some().then_some(()).ok_or("neither a byte nor a reset")
    });
    lives.expect("one of both")
}

#[test]
fn an_idle_connection_is_reset_where_the_verdict_says_so() {
    let nat = |rule: &str| {
        format!(
            "nft -f - <<'END'\ntable ip n {{ chain c {{ type nat hook postrouting priority 100; oifname \"wan0\" {rule};\n}}\n}}\nEND"
        )
    };
    let policy = |rule: &str| {
        format!(
            "nft -f - <<'END'\ntable ip p {{ ct timeout short {{ protocol tcp; l3proto ip; policy = {{ established : 2 }}\n}}\n\
             chain c {{ type filter hook prerouting priority -150; {rule} ct timeout set \"short\"\n}}\n}}\nEND"
        )
    };
    let short = "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=2".to_owned();
    let enough = "sysctl -qw net.netfilter.nf_conntrack_tcp_timeout_established=7440".to_owned();
    let legacy = |rule: &str| format!("iptables-legacy -w -t nat -A POSTROUTING -o wan0 -j {rule}");
    // The verdict, and whether the connection is reset: `None` where its entry stays.
    let cases: Vec<(&str, Vec<String>, &str, Option<bool>)> = vec![
        ("random ports", vec![legacy("MASQUERADE --random-fully"), short.clone()], "exposed", Some(true)),
        ("by a hash", vec![nat("masquerade random"), short.clone()], "exposed", Some(true)),
        (
            "to an address of nobody's",
            vec![nat("snat to 198.51.100.7 fully-random"), short.clone()],
            "exposed",
            Some(true),
        ),
        ("kept ports", vec![legacy("MASQUERADE"), short.clone()], "not_affected", Some(false)),
        (
            "a network for another",
            vec![
                "iptables-nft -w -t nat -A POSTROUTING -s 10.77.1.0/24 -o wan0 -j NETMAP --to 198.51.100.0/24".into(),
                short.clone(),
            ],
            "not_affected",
            Some(false),
        ),
        (
            "random ports of UDP",
            vec![
                nat("meta l4proto udp masquerade fully-random"),
                nat("masquerade").replace("ip n", "ip m"),
                short.clone(),
            ],
            "not_affected",
            Some(false),
        ),
        ("entries that stay", vec![nat("masquerade fully-random"), enough.clone()], "mitigated", None),
        (
            "a timeout policy",
            vec![nat("masquerade fully-random"), enough.clone(), policy("tcp dport 7777")],
            "unknown",
            Some(true),
        ),
        (
            "a timeout policy of others",
            vec![nat("masquerade fully-random"), short, policy("meta l4proto udp")],
            "exposed",
            Some(true),
        ),
    ];
    thread::scope(|scope| {
        for (name, lines, state, reset) in &cases {
            scope.spawn(move || {
                let lab = Router::plain();
                lab.router.run(&["sh", "-c", &format!("set -e\n{}", lines.join("\n"))]);
                let report = check_here(&lab.router, &["--advisory", IDLE]);
                assert_eq!(report.state(IDLE), *state, "{name}: {}", report.json);
                let is_tracked = || !lab.router.exec(&["conntrack", "-L", "-p", "tcp"]).stdout.is_empty();
                let lives = outlives_its_entry(&lab, || {
                    thread::sleep(std::time::Duration::from_millis(2500));
                    if reset.is_some() {
                        eventually(PATIENCE, || (!is_tracked()).then_some(()).ok_or("the entry is still there"));
                    } else {
                        assert!(is_tracked(), "{name}: the entry stays");
                    }
                });
                assert_eq!(!lives, reset.unwrap_or(false), "{name}");
                if reset.is_none() {
                    // Entries that are lost otherwise lead to a reset nevertheless.
                    let lives = outlives_its_entry(&lab, || {
                        lab.router.run(&["conntrack", "-D", "-p", "tcp"]);
                    });
                    assert!(!lives, "{name}: deleted");
                }
            });
        }
    });
}

/// What a client sends itself may be invalid too: a rule that refuses it with a reset ends its connection, whether or not its source is
/// translated. Nothing answers for an address of this host's there.
#[test]
fn a_segment_that_a_rule_refuses_on_its_way_out_is_no_matter_of_translation() {
    for (name, nat, state) in [
        ("translated", "iptables-nft -w -t nat -A POSTROUTING -o wan0 -j MASQUERADE", "mitigated"),
        ("not translated", "true", "not_affected"),
    ] {
        let lab = Router::plain();
        let lines = [
            nat,
            "iptables-nft -w -A INPUT -m conntrack --ctstate INVALID -j DROP",
            "iptables-nft -w -A FORWARD -i lan0 -p tcp -m conntrack --ctstate INVALID -j REJECT --reject-with tcp-reset",
        ];
        lab.router.run(&["sh", "-c", &format!("set -e\n{}", lines.join("\n"))]);
        let report = check_here(&lab.router, &["--advisory", SOURCES]);
        assert_eq!(report.state(SOURCES), state, "{name}: {}", report.json);
        assert!(!is_reset(&lab, &lab.client, TARGET.into()), "{name}: by what the server sends");
        let refused = is_reset_by(&lab, &lab.client, TARGET.into(), |client, _| {
            lab.client.enter(|| send_out_of_window(client));
        });
        assert!(refused, "{name}: by what the client sends");
    }
}
