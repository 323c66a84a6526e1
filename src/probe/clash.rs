//! Whether the later of two UDP packets sent at once from one socket is dropped when NAT chose different destinations:
//! `udp-clash-drop`.
//!
//! Two threads, each bound to a CPU, send on one socket at the same instant, and a rule gives each CPU a destination of its
//! own. If they do not meet, the second follows the first. If they do, either both arrive, at two destinations, or the
//! kernel refuses one.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::lab::{DISCARD, LOCAL, Lab};
use crate::advisory::defects::DefectState;

/// Rounds of one batch: as many sockets are open at once, and twice as many datagrams wait to be received.
const ROUNDS: u16 = 32;
/// How long is tried; on two idle CPUs the first rounds meet.
const PATIENCE: Duration = Duration::from_secs(2);
/// Clashes after which the matter is clear.
const ENOUGH: usize = 4;

/// State and detail.
///
/// # Errors
/// Why it cannot be told.
pub fn experiment(lab: &mut Lab) -> Result<(DefectState, String), String> {
    let cpus = two_cpus().ok_or("it takes two CPUs, and this process may use one")?;
    let [service, one, other] = [lab.peer(), lab.peer(), lab.peer()];
    lab.redirect(service, Some(cpus[0]), one)?;
    lab.redirect(service, None, other)?;
    let start = Instant::now();
    let mut seen = Seen::default();
    while start.elapsed() < PATIENCE && seen.decided().is_none() {
        seen.add(batch(lab, service, [one, other], cpus)?);
    }
    seen.judge()
}

/// What became of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    rounds: usize,
    /// Both arrived, at two destinations.
    resolved: usize,
    /// The kernel refused to send one.
    refused: usize,
    /// Datagrams that it refused although nothing was sent at the same time.
    refused_alone: usize,
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.resolved += other.resolved;
        self.refused += other.refused;
        self.refused_alone += other.refused_alone;
    }

    fn decided(&self) -> Option<DefectState> {
        match (self.resolved, self.refused) {
            (0, ENOUGH..) => Some(DefectState::Present),
            (ENOUGH.., 0) => Some(DefectState::Absent),
            _ => None,
        }
    }

    fn judge(&self) -> Result<(DefectState, String), String> {
        let Self { rounds, resolved, refused, refused_alone } = *self;
        if refused_alone > 0 {
            return Err("the kernel refused datagrams that nothing competed with".into());
        }
        let sent = format!("of {rounds} pairs of datagrams sent at once from one socket to two destinations");
        match self.decided() {
            Some(DefectState::Present) => {
                Ok((DefectState::Present, format!("{sent}, {refused} lost one to the other, and none kept both")))
            }
            Some(state) => Ok((state, format!("{sent}, {resolved} met, and both arrived"))),
            None => Err(format!("{sent}, {resolved} kept both and {refused} lost one: too few, or not alike")),
        }
    }
}

/// The first two CPUs that this process may use.
fn two_cpus() -> Option<[u32; 2]> {
    let allowed = sched_getaffinity(None).ok()?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu));
    let mut next = || cpus.next().and_then(|cpu| u32::try_from(cpu).ok());
    Some([next()?, next()?])
}

