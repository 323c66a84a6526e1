//! `natwatch probe`: its findings are correct for any user, missing permissions are reported, and it leaves nothing
//! behind.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::counters::{conntrack_stats, proc_netstat, proc_snmp6};
use crate::support::exposition::Exposition;
use crate::support::fake::{NEIGHBOURS, Tree};
use crate::support::netns::Netns;
use crate::support::program::{HERE, NATWATCH, PublicCopy, Run, natwatch, natwatch_as, natwatch_in};
use crate::support::race::{Limits, Race, race};
use crate::support::router::{Proto, Router, TARGET};
use crate::support::rules::nft;
use crate::support::server::Server;
use crate::support::strace::{Call, Socket, Strace};
use crate::support::vxlan::Vxlan;
use crate::support::wait::{PATIENCE, eventually, exclusive};

/// The experiments.
const DEFECTS: [&str; 5] =
    ["nat-port-rover", "nat-random-port-hash", "nat-udp-lco-checksum", "nat-udp-zero-checksum", "udp-clash-drop"];
const NOBODY: [&str; 6] =
    ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"];

/// State and detail by defect.
fn findings(run: &Run) -> BTreeMap<String, (String, String)> {
    assert_eq!(run.stderr, "", "{run:?}");
    let json: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| panic!("{e}: {run:?}"));
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let defects = json["defects"].as_array().expect("a list").iter();
    defects.map(|defect| (text(&defect["id"]), (text(&defect["state"]), text(&defect["detail"])))).collect()
}

fn states(run: &Run) -> BTreeMap<String, String> {
    findings(run).into_iter().map(|(id, (state, _))| (id, state)).collect()
}

/// What this machine's probe finds, alone on its two CPUs.
fn probed(format: &str) -> Run {
    let _machine = exclusive();
    natwatch(&["probe", "--format", format])
}

/// Whether the kernel corrupts the checksum of a tunnel between two real nodes: the receiver counts it.
fn tunnel_is_broken(ipv6: bool, checksum: bool) -> bool {
    let pair = Vxlan { ipv6, udp_checksum: Some(checksum), ..Vxlan::default() }.build();
    pair.old_kube_postrouting("iptables-nft");
    if ipv6 {
        let rule = "-m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully";
        pair.nodes[0].cmd(&format!("ip6tables-nft -w -t nat -A POSTROUTING {rule}"));
    }
    let took = pair.connect();
    let broken = match ipv6 {
        false => proc_netstat(&pair.nodes[1])["UdpInCsumErrors"],
        true => proc_snmp6(&pair.nodes[1])["Udp6InCsumErrors"],
    };
    println!("IPv6 {ipv6}, checksum {checksum}: connected in {took:?}, {broken} wrong checksums");
    assert_eq!(broken > 0, took > Duration::from_millis(900), "a lost packet is what the connection waits for");
    broken > 0
}

#[test]
fn checksums_are_as_two_real_nodes_see_them() {
    let states = states(&probed("json"));
    for (defect, checksum) in [("nat-udp-zero-checksum", false), ("nat-udp-lco-checksum", true)] {
        let broken = [false, true].map(|ipv6| tunnel_is_broken(ipv6, checksum));
        let expected = if broken.contains(&true) { "present" } else { "absent" };
        assert_eq!(states[defect], expected, "{defect}: {broken:?}");
    }
}

/// Source ports that NAT chose for flows through a real router, in the order of the flows.
fn chosen_ports(rule: &str) -> Vec<u16> {
    let lab = Router::plain();
    lab.sink(Proto::Udp);
    let ns = &lab.router;
    ns.cmd(&format!("iptables-nft -w -t nat -A POSTROUTING -o wan0 -p udp -j MASQUERADE {rule}"));
    let mut chosen = Vec::new();
    for flow in 0..16u16 {
        let port = 50_000 + flow;
        lab.client.enter(|| {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a socket");
            socket.send_to(b"x", TARGET).expect("sent");
        });
        chosen.push(eventually(PATIENCE, || {
            let list = ns.cmd(&format!("conntrack -L -p udp --orig-port-src {port}"));
            // The second dport is that of replies: the chosen port.
            let mut replies = list.split_whitespace().filter_map(|word| word.strip_prefix("dport="));
            replies.next_back().and_then(|port| port.parse::<u16>().ok()).ok_or("no entry".to_owned())
        }));
    }
    chosen
}

