//! The verdict about tunnels compared with the running kernel: random rules (`support/tunnel_rules.rs`; with data maps:
//! `support/tunnel_maps.rs`), real packets, and checksum errors counted on the other side.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use serde_json::Value;

use crate::support::bpf::mark_on_the_way_in;
use crate::support::debug_text::debug_text;
use crate::support::grammar::Dice;
use crate::support::links::offload;
use crate::support::netns::{Netns, veth};
use crate::support::nfnetlink::accounting;
use crate::support::program::HERE;
use crate::support::report::{Report, check_here};
use crate::support::server::Server;
use crate::support::tunnel_lab::{Setup, TunnelLab, Vtep};
use crate::support::tunnel_rules::{Case, Generator};
use crate::support::wait::{PATIENCE, eventually};

const ADVISORY: &str = "vxlan-double-snat-checksum";

/// natwatch's verdict, and what happens.
#[derive(Debug)]
struct Outcome {
    verdict: String,
    why: String,
    errors: u64,
}

fn play(case: &Case) -> Outcome {
    let lab = TunnelLab::new(case.setup.clone());
    let script = format!("set -e\n{}", case.lines.join("\n"));
    lab.node.run(&["sh", "-c", &script]);
    let report = check_here(&lab.node, &["--advisory", ADVISORY]);
    let verdict = report.state(ADVISORY).to_owned();
    let commands = commands(&report);
    // Commands show none of these: the order of chains, marks that packets arrive with, other namespaces, and checksums
    // left to a device are in no dump; and natwatch's own limits end its work.
    let hidden = ["order", "flow", "elsewhere", "written"];
    let is_given_up = report.json.to_string().contains("a connection's mark still changes");
    let is_shown = !is_given_up && !case.planted.iter().any(|planted| hidden.contains(planted));
    assert!(verdict != "unknown" || !is_shown || !commands.is_empty(), "no command: {:?}\n{}", case.lines, report.json);
    for command in commands {
        lab.node.run(&["sh", "-c", &command]); // and it is one
    }
    assert_eq!(debug_text(&report.json.to_string()), None, "{:?}", case.lines);
    let conditions = report.advisory(ADVISORY)["conditions"].as_array().expect("conditions");
    let told = conditions.iter().map(|condition| {
        let text = |name: &str| condition[name].as_str().expect("a text").to_owned();
        format!("\n    {} {}: {}", text("id"), text("state"), text("detail"))
    });
    let why = told.collect();
    let errors = lab.send();
    Outcome { verdict, why, errors }
}

/// Commands that show what is unknown.
fn commands(report: &Report) -> Vec<String> {
    let evidence = report.advisory(ADVISORY)["evidence"].as_array().expect("a list");
    let lines = evidence.iter().map(|line| line.as_str().expect("a text"));
    lines.filter_map(|line| Some(line.strip_prefix("what could not be told is shown by: ")?.to_owned())).collect()
}

