//! The result of one read: a value, or why there is none. Used throughout, so that "not there", "not permitted" and
//! "failed" stay apart.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SourceState;

/// Result of reading one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    /// It was read.
    Ok(T),
    /// It does not exist, which is a fact (a kernel module is not loaded, say). The text says what shows it.
    Absent(String),
    /// It may exist, but a permission is missing, which the text names.
    Denied(String),
    /// It may exist, but reading or decoding it failed.
    Failed(Failure),
}

/// Why something could not be read. Code compares variants; the [`fmt::Display`] text is for people only.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// Larger than a limit of natwatch. Reading it again would not help.
    TooLarge {
        /// The limit.
        limit: u64,
        /// Unit of the limit: `bytes`, `chains`.
        unit: String,
    },
    /// Changed during each of several readings.
    Changed {
        /// Number of readings, each interrupted by a change.
        readings: u32,
    },
    /// There was no response.
    NotAnswered(Unanswered),
    /// The kernel refused: errno in an `NLMSG_ERROR` or `NLMSG_DONE` from the kernel to our request.
    Refused(i32),
    /// A system call failed. Sandboxes make system calls fail too, so this is not the kernel's response about the
    /// object.
    SystemCall {
        /// The call.
        call: SystemCall,
        /// Its errno.
        errno: i32,
    },
    /// The response is shorter than its format requires.
    Malformed {
        /// What was expected.
        what: String,
        /// Offset in bytes from the start of the part that was read.
        at: usize,
        /// Bytes required.
        need: usize,
        /// Bytes available.
        have: usize,
    },
    /// The response has unexpected contents.
    Unexpected(String),
    /// It exists but cannot be seen: every kernel has it, or something else shows that it exists.
    Hidden {
        /// What shows it, unless every kernel has it.
        witness: Option<String>,
    },
    /// Not requested, because it could not be determined whether the request would load a module.
    Unclear {
        /// The module.
        module: String,
    },
    /// Not supported by natwatch.
    Unsupported(String),
    /// Not requested, because no verdict depends on it.
    NotNeeded(String),
    /// The collector that reads it is disabled.
    SwitchedOff {
        /// Name of the collector.
        collector: String,
    },
    /// The reason recorded in an edited or redacted capture.
    Recorded(String),
    /// A failure with its object.
    Within {
        /// The object that it concerns.
        object: String,
        /// The failure.
        failure: Box<Failure>,
    },
}

/// A system call that requests use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SystemCall {
    /// `openat2`, `read`, `readlink`, `getdents64`
    File,
    /// `socket`, `bind`
    Socket,
    /// `sendto`
    Send,
    /// `poll`
    Poll,
    /// `recvfrom`
    Receive,
    /// `getsockopt`
    GetSocketOption,
    /// `bpf`
    Bpf,
}

impl fmt::Display for SystemCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "reading it",
            Self::Socket => "socket",
            Self::Send => "send",
            Self::Poll => "poll",
            Self::Receive => "recv",
            Self::GetSocketOption => "getsockopt",
            Self::Bpf => "bpf",
        })
    }
}

/// Why there was no response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    /// The time ran out.
    InTime {
        /// How long the client waited, milliseconds.
        milliseconds: u64,
    },
    /// The capture is older than the request.
    NotCaptured,
    /// The kernel's response has no end.
    Cut,
}