#[test]
fn ports_are_chosen_as_a_real_router_chooses_them() {
    let states = states(&probed("json"));
    for (defect, rule) in [("nat-port-rover", "--to-ports 20000-29999"), ("nat-random-port-hash", "--random")] {
        let chosen = chosen_ports(rule);
        let next = chosen.windows(2).filter(|pair| pair[0].checked_add(1) == Some(pair[1])).count();
        println!("{rule}: {chosen:?}");
        assert_eq!(states[defect], if next > 8 { "present" } else { "absent" }, "{defect}: {chosen:?}");
    }
}

#[test]
fn clashes_end_as_between_real_senders() {
    let states = states(&probed("json"));
    let _machine = exclusive();
    let lab = Router::plain();
    lab.sink(Proto::Udp);
    nft(
        &lab.client,
        &format!(
            "table ip t {{ chain out {{ type nat hook output priority -100; \
             ip daddr {} udp dport {} dnat to numgen inc mod 2 map {{ 0 : {}, 1 : 10.77.2.77 }};\n }}\n }}",
            TARGET.ip(),
            TARGET.port(),
            TARGET.ip()
        ),
    );
    let report = race(&lab, Race::SameSocket, Limits { rounds: 400, time: Duration::from_secs(10) });
    let stats = conntrack_stats(&lab.client);
    let (resolved, lost) = (stats.total("clash_resolve"), stats.total("drop"));
    println!("{report:?}: {resolved} resolved, {lost} lost");
    assert!(resolved + lost > 0, "the two never met");
    assert_eq!(states["udp-clash-drop"], if lost > 0 { "present" } else { "absent" });
}

/// All identities that may make namespaces find the same.
#[test]
fn privileges_change_nothing_but_the_way_in() {
    let _machine = exclusive();
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let ns = Netns::new();
    let expected = states(&natwatch_in(&ns, &["probe", "--format", "json"]));
    assert!(expected.keys().eq(DEFECTS), "{expected:?}");
    assert!(expected.values().all(|state| state != "unknown"), "{expected:?}");
    let no_admin = ["setpriv", "--bounding-set=-sys_admin"];
    let no_new = [&NOBODY[..], &["--no-new-privs"]].concat();
    let root_of_a_user_namespace = ["unshare", "-Ur"];
    for wrapper in [&NOBODY[..], &no_new, &no_admin, &root_of_a_user_namespace] {
        let run = natwatch_as(&ns, &[wrapper, &[binary]].concat(), &["probe", "--format", "json"]);
        assert_eq!(states(&run), expected, "{wrapper:?}");
    }
}

/// Where no namespace can be had the result is "unknown", with the reason and a remedy.
#[test]
fn what_is_forbidden_is_unknown() {
    let _machine = exclusive();
    let copy = PublicCopy::new();
    let binary = copy.path();
    let binary = binary.to_str().expect("UTF-8");
    let ns = Netns::new();
    let inject = |what: &'static str| ["strace", "-f", "-o", "/dev/null", "-e", "trace=unshare,clone,fork", "-e", what];
    let limit = "echo 0 >/proc/sys/user/max_user_namespaces; echo 0 >/proc/sys/user/max_net_namespaces; exec \"$@\"";
    let limited = ["unshare", "-Ur", "sh", "-c", limit, "sh"];
    let forbidden = [&NOBODY[..], &inject("inject=unshare:error=EPERM")].concat();
    for (wrapper, words) in [
        (&inject("inject=unshare:error=EPERM")[..], "network namespaces are forbidden here (a seccomp profile"),
        (&inject("inject=unshare:error=ENOSYS"), "network namespaces are forbidden here (a seccomp profile"),
        (&forbidden, "user namespaces are forbidden here"),
        (&limited, "user.max_net_namespaces"),
        (&inject("inject=unshare:error=EINVAL"), "this kernel has no network namespaces"),
        (&inject("inject=clone,fork:error=EAGAIN"), "cannot make a process"),
    ] {
        let run = natwatch_as(&ns, &[wrapper, &[binary]].concat(), &["probe", "--format", "json"]);
        assert_eq!(run.code, 3, "{wrapper:?}");
        for (id, (state, detail)) in findings(&run) {
            assert_eq!(state, "unknown", "{id}");
            assert!(detail.contains(words), "{wrapper:?}: {detail}");
        }
    }
}

