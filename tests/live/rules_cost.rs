//! Cost of reading rules: few requests for any number of Services, and almost none while nothing changes.

use std::fmt::Write as _;

use crate::support::exposition::{Exposition, metrics_here};
use crate::support::grammar::services;
use crate::support::netns::{Netns, veth};
use crate::support::nfnetlink::{RequestKind, question, questions};
use crate::support::program::{HERE, NATWATCH};
use crate::support::report::traced;
use crate::support::rules::{Rules, assert_rules, assert_same, assert_series, load, nft, saved};
use crate::support::server::Server;
use crate::support::strace::Strace;
use crate::support::wait::{PATIENCE, eventually};

const SERVICES: usize = 15_000;
/// Maximum number of requests in one reading, whatever the number of Services.
const MOST_QUESTIONS: usize = 30;

/// No list of rules is requested without table and chain.
#[track_caller]
fn assert_chain_by_chain(asked: &[RequestKind]) {
    for question in asked.iter().filter(|question| question.what() == "GETRULE") {
        assert!(!question.table.is_empty() && !question.chain.is_empty(), "{question:?}");
    }
}

/// The requests of the last of three scrapes, after checking each report.
fn steady_questions(ns: &Netns) -> Vec<RequestKind> {
    let strace = Strace::of("sendto,sendmsg,write,writev");
    let server = Server::start_as(ns, &[strace.words(), vec![NATWATCH]].concat(), &HERE);
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
    for _ in 0..3 {
        server.ok("/metrics");
    }
    server.stop();
    // Grouped by reading: a response to a scrape ends each group.
    let mut looks: Vec<Vec<RequestKind>> = vec![Vec::new()];
    for call in strace.calls() {
        let to_scraper = call.socket.is_some_and(|socket| socket.accepted);
        let answers = to_scraper && call.sent.starts_with(b"HTTP/1.1 200");
        match question(&call) {
            Some(question) => looks.last_mut().expect("a look").push(question),
            None if answers => looks.push(Vec::new()),
            None => {}
        }
    }
    assert_eq!(looks.pop(), Some(Vec::new()), "nothing is asked after the last answer");
    let last = looks.pop().expect("three looks");
    assert_eq!(looks.pop().as_ref(), Some(&last), "the second scrape asks what the third one asks");
    last
}

/// Kind of each request, and the chain if it is about one.
fn outline(asked: &[RequestKind]) -> Vec<String> {
    asked.iter().map(|question| format!("{} {}", question.what(), question.chain).trim().to_owned()).collect()
}

/// 30,000 rules of Services: the report is right, and no chain of a single Service is read.
#[test]
fn chains_of_many_services_are_not_read() {
    let ns = Netns::new();
    load(&ns, &["iptables-nft-restore", "-w"], &services(SERVICES));
    let (report, calls) = traced(&ns, &[]);
    let mut wanted = Rules::new();
    // The standard tools take far longer than natwatch to list all chains.
    let listed = ns.run(&["iptables-nft-save", "-c", "-t", "nat"]);
    for (chain, rules) in saved(&listed).into_iter().filter(|(_, rules)| !rules.is_empty()) {
        wanted.insert(("ipv4".into(), "nat".into(), chain), rules);
    }
    assert_eq!(wanted.len(), 1, "{wanted:?}");
    assert_same(&wanted, &report);
    let asked = questions(&calls);
    println!("{:?}", outline(&asked));
    assert!(asked.len() < MOST_QUESTIONS, "{:?}", outline(&asked));
    assert!(asked.len() >= 5, "strace saw nothing: {calls:?}");
    assert_chain_by_chain(&asked);
    let is_of_one = |chain: &str| chain.starts_with("KUBE-SVC-") || chain.starts_with("KUBE-SEP-");
    assert!(asked.iter().all(|question| !is_of_one(&question.chain)), "{:?}", outline(&asked));
    // In the steady state only the counters of chains with source NAT are read, within one generation.
    let asked = steady_questions(&ns);
    assert_eq!(outline(&asked), ["GETGEN", "GETRULE KUBE-POSTROUTING"], "{asked:?}");
}

/// With a tunnel up the rules for UDP matter: chains that the node's own packets traverse are dumped, each once.
#[test]
fn a_chain_is_dumped_once() {
    let ns = Netns::new();
    load(&ns, &["iptables-nft-restore", "-w"], &services(SERVICES));
    veth(&ns, "eth0", &ns, "eth1");
    ns.address("eth0", "192.0.2.1/24");
    ns.cmd("ip link add vx0 type vxlan id 1 dstport 4789 remote 192.0.2.2 dev eth0");
    ns.up("vx0");
    let (_, calls) = traced(&ns, &[]);
    let asked = questions(&calls);
    let mut chains: Vec<&str> = Vec::new();
    for question in asked.iter().filter(|question| question.what() == "GETRULE") {
        assert!(!chains.contains(&question.chain.as_str()), "{:?}", outline(&asked));
        chains.push(&question.chain);
    }
    assert!(chains.contains(&"KUBE-SERVICES"), "{chains:?}");
    assert!(!chains.iter().any(|chain| chain.starts_with("KUBE-SVC")), "{chains:?}");
}