impl Unanswered {
    /// The client waited this long.
    pub fn in_time(waited: std::time::Duration) -> Self {
        Self::InTime { milliseconds: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Failure {
    /// The response has unexpected contents.
    pub fn unexpected(text: impl Into<String>) -> Self {
        Self::Unexpected(text.into())
    }

    /// Not supported by natwatch.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported(text.into())
    }

    /// No verdict depends on it.
    pub fn not_needed(text: impl Into<String>) -> Self {
        Self::NotNeeded(text.into())
    }

    /// A limit of natwatch was exceeded.
    pub fn too_large(limit: usize, unit: &str) -> Self {
        Self::TooLarge { limit: limit as u64, unit: unit.into() }
    }

    /// Adds the object that the failure concerns.
    pub fn within(self, object: impl fmt::Display) -> Self {
        Self::Within { object: object.to_string(), failure: Box::new(self) }
    }

    /// The innermost failure, without objects.
    pub fn root(&self) -> &Self {
        match self {
            Self::Within { failure, .. } => failure.root(),
            root => root,
        }
    }

    /// The errno that the kernel refused with.
    pub fn refused(&self) -> Option<i32> {
        match self.root() {
            Self::Refused(errno) => Some(*errno),
            _ => None,
        }
    }

    /// Whether the response is missing from a capture that is older than the request.
    pub fn is_not_captured(&self) -> bool {
        matches!(self.root(), Self::NotAnswered(Unanswered::NotCaptured))
    }

    /// Whether reading again could not help: a limit, or something unsupported.
    pub fn stays(&self) -> bool {
        matches!(self.root(), Self::TooLarge { .. } | Self::Unsupported(_))
    }

    /// Rewrites all texts in it.
    pub fn reword(self, reword: &mut dyn FnMut(String) -> String) -> Self {
        match self {
            Self::Unexpected(text) => Self::Unexpected(reword(text)),
            Self::Unsupported(text) => Self::Unsupported(reword(text)),
            Self::NotNeeded(text) => Self::NotNeeded(reword(text)),
            Self::Recorded(text) => Self::Recorded(reword(text)),
            Self::Hidden { witness } => Self::Hidden { witness: witness.map(reword) },
            Self::Malformed { what, at, need, have } => Self::Malformed { what: reword(what), at, need, have },
            Self::Within { object, failure } => {
                Self::Within { object: reword(object), failure: Box::new(failure.reword(reword)) }
            }
            other => other,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { limit, unit } => {
                write!(f, "there are more than {limit} {unit}, which is as much as natwatch reads")
            }
            Self::Changed { readings } => write!(f, "it changed {readings} times in a row while it was read"),
            Self::NotAnswered(Unanswered::InTime { milliseconds }) => {
                write!(f, "no answer within {:.1} s", *milliseconds as f64 / 1000.0)
            }
            Self::NotAnswered(Unanswered::NotCaptured) => f.write_str("captured before natwatch asked for this"),
            Self::NotAnswered(Unanswered::Cut) => f.write_str("the answer has no end"),
            Self::Refused(errno) => write!(f, "the kernel answered errno {errno}{}", name_of(*errno)),
            Self::SystemCall { call, errno } => write!(f, "{call} failed with errno {errno}{}", name_of(*errno)),
            Self::Malformed { what, at, need, have } => {
                write!(f, "{what}: need {need} bytes at offset {at}, have {have}")
            }
            Self::Unexpected(text) | Self::Unsupported(text) | Self::NotNeeded(text) | Self::Recorded(text) => {
                f.write_str(text)
            }
            Self::Hidden { witness: None } => f.write_str("every kernel has it: is it mounted and not masked?"),
            Self::Hidden { witness: Some(witness) } => write!(f, "but {witness} is there: is it masked?"),
            Self::Unclear { module } => {
                write!(f, "cannot tell whether {module} is in the kernel; asking could load it")
            }
            Self::SwitchedOff { collector } => {
                write!(f, "the collector {collector} is switched off (--no-collector.{collector})")
            }
            Self::Within { object, failure } => write!(f, "{object}: {failure}"),
        }
    }
}

impl std::error::Error for Failure {}

/// The name of an errno that readers of a report may want to look up; empty for others.
fn name_of(errno: i32) -> &'static str {
    match errno {
        1 => " (EPERM)",
        2 => " (ENOENT)",
        4 => " (EINTR)",
        5 => " (EIO)",
        11 => " (EAGAIN)",
        12 => " (ENOMEM)",
        13 => " (EACCES)",
        16 => " (EBUSY)",
        19 => " (ENODEV)",
        22 => " (EINVAL)",
        23 => " (ENFILE)",
        24 => " (EMFILE)",
        38 => " (ENOSYS)",
        92 => " (ENOPROTOOPT)",
        93 => " (EPROTONOSUPPORT)",
        95 => " (EOPNOTSUPP)",
        97 => " (EAFNOSUPPORT)",
        105 => " (ENOBUFS)",
        _ => "",
    }
}

impl<T> Reading<T> {
    /// The value, if it was read.
    pub fn ok(&self) -> Option<&T> {
        match self {
            Self::Ok(value) => Some(value),
            _ => None,
        }
    }