/// A kernel that never responds is not waited for.
#[test]
fn an_experiment_that_hangs_is_stopped() {
    let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=bind", "-e", "inject=bind:signal=STOP"];
    let ns = Netns::new();
    let run = natwatch_as(&ns, &[&words[..], &[NATWATCH]].concat(), &["probe", "--format", "json"]);
    assert_eq!(run.code, 3);
    assert!(findings(&run).values().all(|(_, detail)| detail.contains("took too long")), "{run:?}");
}

/// One failing experiment does not affect the others.
#[test]
fn what_goes_wrong_costs_one_experiment() {
    let _machine = exclusive();
    let ns = Netns::new();
    let probe = |inject: &str| {
        let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=clone,clone3,sendto", "-e", inject, NATWATCH];
        findings(&natwatch_as(&ns, &words, &["probe", "--format", "json"]))
    };
    // The first clone is the child itself, without clone3; then come the two threads.
    for (inject, words) in
        [("inject=clone3:error=EAGAIN", "two threads"), ("inject=clone3:error=EAGAIN:when=2+", "two threads")]
    {
        for (id, (state, detail)) in probe(inject) {
            assert_eq!(state == "unknown", id == "udp-clash-drop", "{inject}: {id}: {detail}");
            assert!(state != "unknown" || detail.contains(words), "{inject}: {id}: {detail}");
        }
    }
}

/// Other refusals are no clash: a full table, a filter on the cgroup.
#[test]
fn refusals_for_another_reason_are_no_clashes() {
    let _machine = exclusive();
    let ns = Netns::new();
    for inject in [
        "inject=sendto:error=EPERM:when=16+",
        "inject=sendto:error=EPERM:when=15+2",
        "inject=sendto:error=ENOBUFS:when=20+",
    ] {
        let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=sendto", "-e", inject, NATWATCH];
        let run = natwatch_as(&ns, &words, &["probe", "--format", "json", "--defect", "udp-clash-drop"]);
        let found = findings(&run);
        let (state, detail) = &found["udp-clash-drop"];
        assert_ne!(state, "present", "{inject}: {detail}");
    }
}

/// A seccomp filter may report success without doing anything: then everything would happen in the node's namespace.
#[test]
fn a_namespace_that_is_not_there_is_noticed() {
    let ns = Netns::new();
    let words = ["strace", "-f", "-o", "/dev/null", "-e", "trace=unshare", "-e", "inject=unshare:retval=0", NATWATCH];
    let run = natwatch_as(&ns, &words, &["probe", "--format", "json"]);
    assert_eq!(run.code, 3);
    assert!(findings(&run).values().all(|(_, detail)| detail.contains("unshare does nothing")), "{run:?}");
    let links = ns.cmd("ip -br link");
    assert!(!links.contains("low0") && ns.cmd("nft list tables").is_empty(), "{links}");
}

