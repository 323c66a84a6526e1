//! State of a connection, its timeouts, and detection of stalled clients.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::serve::sync::lock;

/// Timeout of an idle connection. Prometheus scrapes once a minute by default and keeps its connections.
const IDLE: Duration = Duration::from_secs(300);
/// Timeout of a request's head from its first byte, and of a TLS handshake from its start.
const HEAD: Duration = Duration::from_secs(30);
/// Timeout while a client reads nothing of a response.
const STALL: Duration = Duration::from_secs(30);
/// Timeout of a whole request, from its head to the last byte of its response; a reading may take a minute.
const REQUEST: Duration = Duration::from_secs(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing received since the last response.
    Idle,
    /// In a TLS handshake, or part of a request's head received.
    Head,
    /// From a complete request head to the last byte of its response.
    Request,
    /// Being closed for another connection.
    GivingWay,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// The response's body is complete; its last bytes may still have to be written.
    answered: bool,
    /// Since when the client has read nothing although there is data; `None`: not stalled.
    stalled: Option<Instant>,
    /// Released with the last byte of the response.
    permits: Vec<OwnedSemaphorePermit>,
}

/// State shared by a connection, its requests, and the code that chooses a connection to close.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    /// Signals that the deadline may be earlier now.
    changed: Notify,
}

