//! What the kernel was asked and what it answered, byte for byte.
//!
//! A [`Capture`] is what `kernel` produces, what `read` reads, what `natwatch capture` saves, what
//! `check --from` replays, and what the tests have of recorded nodes.

pub mod archive;
mod ask;
mod recorder;
mod replay;
mod request;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::facts::{Failure, Reading};
use crate::netfilter;
pub use ask::{Ask, Take};
pub(crate) use ask::{Framing, NET_ADMIN_MISSING};
pub(crate) use recorder::Recorder;
pub use replay::Replay;
#[cfg(test)]
pub(crate) use replay::hand_out;
pub(crate) use request::{Keep, ProgramsRequest, XtablesRequest, path_part};
pub use request::{NetlinkFamily, NetlinkRequest, Request, RequestKind, Root};

/// The raw answer to one request.
pub type Answer = Reading<Vec<u8>>;

/// What is known about the reading itself: everything that is not an answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the capture directory's format; [`FORMAT`].
    pub format: u32,
    /// Version of the natwatch that looked.
    pub natwatch_version: String,
    /// `little` or `big`: netlink answers are in the byte order of the machine.
    pub byte_order: String,
    /// Host name.
    pub hostname: String,
    /// Start of the reading, RFC 3339, UTC.
    pub captured_at: String,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Effective capabilities, by name.
    pub capabilities: Vec<String>,
    /// `initial`, `other` or `unknown`.
    pub network_namespace: String,
    /// Whether addresses and names were replaced (`capture --redact`).
    pub redacted: bool,
    /// Which boot this is of, so that a probe's result of another is told from one of this. `None`: only `capture` asks, and not
    /// always has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// The format that this version writes, and the only one it reads.
pub(crate) const FORMAT: u32 = 1;

/// The byte order of this machine, as `meta.json` spells it.
pub(crate) const BYTE_ORDER: &str = if cfg!(target_endian = "big") { "big" } else { "little" };

/// All answers of one reading.
#[derive(Clone, Debug)]
pub struct Capture {
    /// Who looked, from where, and when.
    pub meta: Meta,
    /// Answers by request name, and what an earlier probe has found as `probe/result.json` (`probe::saved`).
    pub answers: BTreeMap<String, Answer>,
}

impl From<netfilter::Error> for Failure {
    fn from(error: netfilter::Error) -> Self {
        match error {
            netfilter::Error::Cut { what, at, need, have } => Self::Malformed { what, at, need, have },
            netfilter::Error::Unexpected(text) => Self::Unexpected(text),
            netfilter::Error::Within { object, error } => Self::from(*error).within(object),
        }
    }
}