/// A new file replaces an old one; what is no regular file is written into, and stays what it is.
#[test]
fn the_result_goes_where_it_should() {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let probe = |to: &Path| {
        let run = natwatch(&["probe", "--defect", "nat-port-rover", "--output", to.to_str().expect("UTF-8")]);
        assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""), "{run:?}");
    };
    let is_json = |text: &str| serde_json::from_str::<Value>(text).is_ok();
    fs::write(path("file"), "old").expect("written");
    fs::set_permissions(path("file"), fs::Permissions::from_mode(0o600)).expect("permissions");
    std::os::unix::fs::symlink("file", path("link")).expect("a link");
    probe(&path("link"));
    assert!(path("link").is_symlink() && is_json(&fs::read_to_string(path("file")).expect("the result")));
    assert_eq!(fs::metadata(path("file")).expect("the result").permissions().mode() & 0o777, 0o600);
    rustix::fs::mkfifoat(rustix::fs::CWD, path("pipe"), 0o600.into()).expect("a pipe");
    let reader = std::thread::spawn({
        let pipe = path("pipe");
        move || fs::read_to_string(pipe).expect("the result")
    });
    probe(&path("pipe"));
    assert!(is_json(&reader.join().expect("a reader")));
    assert!(fs::metadata(path("pipe")).expect("it is there").file_type().is_fifo());
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 3, "nothing beside them");
    probe(Path::new("/dev/null"));
    assert!(fs::metadata("/dev/null").expect("it is there").file_type().is_char_device());
}

/// Everything in a namespace and on the machine that `probe` could leave behind or change.
fn state_of(ns: &Netns) -> BTreeMap<&'static str, String> {
    let sysctls = ns.enter(|| {
        let mut all = String::new();
        let mut open = vec![Path::new("/proc/sys/net").to_owned()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                let entries = fs::read_dir(&path).expect("a directory");
                open.extend(entries.map(|entry| entry.expect("an entry").path()));
            } else if let Ok(text) = fs::read_to_string(&path) {
                all += &format!("{}: {text}", path.display());
            }
        }
        let mut lines: Vec<&str> = all.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    });
    let modules = fs::read_dir("/sys/module").expect("/sys/module").map(|entry| entry.expect("an entry").file_name());
    let mut modules: Vec<_> = modules.collect();
    let list = ns.cmd("ip netns list");
    // Other processes on this machine make some, too.
    let named = list.lines().filter(|name| name.starts_with("natwatch") && !name.starts_with("natwatch-test-"));
    modules.sort_unstable();
    [
        ("links", ns.cmd("ip -d -s link")),
        ("addresses", ns.cmd("ip addr")),
        ("routes", ns.cmd("ip route show table all")),
        ("neighbours", ns.cmd("ip neigh")),
        ("rules", ns.cmd("nft -s list ruleset")),
        ("legacy tables", ns.proc_net("ip_tables_names") + &ns.proc_net("ip6_tables_names")),
        ("statistics", ns.proc_net("snmp") + &ns.proc_net("stat/nf_conntrack")),
        ("packet sockets", ns.proc_net("packet")),
        ("named namespaces", named.collect::<Vec<_>>().join("\n")),
        ("sysctls", sysctls),
        ("modules", format!("{modules:?}")),
    ]
    .into()
}

/// Namespaces that the kernel has not freed yet, and processes of a program.
///
/// The kernel counts freed ones that it keeps for reuse too (some twenty a CPU), and other objects of their size
/// where it merges slabs: `shrink` gives most of them back, and the number remains an upper bound.
fn left_behind(program: &str) -> (u64, usize) {
    let _ = fs::write("/sys/kernel/slab/net_namespace/shrink", "1");
    let slabs = fs::read_to_string("/proc/slabinfo").expect("/proc/slabinfo");
    let line = slabs.lines().find(|line| line.starts_with("net_namespace ")).expect("a slab of its own");
    let namespaces = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    let processes = fs::read_dir("/proc").expect("/proc").filter(|entry| {
        let path = entry.as_ref().expect("an entry").path().join("comm");
        fs::read_to_string(path).is_ok_and(|name| name.trim() == program)
    });
    (namespaces, processes.count())
}

