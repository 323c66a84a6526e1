//! Looking changes nothing: no other program, no file written, nothing set, no packet sent, the namespace as before.

#![allow(clippy::disallowed_types, reason = "tests compare natwatch with the standard tools")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use rustix::process::Signal;

use support::counters::{Counters, proc_netstat, proc_snmp6};
use support::exposition::Exposition;
use support::http;
use support::links::{links, offload};
use support::netns::{Netns, veth};
use support::program::{HERE, NATWATCH, natwatch_as};
use support::router::{Backend, NatRule, Ports, Proto, Router};
use support::server::Server;
use support::strace::{Call, Strace};
use support::traffic::exhaust;
use support::wait::{PATIENCE, eventually};

/// Calls that make or change something outside the process, whatever their arguments.
const NEVER: &str = "\
    fork vfork execveat creat unlink unlinkat rename renameat renameat2 mkdir mkdirat rmdir link linkat \
    symlink symlinkat mknod mknodat chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat truncate \
    ftruncate fallocate utime utimes utimensat futimesat setxattr lsetxattr fsetxattr removexattr mount umount \
    umount2 move_mount mount_setattr pivot_root chroot unshare setns sethostname setdomainname settimeofday \
    clock_settime adjtimex clock_adjtime init_module finit_module delete_module bpf perf_event_open ptrace \
    process_vm_writev kill tkill pidfd_send_signal pidfd_open reboot swapon swapoff syslog quotactl acct \
    setuid setgid setreuid setregid setresuid setresgid setgroups setfsuid setfsgid capset setpriority \
    ioprio_set sched_setscheduler sched_setattr sched_setaffinity io_uring_setup open_by_handle_at \
    fanotify_init keyctl add_key request_key memfd_create sendmmsg splice tee vmsplice copy_file_range \
    sendfile";

fn never(call: &Call) -> bool {
    NEVER.split_whitespace().any(|name| name == call.name)
}

/// What a program may do that looks at the kernel once.
fn assert_quiet(calls: &[Call], may_write_below: Option<&Path>) {
    assert!(calls.iter().any(|call| call.has("nf_conntrack")), "strace saw nothing: {} calls", calls.len());
    let started: Vec<&Call> = calls.iter().filter(|call| call.is(&["execve"])).collect();
    assert_eq!(started.len(), 1, "only its own start: {started:?}");
    for call in calls {
        assert!(may_write_below.is_some() || !never(call), "{call:?}");
        if call.is(&["clone", "clone3"]) {
            assert!(call.has("CLONE_THREAD"), "a process: {call:?}");
        }
        if call.is(&["open", "openat", "openat2"]) {
            assert_read_only(call, may_write_below);
        }
        if call.is(&["ioctl"]) {
            let asks = ["TCGETS", "TIOCGWINSZ", "FIONREAD", "FIONBIO", "FIOCLEX"];
            assert!(asks.iter().any(|request| call.has(&format!(", {request}"))), "{call:?}");
        }
        if call.is(&["sendto", "sendmsg", "write", "writev", "pwrite64"]) && call.has("<NETLINK:") {
            assert_question(call);
        }
    }
}

fn assert_read_only(call: &Call, may_write_below: Option<&Path>) {
    let writes = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND", "O_TMPFILE"];
    let below = may_write_below.is_some_and(|directory| call.has(directory.to_str().expect("UTF-8")));
    assert!(below || !writes.iter().any(|flag| call.has(flag)), "opened for writing: {call:?}");
    assert!(call.has("O_RDONLY") || below, "{call:?}");
}

/// A netlink message that asks: `RTM_GET…`, the three generic ones, and plain or dump requests only.
fn assert_question(call: &Call) {
    let field = |name: &str| {
        let rest = call.rest.split_once(&format!("{name}=")).unwrap_or_else(|| panic!("no {name}: {call:?}")).1;
        rest.split([',', '}']).next().expect("a value").to_owned()
    };
    let flags = field("nlmsg_flags");
    let known = ["NLM_F_REQUEST", "NLM_F_DUMP", "NLM_F_REQUEST|NLM_F_DUMP"];
    assert!(known.contains(&flags.as_str()) || flags == "NLM_F_REQUEST|0x300", "{flags}: {call:?}");
    assert_eq!(call.rest.matches("nlmsg_type=").count(), 1, "one message: {call:?}");
    let kind = field("nlmsg_type");
    if call.has("<NETLINK:[ROUTE") {
        let asks = [
            "RTM_GETLINK",
            "RTM_GETADDR",
            "RTM_GETROUTE",
            "RTM_GETRULE",
            "RTM_GETNEIGH",
            "RTM_GETNETCONF",
            "RTM_GETTFILTER",
        ];
        assert!(asks.contains(&kind.as_str()), "{kind}: {call:?}");
    } else if call.has("<NETLINK:[GENERIC") {
        // The command is the first byte after the header: CTRL_CMD_GETFAMILY of the controller, else
        // ETHTOOL_MSG_STRSET_GET or ETHTOOL_MSG_FEATURES_GET.
        let commands: &[&str] = if kind == "nlctrl" { &["03"] } else { &["01", "0b"] };
        let asks = commands.iter().any(|command| call.has(&format!(", \"\\x{command}\\x01\\x00\\x00")));
        assert!(asks, "{kind}: {call:?}");
    } else {
        // ctnetlink is not asked: the file in procfs is there.
        let asks = kind.contains("NFTABLES") && kind.contains("_GET");
        assert!(call.has("<NETLINK:[NETFILTER") && asks, "{kind}: {call:?}");
    }
}

