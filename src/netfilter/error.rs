//! Errors of parsers.

use std::fmt;

/// Result of a parser.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// They end too early.
    Cut {
        /// What was expected.
        what: String,
        /// Offset in bytes from the start of the part that was read.
        at: usize,
        /// Bytes required.
        need: usize,
        /// Bytes available.
        have: usize,
    },
    /// Unexpected contents, or a missing part.
    Unexpected(String),
    /// An error with its object.
    Within {
        /// The object that contains the bytes.
        object: String,
        /// The error.
        error: Box<Error>,
    },
}

impl Error {
    /// Unexpected contents, or a missing part.
    pub fn unexpected(text: impl Into<String>) -> Self {
        Self::Unexpected(text.into())
    }

    /// Adds the object that contains the bytes.
    pub fn within(self, object: impl fmt::Display) -> Self {
        Self::Within { object: object.to_string(), error: Box::new(self) }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { what, at, need, have } => write!(f, "{what}: need {need} bytes at offset {at}, have {have}"),
            Self::Unexpected(text) => f.write_str(text),
            Self::Within { object, error } => write!(f, "{object}: {error}"),
        }
    }
}

impl std::error::Error for Error {}

/// `bytes[at..at + N]`, or an error that says what was needed.
#[inline(always)]
pub fn array<const N: usize>(bytes: &[u8], at: usize, what: &str) -> Result<[u8; N]> {
    let slice = at.checked_add(N).and_then(|end| bytes.get(at..end));
    slice.and_then(|slice| slice.try_into().ok()).ok_or_else(|| cut(bytes, at, N, what))
}

#[cold]
fn cut(bytes: &[u8], at: usize, need: usize, what: &str) -> Error {
    Error::Cut { what: what.to_owned(), at, need, have: bytes.len().saturating_sub(at) }
}