fn batch(lab: &Lab, service: Ipv4Addr, targets: [Ipv4Addr; 2], cpus: [u32; 2]) -> Result<Seen, String> {
    let bind = |_| UdpSocket::bind((LOCAL, 0));
    let sockets: Result<Vec<UdpSocket>, _> = (0..ROUNDS).map(bind).collect();
    let sockets = sockets.map_err(|error| format!("cannot open sockets: {error}"))?;
    let to = SocketAddrV4::new(service, DISCARD);
    // One of them sends alone: what is refused then is no clash.
    let alone = send(&sockets[0], to);
    let sockets = &sockets[1..];
    let start = StartLine::default();
    let sent: [Vec<Sent>; 2] = thread::scope(|scope| {
        let lanes = cpus.map(|cpu| {
            let start = &start;
            scope.spawn(move || lane(start, sockets, to, cpu))
        });
        lanes.map(|lane| lane.join().unwrap_or_default())
    });
    let [first, second] = sent;
    if first.len() != sockets.len() || second.len() != sockets.len() {
        return Err("the two threads could not be bound to two CPUs".into());
    }
    let all = || first.iter().chain(&second).chain([&alone]);
    if all().any(|sent| *sent == Sent::Failed) {
        return Err("datagrams could not be sent".into());
    }
    let refused_alone = usize::from(alone == Sent::Refused);
    let refused = first.iter().zip(&second).filter(|(first, second)| **first != Sent::Yes || **second != Sent::Yes);
    let mut seen = Seen { rounds: sockets.len(), refused: refused.count(), refused_alone, resolved: 0 };
    let expected = all().filter(|sent| **sent == Sent::Yes).count();
    let arrived = arrivals(lab, targets, expected)?;
    let met = |socket: &&UdpSocket| {
        let port = socket.local_addr().map_or(0, |address| address.port());
        targets.iter().all(|target| arrived.contains(&(port, *target)))
    };
    seen.resolved = sockets.iter().filter(met).count();
    Ok(seen)
}

/// Source port and destination of each datagram that arrives.
fn arrivals(lab: &Lab, targets: [Ipv4Addr; 2], expected: usize) -> Result<Vec<(u16, Ipv4Addr)>, String> {
    let mut arrived = Vec::new();
    while arrived.len() < expected {
        arrived.push(lab.receive(false, |datagram| {
            let target = targets.iter().find(|target| datagram.destination == **target)?;
            Some((datagram.source_port, *target))
        })?);
    }
    Ok(arrived)
}

/// What became of a datagram in its sender's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// Netfilter dropped it, which the sender is told as `EPERM`.
    Refused,
    /// Something else.
    Failed,
}

fn send(socket: &UdpSocket, to: SocketAddrV4) -> Sent {
    match socket.send_to(b"race", to) {
        Ok(_) => Sent::Yes,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Sent::Refused,
        Err(_) => Sent::Failed,
    }
}

/// How each of a thread's datagrams was sent; none at all if it could not be bound to its CPU.
fn lane(start: &StartLine, sockets: &[UdpSocket], to: SocketAddrV4, cpu: u32) -> Vec<Sent> {
    let mut only = CpuSet::new();
    only.set(cpu as usize);
    if sched_setaffinity(None, &only).is_err() {
        start.gone.store(true, Ordering::SeqCst);
        return Vec::new();
    }
    let mut sent = Vec::with_capacity(sockets.len());
    for (round, socket) in sockets.iter().enumerate() {
        start.meet(round);
        sent.push(send(socket, to));
    }
    sent
}

/// Where the threads wait for each other, busily: a sleep would cost the microseconds that count.
#[derive(Debug, Default)]
struct StartLine {
    arrived: AtomicUsize,
    gone: AtomicBool,
}

impl StartLine {
    fn meet(&self, round: usize) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        while self.arrived.load(Ordering::SeqCst) < 2 * (round + 1) && !self.gone.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clashes_of_one_kind_decide() {
        let state = |resolved, refused, refused_alone| {
            Seen { rounds: 63, resolved, refused, refused_alone }.judge().map(|(state, _)| state)
        };
        assert_eq!(state(4, 0, 0), Ok(DefectState::Absent));
        assert_eq!(state(0, 40, 0), Ok(DefectState::Present));
        assert!(state(0, 0, 0).is_err(), "they never met");
        assert!(state(3, 0, 0).is_err() && state(0, 3, 0).is_err(), "too few");
        assert!(state(5, 5, 0).is_err(), "both kinds");
        assert!(state(0, 40, 1).is_err(), "refused for another reason");
    }
}
