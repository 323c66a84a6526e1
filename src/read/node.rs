//! The reader's view of a node: sends requests, records the state of sources, and remembers responses. Wraps `Ask` for
//! one reading, and decides which absences are believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::absence::{self, Absence};
use super::{Collectors, Known, Sources};
use crate::capture::{Ask, NetlinkFamily, Request, RequestKind, Response, Root, Take};
use crate::facts::{Failure, Reading, Source, SystemCall};
use crate::netfilter::netlink::{self, Message};

/// Number of attempts at a dump that changes interrupt.
const MAX_READINGS: u32 = 4;

/// One reading of one node.
pub(crate) struct Node<'a> {
    ask: &'a mut dyn Ask,
    /// Enabled collectors.
    pub collectors: &'a Collectors,
    /// States of the sources requested so far.
    pub sources: Sources,
    /// What earlier readings left.
    pub memory: &'a Known,
    /// What this reading leaves, if it is not cut.
    pub left: Known,
    /// Files that several readers need, by request name.
    shared: BTreeMap<String, Response>,
}

impl<'a> Node<'a> {
    /// Before the first request.
    pub(crate) fn new(ask: &'a mut dyn Ask, collectors: &'a Collectors, memory: &'a Known) -> Self {
        let (sources, left, shared) = (Sources::default(), memory.clone(), BTreeMap::new());
        Self { ask, collectors, sources, memory, left, shared }
    }