/// `NATWATCH_CASES` and `NATWATCH_SEED` choose others than those of every run; `NATWATCH_CASE` plays one of them alone.
#[test]
fn the_verdict_is_what_happens_to_packets() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let (one, seed) = (number("NATWATCH_CASE"), number("NATWATCH_SEED").unwrap_or(1));
    let cases = number("NATWATCH_CASES").unwrap_or(60);
    let played = one.map_or(0..cases, |case| case..case + 1);
    let mut table: BTreeMap<(String, bool), u64> = BTreeMap::new();
    let mut wrong = Vec::new();
    for number in played {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(number));
        let case = Generator { dice: &mut dice }.case();
        println!("case {number} of seed {seed}: {:#?}", case.lines); // shown if it fails without a verdict
        let Outcome { verdict, why, errors } = play(&case);
        let lost = errors > 0;
        let verdict = if verdict == "mitigated" || verdict == "not_affected" { "not".to_owned() } else { verdict };
        *table.entry((verdict.clone(), lost)).or_default() += 1;
        let agrees = match verdict.as_str() {
            "exposed" => lost,
            "unknown" => !case.planted.is_empty(),
            _ => !lost,
        };
        if !agrees {
            let rules = case.lines.join("\n    ");
            wrong.push(format!(
                "case {number} of seed {seed}: {verdict}, {errors} checksum errors, planted {:?}\n  {:?}\n    {rules}{why}",
                case.planted, case.setup
            ));
        }
    }
    println!("{table:?}");
    assert!(
        wrong.is_empty(),
        "{} of {} disagree; {table:?}\n{}",
        wrong.len(),
        table.values().sum::<u64>(),
        wrong.join("\n\n")
    );
    if one.is_some() {
        return;
    }
    let share = |wanted: &dyn Fn(&str, bool) -> bool| {
        table.iter().filter(|((verdict, lost), _)| wanted(verdict, *lost)).map(|(_, count)| count).sum::<u64>()
    };
    for (name, count) in [
        ("lost", share(&|_, lost| lost)),
        ("fine", share(&|_, lost| !lost)),
        ("exposed", share(&|verdict, _| verdict == "exposed")),
        ("unknown", share(&|verdict, _| verdict == "unknown")),
        ("not", share(&|verdict, _| verdict == "not")),
    ] {
        assert!(count * 20 >= cases, "{name}: only {count} of {cases}; {table:?}");
    }
}

fn setup() -> Setup {
    Setup {
        ipv6: false,
        vtep: Vtep::Primary,
        port: 8472,
        checksum: true,
        offload: true,
        forwarding: false,
        source_ports: None,
        settings: "",
        flow_based: false,
        elsewhere: false,
    }
}

/// One log line for each change, and for ten minutes a note about the flows that an exposure leaves behind.
#[test]
fn a_verdict_that_changes_is_told_once_and_remembered() {
    let lab = TunnelLab::new(setup());
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully");
    let mut server = Server::start(&lab.node, &HERE);
    let look = |server: &Server| {
        let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
        let advisories = report["advisories"].as_array().expect("a list").clone();
        advisories.into_iter().find(|advisory| advisory["id"] == ADVISORY).expect("the advisory")
    };
    let exposed = look(&server);
    assert_eq!(exposed["state"], "exposed", "{exposed}");
    let command = exposed["remedies"][0]["command"].as_str().expect("a command").to_owned();
    assert_eq!(command, "ethtool -K vx0 tx-checksum-ip-generic off");
    assert!(lab.send() > 0);
    lab.node.cmd(&command);
    assert_eq!(lab.send(), 0, "the first remedy works here");
    for _ in 0..2 {
        let mitigated = look(&server);
        assert_eq!(mitigated["state"], "mitigated", "{mitigated}");
        let summary = mitigated["summary"].as_str().expect("a text");
        assert!(summary.contains("tunnel flows that were translated then keep that"), "{summary}");
    }
    let log = server.daemon.wait_stderr("verdict changed");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("verdict changed")).collect();
    let mine: Vec<&&str> = lines.iter().filter(|line| line.contains(ADVISORY)).collect();
    assert_eq!(mine.len(), 1, "{log}");
    for part in ["old=exposed", "new=mitigated", "tx-checksum-ip-generic is off"] {
        assert!(mine[0].contains(part), "{part}: {}", mine[0]);
    }
    server.stop();
}

