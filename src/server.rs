//! The HTTP side: routes, content negotiation, limits.

mod security;
mod tls;

use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum_server::Handle;
use hyper_util::rt::TokioTimer;
use sd_notify::NotifyState;
use tokio::sync::Semaphore;
use tower_http::compression::CompressionLayer;

pub use security::Security;

use crate::process;
use crate::refresh::{Look, Refresher};
use crate::render::exposition::{self, OPENMETRICS, PROMETHEUS};
use crate::render::{html, json, metrics};
use crate::snapshot::Collector;

/// How long a request waits for the kernel unless the scraper says what it can afford.
const PATIENCE: Duration = Duration::from_secs(10);
/// Kept back from the scraper's timeout for the way there and back.
const TIMEOUT_OFFSET: Duration = Duration::from_millis(500);
/// A client that has not sent its request after this is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long running requests may go on after SIGTERM; the process ends within a second.
const GRACE: Duration = Duration::from_millis(700);

/// What serving needs to know.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Path of the metrics.
    pub telemetry_path: String,
    /// Requests that may be answered at once; 0 is no limit.
    pub max_requests: usize,
    /// What the metrics show.
    pub metrics: metrics::Settings,
}

#[derive(Debug)]
struct App {
    refresher: Arc<Refresher>,
    settings: Settings,
    /// TLS, users and headers, if they are configured.
    security: Option<Arc<Security>>,
    slots: Option<Semaphore>,
    ready: AtomicBool,
}

/// Opens the listening sockets.
///
/// # Errors
/// Names the address that cannot be used.
pub fn bind(addresses: &[String]) -> Result<Vec<TcpListener>, String> {
    addresses.iter().map(|address| bind_one(address)).collect()
}

fn bind_one(address: &str) -> Result<TcpListener, String> {
    let candidates: Vec<SocketAddr> = match address.strip_prefix(':') {
        // As in Go: every address of the machine. The IPv6 socket takes IPv4 as well.
        Some(port) => {
            let port = port.parse().map_err(|_| format!("--web.listen-address {address:?}: not a port"))?;
            vec![([0u16; 8], port).into(), ([0u8; 4], port).into()]
        }
        None => plain(address)
            .to_socket_addrs()
            .map_err(|error| format!("--web.listen-address {address:?}: {error}; write HOST:PORT or :PORT"))?
            .collect(),
    };
    let listener =
        TcpListener::bind(&candidates[..]).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    listener.set_nonblocking(true).map_err(|error| format!("cannot listen on {address}: {error}"))?;
    Ok(listener)
}

/// Go takes brackets around IPv4 addresses too, and manifests write `[$(HOST_IP)]:PORT`.
fn plain(address: &str) -> String {
    let bracketed = address.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match bracketed {
        Some((host, port)) if host.parse::<Ipv4Addr>().is_ok() => format!("{host}{port}"),
        _ => address.to_owned(),
    }
}

/// The sockets that systemd passes.
///
/// # Errors
/// There are none, or one is something else.
pub fn from_systemd() -> Result<Vec<TcpListener>, String> {
    let mut passed = listenfd::ListenFd::from_env();
    let count = passed.len();
    let take = |at| {
        let listener = passed.take_tcp_listener(at).map_err(|error| format!("--web.systemd-socket: {error}"))?;
        let listener = listener.ok_or("--web.systemd-socket: a passed socket is gone")?;
        listener.set_nonblocking(true).map_err(|error| format!("--web.systemd-socket: {error}"))?;
        Ok(listener)
    };
    let listeners: Result<Vec<_>, String> = (0..count).map(take).collect();
    match listeners {
        Ok(listeners) if listeners.is_empty() => Err(
            "--web.systemd-socket: no socket was passed (LISTEN_FDS); is natwatch.socket the unit that starts this?"
                .into(),
        ),
        other => other,
    }
}

/// Serves until `shutdown` ends.
///
/// # Errors
/// A listener that failed.
pub async fn run(
    listeners: Vec<TcpListener>,
    refresher: Arc<Refresher>,
    settings: Settings,
    security: Option<Security>,
    shutdown: impl Future<Output = ()>,
) -> Result<(), String> {
    let slots = (settings.max_requests > 0).then(|| Semaphore::new(settings.max_requests));
    let security = security.map(Arc::new);
    let tls = security.as_ref().and_then(|security| security.tls());
    let app = Arc::new(App { refresher, settings, security, slots, ready: AtomicBool::new(false) });
    let handle = Handle::new();
    let mut servers = tokio::task::JoinSet::new();
    // Without the guess at HTTP/2, which would wait for a silent client for ever.
    macro_rules! serve {
        ($server:expr) => {{
            let mut server = $server.map_err(|error| error.to_string())?.handle(handle.clone()).http1_only();
            server.http_builder().http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let routes = routes(Arc::clone(&app)).into_make_service();
            servers.spawn(async move { server.serve(routes).await });
        }};
    }
    for listener in listeners {
        announce(&listener, tls.is_some());
        match &tls {
            Some(tls) => serve!(axum_server::from_tcp_rustls(listener, tls.clone())),
            None => serve!(axum_server::from_tcp(listener)),
        }
    }
    if let Some(security) = &app.security {
        tokio::spawn(Arc::clone(security).watch());
    }
    tokio::spawn(first_look(Arc::clone(&app)));
    tell_systemd(&[NotifyState::Ready]);
    tokio::select! {
        () = shutdown => {
            tell_systemd(&[NotifyState::Stopping]);
            tracing::info!("shutting down");
            app.refresher.close();
            handle.graceful_shutdown(Some(GRACE));
            while servers.join_next().await.is_some() {}
            Ok(())
        }
        Some(ended) = servers.join_next() => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("serving failed: {error}")),
            Err(error) => Err(format!("serving failed: {error}")),
        },
    }
}

