//! Experiment for `udp-clash-drop`: whether one of two UDP packets sent simultaneously from one socket is dropped if
//! NAT chose different destinations.
//!
//! Two threads, each bound to a CPU, send on one socket at the same time, and a rule gives each CPU its own
//! destination. Without a clash the second packet follows the first one's entry. With a clash, either both arrive, at
//! two destinations, or the kernel drops one.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::lab::{DISCARD, LOCAL, Lab};
use crate::advisory::defects::DefectState;
use crate::facts::netfilter::Family;

/// Rounds per batch: number of sockets open at a time, and half the number of datagrams waiting to be received.
const ROUNDS: u16 = 32;
/// Time limit; on two idle CPUs the first rounds clash.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one thread waits for the other; a preempted thread returns after some milliseconds.
const MEETING: Duration = Duration::from_millis(500);
/// Number of clashes after which the result is clear.
const ENOUGH: usize = 4;

/// State and detail.
///
/// # Errors
/// Why the experiment has no result.
pub(crate) fn experiment(lab: &mut Lab) -> Result<(DefectState, String), String> {
    let cpus = two_cpus()?;
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

/// Results of the rounds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    rounds: usize,
    /// Rounds in which both arrived, at two destinations.
    resolved: usize,
    /// Rounds in which the kernel refused to send one.
    refused: usize,
    /// Datagrams refused although none was sent at the same time.
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

/// The first two CPUs in this process's affinity mask.
fn two_cpus() -> Result<[u32; 2], String> {
    let allowed =
        sched_getaffinity(None).map_err(|error| format!("which CPUs may be used could not be told: {error}"))?;
    let mut cpus = (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).filter_map(|cpu| u32::try_from(cpu).ok());
    match (cpus.next(), cpus.next()) {
        (Some(one), Some(other)) => Ok([one, other]),
        _ => Err("it takes two CPUs, and this process may use one".into()),
    }
}

fn batch(lab: &Lab, service: Ipv4Addr, targets: [Ipv4Addr; 2], cpus: [u32; 2]) -> Result<Seen, String> {
    let bind = |_| UdpSocket::bind((LOCAL, 0));
    let sockets: Result<Vec<UdpSocket>, _> = (0..ROUNDS).map(bind).collect();
    let sockets = sockets.map_err(|error| format!("cannot open sockets: {error}"))?;
    let to = SocketAddrV4::new(service, DISCARD);
    // Sent without a competitor: a refusal here is no clash.
    let [first, sockets @ .., last] = sockets.as_slice() else { return Err("too few sockets".into()) };
    let mut alone = vec![send(first, to)];
    let sent = race(sockets, to, cpus)?;
    alone.push(send(last, to));
    let all = || sent.iter().flatten().chain(&alone);
    if all().any(|sent| *sent == Sent::Failed) {
        return Err("datagrams could not be sent".into());
    }
    let expected = all().filter(|sent| **sent == Sent::Yes).count();
    let pairs = || sent.iter().map(|pair| pair.iter().filter(|sent| **sent == Sent::Refused).count());
    // In a clash the first one is kept: if both are refused, there is another reason.
    let refused_alone =
        alone.iter().filter(|sent| **sent == Sent::Refused).count() + pairs().filter(|it| *it == 2).count();
    let refused = pairs().filter(|refused| *refused == 1).count();
    let arrived = arrivals(lab, targets, expected)?;
    let met = |socket: &&UdpSocket| {
        let port = socket.local_addr().map_or(0, |address| address.port());
        targets.iter().all(|target| arrived.contains(&(port, *target)))
    };
    Ok(Seen { rounds: sockets.len(), resolved: sockets.iter().filter(met).count(), refused, refused_alone })
}

/// Both threads send on each socket at the same time.
fn race(sockets: &[UdpSocket], to: SocketAddrV4, cpus: [u32; 2]) -> Result<Vec<[Sent; 2]>, String> {
    let start = StartLine::default();
    let lanes = thread::scope(|scope| {
        let lanes = cpus.map(|cpu| {
            let start = &start;
            let lane = thread::Builder::new().spawn_scoped(scope, move || lane(start, sockets, to, cpu));
            start.gone.fetch_or(lane.is_err(), Ordering::SeqCst);
            lane
        });
        lanes.map(|lane| lane.ok().and_then(|lane| lane.join().ok()).unwrap_or_default())
    });
    let [first, second] = lanes;
    if first.len() != sockets.len() || second.len() != sockets.len() {
        return Err("two threads could not run on two CPUs at once".into());
    }
    Ok(first.into_iter().zip(second).map(|(first, second)| [first, second]).collect())
}

/// Source port and destination of the datagrams that arrive.
fn arrivals(lab: &Lab, targets: [Ipv4Addr; 2], expected: usize) -> Result<Vec<(u16, Ipv4Addr)>, String> {
    let mut arrived = Vec::new();
    while arrived.len() < expected {
        arrived.push(lab.receive(Family::Ipv4, |datagram| {
            let target = targets.iter().find(|target| datagram.destination == **target)?;
            Some((datagram.source_port, *target))
        })?);
    }
    Ok(arrived)
}

/// Result of sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// `EPERM`: netfilter dropped it.
    Refused,
    /// Another error.
    Failed,
}

fn send(socket: &UdpSocket, to: SocketAddrV4) -> Sent {
    match socket.send_to(b"race", to) {
        Ok(_) => Sent::Yes,
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Sent::Refused,
        Err(_) => Sent::Failed,
    }
}

/// Results of one thread's datagrams; fewer if it could not be bound to its CPU or the other thread failed.
fn lane(start: &StartLine, sockets: &[UdpSocket], to: SocketAddrV4, cpu: u32) -> Vec<Sent> {
    let mut only = CpuSet::new();
    only.set(cpu as usize);
    if sched_setaffinity(None, &only).is_err() {
        start.gone.store(true, Ordering::SeqCst);
    }
    let met = sockets.iter().enumerate().take_while(|(round, _)| start.meet(*round));
    met.map(|(_, socket)| send(socket, to)).collect()
}

/// A spinning barrier for two threads: a sleep would take longer than a clash window.
#[derive(Debug, Default)]
struct StartLine {
    arrived: AtomicUsize,
    gone: AtomicBool,
}

impl StartLine {
    /// Waits for the other thread; `false`: it does not come.
    fn meet(&self, round: usize) -> bool {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let since = Instant::now();
        while self.arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
            if self.gone.load(Ordering::Relaxed) || since.elapsed() > MEETING {
                self.gone.store(true, Ordering::SeqCst);
                return false;
            }
            std::hint::spin_loop();
        }
        !self.gone.load(Ordering::Relaxed)
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
