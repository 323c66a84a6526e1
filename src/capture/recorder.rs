//! Records requests and responses.

use super::{Ask, Request, RequestKind, Response, Take};
use crate::facts::Reading;
use crate::netfilter::netlink::{self, NLMSG_DONE, NLMSG_ERROR};

/// Forwards requests to `inner` and passes each response, with its request's name, to `keep`. The latest response to a
/// request counts.
pub(crate) struct Recorder<A, K> {
    inner: A,
    keep: K,
}

impl<A: Ask, K: FnMut(String, Response)> Recorder<A, K> {
    /// `keep` is called after each response, so that an interrupted capture has those received before.
    pub(crate) fn new(inner: A, keep: K) -> Self {
        Self { inner, keep }
    }
}

impl<A: Ask, K: FnMut(String, Response)> Ask for Recorder<A, K> {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        let mut bytes = Vec::new();
        let mut ended = false;
        let is_netlink = matches!(request.kind, RequestKind::Netlink(_));
        let reading = self.inner.ask(request, &mut |part| {
            bytes.extend_from_slice(part);
            if is_netlink {
                bytes.resize(bytes.len().next_multiple_of(4), 0);
                ended = netlink::message(part).is_ok_and(|(part, _)| matches!(part.kind, NLMSG_DONE | NLMSG_ERROR));
            }
            take(part)
        });
        // An error from the kernel is a response, too.
        let answer = if ended { Reading::Ok(bytes) } else { reading.as_ref().map(|()| bytes) };
        (self.keep)(request.name.clone(), answer);
        reading
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::capture::{Capture, NetlinkFamily, Replay, Root};
    use crate::facts::{Failure, Source, SystemCall};

    #[test]
    fn a_replay_answers_as_what_was_recorded_did() {
        let file = Request::file(Source::Kernel, Root::Procfs, "version");
        let gone = Request::file(Source::Kernel, Root::Procfs, "gone");
        let refused = Request::netlink(Source::Nftables, "refused", NetlinkFamily::Netfilter, 1, true, Vec::new());
        let lost = Request::netlink(Source::Nftables, "lost", NetlinkFamily::Netfilter, 1, true, Vec::new());
        let errno = [&20u32.to_ne_bytes()[..], &[2, 0, 0, 0], &[0; 8], &(-2i32).to_ne_bytes()].concat();
        let mut first = crate::read::testing::capture();
        let failure = Failure::SystemCall { call: SystemCall::Receive, errno: 105 };
        first.answers = BTreeMap::from([
            (file.name.clone(), Reading::Ok(b"Linux\n".to_vec())),
            (gone.name.clone(), Reading::Absent("ENOENT".into())),
            (refused.name.clone(), Reading::Ok(errno)),
            (lost.name.clone(), Reading::Failed(failure)),
        ]);
        let mut answers = BTreeMap::new();
        let all = [file, gone, refused, lost];
        let mut recorder = Recorder::new(Replay::new(&first), |name, answer| drop(answers.insert(name, answer)));
        let readings = all.each_ref().map(|request| recorder.ask(request, &mut |_| Take::More));
        assert_eq!(answers, first.answers);
        assert_eq!(readings[2].failure().and_then(Failure::refused), Some(2));
        let second = Capture { answers, ..first.clone() };
        let again = all.each_ref().map(|request| Replay::new(&second).ask(request, &mut |_| Take::More));
        assert_eq!(again, readings);
    }
}
