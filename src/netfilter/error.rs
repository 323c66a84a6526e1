//! Why bytes could not be read.

use std::fmt;

/// What a parser makes of bytes.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// They end too early.
    Cut {
        /// What should be there.
        what: String,
        /// Where, in bytes from the start of the part that was read.
        at: usize,
        /// Bytes that it takes.
        need: usize,
        /// Bytes that there are.
        have: usize,
    },
    /// They hold something that they should not, or lack something.
    Unexpected(String),
    /// What it was that held them.
    Within {
        /// The object.
        object: String,
        /// What is wrong with it.
        error: Box<Error>,
    },
}

impl Error {
    /// They hold something that they should not, or lack something.
    pub fn unexpected(text: impl Into<String>) -> Self {
        Self::Unexpected(text.into())
    }

    /// Puts the surrounding object in front.
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
