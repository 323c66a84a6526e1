//! Grammar of release strings, common to all vendors.

use crate::facts::{Build, KernelVersion};

/// The last 2.6.z. Higher numbers are made up by the UNAME26 personality (`setarch --uname-2.6`).
const LAST_2_6: u16 = 39;

/// Splits `5.15.167.4-microsoft` into 5.15.167 and `-microsoft`. A fourth number (WSL, the 2.6.x.y stable releases)
/// says nothing about upstream.
pub(super) fn split_version(release: &str) -> Result<(KernelVersion, &str), String> {
    let mut rest = release;
    let mut numbers = Vec::with_capacity(4);
    while numbers.len() < 4 {
        let end = digits(rest);
        if end == 0 {
            return Err(format!("kernel release {release:?} does not begin with x.y or x.y.z"));
        }
        let number: u16 = rest[..end]
            .parse()
            .map_err(|_| format!("kernel release {release:?}: {} is too large for a version", &rest[..end]))?;
        numbers.push(number);
        rest = &rest[end..];
        match rest.strip_prefix('.') {
            Some(next) if digits(next) > 0 => rest = next,
            _ => break,
        }
    }
    let (major, minor, patch) = match numbers[..] {
        [major, minor] => (major, minor, 0),
        [major, minor, patch, ..] => (major, minor, patch),
        _ => return Err(format!("kernel release {release:?} has no minor version")),
    };
    let version = KernelVersion::new(major, minor, patch);
    if major == 0 {
        return Err(format!("kernel release {release:?}: no kernel has major version 0"));
    }
    if (major, minor) == (2, 6) && patch > LAST_2_6 {
        return Err(format!(
            "kernel release {release:?} is the disguise of the UNAME26 personality (setarch --uname-2.6), \
             not this kernel's release"
        ));
    }
    Ok((version, rest))
}

/// The part of /proc/version that equals `uname -v`. The compiler's name before it often mentions a distribution: the
/// build machine's, not the kernel's.
pub(super) fn build_line(proc_version: &str) -> Option<&str> {
    proc_version.rfind(" #").map(|at| &proc_version[at + 1..])
}

/// Number of leading ASCII digits.
pub(super) fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
}

/// The number in a word that consists of `tag` and digits.
pub(super) fn tagged(word: &str, tag: &str) -> Option<u32> {
    let rest = word.strip_prefix(tag)?;
    let end = digits(rest);
    rest[..end].parse().ok()
}

/// Whether there is `rc` with a digit, at the start of a word or after a digit or `~`: a release candidate.
pub(super) fn has_candidate(text: &str) -> bool {
    text.match_indices("rc").any(|(at, _)| {
        let before = text[..at].bytes().next_back();
        let starts_word = before.is_none_or(|b| !b.is_ascii_alphabetic());
        starts_word && digits(&text[at + 2..]) > 0
    })
}

/// The build number at the start of `-107-generic`: 107, and `generic`. A number followed by letters (`0.bpo.9`,
/// `76060800daily`) has another meaning; `None` is better than a wrong one.
pub(super) fn build_of(suffix: &str) -> Option<Build> {
    let mut rest = suffix.strip_prefix('-')?;
    let mut numbers = Vec::new();
    loop {
        let end = digits(rest);
        let after = &rest[end..];
        // "60.18.r966_40", "1127.8.2.el7": the build number ends at a dotted word that is not a number.
        if end == 0 || after.starts_with(|c: char| c.is_ascii_alphabetic()) {
            break;
        }
        numbers.push(rest[..end].parse().ok()?);
        rest = after;
        match rest.strip_prefix('.') {
            Some(next) => rest = next,
            None => break,
        }
    }
    if numbers.is_empty() || rest.starts_with("bpo.") || rest.starts_with("deb") {
        return None;
    }
    let word = rest.split('.').next().unwrap_or("");
    let flavour = match rest.split_once('-') {
        _ if tagged(word, "rt").is_some() => "rt",
        Some((_, flavour)) => flavour,
        None => "",
    };
    Some(Build { numbers, flavour: flavour.to_owned() })
}