/// The socket whose options are the tables of legacy x_tables; nothing is sent on it.
fn is_for_options(call: &Call) -> bool {
    call.rest.starts_with("AF_INET, SOCK_DGRAM|") || call.rest.starts_with("AF_INET6, SOCK_DGRAM|")
}

/// `check` and `capture` write to stdout and stderr only, and have netlink sockets and one for options only.
fn assert_sends_nothing(calls: &[Call]) {
    for call in calls {
        if call.is(&["socket"]) {
            assert!(call.rest.starts_with("AF_NETLINK") || is_for_options(call), "{call:?}");
        }
        assert!(!call.is(&["connect", "setsockopt", "listen", "accept", "accept4", "socketpair"]), "{call:?}");
        if call.is(&["sendto", "sendmsg"]) {
            assert!(call.has("<NETLINK:"), "{call:?}");
        }
    }
}

fn assert_writes_to_standard_streams(calls: &[Call]) {
    for call in calls.iter().filter(|call| call.is(&["write", "writev", "pwrite64", "pwritev"])) {
        assert!(call.rest.starts_with("1<") || call.rest.starts_with("2<"), "{call:?}");
    }
}

/// A namespace with rules of all three backends, a tunnel, routes, and counted failures.
fn busy() -> Router {
    let lab = Router::with(NatRule::masquerade(
        Backend::IptablesLegacy,
        Ports::Range { proto: Proto::Udp, low: 4001, high: 4010 },
    ));
    lab.sink(Proto::Udp);
    let ns = &lab.router;
    ns.sysctl("net.netfilter.nf_conntrack_udp_timeout", 600);
    // Nothing that the kernel sends, or finishes, of its own accord later on: no router solicitations, multicast
    // reports, duplicate address detection.
    for scope in ["all", "default"] {
        ns.sysctl(&format!("net.ipv6.conf.{scope}.disable_ipv6"), 1);
    }
    ns.cmd("iptables-nft -w -t nat -A POSTROUTING -o nowhere -j MASQUERADE --random-fully");
    ns.run(&["nft", "add table inet own; add chain inet own c { type filter hook forward priority 0; }"]);
    ns.cmd("ip link add br0 type bridge mcast_snooping 0");
    veth(ns, "port0", ns, "port1");
    ns.cmd("ip link set port0 master br0");
    ns.address("br0", "192.0.2.1/24");
    ns.up("br0");
    ns.cmd("ip route add default dev br0 table 77");
    ns.cmd("ip rule add to 203.0.113.0/24 lookup 77");
    for (device, remote) in [("flannel.1", "203.0.113.9"), ("vxlan.calico", "10.77.2.2")] {
        ns.cmd(&format!("ip link add {device} type vxlan id {0} dstport {0} remote {remote}", device.len()));
        ns.up(device);
    }
    offload(ns, "flannel.1", "tx-checksum-ip-generic", false);
    let sent = exhaust(&lab, Proto::Udp, 50);
    assert_eq!(lab.settle(sent), 10);
    lab
}

/// Everything about a namespace that the standard tools print and that does not move by itself.
fn state(ns: &Netns) -> Vec<(String, String)> {
    let mut commands: Vec<String> = [
        "ip -d link",
        "ip -d addr",
        "ip -4 rule",
        "ip -6 rule",
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip nexthop",
        "bridge fdb",
        "bridge -d link",
        "nft -s list ruleset",
        "conntrack -C",
        "ip tuntap",
        "ip netconf",
        "sysctl -a --ignore --pattern ^net\\.(netfilter|ipv4\\.(ip_forward|conf)|ipv6\\.conf)",
    ]
    .map(str::to_owned)
    .into();
    commands.extend(links(ns).keys().map(|device| format!("ethtool -k {device}")));
    let mut state: Vec<(String, String)> =
        commands.into_iter().map(|line| (line.clone(), timeless(&ns.cmd(&line)))).collect();
    // Asking for a table that is not there would make it.
    for name in ["ip_tables_names", "ip6_tables_names", "ip_tables_targets", "udp", "raw", "packet"] {
        state.push((name.to_owned(), ns.proc_net(name)));
    }
    state.push(("modules".to_owned(), fs::read_to_string("/proc/modules").unwrap_or_default()));
    state
}