impl Activity {
    /// For a connection accepted now.
    pub(crate) fn new(now: Instant) -> Self {
        let state = State { phase: Phase::Idle, since: now, answered: false, stalled: None, permits: Vec::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Since when the connection is not in a request; `None`: it is in one, or is being closed.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        matches!(state.phase, Phase::Idle | Phase::Head).then_some(state.since)
    }

    /// Has it closed, unless a request has arrived meanwhile; returns whether it will close.
    pub(crate) fn give_way(&self) -> bool {
        let mut state = lock(&self.state);
        let idle = matches!(state.phase, Phase::Idle | Phase::Head);
        if idle {
            state.phase = Phase::GivingWay;
            self.changed.notify_one();
        }
        idle
    }

    /// Whether it is being closed for another connection.
    pub(crate) fn gives_way(&self) -> bool {
        lock(&self.state).phase == Phase::GivingWay
    }

    /// Start of a TLS handshake.
    pub(crate) fn begin_handshake(&self, now: Instant) {
        self.enter(Phase::Idle, Phase::Head, now);
    }

    /// End of the handshake; requests may follow.
    pub(crate) fn end_handshake(&self, now: Instant) {
        self.enter(Phase::Head, Phase::Idle, now);
    }

    /// Data was received.
    fn received(&self, now: Instant) {
        self.enter(Phase::Idle, Phase::Head, now);
    }

    fn enter(&self, from: Phase, to: Phase, now: Instant) {
        let mut state = lock(&self.state);
        if state.phase == from {
            (state.phase, state.since) = (to, now);
            self.changed.notify_one();
        }
    }

    /// A request's head is complete. `false`: too late, the connection is being closed.
    pub(crate) fn begin_request(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if state.phase == Phase::GivingWay {
            return false;
        }
        (state.phase, state.since, state.answered) = (Phase::Request, now, false);
        true
    }

    /// Holds a permit until the last byte of the response is written.
    pub(crate) fn keep(&self, permit: OwnedSemaphorePermit) {
        lock(&self.state).permits.push(permit);
    }

    fn body_ended(&self) {
        lock(&self.state).answered = true;
    }

    /// All data has been written.
    fn flushed(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.stalled = None;
        if state.phase == Phase::Request && state.answered {
            (state.phase, state.since) = (Phase::Idle, now);
            state.permits.clear();
            self.changed.notify_one();
        }
    }

    /// A write was attempted; `taken`: whether the client accepted any bytes.
    fn written(&self, taken: bool, now: Instant) {
        let mut state = lock(&self.state);
        if taken {
            state.stalled = None;
        } else if state.stalled.is_none() {
            state.stalled = Some(now);
            self.changed.notify_one();
        }
    }

    /// When the connection times out unless something happens.
    fn deadline(&self) -> Instant {
        let state = lock(&self.state);
        match (state.phase, state.stalled) {
            (Phase::GivingWay, _) => state.since,
            (Phase::Idle, _) => state.since + IDLE,
            (Phase::Head, _) => state.since + HEAD,
            (Phase::Request, Some(stalled)) => (stalled + STALL).min(state.since + REQUEST),
            (Phase::Request, None) => state.since + REQUEST,
        }
    }

    /// Completes when the connection has to end. Returns whether unread data is to be discarded, because of a timeout
    /// or because another connection needs the slot.
    pub(crate) async fn ended(&self) -> bool {
        loop {
            let deadline = self.deadline();
            if deadline <= Instant::now() {
                return matches!(lock(&self.state).phase, Phase::Request | Phase::GivingWay);
            }
            tokio::select! {
                () = tokio::time::sleep_until(deadline.into()) => {}
                () = self.changed.notified() => {}
            }
        }
    }
}

/// A stream that records its activity.
#[derive(Debug)]
pub(crate) struct WatchedStream<T> {
    stream: T,
    activity: Arc<Activity>,
}

impl<T> WatchedStream<T> {
    /// Wraps a stream.
    pub(crate) fn new(stream: T, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WatchedStream<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received(Instant::now());
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> WatchedStream<T> {
    fn told(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Pending => self.activity.written(false, Instant::now()),
            Poll::Ready(Ok(_)) => self.activity.written(true, Instant::now()),
            Poll::Ready(Err(_)) => {}
        }
        result
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WatchedStream<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.told(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.told(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper flushes when it has written everything.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        match &result {
            Poll::Pending => self.activity.written(false, Instant::now()),
            Poll::Ready(Ok(())) => self.activity.flushed(Instant::now()),
            Poll::Ready(Err(_)) => {}
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The body of a response, which records its end.
#[derive(Debug)]
pub(crate) struct TrackedBody {
    body: Body,
    activity: Arc<Activity>,
}

impl TrackedBody {
    /// Wraps a body.
    pub(crate) fn new(body: Body, activity: Arc<Activity>) -> Self {
        Self { body, activity }
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        self.activity.body_ended();
    }
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn an_idle_connection_lives_five_minutes_and_a_request_half_a_minute_from_its_first_byte() {
        let start = Instant::now();
        let activity = Activity::new(start);
        assert_eq!(activity.deadline(), at(start, 300));
        activity.received(at(start, 100));
        activity.received(at(start, 120));
        assert_eq!(activity.deadline(), at(start, 130), "from the first byte on");
        assert!(activity.begin_request(at(start, 121)));
        activity.received(at(start, 122));
        assert_eq!(activity.deadline(), at(start, 121 + 150), "who waits for the kernel is not cut off");
        activity.body_ended();
        assert_eq!(activity.idle_since(), None, "its last bytes are on their way");
        activity.flushed(at(start, 140));
        assert_eq!((activity.idle_since(), activity.deadline()), (Some(at(start, 140)), at(start, 440)));
    }

    #[test]
    fn a_client_that_takes_nothing_has_half_a_minute_and_one_that_takes_a_byte_another() {
        let start = Instant::now();
        let activity = Activity::new(start);
        activity.received(start);
        assert!(activity.begin_request(start));
        activity.body_ended();
        activity.written(false, at(start, 10));
        activity.written(false, at(start, 20));
        assert_eq!(activity.deadline(), at(start, 40));
        activity.written(true, at(start, 35));
        activity.written(false, at(start, 36));
        assert_eq!(activity.deadline(), at(start, 66));
        activity.written(true, at(start, 130));
        activity.written(false, at(start, 131));
        assert_eq!(activity.deadline(), at(start, 150), "nor may it go on for ever byte by byte");
    }

    #[test]
    fn a_permit_is_kept_until_the_last_byte() {
        let permits = Arc::new(tokio::sync::Semaphore::new(1));
        let activity = Activity::new(Instant::now());
        assert!(activity.begin_request(Instant::now()));
        activity.keep(Arc::clone(&permits).try_acquire_owned().unwrap());
        activity.flushed(Instant::now());
        activity.body_ended();
        activity.written(false, Instant::now());
        assert_eq!(permits.available_permits(), 0);
        activity.flushed(Instant::now());
        assert_eq!(permits.available_permits(), 1);
    }

    #[test]
    fn only_who_is_in_no_request_gives_way_and_then_for_good() {
        let start = Instant::now();
        let activity = Activity::new(start);
        assert!(activity.begin_request(start));
        assert!(!activity.give_way() && !activity.gives_way());
        activity.body_ended();
        activity.flushed(start);
        assert!(activity.give_way() && activity.gives_way());
        assert!(!activity.begin_request(start) && activity.idle_since().is_none());
        assert!(activity.deadline() <= Instant::now());
    }
}
