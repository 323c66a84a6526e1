//! Reading changes nothing: no other program, no file written, no setting, no packet sent, the namespace as before.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Barrier;
use std::thread;

use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::support::counters::{Counters, proc_netstat, proc_snmp6};
use crate::support::exposition::Exposition;
use crate::support::http;
use crate::support::links::{links, offload};
use crate::support::netns::{Netns, veth};
use crate::support::nfnetlink::question;
use crate::support::program::{HERE, NATWATCH, natwatch_as};
use crate::support::router::{Backend, NatRule, Ports, Proto, Router};
use crate::support::server::Server;
use crate::support::strace::{Call, Socket, Strace};
use crate::support::traffic::exhaust;
use crate::support::wait::{PATIENCE, eventually};

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
    /// Number of programs attached to a device.
    const BPF_PROG_QUERY: i64 = 16;
    let asks = call.is(&["bpf"]) && call.number(0) == BPF_PROG_QUERY;
    !asks && NEVER.split_whitespace().any(|name| name == call.name)
}

/// Asserts that a program which reads the kernel once makes only allowed calls.
fn assert_quiet(calls: &[Call], may_write_below: Option<&Path>) {
    assert!(calls.iter().any(|call| call.has("nf_conntrack")), "strace saw nothing: {} calls", calls.len());
    let started: Vec<&Call> = calls.iter().filter(|call| call.is(&["execve"])).collect();
    assert_eq!(started.len(), 1, "only its own start: {started:?}");
    for call in calls {
        assert!(may_write_below.is_some() || !never(call), "{call:?}");
        if call.is(&["clone", "clone3"]) {
            assert_ne!(call.member("flags") & i64::from(libc::CLONE_THREAD), 0, "a process: {call:?}");
        }
        if call.is(&["open", "openat", "openat2"]) {
            assert_read_only(call, may_write_below);
        }
        if call.is(&["ioctl"]) {
            let asks = [libc::TCGETS, libc::TCGETS2, libc::TIOCGWINSZ, libc::FIONREAD, libc::FIONBIO, libc::FIOCLEX];
            assert!(asks.contains(&(call.number(1) as libc::Ioctl)), "{call:?}");
        }
        assert_question(call);
    }
}

fn assert_read_only(call: &Call, may_write_below: Option<&Path>) {
    let flags = match call.name.as_str() {
        "open" => call.number(1),
        "openat" => call.number(2),
        _ => call.member("flags"),
    };
    let flags = OFlags::from_bits_retain(flags as u32);
    let writes =
        OFlags::RWMODE | OFlags::CREATE | OFlags::TRUNC | OFlags::APPEND | (OFlags::TMPFILE - OFlags::DIRECTORY);
    let below = may_write_below.is_some_and(|directory| call.has(directory.to_str().expect("UTF-8")));
    // O_RDONLY is 0.
    assert!(below || !flags.intersects(writes), "opened for writing: {call:?}");
}

/// Asserts that a netlink message is a request: `RTM_GET…`, the three generic ones, with plain or dump flags only.
fn assert_question(call: &Call) {
    let Some(message) = call.message() else { return };
    let (request, dump) = (libc::NLM_F_REQUEST, libc::NLM_F_REQUEST | libc::NLM_F_DUMP);
    assert!([request, dump].contains(&message.flags.into()), "{message:x?}: {call:?}");
    let asks = match message.protocol as i32 {
        libc::NETLINK_ROUTE => [
            libc::RTM_GETLINK,
            libc::RTM_GETADDR,
            libc::RTM_GETROUTE,
            libc::RTM_GETRULE,
            libc::RTM_GETNEIGH,
            libc::RTM_GETNETCONF,
            libc::RTM_GETNEIGHTBL,
            libc::RTM_GETTCLASS,
            libc::RTM_GETTFILTER,
            libc::RTM_GETQDISC,
        ]
        .contains(&message.kind),
        libc::NETLINK_GENERIC => {
            // The header is followed by command and version: CTRL_CMD_GETFAMILY of the controller, else
            // ETHTOOL_MSG_STRSET_GET or ETHTOOL_MSG_FEATURES_GET.
            let controller = i32::from(message.kind) == libc::GENL_ID_CTRL;
            let commands: &[u8] = if controller { &[3] } else { &[1, 11] };
            commands.iter().any(|command| message.body.starts_with(&[*command, 1, 0, 0]))
        }
        // ctnetlink is used for entries only: counters are read from the file in procfs.
        libc::NETLINK_NETFILTER => {
            const IPCTNL_MSG_CT_GET: u16 = 1;
            match i32::from(message.kind >> 8) {
                libc::NFNL_SUBSYS_NFTABLES => question(call).expect("one").what().starts_with("GET"),
                libc::NFNL_SUBSYS_CTNETLINK => message.kind & 0xff == IPCTNL_MSG_CT_GET,
                _ => false,
            }
        }
        _ => false,
    };
    assert!(asks, "{message:x?}: {call:?}");
}

const NETLINK: i64 = libc::AF_NETLINK as i64;
const UNIX: i64 = libc::AF_UNIX as i64;
const INET: [i64; 2] = [libc::AF_INET as i64, libc::AF_INET6 as i64];

/// Whether it is the socket whose options are the tables of legacy x_tables; nothing is sent on it.
fn is_for_options(socket: Socket) -> bool {
    INET.contains(&socket.family) && socket.kind == i64::from(libc::SOCK_DGRAM)
}

