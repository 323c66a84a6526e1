//! Requests to a node and its undecoded responses.
//!
//! A [`Capture`] is recorded from `kernel` by `natwatch capture`, and replayed to `read` by `check --from` and by
//! tests.

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

/// The undecoded response to one request.
pub type Response = Reading<Vec<u8>>;

/// Everything about a reading that is not a response of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Version of the capture format; [`FORMAT`].
    pub format: u32,
    /// Version of the natwatch that recorded it.
    pub natwatch_version: String,
    /// `little` or `big`: byte order of the machine, and so of netlink responses.
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
    /// Boot id, which shows whether a probe's result is from the same boot. `None`: recorded only by `capture`, and not
    /// by older versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// The only format that this version writes and reads.
pub(crate) const FORMAT: u32 = 1;

/// Byte order of this machine, as in `meta.json`.
pub(crate) const BYTE_ORDER: &str = if cfg!(target_endian = "big") { "big" } else { "little" };

/// All responses of a reading.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The environment it was recorded in.
    pub meta: Meta,
    /// Responses by request name, and an earlier probe's result as `probe/result.json` (`probe::saved`).
    pub answers: BTreeMap<String, Response>,
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
