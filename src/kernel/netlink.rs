//! Executes netlink requests, for `Live`, on the reading thread. Only framing is decoded, to find the end of a
//! response.
//!
//! A response is passed on message by message, so that a reader may stop a dump. Each wait ends with the deadline of
//! the reading (`progress`).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Instant;

use neli::consts::socket::{Msg, NlFamily};
use neli::socket::NlSocket;
use neli::utils::Groups;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{RecvFlags, recvfrom};

use super::Progress;
use super::readable::readable;
use crate::capture::{Framing, NetlinkFamily, NetlinkRequest, Take};
use crate::facts::{Failure, Reading, SystemCall};
use crate::netfilter::netlink::{self, HEADER_LENGTH, NLMSG_ERROR};

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// The kernel packs at most 32 KiB into one datagram of a dump.
const BUFFER: usize = 64 << 10;

/// Size limit, bytes, of messages in one dump that are skipped: 200,000 chains.
const MAX_PASSED_OVER: usize = 64 << 20;

/// The sockets of one thread: one per protocol, opened when first used and kept for later readings.
#[derive(Default)]
pub(crate) struct Sockets {
    open: BTreeMap<NetlinkFamily, NlSocket>,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Sockets {
    /// Sends a request and passes on the response, message by message.
    pub(crate) fn ask(
        &mut self,
        request: &NetlinkRequest,
        progress: &Progress,
        take: &mut dyn FnMut(&[u8]) -> Take,
    ) -> Reading<()> {
        let answered = self.exchange(request, progress, take);
        if !matches!(answered, Ok((_, true))) {
            self.open.remove(&request.family); // discards what may still arrive
        }
        match answered {
            Ok((reading, _)) => reading,
            Err(Failure::SystemCall { call, errno })
                if [Errno::PERM, Errno::ACCESS].map(Errno::raw_os_error).contains(&errno) =>
            {
                Reading::Denied(format!("{call} is refused: a sandbox (seccomp, RestrictAddressFamilies) does that"))
            }
            Err(failure) => Reading::Failed(failure),
        }
    }

    /// Result of the response, and whether it was received completely.
    fn exchange(
        &mut self,
        request: &NetlinkRequest,
        progress: &Progress,
        take: &mut dyn FnMut(&[u8]) -> Take,
    ) -> Result<(Reading<()>, bool), Failure> {
        self.sequence += 1;
        let sequence = self.sequence;
        let socket = match self.open.entry(request.family) {
            Entry::Occupied(socket) => socket.into_mut(),
            Entry::Vacant(place) => {
                place.insert(connect(request.family).map_err(|error| super::failure(SystemCall::Socket, &error))?)
            }
        };
        send(socket, &bytes(request, sequence), progress)?;
        self.buffer.resize(BUFFER, 0);
        let mut answer = Receiving { request, sequence, framing: Framing::new(request), passed_over: 0 };
        loop {
            let datagram = receive(socket, &mut self.buffer, progress)?;
            // Once per datagram: reading the clock takes longer than a message.
            if let Some(ended) = progress.outside(|| answer.datagram(datagram, take))? {
                return Ok(ended);
            }
        }
    }
}

/// A response being received.
struct Receiving<'r> {
    request: &'r NetlinkRequest,
    sequence: u32,
    framing: Framing,
    /// Bytes of messages skipped.
    passed_over: usize,
}

impl Receiving<'_> {
    /// Passes on the wanted messages of a datagram. At the end: the result, and whether the response is complete.
    fn datagram(
        &mut self,
        mut datagram: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Take,
    ) -> Result<Option<(Reading<()>, bool)>, Failure> {
        while !datagram.is_empty() {
            let (message, rest) = netlink::split_message(datagram)?;
            datagram = rest;
            if netlink::sequence(message)? != self.sequence {
                return Err(Failure::unexpected("an answer to another request"));
            }
            if !kept(self.request, message)? {
                self.passed_over += message.len();
                if self.passed_over > MAX_PASSED_OVER {
                    return Err(Failure::too_large(MAX_PASSED_OVER, "bytes of messages that nobody wants"));
                }
                continue;
            }
            if let ControlFlow::Break(ended) = self.framing.message(message, take) {
                let single = !self.request.dump && !self.request.ack;
                let to_its_end = rest.is_empty() && (single || netlink::is_control(message)?);
                return Ok(Some((ended?, to_its_end)));
            }
        }
        Ok(None)
    }
}