    /// Why there is no value, for people; empty if there is one.
    pub fn why(&self) -> String {
        match self {
            Self::Ok(_) => String::new(),
            Self::Absent(why) | Self::Denied(why) => why.clone(),
            Self::Failed(failure) => failure.to_string(),
        }
    }

    /// The failure, if it failed.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether there is no value now, but a later reading may get one.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Ok(_) | Self::Absent(_) => false,
            Self::Denied(_) => true,
            Self::Failed(failure) => !failure.stays(),
        }
    }

    /// The state without value and reason.
    pub fn state(&self) -> SourceState {
        match self {
            Self::Ok(_) => SourceState::Ok,
            Self::Absent(_) => SourceState::Absent,
            Self::Denied(_) => SourceState::Denied,
            Self::Failed(_) => SourceState::Failed,
        }
    }

    /// Borrows the value.
    pub fn as_ref(&self) -> Reading<&T> {
        match self {
            Self::Ok(value) => Reading::Ok(value),
            Self::Absent(why) => Reading::Absent(why.clone()),
            Self::Denied(why) => Reading::Denied(why.clone()),
            Self::Failed(failure) => Reading::Failed(failure.clone()),
        }
    }

    /// Continues with the value, if there is one.
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Ok(value) => next(value),
            Self::Absent(why) => Reading::Absent(why),
            Self::Denied(why) => Reading::Denied(why),
            Self::Failed(failure) => Reading::Failed(failure),
        }
    }

    /// Decodes the value; an error becomes `Failed`.
    pub fn decode<U, E: Into<Failure>>(self, decode: impl FnOnce(T) -> Result<U, E>) -> Reading<U> {
        self.and_then(|value| Reading::from(decode(value)))
    }

    /// Converts the value.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Reading<U> {
        self.and_then(|value| Reading::Ok(convert(value)))
    }

    /// Adds the object that the reason concerns.
    pub fn within(self, object: impl fmt::Display) -> Self {
        match self {
            Self::Ok(value) => Self::Ok(value),
            Self::Absent(why) => Self::Absent(format!("{object}: {why}")),
            Self::Denied(why) => Self::Denied(format!("{object}: {why}")),
            Self::Failed(failure) => Self::Failed(failure.within(object)),
        }
    }

    /// Rewrites the reason, if there is no value.
    pub fn reword(self, mut reword: impl FnMut(String) -> String) -> Self {
        match self {
            Self::Ok(value) => Self::Ok(value),
            Self::Absent(why) => Self::Absent(reword(why)),
            Self::Denied(why) => Self::Denied(reword(why)),
            Self::Failed(failure) => Self::Failed(failure.reword(&mut reword)),
        }
    }

    /// Drops the value.
    pub fn without_value(&self) -> Reading<()> {
        self.as_ref().map(|_| ())
    }

    /// The value, or `Err` with the reason.
    ///
    /// # Errors
    /// The reading without a value.
    pub fn into_result(self) -> Result<T, Reading<std::convert::Infallible>> {
        match self {
            Self::Ok(value) => Ok(value),
            Self::Absent(why) => Err(Reading::Absent(why)),
            Self::Denied(why) => Err(Reading::Denied(why)),
            Self::Failed(failure) => Err(Reading::Failed(failure)),
        }
    }
}

impl<T, E: Into<Failure>> From<Result<T, E>> for Reading<T> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Self::Ok(value),
            Err(error) => Self::Failed(error.into()),
        }
    }
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self::Unexpected(text)
    }
}

impl From<&str> for Failure {
    fn from(text: &str) -> Self {
        Self::Unexpected(text.to_owned())
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> Self {
        failure.to_string()
    }
}