/// Without the bridge's running timers: `gc_timer   12.34`.
fn timeless(text: &str) -> String {
    let mut words = text.split_inclusive([' ', '\n']).filter(|word| *word != " ").peekable();
    let mut kept = String::new();
    while let Some(word) = words.next() {
        kept += word;
        if word.trim().ends_with("_timer") {
            words.next();
        }
    }
    kept
}

/// Packets and segments that the namespace has sent so far.
fn sent(ns: &Netns) -> Vec<u64> {
    let (mut all, six): (Counters, Counters) = (proc_netstat(ns), proc_snmp6(ns));
    all.extend(six);
    ["TcpOutSegs", "UdpOutDatagrams", "Udp6OutDatagrams", "IpOutRequests", "IcmpOutMsgs"].map(|name| all[name]).into()
}

fn assert_same(before: &[(String, String)], after: &[(String, String)]) {
    for ((what, before), (_, after)) in before.iter().zip(after) {
        let differs = before.lines().zip(after.lines()).find(|(before, after)| before != after);
        assert!(before == after, "{what} has changed: {differs:?}");
    }
    assert_eq!(before.len(), after.len());
}

/// `check` in every format, in an empty and in a busy namespace.
#[test]
fn a_check_changes_nothing_and_sends_nothing() {
    let (empty, lab) = (Netns::new(), busy());
    for ns in [&empty, &lab.router] {
        let before = (state(ns), sent(ns));
        for format in ["text", "json", "prometheus", "nagios", "npd"] {
            let strace = Strace::all();
            let words = [strace.words(), vec![NATWATCH]].concat();
            let run = natwatch_as(ns, &words, &["check", "--format", format, HERE[0], HERE[1]]);
            // The busy node's rules translate its tunnel's packets: exposed, in the format's own code.
            let busy = if format == "npd" { 1 } else { 2 };
            assert_eq!(run.code, if ns.name() == empty.name() { 0 } else { busy }, "{format}: {run:?}");
            let calls = strace.calls();
            assert_quiet(&calls, None);
            assert_sends_nothing(&calls);
            assert_writes_to_standard_streams(&calls);
        }
        assert_eq!(before.1, sent(ns), "packets were sent");
        assert_same(&before.0, &state(ns));
    }
    assert_eq!(empty.proc_net("ip_tables_names"), "", "no table came into being");
}

/// `capture` writes below its directory only.
#[test]
fn a_capture_writes_its_directory_and_nothing_else() {
    let lab = busy();
    let ns = &lab.router;
    let before = (state(ns), sent(ns));
    let home = tempfile::tempdir().expect("a directory");
    for (name, flags) in [("plain", &[][..]), ("redacted", &["--redact"][..])] {
        let directory = home.path().join(name);
        let strace = Strace::all();
        let words = [strace.words(), vec![NATWATCH]].concat();
        let run = natwatch_as(ns, &words, &[&["capture", directory.to_str().expect("UTF-8")], flags].concat());
        assert_eq!(run.code, 0, "{run:?}");
        let calls = strace.calls();
        assert_quiet(&calls, Some(home.path()));
        assert_sends_nothing(&calls);
        let home = home.path().to_str().expect("UTF-8");
        let changes = calls.iter().filter(|call| never(call));
        let elsewhere: Vec<_> = changes.filter(|call| !call.has(home)).collect();
        assert!(elsewhere.is_empty(), "{elsewhere:?}");
        for call in calls.iter().filter(|call| call.is(&["write", "writev", "pwrite64"])) {
            let allowed = call.rest.starts_with("1<") || call.rest.starts_with("2<") || call.has(&format!("<{home}"));
            assert!(allowed, "{call:?}");
        }
    }
    let names: BTreeSet<_> = fs::read_dir(home.path()).expect("a directory").flatten().map(|e| e.file_name()).collect();
    assert_eq!(names, BTreeSet::from(["plain".into(), "redacted".into()]), "nothing half-written is left");
    assert_eq!(before.1, sent(ns), "packets were sent");
    assert_same(&before.0, &state(ns));
}

