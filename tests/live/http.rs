//! The HTTP server: endpoints, negotiation, limits, signals, logs, the page and the JSON document.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::support::exposition::Exposition;
use crate::support::http::{self, Response};
use crate::support::netns::Netns;
use crate::support::process::{Daemon, free_port};
use crate::support::program::{HERE, NATWATCH, Run, natwatch_in};
use crate::support::report::LEVELS;
use crate::support::server::{Server, hanging, hanging_server};
use crate::support::vxlan::Vxlan;
use crate::support::wait::{PATIENCE, eventually};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
/// `Accept` headers of scrapers, and the content type that each gets.
const ACCEPTS: [(&str, &str, &str); 6] = [
    (
        "Prometheus 2.42",
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
         text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        OPENMETRICS,
    ),
    (
        "Prometheus 2.53",
        "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
         text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        OPENMETRICS,
    ),
    (
        "Prometheus 3.5",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
         application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
         text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
        OPENMETRICS,
    ),
    ("VictoriaMetrics", "text/plain;version=0.0.4;q=1,*/*;q=0.1", TEXT),
    ("curl", "*/*", TEXT),
    ("a browser", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", TEXT),
];

#[test]
fn endpoints_have_their_content_types() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    let types = [
        ("/", "text/html"),
        ("/metrics", "text/plain; version=0.0.4"),
        ("/report.json", "application/json"),
        ("/-/healthy", "text/plain"),
    ];
    for (path, kind) in types {
        let response = server.get(path, &[]);
        assert_eq!(response.status, 200, "{path}");
        let found = response.header("content-type").expect("a type");
        assert!(found.starts_with(kind), "{path}: {found}");
        assert!(!response.body.is_empty(), "{path}");
        let head = server
            .raw(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))
            .map(|response| (response.status, response.body.len()));
        // The head may have the length of the body that is not sent.
        if let Ok(head) = head {
            assert_eq!(head, (200, 0), "HEAD {path}");
        }
        let post = server.raw(&format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(post.expect("an answer").status, 405, "POST {path}");
    }
    for path in ["/nothing", "/metrics/", "/metrics/x", "/-/", "/report", "//", "/%2e%2e/etc/passwd"] {
        assert_eq!(server.get(path, &[]).status, 404, "{path}");
    }
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
}

/// A browser gets pages, every other client text.
#[test]
fn runbooks_are_served_and_what_is_nowhere_says_where_to_go() {
    let ns = Netns::new();
    let server = Server::start(&ns, &[]);
    let browser = [("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    for path in ["/runbooks/NatwatchExposed", "/runbooks/"] {
        let page = server.get(path, &browser);
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        assert!(page.text().starts_with("<!DOCTYPE html>") && page.text().contains("<h1>"), "{path}");
        let text = server.get(path, &[]);
        assert_eq!((text.status, text.header("content-type")), (200, Some("text/plain; charset=utf-8")), "{path}");
        assert!(text.text().starts_with("# "), "{}", text.text());
    }
    for path in ["/nothing", "/runbooks/Nothing", "/runbooks/..%2fREADME"] {
        let page = server.get(path, &browser);
        assert_eq!(page.status, 404, "{path}");
        assert!(page.text().contains("report.json") && page.text().contains("<a href="), "{}", page.text());
        let text = server.get(path, &[]);
        assert_eq!(text.status, 404, "{path}");
        assert!(text.text().contains("/metrics /report.json /runbooks/"), "{}", text.text());
    }
}

#[test]
fn head_answers_without_a_body() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    for path in ["/", "/metrics", "/report.json", "/-/healthy"] {
        let request = format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let address = server.address();
        let answer = ns.enter(|| http::exchange(address, request.as_bytes())).expect("an answer");
        let answer = String::from_utf8(answer).expect("UTF-8");
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
        assert!(answer.ends_with("\r\n\r\n"), "{path} has a body: {answer}");
    }
}

