//! Connections: accepting, serving with hyper, and closing.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode, Version, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::activity::{TrackedBody, WatchedStream};
use super::connections::{ConnectionSlot, Connections, Peer};
use super::security::Security;

/// Send buffer per connection, bytes, for responses that the client does not read. The default would grow to megabytes.
const SEND_BUFFER: usize = 64 << 10;
/// Size limit of a request's head, bytes.
const MAX_HEAD: usize = 32 << 10;
/// TCP_USER_TIMEOUT: how long the kernel keeps data that the client does not acknowledge.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Interval of log messages about failures to accept, with their number.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// Pause after a failure to accept.
const PAUSE: Duration = Duration::from_millis(100);

/// Extension of requests on a reserved connection, which only probes' endpoints answer.
#[derive(Clone, Copy, Debug)]
struct OnlyProbes(bool);

/// Context shared by all listeners.
#[derive(Clone, Debug)]
pub(crate) struct ListenerContext {
    /// Routes that requests are passed to.
    pub routes: Router,
    /// TLS and authentication, if configured.
    pub security: Option<Arc<Security>>,
    /// All connections.
    pub connections: Arc<Connections>,
    /// Whether natwatch is shutting down.
    pub closing: watch::Receiver<bool>,
    /// Dropped by each connection when it ends.
    pub _open: mpsc::Sender<()>,
}

impl ListenerContext {
    /// Accepts connections until shutdown.
    pub(crate) async fn accept(mut self, listener: TcpListener) {
        let (mut failures, mut told) = (0u64, None::<Instant>);
        let mut closing = self.closing.clone();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = closing.wait_for(|closing| *closing) => return,
            };
            match accepted {
                Ok((stream, peer)) => self.begin(stream, peer),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    failures += 1;
                    if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                        tracing::error!(%error, failures, "cannot accept connections; idle ones are closed");
                        (failures, told) = (0, Some(Instant::now()));
                    }
                    self.connections.make_room();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, peer: SocketAddr) {
        let peer = Peer::from(peer.ip());
        let Some(place) = self.connections.admit(peer, Instant::now()) else {
            return; // closed: all connections are in a request
        };
        let _ = stream.set_nodelay(true);
        let _ = sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
        let timeout = u32::try_from(USER_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
        let _ = sockopt::set_tcp_user_timeout(&stream, timeout);
        let (door, mut stream) = (self.clone(), stream);
        tokio::spawn(async move {
            let activity = Arc::clone(&place.activity);
            let thrown_away = tokio::select! {
                thrown_away = activity.ended() => thrown_away,
                () = door.talk(&mut stream, peer, &place) => false,
            };
            if thrown_away {
                // The kernel would otherwise keep it after its slot is free.
                let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
            }
        });
    }

    async fn talk(&self, stream: &mut TcpStream, peer: Peer, place: &ConnectionSlot) {
        let Some(tls) = self.security.as_ref().and_then(|security| security.tls()) else {
            return self.answer(stream, peer, place).await;
        };
        place.activity.begin_handshake(Instant::now());
        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
            place.activity.end_handshake(Instant::now());
            self.answer(stream, peer, place).await;
        }
    }

    async fn answer<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T, peer: Peer, place: &ConnectionSlot) {
        let routes = TowerToHyperService::new(self.routes.clone());
        let service = service_fn(|mut request: Request<Incoming>| {
            let activity = Arc::clone(&place.activity);
            let begun = activity.begin_request(Instant::now());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&activity));
            request.extensions_mut().insert(OnlyProbes(place.only_probes || !begun));
            let answered = routes.call(request);
            async move { Ok::<_, Infallible>(answered.await?.map(|body| TrackedBody::new(body, activity))) }
        });
        let stream = TokioIo::new(WatchedStream::new(stream, Arc::clone(&place.activity)));
        let mut http = http1::Builder::new();
        // hyper's own timer would start at the end of the previous response. A client that has closed its sending side
        // still gets its response.
        let http = http.header_read_timeout(None).max_buf_size(MAX_HEAD).half_close(true);
        let connection = http.serve_connection(stream, service);
        let mut connection = pin!(connection);
        let mut closing = self.closing.clone();
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// The response to a request that is refused; `None` if it is not.
pub(crate) fn refusal<B>(request: &Request<B>) -> Option<Response<Body>> {
    let close = [(header::CONNECTION, "close")];
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || hosts == 0 && request.version() == Version::HTTP_11 {
        return Some((StatusCode::BAD_REQUEST, close, "there must be one Host header\n").into_response());
    }
    let only_probes = request.extensions().get::<OnlyProbes>().is_some_and(|only| only.0);
    (only_probes && !super::PROBES.contains(&request.uri().path()))
        .then(|| (close, super::try_again("too many connections; this one is for probes only")).into_response())
}

/// Errors that concern one incoming connection only, as listed in accept(2).
fn is_of_one_connection(error: &io::Error) -> bool {
    const OF_ONE: &[Errno] = &[
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::NETDOWN,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::HOSTDOWN,
        Errno::NONET,
        Errno::HOSTUNREACH,
        Errno::OPNOTSUPP,
        Errno::NETUNREACH,
        Errno::INTR,
    ];
    Errno::from_io_error(error).is_some_and(|errno| OF_ONE.contains(&errno))
}
