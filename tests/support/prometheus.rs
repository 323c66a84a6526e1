//! A real Prometheus, a real Alertmanager, and a webhook that receives notifications.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::http;
use super::netns::Netns;
use super::process::{Daemon, free_port};
use super::tools::require;

/// Interval at which a webhook checks whether it is to end.
const READ_EVERY: Duration = Duration::from_millis(20);

/// A Prometheus in a namespace.
pub struct Prometheus<'a> {
    ns: &'a Netns,
    pub daemon: Daemon,
    /// Where it listens, on the loopback address.
    pub port: u16,
    dir: TempDir,
}

impl<'a> Prometheus<'a> {
    /// Scrapes each target once a second, as job `natwatch`.
    pub fn scraping(ns: &'a Netns, targets: &[String]) -> Self {
        Self::start(ns, targets, "", None)
    }

    /// The same, with a rule file that is evaluated once a second, and an Alertmanager to notify.
    pub fn start(ns: &'a Netns, targets: &[String], rules: &str, alertmanager: Option<&Alertmanager>) -> Self {
        let quoted: Vec<String> = targets.iter().map(|target| format!("'{target}'")).collect();
        let mut text = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\n\
             scrape_configs: [{{job_name: natwatch, static_configs: [{{targets: [{}]}}]}}]\n",
            quoted.join(", ")
        );
        if !rules.is_empty() {
            text += "rule_files: [rules.yaml]\n";
        }
        if let Some(Alertmanager { port, .. }) = alertmanager {
            text +=
                &format!("alerting: {{alertmanagers: [{{static_configs: [{{targets: ['127.0.0.1:{port}']}}]}}]}}\n");
        }
        Self::with_config(ns, &text, rules)
    }

    /// With a configuration of the test's own, and the content of the file `rules.yaml` beside it.
    pub fn with_config(ns: &'a Netns, text: &str, rules: &str) -> Self {
        require("prometheus");
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("rules.yaml"), rules).expect("the rules");
        let config = dir.path().join("prometheus.yml");
        fs::write(&config, text).expect("the configuration");
        let port = free_port();
        let mut command = ns.command("prometheus");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let mut daemon = Daemon::start(command);
        daemon.wait_listening(ns, port);
        Self { ns, daemon, port, dir }
    }

    /// The response of an API endpoint, or its error.
    pub fn ask(&self, path: &str) -> Result<Value, String> {
        let response = http::get(self.ns, (Ipv4Addr::LOCALHOST, self.port).into(), path, &[]);
        let value: Value = serde_json::from_str(response.text()).map_err(|e| format!("{e}: {}", response.text()))?;
        if value["status"] == "success" { Ok(value["data"].clone()) } else { Err(value["error"].to_string()) }
    }

    /// The same; null if it is not ready.
    pub fn api(&self, path: &str) -> Value {
        self.ask(path).unwrap_or_default()
    }

    /// Metric name and labels with the value, of an instant query.
    pub fn query(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let data = self.api(&format!("/api/v1/query?query={}", url_encoded(query)));
        let results = data["result"].as_array().cloned().unwrap_or_default();
        let sample = |result: &Value| {
            let labels = result["metric"].as_object().expect("labels").iter();
            let labels = labels.map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()));
            let value = result["value"][1].as_str().and_then(|value| value.parse().ok()).expect("a value");
            (labels.collect(), value)
        };
        results.iter().map(sample).collect()
    }

    /// The rules as it has parsed them: `name`, `query`, `type` and the rest.
    pub fn rules(&self) -> Vec<Value> {
        let groups = self.api("/api/v1/rules")["groups"].as_array().cloned().unwrap_or_default();
        groups.iter().flat_map(|group| group["rules"].as_array().cloned().expect("rules")).collect()
    }

    /// Where its files are.
    pub fn dir(&self) -> &std::path::Path {
        self.dir.path()
    }
}

/// Percent-encodes a query.
pub fn url_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| if byte.is_ascii_alphanumeric() { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// An Alertmanager in a namespace that sends everything to one webhook, without delay.
pub struct Alertmanager {
    _daemon: Daemon,
    port: u16,
    _dir: TempDir,
}

impl Alertmanager {
    pub fn start(ns: &Netns, webhook: &Webhook) -> Self {
        require("prometheus-alertmanager");
        let dir = tempfile::tempdir().expect("a directory");
        let config = dir.path().join("alertmanager.yml");
        let text = format!(
            "route: {{receiver: webhook, group_by: ['...'], group_wait: 0s, group_interval: 1s, repeat_interval: 1h}}\n\
             receivers: [{{name: webhook, webhook_configs: [{{url: 'http://127.0.0.1:{}/'}}]}}]\n",
            webhook.port
        );
        fs::write(&config, text).expect("the configuration");
        let port = free_port();
        let mut command = ns.command("prometheus-alertmanager");
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--storage.path={}", dir.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        // It is no cluster.
        command.arg("--cluster.listen-address=");
        let mut daemon = Daemon::start(command);
        daemon.wait_listening(ns, port);
        Self { _daemon: daemon, port, _dir: dir }
    }
}

/// Listens in a namespace and keeps the alerts that it receives.
pub struct Webhook {
    port: u16,
    alerts: Arc<Mutex<Vec<Value>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Webhook {
    pub fn start(ns: &Netns) -> Self {
        let port = free_port();
        let listener = ns.enter(|| TcpListener::bind((Ipv4Addr::LOCALHOST, port))).expect("a listener");
        listener.set_nonblocking(true).expect("non-blocking");
        let (alerts, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let thread = thread::spawn({
            let (alerts, stop) = (Arc::clone(&alerts), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    match listener.accept() {
                        // The Alertmanager repeats a request that is cut off.
                        Ok((stream, _)) => alerts.lock().expect("the list").extend(take(stream).unwrap_or_default()),
                        Err(_) => thread::sleep(READ_EVERY),
                    }
                }
            }
        });
        Self { port, alerts, stop, thread: Some(thread) }
    }

    /// Every alert so far, in order of arrival.
    pub fn alerts(&self) -> Vec<Value> {
        self.alerts.lock().expect("the list").clone()
    }

    /// The first alert that is firing and has these labels, or what came instead.
    pub fn firing(&self, labels: &[(&str, &str)]) -> Result<Value, String> {
        let alerts = self.alerts();
        let is_it = |alert: &&Value| {
            alert["status"] == "firing" && labels.iter().all(|(name, value)| alert["labels"][name] == *value)
        };
        let found = alerts.iter().find(is_it).cloned();
        found.ok_or_else(|| {
            let came: Vec<String> = alerts.iter().map(|alert| alert["labels"].to_string()).collect();
            format!("{labels:?} did not come, but {came:?}")
        })
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Reads one request, responds, and returns the alerts of its body.
fn take(mut stream: TcpStream) -> std::io::Result<Vec<Value>> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    let body = loop {
        let got = stream.read(&mut chunk)?;
        if got == 0 {
            return Ok(Vec::new());
        }
        request.extend_from_slice(&chunk[..got]);
        if let Some(body) = body_of(&request) {
            break body;
        }
    };
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let document: Value = serde_json::from_slice(&body).unwrap_or_default();
    Ok(document["alerts"].as_array().cloned().unwrap_or_default())
}

/// The body once it is complete.
fn body_of(request: &[u8]) -> Option<Vec<u8>> {
    let end = request.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&request[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
    let body = &request[end + 4..];
    (body.len() >= length).then(|| body[..length].to_vec())
}
