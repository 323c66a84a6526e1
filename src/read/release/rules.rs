//! Who built a kernel, and what its x.y.z is worth.

use super::text::{build_of, digits, has_candidate, split_version};
use super::vendors::{self, Numbers, VendorFile};
use crate::facts::{Build, KernelVersion, Numbering, Vendor};

/// What was found out: vendor, upstream version, and what that version means.
pub(super) type Identified = (Vendor, KernelVersion, Numbering);

/// Everything the rules look at.
pub(super) struct Input<'a> {
    /// x.y.z of the release, and what follows it with its separator.
    pub named: KernelVersion,
    pub suffix: &'a str,
    pub build_line: &'a str,
    pub proc_version: &'a str,
    pub signature: &'a str,
}

impl<'a> Input<'a> {
    pub fn identity(&self) -> Identified {
        if let Some(mainline) = self.ubuntu_mainline() {
            return mainline;
        }
        // Nobody else signs. The test of the files holds that at most one of them knows a kernel.
        let signs = |file: &&VendorFile| file.numbers == Numbers::InSignature;
        let signed = vendors::all().iter().find(signs).filter(|_| self.z_is_mute() && self.signed().is_some());
        match signed.or_else(|| vendors::all().iter().find(|file| file.knows(self))) {
            Some(file) => self.numbered_by(file),
            None => self.unknown(),
        }
    }

    fn numbered_by(&self, file: &'static VendorFile) -> Identified {
        let vendor = file.vendor();
        match file.numbers {
            Numbers::Upstream => self.exact(vendor),
            Numbers::LowerBound => (vendor, self.named, Numbering::Frozen),
            Numbers::Foreign => (vendor, self.named, Numbering::Foreign),
            Numbers::InVersion => self.packaged(file),
            Numbers::InSignature => {
                let base = self.signed().and_then(|(_, base)| base).unwrap_or(self.named);
                let followed = base.patch > 0 && file.follows(base);
                let numbering = if followed { Numbering::Upstream } else { Numbering::Frozen };
                (vendor, base, numbering)
            }
        }
    }

    /// What stands between the marks that end a word: `.`, `-`, `+`, `_` and `~`.
    pub fn words(&self) -> impl Iterator<Item = &'a str> {
        self.suffix.split(['.', '-', '+', '_', '~']).filter(|word| !word.is_empty())
    }

    /// `39` and `generic` of `-39-generic`.
    pub fn counter(&self) -> Option<(&'a str, &'a str)> {
        self.suffix.strip_prefix('-')?.split_once('-')
    }

    /// z cannot be the stable release here: x.y.0 with something behind it, or a 2.6 kernel,
    /// whose z is the series.
    pub fn z_is_mute(&self) -> bool {
        !self.suffix.is_empty() && (self.named.patch == 0 || self.named.major == 2)
    }

    /// The vendor's kernel really is `named`, unless it is a release candidate.
    fn exact(&self, vendor: Vendor) -> Identified {
        let numbering = match has_candidate(self.suffix) {
            true => Numbering::Prerelease,
            false => Numbering::Upstream,
        };
        (vendor, self.named, numbering)
    }

    fn same_series(&self, other: KernelVersion) -> bool {
        other.series() == self.named.series() && (self.named.major != 2 || other.patch == self.named.patch)
    }

    /// The vendor's counter, read off the release.
    pub fn build(&self) -> Option<Build> {
        build_of(self.suffix)
    }

    /// `#1 SMP Debian 4.19.132-1 (2020-07-24)`: the package version is the upstream one, perhaps
    /// with an epoch before it (`1:6.6.20-1+rpt1`) or a candidate in it (`6.9~rc5-1`).
    fn packaged(&self, file: &'static VendorFile) -> Identified {
        let vendor = file.vendor();
        let Some(package) = file.package.iter().find_map(|name| Some(self.build_line.split_once(name)?.1)) else {
            return match self.z_is_mute() {
                true => (vendor, self.named, Numbering::Frozen),
                false => self.exact(vendor),
            };
        };
        let package = package.split_whitespace().next().unwrap_or("");
        let package = package.split_once(':').map_or(package, |(_, rest)| rest);
        let end = package.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        match package[..end].parse().ok().filter(|&base| self.same_series(base)) {
            Some(base) if has_candidate(package) => (vendor, base, Numbering::Prerelease),
            Some(base) => (vendor, base, Numbering::Upstream),
            None => (vendor, self.named, Numbering::Frozen),
        }
    }

    /// Ubuntu's unpatched builds have an encoded version in the place of the ABI, which makes
    /// `6.8.0-060800-generic` the release 6.8.0 and `6.8.0-060800rc1-generic` a candidate. With z above 0
    /// the code need not agree (`4.12.17-040917-generic` exists): x.y.z is believed.
    fn ubuntu_mainline(&self) -> Option<Identified> {
        let KernelVersion { major, minor, patch } = self.named;
        let code = self.suffix.strip_prefix('-')?.split('-').next()?;
        // An ordinary ABI has no leading zero.
        let numeric = &code[..digits(code)];
        if numeric.len() != 6 || !numeric.starts_with('0') {
            return None;
        }
        let coded: [u16; 3] = [numeric[..2].parse().ok()?, numeric[2..4].parse().ok()?, numeric[4..].parse().ok()?];
        let numbering = match () {
            () if code.len() > numeric.len() => Numbering::Prerelease,
            () if patch == 0 && coded != [major, minor, patch] => return None,
            () => Numbering::Upstream,
        };
        Some((Vendor::UPSTREAM, self.named, numbering))
    }

    /// `Ubuntu 5.15.0-107.117-generic 5.15.149`: the build, and the stable release merged last.
    /// Before 2010 there were only two fields.
    pub fn signed(&self) -> Option<(Build, Option<KernelVersion>)> {
        let mut fields = self.signature.split_whitespace().map(|f| f.trim_matches(['<', '>']));
        if fields.next() != Some("Ubuntu") {
            return None;
        }
        let (named, suffix) = split_version(fields.next()?).ok()?;
        // The file of another kernel (a bad bind mount) must not speak for this one.
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

    /// A bare x.y.z is the release. With anything behind it that no file knows it is a lower bound: Tencent keeps
    /// `4.14.105-19-0019` for years, Synology `4.4.180+`, and both repair by themselves.
    fn unknown(&self) -> Identified {
        match self.suffix {
            "" => (Vendor::UPSTREAM, self.named, Numbering::Upstream),
            suffix if has_candidate(suffix) => (Vendor::OTHER, self.named, Numbering::Prerelease),
            _ => (Vendor::OTHER, self.named, Numbering::Frozen),
        }
    }
}
