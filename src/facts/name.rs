//! Kernel names (tables, chains, sets), which are bytes rather than text.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::ops::Deref;

/// A name of the kernel's: any bytes but zero. It is kept as it is shown: what does not print, and the backslash, stand
/// there as `\xNN`, so that two names are never shown alike and [`Name::to_bytes`] gives back what the kernel wants.
#[derive(Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Clone for Name {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }

    /// Into the memory that is there.
    fn clone_from(&mut self, other: &Self) {
        self.0.clone_from(&other.0);
    }
}

impl Name {
    /// From the kernel's bytes, up to the first zero.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let mut shown = String::with_capacity(bytes.len());
        for chunk in bytes.utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() || character == '\\' {
                    character.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| escape(&mut shown, byte));
                } else {
                    shown.push(character);
                }
            }
            chunk.invalid().iter().for_each(|byte| escape(&mut shown, *byte));
        }
        Self(shown)
    }

    /// The kernel's bytes, without the final zero.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.0.len());
        let mut rest = self.0.as_bytes();
        while let [byte, next @ ..] = rest {
            let escaped = (*byte == b'\\').then(|| next.strip_prefix(b"x")?.split_at_checked(2)).flatten();
            let code = escaped.and_then(|(digits, _)| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok());
            match (code, escaped) {
                (Some(code), Some((_, after))) => {
                    bytes.push(code);
                    rest = after;
                }
                _ => {
                    bytes.push(*byte);
                    rest = next;
                }
            }
        }
        bytes
    }

    /// The printable form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn escape(shown: &mut String, byte: u8) {
    let _ = write!(shown, "\\x{byte:02x}");
}

impl Deref for Name {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for Name {
    fn from(name: &str) -> Self {
        Self::from_bytes(name.as_bytes())
    }
}

impl From<String> for Name {
    fn from(name: String) -> Self {
        Self::from_bytes(name.as_bytes())
    }
}

impl PartialEq<str> for Name {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for Name {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl PartialEq<Name> for &str {
    fn eq(&self, other: &Name) -> bool {
        other.0 == *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_shown_and_given_back() {
        for (bytes, shown) in [
            (&b"KUBE-SERVICES"[..], "KUBE-SERVICES"),
            (b"caf\xc3\xa9", "café"),
            (b"\xff\xfe", "\\xff\\xfe"),
            (b"a\nb", "a\\x0ab"),
            (b"a\\x0ab", "a\\x5cx0ab"),
            (b"\xc2\x9b", "\\xc2\\x9b"),
            (b"name\0rest", "name"),
        ] {
            assert_eq!(Name::from_bytes(bytes), *shown);
        }
        proptest::proptest!(|(bytes: Vec<u8>)| {
            let bytes: Vec<u8> = bytes.into_iter().filter(|byte| *byte != 0).collect();
            let name = Name::from_bytes(&bytes);
            proptest::prop_assert_eq!(name.to_bytes(), bytes);
            proptest::prop_assert!(!name.chars().any(char::is_control));
        });
    }
}