/// Many probes in a row, as root and as nobody: a leak of either would show.
#[test]
fn nothing_is_left_behind() {
    const PROBES: u64 = 160;
    let _machine = exclusive();
    const NAME: &str = "nw-left-behind";
    let copy = PublicCopy::new();
    let binary = copy.path().with_file_name(NAME);
    fs::rename(copy.path(), &binary).expect("renamed");
    let binary = binary.to_str().expect("UTF-8");
    let ns = Netns::new();
    ns.cmd("nft add table inet own");
    let before = state_of(&ns);
    let (namespaces, _) = left_behind(NAME);
    let nobody = [&NOBODY[..], &[binary]].concat();
    let first = states(&natwatch_in(&ns, &["probe", "--format", "json"]));
    for number in 0..PROBES {
        let words = if number % 2 == 0 { &[binary][..] } else { &nobody };
        let run = natwatch_as(&ns, words, &["probe", "--format", "json"]);
        assert_eq!(states(&run), first, "probe {number}: {}", run.stdout);
    }
    let after = state_of(&ns);
    for (what, before) in before {
        assert_eq!(after[what], before, "{what}");
    }
    // The kernel frees namespaces later.
    eventually(PATIENCE, || {
        let (now, processes) = left_behind(NAME);
        let fits = processes == 0 && now < namespaces + PROBES / 2;
        if fits { Ok(()) } else { Err(format!("{namespaces} namespaces before, {now} after; {processes} processes")) }
    });
}

/// All changes come after the namespace's creation, and in the process that is in it.
#[test]
fn everything_happens_in_the_namespace_of_its_own() {
    let _machine = exclusive();
    let ns = Netns::new();
    let strace = Strace::all();
    let run = natwatch_as(&ns, &[&strace.words()[..], &[NATWATCH]].concat(), &["probe", "--format", "json"]);
    assert!(findings(&run).values().any(|(state, _)| state != "unknown"), "{run:?}");
    let calls = strace.calls();
    let unshared = calls.iter().position(|call| call.is(&["unshare"])).expect("a namespace");
    assert_ne!(calls[unshared].number(0) & i64::from(libc::CLONE_NEWNET), 0, "{:?}", calls[unshared]);
    let position = |wanted: &dyn Fn(&Call) -> bool| calls.iter().position(wanted);
    let is_of = |socket: Option<Socket>, family: i32| socket.is_some_and(|socket| socket.family == i64::from(family));
    for (what, first) in [
        ("a netlink message", position(&|call| call.message().is_some())),
        ("a packet socket", position(&|call| is_of(call.made(), libc::AF_PACKET))),
        ("a datagram", position(&|call| call.is(&["sendto"]) && is_of(call.socket, libc::AF_INET))),
    ] {
        let first = first.unwrap_or_else(|| panic!("{what} is not in the log"));
        assert!(first > unshared, "{what} before the namespace: {:?}", calls[first]);
    }
    let writes = |call: &&Call| call.number(2) & i64::from(libc::O_ACCMODE) != i64::from(libc::O_RDONLY);
    for call in calls.iter().filter(|call| call.is(&["openat"])).filter(writes) {
        assert!(call.has("/proc/sys/net/ipv6/conf/low0/disable_ipv6"), "{call:?}");
    }
    assert_eq!(calls.iter().filter(|call| call.is(&["execve"])).count(), 1, "no other program");
}

/// A procfs with these modules loaded, and nothing built into the kernel.
fn with_modules(ns: &Netns, modules: &[&str]) -> Tree {
    let procfs = Tree::procfs(ns);
    procfs.copy_proc(ns, NEIGHBOURS);
    procfs.copy_proc(ns, &["sys/kernel/random/boot_id"]);
    procfs.write("modules", modules.iter().map(|name| format!("{name} 16384 0 - Live 0x0\n")).collect::<String>());
    procfs.write("kallsyms", "0000000000000000 T something\n");
    procfs
}