/// A tunnel whose device is in another namespace has a socket here, and packets that the rules here translate.
#[test]
fn what_is_beside_the_rules_makes_the_verdict_unknown() {
    let lab = TunnelLab::new(setup());
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -o eth0 -j MASQUERADE --random-fully");
    let state = || check_here(&lab.node, &["--advisory", ADVISORY]);
    assert_eq!(state().state(ADVISORY), "exposed");
    lab.node.cmd("tc qdisc add dev vx0 clsact");
    assert_eq!(state().state(ADVISORY), "exposed", "nothing is attached");
    lab.node.cmd("tc filter add dev vx0 egress protocol all u32 match u32 0 0");
    let report = state();
    assert_eq!(report.state(ADVISORY), "unknown", "{}", report.json);
    assert!(report.json.to_string().contains("tc filter (u32 on egress) of vx0"), "{}", report.json);
    assert!(commands(&report).contains(&"tc filter show dev vx0 egress".to_owned()), "{}", report.json);
    lab.node.cmd("tc qdisc del dev vx0 clsact");
    assert_eq!(state().state(ADVISORY), "exposed");
    let elsewhere = Netns::new();
    lab.node.cmd(&format!("ip link set vx0 netns {}", elsewhere.name()));
    elsewhere.up("vx0");
    let report = state();
    assert_eq!(report.state(ADVISORY), "unknown", "{}", report.json);
    assert!(report.json.to_string().contains("by which device its packets leave"), "{}", report.json);
    lab.node.cmd("iptables-legacy -w -t nat -F");
    assert_eq!(state().state(ADVISORY), "not_affected", "without translation it does not matter");
}

/// A mark that no rule sets: a program marks packets of the client, which are forwarded into the tunnel.
#[test]
fn a_program_where_forwarded_packets_come_in_makes_the_verdict_unknown() {
    let lab = TunnelLab::new(Setup { forwarding: true, ..setup() });
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully");
    let state = || check_here(&lab.node, &["--advisory", ADVISORY]);
    let report = state();
    assert_eq!(report.state(ADVISORY), "mitigated", "{}", report.json);
    assert!(report.json.to_string().contains("no rule here gives them mark 0x4000"), "{}", report.json);
    assert_eq!(lab.send(), 0);
    mark_on_the_way_in(&lab.node, "lan0", 0x4000);
    let report = state();
    assert_eq!(report.state(ADVISORY), "unknown", "{}", report.json);
    assert!(report.json.to_string().contains("BPF programs (tcx or netkit) on lan0"), "{}", report.json);
    assert!(lab.send() > 0, "and it does mark them");
    lab.node.cmd("iptables-legacy -w -t nat -F");
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -s 10.89.0.0/24 ! -o vx0 -j MASQUERADE --random-fully");
    assert_eq!(state().state(ADVISORY), "mitigated", "no mark matters to these rules");
    lab.node.cmd("sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=0");
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully");
    assert_eq!(state().state(ADVISORY), "mitigated", "nothing is forwarded");
    mark_on_the_way_in(&lab.node, "eth0", 0x4000);
    let report = state();
    assert_eq!(report.state(ADVISORY), "unknown", "it carries the tunnel: {}", report.json);
}

/// Filters of a class below the root, and of a queueing discipline below that, which no dump of the root shows.
#[test]
fn a_filter_below_the_root_makes_the_verdict_unknown() {
    let lab = TunnelLab::new(setup());
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully");
    let mitigated = || {
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), "mitigated", "{}", report.json);
    };
    lab.node.cmd("tc qdisc add dev vx0 root handle 1: htb default 11");
    lab.node.cmd("tc class add dev vx0 parent 1: classid 1:1 htb rate 1gbit");
    lab.node.cmd("tc class add dev vx0 parent 1:1 classid 1:11 htb rate 1gbit");
    lab.node.cmd("tc qdisc add dev vx0 parent 1:11 handle 20: htb default 1");
    lab.node.cmd("tc class add dev vx0 parent 20: classid 20:1 htb rate 1gbit");
    mitigated();
    for parent in ["1:1", "20:"] {
        lab.node.cmd(&format!("tc filter add dev vx0 parent {parent} protocol all u32 match u32 0 0 classid 1:11"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), "unknown", "{}", report.json);
        let shown = format!("tc filter (u32 on parent {parent}) of vx0");
        assert!(report.json.to_string().contains(&shown), "{}", report.json);
        let command = format!("tc filter show dev vx0 parent {parent}");
        assert!(commands(&report).contains(&command), "{}", report.json);
        assert!(lab.node.cmd(&command).contains("u32"), "and it shows it");
        lab.node.cmd(&format!("tc filter del dev vx0 parent {parent}"));
    }
    mitigated();
    lab.node.cmd("tc filter add dev vx0 parent 1:11 protocol all u32 match u32 0 0");
    mitigated(); // no packet meets filters of a leaf
}

