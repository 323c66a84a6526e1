//! Connections from their acceptance to their end.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{Request, Response, StatusCode, Version, header};
use axum::response::IntoResponse as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

use super::activity::{Answer, Watched, names_one_host};
use super::connections::{Connections, Peer, Place};
use super::security::Security;

/// What the kernel may hold of answers that a client does not read. Without this it is megabytes for each.
const SEND_BUFFER: usize = 64 << 10;
/// How often it is said that connections cannot be accepted, and how often that has happened since.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How long nothing is accepted after that has failed.
const PAUSE: Duration = Duration::from_millis(100);

/// What every listener needs.
#[derive(Clone, Debug)]
pub struct Door {
    /// What requests are answered by.
    pub routes: Router,
    /// TLS, if it is served.
    pub security: Option<Arc<Security>>,
    /// All connections.
    pub connections: Arc<Connections>,
    /// Natwatch is about to end.
    pub closing: watch::Receiver<bool>,
    /// Dropped by each connection at its end.
    pub _open: mpsc::Sender<()>,
}

impl Door {
    /// Accepts until natwatch ends.
    pub async fn accept(mut self, listener: TcpListener) {
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
            return; // closed: all places are taken by requests
        };
        let _ = stream.set_nodelay(true);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(&stream, SEND_BUFFER);
        let door = self.clone();
        tokio::spawn(async move {
            let activity = Arc::clone(&place.activity);
            tokio::select! {
                () = activity.ended() => {}
                () = door.talk(stream, peer, &place) => {}
            }
        });
    }

    async fn talk(&self, stream: TcpStream, peer: Peer, place: &Place) {
        let Some(tls) = self.security.as_ref().and_then(|security| security.tls()) else {
            return self.answer(stream, peer, place).await;
        };
        place.activity.begin_handshake(Instant::now());
        if let Ok(stream) = TlsAcceptor::from(tls).accept(stream).await {
            place.activity.end_handshake(Instant::now());
            self.answer(stream, peer, place).await;
        }
    }

    async fn answer<T: AsyncRead + AsyncWrite + Unpin>(&self, stream: T, peer: Peer, place: &Place) {
        let routes = TowerToHyperService::new(self.routes.clone());
        let service = service_fn(|mut request: Request<Incoming>| {
            let activity = Arc::clone(&place.activity);
            let begun = activity.begin_request(Instant::now());
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(Arc::clone(&activity));
            let refusal = refusal(&request, place.only_probes || !begun);
            let answered = refusal.is_none().then(|| routes.call(request));
            async move {
                let response = match (answered, refusal) {
                    (Some(answered), _) => answered.await?,
                    (None, refusal) => refusal.unwrap_or_default().into_response(),
                };
                Ok::<_, Infallible>(response.map(|body| Answer::new(body, activity)))
            }
        });
        let stream = TokioIo::new(Watched::new(stream, Arc::clone(&place.activity)));
        // Its own timer would count from the end of the last answer on.
        let connection = http1::Builder::new().header_read_timeout(None).serve_connection(stream, service);
        let mut connection = pin!(connection);
        let mut closing = self.closing.clone();
        tokio::select! {
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing) => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    }
}

/// Why a request is not answered.
fn refusal<B>(request: &Request<B>, only_probes: bool) -> Option<Response<axum::body::Body>> {
    let close = [(header::CONNECTION, "close")];
    if request.version() == Version::HTTP_11 && !names_one_host(request.headers()) {
        return Some((StatusCode::BAD_REQUEST, close, "there must be one Host header\n").into_response());
    }
    let probe = super::PROBES.contains(&request.uri().path());
    (only_probes && !probe).then(|| {
        let text = "too many connections; this one is for probes only\n";
        (StatusCode::SERVICE_UNAVAILABLE, close, [(header::RETRY_AFTER, "1")], text).into_response()
    })
}

/// Errors of a connection that was about to be accepted; accept(2) lists them.
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
