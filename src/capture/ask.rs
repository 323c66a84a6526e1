//! The `Ask` trait: the only access to a node.

use std::ops::ControlFlow::{self, Break, Continue};
use std::time::Duration;

use super::{NetlinkRequest, Request};
use crate::facts::{Failure, Reading, Unanswered};
use crate::netfilter::netlink::{self, NLM_F_DUMP_INTR, NLM_F_MULTI, NLMSG_DONE, NLMSG_ERROR};

/// What a callback wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// More of the response.
    More,
    /// Nothing more; the rest of the response is discarded.
    Enough,
}

/// Sends requests to a node: the running kernel, a saved capture, or a test double.
///
/// *Contract*: `take` is called with the response's bytes in order: once for a file, a directory's names, a symlink's
/// target or a legacy table; for netlink once per message with its header, including the last one (`NLMSG_DONE`,
/// `NLMSG_ERROR`). `Ok` means that the response is complete or `take` returned `Enough`. With any other result, nothing
/// that `take` has built may be used.
///
/// *Convention*: a request may be repeated; a recorder keeps the latest response.
///
/// *Why not a future, or a list of requests*: the next request depends on earlier responses, which is readable only in
/// a reader written top to bottom.
pub trait Ask {
    /// Executes a request.
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()>;

    /// A number that changes whenever links, addresses, routes, policy rules, forwarding or tc filters may have
    /// changed; responses about these are valid as long as it is the same. `None`: not known.
    fn epoch(&mut self) -> Option<u64> {
        None
    }

    /// A number that changes whenever neighbours may have become exempt from their table's limit or ceased to be, other
    /// than along with their device or address, which the epoch covers. `None`: not known.
    fn neighbours_epoch(&mut self) -> Option<u64> {
        None
    }

    /// CPU time used by this thread, user and system, to measure what a reading costs; 0 if it costs nothing.
    fn cpu_time(&self) -> Duration {
        Duration::ZERO
    }

    /// Includes these devices' forwarding databases in the epoch; to be called before they are requested. `false`: not
    /// possible.
    fn watch_fdb(&mut self, _devices: &[u32]) -> bool {
        false
    }
}

/// Finds the end of a netlink response, from a socket or a capture.
#[derive(Debug)]
pub(crate) struct Framing {
    /// Whether messages follow until `NLMSG_DONE`.
    dump: bool,
    /// Whether an acknowledgement follows.
    ack: bool,
    limit: usize,
    size: usize,
}

impl Framing {
    /// For the response to this request.
    pub(crate) fn new(request: &NetlinkRequest) -> Self {
        Self { dump: request.dump, ack: request.ack, limit: request.limit, size: 0 }
    }

    /// Passes on one message with its header. `Break`: the result at the end of the response.
    pub(crate) fn message(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(&[u8]) -> Take,
    ) -> ControlFlow<Result<Reading<()>, Failure>> {
        let message = match netlink::message(bytes) {
            Ok((message, _)) => message,
            Err(error) => return Break(Err(error.into())),
        };
        self.size += bytes.len().next_multiple_of(4);
        if self.size > self.limit {
            return Break(Err(Failure::too_large(self.limit, "bytes")));
        }
        if message.flags & NLM_F_DUMP_INTR != 0 {
            return Break(Err(Failure::Changed { readings: 1 }));
        }
        if matches!(message.kind, NLMSG_DONE | NLMSG_ERROR) {
            take(bytes);
            if self.dump && !self.ack && message.kind == NLMSG_ERROR && message.errno() == Ok(0) {
                return Break(Err(Failure::unexpected("an acknowledgement instead of the dump's end")));
            }
            return Break(message.errno().map(refused).map_err(Failure::from));
        }
        if take(bytes) == Take::Enough || !self.dump && !self.ack && message.flags & NLM_F_MULTI == 0 {
            return Break(Ok(Reading::Ok(())));
        }
        Continue(())
    }

    /// Passes on all messages of a response in a capture.
    pub(crate) fn whole(mut self, mut bytes: &[u8], take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        while !bytes.is_empty() {
            let (first, rest) = match netlink::split_message(bytes) {
                Ok(split) => split,
                Err(error) => return Reading::Failed(error.into()),
            };
            match self.message(first, take) {
                Continue(()) => bytes = rest,
                Break(Ok(reading)) => return reading,
                Break(Err(failure)) => return Reading::Failed(failure),
            }
        }
        Reading::Failed(Failure::NotAnswered(Unanswered::Cut))
    }
}

