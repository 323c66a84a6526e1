//! `--web.config.file` and `--web.systemd-socket`: TLS and authentication.

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::exposition::Exposition;
use crate::support::netns::Netns;
use crate::support::process::free_port;
use crate::support::program::{NATWATCH, natwatch};
use crate::support::prometheus::Prometheus;
use crate::support::server::Server;
use crate::support::tools::require;
use crate::support::wait::{PATIENCE, eventually};

const PASSWORD: &str = "correct horse";

/// A directory with a web configuration, certificates, keys, and the authority that signed them.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().expect("a directory") };
        files.authority("");
        files
    }

    /// An authority, a server's and a client's certificate; their names begin with `prefix`.
    fn authority(&self, prefix: &str) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, format!("{prefix}authority"));
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        self.write(&format!("{prefix}ca.crt"), &ca.pem());
        let purposes = [("node", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)];
        for (name, purpose) in purposes {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).expect("parameters");
            params.extended_key_usages = vec![purpose];
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            let certificate = params.signed_by(&key, &ca).expect("signed");
            self.write(&format!("{prefix}{name}.crt"), &certificate.pem());
            self.write(&format!("{prefix}{name}.key"), &key.serialize_pem());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }

    /// Replaced by a rename: a reader sees the old file or the new one.
    fn write(&self, name: &str, text: &str) {
        let new = self.path(&format!("{name}.new"));
        fs::write(&new, text).and_then(|()| fs::rename(&new, self.path(name))).expect("written");
    }

    fn config(&self, text: &str) -> String {
        self.write("web.yml", text);
        self.text("web.yml")
    }
}

fn users() -> String {
    format!("basic_auth_users:\n  prometheus: {}\n", bcrypt::hash(PASSWORD, 5).expect("a hash"))
}

const TLS: &str = "tls_server_config:\n  cert_file: node.crt\n  key_file: node.key\n";

/// The response that curl gets: status (0: no connection) and body.
fn curl(ns: &Netns, url: &str, more: &[&str]) -> (u16, String) {
    require("curl");
    let output = ns.exec(&[&["curl", "-sS", "-m", "20", "-w", "\n%{http_code}", url], more].concat());
    println!("{url} {more:?}: {}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').expect("a status");
    (code.parse().expect("a number"), body.to_owned())
}

/// Health of the only target of a real Prometheus with this scrape configuration, after its first attempt.
fn scraped(ns: &Netns, port: u16, more: &str) -> (String, String) {
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: natwatch\n  \
         static_configs: [{{targets: ['127.0.0.1:{port}']}}]\n{more}"
    );
    let prometheus = Prometheus::with_config(ns, &text, "");
    eventually(PATIENCE, || {
        let targets = prometheus.api("/api/v1/targets");
        let target = &targets["activeTargets"][0];
        match (target["health"].as_str(), target["lastError"].as_str()) {
            (Some(health @ ("up" | "down")), Some(error)) => Ok((health.to_owned(), error.to_owned())),
            _ => Err(format!("not scraped yet: {targets}")),
        }
    })
}

#[test]
fn prometheus_scrapes_over_tls_with_a_password_and_only_so() {
    let (ns, files) = (Netns::new(), Files::new());
    let config = files.config(&format!("{TLS}{}", users()));
    let server = Server::start(&ns, &["--web.config.file", &config]);
    let tls = format!("  scheme: https\n  tls_config: {{ca_file: {}}}\n", files.text("ca.crt"));
    let auth = |password: &str| format!("  basic_auth: {{username: prometheus, password: '{password}'}}\n");
    let scrape = |more: &str| scraped(&ns, server.port, more);
    assert_eq!(scrape(&format!("{tls}{}", auth(PASSWORD))), ("up".into(), String::new()));
    for (more, words) in [
        (String::new(), "HTTP status 400|EOF|malformed|reset"),
        (tls.clone(), "401"),
        (format!("{tls}{}", auth("wrong")), "401"),
        (format!("  scheme: https\n{}", auth(PASSWORD)), "certificate"),
    ] {
        let (health, error) = scrape(&more);
        assert_eq!(health, "down", "{more}");
        assert!(words.split('|').any(|word| error.contains(word)), "{more}: {error}");
    }
    server.stop();
}