#[test]
fn each_scraper_gets_the_format_it_asks_for() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    for (who, accept, expected) in ACCEPTS {
        let response = server.get("/metrics", &[("Accept", accept)]);
        assert_eq!(response.header("content-type"), Some(expected), "{who}");
        let openmetrics = expected == OPENMETRICS;
        assert_eq!(response.text().ends_with("# EOF\n"), openmetrics, "{who}");
        assert_eq!(response.text().contains("# TYPE natwatch_conntrack_drop_total counter"), !openmetrics, "{who}");
    }
    let json = server.get("/report.json", &[("Accept", ACCEPTS[0].1)]);
    assert_eq!(json.header("content-type"), Some("application/json"));
}

#[test]
fn gzip_is_for_those_who_ask() {
    let ns = Netns::new();
    let server = Server::start(&ns, &HERE);
    for path in ["/", "/metrics", "/report.json"] {
        for (encoding, zipped) in
            [("gzip", true), ("deflate, gzip;q=0.5", true), ("identity", false), ("gzip;q=0", false)]
        {
            let response = server.get(path, &[("Accept-Encoding", encoding)]);
            assert_eq!(response.status, 200);
            assert_eq!(response.header("content-encoding") == Some("gzip"), zipped, "{path} {encoding}");
            if zipped {
                let text = gunzip(&response.body);
                assert!(text.contains("natwatch") && text.ends_with(['\n', '>']), "{text}");
                let vary = response.header("vary").unwrap_or_default().to_ascii_lowercase();
                assert!(vary.contains("accept-encoding"), "{path}: a cache must know: {vary:?}");
            }
        }
        let plain = server.get(path, &[]);
        assert_eq!(plain.header("content-encoding"), None, "{path}");
    }
}