/// Memory for decoding many rules is returned: the process hardly grows.
#[test]
fn memory_is_given_back() {
    /// 30,000 rules of legacy tables have 15 MiB, and as much again while they are decoded.
    const MOST: f64 = 8e6;
    for restore in ["iptables-legacy-restore", "iptables-nft-restore"] {
        let ns = Netns::new();
        ns.cmd("ip link add vx0 type vxlan id 1 dstport 4789 remote 192.0.2.2");
        ns.up("vx0");
        let server = Server::start(&ns, &HERE);
        let resident = || {
            let metrics = Exposition::parse(&server.ok("/metrics"));
            metrics.get("process_resident_memory_bytes", &[]).expect("a size")
        };
        load(&ns, &[restore, "-w"], &services(1));
        resident();
        let before = resident();
        for _ in 0..3 {
            load(&ns, &[restore, "-w"], &services(SERVICES));
            resident();
        }
        // It is returned after all responses were sent.
        eventually(PATIENCE, || (resident() < before + MOST).then_some(()));
    }
}

/// kube-proxy in nftables mode: its verdict map leads to every Service, and its rules set the mark in their chains.
#[test]
fn services_of_nftables_are_not_read() {
    const SERVICES: usize = 5_000;
    let ns = Netns::new();
    let mut text = String::from(
        "table ip kube-proxy {\n map service-ips {\n  type ipv4_addr . inet_proto . inet_service : verdict\n",
    );
    let address = |number: usize| format!("10.96.{}.{}", number / 250, 1 + number % 250);
    let elements = (0..SERVICES).map(|number| format!("{} . tcp . 443 : goto service-{number}", address(number)));
    let _ = write!(text, "  elements = {{ {} }}\n }}\n", elements.collect::<Vec<_>>().join(", "));
    for number in 0..SERVICES {
        let mark = format!("ip daddr {} ip saddr != 10.244.0.0/16 meta mark set mark or 0x4000", address(number));
        let _ = write!(text, " chain service-{number} {{\n  {mark}\n  dnat to 10.244.1.10:6443\n }}\n");
    }
    let kind = "ip daddr . meta l4proto . th dport";
    let _ = write!(
        text,
        " chain services {{\n  {kind} vmap @service-ips\n }}
        chain masquerading {{
            mark and 0x4000 == 0 return
            mark set mark xor 0x4000
            masquerade fully-random
        }}
        chain nat-prerouting {{
            type nat hook prerouting priority -100
            jump services
        }}
        chain nat-output {{
            type nat hook output priority -100
            jump services
        }}
        chain nat-postrouting {{
            type nat hook postrouting priority 100
            jump masquerading
        }}
        }}"
    );
    nft(&ns, &text.replace("dnat to", "meta l4proto tcp dnat to"));
    let (report, calls) = traced(&ns, &[]);
    let rules = report.json["source_nat_rules"].as_array().expect("rules");
    assert_eq!(rules.len(), 1, "{rules:?}");
    let wanted = ["masquerading", "kube-proxy", "random_fully"];
    assert_eq!(["chain", "owner", "port_randomization"].map(|key| rules[0][key].as_str().expect("text")), wanted);
    let asked = questions(&calls);
    println!("{:?}", outline(&asked));
    assert!(asked.len() < MOST_QUESTIONS, "{:?}", outline(&asked));
    assert_chain_by_chain(&asked);
    assert_eq!(outline(&steady_questions(&ns)), ["GETGEN"]);
}

/// A chain for each pod, as the CNI plugin bridge makes them: all are read, and their counters at each reading.
#[test]
fn a_chain_for_each_pod_is_read() {
    const PODS: usize = 500;
    let ns = Netns::new();
    let mut text = String::from("*nat\n");
    let name = |number: usize| format!("CNI-{number:024x}");
    for number in 0..PODS {
        let _ = writeln!(text, ":{} - [0:0]", name(number));
    }
    for number in 0..PODS {
        let (pod, chain) = (format!("10.88.{}.{}", number / 250, 1 + number % 250), name(number));
        let comment = format!("-m comment --comment \"name: \\\"podman\\\" id: \\\"{number:064x}\\\"\"");
        let _ = writeln!(text, "[3:180] -A POSTROUTING -s {pod}/32 {comment} -j {chain}");
        let _ = writeln!(text, "[0:0] -A {chain} -d 10.88.0.0/16 {comment} -j ACCEPT");
        let _ = writeln!(text, "[{number}:{}] -A {chain} ! -d 224.0.0.0/4 {comment} -j MASQUERADE", number * 60);
    }
    load(&ns, &["iptables-nft-restore", "-w", "--counters"], &(text + "COMMIT\n"));
    let report = assert_rules(&ns);
    let metrics = metrics_here(&ns, &[]);
    assert_series(&report, &metrics);
    assert_eq!(metrics.series("natwatch_source_nat_rules").len(), 1, "one kind");
    let asked = steady_questions(&ns);
    assert_eq!(asked.len(), PODS + 1, "the generation, and each chain that counts once");
    assert_chain_by_chain(&asked);
}

