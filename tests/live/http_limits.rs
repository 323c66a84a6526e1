//! What clients and log readers cannot do to the server.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::exposition::Exposition;
use crate::support::http;
use crate::support::netns::Netns;
use crate::support::process::free_port;
use crate::support::program::{HERE, NATWATCH};
use crate::support::server::{Server, hanging_server};
use crate::support::sockets::allow_open_files;
use crate::support::tools::require;
use crate::support::wait::{PATIENCE, eventually};

/// Number of rules for a report of about a megabyte, which is more than the kernel buffers for a client that does not
/// read.
const RULES: usize = 3000;

fn load_rules(ns: &Netns) {
    require("nft");
    let rules: String = (0..RULES)
        .map(|n| format!("add rule ip t p ip saddr 10.{}.{}.{} counter masquerade\n", n >> 16, n >> 8 & 255, n & 255))
        .collect();
    let text = format!("add table ip t\nadd chain ip t p {{ type nat hook postrouting priority srcnat; }}\n{rules}");
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), text).expect("written");
    let loaded = ns.exec(&["nft", "-f", file.path().to_str().expect("UTF-8")]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;

fn status_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        line.push(byte[0]);
    }
    String::from_utf8(line).expect("UTF-8")
}

/// A full pipe as stderr, as of a service whose log collector hangs.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let ns = Netns::new();
    let (reader, writer) = std::io::pipe().expect("a pipe");
    fill(&writer.try_clone().expect("a copy").into());
    let config = tempfile::NamedTempFile::new().expect("a file");
    fs::write(config.path(), "basic_auth_users: {}\n").expect("written");
    let port = free_port();
    let mut command = ns.command(NATWATCH);
    command.args(["--web.listen-address", &format!("127.0.0.1:{port}"), "--web.config.file"]).arg(config.path());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer).spawn().expect("natwatch starts");
    let get = |path: &str| ns.enter(|| http::try_get((LOCAL, port).into(), path, &[]));
    eventually(PATIENCE, || get("/-/ready").ok().filter(|answer| answer.status == 200));
    let pid = rustix::process::Pid::from_child(&child);
    // Each of these logs a line, until the limit of waiting lines is reached.
    eventually(PATIENCE, || {
        for _ in 0..20 {
            rustix::process::kill_process(pid, Signal::HUP).expect("a signal");
            std::thread::sleep(Duration::from_millis(1));
        }
        let metrics = Exposition::parse(get("/metrics").expect("an answer").text());
        metrics.find("natwatch_log_lines_dropped_total", &[]).filter(|dropped| *dropped > 0.0)
    });
    assert_eq!(get("/-/healthy").expect("an answer").status, 200);
    rustix::process::kill_process(pid, Signal::TERM).expect("a signal");
    let status = eventually(PATIENCE, || child.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0));
    drop(reader);
}

fn fill(pipe: &OwnedFd) {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
    let flags = fcntl_getfl(pipe).expect("flags");
    fcntl_setfl(pipe, flags | OFlags::NONBLOCK).expect("non-blocking");
    while rustix::io::write(pipe, &[b'x'; 4096]).is_ok() {}
    while rustix::io::write(pipe, b"x").is_ok() {}
    fcntl_setfl(pipe, flags).expect("blocking");
}

#[test]
fn idle_connections_give_way_to_a_scrape_and_a_probe() {
    let ns = Netns::new();
    allow_open_files(2048);
    let server = Server::start(&ns, &[]);
    let from = |host: u8| Ipv4Addr::new(127, 0, 1, host);
    let idle: Vec<TcpStream> = (0..512u16).map(|n| server.open_from(from((n / 64) as u8 + 1), "")).collect();
    let open = |text: &str| Exposition::parse(text).find("natwatch_http_connections", &[]);
    let metrics = eventually(PATIENCE, || {
        let answer = server.get("/metrics", &[]);
        assert_eq!(answer.status, 200);
        Some(answer.text().to_owned()).filter(|text| open(text).is_some_and(|open| open > 500.0))
    });
    assert!(open(&metrics).is_some_and(|open| open <= 513.0), "{:?}", open(&metrics));
    assert_eq!(server.get("/-/healthy", &[]).status, 200);
    // One peer may have 64, whatever the limit is: its first ones have been closed.
    let of_one: Vec<TcpStream> = (0..70).map(|_| server.open_from(from(1), "")).collect();
    let closed = |streams: &[TcpStream]| streams.iter().filter(|stream| is_closed(stream)).count();
    eventually(PATIENCE, || Some(closed(&of_one[..6])).filter(|closed| *closed == 6));
    eventually(PATIENCE, || Some(closed(&idle[..64])).filter(|closed| *closed == 64));
    assert_eq!(closed(&of_one[6..]), 0);
    assert!(closed(&idle[64..]) <= 4, "those who made room for the scrapes above");
}

fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("non-blocking");
    match stream.peek(&mut [0]) {
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
        Ok(_) => false,
    }
}

/// Largest resident size so far.
fn peak(server: &Server<'_>) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.daemon.pid())).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Each request has a reading of its own; responses are held for few of them.
#[test]
fn reports_that_nobody_reads_do_not_fill_the_memory() {
    let ns = Netns::new();
    load_rules(&ns);
    let server = Server::start(&ns, &[]);
    let length = server.ok("/report.json").len() as u64;
    assert!(length > 700_000, "{length}");
    let request = "GET /report.json HTTP/1.1\r\nHost: x\r\n\r\n";
    // Beyond eight unread reports from as many readings, which need a busy machine, others are refused.
    let mut held = Vec::new();
    let mut ask = |count: usize| {
        let statuses = (0..count).map(|_| {
            let mut stream = server.open(request);
            let status = status_line(&mut stream);
            held.push(stream);
            status
        });
        let (answered, refused): (Vec<_>, Vec<_>) = statuses.partition(|status| status.contains(" 200 "));
        assert!(refused.iter().all(|status| status.contains(" 503 ")), "{refused:?}");
        answered.len()
    };
    assert!(ask(10) >= 8);
    let before = peak(&server);
    ask(40);
    let growth = (peak(&server) - before) * 1024;
    assert!(growth < 10 * length, "{growth} bytes for 40 reports of {length}");
    assert_eq!(server.get("/metrics", &[]).status, 200);
}

#[test]
fn a_request_keeps_its_place_until_its_last_byte_is_sent() {
    let ns = Netns::new();
    load_rules(&ns);
    let server = Server::start(&ns, &["--web.max-requests", "1"]);
    let mut slow = eventually(PATIENCE, || {
        let mut slow = server.open("GET /report.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        status_line(&mut slow).contains("200").then_some(slow)
    });
    for _ in 0..3 {
        let refused = server.get("/metrics", &[]);
        assert_eq!(refused.status, 503);
        assert!(refused.text().contains("--web.max-requests"));
    }
    let mut rest = Vec::new();
    slow.read_to_end(&mut rest).expect("the rest");
    assert!(rest.ends_with(b"}\n") || rest.ends_with(b"}"));
    eventually(PATIENCE, || Some(server.get("/metrics", &[]).status).filter(|status| *status == 200));
}

/// All of it takes half a minute, in parallel.
#[test]
fn who_is_silent_in_a_request_is_disconnected_and_who_is_idle_is_not() {
    let ns = Netns::new();
    load_rules(&ns);
    let server = Server::start(&ns, &[]);
    let mut idle = server.open("GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut buffer = [0; 4096];
    let read = idle.read(&mut buffer).expect("an answer");
    assert!(buffer[..read].ends_with(b"healthy.\n"));
    let silent = server.open("");
    let stalled = server.open("GET /report.json HTTP/1.1\r\nHost: x\r\n\r\n");
    let halves = ["PRI", "GET /metrics HTTP/1.1\r\nHost: x\r\n"].map(|text| server.open(text));
    for mut half in halves {
        half.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout");
        let mut rest = Vec::new();
        half.read_to_end(&mut rest).expect("it is disconnected");
    }
    // Only what the kernel had buffered of the response is there.
    let ended = eventually(Duration::from_secs(120), || {
        let metrics = Exposition::parse(server.get("/metrics", &[]).text());
        // The idle one, the silent one, and the one that sends this request.
        metrics.find("natwatch_http_connections", &[]).filter(|open| *open == 3.0)
    });
    assert_eq!(ended, 3.0);
    drop(stalled);
    for mut stream in [idle, silent] {
        stream.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).expect("an answer");
        assert!(rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn a_request_has_one_host_and_answers_say_what_browsers_must_not_do() {
    let ns = Netns::new();
    let server = Server::start(&ns, &[]);
    let status = |head: &str| server.raw(&format!("{head}Connection: close\r\n\r\n")).expect("an answer").status;
    assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\nHost: b\r\n"), 400);
    assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\nhOST: a\r\n"), 400);
    assert_eq!(status("GET /metrics HTTP/1.1\r\n"), 400);
    assert_eq!(status("GET /metrics HTTP/1.0\r\n"), 200);
    assert_eq!(status("GET /metrics HTTP/1.0\r\nHost: a\r\nHost: b\r\n"), 400);
    assert_eq!(status("GET /metrics HTTP/1.1\r\nHost: a\r\n"), 200);
    let refused = server.raw("GET /metrics HTTP/1.1\r\nConnection: close\r\n\r\n").expect("an answer");
    for path in ["", "/", "/report.json", "/nothing"] {
        let answer = if path.is_empty() { refused.clone() } else { server.get(path, &[]) };
        assert!(answer.header("content-security-policy").is_some_and(|policy| policy.contains("default-src 'none'")));
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("referrer-policy"), Some("no-referrer"));
    }
}

fn with_descriptors(ns: &Netns, limit: u32) -> Server<'_> {
    let port = free_port();
    let mut command = ns.command("prlimit");
    command.args([&format!("--nofile={limit}:{limit}"), NATWATCH, "--web.listen-address"]);
    command.arg(format!("127.0.0.1:{port}")).args(HERE);
    let server = Server::from_command(ns, command, port);
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
    server
}

/// Connections do not take descriptors that a reading needs.
#[test]
fn with_few_descriptors_there_are_fewer_connections() {
    let ns = Netns::new();
    let server = with_descriptors(&ns, 64);
    // A connection to be closed is closed by the serving thread: a response shows that it has run.
    let idle: Vec<TcpStream> = (0..50)
        .map(|_| {
            let idle = server.open("");
            assert_eq!(server.get("/-/healthy", &[]).status, 200);
            idle
        })
        .collect();
    let metrics = Exposition::parse(server.get("/metrics", &[]).text());
    let state = |source: &str| metrics.one_state("natwatch_source_info", &[("source", source)]);
    for source in ["nftables", "rtnetlink", "kernel", "sysctl"] {
        assert_ne!(state(source).expect("a state"), "failed", "{source}");
    }
    assert!(!server.daemon.stderr().contains("cannot accept"));
    drop(idle);
}

/// Descriptors run out: logged once, and idle connections are closed.
#[test]
fn without_descriptors_idle_connections_are_closed() {
    let ns = Netns::new();
    let server = with_descriptors(&ns, 64);
    let used = fs::read_dir(format!("/proc/{}/fd", server.daemon.pid())).expect("descriptors").count();
    // Two more descriptors than in use.
    let limit = format!("--nofile={}", used + 2);
    let set = ns.exec(&["prlimit", &format!("--pid={}", server.daemon.pid()), &limit]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
    let idle: Vec<TcpStream> = (0..20).map(|_| server.open("")).collect();
    eventually(PATIENCE, || server.daemon.stderr().contains("cannot accept connections").then_some(()));
    for _ in 0..5 {
        assert_eq!(server.get("/-/healthy", &[]).status, 200);
    }
    drop(idle);
    let log = server.daemon.stderr();
    assert_eq!(log.matches("cannot accept connections").count(), 1, "{log}");
}

/// A file system that never responds blocks each reading, so that every client gets the part that was read.
#[test]
fn who_cannot_wait_shares_what_there_is() {
    let ns = Netns::new();
    load_rules(&ns);
    let (server, _dir) = hanging_server(&ns, "rootfs", &[]);
    let request = "GET /report.json HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 4\r\n\r\n";
    let mut first = server.open(request);
    assert!(status_line(&mut first).contains("200"));
    let before = peak(&server);
    let mut held: Vec<TcpStream> = (0..60).map(|_| server.open(request)).collect();
    for stream in &mut held {
        assert!(status_line(stream).contains("200"), "answered in time, and read no further");
    }
    let growth = (peak(&server) - before) * 1024;
    assert!(growth < 30 << 20, "{growth} bytes for 60 who could not wait");
}

/// As `nc -N` does: the client has shut down its sending side.
#[test]
fn who_has_closed_his_half_is_answered() {
    let ns = Netns::new();
    let server = Server::start(&ns, &[]);
    let mut stream = server.open("GET /metrics HTTP/1.0\r\n\r\n");
    stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    assert!(answer.starts_with(b"HTTP/1.0 200"), "{}", String::from_utf8_lossy(&answer));
}

/// The first process of a container handles SIGTERM from its start on.
#[test]
fn a_signal_at_the_start_is_not_lost() {
    let ns = Netns::new();
    for milliseconds in [30, 60, 120] {
        let mut command = ns.command("unshare");
        command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c"]);
        let wait = format!("exec {NATWATCH} --probe --web.listen-address 127.0.0.1:{}", free_port());
        // The first process of the namespace, and another one that ends it.
        command.arg(format!("(sleep 0.{milliseconds:03}; kill -TERM 1) & {wait}"));
        let mut daemon = crate::support::process::Daemon::start(command);
        let status = daemon.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "after {milliseconds} ms: {}", daemon.stderr());
    }
}