/// Filters of traffic control at ingress matter if they have an action that may mark: this kernel's has none.
#[test]
fn a_filter_without_an_action_that_marks_changes_no_verdict() {
    let lab = TunnelLab::new(Setup { forwarding: true, ..setup() });
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully");
    lab.node.cmd("tc qdisc add dev lan0 clsact");
    for action in ["", "action mirred egress mirror dev lo"] {
        lab.node.cmd(&format!("tc filter add dev lan0 ingress protocol all u32 match u32 0 0 {action}"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), "mitigated", "{action}: {}", report.json);
    }
}

/// Docker Swarm's rules, and what administrators add to them.
#[test]
fn a_tunnel_whose_device_lives_elsewhere_is_judged_by_its_socket() {
    let docker = "-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE";
    let swarm = "-s 172.18.0.0/16 ! -o docker_gwbridge -j MASQUERADE";
    for (number, (rules, state)) in [
        (&[docker, swarm][..], "mitigated"),
        (&[docker, swarm, "-o eth0 -j MASQUERADE"], "mitigated"),
        (&[docker, swarm, "-o eth0 -j MASQUERADE --random-fully"], "exposed"),
        (&[docker, swarm, "-p udp --dport 4789 -j SNAT --to-source 192.168.88.77"], "exposed"),
        (&["-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully"], "mitigated"),
    ]
    .into_iter()
    .enumerate()
    {
        let lab = TunnelLab::new(Setup { port: 4789, elsewhere: true, ..setup() });
        for (bridge, address) in [("docker0", "172.17.0.1/16"), ("docker_gwbridge", "172.18.0.1/16")] {
            lab.node.cmd(&format!("ip link add {bridge} type bridge"));
            lab.node.cmd(&format!("ip addr add {address} dev {bridge}"));
            lab.node.up(bridge);
        }
        lab.node.cmd("ip addr add 192.168.88.77/32 dev lo");
        // No mark gets out of a namespace.
        lab.inside.cmd("iptables-legacy -w -t mangle -A OUTPUT -j MARK --set-mark 0x4000");
        for rule in rules {
            lab.node.cmd(&format!("iptables-legacy -w -t nat -A POSTROUTING {rule}"));
        }
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "set-up {number}: {}", report.json);
        assert!(report.advisory(ADVISORY)["subject"].is_null(), "{}", report.json);
        assert_eq!(lab.send() > 0, state == "exposed", "set-up {number}");
    }
}

