//! Kernel vendors: one file each, `vendors/NAME.toml`, with marks that only this vendor's kernels have.
//!
//! A file has
//! - `title`: one line about the vendor;
//! - `numbers`: what x.y.z in its releases means, a word of [`Numbers`];
//! - `samples`: releases, or a release, a blank and its `uname -v`. A test checks that this file and no other recognises
//!   them;
//! - `only`, rarely: the only words that its releases have;
//! - `[[mark]]`, at least one: how a kernel is recognised. A mark matches if all its keys do: `word`, `suffix`, `counter`
//!   and `flavour` are patterns for parts of the release after x.y.z, where `#` is one or more digits and `*` anything;
//!   `version` and `proc_version` are texts in `uname -v` and /proc/version.
//!
//! For a vendor without a file, x.y.z is a lower bound.

use std::sync::LazyLock;

use serde::Deserialize;

use super::input::Input;
use crate::facts::{KernelVersion, Vendor, names};

/// Read from the files by build.rs. A test checks that all are valid.
static VENDORS: LazyLock<Vec<VendorFile>> = LazyLock::new(|| read().unwrap_or_default());

fn read() -> Result<Vec<VendorFile>, String> {
    let files: Vec<(String, VendorFile)> =
        serde_json::from_str(include_str!(concat!(env!("OUT_DIR"), "/vendors.json"))).map_err(|e| e.to_string())?;
    Ok(files.into_iter().map(|(name, file)| VendorFile { name, ..file }).collect())
}

/// All vendors with a file, by name.
pub(super) fn all() -> &'static [VendorFile] {
    &VENDORS
}

names! {
    /// What x.y.z in a vendor's releases means.
    Numbers {
        /// The stable release that the kernel is built from, which determines its fixes
        Upstream = "upstream",
        /// A lower bound: kept for years while fixes are backported
        LowerBound = "lower_bound",
        /// The stable release is in `uname -v`, after the vendor's name: `Debian 4.19.132-1`
        InVersion = "in_version",
        /// The stable release is in /proc/version_signature
        InSignature = "in_signature",
        /// Nothing, it is not Linux
        Foreign = "foreign",
    }
}

/// A vendor file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VendorFile {
    /// Name of the file, without extension.
    #[serde(skip)]
    name: String,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and the test of the files"))]
    title: String,
    /// What x.y.z in its releases means.
    pub numbers: Numbers,
    /// For `in_version`: text before the package version in `uname -v`.
    #[serde(default)]
    pub package: Vec<String>,
    /// For `in_signature`: series, as x.y, in which the vendor merges all stable releases.
    #[serde(default)]
    pub follows: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "for people, and the test of the files"))]
    samples: Vec<String>,
    /// If given, the only words that a release may have; one with another word was modified by someone else.
    only: Option<Vec<String>>,
    mark: Vec<Mark>,
}

/// How a kernel is recognised. For each list that is given, one item must match.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mark {
    /// A word of the release after x.y.z; words end at `.`, `-`, `+`, `_` and `~`.
    word: Option<Vec<String>>,
    /// The whole release after x.y.z.
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
    /// Whether z cannot be a stable release: x.y.0 with a suffix, or a 2.6 kernel.
    mute: Option<bool>,
}

impl VendorFile {
    /// The vendor, named after the file.
    pub(crate) fn vendor(&'static self) -> Vendor {
        Vendor(&self.name)
    }

    /// Whether a kernel has one of the file's marks, and only words that this vendor uses.
    pub(crate) fn knows(&self, input: &Input<'_>) -> bool {
        let usual = |word| self.only.as_ref().is_none_or(|only| only.iter().any(|pattern| matches(pattern, word)));
        self.mark.iter().any(|mark| mark.fits(input)) && input.words().all(usual)
    }

    /// Whether this vendor merges all of upstream's stable releases in this series.
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

/// Whether all of `text` matches `pattern`: `#` is one or more digits, `*` anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => text.char_indices().map(|(at, _)| at).chain([text.len()]).any(|at| matches(rest, &text[at..])),
        '#' => (1..=super::text::digits(text)).any(|end| matches(rest, &text[end..])),
        _ => text.strip_prefix(first).is_some_and(|text| matches(rest, text)),
    }
}

// Next to this file rather than in vendors/, since all files there are embedded in the program.
#[cfg(test)]
#[path = "vendors_tests.rs"]
mod tests;