fn gunzip(bytes: &[u8]) -> String {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(bytes).expect("written");
    std::io::Seek::rewind(&mut file).expect("rewound");
    let output = Command::new("gzip").arg("-dc").stdin(file).output().expect("gzip");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn collectors_are_chosen_by_query() {
    let ns = Netns::new();
    let server = Server::start(&ns, &[HERE[0], HERE[1], "--no-collector.links"]);
    let families = |query: &str| Exposition::parse(&server.ok(&format!("/metrics?{query}"))).families();
    let all = families("");
    let conntrack = families("collect[]=conntrack");
    assert!(conntrack.contains("natwatch_conntrack_entries") && !conntrack.contains("natwatch_kernel_info"));
    assert!(!conntrack.contains("natwatch_exposure"));
    assert!(conntrack.contains("natwatch_build_info") && conntrack.contains("process_open_fds"));
    let two = families("collect%5B%5D=conntrack&collect%5B%5D=verdict");
    assert!(two.contains("natwatch_conntrack_entries") && two.contains("natwatch_exposure"));
    let without = families("exclude[]=conntrack");
    assert!(!without.contains("natwatch_conntrack_entries") && without.contains("natwatch_kernel_info"));
    let both: BTreeSet<String> = without.union(&conntrack).cloned().collect();
    assert_eq!(both, all);
    // Selecting output does not change verdicts.
    let only = Exposition::parse(&server.ok("/metrics?collect[]=verdict"));
    assert_eq!(only.find("natwatch_exposure", &[("advisory", "conntrack-table-full")]), Some(0.0));
    for query in ["collect[]=nonsense", "exclude[]=nonsense", "collect[]=links", "collect[]=kernel&exclude[]=netstat"] {
        let response = server.get(&format!("/metrics?{query}"), &[]);
        assert_eq!(response.status, 400, "{query}: {}", response.text());
        assert!(!response.text().contains("natwatch_"), "{query}");
    }
}

#[test]
fn the_telemetry_path_can_be_elsewhere() {
    let ns = Netns::new();
    let server = Server::start(&ns, &["--web.telemetry-path", "/natwatch/metrics"]);
    assert!(server.ok("/natwatch/metrics").contains("natwatch_build_info"));
    assert_eq!(server.get("/metrics", &[]).status, 404);
    assert!(server.ok("/").contains("href=\"./natwatch/metrics\""));
}

#[test]
fn several_addresses_are_served_and_a_taken_one_is_an_error() {
    let ns = Netns::new();
    let (first, second) = (free_port(), 19_001);
    let mut command = ns.command(NATWATCH);
    for address in [format!("127.0.0.1:{first}"), format!("127.0.0.1:{second}"), format!("[::1]:{second}")] {
        command.args(["--web.listen-address", &address]);
    }
    let server = Server::from_command(&ns, command, first);
    let more: [SocketAddr; 2] = [([127, 0, 0, 1], second).into(), (Ipv6Addr::LOCALHOST, second).into()];
    for address in more {
        // The listeners are opened one after the other.
        let response = eventually(PATIENCE, || ns.enter(|| http::try_get(address, "/-/healthy", &[])));
        assert_eq!(response.status, 200, "{address}");
    }
    for taken in [format!("127.0.0.1:{first}"), format!("[::1]:{second}")] {
        // The first of the two addresses is free: nothing is served if one of them cannot be.
        let args = ["--web.listen-address", "127.0.0.1:19002", "--web.listen-address", &taken];
        natwatch_in(&ns, &args).fails(1, &["cannot listen", &taken, "in use"]);
    }
    natwatch_in(&ns, &["--web.listen-address", "192.0.2.1:9"]).fails(1, &["192.0.2.1:9"]);
    drop(server);
}

#[test]
fn a_port_alone_means_both_families() {
    let ns = Netns::new();
    let port = free_port();
    let mut command = ns.command(NATWATCH);
    command.args(["--web.listen-address", &format!(":{port}")]);
    let server = Server::from_command(&ns, command, port);
    let six: SocketAddr = (Ipv6Addr::LOCALHOST, port).into();
    for address in [server.address(), six] {
        assert_eq!(http::get(&ns, address, "/metrics", &[]).status, 200, "{address}");
    }
    // Taken in one family only: the other must not be served silently.
    let held = ns.enter(|| TcpListener::bind(("127.0.0.1", 19_003))).expect("a listener");
    let mut other = Daemon::start({
        let mut command = ns.command(NATWATCH);
        command.args(["--web.listen-address", ":19003"]);
        command
    });
    let status = other.wait(PATIENCE);
    assert_eq!(status.code(), Some(1), "{}", other.stderr());
    drop(held);
}

#[test]
fn a_machine_without_ipv6_is_served_over_ipv4() {
    let ns = Netns::new();
    ns.sysctl("net.ipv6.conf.all.disable_ipv6", 1);
    let port = free_port();
    let mut command = ns.command(NATWATCH);
    command.args(["--web.listen-address", &format!(":{port}")]);
    let server = Server::from_command(&ns, command, port);
    assert!(server.ok("/metrics").contains("natwatch_build_info"));
}

/// The scraper's timeout is kept: what was read is there, the rest failed.
fn check_in_time(server: &Server<'_>) -> Exposition {
    for _ in 0..2 {
        let start = Instant::now();
        let response = server.get("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "3")]);
        assert_eq!(response.status, 200);
        assert!(start.elapsed() < Duration::from_secs(3), "too late: {:?}", start.elapsed());
        let metrics = Exposition::parse(response.text());
        assert_eq!(metrics.find("natwatch_source_info", &[("source", "kernel"), ("state", "failed")]), Some(1.0));
        assert_eq!(metrics.find("natwatch_scrape_collector_success", &[("collector", "kernel")]), Some(0.0));
        assert_eq!(server.get("/-/healthy", &[]).status, 200);
    }
    let response = server.get("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "0.2")]);
    Exposition::parse(response.text())
}

#[test]
fn a_root_file_system_that_hangs_costs_what_needs_it() {
    let ns = Netns::new();
    let (mut server, _dir) = hanging_server(&ns, "rootfs", &[]);
    assert_eq!(server.get("/-/ready", &[]).status, 503, "the first look has not ended");
    let metrics = check_in_time(&server);
    assert_eq!(metrics.find("natwatch_scrape_collector_success", &[("collector", "conntrack")]), Some(1.0));
    assert!(metrics.find("natwatch_conntrack_entries", &[]).is_some());
    assert_eq!(metrics.find("natwatch_exposure", &[("advisory", "conntrack-table-full")]), Some(0.0));
    // It is not ready, and logs the reason once; as a restart would not help, it is healthy.
    let stuck = eventually(PATIENCE, || {
        let answer = server.get("/-/ready", &[]);
        assert_eq!(answer.status, 503);
        Some(answer.text().to_owned()).filter(|text| text.contains("stuck"))
    });
    assert!(stuck.contains("no answer to rootfs/etc/os-release"), "{stuck}");
    check_in_time(&server);
    assert_eq!((server.get("/-/ready", &[]).status, server.get("/-/healthy", &[]).status), (503, 200));
    let log = server.daemon.wait_stderr("the kernel does not answer");
    assert_eq!(log.matches("the kernel does not answer").count(), 1, "{log}");
    server.daemon.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0), "a look that hangs keeps nobody from stopping");
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_procfs_that_hangs_is_answered_in_time() {
    let ns = Netns::new();
    let (mut server, _dir) = hanging_server(&ns, "procfs", &[]);
    assert_eq!(server.get("/-/healthy", &[]).status, 200);
    let metrics = check_in_time(&server);
    assert_eq!(metrics.find("natwatch_conntrack_entries", &[]), None);
    server.daemon.signal(Signal::TERM);
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
}

#[test]
fn a_sysfs_that_hangs_is_answered_in_time() {
    let ns = Netns::new();
    let (mut server, _dir) = hanging_server(&ns, "sysfs", &[]);
    assert_eq!(server.get("/-/healthy", &[]).status, 200);
    check_in_time(&server);
    server.daemon.signal(Signal::TERM);
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
}

/// `check` stops after its 20 s and reports what was read.
#[test]
fn check_does_not_wait_for_ever() {
    let ns = Netns::new();
    let flags = [&["check", "--format", "json"], &HERE[..]].concat();
    let (command, _dir) = hanging(&ns, "rootfs", &flags);
    let mut check = Daemon::start(command);
    let status = check.wait(Duration::from_secs(60));
    assert!(matches!(status.code(), Some(0 | 3)), "{}", check.stderr());
    let report: Value = serde_json::from_str(&check.stdout()).expect("JSON");
    let sources = report["sources"].as_array().expect("a list");
    let kernel = sources.iter().find(|source| source["name"] == "kernel").expect("the source");
    assert_eq!(kernel["state"], "failed", "{kernel}");
    assert!(report["conntrack"]["entries"].is_u64());
}

#[test]
fn check_does_not_wait_for_ever_for_procfs() {
    let ns = Netns::new();
    let flags = [&["check", "--format", "json"], &HERE[..]].concat();
    let (command, _dir) = hanging(&ns, "procfs", &flags);
    let mut check = Daemon::start(command);
    assert_eq!(check.wait(Duration::from_secs(60)).code(), Some(3), "{}", check.stderr());
}

/// One request more than allowed is refused at once; probes are not counted; the place is free afterwards.
#[test]
fn too_many_requests_are_refused() {
    let ns = Netns::new();
    let (mut server, _dir) = hanging_server(&ns, "rootfs", &["--web.max-requests", "1"]);
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Prometheus-Scrape-Timeout-Seconds: 4\r\n\
                   Connection: close\r\n\r\n";
    let mut first = server.open(request);
    let refused = eventually(PATIENCE, || {
        let response = server.get("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", "0.01")]);
        if response.status == 503 {
            return Some(response);
        }
        // The short request was quicker and the long one was refused: once more.
        first.set_nonblocking(true).expect("non-blocking");
        if first.peek(&mut [0]).is_ok() {
            first = server.open(request);
        }
        first.set_nonblocking(false).expect("blocking");
        None
    });
    assert!(refused.text().contains("--web.max-requests"), "{}", refused.text());
    assert_eq!(server.get("/-/healthy", &[]).status, 200);
    // In flight when natwatch is stopped: it is finished.
    server.daemon.signal(Signal::TERM);
    let answer = read_all(&mut first);
    assert_eq!(answer.status, 200);
    assert!(answer.text().contains("natwatch_build_info"));
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
}

