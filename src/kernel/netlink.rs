//! Netlink requests. Only the framing is looked at, to see where an answer ends.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::io::Errno;

use super::readable::readable;
use crate::capture::{Answer, NetlinkFamily, NetlinkRequest};
use crate::snapshot::{Failure, Reading};
use crate::wire::{self, HEADER_LENGTH, NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel packs at most 32 KiB into one datagram of a dump.
const BUFFER: usize = 64 << 10;
/// How often an interrupted dump is repeated before it counts as failed.
const MAX_TRIES: usize = 4;

/// The sockets of one look; one per protocol, opened when first needed.
#[derive(Default)]
pub struct Sockets {
    open: BTreeMap<NetlinkFamily, NlSocket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Sends one request and collects the whole answer, byte for byte.
    pub fn ask(&mut self, request: &NetlinkRequest, deadline: Instant) -> Answer {
        for _ in 0..MAX_TRIES {
            match self.ask_once(request, deadline) {
                Ok(Some(bytes)) => return classify(bytes),
                Ok(None) => {} // interrupted by a change
                Err(error) => {
                    self.open.remove(&request.family); // whatever may still arrive on it belongs to nobody
                    return failure(request.family, error);
                }
            }
        }
        Reading::Failed(Failure::Changed { readings: MAX_TRIES as u32 })
    }

    fn ask_once(&mut self, request: &NetlinkRequest, deadline: Instant) -> Result<Option<Vec<u8>>, Failure> {
        self.sequence += 1;
        let message = bytes(request, self.sequence);
        let socket = match self.open.entry(request.family) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => {
                place.insert(connect(request.family).map_err(|error| super::failure("socket", &error))?)
            }
        };
        socket.send(&message, Msg::empty()).map_err(|error| super::failure("send", &error))?;
        self.buffer.resize(BUFFER, 0);
        let mut answer: Vec<u8> = Vec::new();
        let mut interrupted = false;
        loop {
            wait(socket, deadline).map_err(|error| super::failure("poll", &error))?;
            let received = socket.recv(&mut self.buffer[..], Msg::TRUNC);
            let (length, _) = received.map_err(|error| super::failure("recv", &error))?;
            let datagram = self.buffer.get(..length).ok_or(Failure::too_large(BUFFER, "bytes in one message"))?;
            let datagram_start = answer.len();
            answer.extend_from_slice(datagram);
            answer.resize(answer.len().next_multiple_of(4), 0);
            if answer.len() > request.limit {
                return Err(Failure::too_large(request.limit, "bytes"));
            }
            let mut finished = false;
            for part in wire::messages(&answer[datagram_start..]) {
                let part = part?;
                interrupted |= part.flags & NLM_F_DUMP_INTR != 0;
                // An acknowledgement is an NLMSG_ERROR of 0, and comes after everything else.
                finished |=
                    matches!(part.kind, NLMSG_DONE | NLMSG_ERROR) || (!request.ack && part.flags & NLM_F_MULTI == 0);
            }
            if let Some(keep) = request.keep {
                let kept = wire::keep(&answer[datagram_start..], keep.header, keep.attribute)?;
                answer.truncate(datagram_start);
                answer.extend(kept);
            }
            if finished {
                return Ok((!interrupted).then_some(answer));
            }
        }
    }
}

/// Sockets to change something with, one per protocol. Nothing but [`crate::probe`] may do that, in a network namespace that is
/// its own.
#[derive(Default)]
pub struct Writer {
    open: BTreeMap<NetlinkFamily, NlSocket>,
}

impl Writer {
    /// Sends messages and waits for the first acknowledgement or error.
    ///
    /// # Errors
    /// What the kernel refused.
    pub fn change(&mut self, family: NetlinkFamily, messages: &[u8], deadline: Instant) -> io::Result<()> {
        let result = self.try_to_change(family, messages, deadline);
        if result.is_err() {
            self.open.remove(&family); // each message of a batch may have an error of its own, still to be received
        }
        result
    }

    fn try_to_change(&mut self, family: NetlinkFamily, messages: &[u8], deadline: Instant) -> io::Result<()> {
        let socket = match self.open.entry(family) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => place.insert(connect(family)?),
        };
        socket.send(messages, Msg::empty())?;
        let mut buffer = vec![0; BUFFER];
        loop {
            wait(socket, deadline)?;
            let (length, _) = socket.recv(&mut buffer[..], Msg::empty())?;
            for message in wire::messages(&buffer[..length]) {
                let message = message.map_err(io::Error::other)?;
                if message.kind == NLMSG_ERROR {
                    return match message.errno().map_err(io::Error::other)? {
                        0 => Ok(()),
                        errno => Err(io::Error::from_raw_os_error(errno)),
                    };
                }
            }
        }
    }
}

fn connect(family: NetlinkFamily) -> io::Result<NlSocket> {
    let protocol = match family {
        NetlinkFamily::Route => NlFamily::Route,
        NetlinkFamily::Generic => NlFamily::Generic,
        NetlinkFamily::Netfilter => NlFamily::Netfilter,
    };
    NlSocket::connect(protocol, None, Groups::empty())
}

fn bytes(request: &NetlinkRequest, sequence: u32) -> Vec<u8> {
    let length = HEADER_LENGTH + request.body.len();
    let dump = if request.dump { NLM_F_DUMP } else { 0 };
    let ack = if request.ack { NLM_F_ACK } else { 0 };
    let mut bytes = Vec::with_capacity(length);
    // Requests are built by the planner from bounded values; none comes near 4 GiB.
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(request.kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | dump | ack).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(&request.body);
    bytes
}

#[allow(unsafe_code, reason = "neli's socket lends only its number")]
fn wait(socket: &NlSocket, deadline: Instant) -> io::Result<()> {
    // A dump that waits for a lock does so inside send or recv; this bounds a kernel that never answers.
    // SAFETY: the descriptor is open as long as `socket`, which outlives the borrow.
    let fd = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    match readable(fd, deadline)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer before the deadline")),
    }
}

/// A refusal for lack of permission is a state of its own; every other answer is kept as it is.
fn classify(bytes: Vec<u8>) -> Answer {
    let errno = wire::messages(&bytes).find_map(|message| {
        let message = message.ok()?;
        matches!(message.kind, NLMSG_ERROR | NLMSG_DONE).then(|| message.errno().ok()).flatten()
    });
    let refused = [Errno::PERM, Errno::ACCESS].map(Errno::raw_os_error);
    if errno.is_some_and(|errno| refused.contains(&errno)) { denied() } else { Reading::Ok(bytes) }
}

fn denied() -> Answer {
    Reading::Denied("CAP_NET_ADMIN is missing (in the user namespace that owns this network namespace)".into())
}

fn failure(family: NetlinkFamily, failure: Failure) -> Answer {
    let errno = match &failure {
        Failure::SystemCall { errno, .. } => Some(Errno::from_raw_os_error(*errno)),
        _ => None,
    };
    match errno {
        Some(Errno::PERM | Errno::ACCESS) => denied(),
        Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => {
            Reading::Absent(format!("this kernel has no netlink protocol for {family:?}"))
        }
        _ => Reading::Failed(failure),
    }
}
