//! The HTTP server of `natwatch serve`: routes, content negotiation, limits.
//!
//! In order: `accept` takes a connection if `connections` has room for it, and rejects malformed requests; `security`
//! (with `turns` for password hashes) authorizes those for reports; a handler here reads the parameters (`request`),
//! asks [`Refresher`] for a judged reading and renders the `body`. `activity` closes slow and idle connections
//! meanwhile. The probes `/-/healthy` (`health`) and `/-/ready` need no authorization and no reading.

mod accept;
mod activity;
mod body;
mod connections;
mod health;
mod listen;
mod request;
mod security;
mod tls;
mod turns;
mod web_config;

use std::io::IsTerminal as _;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use sd_notify::NotifyState;
use tokio::sync::{Semaphore, mpsc, watch};

pub(crate) use listen::{bind, from_systemd};
pub(crate) use security::{Refused, Security};
use tracing_appender::non_blocking::ErrorCounter;

use self::accept::ListenerContext;
use self::activity::Activity;
use self::body::{Form, HeldBodies, Room};
use self::connections::{Connections, Peer};
use self::health::Health;
use self::request::{PATIENCE, chosen, patience, prefers_openmetrics, takes_gzip, takes_html};
use crate::facts::Collector;
use crate::metrics::{
    self,
    exposition::{self, OPENMETRICS, PROMETHEUS},
};
use crate::report::{html, json, runbook};
use crate::serve::process;
use crate::serve::refresh::{FORMS, JudgedReading, Refresher};
use crate::serve::sync::off_thread;