fn read_all(stream: &mut TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("an answer");
    http::parse(&bytes).expect("a response")
}

#[test]
fn slow_clients_block_nobody() {
    let ns = Netns::new();
    let mut server = Server::start(&ns, &["--web.max-requests", "2"]);
    let slow: Vec<TcpStream> = (0..20).map(|_| server.open("GET /metrics HTTP/1.1\r\nHost: x\r\nX-Sl")).collect();
    for path in ["/metrics", "/", "/report.json", "/-/healthy"] {
        assert_eq!(server.get(path, &[]).status, 200, "{path}");
    }
    for mut stream in slow {
        stream.write_all(b"ow: 1\r\nConnection: close\r\n\r\n").expect("sent");
        assert_eq!(read_all(&mut stream).status, 200, "a slow request is a request");
    }
    // Neither they nor idle ones keep it from stopping.
    let idle = server.open("GET /-/healthy HTTP/1.1\r\nHost: x\r\n\r\n");
    let half = server.open("GET /metrics HTTP/1.1\r\nHo");
    server.daemon.signal(Signal::TERM);
    let start = Instant::now();
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    drop((idle, half));
}

#[test]
fn malformed_requests_are_refused_and_harm_nothing() {
    let ns = Netns::new();
    let server = Server::start(&ns, &[]);
    let long = "x".repeat(1 << 20);
    let requests = [
        "nonsense\r\n\r\n".to_owned(),
        "GET\r\n\r\n".to_owned(),
        "GET /metrics HTTP/9.9\r\n\r\n".to_owned(),
        "GET /metrics HTTP/1.1\r\nno colon\r\n\r\n".to_owned(),
        "\x16\x03\x01\x02\0\x01\0\x01\r\n\r\n".to_owned(),
        "\0\0\0\0\r\n\r\n".to_owned(),
        "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: nonsense\r\n\r\n".to_owned(),
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\nX: {long}\r\nConnection: close\r\n\r\n"),
        format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(10_000)),
    ];
    for request in &requests {
        match server.raw(request) {
            Ok(response) => assert!((400..500).contains(&response.status), "{:?}", &request[..20.min(request.len())]),
            // Closed without a response, or while the request was still being sent.
            Err(error) => assert_ne!(error.kind(), ErrorKind::WouldBlock, "{:?}", &request[..20.min(request.len())]),
        }
        assert_eq!(server.get("/-/healthy", &[]).status, 200);
    }
    for nonsense in ["-1", "0", "nan", "inf", "1e400", "x", ""] {
        let response = server.get("/metrics", &[("X-Prometheus-Scrape-Timeout-Seconds", nonsense)]);
        assert_eq!(response.status, 200, "{nonsense:?}");
    }
}