/// What an errno means that the kernel itself answered with; 0 is success. `EACCES` is no lack of permission: a look-up of a route
/// found one of type prohibit (`fib_props`).
fn refused(errno: i32) -> Reading<()> {
    const EPERM: i32 = 1;
    match errno {
        0 => Reading::Ok(()),
        EPERM => Reading::Denied(NET_ADMIN_MISSING.into()),
        errno => Reading::Failed(Failure::Refused(errno)),
    }
}

/// What is missing if netfilter or a socket denies access.
pub(crate) const NET_ADMIN_MISSING: &str =
    "CAP_NET_ADMIN is missing (in the user namespace that owns this network namespace)";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{NetlinkFamily, RequestKind};
    use crate::facts::Source;
    use crate::netfilter::netlink::frame as message;

    fn request(dump: bool) -> NetlinkRequest {
        let request = Request::netlink(Source::Rtnetlink, "x", NetlinkFamily::Route, 18, dump, Vec::new());
        match request.kind {
            RequestKind::Netlink(request) => request,
            other => panic!("{other:?}"),
        }
    }

    fn read(request: NetlinkRequest, bytes: &[u8]) -> (usize, Reading<()>) {
        let mut seen = 0;
        let reading = Framing::new(&request).whole(bytes, &mut |_| {
            seen += 1;
            Take::More
        });
        (seen, reading)
    }

    #[test]
    fn a_dump_ends_in_its_end_and_nowhere_else() {
        let entry = message(16, NLM_F_MULTI, &[0; 8]);
        let end = message(NLMSG_DONE, NLM_F_MULTI, &0i32.to_ne_bytes());
        let all = [entry.clone(), entry.clone(), end].concat();
        assert_eq!(read(request(true), &all), (3, Reading::Ok(())));
        for cut in 0..all.len() {
            assert!(matches!(read(request(true), &all[..cut]).1, Reading::Failed(_)), "cut at {cut}");
        }
        let busy = [entry.clone(), message(NLMSG_DONE, NLM_F_MULTI, &(-16i32).to_ne_bytes())].concat();
        assert_eq!(read(request(true), &busy).1, Reading::Failed(Failure::Refused(16)));
        let interrupted = [message(16, NLM_F_MULTI | NLM_F_DUMP_INTR, &[0; 8]), busy].concat();
        assert_eq!(read(request(true), &interrupted).1, Reading::Failed(Failure::Changed { readings: 1 }));
    }

    #[test]
    fn one_message_is_enough_without_a_dump() {
        let answer = message(16, 0, &[0; 8]);
        assert_eq!(read(request(false), &answer), (1, Reading::Ok(())));
        let refused = |errno: i32| read(request(false), &message(NLMSG_ERROR, 0, &(-errno).to_ne_bytes())).1;
        assert_eq!(refused(1), Reading::Denied(NET_ADMIN_MISSING.into()));
        assert_eq!(refused(2), Reading::Failed(Failure::Refused(2)));
        let acknowledged = NetlinkRequest { ack: true, ..request(false) };
        assert!(matches!(read(acknowledged.clone(), &answer).1, Reading::Failed(Failure::NotAnswered(_))));
        let acknowledgement = message(NLMSG_ERROR, 0, &[0; 20]);
        assert_eq!(read(acknowledged, &[answer, acknowledgement].concat()), (2, Reading::Ok(())));
    }

    #[test]
    fn who_has_enough_needs_no_end_and_a_limit_is_a_failure() {
        let entry = message(16, NLM_F_MULTI, &[0; 8]);
        let two = [entry.clone(), entry].concat();
        assert_eq!(Framing::new(&request(true)).whole(&two, &mut |_| Take::Enough), Reading::Ok(()));
        let small = NetlinkRequest { limit: 40, ..request(true) };
        assert_eq!(read(small, &two).1, Reading::Failed(Failure::too_large(40, "bytes")));
    }

    #[test]
    fn random_bytes_never_panic() {
        proptest::proptest!(|(bytes: Vec<u8>, dump: bool)| { let _ = read(request(dump), &bytes); });
    }
}
