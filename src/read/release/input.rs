//! The identification strings of a kernel, and their parts.

use super::text::{build_of, split_version};
use crate::facts::{Build, KernelVersion};

/// The identification strings.
pub(super) struct Input<'a> {
    /// x.y.z of the release.
    pub named: KernelVersion,
    /// The rest of the release, with its separator.
    pub suffix: &'a str,
    /// `uname -v`; empty if not known.
    pub build_line: &'a str,
    /// /proc/version; empty if not known.
    pub proc_version: &'a str,
    /// /proc/version_signature; empty if there is none.
    pub signature: &'a str,
}

impl<'a> Input<'a> {
    /// Words of the suffix, which end at `.`, `-`, `+`, `_` and `~`.
    pub(crate) fn words(&self) -> impl Iterator<Item = &'a str> {
        self.suffix.split(['.', '-', '+', '_', '~']).filter(|word| !word.is_empty())
    }

    /// `39` and `generic` of `-39-generic`.
    pub(crate) fn counter(&self) -> Option<(&'a str, &'a str)> {
        self.suffix.strip_prefix('-')?.split_once('-')
    }

    /// Whether z cannot be the stable release: x.y.0 with a suffix, or 2.6.z, where z is the series.
    pub(crate) fn z_is_mute(&self) -> bool {
        !self.suffix.is_empty() && (self.named.patch == 0 || self.named.major == 2)
    }

    /// Whether a version is of the same series as the release: x.y, for 2.6 kernels x.y.z.
    pub(crate) fn same_series(&self, other: KernelVersion) -> bool {
        other.series() == self.named.series() && (self.named.major != 2 || other.patch == self.named.patch)
    }

    /// The vendor's build number in the release.
    pub(crate) fn build(&self) -> Option<Build> {
        build_of(self.suffix)
    }

    /// `Ubuntu 5.15.0-107.117-generic 5.15.149`: the build, and the stable release merged last, which is missing before
    /// 2010.
    pub(crate) fn signed(&self) -> Option<(Build, Option<KernelVersion>)> {
        let mut fields = self.signature.split_whitespace().map(|f| f.trim_matches(['<', '>']));
        if fields.next() != Some("Ubuntu") {
            return None;
        }
        let (named, suffix) = split_version(fields.next()?).ok()?;
        // Ignore the file of another kernel (a wrong bind mount).
        if named != self.named {
            return None;
        }
        let build = build_of(suffix)?;
        if self.build().is_some_and(|ours| ours.numbers.first() != build.numbers.first()) {
            return None;
        }
        let base = fields.next().and_then(|f| f.parse().ok()).filter(|&b| self.same_series(b));
        Some((build, base))
    }
}