#[test]
fn signals_end_it_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let ns = Netns::new();
        let mut server = Server::start(&ns, &[]);
        server.ok("/metrics");
        server.daemon.signal(signal);
        assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0), "{signal:?}");
        assert_eq!(server.daemon.stdout(), "", "stdout is for reports");
        assert!(server.daemon.stderr().contains("shutting down"));
    }
}

#[test]
fn logs_are_logfmt_or_json_line_by_line() {
    let ns = Netns::new();
    let mut server = Server::start(&ns, &[]);
    server.daemon.wait_stderr("vmxnet3-tunnel-offload");
    server.daemon.signal(Signal::TERM);
    server.daemon.wait(PATIENCE);
    let text = server.daemon.stderr();
    for line in text.lines() {
        let pairs = logfmt(line).unwrap_or_else(|| panic!("no logfmt: {line}"));
        for key in ["ts", "level"] {
            assert!(pairs.iter().any(|(found, _)| found == key), "no {key}: {line}");
        }
        assert!(!line.contains('\x1b'), "{line:?}");
    }
    assert!(text.lines().count() > 5, "{text}");

    let mut server = Server::start(&ns, &["--log.format", "json"]);
    server.daemon.wait_stderr("vmxnet3-tunnel-offload");
    server.daemon.signal(Signal::TERM);
    server.daemon.wait(PATIENCE);
    for line in server.daemon.stderr().lines() {
        let entry: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(entry["level"].is_string() && entry["timestamp"].is_string() && entry["message"].is_string(), "{line}");
    }

    let mut server = Server::start(&ns, &["--log.level", "error"]);
    eventually(PATIENCE, || (server.get("/-/ready", &[]).status == 200).then_some(()));
    server.daemon.signal(Signal::TERM);
    assert_eq!(server.daemon.wait(PATIENCE).code(), Some(0));
    assert_eq!(server.daemon.stderr(), "");
}

