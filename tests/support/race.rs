//! Two packets sent at the same time on two CPUs: which loses the race for a source port.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, connect, sendto};

use super::cpus::{pin_to, prefer_this_thread, two_cpus};
use super::router::{CLIENTS, Proto, Router, TARGET};
use super::sockets::{allow_open_files, bound_socket};

/// A connect that took this long needed a second SYN (the kernel waits 1 s before it).
const SLOW: Duration = Duration::from_millis(900);
/// After this long an unanswered connect is counted as slow and given up.
const HOPELESS: Duration = Duration::from_secs(10);
/// How often finished connects are checked between rounds.
const READ_EVERY: Duration = Duration::from_millis(20);
/// Source port of the first round; each round has its own.
const FIRST_PORT: u16 = 20_000;

/// What the two threads do at the same instant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Race {
    /// Same source port on two addresses: after translation the same flow twice.
    Ports(Proto),
    /// Both send UDP on one socket: the same flow twice already before translation.
    SameSocket,
}

/// A race ends at whichever comes first.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub rounds: u16,
    pub time: Duration,
}

/// What the senders saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RaceReport {
    /// Rounds in which both threads took part.
    pub rounds: u64,
    /// SYNs or datagrams handed to the kernel, without TCP's retransmissions.
    pub sent: u64,
    /// TCP connects that took 0.9 s or more.
    pub slow: u64,
}

/// Races in the client's namespace towards [`TARGET`]. Hold [`super::wait::exclusive`] meanwhile.
pub fn race(lab: &Router, kind: Race, limits: Limits) -> RaceReport {
    lab.client.enter(|| race_here(kind, limits))
}

fn race_here(kind: Race, limits: Limits) -> RaceReport {
    allow_open_files(2 * u64::from(limits.rounds) + 200);
    let own = bind_all(kind, CLIENTS[0], limits.rounds);
    let other = match kind {
        Race::Ports(_) => Some(bind_all(kind, CLIENTS[1], limits.rounds)),
        Race::SameSocket => None,
    };
    let lanes = [&own, other.as_ref().unwrap_or(&own)];
    let start = StartLine::new(limits.time);
    let cpus = two_cpus();
    let reports = thread::scope(|scope| {
        let run = |lane: usize| {
            let (start, sockets, cpu) = (&start, lanes[lane], cpus[lane]);
            scope.spawn(move || run_lane(lane, kind, sockets, start, cpu))
        };
        [run(0), run(1)].map(|lane| lane.join().expect("a racing thread failed"))
    });
    RaceReport {
        rounds: reports[0].rounds,
        sent: reports[0].sent + reports[1].sent,
        slow: reports[0].slow + reports[1].slow,
    }
}

/// One thread's rounds: wait for the other, then send at once.
fn run_lane(lane: usize, kind: Race, sockets: &[OwnedFd], start: &StartLine, cpu: usize) -> RaceReport {
    let _release = ReleaseOnPanic(start);
    pin_to(cpu);
    prefer_this_thread();
    let mut report = RaceReport::default();
    let mut pending = Pending::default();
    for (round, socket) in sockets.iter().enumerate() {
        if lane == 0 {
            start.close_if_late(round);
        }
        if !start.meet(round) {
            break;
        }
        fire(kind, socket, TARGET);
        report.rounds += 1;
        report.sent += 1;
        if kind == Race::Ports(Proto::Tcp) {
            pending.add(socket);
        }
    }
    report.slow = pending.finish();
    report
}

fn fire(kind: Race, socket: &OwnedFd, target: SocketAddrV4) {
    let result = match kind {
        Race::Ports(Proto::Tcp) => connect(socket, &target),
        _ => sendto(socket, b"x", SendFlags::empty(), &target).map(|_| ()),
    };
    match result {
        Ok(()) | Err(Errno::INPROGRESS | Errno::CONNREFUSED) => {}
        Err(e) => panic!("sending in {kind:?}: {e}"),
    }
}

/// Where the threads wait for each other by spinning: a sleep would cost the microseconds that matter.
struct StartLine {
    /// Arrivals of both threads in all rounds.
    arrived: AtomicUsize,
    /// The first round that is not to be run.
    closed_from: AtomicUsize,
    closes: Instant,
}

impl StartLine {
    fn new(open: Duration) -> Self {
        Self { arrived: AtomicUsize::new(0), closed_from: AtomicUsize::new(usize::MAX), closes: Instant::now() + open }
    }

    /// Only one thread may call this, so that both stop after the same round.
    fn close_if_late(&self, round: usize) {
        if Instant::now() >= self.closes {
            self.closed_from.fetch_min(round, Ordering::SeqCst);
        }
    }

    /// Returns when both have arrived; false if this round is not to be run.
    fn meet(&self, round: usize) -> bool {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        while self.arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
            std::hint::spin_loop();
        }
        round < self.closed_from.load(Ordering::SeqCst)
    }
}

/// Releases the other thread if this one panics; otherwise it would spin for ever.
struct ReleaseOnPanic<'a>(&'a StartLine);

impl Drop for ReleaseOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.closed_from.store(0, Ordering::SeqCst);
            self.0.arrived.store(usize::MAX / 2, Ordering::SeqCst);
        }
    }
}

/// Pending connects, and how many of the finished ones were slow.
#[derive(Default)]
struct Pending<'a> {
    connects: Vec<(&'a OwnedFd, Instant)>,
    slow: u64,
    looked: Option<Instant>,
}

impl<'a> Pending<'a> {
    fn add(&mut self, socket: &'a OwnedFd) {
        let now = Instant::now();
        self.connects.push((socket, now));
        if now.duration_since(*self.looked.get_or_insert(now)) >= READ_EVERY {
            self.look(Duration::ZERO);
        }
    }

    /// Waits for what is left and returns the number of slow connects.
    fn finish(mut self) -> u64 {
        while !self.connects.is_empty() {
            self.look(READ_EVERY);
        }
        self.slow
    }

    /// Removes the connects that have ended, after waiting at most `wait` for one.
    fn look(&mut self, wait: Duration) {
        let as_poll = |(socket, _): &(&'a OwnedFd, Instant)| PollFd::new(*socket, PollFlags::OUT);
        let mut fds: Vec<PollFd> = self.connects.iter().map(as_poll).collect();
        let timeout = Timespec::try_from(wait).expect("a short wait");
        poll(&mut fds, Some(&timeout)).expect("poll");
        let now = Instant::now();
        let mut ended = fds.iter().map(|fd| !fd.revents().is_empty());
        let slow = &mut self.slow;
        self.connects.retain(|(_, since)| {
            let took = now.duration_since(*since);
            let gone = ended.next() == Some(true) || took >= HOPELESS;
            *slow += u64::from(gone && took >= SLOW);
            !gone
        });
        self.looked = Some(now);
    }
}

/// One socket per round, bound beforehand so that a round is one system call.
fn bind_all(kind: Race, source: Ipv4Addr, rounds: u16) -> Vec<OwnedFd> {
    let proto = match kind {
        Race::Ports(proto) => proto,
        Race::SameSocket => Proto::Udp,
    };
    let ports = FIRST_PORT..FIRST_PORT + rounds;
    ports.map(|port| bound_socket(proto, SocketAddrV4::new(source, port))).collect()
}