#[test]
fn clients_show_certificates_by_client_auth_type() {
    let (ns, files) = (Netns::new(), Files::new());
    files.authority("other-");
    // Without a certificate, with one of ours, with one of another authority.
    for (kind, expected) in [
        ("NoClientCert", [true, true, true]),
        ("RequestClientCert", [true, true, true]),
        ("RequireAnyClientCert", [false, true, true]),
        ("VerifyClientCertIfGiven", [true, true, false]),
        ("RequireAndVerifyClientCert", [false, true, false]),
    ] {
        let ca = if kind.contains("Verify") { "  client_ca_file: ca.crt\n" } else { "" };
        let config = files.config(&format!("{TLS}{ca}  client_auth_type: {kind}\n"));
        let server = Server::start(&ns, &["--web.config.file", &config]);
        let url = format!("https://127.0.0.1:{}/-/healthy", server.port);
        let authority = files.text("ca.crt");
        let with = |prefix: &str| {
            let (certificate, key) =
                (files.text(&format!("{prefix}client.crt")), files.text(&format!("{prefix}client.key")));
            curl(&ns, &url, &["--cacert", &authority, "--cert", &certificate, "--key", &key]).0 == 200
        };
        let without = curl(&ns, &url, &["--cacert", &authority]).0 == 200;
        assert_eq!([without, with(""), with("other-")], expected, "{kind}");
        server.stop();
    }
}

#[test]
fn versions_below_1_2_are_refused_and_the_rest_is_as_configured() {
    let (ns, files) = (Netns::new(), Files::new());
    let ask = |port: u16, version: &str| {
        let authority = files.text("ca.crt");
        let flags = ["--cacert", &authority, "--ciphers", "DEFAULT@SECLEVEL=0", version, "--tls-max", &version[6..]];
        curl(&ns, &format!("https://127.0.0.1:{port}/-/healthy"), &flags).0 == 200
    };
    for (more, served) in [
        ("", ["--tlsv1.2", "--tlsv1.3"].as_slice()),
        ("  min_version: TLS13\n", &["--tlsv1.3"]),
        ("  max_version: TLS12\n", &["--tlsv1.2"]),
        (
            "  cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n  curve_preferences: [X25519]\n",
            &["--tlsv1.2", "--tlsv1.3"],
        ),
    ] {
        let config = files.config(&format!("{TLS}{more}"));
        let server = Server::start(&ns, &["--web.config.file", &config]);
        for version in ["--tlsv1.0", "--tlsv1.1", "--tlsv1.2", "--tlsv1.3"] {
            assert_eq!(ask(server.port, version), served.contains(&version), "{more}: {version}");
        }
        server.stop();
    }
}

#[test]
fn passwords_guard_reports_but_no_probes_and_headers_are_set() {
    let (ns, files) = (Netns::new(), Files::new());
    let config = files.config(&format!(
        "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    Content-Security-Policy: default-src 'self'\n{}",
        users()
    ));
    let server = Server::start(&ns, &["--web.config.file", &config]);
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", server.port);
    for path in ["/", "/metrics", "/report.json"] {
        let ask = |more: &[&str]| curl(&ns, &url(path), more).0;
        assert_eq!(ask(&[]), 401, "{path}");
        assert_eq!(ask(&["-u", "prometheus:wrong"]), 401, "{path}");
        assert_eq!(ask(&["-u", "nobody:"]), 401, "{path}");
        assert_eq!(ask(&["-u", &format!("nobody:{PASSWORD}")]), 401, "{path}");
        assert_eq!(ask(&["-u", &format!("prometheus:{PASSWORD}")]), 200, "{path}");
        assert_eq!(ask(&["-H", "Authorization: Basic !!!"]), 401, "{path}");
        assert_eq!(ask(&["-H", "Authorization: Bearer x"]), 401, "{path}");
    }
    let (code, body) = curl(&ns, &url("/metrics"), &["-i"]);
    let head = body.to_ascii_lowercase();
    assert_eq!(code, 401);
    assert!(head.contains("www-authenticate: basic realm=\"natwatch\""), "{body}");
    for path in ["/-/healthy", "/-/ready"] {
        let (code, body) = curl(&ns, &url(path), &["-i"]);
        assert!(code == 200 || path == "/-/ready", "{path}: {code}");
        let head = body.to_ascii_lowercase();
        assert!(head.contains("x-frame-options: deny"), "{body}");
        assert!(head.contains("content-security-policy: default-src 'self'"), "{body}");
    }
    server.stop();
}