/// `key=value` pairs; a value with blanks or quotes is quoted, with backslashes before quotes.
fn logfmt(line: &str) -> Option<Vec<(String, String)>> {
    let (mut pairs, mut rest) = (Vec::new(), line);
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        if key.is_empty() || key.contains([' ', '"']) {
            return None;
        }
        let end = match after.strip_prefix('"') {
            None => after.find(' ').unwrap_or(after.len()),
            Some(quoted) => {
                let mut escaped = false;
                1 + quoted.find(|c| {
                    let end = c == '"' && !escaped;
                    escaped = c == '\\' && !escaped;
                    end
                })? + 1
            }
        };
        let value = &after[..end];
        if !value.starts_with('"') && value.contains('"') {
            return None;
        }
        pairs.push((key.to_owned(), value.to_owned()));
        rest = match &after[end..] {
            "" => "",
            more => more.strip_prefix(' ')?,
        };
    }
    Some(pairs)
}

/// Balanced HTML, no script, nothing from other hosts, whatever the names of host and devices.
#[test]
fn the_page_is_html_and_escapes_what_it_shows() {
    let checker = r#"
import sys
from html.parser import HTMLParser
VOID = {"meta", "br", "hr", "img", "link", "input"}
class Checker(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.stack, self.text = [], []
    def handle_starttag(self, tag, attributes):
        assert tag in {"html","head","body","meta","title","style","h1","h2","h3","p","span","section","strong","br",
                       "ul","li","div","table","thead","tbody","tr","th","td","a","pre","code","nav","dl","dt","dd",
                       "details","summary","time"}, f"<{tag}>"
        for name, value in attributes:
            assert name in {"lang","charset","name","content","class","href","id","scope","aria-label","data-label"}, f"{tag} {name}={value}"
            if name == "href":
                assert value.startswith(('#', './', 'https://')), value
        if tag not in VOID:
            self.stack.append(tag)
    def handle_endtag(self, tag):
        assert self.stack and self.stack[-1] == tag, f"</{tag}> in {self.stack}"
        self.stack.pop()
    def handle_data(self, data):
        self.text.append(data)
text = sys.stdin.read()
assert text.lower().startswith("<!doctype html>")
checker = Checker()
checker.feed(text)
checker.close()
assert not checker.stack, checker.stack
for bad in ("<script", "@import", "url(", "javascript:", "onerror=\""):
    assert bad not in text.lower(), bad
sys.stdout.write("".join(checker.text))
"#;
    let pair = Vxlan::default().build();
    let ns = &pair.nodes[0];
    let evil = "<b>&\"'x";
    ns.run(&["ip", "link", "set", "flannel.1", "down"]);
    ns.run(&["ip", "link", "set", "flannel.1", "name", evil]);
    ns.run(&["ip", "link", "set", evil, "up"]);
    let port = free_port();
    let host = "<script>alert(1)</script>&\"";
    let mut command = ns.command("unshare");
    command.args(["--uts", "sh", "-c", "printf %s \"$0\" > /proc/sys/kernel/hostname && exec \"$@\"", host, NATWATCH]);
    command.args(["--web.listen-address", &format!("127.0.0.1:{port}")]).args(HERE);
    let server = Server::from_command(ns, command, port);
    let page = server.ok("/");
    let mut python = Command::new("/usr/bin/python3")
        .args(["-c", checker])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python3");
    python.stdin.take().expect("stdin").write_all(page.as_bytes()).expect("written");
    let output = python.wait_with_output().expect("python3");
    assert!(output.status.success(), "{}\n{page}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(shown.contains(host) && shown.contains(evil), "{shown}");
    // The same names in JSON and metrics.
    let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
    assert_eq!(report["node"]["hostname"], host);
    assert_eq!(report["tunnels"][0]["device"], evil);
    let metrics = Exposition::parse(&server.ok("/metrics"));
    assert_eq!(metrics.find("natwatch_tunnel_info", &[("device", evil)]), Some(1.0));
}

/// Object keys with the check of each value.
type Shape<'a> = &'a [(&'a str, &'a dyn Fn(&Value) -> bool)];

#[track_caller]
fn shape(value: &Value, fields: Shape<'_>) {
    let object = value.as_object().unwrap_or_else(|| panic!("no object: {value}"));
    let (found, expected): (BTreeSet<&str>, BTreeSet<&str>) =
        (object.keys().map(String::as_str).collect(), fields.iter().map(|(name, _)| *name).collect());
    assert!(found.is_superset(&expected), "missing: {:?}", expected.difference(&found));
    for (name, check) in fields {
        assert!(check(&value[name]), "{name}: {}", value[name]);
    }
}

/// Section 5 of the contract, field by field.
#[test]
fn the_json_report_has_the_shape_of_the_contract() {
    let pair = Vxlan::default().build();
    pair.nodes[0].cmd(
        "iptables-nft -w -t nat -A POSTROUTING -p udp -m mark ! --mark 0x4000/0xff00 -j MASQUERADE --to-ports 1024-2047",
    );
    let server = Server::start(&pair.nodes[0], &HERE);
    let report: Value = serde_json::from_str(&server.ok("/report.json")).expect("JSON");
    let text = |value: &Value| value.as_str().is_some_and(|text| !text.is_empty());
    let any_text = |value: &Value| value.is_string();
    let number = |value: &Value| value.is_u64();
    let flag = |value: &Value| value.is_boolean();
    let texts = |value: &Value| value.as_array().is_some_and(|list| list.iter().all(Value::is_string));
    let list = |value: &Value| value.is_array();
    let object = |value: &Value| value.is_object();
    let one_of =
        |names: &'static [&'static str]| move |value: &Value| value.as_str().is_some_and(|v| names.contains(&v));
    let state = one_of(&["exposed", "mitigated", "not_affected", "unknown"]);
    shape(
        &report,
        &[
            ("schema_version", &|value| *value == 1),
            ("natwatch_version", &|value| *value == env!("CARGO_PKG_VERSION")),
            ("verdict", &state),
            ("node", &object),
            ("advisories", &list),
            ("kernel", &object),
            ("tunnels", &list),
            ("source_nat_rules", &list),
            ("source_nat_rules_omitted", &|value| *value == 0),
            ("conntrack", &object),
            ("sources", &list),
        ],
    );
    let time = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        let form: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        form == "0000-00-00T00:00:00Z"
    };
    shape(
        &report["node"],
        &[
            ("hostname", &text),
            ("kernel_release", &text),
            ("distro", &text),
            ("network_namespace", &one_of(&["initial", "other", "unknown"])),
            ("captured_at", &time),
        ],
    );
    for advisory in report["advisories"].as_array().expect("a list") {
        shape(
            advisory,
            &[
                ("id", &text),
                ("title", &text),
                ("severity", &one_of(&["info", "warning", "critical"])),
                ("state", &state),
                ("summary", &text),
                ("conditions", &list),
                ("evidence", &texts),
                ("remedies", &list),
                ("references", &texts),
            ],
        );
        for condition in advisory["conditions"].as_array().expect("a list") {
            shape(
                condition,
                &[
                    ("id", &text),
                    ("kind", &one_of(&["ingredient", "safeguard"])),
                    ("state", &one_of(&["holds", "fails", "unknown"])),
                    ("detail", &text),
                ],
            );
            assert!(!condition["detail"].as_str().expect("text").contains('\n'), "one line: {condition}");
        }
        for remedy in advisory["remedies"].as_array().expect("a list") {
            shape(
                remedy,
                &[("text", &text), ("command", &|v| v.is_null() || v.is_string()), ("survives_reboot", &flag)],
            );
        }
    }
    shape(&report["kernel"], &[("release", &text), ("defects", &list)]);
    for defect in report["kernel"]["defects"].as_array().expect("a list") {
        let basis = one_of(&["operator", "probe", "build_date", "vendor_table", "upstream_version", "none"]);
        shape(defect, &[("id", &text), ("state", &one_of(&["present", "absent", "unknown"])), ("basis", &basis)]);
        assert_eq!(defect["state"] == "unknown", defect["basis"] == "none", "{defect}");
    }
    assert_eq!(report["source_nat_rules"].as_array().map(Vec::len), Some(1));
    shape(
        &report["source_nat_rules"][0],
        &[
            ("backend", &|value| *value == "iptables_nft"),
            ("family", &|value| *value == "ipv4"),
            ("table", &|value| *value == "nat"),
            ("chain", &|value| *value == "POSTROUTING"),
            ("position", &|value| *value == 1),
            ("owner", &|value| *value == "other"),
            ("action", &|value| *value == "masquerade"),
            ("port_randomization", &|value| *value == "none"),
            ("to_ports", &|value| *value == "1024-2047"),
            ("mark", &|value| *value == serde_json::json!([{"value": "0x4000", "mask": "0xff00", "inverted": true}])),
            ("packets", &number),
            ("bytes", &number),
        ],
    );
    assert_eq!(report["tunnels"].as_array().map(Vec::len), Some(1));
    shape(
        &report["tunnels"][0],
        &[
            ("device", &|value| *value == "flannel.1"),
            ("kind", &|value| *value == "vxlan"),
            ("id", &|value| *value == 1),
            ("port", &|value| *value == 8472),
            ("underlay", &|value| *value == "eth0"),
            ("up", &|value| *value == true),
            ("udp_checksum", &|value| *value == "on"),
            ("tx_checksum_offload", &one_of(&["on", "off"])),
        ],
    );
    shape(
        &report["conntrack"],
        &[("entries", &number), ("entries_limit", &number), ("buckets", &number), ("counters", &object)],
    );
    let counters = &report["conntrack"]["counters"];
    shape(counters, &[("insert_failed", &number), ("drop", &number), ("found", &number), ("invalid", &number)]);
    assert!(counters.as_object().expect("an object").values().all(Value::is_u64), "{counters}");
    for source in report["sources"].as_array().expect("a list") {
        let names = one_of(&[
            "proc_conntrack",
            "ctnetlink",
            "nftables",
            "xtables_ipv4",
            "xtables_ipv6",
            "ipset",
            "rtnetlink",
            "routing",
            "ethtool",
            "kernel",
            "sysctl",
            "netstat",
            "datapath",
            "ctnetlink_entries",
            "neighbours",
        ]);
        shape(
            source,
            &[("name", &names), ("state", &one_of(&["ok", "absent", "denied", "failed"])), ("detail", &any_text)],
        );
        assert_eq!(source["state"], "ok", "{source}");
    }
    // The same document from `check`.
    let args = [&["check", "--format", "json"], &HERE[..]].concat();
    let checked = natwatch_in(&pair.nodes[0], &args);
    let checked: Value = serde_json::from_str(&checked.stdout).expect("JSON");
    assert_eq!(still(checked), still(report));
}