const COMMON: [&str; 4] = ["af_packet", "veth", "nf_conntrack", "nf_nat"];

/// Experiments that would make the kernel load a module are not run.
#[test]
fn no_module_is_loaded() {
    let _machine = exclusive();
    let ns = Netns::new();
    let empty = Tree::empty();
    let probe = |modules: &[&str], more: &[&str]| {
        let procfs = with_modules(&ns, modules);
        let strace = Strace::of("unshare");
        let trees = ["--path.procfs", procfs.path(), "--path.sysfs", empty.path(), "--path.rootfs", empty.path()];
        let words = [&strace.words()[..], &[NATWATCH]].concat();
        let run = natwatch_as(&ns, &words, &[&["probe", "--format", "json"], &trees[..], more].concat());
        (findings(&run), run.code, strace.calls().iter().filter(|call| call.is(&["unshare"])).count())
    };
    let (found, code, unshared) = probe(&["nf_tables"], &[]);
    assert_eq!((code, unshared), (3, 0), "it does nothing");
    for (state, detail) in found.values() {
        assert_eq!(state, "unknown");
        assert!(
            detail.contains("could load af_packet, veth, nf_conntrack, nf_nat, nft_chain_nat, nft_masq"),
            "{detail}"
        );
        assert!(detail.contains("--allow-module-load"), "{detail}");
    }
    let (allowed, _, unshared) = probe(&[], &["--allow-module-load"]);
    assert!(unshared > 0 && allowed.values().all(|(state, _)| state != "unknown"), "{allowed:?}");
    let nftables = [&COMMON[..], &["nf_tables", "nft_chain_nat", "nft_masq", "nft_nat", "nft_meta", "ipv6"]].concat();
    let (found, _, _) = probe(&nftables, &[]);
    for (id, (state, detail)) in &found {
        if id.contains("checksum") {
            assert_eq!(state, "unknown", "{id}");
            assert!(detail.contains("could load vxlan"), "{detail}");
        } else {
            assert_eq!(*state, allowed[id].0, "{id}");
        }
    }
    // Legacy tables instead of nf_tables.
    let legacy = [&COMMON[..], &["iptable_nat", "ip6table_nat", "xt_MASQUERADE", "ipv6", "vxlan"]].concat();
    let (found, _, _) = probe(&legacy, &[]);
    for (id, (state, detail)) in &found {
        if id == "udp-clash-drop" {
            assert_eq!(state, "unknown");
            assert!(detail.contains("nf_tables"), "{detail}");
        } else {
            assert_eq!(*state, allowed[id].0, "{id}: {detail}");
        }
    }
}

/// The legacy table is what was used: nf_tables receives no message.
#[test]
fn legacy_tables_serve_where_nf_tables_are_missing() {
    let _machine = exclusive();
    let ns = Netns::new();
    let expected = states(&natwatch_in(&ns, &["probe", "--format", "json"]));
    let modules = [&COMMON[..], &["iptable_nat", "ip6table_nat", "xt_MASQUERADE", "ipv6", "vxlan"]].concat();
    let (procfs, empty, strace) = (with_modules(&ns, &modules), Tree::empty(), Strace::of("socket,setsockopt"));
    let trees = ["--path.procfs", procfs.path(), "--path.sysfs", empty.path(), "--path.rootfs", empty.path()];
    let words = [&strace.words()[..], &[NATWATCH]].concat();
    let run = natwatch_as(&ns, &words, &[&["probe", "--format", "json"], &trees[..]].concat());
    for id in DEFECTS.iter().filter(|id| **id != "udp-clash-drop") {
        assert_eq!(states(&run)[*id], expected[*id], "{id}");
    }
    let calls = strace.calls();
    assert!(!calls.iter().any(|call| call.makes_netlink(libc::NETLINK_NETFILTER)), "{calls:?}");
    // IPT_SO_SET_REPLACE and IP6T_SO_SET_REPLACE are the first option of each.
    for level in [libc::SOL_IP, libc::SOL_IPV6] {
        let replaces = |call: &Call| (call.number(1), call.number(2)) == (level.into(), 64);
        assert!(calls.iter().any(|call| call.is(&["setsockopt"]) && replaces(call)), "{level}: {calls:?}");
    }
}