/// A unit of `Type=notify` waits for this; anyone else does not hear it.
fn tell_systemd(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

fn announce(listener: &TcpListener, tls: bool) {
    let Ok(address) = listener.local_addr() else { return };
    tracing::info!(%address, tls, version = env!("CARGO_PKG_VERSION"), "listening");
    if std::io::stderr().is_terminal() {
        let host = if address.ip().is_unspecified() { "localhost".into() } else { address.ip().to_string() };
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let scheme = if tls { "https" } else { "http" };
        eprintln!("natwatch serves {scheme}://{host}:{}/ (try: natwatch check)", address.port());
    }
}

/// Says in the log what this node looks like, and makes the exporter ready.
async fn first_look(app: Arc<App>) {
    let look = app.refresher.look(PATIENCE).await;
    for status in &look.snapshot.sources {
        tracing::info!(source = %status.source, state = %status.state, detail = status.detail, "source");
    }
    for finding in &look.report.advisories {
        tracing::info!(advisory = finding.id, state = %finding.state, summary = finding.summary, "advisory");
    }
    app.ready.store(true, Ordering::Release);
}

fn routes(app: Arc<App>) -> Router {
    let telemetry_path = app.settings.telemetry_path.clone();
    let reports = Router::new()
        .route("/", get(page))
        .route("/report.json", get(report))
        .route(&telemetry_path, get(telemetry))
        .layer(CompressionLayer::new().gzip(true))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorized));
    let probes =
        Router::new().route("/-/healthy", get(async || "natwatch is healthy.\n")).route("/-/ready", get(ready));
    let all = reports.merge(probes).layer(middleware::from_fn_with_state(Arc::clone(&app), decorated));
    all.with_state(app)
}

/// Lets those in who may read.
async fn authorized(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let Some(security) = &app.security else { return next.run(request).await };
    match security.authorize(request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(status) => {
            let mut response = (status, format!("{}\n", status.canonical_reason().unwrap_or_default())).into_response();
            let ask = match status {
                StatusCode::UNAUTHORIZED => (header::WWW_AUTHENTICATE, "Basic realm=\"natwatch\""),
                _ => (header::RETRY_AFTER, "1"),
            };
            response.headers_mut().insert(ask.0, HeaderValue::from_static(ask.1));
            response
        }
    }
}

/// Adds the configured headers.
async fn decorated(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Some(security) = &app.security {
        security.decorate(response.headers_mut());
    }
    response
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.ready.load(Ordering::Acquire) {
        "natwatch is ready.\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "natwatch has not finished its first look yet.\n").into_response()
    }
}

async fn page(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.answer(&headers, |look| {
        Html(html::render(&look.report, &look.snapshot, &app.settings.telemetry_path)).into_response()
    })
    .await
}

async fn report(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    app.answer(&headers, |look| {
        ([(header::CONTENT_TYPE, "application/json")], json::render(&look.report, &look.snapshot)).into_response()
    })
    .await
}

async fn telemetry(
    State(app): State<Arc<App>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let collectors = match chosen(&query, &app.settings.metrics.collectors) {
        Ok(collectors) => collectors,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    app.answer(&headers, |look| {
        let mut families = metrics::families(&look.report, &look.snapshot, &look.durations, &app.settings.metrics);
        if let Some(process) = process::read() {
            metrics::add_process(&mut families, &process);
        }
        if let Some(security) = &app.security {
            metrics::add_web_config(&mut families, security.is_current());
        }
        families.retain(&collectors);
        if !prefers_openmetrics(&headers) {
            return ([(header::CONTENT_TYPE, PROMETHEUS)], exposition::prometheus(&families)).into_response();
        }
        match exposition::openmetrics(families) {
            Ok(text) => ([(header::CONTENT_TYPE, OPENMETRICS)], text).into_response(),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode: {error}\n")).into_response(),
        }
    })
    .await
}

impl App {
    async fn answer(&self, headers: &HeaderMap, render: impl FnOnce(&Look) -> Response) -> Response {
        let _slot = match &self.slots {
            Some(slots) => match slots.try_acquire() {
                Ok(slot) => Some(slot),
                Err(_) => {
                    let text = "too many requests at once; see --web.max-requests\n";
                    return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "1")], text).into_response();
                }
            },
            None => None,
        };
        render(&*self.refresher.look(patience(headers)).await)
    }
}