/// Time that running requests get after SIGTERM; the process ends within a second.
const GRACE: Duration = Duration::from_millis(700);
/// Endpoints for probes: cheap and without authentication.
const PROBES: [&str; 2] = ["/-/healthy", "/-/ready"];
/// The page needs its own style and nothing else.
static CONTENT_SECURITY: LazyLock<HeaderValue> = LazyLock::new(|| {
    use base64::Engine as _;
    let hash = ring::digest::digest(&ring::digest::SHA256, html::STYLE.as_bytes());
    let hash = base64::engine::general_purpose::STANDARD.encode(hash);
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// Settings of the server.
#[derive(Clone, Debug)]
pub(crate) struct HttpSettings {
    /// Path of the metrics endpoint.
    pub telemetry_path: String,
    /// Number of concurrent requests; 0: unlimited.
    pub max_requests: usize,
    /// Settings of the metrics.
    pub metrics: metrics::MetricSettings,
    /// Counts dropped log lines.
    pub dropped_lines: ErrorCounter,
}

#[derive(Debug)]
struct App {
    refresher: Arc<Refresher>,
    settings: HttpSettings,
    /// TLS, users and headers, if configured.
    security: Option<Arc<Security>>,
    slots: Option<Arc<Semaphore>>,
    connections: Arc<Connections>,
    /// Large bodies held for slow clients, by form.
    held: [HeldBodies; FORMS],
    health: Arc<Health>,
    ready: AtomicBool,
}

/// Serves until `closing` becomes true.
///
/// # Errors
/// A listener is unusable.
pub(crate) async fn run(
    listeners: Vec<TcpListener>,
    refresher: Arc<Refresher>,
    settings: HttpSettings,
    security: Option<Arc<Security>>,
    mut closing: watch::Receiver<bool>,
) -> Result<(), String> {
    let descriptors = process::read().and_then(|process| process.max_fds);
    let slots = (settings.max_requests > 0).then(|| Arc::new(Semaphore::new(settings.max_requests)));
    let (connections, health) = (Arc::new(Connections::of(descriptors)), Health::watch(Arc::clone(&refresher)));
    let (held, ready) = (Default::default(), AtomicBool::new(false));
    let app = App { refresher, settings, security, slots, connections, held, health, ready };
    let app = Arc::new(app);
    let (open, mut all_closed) = mpsc::channel(1);
    let (routes, connections) = (routes(Arc::clone(&app)), Arc::clone(&app.connections));
    let door =
        ListenerContext { routes, security: app.security.clone(), connections, closing: closing.clone(), _open: open };
    for listener in listeners {
        announce(&listener, app.security.as_ref().is_some_and(|security| security.tls().is_some()));
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| format!("cannot serve: {error}"))?;
        tokio::spawn(door.clone().accept(listener));
    }
    drop(door);
    if let Some(security) = &app.security {
        tokio::spawn(Arc::clone(security).watch());
    }
    tokio::spawn(first_reading(Arc::clone(&app)));
    notify_systemd(&[NotifyState::Ready]);
    let _ = closing.wait_for(|closing| *closing).await;
    notify_systemd(&[NotifyState::Stopping]);
    tracing::info!("shutting down");
    app.refresher.close();
    // Completes when the last connection has ended.
    let _ = tokio::time::timeout(GRACE, all_closed.recv()).await;
    Ok(())
}

/// Notifies systemd, for units of `Type=notify`.
fn notify_systemd(state: &[NotifyState<'_>]) {
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

/// Logs a summary of the first reading, and marks the exporter as ready.
async fn first_reading(app: Arc<App>) {
    let judged = app.refresher.judged(PATIENCE).await;
    for status in &judged.facts.sources {
        tracing::info!(source = %status.source, state = %status.state, detail = status.detail, "source");
    }
    for finding in &judged.report.advisories {
        tracing::info!(advisory = finding.id, state = %finding.state, summary = finding.summary, "advisory");
    }
    // The reading may have ended because the kernel is stuck, which requests for health must then see.
    let looking = Arc::clone(&app);
    off_thread(move || looking.health.check_progress(&looking.refresher)).await;
    app.ready.store(true, Ordering::Release);
}

fn routes(app: Arc<App>) -> Router {
    let telemetry_path = app.settings.telemetry_path.clone();
    let reports = Router::new()
        .route("/", get(page))
        .route("/report.json", get(report))
        .route(&telemetry_path, get(telemetry))
        .route("/runbooks", get(async || Redirect::permanent("runbooks/")))
        .route("/runbooks/", get(runbooks))
        .route("/runbooks/{name}", get(runbook_of))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authorized));
    let [is_healthy, is_ready] = PROBES;
    let probes = Router::new().route(is_healthy, get(healthy)).route(is_ready, get(ready));
    let all =
        reports.merge(probes).fallback(not_found).layer(middleware::from_fn_with_state(Arc::clone(&app), decorated));
    all.with_state(app)
}

/// Answers only authorized requests.
async fn authorized(
    State(app): State<Arc<App>>,
    Extension(peer): Extension<Peer>,
    request: Request,
    next: Next,
) -> Response {
    let Some(security) = &app.security else { return next.run(request).await };
    match security.authorize(request.headers(), peer).await {
        Ok(()) => next.run(request).await,
        Err(Refused::Wrong) => {
            let ask = [(header::WWW_AUTHENTICATE, "Basic realm=\"natwatch\"")];
            (StatusCode::UNAUTHORIZED, ask, "Unauthorized\n").into_response()
        }
        Err(Refused::Busy) => try_again("Service Unavailable"),
    }
}

/// Refuses malformed requests; adds security headers and the configured headers, which take precedence.
async fn decorated(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let mut response = match accept::refusal(&request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY.clone());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Some(security) = &app.security {
        security.decorate(response.headers_mut());
    }
    response
}

async fn runbooks(headers: HeaderMap) -> Response {
    runbook_named(runbook::INDEX, &headers).unwrap_or_else(|| StatusCode::NOT_FOUND.into_response())
}

async fn runbook_of(app: State<Arc<App>>, Path(name): Path<String>, uri: Uri, headers: HeaderMap) -> Response {
    match runbook_named(&name, &headers) {
        Some(response) => response,
        None => not_found(app, uri, headers).await,
    }
}

/// A runbook: HTML for browsers, else Markdown.
fn runbook_named(name: &str, headers: &HeaderMap) -> Option<Response> {
    let mut response = match takes_html(headers) {
        true => Html(runbook::page(name)?).into_response(),
        false => runbook::text(name)?.into_response(),
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    Some(response)
}

async fn not_found(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap) -> Response {
    let metrics = &app.settings.telemetry_path;
    if takes_html(&headers) {
        return (StatusCode::NOT_FOUND, Html(html::not_found(uri.path(), metrics))).into_response();
    }
    let places = html::places(metrics).map(|(place, _)| place).join(" ");
    (StatusCode::NOT_FOUND, format!("nothing is here; there are: {places}\n")).into_response()
}

fn unavailable(why: &str) -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response()
}

fn try_again(why: &str) -> Response {
    ([(header::RETRY_AFTER, "1")], unavailable(why)).into_response()
}

async fn healthy(State(app): State<Arc<App>>) -> Response {
    match app.health.stuck(Instant::now()) {
        Some(why) => unavailable(&format!("natwatch is stuck: {why}")),
        None => "natwatch is healthy.\n".into_response(),
    }
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.health.kernel_stuck().or_else(|| app.health.stuck(Instant::now())) {
        Some(why) => unavailable(&format!("stuck: {why}")),
        None if app.ready.load(Ordering::Acquire) => "natwatch is ready.\n".into_response(),
        None => unavailable("natwatch has not finished its first look yet."),
    }
}

/// The parts of a request that determine its response.
struct ClientRequest {
    activity: Arc<Activity>,
    headers: HeaderMap,
}

async fn page(
    State(app): State<Arc<App>>,
    Extension(activity): Extension<Arc<Activity>>,
    headers: HeaderMap,
) -> Response {
    let path = app.settings.telemetry_path.clone();
    let render =
        move |judged: &JudgedReading| Ok(html::render(&judged.report, &judged.facts, &path, jiff::Timestamp::now()));
    app.answer(ClientRequest { activity, headers }, "text/html; charset=utf-8", Some(Form::Page), render).await
}

async fn report(
    State(app): State<Arc<App>>,
    Extension(activity): Extension<Arc<Activity>>,
    headers: HeaderMap,
) -> Response {
    let render = |judged: &JudgedReading| Ok(json::render(&judged.report, &judged.facts));
    app.answer(ClientRequest { activity, headers }, "application/json", Some(Form::Report), render).await
}

async fn telemetry(
    State(app): State<Arc<App>>,
    Extension(activity): Extension<Arc<Activity>>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let collectors = match chosen(&query, &app.settings.metrics.collectors) {
        Ok(collectors) => collectors,
        Err(error) => return (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    };
    let (form, kind) = match prefers_openmetrics(&headers) {
        true => (Form::OpenMetrics, OPENMETRICS),
        false => (Form::Prometheus, PROMETHEUS),
    };
    let mine = Arc::clone(&app);
    let render = move |judged: &JudgedReading| {
        let families = mine.families(judged, &collectors);
        match form {
            Form::OpenMetrics => exposition::openmetrics(families).map_err(|error| error.to_string()),
            _ => Ok(exposition::prometheus(&families)),
        }
    };
    app.answer(ClientRequest { activity, headers }, kind, query.is_empty().then_some(form), render).await
}

impl App {
    fn families(&self, judged: &JudgedReading, collectors: &[Collector]) -> metrics::Families {
        let mut families = metrics::families(&judged.report, &judged.facts, &judged.durations, &self.settings.metrics);
        if let Some(process) = process::read() {
            metrics::add_process(&mut families, &process);
        }
        metrics::add_server(&mut families, self.connections.count(), self.settings.dropped_lines.dropped_lines());
        if let Some(security) = &self.security {
            metrics::add_web_config(&mut families, security.is_current());
        }
        families.retain(collectors);
        families
    }

    /// Renders a response from a fresh reading; one that is the same for all clients has a form and is rendered once.
    async fn answer(
        &self,
        client: ClientRequest,
        kind: &'static str,
        form: Option<Form>,
        render: impl FnOnce(&JudgedReading) -> Result<String, String> + Send + 'static,
    ) -> Response {
        let ClientRequest { activity, headers } = client;
        if let Some(slots) = &self.slots {
            let Ok(slot) = Arc::clone(slots).try_acquire_owned() else {
                return try_again("too many requests at once; see --web.max-requests");
            };
            activity.keep(slot);
        }
        let gzip = takes_gzip(&headers);
        let judged = self.refresher.judged(patience(&headers)).await;
        let body = match form {
            Some(form) => {
                let body = &judged.bodies[form.number(gzip)];
                body.get_or_try_init(|| self.body(&judged, form, gzip, render)).await.cloned()
            }
            None => made(&judged, gzip, render).map(Bytes::from).map_err(cannot_encode),
        };
        let body = match body {
            Ok(body) => body,
            Err(response) => return response,
        };
        let mut response = Response::new(Body::from(body));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if gzip {
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    }

    /// Encodes a body; large ones are limited in number while clients are slow.
    async fn body(
        &self,
        judged: &Arc<JudgedReading>,
        form: Form,
        gzip: bool,
        render: impl FnOnce(&JudgedReading) -> Result<String, String> + Send + 'static,
    ) -> Result<Bytes, Response> {
        let Some(held) = form.is_large().then(|| &self.held[form.number(gzip)]) else {
            return made(judged, gzip, render).map(Bytes::from).map_err(cannot_encode);
        };
        match held.room(Instant::now()) {
            Room::Newest(newest) => Ok(newest),
            Room::Place(place) => {
                let judged = Arc::clone(judged);
                let bytes = off_thread(move || made(&judged, gzip, render)).await.map_err(cannot_encode)?;
                Ok(held.hold(bytes, place, Instant::now()))
            }
            Room::Full => Err(try_again("clients are too slow to read the reports that they have asked for")),
        }
    }
}

/// Renders and encodes. Metrics are of limited size and cheaper than a switch to another thread.
fn made(
    judged: &JudgedReading,
    gzip: bool,
    render: impl FnOnce(&JudgedReading) -> Result<String, String>,
) -> Result<Vec<u8>, String> {
    render(judged).and_then(|text| body::encode(text, gzip))
}

fn cannot_encode(error: String) -> Response {
    (StatusCode::INTERNAL_SERVER_ERROR, format!("cannot encode: {error}\n")).into_response()
}
