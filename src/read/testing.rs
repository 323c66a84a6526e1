//! Test doubles for a node.

use std::collections::BTreeMap;

use super::{Collectors, Known, Node, Sources};
use crate::capture::{Ask, BYTE_ORDER, Capture, FORMAT, Meta, Request, Response, Take, hand_out};
use crate::facts::{Collector, Failure, Reading, Unanswered};

/// Responses by request name; others were not captured.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(pub BTreeMap<String, Response>);

impl<const N: usize> From<[(&Request, Reading<&[u8]>); N]> for Answers {
    /// These responses to these requests.
    fn from(answers: [(&Request, Reading<&[u8]>); N]) -> Self {
        let answers = answers.map(|(request, answer)| (request.name.clone(), answer.map(<[u8]>::to_vec)));
        Self(answers.into())
    }
}

impl<const N: usize> From<[(&str, &str); N]> for Answers {
    /// Files with these contents.
    fn from(files: [(&str, &str); N]) -> Self {
        let files = files.map(|(name, text)| (name.to_owned(), Reading::Ok(text.as_bytes().to_vec())));
        Self(files.into())
    }
}

/// A node played by a function, which is called with each request.
pub(crate) struct Played<F>(pub F);

impl<F: FnMut(&Request) -> Response> Ask for Played<F> {
    fn ask(&mut self, request: &Request, take: &mut dyn FnMut(&[u8]) -> Take) -> Reading<()> {
        hand_out(&(self.0)(request), request, take)
    }
}

/// Runs a reader on a node with these responses; also returns the states of sources.
pub(crate) fn read_with<T>(answers: &Answers, read: impl FnOnce(&mut Node<'_>) -> T) -> (T, Sources) {
    played(
        |request| {
            let unanswered = || Reading::Failed(Failure::NotAnswered(Unanswered::NotCaptured)).within(&request.name);
            answers.0.get(&request.name).cloned().unwrap_or_else(unanswered)
        },
        read,
    )
}

/// Runs a reader on a node that gives this response to each request.
pub(crate) fn answering<T>(answer: &[u8], read: impl FnOnce(&mut Node<'_>) -> T) -> T {
    played(|_| Reading::Ok(answer.to_vec()), read).0
}

/// Runs a reader on a node played by a function.
pub(crate) fn played<T>(
    answer: impl FnMut(&Request) -> Response,
    read: impl FnOnce(&mut Node<'_>) -> T,
) -> (T, Sources) {
    let (found, sources, _) = played_after(&Known::default(), answer, read);
    (found, sources)
}

/// Like [`played`], after an earlier reading; also returns the memory for the next.
pub(crate) fn played_after<T>(
    memory: &Known,
    answer: impl FnMut(&Request) -> Response,
    read: impl FnOnce(&mut Node<'_>) -> T,
) -> (T, Sources, Known) {
    let collectors: Collectors = Collector::ALL.iter().copied().collect();
    let mut ask = Played(answer);
    let mut node = Node::new(&mut ask, &collectors, memory);
    let found = read(&mut node);
    let Node { sources, left, .. } = node;
    (found, sources, left)
}

/// A capture without responses, made by root on a node.
pub(crate) fn capture() -> Capture {
    let meta = Meta {
        format: FORMAT,
        natwatch_version: "0.0.0".into(),
        byte_order: BYTE_ORDER.into(),
        hostname: "node".into(),
        captured_at: "2026-01-01T00:00:00Z".into(),
        uid: 0,
        gid: 0,
        capabilities: vec!["CAP_NET_ADMIN".into()],
        network_namespace: "initial".into(),
        redacted: false,
        boot_id: None,
    };
    Capture { meta, answers: BTreeMap::new() }
}