/// How long this scraper can wait.
fn patience(headers: &HeaderMap) -> Duration {
    let seconds =
        headers.get("x-prometheus-scrape-timeout-seconds").and_then(|value| value.to_str().ok()?.parse().ok());
    let Some(timeout) =
        seconds.filter(|seconds: &f64| *seconds > 0.0).and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
    else {
        return PATIENCE;
    };
    timeout.saturating_sub(TIMEOUT_OFFSET.min(timeout / 2)).min(crate::refresh::MAX_READING)
}

/// The collectors that `collect[]` or `exclude[]` leave; wording and rules are node_exporter's.
fn chosen(query: &[(String, String)], on: &crate::decode::Collectors) -> Result<Vec<Collector>, String> {
    let named = |key: &str| {
        let names = query.iter().filter(|(name, _)| name == key).map(|(_, value)| match Collector::from_name(value) {
            Some(collector) if on.contains(&collector) => Ok(collector),
            Some(_) => Err(format!("disabled collector: {value}")),
            None => Err(format!("missing collector: {value}")),
        });
        names.collect::<Result<Vec<_>, _>>()
    };
    let (collect, exclude) = (named("collect[]")?, named("exclude[]")?);
    match (collect.is_empty(), exclude.is_empty()) {
        (false, false) => Err("Combined collect and exclude queries are not allowed.".into()),
        (false, true) => Ok(collect),
        (true, _) => Ok(on.iter().copied().filter(|collector| !exclude.contains(collector)).collect()),
    }
}

/// Whether OpenMetrics is named with a version that is served, and not below text.
fn prefers_openmetrics(headers: &HeaderMap) -> bool {
    let accept = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut openmetrics, mut text) = (0.0f32, 0.0f32);
    for range in accept.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let parameters: Vec<(&str, &str)> = parts.filter_map(|part| part.split_once('=')).collect();
        let parameter = |name: &str| {
            let found = parameters.iter().find(|(key, _)| key.trim().eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.trim().trim_matches('"'))
        };
        let quality = parameter("q").map_or(1.0, |q| q.parse().unwrap_or(0.0));
        match (kind.to_ascii_lowercase().as_str(), parameter("version")) {
            ("application/openmetrics-text", None | Some("1.0.0" | "0.0.1")) => openmetrics = openmetrics.max(quality),
            ("text/plain", None | Some("0.0.4")) => text = text.max(quality),
            _ => {}
        }
    }
    openmetrics > 0.0 && openmetrics >= text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, value.parse().unwrap());
        prefers_openmetrics(&headers)
    }

    #[test]
    fn real_scrapers_get_what_they_prefer() {
        // Prometheus 2.42
        assert!(accept(
            "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
        ));
        // Prometheus 3
        assert!(accept(
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
        ));
        assert!(!accept("text/plain;version=0.0.4;q=1,*/*;q=0.1"), "VictoriaMetrics");
        assert!(!accept("*/*"), "curl");
        assert!(!accept("application/openmetrics-text;version=2.0.0"), "a version that is not served");
        assert!(!accept("application/openmetrics-text;q=0, text/plain"));
        assert!(!accept("text/plain;q=0.9,application/openmetrics-text;q=0.1"));
        assert!(!prefers_openmetrics(&HeaderMap::new()));
    }

    #[test]
    fn collectors_are_chosen_by_node_exporters_rules() {
        let on = [Collector::Conntrack, Collector::Links].into();
        let ask = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
            chosen(&pairs, &on)
        };
        assert_eq!(ask(&[]), Ok(vec![Collector::Conntrack, Collector::Links]));
        assert_eq!(ask(&[("collect[]", "links")]), Ok(vec![Collector::Links]));
        assert_eq!(ask(&[("exclude[]", "links")]), Ok(vec![Collector::Conntrack]));
        assert!(ask(&[("collect[]", "netstat")]).unwrap_err().contains("disabled"));
        assert!(ask(&[("collect[]", "nonsense")]).unwrap_err().contains("missing"));
        assert!(ask(&[("collect[]", "links"), ("exclude[]", "links")]).is_err());
    }

    #[test]
    fn addresses_are_taken_as_go_takes_them() {
        for address in ["127.0.0.1:0", "[127.0.0.1]:0", ":0", "[::1]:0", "localhost:0"] {
            assert!(bind_one(address).is_ok(), "{address}");
        }
        for address in ["127.0.0.1", "[127.0.0.1:0", "::1", ""] {
            assert!(bind_one(address).is_err(), "{address}");
        }
    }

    #[test]
    fn the_scrapers_timeout_is_kept_with_room_to_answer() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-prometheus-scrape-timeout-seconds", value.parse().unwrap());
            patience(&headers)
        };
        assert_eq!(with("10"), Duration::from_millis(9500));
        assert_eq!(with("0.4"), Duration::from_millis(200));
        for nonsense in ["0", "-1", "NaN", "inf", "soon"] {
            assert_eq!(with(nonsense), PATIENCE, "{nonsense}");
        }
        assert_eq!(with("1e9"), crate::refresh::MAX_READING);
    }
}