/// Asserts that `check` and `capture` write to stdout and stderr only, and have only netlink sockets and one for
/// options.
fn assert_sends_nothing(calls: &[Call]) {
    for call in calls {
        if let Some(socket) = call.made() {
            assert!(socket.family == NETLINK || is_for_options(socket), "{call:?}");
        }
        assert!(!call.is(&["connect", "setsockopt", "listen", "accept", "accept4", "socketpair"]), "{call:?}");
        if call.is(&["sendto", "sendmsg"]) {
            assert!(call.socket.is_some_and(|socket| socket.family == NETLINK), "{call:?}");
        }
    }
}

fn is_standard_stream(call: &Call) -> bool {
    [1, 2].contains(&call.number(0))
}

fn assert_writes_to_standard_streams(calls: &[Call]) {
    for call in calls.iter().filter(|call| call.is(&["write", "writev", "pwrite64", "pwritev"])) {
        assert!(is_standard_stream(call), "{call:?}");
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
    // Disables all that the kernel would send or finish by itself later: router solicitations, multicast reports,
    // duplicate address detection.
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

/// Everything about a namespace that the standard tools print and that does not change by itself.
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
    ]
    .map(str::to_owned)
    .into();
    commands.extend(links(ns).keys().map(|device| format!("ethtool -k {device}")));
    let mut state: Vec<(String, String)> =
        commands.into_iter().map(|line| (line.clone(), timeless(&ns.cmd(&line)))).collect();
    // Listing a missing table would create it.
    for name in ["ip_tables_names", "ip6_tables_names", "ip_tables_targets", "udp", "raw", "packet"] {
        state.push((name.to_owned(), ns.proc_net(name)));
    }
    for below in ["netfilter", "ipv4/ip_forward", "ipv4/conf", "ipv6/conf"] {
        let path = Path::new("/proc/sys/net").join(below);
        state.push((format!("sysctl {below}"), ns.enter(|| sysctls(&path))));
    }
    state.push(("modules".to_owned(), fs::read_to_string("/proc/modules").unwrap_or_default()));
    state
}

/// The files' contents, a line each. Some cannot be read until they have been written.
fn sysctls(path: &Path) -> String {
    let Ok(entries) = fs::read_dir(path) else {
        return format!("{} = {:?}\n", path.display(), fs::read_to_string(path).ok());
    };
    let paths: BTreeSet<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.iter().map(|path| sysctls(path)).collect()
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
            assert!(is_standard_stream(call) || call.has(&format!("<{home}")), "{call:?}");
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

/// `serve` and its scrapes: only its own listening socket and responses to clients.
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

/// Without the test's own connections to the server, which are tracked if connection tracking is active.
fn without_connections(mut state: Vec<(String, String)>) -> Vec<(String, String)> {
    state.retain(|(what, _)| what != "conntrack -C");
    for (what, text) in &mut state {
        if what.starts_with("sysctl") {
            *text = text.lines().filter(|line| !line.contains("nf_conntrack_count")).collect::<Vec<_>>().join("\n");
        }
    }
    state
}

/// Asserts that sockets are netlink, the listening one, or inside the process; no option has an effect beyond a socket.
fn assert_serves_only(calls: &[Call]) {
    assert!(calls.iter().any(|call| call.is(&["listen"])), "no server: {} calls", calls.len());
    for call in calls {
        assert!(!call.is(&["connect"]), "{call:?}");
        if let Some(socket) = call.made() {
            let stream = INET.contains(&socket.family) && socket.kind == i64::from(libc::SOCK_STREAM);
            let allowed = [NETLINK, UNIX].contains(&socket.family) || stream || is_for_options(socket);
            assert!(allowed, "{call:?}");
        }
        if call.is(&["bind"]) && call.socket.is_some_and(|socket| socket.family != NETLINK) {
            // The address that the test has set; strace shows it either as text or as four bytes.
            assert!(call.has("\"127.0.0.1\"") || call.has(r#""\x7f\x00\x00\x01""#), "{call:?}");
        }
        if call.is(&["setsockopt"]) {
            let harmless = [
                (libc::SOL_SOCKET, libc::SO_REUSEADDR),
                (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
                (libc::SOL_SOCKET, libc::SO_LINGER),
                (libc::SOL_SOCKET, libc::SO_SNDBUF),
                (libc::SOL_SOCKET, libc::SO_RCVBUF),
                (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER),
                (libc::SOL_NETLINK, libc::NETLINK_ADD_MEMBERSHIP),
                (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
                (libc::IPPROTO_TCP, libc::TCP_NODELAY),
                (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
            ];
            assert!(harmless.contains(&(call.number(1) as i32, call.number(2) as i32)), "{call:?}");
        }
        if call.is(&["write", "writev", "sendto", "sendmsg"]) {
            let answers = |socket: Socket| socket.accepted || [NETLINK, UNIX].contains(&socket.family);
            let inside = call.has("<anon_inode:[eventfd]>") || call.socket.is_some_and(answers);
            assert!(is_standard_stream(call) || inside, "{call:?}");
        }
    }
}

/// As many scrapers as one address may have, at once: all get equal responses, and the kernel is read once or a few
/// times.
#[test]
fn simultaneous_scrapes_share_a_look() {
    const SCRAPERS: usize = 60;
    let lab = busy();
    let ns = &lab.router;
    let strace = Strace::of("pread64");
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
        assert_eq!(metrics.one_state("natwatch_source_info", &[("source", "proc_conntrack")]).as_deref(), Some("ok"));
    }
    let from_start = |call: &&Call| call.has("net/stat/nf_conntrack") && call.number(3) == 0;
    let looks = strace.calls().iter().filter(from_start).count();
    println!("{looks} looks for {SCRAPERS} scrapes and the start");
    assert!((2..=SCRAPERS / 4).contains(&looks), "{looks} looks");
}