    /// Sends a request without recording the source's state, which the caller does if needed.
    pub(crate) fn try_ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        let reading = self.ask.ask(request, take);
        let socket = match reading.failure().map(Failure::root) {
            // EPROTONOSUPPORT, ESOCKTNOSUPPORT, EAFNOSUPPORT; other errnos are transient.
            Some(Failure::SystemCall { call: SystemCall::Socket, errno: errno @ (93 | 94 | 97) }) => Some(*errno),
            _ => None,
        };
        match (&request.kind, socket, reading) {
            (RequestKind::Netlink(asked), Some(errno), reading) => self.without_socket(asked.family, errno, reading),
            // Only a response of the kernel shows absence here, and decoding that is up to the caller.
            (RequestKind::Netlink(_) | RequestKind::Xtables(_), None, Reading::Absent(why)) => {
                Reading::Failed(Failure::Hidden { witness: None }.within(why))
            }
            (_, _, reading) => reading,
        }
    }

    /// See [`Ask::epoch`].
    pub(crate) fn epoch(&mut self) -> Option<u64> {
        self.ask.epoch()
    }

    /// See [`Ask::neighbours_epoch`].
    pub(crate) fn neighbours_epoch(&mut self) -> Option<u64> {
        self.ask.neighbours_epoch()
    }

    /// See [`Ask::cpu_time`].
    pub(crate) fn cpu_time(&self) -> Duration {
        self.ask.cpu_time()
    }

    /// See [`Ask::watch_fdb`].
    pub(crate) fn watch_fdb(&mut self, devices: &[u32]) -> bool {
        self.ask.watch_fdb(devices)
    }

    /// Decides what a failed `socket` means from the kernel's list of netlink sockets: a protocol that is not listed is
    /// absent, one that is listed is denied.
    fn without_socket(&mut self, family: NetlinkFamily, errno: i32, reading: Reading<()>) -> Reading<()> {
        let protocol = match family {
            NetlinkFamily::Route => return reading, // every kernel with networking has it
            NetlinkFamily::Xfrm => 6,
            NetlinkFamily::Netfilter => 12,
            NetlinkFamily::Generic => 16,
        };
        match self.has_netlink(protocol) {
            Some(true) => {
                let errno = Failure::Refused(errno);
                Reading::Denied(format!(
                    "the kernel has netlink protocol {protocol}, but no socket can be opened here ({errno}): a sandbox \
                     does that (RestrictAddressFamilies, seccomp)"
                ))
            }
            Some(false) => Reading::Absent(without_netlink(protocol)),
            None => reading,
        }
    }

    /// Whether the kernel has a socket of its own for a netlink protocol, in which case opening one cannot load a
    /// module. `None`: not known.
    pub(crate) fn has_netlink(&mut self, protocol: u8) -> Option<bool> {
        let list = Request::file(Source::Kernel, Root::Procfs, "thread-self/net/netlink");
        let list = self.shared(&list);
        let list = String::from_utf8_lossy(list.ok()?);
        let of_kernel = |line: &str| {
            let mut words = line.split_whitespace().skip(1);
            let found: u8 = words.next()?.parse().ok()?;
            (words.next() == Some("0")).then_some(found)
        };
        let listed: Vec<u8> = list.lines().filter_map(of_kernel).collect();
        if listed.contains(&protocol) {
            return Some(true);
        }
        // Every kernel has NETLINK_ROUTE. The list is ordered by protocol, except that NETLINK_GENERIC comes last.
        let whole = listed.contains(&0) && (protocol == 16 || listed.iter().any(|other| *other > protocol));
        whole.then_some(false)
    }

    /// Reads a file, directory, symlink or legacy table; a failure is the source's.
    pub(crate) fn bytes(&mut self, request: &Request) -> Response {
        let answer = self.try_bytes(request);
        self.note(request, answer)
    }

    /// Like [`Self::bytes`], without recording the source's state.
    pub(crate) fn try_bytes(&mut self, request: &Request) -> Response {
        let mut bytes = Vec::new();
        let reading = self.try_ask(request, &mut |part| {
            bytes.extend_from_slice(part);
            Take::More
        });
        match (reading, &request.kind) {
            // Text from the kernel ends with a line feed; files of the host may not.
            (Reading::Ok(()), RequestKind::File(Root::Rootfs, _) | RequestKind::Xtables(_)) => Reading::Ok(bytes),
            (Reading::Ok(()), _) => whole_lines(bytes).within(&request.name),
            (Reading::Absent(why), RequestKind::Xtables(_) | RequestKind::Netlink(_) | RequestKind::Programs(_)) => {
                Reading::Absent(why)
            }
            (Reading::Absent(why), _) => self.missing(request, why).map(|()| Vec::new()),
            (other, _) => other.map(|()| Vec::new()),
        }
    }

    /// Decides whether a missing file is absent: only if the table of absences has it and its witness can be read.
    fn missing(&mut self, request: &Request, why: String) -> Reading<()> {
        let hidden = || Failure::Hidden { witness: None };
        match absence::believed(&request.name) {
            None => Reading::Failed(hidden().within(why)),
            Some(Absence { witness: None, .. }) => Reading::Absent(why),
            Some(Absence { witness: Some(witness), .. }) => {
                match self.shared(&witness_file(request.source, witness)) {
                    Reading::Ok(_) => Reading::Absent(why),
                    // A missing witness is never believed.
                    other => other.map(|_| ()).within(why),
                }
            }
        }
    }

    /// Like [`Node::try_bytes`], requested once per reading.
    pub(crate) fn shared(&mut self, request: &Request) -> Response {
        if let Some(answer) = self.shared.get(&request.name) {
            return answer.clone();
        }
        let answer = self.try_bytes(request);
        self.shared.insert(request.name.clone(), answer.clone());
        answer
    }

    /// A file that does not change before the next boot, requested until it has a response. Absence is not remembered.
    pub(crate) fn lasting(&mut self, request: &Request) -> Reading<Arc<Vec<u8>>> {
        if let Some(known) = self.left.until_reboot.get(&request.name) {
            return known.clone();
        }
        let answer = self.try_bytes(request).map(Arc::new);
        if answer.ok().is_some() {
            self.left.until_reboot.insert(request.name.clone(), answer.clone());
        }
        answer
    }

    /// A text file.
    pub(crate) fn text(&mut self, request: &Request) -> Reading<String> {
        let text = self.try_text(request);
        self.note(request, text)
    }

    /// Like [`Self::text`], without recording the source's state.
    pub(crate) fn try_text(&mut self, request: &Request) -> Reading<String> {
        self.try_bytes(request).map(|bytes| {
            String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
        })
    }

    /// A file of one line, without its line feed.
    pub(crate) fn line(&mut self, request: &Request) -> Reading<String> {
        let line = self.try_line(request);
        self.note(request, line)
    }

    /// Like [`Self::line`], without recording the source's state.
    pub(crate) fn try_line(&mut self, request: &Request) -> Reading<String> {
        self.try_text(request).decode(|text| match text.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(Failure::unexpected("there is no line in it").within(&request.name)),
        })
    }

    /// A file with one decimal number, without recording the source's state.
    pub(crate) fn try_number(&mut self, request: &Request) -> Reading<u64> {
        self.try_line(request).decode(|line| {
            let number = line.trim().parse();
            number.map_err(|_| Failure::unexpected(format!("{line:?} is not a number")).within(&request.name))
        })
    }

    /// A file with a number that says yes or no, as most switches of sysctl are; 0 is no.
    pub(crate) fn try_switch(&mut self, request: &Request) -> Reading<bool> {
        self.try_number(request).map(|number| number != 0)
    }

    /// Decodes each message of a dump.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        decode: impl FnMut(&Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Reading<Vec<T>> {
        let all = self.try_dump(request, decode);
        self.note(request, all)
    }

    /// Like [`Self::dump`], without recording the source's state.
    pub(crate) fn try_dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(&Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Reading<Vec<T>> {
        self.try_numbered_dump(request, |_, message| decode(message))
    }

    /// Like [`Self::try_dump`], with messages numbered from 1; an interrupted dump starts over at 1.
    pub(crate) fn try_numbered_dump<T>(
        &mut self,
        request: &Request,
        mut decode: impl FnMut(u32, &Message<'_>) -> Result<Option<T>, Failure>,
    ) -> Reading<Vec<T>> {
        for readings in 1.. {
            let (mut all, mut number, mut broken) = (Vec::new(), 0u32, None);
            let reading = self.try_ask(request, &mut |bytes| {
                number += 1;
                let decoded = match netlink::message(bytes) {
                    Ok((message, _)) if message.is_control() => return Take::More,
                    Ok((message, _)) => decode(number, &message),
                    Err(error) => Err(error.into()),
                };
                match decoded {
                    Ok(found) => all.extend(found),
                    Err(failure) => {
                        broken = Some(failure.within(&request.name));
                        return Take::Enough;
                    }
                }
                Take::More
            });
            return match (reading, broken) {
                (_, Some(failure)) => Reading::Failed(failure),
                (Reading::Failed(failure), None) if is_change(&failure) && readings < MAX_READINGS => continue,
                (Reading::Failed(failure), None) if is_change(&failure) => {
                    Reading::Failed(Failure::Changed { readings }.within(&request.name))
                }
                (reading, None) => reading.map(|()| all),
            };
        }
        unreachable!("the last of the readings returns")
    }

    /// Decodes the single message that answers a request, without recording the source's state.
    pub(crate) fn try_answer<T>(
        &mut self,
        request: &Request,
        decode: impl FnOnce(&Message<'_>) -> Result<T, Failure>,
    ) -> Reading<T> {
        let found = self.try_single(request, decode);
        found.decode(|found| found.ok_or_else(|| Failure::unexpected("no answer").within(&request.name)))
    }

    /// Like [`Self::try_answer`]. `None`: acknowledged without a message.
    pub(crate) fn try_single<T>(
        &mut self,
        request: &Request,
        decode: impl FnOnce(&Message<'_>) -> Result<T, Failure>,
    ) -> Reading<Option<T>> {
        let mut answer: Option<Vec<u8>> = None;
        let mut more = false;
        let reading = self.try_ask(request, &mut |bytes| {
            if netlink::message(bytes).is_ok_and(|(message, _)| !message.is_control()) {
                more |= answer.replace(bytes.to_vec()).is_some();
            }
            Take::More
        });
        reading.and_then(|()| match &answer {
            _ if more => Reading::Failed(Failure::unexpected("more than one message").within(&request.name)),
            None => Reading::Ok(None),
            Some(bytes) => {
                let decoded = netlink::message(bytes).map_err(Failure::from).and_then(|(message, _)| decode(&message));
                Reading::from(decoded.map(Some).map_err(|failure| failure.within(&request.name)))
            }
        })
    }

    /// Records a reading as its source's state, if it was denied or failed, or if its absence is the source's.
    pub(crate) fn note<T>(&mut self, request: &Request, reading: Reading<T>) -> Reading<T> {
        let expected = absence::believed(&request.name).is_some_and(|absence| !absence.is_fact);
        match &reading {
            Reading::Absent(_) if expected => self.sources.asked(request.source),
            reading => self.sources.note(request.source, reading),
        }
        reading
    }
}

/// Reason for a missing netlink protocol.
pub(crate) fn without_netlink(protocol: u8) -> String {
    format!("this kernel has no netlink protocol {protocol} (/proc/net/netlink)")
}

/// Whether a change interrupted the dump.
fn is_change(failure: &Failure) -> bool {
    matches!(failure.root(), Failure::Changed { .. })
}

/// Checks that a text ends with a line feed, or is empty.
fn whole_lines(bytes: Vec<u8>) -> Response {
    match bytes.last() {
        None | Some(b'\n') => Reading::Ok(bytes),
        Some(_) => {
            let line = bytes.iter().rev().take_while(|byte| **byte != b'\n').count();
            let what = "the last line is cut off".to_owned();
            Reading::Failed(Failure::Malformed { what, at: bytes.len() - line, need: line + 1, have: line })
        }
    }
}

/// Request for a witness.
fn witness_file(source: Source, name: &str) -> Request {
    match name.strip_prefix("sysfs/") {
        Some(path) => Request::file(source, Root::Sysfs, path),
        None => Request::file(source, Root::Procfs, name.strip_prefix("procfs/").unwrap_or(name)),
    }
}

#[cfg(test)]
mod tests;
