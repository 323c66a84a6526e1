//! Answers requests from a saved capture.

use super::{Ask, Capture, Framing, Request, RequestKind, Response, Take};
use crate::facts::{Failure, Reading, Unanswered};

/// A capture as a node. Requests without a response are `Failed(NotAnswered(NotCaptured))`.
#[derive(Debug)]
pub struct Replay<'a> {
    capture: &'a Capture,
}

impl<'a> Replay<'a> {
    /// For this capture.
    pub fn new(capture: &'a Capture) -> Self {
        Self { capture }
    }
}

impl Ask for Replay<'_> {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        match self.capture.answers.get(&request.name) {
            None => Reading::Failed(Failure::NotAnswered(Unanswered::NotCaptured)).within(&request.name),
            Some(answer) => hand_out(answer, request, take),
        }
    }
}

/// Passes on a response as the kernel would, netlink message by message.
pub(crate) fn hand_out(answer: &Response, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
    match (answer, &request.kind) {
        (Reading::Ok(bytes), RequestKind::Netlink(asked)) => {
            Framing::new(asked).whole(bytes, take).within(&request.name)
        }
        (Reading::Ok(bytes), _) => {
            take(bytes);
            Reading::Ok(())
        }
        (other, _) => other.as_ref().map(|_| ()),
    }
}
