//! The vendors of kernels: one file each, `vendors/NAME.toml`, whose marks in the strings of a kernel are theirs alone.
//!
//! A file has
//! - `title`: who they are, one line;
//! - `numbers`: what x.y.z in their releases is worth, a word of [`Numbers`];
//! - `samples`: releases of theirs, or a release, a blank and its `uname -v`. A test holds that each is known by this file and
//!   by no other;
//! - `only`, rarely: the only words that their releases have;
//! - `[[mark]]`, one or several: how a kernel of theirs is known. A mark fits if all that it names is there:
//!   `word`, `suffix`, `counter` and `flavour` are patterns for parts of the release behind x.y.z, `#` is one digit or more, and
//!   `*` anything; `version` and `proc_version` are texts in `uname -v` and /proc/version.
//!
//! A vendor that is in no file is no failure: x.y.z then is a lower bound.

use std::sync::LazyLock;

use serde::Deserialize;

use super::input::Input;
use crate::facts::{KernelVersion, Vendor, names};

/// What build.rs has read of the files. A test holds that all of them are right.
static VENDORS: LazyLock<Vec<VendorFile>> = LazyLock::new(|| read().unwrap_or_default());

fn read() -> Result<Vec<VendorFile>, String> {
    let files: Vec<(String, VendorFile)> =
        serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/vendors.json"))).map_err(|e| e.to_string())?;
    Ok(files.into_iter().map(|(name, file)| VendorFile { name, ..file }).collect())
}

/// The vendors that natwatch knows, by name.
pub(super) fn all() -> &'static [VendorFile] {
    &VENDORS
}

names! {
    /// What the x.y.z in a vendor's releases is worth.
    Numbers {
        /// It is the stable release that the kernel is built from: its number decides
        Upstream = "upstream",
        /// They keep it for years and repair by themselves: their fixes do not show in it
        LowerBound = "lower_bound",
        /// The stable release stands in `uname -v`, behind the vendor's name: `Debian 4.19.132-1`
        InVersion = "in_version",
        /// The stable release stands in /proc/version_signature
        InSignature = "in_signature",
        /// It is no Linux: the number says nothing
        Foreign = "foreign",
    }
}

/// A file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VendorFile {
    /// The file's name, without extension.
    #[serde(skip)]
    name: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and the test of the files"))]
    title: String,
    pub numbers: Numbers,
    /// With `in_version`: what stands before the package's version in `uname -v`.
    #[serde(default)]
    pub package: Vec<String>,
    /// With `in_signature`: series whose stable releases they merge to the end, as x.y.
    #[serde(default)]
    pub follows: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and the test of the files"))]
    samples: Vec<String>,
    /// If it is there, the words that the release may have: with another one it is someone else's, who has added something.
    only: Option<Vec<String>>,
    mark: Vec<Mark>,
}

/// How a kernel is known. Of each list that is there one member has to fit.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// A word of the release behind x.y.z; words end at `.`, `-`, `+`, `_` and `~`.
    word: Option<Vec<String>>,
    /// The whole release behind x.y.z.
    suffix: Option<Vec<String>>,
    /// `39` of `-39-generic`.
    counter: Option<Vec<String>>,
    /// `generic` of `-39-generic`, `intel` and `intel-iotg` of `-1034-intel-iotg`.
    flavour: Option<Vec<String>>,
    /// x.y.z.
    base: Option<Vec<String>>,
    /// A text in `uname -v`.
    version: Option<Vec<String>>,
    /// A text in /proc/version.
    proc_version: Option<Vec<String>>,
    /// Whether z cannot be the number of a stable release: x.y.0 with something behind it, or a 2.6 kernel.
    mute: Option<bool>,
}

impl VendorFile {
    /// The vendor, by the file's name.
    pub(crate) fn vendor(&'static self) -> Vendor {
        Vendor(&self.name)
    }

    /// Whether a kernel has one of the file's marks, and no word that the vendor does not use.
    pub(crate) fn knows(&self, input: &Input<'_>) -> bool {
        let usual = |word| self.only.as_ref().is_none_or(|only| only.iter().any(|pattern| matches(pattern, word)));
        self.mark.iter().any(|mark| mark.fits(input)) && input.words().all(usual)
    }

    /// Whether their kernels of this series are merged from upstream's stable releases to the end.
    pub(crate) fn follows(&self, version: KernelVersion) -> bool {
        self.follows.iter().any(|series| series.parse() == Ok(version.series()))
    }
}

impl Mark {
    fn fits(&self, input: &Input<'_>) -> bool {
        let any = |patterns: &Option<Vec<String>>, fits: &dyn Fn(&str) -> bool| {
            patterns.as_ref().is_none_or(|patterns| patterns.iter().any(|pattern| fits(pattern)))
        };
        let (counter, flavour) = input.counter().unwrap_or_default();
        let first = flavour.split('-').next().unwrap_or_default();
        any(&self.word, &|pattern| input.words().any(|word| matches(pattern, word)))
            && any(&self.suffix, &|pattern| matches(pattern, input.suffix))
            && any(&self.counter, &|pattern| matches(pattern, counter))
            && any(&self.flavour, &|pattern| matches(pattern, flavour) || matches(pattern, first))
            && any(&self.base, &|base| base.parse() == Ok(input.named))
            && any(&self.version, &|text| input.build_line.contains(text))
            && any(&self.proc_version, &|text| input.proc_version.contains(text))
            && self.mute.is_none_or(|mute| mute == input.z_is_mute())
    }
}

/// Whether all of `text` is as `pattern` says: `#` is one digit or more, `*` anything, all else itself.
fn matches(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..])),
        '#' => (1..=super::text::digits(text)).any(|end| matches(rest, &text[end..])),
        _ => text.strip_prefix(first).is_some_and(|text| matches(rest, text)),
    }
}

// Beside this file, not under vendors/: all that lies there is embedded in the program.
#[cfg(test)]
#[path = "vendors_tests.rs"]
mod tests;