fn basis_of(metrics: &str) -> BTreeMap<String, String> {
    let metrics = Exposition::parse(metrics);
    let series = metrics.series("natwatch_kernel_defect_info");
    series.iter().map(|(labels, _)| (labels["defect"].clone(), labels["basis"].clone())).collect()
}

#[test]
fn the_exporter_probes_at_start() {
    let _machine = exclusive();
    let ns = Netns::new();
    let expected = states(&natwatch_in(&ns, &["probe", "--format", "json"]));
    let server = Server::start(&ns, &[&HERE[..], &["--probe"]].concat());
    let metrics = server.ok("/metrics");
    let basis = basis_of(&metrics);
    for (id, state) in &expected {
        assert_eq!(basis[id], "probe", "{id}");
        let found = Exposition::parse(&metrics).one_state("natwatch_kernel_defect_info", &[("defect", id)]);
        assert_eq!(found.as_deref(), Some(state.as_str()), "{id}");
    }
    assert_eq!(basis["conntrack-chain-limit"], "upstream_version");
    let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
    let defects = report["kernel"]["defects"].as_array().expect("a list");
    let probed = defects.iter().filter(|defect| defect["basis"] == "probe").count();
    assert_eq!(probed, DEFECTS.len(), "{report}");
    server.stop();
    // An operator's flag takes precedence.
    let server = Server::start(&ns, &["--probe", "--kernel-defect", "nat-port-rover=present"]);
    assert_eq!(basis_of(&server.ok("/metrics"))["nat-port-rover"], "operator");
    server.stop();
}

#[test]
fn a_probe_that_fails_blocks_nothing() {
    let _machine = exclusive();
    let ns = Netns::new();
    let inject = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=unshare", "-e", "inject=unshare:error=EPERM"];
    let server = Server::start_as(&ns, &[&inject[..], &[NATWATCH]].concat(), &["--probe"]);
    let basis = basis_of(&server.ok("/metrics"));
    assert!(basis.values().all(|basis| basis != "probe"), "{basis:?}");
    assert!(server.daemon.stderr().contains("are forbidden here"), "{}", server.daemon.stderr());
    let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
    assert!(report.to_string().contains("the probe could not tell"), "{report}");
}

#[test]
fn a_probe_that_hangs_is_not_waited_for() {
    let ns = Netns::new();
    let inject = ["strace", "-D", "-f", "-o", "/dev/null", "-e", "trace=unshare", "-e", "inject=unshare:signal=STOP"];
    let server = Server::start_as(&ns, &[&inject[..], &[NATWATCH]].concat(), &["--probe"]);
    let basis = basis_of(&server.ok("/metrics"));
    assert!(basis.values().all(|basis| basis != "probe"), "{basis:?}");
    // It is stopped later, and the log says so.
    eventually(PATIENCE, || {
        let stopped = server.daemon.stderr().contains("took too long");
        if stopped { Ok(()) } else { Err("it is waited for".to_owned()) }
    });
}