/// Rules test what the device writes into outer headers.
#[test]
fn what_a_device_is_set_to_tells_what_its_headers_are() {
    for (settings, test, state) in [
        ("tos 0x20", "-m dscp --dscp 8", "exposed"),
        ("tos 0x20", "-m dscp --dscp 0", "mitigated"),
        ("ttl 5", "-m ttl --ttl-eq 5", "exposed"),
        ("ttl 5", "-m ttl --ttl-eq 64", "mitigated"),
    ] {
        let lab = TunnelLab::new(Setup { settings, ..setup() });
        let rule = format!("-t nat -A POSTROUTING -o eth0 {test} -j MASQUERADE --random-fully");
        lab.node.cmd(&format!("iptables-legacy -w {rule}"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{settings}, {test}: {}", report.json);
        assert_eq!(lab.send() > 0, state == "exposed", "{settings}, {test}");
    }
}

/// Packets of the peer arrive with the mark of the outer packet, or with one that the peer has chosen; replies have
/// that of the connection.
#[test]
fn packets_come_out_of_a_tunnel_with_marks() {
    let on_input = "-t mangle -A INPUT -p udp --dport 8472 -j MARK --set-xmark 0x4000/0x4000";
    let clear = "-t mangle -A PREROUTING -i vx0 -j MARK --set-xmark 0x0/0xffffffff";
    let save = "-t mangle -A PREROUTING -i vx0 -j CONNMARK --save-mark";
    let restore = "-t mangle -A OUTPUT -m connmark --mark 0x4000/0x4000 -j CONNMARK --restore-mark";
    for (settings, rules, state) in [
        ("", &[save, restore][..], "mitigated"),
        ("", &[on_input, save, restore], "exposed"),
        ("", &[on_input, clear, save, restore], "mitigated"),
        ("gbp", &[save, restore], "exposed"),
        ("gbp", &[clear, save, restore], "mitigated"),
    ] {
        let lab = TunnelLab::new(Setup { settings, ..setup() });
        let masquerade = "-t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully";
        for rule in rules.iter().chain([&masquerade]) {
            lab.node.cmd(&format!("iptables-legacy -w {rule}"));
        }
        lab.peer.cmd("iptables-legacy -w -t mangle -A OUTPUT -d 10.88.0.1 -j MARK --set-mark 0x4000");
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{settings}, {rules:?}: {}", report.json);
        let before = lab.errors();
        let bind = |address: &str| UdpSocket::bind(address).expect("a socket");
        let (node, peer) = (lab.node.enter(|| bind("10.88.0.1:9100")), lab.peer.enter(|| bind("10.88.0.2:0")));
        for socket in [&node, &peer] {
            socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set");
        }
        eventually(PATIENCE, || {
            peer.send_to(b"question", "10.88.0.1:9100").expect("sent");
            let mut bytes = [0; 64];
            if let Ok((_, from)) = node.recv_from(&mut bytes) {
                node.send_to(b"answer", from).expect("sent");
            }
            let done = lab.errors() > before || peer.recv(&mut bytes).is_ok();
            if done { Ok(()) } else { Err(format!("{settings}, {rules:?}: no answer")) }
        });
        assert_eq!(lab.errors() > before, state == "exposed", "{settings}, {rules:?}");
        // Whether packets sent back leave a checksum to the device depends on how they arrived here.
        let rules: Vec<&&str> = rules.iter().filter(|rule| !rule.contains("CONNMARK")).collect();
        lab.node.cmd("iptables-legacy -w -t mangle -F");
        for rule in &rules {
            lab.node.cmd(&format!("iptables-legacy -w {rule}"));
        }
        for (forwarding, state) in [(0, "mitigated"), (1, if state == "exposed" { "unknown" } else { "mitigated" })] {
            lab.node.sysctl("net.ipv4.ip_forward", forwarding);
            let report = check_here(&lab.node, &["--advisory", ADVISORY]);
            assert_eq!(report.state(ADVISORY), state, "{settings}, {rules:?}, {forwarding}: {}", report.json);
        }
    }
}

/// A tunnel's device is that of its default destination: packets to other remotes are routed, by their mark as well.
#[test]
fn entries_of_the_forwarding_database_do_not_insist_on_the_tunnels_device() {
    let lab = TunnelLab::new(Setup { settings: "dev eth0", ..setup() });
    veth(&lab.node, "eth1", &lab.peer, "eth1");
    for ns in [&lab.node, &lab.peer] {
        offload(ns, "eth1", "tx", false);
        offload(ns, "eth1", "rx", false);
    }
    lab.node.cmd("ip addr add 198.51.100.1/24 dev eth1");
    lab.peer.cmd("ip addr add 198.51.100.2/24 dev eth1");
    lab.node.cmd("ip rule add fwmark 0x4000/0x4000 lookup 100");
    lab.node.cmd("ip route add default via 198.51.100.2 dev eth1 table 100");
    lab.node.cmd("iptables-legacy -w -t filter -A OUTPUT -d 10.88.0.0/24 -j MARK --set-xmark 0x4000/0x4000");
    lab.node.cmd("iptables-legacy -w -t nat -A POSTROUTING -o eth1 -j MASQUERADE --random-fully");
    let report = check_here(&lab.node, &["--advisory", ADVISORY]);
    assert_eq!(report.state(ADVISORY), "exposed", "{}", report.json);
    assert!(lab.send() > 0);
}

/// Without a quota the match matches every packet, with one those beyond it.
#[test]
fn rules_that_count_for_an_accounting_object_are_understood() {
    for (quota, state) in [(None, "exposed"), (Some(1), "exposed")] {
        let lab = TunnelLab::new(setup());
        accounting(&lab.node, "counted", quota);
        let counted = "-m nfacct --nfacct-name counted";
        lab.node.cmd(&format!("iptables-legacy -w -t mangle -A OUTPUT {counted} -j LOG"));
        lab.node
            .cmd(&format!("iptables-legacy -w -t nat -A POSTROUTING -o eth0 {counted} -j MASQUERADE --random-fully"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{quota:?}: {}", report.json);
        assert!(lab.send() > 0, "{quota:?}");
        lab.node.cmd(&format!("iptables-legacy -w -t mangle -A OUTPUT -o eth0 {counted} -j DROP"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), "unknown", "{quota:?}: {}", report.json);
        assert!(report.json.to_string().contains("nfacct get counted"), "{}", report.json);
    }
}

/// What the first packet of a connection is asked for, in the words of both; and dates, of which those that have passed do not come
/// again.
#[test]
fn first_packets_have_counted_one_and_dates_have_passed_or_not() {
    let on_the_card = |test: &str| match test.strip_prefix("nft ") {
        None => format!("iptables-legacy -w -t nat -A POSTROUTING -o eth0 {test} -j MASQUERADE --random-fully"),
        Some(test) => {
            let chain = "type nat hook postrouting priority 95";
            format!("nft 'table ip t {{ chain c {{ {chain}; oifname eth0 {test} masquerade fully-random; }}; }}'")
        }
    };
    for (test, state) in [
        ("-m connbytes --connbytes 1:1 --connbytes-dir original --connbytes-mode packets", "exposed"),
        ("-m connbytes ! --connbytes 2: --connbytes-dir both --connbytes-mode packets", "exposed"),
        ("-m connbytes --connbytes 1: --connbytes-dir reply --connbytes-mode packets", "mitigated"),
        ("-m connbytes --connbytes 0:100000 --connbytes-dir both --connbytes-mode bytes", "exposed"),
        ("-m connbytes --connbytes 100000: --connbytes-dir both --connbytes-mode bytes", "mitigated"),
        ("-m connbytes --connbytes 70000: --connbytes-dir both --connbytes-mode avgpkt", "mitigated"),
        ("nft ct original packets 1", "exposed"),
        ("nft ct packets > 1", "mitigated"),
        ("nft ct bytes > 20", "exposed"),
        ("nft ct reply bytes > 0", "mitigated"),
        ("nft ct avgpkt > 70000", "mitigated"),
        ("-m time --datestart 2020-01-01", "exposed"),
        ("-m time --timestart 00:00 --timestop 23:59:59", "exposed"),
        ("-m time --datestop 2020-01-01", "mitigated"),
        ("-m time --datestart 2037-01-01", "unknown"),
        ("nft meta time > \"2020-01-01 00:00:00\"", "exposed"),
        ("nft meta time < \"2020-01-01 00:00:00\"", "mitigated"),
        ("nft meta time > \"2037-01-01 00:00:00\"", "unknown"),
    ] {
        let lab = TunnelLab::new(setup());
        lab.node.run(&["sh", "-c", &on_the_card(test)]);
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{test}: {}", report.json);
        assert_eq!(lab.send() > 0, state == "exposed", "{test}");
    }
    // What nobody counts is 0 for nft, and never holds for iptables.
    for (test, state) in [
        ("-m connbytes --connbytes 0: --connbytes-dir both --connbytes-mode packets", "mitigated"),
        ("nft ct packets 0", "exposed"),
    ] {
        let lab = TunnelLab::new(setup());
        lab.node.run(&["sh", "-c", &on_the_card(test)]);
        lab.node.sysctl("net.netfilter.nf_conntrack_acct", 0);
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{test}: {}", report.json);
        assert_eq!(lab.send() > 0, state == "exposed", "{test}");
    }
}

/// Sockets take over the mark of who connects to them, if that is switched on: so do answers.
#[test]
fn answers_have_the_mark_of_who_connects_if_sockets_take_it_over() {
    for (accept, protocol, state) in [(0, "tcp", "mitigated"), (1, "tcp", "exposed"), (1, "udp", "mitigated")] {
        let lab = TunnelLab::new(setup());
        lab.node.sysctl("net.ipv4.tcp_fwmark_accept", accept);
        for rule in [
            &format!("-t mangle -A INPUT -i vx0 -p {protocol} -j MARK --set-xmark 0x4000/0x4000"),
            "-t nat -A POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
        ] {
            lab.node.cmd(&format!("iptables-legacy -w {rule}"));
        }
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{accept} {protocol}: {}", report.json);
        let before = lab.errors();
        let listener = lab.node.enter(|| TcpListener::bind("10.88.0.1:9200").expect("a socket"));
        let patience = Duration::from_millis(300);
        let connect = || TcpStream::connect_timeout(&"10.88.0.1:9200".parse().expect("an address"), patience).is_ok();
        eventually(PATIENCE, || {
            let done = lab.peer.enter(connect) || lab.errors() > before;
            if done { Ok(()) } else { Err("no connection") }
        });
        drop(listener);
        assert_eq!(lab.errors() > before, state == "exposed", "{accept} {protocol}");
    }
}

/// What is for nobody that is known goes to a group, whose packets rules translate as well.
#[test]
fn packets_to_a_group_are_translated_too() {
    for (destination, state) in [("239.0.0.0/8", "exposed"), ("192.168.88.99", "mitigated")] {
        let lab = TunnelLab::new(setup());
        lab.node.cmd("bridge fdb append 00:00:00:00:00:00 dev vx0 dst 239.1.1.1 via eth0");
        lab.node.cmd("ip neigh replace 10.88.0.9 lladdr 02:00:00:00:88:09 dev vx0 nud permanent");
        lab.peer.cmd("ip address add 239.1.1.1/32 dev eth0 autojoin");
        lab.node
            .cmd(&format!("iptables-legacy -w -t nat -A POSTROUTING -d {destination} -j MASQUERADE --random-fully"));
        let report = check_here(&lab.node, &["--advisory", ADVISORY]);
        assert_eq!(report.state(ADVISORY), state, "{destination}: {}", report.json);
        let (before, socket) = (lab.errors(), lab.node.enter(|| UdpSocket::bind("10.88.0.1:0").expect("a socket")));
        let received =
            || lab.peer.proc_net("dev").lines().find(|line| line.trim().starts_with("vx0:")).map(str::to_owned);
        let at_first = received();
        eventually(PATIENCE, || {
            socket.send_to(b"to nobody", "10.88.0.9:9").expect("sent");
            let done = lab.errors() > before || received() != at_first;
            if done { Ok(()) } else { Err("nothing arrived") }
        });
        assert_eq!(lab.errors() > before, state == "exposed", "{destination}");
    }
}