/// Whether a message of a large dump is wanted.
fn kept(request: &NetlinkRequest, message: &[u8]) -> Result<bool, Failure> {
    let Some(keep) = request.keep else { return Ok(true) };
    Ok(netlink::is_control(message)? || netlink::has_attribute(message, keep.header, keep.attribute)?)
}

/// Waits while the socket's buffer is full; retries after signals.
fn send(socket: &NlSocket, message: &[u8], progress: &Progress) -> Result<(), Failure> {
    loop {
        let error = match socket.send(message, Msg::DONTWAIT) {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            _ if progress.is_over() => return Err(progress.not_answered()),
            Some(Errno::INTR) => {}
            Some(Errno::AGAIN) => {
                let moment = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
                let _ = poll(&mut [PollFd::new(&borrow(socket), PollFlags::OUT)], Some(&moment));
            }
            _ => return Err(super::failure(SystemCall::Send, &error)),
        }
    }
}

/// The next datagram sent by the kernel itself.
fn receive<'b>(socket: &NlSocket, buffer: &'b mut [u8], progress: &Progress) -> Result<&'b [u8], Failure> {
    loop {
        // Checked here too, since there may always be something to read.
        if progress.is_over() {
            return Err(progress.not_answered());
        }
        // The first datagram is available once the request was sent, the next once one was received.
        match recvfrom(borrow(socket), &mut *buffer, RecvFlags::TRUNC | RecvFlags::DONTWAIT) {
            Ok((_, length, from)) => {
                let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                if from.is_none_or(|from| from.pid() != 0) {
                    continue; // sent by another process
                }
                return buffer.get(..length).ok_or_else(|| Failure::too_large(BUFFER, "bytes in one message"));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // A dump that waits for a lock does so inside send or recv; this bounds a kernel that never answers.
                // The deadline may have been extended meanwhile.
                let ready = readable(borrow(socket), progress.deadline());
                ready.map_err(|error| super::failure(SystemCall::Poll, &error))?;
            }
            Err(errno) => return Err(super::failure(SystemCall::Receive, &errno.into())),
        }
    }
}

/// The socket's descriptor.
#[allow(unsafe_code, reason = "neli's socket lends only its number")]
pub(crate) fn borrow(socket: &NlSocket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `socket`, which outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// Sockets for requests that change something, one per protocol. Only [`crate::probe`] may use it, in a network
/// namespace of its own.
#[derive(Default)]
pub(crate) struct NetlinkSender {
    open: BTreeMap<NetlinkFamily, NlSocket>,
}

impl NetlinkSender {
    /// Sends messages and waits for the first acknowledgement or error.
    ///
    /// # Errors
    /// The kernel's error.
    pub(crate) fn change(&mut self, family: NetlinkFamily, messages: &[u8], deadline: Instant) -> io::Result<()> {
        let result = self.try_to_change(family, messages, deadline);
        if result.is_err() {
            self.open.remove(&family); // other messages of the batch may have errors that are still to be received
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
            for message in netlink::messages(&buffer[..length]) {
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
        NetlinkFamily::Xfrm => NlFamily::Xfrm,
    };
    NlSocket::connect(protocol, None, Groups::empty())
}

fn bytes(request: &NetlinkRequest, sequence: u32) -> Vec<u8> {
    let length = HEADER_LENGTH + request.body.len();
    let dump = if request.dump { NLM_F_DUMP } else { 0 };
    let ack = if request.ack { NLM_F_ACK } else { 0 };
    let mut bytes = Vec::with_capacity(length);
    // Readers build requests from bounded values, far below 4 GiB.
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(request.kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | dump | ack).to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend(0u32.to_ne_bytes());
    bytes.extend(&request.body);
    bytes
}

fn wait(socket: &NlSocket, deadline: Instant) -> io::Result<()> {
    match readable(borrow(socket), deadline)? {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::TimedOut, "no answer before the deadline")),
    }
}