/// The document without what changes by itself.
fn still(mut report: Value) -> Value {
    report["node"]["captured_at"].take();
    report["conntrack"]["counters"].take();
    report["conntrack"]["entries"].take();
    report["flows"].take();
    // Whether they are needed depends on whether there are any.
    report["sources"].as_array_mut().expect("a list").retain(|source| source["name"] != "ctnetlink_entries");
    for rule in report["source_nat_rules"].as_array_mut().expect("a list") {
        rule["packets"].take();
        rule["bytes"].take();
    }
    for advisory in report["advisories"].as_array_mut().expect("a list") {
        advisory["evidence"].take();
        advisory["summary"].take();
        // The table may be empty in one reading and not in the other.
        let moves = LEVELS.iter().any(|id| advisory["id"] == *id);
        if moves {
            advisory["state"].take();
        }
        for condition in advisory["conditions"].as_array_mut().expect("a list") {
            condition["detail"].take();
            if moves {
                condition["state"].take();
            }
        }
    }
    report
}

/// On a terminal it prints its URL.
#[test]
fn a_terminal_is_told_the_address() {
    let ns = Netns::new();
    let port = free_port();
    let line = format!("timeout --foreground -s TERM 20 {NATWATCH} --web.listen-address 127.0.0.1:{port}");
    let script = format!(
        "script -qec '{line}' /dev/null > \"$0\" & \
         until grep -q 'try: natwatch check' \"$0\"; do kill -0 $! || exit 9; done; kill $!; wait"
    );
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut command = ns.command("bash");
    command.args(["-c", &script]).arg(file.path());
    let run = Run::of(&mut command);
    let text = std::fs::read_to_string(file.path()).expect("the output");
    assert!(text.contains(&format!("http://127.0.0.1:{port}/")), "{run:?} {text}");
}