/// Verifying a hash is slow on purpose; it delays no other client, and a password is verified once.
#[test]
fn slow_hashes_hold_nobody_up() {
    let (ns, files) = (Netns::new(), Files::new());
    let hash = bcrypt::hash(PASSWORD, 12).expect("a hash");
    let config = files.config(&format!("basic_auth_users:\n  prometheus: {hash}\n"));
    let server = Server::start(&ns, &["--web.config.file", &config]);
    let url = format!("http://127.0.0.1:{}/metrics", server.port);
    let right = format!("prometheus:{PASSWORD}");
    assert_eq!(curl(&ns, &url, &["-u", &right]).0, 200);
    std::thread::scope(|scope| {
        let guesses: Vec<_> = (0..8)
            .map(|guess| {
                let (ns, url) = (&ns, &url);
                scope.spawn(move || curl(ns, url, &["-u", &format!("prometheus:{guess}")]).0)
            })
            .collect();
        assert_eq!(curl(&ns, &url, &["-u", &right]).0, 200, "it is remembered");
        assert_eq!(curl(&ns, &format!("http://127.0.0.1:{}/-/healthy", server.port), &[]).0, 200);
        let refused = guesses.into_iter().map(|guess| guess.join().expect("curl ran"));
        assert!(refused.into_iter().all(|code| code == 401 || code == 503));
    });
    server.stop();
}

/// A client that guesses passwords waits for itself only; a new scraper is let in nevertheless.
#[test]
fn guesses_lock_nobody_out() {
    let (ns, files) = (Netns::new(), Files::new());
    let mut users = String::from("basic_auth_users:\n");
    for number in 0..10 {
        let hash = bcrypt::hash(format!("{PASSWORD}{number}"), 5).expect("a hash");
        users.push_str(&format!("  scraper{number}: {hash}\n"));
    }
    let config = files.config(&users);
    let server = Server::start(&ns, &["--web.config.file", &config]);
    let url = format!("http://127.0.0.1:{}/metrics", server.port);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for guesser in 0..60u8 {
            let (server, over) = (&server, &over);
            scope.spawn(move || {
                let from = Ipv4Addr::new(127, 0, 2, 1 + guesser % 6);
                while !over.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = guess(server, from);
                }
            });
        }
        for number in 0..10 {
            let who = format!("scraper{number}:{PASSWORD}{number}");
            assert_eq!(curl(&ns, &url, &["-u", &who]).0, 200, "{who}");
            let from_a_guesser = ["-u", &who, "--interface", "127.0.2.1"];
            assert_eq!(curl(&ns, &url, &from_a_guesser).0, 200, "it is remembered, wherever it comes from");
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    server.stop();
}

/// One wrong password, from this address.
fn guess(server: &Server<'_>, from: Ipv4Addr) -> std::io::Result<usize> {
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
                   Authorization: Basic c2NyYXBlcjA6d3Jvbmc=\r\n\r\n";
    server.try_open_from(from, request)?.read_to_end(&mut Vec::new())
}

/// SIGHUP re-reads the file at once and logs that, even if nothing has changed; without a file it does nothing.
#[test]
fn a_hangup_has_the_file_read_again() {
    let (ns, files) = (Netns::new(), Files::new());
    let config = files.config(&users());
    let mut server = Server::start(&ns, &["--web.config.file", &config]);
    server.daemon.signal(Signal::HUP);
    server.daemon.wait_stderr("web configuration re-read");
    let mut plain = Server::start(&ns, &[]);
    plain.daemon.signal(Signal::HUP);
    assert_eq!(plain.get("/-/healthy", &[]).status, 200, "there is nothing to read, and it goes on");
    server.stop();
    plain.stop();
}

fn in_force(ns: &Netns, port: u16) -> Option<f64> {
    let (_, body) = curl(ns, &format!("http://127.0.0.1:{port}/metrics"), &["-u", &format!("prometheus:{PASSWORD}")]);
    Exposition::parse(&body).get("natwatch_web_config_last_reload_successful", &[])
}

