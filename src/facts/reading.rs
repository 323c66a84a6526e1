//! How the answer to one request ended, and why there is none.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::SourceState;

/// How the answer to one request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading<T> {
    /// It was read.
    Ok(T),
    /// It is not there, and that is a fact (a kernel module that is not loaded, say). The text says what shows it.
    Absent(String),
    /// It may be there; a permission is missing. The text names it.
    Denied(String),
    /// It may be there; reading it went wrong.
    Failed(Failure),
}

/// Why something could not be read. Code looks at the variants; the text, which [`fmt::Display`] makes, is for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// It is larger than natwatch reads: a limit was met. Asking again would not help.
    TooLarge {
        /// The limit.
        limit: u64,
        /// What is counted: `bytes`, `chains`.
        unit: String,
    },
    /// It changed this often while it was read.
    Changed {
        /// Readings, each interrupted by a change.
        readings: u32,
    },
    /// Nobody answered.
    NotAnswered(Unanswered),
    /// The kernel's own word: an errno in an `NLMSG_ERROR` or `NLMSG_DONE` of the kernel's to our request.
    Refused(i32),
    /// An errno of a system call. A sandbox gives these too, so it is not the kernel's word about what was asked.
    SystemCall {
        /// The call.
        call: SystemCall,
        /// Its errno.
        errno: i32,
    },
    /// The answer ends before what it should hold.
    Malformed {
        /// What should be there.
        what: String,
        /// Where, in bytes from the start of the part that was read.
        at: usize,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// The answer holds something that it should not.
    Unexpected(String),
    /// It is not to be seen although it is there: every kernel has it, or something else shows it.
    Hidden {
        /// What shows it, if not every kernel has it.
        witness: Option<String>,
    },
    /// Whether asking would load a module could not be told, so it was not asked.
    Unclear {
        /// The module.
        module: String,
    },
    /// natwatch does not read or follow such a thing.
    Unsupported(String),
    /// It was not needed for any verdict, so it was not asked.
    NotNeeded(String),
    /// The collector that reads it is switched off.
    SwitchedOff {
        /// Its name.
        collector: String,
    },
    /// Why, as a capture tells that was edited or redacted.
    Told(String),
    /// What it was that failed so.
    Within {
        /// The object.
        object: String,
        /// Why.
        failure: Box<Failure>,
    },
}

/// A system call that a request takes.
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

/// Why nobody answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unanswered {
    /// Time ran out first.
    InTime {
        /// How long somebody waited, in milliseconds.
        milliseconds: u64,
    },
    /// The capture is older than the request.
    NotCaptured,
    /// The kernel's answer has no end.
    Cut,
}

impl Unanswered {
    /// Somebody waited this long.
    pub fn in_time(waited: std::time::Duration) -> Self {
        Self::InTime { milliseconds: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX) }
    }
}

impl Failure {
    /// An answer that holds something that it should not.
    pub fn unexpected(text: impl Into<String>) -> Self {
        Self::Unexpected(text.into())
    }

    /// Something that natwatch does not read or follow.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::Unsupported(text.into())
    }

    /// Something that no verdict needed.
    pub fn not_needed(text: impl Into<String>) -> Self {
        Self::NotNeeded(text.into())
    }

    /// A limit that was met.
    pub fn too_large(limit: usize, unit: &str) -> Self {
        Self::TooLarge { limit: limit as u64, unit: unit.into() }
    }

    /// Puts the surrounding object in front.
    pub fn within(self, object: impl fmt::Display) -> Self {
        Self::Within { object: object.to_string(), failure: Box::new(self) }
    }

    /// The failure itself, without what surrounds it.
    pub fn root(&self) -> &Self {
        match self {
            Self::Within { failure, .. } => failure.root(),
            root => root,
        }
    }

    /// The errno that the kernel itself answered with.
    pub fn refused(&self) -> Option<i32> {
        match self.root() {
            Self::Refused(errno) => Some(*errno),
            _ => None,
        }
    }

    /// Whether it is an answer that a capture has not, because nobody asked for it then.
    pub fn is_not_captured(&self) -> bool {
        matches!(self.root(), Self::NotAnswered(Unanswered::NotCaptured))
    }

    /// Whether asking again could not help: a limit was met, or natwatch does not read such a thing.
    pub fn stays(&self) -> bool {
        matches!(self.root(), Self::TooLarge { .. } | Self::Unsupported(_))
    }

    /// Changes every text in it.
    pub fn reword(self, reword: &mut dyn FnMut(String) -> String) -> Self {
        match self {
            Self::Unexpected(text) => Self::Unexpected(reword(text)),
            Self::Unsupported(text) => Self::Unsupported(reword(text)),
            Self::NotNeeded(text) => Self::NotNeeded(reword(text)),
            Self::Told(text) => Self::Told(reword(text)),
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
            Self::Unexpected(text) | Self::Unsupported(text) | Self::NotNeeded(text) | Self::Told(text) => {
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

/// The name of an errno that readers of a report may look up.
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

    /// Why there is no value, for people; empty when there is one.
    pub fn why(&self) -> String {
        match self {
            Self::Ok(_) => String::new(),
            Self::Absent(why) | Self::Denied(why) => why.clone(),
            Self::Failed(failure) => failure.to_string(),
        }
    }

    /// The failure, if it is one.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) => Some(failure),
            _ => None,
        }
    }

    /// Whether there is no value, but may be one when it is asked again.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Ok(_) | Self::Absent(_) => false,
            Self::Denied(_) => true,
            Self::Failed(failure) => !failure.stays(),
        }
    }

    /// The state alone.
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

    /// Goes on with the value, if it was read.
    pub fn and_then<U>(self, next: impl FnOnce(T) -> Reading<U>) -> Reading<U> {
        match self {
            Self::Ok(value) => next(value),
            Self::Absent(why) => Reading::Absent(why),
            Self::Denied(why) => Reading::Denied(why),
            Self::Failed(failure) => Reading::Failed(failure),
        }
    }

    /// Decodes the value; a decoding error makes the reading a failed one.
    pub fn decode<U, E: Into<Failure>>(self, decode: impl FnOnce(T) -> Result<U, E>) -> Reading<U> {
        self.and_then(|value| Reading::from(decode(value)))
    }

    /// Converts the value.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Reading<U> {
        self.and_then(|value| Reading::Ok(convert(value)))
    }

    /// Names what it was that has no value.
    pub fn within(self, object: impl fmt::Display) -> Self {
        match self {
            Self::Ok(value) => Self::Ok(value),
            Self::Absent(why) => Self::Absent(format!("{object}: {why}")),
            Self::Denied(why) => Self::Denied(format!("{object}: {why}")),
            Self::Failed(failure) => Self::Failed(failure.within(object)),
        }
    }

    /// Rewords the reason why there is no value.
    pub fn reword(self, mut reword: impl FnMut(String) -> String) -> Self {
        match self {
            Self::Ok(value) => Self::Ok(value),
            Self::Absent(why) => Self::Absent(reword(why)),
            Self::Denied(why) => Self::Denied(reword(why)),
            Self::Failed(failure) => Self::Failed(failure.reword(&mut reword)),
        }
    }

    /// Without the value.
    pub fn without_value(&self) -> Reading<()> {
        self.as_ref().map(|_| ())
    }

    /// `Err`: why there is no value.
    ///
    /// # Errors
    /// The reading, which has no value.
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