fn stop(mut server: Server<'_>) {
    server.daemon.signal(Signal::TERM);
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0), "{}", server.daemon.stderr());
}

/// `serve` and its scrapes: only its own listening socket and answers to those who ask.
#[test]
fn serving_changes_nothing() {
    let (empty, lab) = (Netns::new(), busy());
    for ns in [&empty, &lab.router] {
        let before = without_connections(state(ns));
        let strace = Strace::all();
        let server = Server::start_as(ns, &[strace.words(), vec![NATWATCH]].concat(), &HERE);
        for path in ["/metrics", "/report.json", "/", "/-/healthy", "/-/ready", "/metrics"] {
            if path == "/-/ready" {
                eventually(PATIENCE, || (server.get(path, &[]).status == 200).then_some(()));
            }
            server.ok(path);
        }
        stop(server);
        let calls = strace.calls();
        assert_quiet(&calls, None);
        assert_serves_only(&calls);
        assert_same(&before, &without_connections(state(ns)));
    }
    assert_eq!(empty.proc_net("ip_tables_names"), "", "no table came into being");
}

/// The test's own connections to the server are tracked where connections are.
fn without_connections(mut state: Vec<(String, String)>) -> Vec<(String, String)> {
    state.retain(|(what, _)| what != "conntrack -C");
    for (what, text) in &mut state {
        if what.starts_with("sysctl") {
            *text = text.lines().filter(|line| !line.contains("nf_conntrack_count")).collect::<Vec<_>>().join("\n");
        }
    }
    state
}

/// Sockets are netlink, the listening one, and those inside the process; no option reaches beyond a socket.
fn assert_serves_only(calls: &[Call]) {
    assert!(calls.iter().any(|call| call.is(&["listen"])), "no server: {} calls", calls.len());
    for call in calls {
        assert!(!call.is(&["connect"]), "{call:?}");
        if call.is(&["socket", "socketpair"]) {
            let allowed = ["AF_NETLINK", "AF_UNIX", "AF_INET"].iter().any(|family| call.rest.starts_with(family));
            assert!(allowed && !call.has("AF_INET, SOCK_RAW"), "{call:?}");
            let stream = call.has("SOCK_STREAM") || is_for_options(call);
            assert!(!call.rest.starts_with("AF_INET") || stream, "{call:?}");
        }
        if call.is(&["setsockopt"]) {
            let harmless = ["SO_REUSEADDR", "TCP_NODELAY", "IPV6_V6ONLY", "SO_KEEPALIVE", "SO_LINGER"];
            assert!(harmless.iter().any(|option| call.has(option)), "{call:?}");
        }
        if call.is(&["write", "writev", "sendto", "sendmsg"]) {
            let own = ["1<", "2<"].iter().any(|fd| call.rest.starts_with(fd));
            let inside = ["anon_inode:[eventfd]", "<UNIX", "<TCP:[127.0.0.1:", "<NETLINK:"];
            assert!(own || inside.iter().any(|kind| call.has(kind)), "{call:?}");
        }
    }
}

/// A hundred scrapers at once: all are answered alike, and the kernel is read once or a few times.
#[test]
fn a_hundred_simultaneous_scrapes_share_a_look() {
    const SCRAPERS: usize = 100;
    let lab = busy();
    let ns = &lab.router;
    let strace = Strace::of("open,openat,openat2");
    let server = Server::start_as(ns, &[strace.words(), vec![NATWATCH]].concat(), &HERE);
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
    let (barrier, address) = (Barrier::new(SCRAPERS), server.address());
    let answers: Vec<_> = ns.enter(|| {
        thread::scope(|scope| {
            let scraper = || {
                barrier.wait();
                http::try_get(address, "/metrics", &[]).expect("an answer")
            };
            let threads: Vec<_> = (0..SCRAPERS).map(|_| scope.spawn(scraper)).collect();
            threads.into_iter().map(|thread| thread.join().expect("a scraper")).collect()
        })
    });
    stop(server);
    assert_eq!(answers.len(), SCRAPERS);
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        let metrics = Exposition::parse(answer.text());
        let counters = metrics.conntrack_counters();
        assert_eq!((counters["insert_failed"], counters["drop"]), (40, 40));
        assert_eq!(counters, Exposition::parse(answers[0].text()).conntrack_counters());
        assert_eq!(metrics.one_state("natwatch_source_state", &[("source", "proc_conntrack")]).as_deref(), Some("ok"));
    }
    let looks = strace.calls().iter().filter(|call| call.has("net/stat/nf_conntrack")).count();
    println!("{looks} looks for {SCRAPERS} scrapes and the start");
    assert!((2..=SCRAPERS / 4).contains(&looks), "{looks} looks");
}