#[test]
fn a_changed_file_is_taken_over_and_a_bad_one_is_not() {
    let (ns, files) = (Netns::new(), Files::new());
    let config = files.config(&users());
    let mut server = Server::start(&ns, &["--web.config.file", &config]);
    let url = format!("http://127.0.0.1:{}/report.json", server.port);
    let code = |who: &str| curl(&ns, &url, &["-u", who]).0;
    let old = format!("prometheus:{PASSWORD}");
    assert_eq!((code(&old), in_force(&ns, server.port)), (200, Some(1.0)));
    files.config("basic_auth_users:\n  prometheus: not-a-hash\n");
    server.daemon.wait_stderr("the old one stays in force");
    assert_eq!((code(&old), in_force(&ns, server.port)), (200, Some(0.0)));
    assert!(server.daemon.stderr().contains("line 2"), "{}", server.daemon.stderr());
    files.config(TLS);
    server.daemon.wait_stderr("without a restart");
    assert_eq!(code(&old), 200);
    // A file that is being written.
    files.config("");
    server.daemon.wait_stderr("no users any more");
    assert_eq!((code(&old), curl(&ns, &url, &[]).0, in_force(&ns, server.port)), (200, 401, Some(0.0)));
    let new = bcrypt::hash("another", 5).expect("a hash");
    files.config(&format!("basic_auth_users:\n  prometheus: {new}\n"));
    server.daemon.wait_stderr("re-read");
    assert_eq!((code(&old), code("prometheus:another")), (401, 200), "what was remembered is forgotten");
    server.stop();
}

#[test]
fn a_renewed_certificate_is_served() {
    let (ns, files) = (Netns::new(), Files::new());
    let config = files.config(TLS);
    let mut server = Server::start(&ns, &["--web.config.file", &config]);
    let url = format!("https://127.0.0.1:{}/-/healthy", server.port);
    let old = fs::read_to_string(files.path("ca.crt")).expect("a certificate");
    files.write("old-ca.crt", &old);
    let trusted = |authority: &str| curl(&ns, &url, &["--cacert", &files.text(authority)]).0 == 200;
    assert!(trusted("old-ca.crt"));
    files.authority("");
    eventually(PATIENCE, || {
        if trusted("ca.crt") && !trusted("old-ca.crt") { Ok(()) } else { Err("the old one is served") }
    });
    // Half of a renewal: the key does not match, and nothing changes.
    files.write("node.key", &fs::read_to_string(files.path("client.key")).expect("a key"));
    server.daemon.wait_stderr("do not fit");
    assert!(trusted("ca.crt"));
    server.stop();
}

#[test]
fn a_bad_file_at_start_is_an_error_that_says_where() {
    let files = Files::new();
    let serve = |text: &str, words: &[&str]| {
        let config = files.config(text);
        natwatch(&["serve", "--web.listen-address", "127.0.0.1:0", "--web.config.file", &config])
            .fails(1, &[words, &["--web.config.file"]].concat());
    };
    serve("tls_server_config:\n  cert_fil: x\n", &["web.yml", "line 2", "cert_fil"]);
    serve("tls_server_config:\n  cert_file: nowhere.crt\n  key_file: node.key\n", &["nowhere.crt", "No such file"]);
    serve("tls_server_config:\n  cert_file: node.key\n  key_file: node.key\n", &["node.key", "no certificate"]);
    serve("tls_server_config:\n  cert_file: node.crt\n  key_file: client.key\n", &["do not fit"]);
    serve(&format!("{TLS}  cipher_suites: [TLS_RSA_WITH_RC4_128_SHA]\n"), &["RC4", "not served"]);
    natwatch(&["serve", "--web.config.file", "/nowhere/web.yml"]).fails(1, &["/nowhere/web.yml"]);
    natwatch(&["serve", "--web.systemd-socket"]).fails(1, &["LISTEN_FDS"]);
}

/// Like systemd: sockets from descriptor 3 on, and a datagram when the service is ready.
#[test]
fn sockets_of_systemd_are_served_and_it_is_told() {
    let ns = Netns::new();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let notified = UnixDatagram::bind(&path).expect("a socket");
    notified.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let port = free_port();
    require("python3");
    let pass = "import os, socket, sys
s = socket.socket(); s.bind(('127.0.0.1', int(sys.argv[1]))); s.listen(); os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid())); os.execv(sys.argv[2], sys.argv[2:])";
    let mut command = ns.command("python3");
    command
        .args(["-c", pass, &port.to_string(), NATWATCH, "serve", "--web.systemd-socket"])
        .env("NOTIFY_SOCKET", &path);
    let mut server = Server::from_command(&ns, command, port);
    let receive = || {
        let mut buffer = [0; 256];
        let length = notified.recv(&mut buffer).expect("a notification");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    assert!(receive().contains("READY=1"));
    assert!(server.ok("/metrics").contains("natwatch_build_info"));
    let taken = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 10077)).is_ok());
    assert!(taken, "no address of its own");
    server.daemon.signal(Signal::TERM);
    assert!(receive().contains("STOPPING=1"));
}
