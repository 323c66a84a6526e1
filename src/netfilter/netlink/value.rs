//! Attribute payloads: numbers, bytes, strings.

use std::borrow::Cow;

use super::attributes::{NLA_F_NESTED, NLA_F_NET_BYTEORDER};
use super::writer::MessageWriter;
use crate::netfilter::{Error, Result};

/// Types that can be written as an attribute's payload.
pub trait Emit {
    /// Whether it consists of attributes. User space sets `NLA_F_NESTED` for these; the kernel does in few messages.
    const NESTED: bool = false;

    /// Flags that its attribute may have: nf_tables does not flag numbers (`NLA_F_NET_BYTEORDER`), ipset flags most.
    const FLAGS: u16 = if Self::NESTED { NLA_F_NESTED } else { 0 };

    /// Writes the payload.
    fn emit(&self, out: &mut MessageWriter);

    /// Whether it has unknown parts, which may change its meaning.
    fn has_unknown(&self) -> bool {
        false
    }
}

/// Types that can be parsed from an attribute's payload.
pub trait AttributeValue<'a>: Emit + Sized {
    /// Parses the payload.
    ///
    /// # Errors
    /// It has the wrong length, or lacks a required part.
    fn parse(bytes: &'a [u8]) -> Result<Self>;
}

macro_rules! number {
    ($($number:ty)*) => {$(
        /// In network byte order, as all numbers in nfnetlink.
        impl AttributeValue<'_> for $number {
            #[inline(always)]
            fn parse(bytes: &[u8]) -> Result<Self> {
                let exact = bytes.try_into().map(Self::from_be_bytes);
                exact.map_err(|_| other_length(size_of::<Self>(), bytes.len()))
            }
        }

        impl Emit for $number {
            const FLAGS: u16 = if size_of::<Self>() > 1 { NLA_F_NET_BYTEORDER } else { 0 };

            fn emit(&self, out: &mut MessageWriter) {
                out.bytes(&self.to_be_bytes());
            }
        }
    )*};
}
number!(u8 u16 u32 u64 u128);

#[cold]
fn other_length(need: usize, have: usize) -> Error {
    Error::unexpected(format!("need {need} bytes, have {have}"))
}

impl<'a> AttributeValue<'a> for Cow<'a, [u8]> {
    #[inline(always)]
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        Ok(Cow::Borrowed(bytes))
    }
}

impl Emit for Cow<'_, [u8]> {
    fn emit(&self, out: &mut MessageWriter) {
        out.bytes(self);
    }
}

/// A string from the kernel, with its terminating zero and anything after it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Text<'a>(pub Cow<'a, [u8]>);

impl Text<'_> {
    /// The string up to its zero.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.split(|byte| *byte == 0).next().unwrap_or_default()
    }
}

impl From<&[u8]> for Text<'_> {
    fn from(text: &[u8]) -> Self {
        Self(Cow::Owned([text, &[0]].concat()))
    }
}

impl From<&str> for Text<'_> {
    fn from(text: &str) -> Self {
        text.as_bytes().into()
    }
}

impl<'a> AttributeValue<'a> for Text<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        AttributeValue::parse(bytes).map(Self)
    }
}

impl Emit for Text<'_> {
    fn emit(&self, out: &mut MessageWriter) {
        self.0.emit(out);
    }
}

/// Nested attributes that are parsed on demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Nest<'a>(pub Cow<'a, [u8]>);

impl<'a> AttributeValue<'a> for Nest<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self> {
        AttributeValue::parse(bytes).map(Self)
    }
}

impl Emit for Nest<'_> {
    const NESTED: bool = true;

    fn emit(&self, out: &mut MessageWriter) {
        self.0.emit(out);
    }
}