#[test]
fn a_result_in_a_file_is_used_for_the_same_boot_only() {
    let _machine = exclusive();
    let ns = Netns::new();
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("probe.json");
    let file = file.to_str().expect("UTF-8");
    let run = natwatch_in(&ns, &["probe", "--format", "json", "--output", file]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let text = fs::read_to_string(file).expect("the result");
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1, "nothing beside it");
    let basis_with = |text: &str| {
        fs::write(file, text).expect("written");
        let server = Server::start(&ns, &["--probe-result", file]);
        let basis = basis_of(&server.ok("/metrics"));
        let log = server.daemon.stderr();
        server.stop();
        (basis["nat-udp-zero-checksum"].clone(), log)
    };
    assert_eq!(basis_with(&text).0, "probe");
    let json: Value = serde_json::from_str(&text).expect("JSON");
    for (key, reason) in [("boot_id", "boot id"), ("kernel_release", "release"), ("kernel_version", "version")] {
        let mut other = json.clone();
        other["identity"][key] = "other".into();
        let (basis, log) = basis_with(&other.to_string());
        assert_eq!(basis, "upstream_version", "{key}");
        assert!(log.contains("not used") && log.contains(reason), "{log}");
    }
    for broken in ["", "{}", &text[..text.len() / 2]] {
        let (basis, log) = basis_with(broken);
        assert_eq!(basis, "upstream_version");
        assert!(log.contains("not used"), "{log}");
    }
    // Neither may stop it, nor may it decide what no experiment decides.
    fs::remove_file(file).expect("removed");
    rustix::fs::mkfifoat(rustix::fs::CWD, file, 0o600.into()).expect("a pipe");
    for strange in [file, "/dev/zero", "/"] {
        let server = Server::start(&ns, &["--probe-result", strange]);
        assert_eq!(basis_of(&server.ok("/metrics"))["nat-udp-zero-checksum"], "upstream_version", "{strange}");
        server.stop();
    }
    fs::remove_file(file).expect("removed");
    let lie = text.replace("nat-port-rover", "conntrack-chain-limit");
    fs::write(file, lie).expect("written");
    let server = Server::start(&ns, &["--probe-result", file]);
    let basis = basis_of(&server.ok("/metrics"));
    assert_eq!(
        (basis["conntrack-chain-limit"].as_str(), basis["nat-port-rover"].as_str()),
        ("upstream_version", "upstream_version")
    );
    server.stop();
    fs::remove_file(file).expect("removed");
    let server = Server::start(&ns, &["--probe-result", file]);
    assert_eq!(basis_of(&server.ok("/metrics"))["nat-udp-zero-checksum"], "upstream_version", "no file, no word");
    server.stop();
}

#[test]
fn what_is_named_decides_the_exit_code() {
    let _machine = exclusive();
    let code = |named: &[&str]| {
        let flags: Vec<&str> = named.iter().flat_map(|id| ["--defect", id]).collect();
        let run = natwatch(&[&["probe", "--format", "json"], &flags[..]].concat());
        let found = states(&run);
        if !named.is_empty() {
            assert_eq!(found.len(), named.len(), "{found:?}");
        }
        let state = |wanted: &str| {
            found.iter().any(|(id, state)| state == wanted && (!named.is_empty() || id != "nat-udp-lco-checksum"))
        };
        let expected = if state("present") {
            2
        } else if state("unknown") {
            3
        } else {
            0
        };
        assert_eq!(run.code, expected, "{found:?}");
        run.code
    };
    code(&[]);
    for id in DEFECTS {
        code(&[id]);
    }
    code(&["nat-udp-zero-checksum", "nat-udp-lco-checksum"]);
}

#[test]
fn wrong_words_are_refused() {
    for (args, word) in [
        (&["probe", "--defect", "vmxnet3-tunnel-any-port"][..], "no experiment decides"),
        (&["probe", "--defect", "nonsense"], "known are"),
        (&["probe", "--format", "yaml"], "yaml"),
        (&["serve", "--probe", "--probe-result", "x"], "--probe-result"),
    ] {
        let run = natwatch(args);
        assert_eq!((run.code, run.stdout.as_str()), (1, ""), "{args:?}");
        assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
    }
    natwatch(&["probe", "--defect", "nat-port-rover", "--output", "/nowhere/file"])
        .fails(1, &["/nowhere/file", "write"]);
}

#[test]
fn the_text_is_for_people() {
    let run = probed("text");
    for id in DEFECTS {
        assert!(run.stdout.contains(id), "{}", run.stdout);
    }
    let long = run.stdout.lines().find(|line| line.chars().count() > 80);
    assert_eq!(long, None, "{}", run.stdout);
}
