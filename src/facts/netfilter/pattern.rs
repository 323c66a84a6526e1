//! Patterns for names and comments, used by owner signatures.

use std::fmt;
use std::ops::Range;

/// A text with placeholders:
///
/// | place | filled in with |
/// |---|---|
/// | `{}` | anything, even nothing |
/// | `{one\|other}` | one of these |
/// | `{hex 24}`, `{HEX 13}` | so many hexadecimal digits in lower case, in upper case |
/// | `{base32 16}` | so many characters of `A-Z2-7` |
/// | `{base64 16}` | so many of `A-Za-z0-9_-` |
/// | `{number}` | decimal digits |
/// | `{device}` | 1 to 15 characters of `A-Za-z0-9._+-` |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern(pub &'static str);

/// A part of a pattern.
enum Piece {
    /// Literal text.
    Text(&'static str),
    /// One of these alternatives, separated by `|`.
    OneOf(&'static str),
    /// Characters of a hash or number, which identify nobody.
    Digits { of: fn(u8) -> bool, least: usize, most: usize },
    /// Free characters, which may identify someone.
    Free { of: fn(u8) -> bool, least: usize, most: usize },
}

impl Pattern {
    /// Whether the text matches.
    pub fn fits(self, text: &str) -> bool {
        self.free_parts(text.as_bytes()).is_some()
    }

    /// Byte ranges of the text that may identify someone, because its writer fills them in freely. `None`: no match.
    pub fn free_parts(self, text: &[u8]) -> Option<Vec<Range<usize>>> {
        // Cheap check first: most patterns differ in the first byte.
        if self.0.bytes().next().is_some_and(|byte| byte != b'{' && text.first() != Some(&byte)) {
            return None;
        }
        let mut found = Vec::new();
        fits(self.0, text, 0, &mut found).then_some(found)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Matches the rest of a pattern against the text from `at`, adding free parts to `found`.
fn fits(pattern: &'static str, text: &[u8], at: usize, found: &mut Vec<Range<usize>>) -> bool {
    let Some((piece, rest)) = first(pattern) else { return at == text.len() };
    let left = &text[at..];
    match piece {
        Piece::Text(word) => left.starts_with(word.as_bytes()) && fits(rest, text, at + word.len(), found),
        Piece::OneOf(words) => {
            words.split('|').any(|word| left.starts_with(word.as_bytes()) && fits(rest, text, at + word.len(), found))
        }
        Piece::Digits { of, least, most } => {
            let length = left.iter().take(most).take_while(|byte| of(**byte)).count();
            length >= least && fits(rest, text, at + length, found)
        }
        Piece::Free { of, least, most } => {
            let longest = left.iter().take(most).take_while(|byte| of(**byte)).count();
            (least..=longest).any(|length| {
                found.push(at..at + length);
                let whole = fits(rest, text, at + length, found);
                if !whole {
                    found.pop();
                }
                whole
            })
        }
    }
}

/// Splits off the first piece of a pattern.
fn first(pattern: &'static str) -> Option<(Piece, &'static str)> {
    let Some(place) = pattern.strip_prefix('{') else {
        let end = pattern.find('{').unwrap_or(pattern.len());
        let (text, rest) = pattern.split_at(end);
        return (!text.is_empty()).then_some((Piece::Text(text), rest));
    };
    let (place, rest) = place.split_once('}')?;
    Some((filled_in(place), rest))
}

fn filled_in(place: &'static str) -> Piece {
    const IFNAMSIZ: usize = 16;
    let (kind, count) = place.split_once(' ').unwrap_or((place, ""));
    let of: fn(u8) -> bool = match kind {
        "" => return Piece::Free { of: |_| true, least: 0, most: usize::MAX },
        "device" => {
            let of = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-".contains(&byte);
            return Piece::Free { of, least: 1, most: IFNAMSIZ - 1 };
        }
        "number" => return Piece::Digits { of: |byte| byte.is_ascii_digit(), least: 1, most: usize::MAX },
        "hex" => |byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        "HEX" => |byte| matches!(byte, b'0'..=b'9' | b'A'..=b'F'),
        "base32" => |byte| matches!(byte, b'A'..=b'Z' | b'2'..=b'7'),
        // Could be any word as well.
        "base64" => {
            let of = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            return Piece::Free { of, least: exactly(count), most: exactly(count) };
        }
        _ => return Piece::OneOf(place),
    };
    Piece::Digits { of, least: exactly(count), most: exactly(count) }
}

/// An unparsable count becomes so large that nothing matches; a test checks that every pattern matches something.
fn exactly(count: &str) -> usize {
    count.parse().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_filled_in_with_what_they_say() {
        for (pattern, fit, other) in [
            ("KUBE-POSTROUTING", &["KUBE-POSTROUTING"][..], &["KUBE-POSTROUTING-CUSTOM", "KUBE-POST", ""][..]),
            (
                "KUBE-{SVC|SEP}-{base32 16}",
                &["KUBE-SVC-NPX46M4PTMTKRN6Y", "KUBE-SEP-O3T4XKWBZBTXSXRG"],
                &["KUBE-SVC-NPX46M4PTMTKRN6", "KUBE-SVC-NPX46M4PTMTKRN6YA", "KUBE-SVC-npx46m4ptmtkrn6y", "KUBE-FW-"],
            ),
            ("{|OLD_}CILIUM_POST_nat", &["CILIUM_POST_nat", "OLD_CILIUM_POST_nat"], &["NEW_CILIUM_POST_nat"]),
            ("CNI-{hex 4}", &["CNI-0af9"], &["CNI-0AF9", "CNI-0af", "CNI-0af90"]),
            ("N-{HEX 4}", &["N-0AF9"], &["N-0af9"]),
            (
                "AWS-SNAT-CHAIN-{number}",
                &["AWS-SNAT-CHAIN-0", "AWS-SNAT-CHAIN-12"],
                &["AWS-SNAT-CHAIN-", "AWS-SNAT-CHAIN-x"],
            ),
            ("cali:{base64 4}", &["cali:aZ0_", "cali:----"], &["cali:a b.", "cali:mine!"]),
            ("cali:{base64 4};{}", &["cali:aZ0_;", "cali:aZ0_; why"], &["cali:aZ0_", "cali:aZ0"]),
            (
                "nm-shared-{device}",
                &["nm-shared-eth0", "nm-shared-br_0.7"],
                &["nm-shared-", "nm-shared-a b", "nm-shared-0123456789abcdef"],
            ),
            (
                "name: \"{}\" id: \"{}\"",
                &["name: \"a\" id: \"b\"", "name: \"\" id: \"\""],
                &["name: \"a\"", "name: \"a\" id: \"b"],
            ),
        ] {
            for text in fit {
                assert!(Pattern(pattern).fits(text), "{pattern} {text}");
            }
            for text in other {
                assert!(!Pattern(pattern).fits(text), "{pattern} {text}");
            }
        }
    }

    #[test]
    fn only_what_is_filled_in_freely_may_identify_somebody() {
        let parts = |pattern, text: &'static str| -> Option<Vec<&str>> {
            let parts = Pattern(pattern).free_parts(text.as_bytes())?;
            Some(parts.into_iter().map(|part| &text[part]).collect())
        };
        assert_eq!(parts("KUBE-SVC-{base32 16}", "KUBE-SVC-NPX46M4PTMTKRN6Y"), Some(vec![]));
        assert_eq!(parts("POST_{}_{allow|pre}", "POST_my_zone_allow"), Some(vec!["my_zone"]));
        assert_eq!(parts("name: \"{}\" id: \"{}\"", "name: \"net\" id: \"0\""), Some(vec!["net", "0"]));
        assert_eq!(parts("cali:{base64 4};{}", "cali:abcd; why"), Some(vec!["abcd", " why"]));
        assert_eq!(parts("nm-shared-{device}", "nm-shared-"), None);
    }
}
