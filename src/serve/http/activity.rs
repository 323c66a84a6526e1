//! What a connection is doing, and how long it may.

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

/// How long a connection may be idle. Prometheus scrapes once a minute by default, and keeps its connections.
const IDLE: Duration = Duration::from_secs(300);
/// How long the head of a request may take from its first byte on, and a TLS handshake from its beginning.
const HEAD: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
const STALL: Duration = Duration::from_secs(30);
/// How long a request may take in all, from its head to the last byte of its answer: a reading may take a minute.
const REQUEST: Duration = Duration::from_secs(150);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing was received since the last answer.
    Idle,
    /// A TLS handshake, or a request of which a part has come.
    Head,
    /// From the end of a request's head to the last byte of its answer.
    Request,
    /// Another connection takes its place.
    GivingWay,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    since: Instant,
    /// The answer's body has come to its end; its last bytes may still have to be written.
    answered: bool,
    /// Since when the client has taken nothing, while there is something to take.
    stalled: Option<Instant>,
    /// Given back with the last byte of the answers.
    permits: Vec<OwnedSemaphorePermit>,
}

/// Shared by a connection, its requests and whoever looks for one that can give way.
#[derive(Debug)]
pub(crate) struct Activity {
    state: Mutex<State>,
    /// The deadline may have come nearer.
    changed: Notify,
}

impl Activity {
    /// Of a connection that is accepted now.
    pub(crate) fn new(now: Instant) -> Self {
        let state = State { phase: Phase::Idle, since: now, answered: false, stalled: None, permits: Vec::new() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// Since when it has been in no request; `None`: it is in one, or already gives way.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        let state = lock(&self.state);
        matches!(state.phase, Phase::Idle | Phase::Head).then_some(state.since)
    }

    /// Makes it end, unless a request has come meanwhile.
    pub(crate) fn give_way(&self) -> bool {
        let mut state = lock(&self.state);
        let idle = matches!(state.phase, Phase::Idle | Phase::Head);
        if idle {
            state.phase = Phase::GivingWay;
            self.changed.notify_one();
        }
        idle
    }

    /// Whether it has been told to.
    pub(crate) fn gives_way(&self) -> bool {
        lock(&self.state).phase == Phase::GivingWay
    }

    /// A TLS handshake begins.
    pub(crate) fn begin_handshake(&self, now: Instant) {
        self.enter(Phase::Idle, Phase::Head, now);
    }

    /// It has come to its end; now a request may come.
    pub(crate) fn end_handshake(&self, now: Instant) {
        self.enter(Phase::Head, Phase::Idle, now);
    }

    /// Bytes have come.
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

    /// The head of a request is complete. `false`: it comes too late, the connection gives way.
    pub(crate) fn begin_request(&self, now: Instant) -> bool {
        let mut state = lock(&self.state);
        if state.phase == Phase::GivingWay {
            return false;
        }
        (state.phase, state.since, state.answered) = (Phase::Request, now, false);
        true
    }

    /// Keeps this until the last byte of the answer is sent.
    pub(crate) fn keep(&self, permit: OwnedSemaphorePermit) {
        lock(&self.state).permits.push(permit);
    }

    fn body_ended(&self) {
        lock(&self.state).answered = true;
    }

    /// Everything that was to be written is.
    fn flushed(&self, now: Instant) {
        let mut state = lock(&self.state);
        state.stalled = None;
        if state.phase == Phase::Request && state.answered {
            (state.phase, state.since) = (Phase::Idle, now);
            state.permits.clear();
            self.changed.notify_one();
        }
    }

    /// Something was to be written, and the client took of it, or nothing.
    fn written(&self, taken: bool, now: Instant) {
        let mut state = lock(&self.state);
        if taken {
            state.stalled = None;
        } else if state.stalled.is_none() {
            state.stalled = Some(now);
            self.changed.notify_one();
        }
    }

    /// When the connection is closed if nothing happens until then.
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

    /// Ends when the connection has to. Whether what its client has not taken yet is to be thrown away: it had its time, or
    /// somebody else needs the place.
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

/// A stream that tells what happens on it.
#[derive(Debug)]
pub(crate) struct WatchedStream<T> {
    stream: T,
    activity: Arc<Activity>,
}

impl<T> WatchedStream<T> {
    /// Tells this one.
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

    /// hyper flushes when it has written everything that it has.
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

/// The body of an answer, which tells when it has come to its end.
#[derive(Debug)]
pub(crate) struct TrackedBody {
    body: Body,
    activity: Arc<Activity>,
}

impl TrackedBody {
    /// Tells this one.
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