/// The requests that an exporter repeats at each reading.
#[test]
fn the_steady_state_asks_for_counters_and_the_generation_only() {
    let ns = Netns::new();
    let masquerade = |counter: &str| {
        format!(
            "table ip t {{
                chain post {{
                    type nat hook postrouting priority 100
                    counter jump one
                    jump two
                    jump three
                    oifname \"eth0\" {counter} masquerade
                }}
                chain one {{
                    oifname \"eth0\" {counter} snat to 192.0.2.1
                }}
                chain two {{
                    oifname \"eth0\" masquerade
                }}
                chain three {{
                    counter accept
                }}
            }}
            table inet f {{
                chain forward {{
                    type filter hook forward priority 0
                    counter accept
                }}
            }}"
        )
    };
    nft(&ns, &masquerade(""));
    assert_eq!(outline(&steady_questions(&ns)), ["GETGEN"], "nothing is counted, so nothing can have changed");
    nft(&ns, &format!("flush ruleset; {}", masquerade("counter")));
    let asked = steady_questions(&ns);
    let mut chains = outline(&asked);
    chains[1..3].sort();
    assert_eq!(chains, ["GETGEN", "GETRULE one", "GETRULE post"], "{asked:?}");
    nft(&ns, "flush ruleset");
    assert_eq!(outline(&steady_questions(&ns)), ["GETGEN"], "no rules at all");
}

/// A tunnel whose addresses are looked up in large sets: those addresses are looked up, and no other element is read.
#[test]
fn sets_are_asked_about_single_addresses() {
    let ns = Netns::new();
    veth(&ns, "eth0", &ns, "eth1");
    ns.address("eth0", "192.0.2.1/24");
    ns.cmd("ip link add flannel.1 type vxlan id 1 dstport 8472 remote 192.0.2.2 dev eth0");
    ns.up("flannel.1");
    let addresses = |first: u8| {
        (0..100_000)
            .map(move |number| format!("{}.{}.{}.{}", 10 + first, number / 62_500, number / 250 % 250, number % 250))
    };
    let mut sets = String::from("create pods hash:ip family inet maxelem 100000\n");
    for address in addresses(0) {
        let _ = writeln!(sets, "add pods {address}");
    }
    load(&ns, &["ipset", "restore", "-exist"], &sets);
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -m set --match-set pods src -o eth0 -j MASQUERADE");
    let elements: Vec<String> = addresses(1).collect();
    nft(
        &ns,
        &format!(
            "table ip t {{
                set pods {{
                    type ipv4_addr
                    elements = {{ {} }}
                }}
                chain post {{
                    type nat hook postrouting priority 90
                    ip saddr @pods oifname eth0 masquerade
                }}
            }}",
            elements.join(", ")
        ),
    );
    let report = assert_rules(&ns);
    assert_eq!(report.source("ipset"), Some(("ok", "")), "{}", report.json);
    let (_, calls) = traced(&ns, &[]);
    let asked = questions(&calls);
    println!("{:?}", outline(&asked));
    assert!(asked.len() < MOST_QUESTIONS, "{:?}", outline(&asked));
    // Each set is tried once, given up after 1 MiB, and then asked about single elements.
    let asks_sets =
        |question: &&RequestKind| ["GETSETELEM", "TEST", "LIST", "SAVE"].contains(&question.what().as_str());
    let (dumps, single): (Vec<&RequestKind>, Vec<&RequestKind>) =
        asked.iter().filter(asks_sets).partition(|question| question.dump);
    assert_eq!(dumps.len(), 2, "{dumps:?}");
    assert!(single.len() > 2, "{single:?}");
    let steady = steady_questions(&ns);
    assert!(steady.len() < MOST_QUESTIONS, "{:?}", outline(&steady));
    let is_of_rules =
        |question: &&RequestKind| ["GETGEN", "GETTABLE", "GETCHAIN", "GETRULE"].contains(&question.what().as_str());
    let of_rules: Vec<RequestKind> = steady.iter().filter(is_of_rules).cloned().collect();
    assert_eq!(outline(&of_rules), ["GETGEN", "GETRULE POSTROUTING"], "{steady:?}");
}
