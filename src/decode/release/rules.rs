//! Who built a kernel, and what its x.y.z is worth: one rule after the other, the first that knows
//! decides.

use super::text::{build_of, digits, has_candidate, split_version, tagged};
use crate::snapshot::{Build, KernelVersion, Numbering, Vendor};

/// Upstream series with long-term stable releases that Ubuntu merges. In any other series
/// Ubuntu carries on alone once upstream has stopped, so its base is just a lower bound.
const UBUNTU_FOLLOWS: [(u16, u16); 7] = [(5, 4), (5, 10), (5, 15), (6, 1), (6, 6), (6, 12), (6, 18)];

/// First words of the flavours in Ubuntu's `x.y.0-ABI-flavour`.
const UBUNTU_FLAVOURS: [&str; 22] = [
    "generic",
    "lowlatency",
    "server",
    "virtual",
    "aws",
    "azure",
    "gcp",
    "gke",
    "gkeop",
    "oracle",
    "kvm",
    "oem",
    "raspi",
    "raspi2",
    "snapdragon",
    "ibm",
    "intel",
    "nvidia",
    "realtime",
    "bluefield",
    "xilinx",
    "euclid",
];

/// Words in the flavours of Debian's `x.y.0-ABI-flavour`.
const DEBIAN_FLAVOURS: [&str; 10] =
    ["amd64", "arm64", "686", "armmp", "i386", "powerpc64le", "s390x", "riscv64", "marvell", "rpi"];

/// Flavours of SUSE; those of the second list count only after a dotted build (`150400.14.10`),
/// as others use the words too.
const SUSE_FLAVOURS: [&str; 4] = ["default", "preempt", "kvmsmall", "64kb"];
const SUSE_SHARED_FLAVOURS: [&str; 6] = ["azure", "rt", "pae", "xen", "desktop", "vanilla"];

/// The base of each Red Hat release. `.elN` upon any other base is someone else's build.
const RHEL_BASES: [(u32, KernelVersion); 6] = [
    (5, KernelVersion::new(2, 6, 18)),
    (6, KernelVersion::new(2, 6, 32)),
    (7, KernelVersion::new(3, 10, 0)),
    (8, KernelVersion::new(4, 18, 0)),
    (9, KernelVersion::new(5, 14, 0)),
    (10, KernelVersion::new(6, 12, 0)),
];

/// What else stands in Red Hat's releases: processors and variants of the same sources.
const RHEL_WORDS: [&str; 14] = [
    "x86", "aarch64", "ppc64le", "ppc64", "s390x", "i686", "debug", "kdump", "rt", "64k", "16k", "centos", "plus",
    "cloud",
];

/// What one rule found out: vendor, upstream version, and what that version means.
pub(super) type Identity = (Vendor, KernelVersion, Numbering);

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
    pub fn identity(&self) -> Identity {
        self.debian()
            .or_else(|| self.ubuntu_mainline())
            .or_else(|| self.marked())
            .or_else(|| self.ubuntu())
            .or_else(|| self.suse())
            .unwrap_or_else(|| self.unknown())
    }

    fn words(&self) -> impl Iterator<Item = &'a str> {
        self.suffix.split(['.', '-', '+', '_', '~']).filter(|word| !word.is_empty())
    }

    fn has(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.words().any(wanted)
    }

    /// z cannot be the stable release here: x.y.0 with something behind it, or a 2.6 kernel,
    /// whose z is the series.
    fn z_is_mute(&self) -> bool {
        !self.suffix.is_empty() && (self.named.patch == 0 || self.named.major == 2)
    }

    /// The vendor's kernel really is `named`, unless it is a release candidate.
    fn exact(&self, vendor: Vendor) -> Identity {
        let numbering = match has_candidate(self.suffix) {
            true => Numbering::Prerelease,
            false => Numbering::Upstream,
        };
        (vendor, self.named, numbering)
    }

    fn frozen(&self, vendor: Vendor) -> Identity {
        (vendor, self.named, Numbering::Frozen)
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
    fn debian(&self) -> Option<Identity> {
        if let Some((_, after)) = self.build_line.split_once("Debian ") {
            let package = after.split_whitespace().next().unwrap_or("");
            let package = package.split_once(':').map_or(package, |(_, rest)| rest);
            let end = package.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
            let base = package[..end].parse().ok().filter(|&base| self.same_series(base));
            return Some(match base {
                Some(base) if has_candidate(package) => (Vendor::Debian, base, Numbering::Prerelease),
                Some(base) => (Vendor::Debian, base, Numbering::Upstream),
                None => self.frozen(Vendor::Debian),
            });
        }
        if self.suffix.starts_with("+deb") {
            return Some(self.exact(Vendor::Debian));
        }
        let flavoured = self.has(|word| DEBIAN_FLAVOURS.contains(&word));
        let numbered = self.suffix.strip_prefix('-').is_some_and(|rest| digits(rest) > 0);
        (self.z_is_mute() && numbered && flavoured).then(|| self.frozen(Vendor::Debian))
    }

    /// Ubuntu's unpatched builds have an encoded version in the place of the ABI, which makes
    /// `6.8.0-060800-generic` the release 6.8.0 and `6.8.0-060800rc1-generic` a candidate. With z above 0
    /// the code need not agree (`4.12.17-040917-generic` exists): x.y.z is believed.
    fn ubuntu_mainline(&self) -> Option<Identity> {
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
        Some((Vendor::Upstream, self.named, numbering))
    }

    /// Marks that tell a vendor by themselves.
    fn marked(&self) -> Option<Identity> {
        let has = |wanted: fn(&str) -> bool| self.has(wanted);
        let tag = |tag: &'static str| self.has(|word| tagged(word, tag).is_some());
        if has(|w| w == "elrepo") {
            return Some(self.exact(Vendor::Elrepo));
        }
        if has(|w| w.ends_with("uek")) {
            return Some(self.frozen(Vendor::Uek));
        }
        if has(|w| w == "pve") {
            return Some(self.frozen(Vendor::Proxmox));
        }
        if has(|w| w == "ve" || w.starts_with("042stab")) || tag("vz") {
            return Some(self.frozen(Vendor::Virtuozzo));
        }
        if tag("oe") || tag("hce") || tag("ky") || has(|w| w.starts_with("eulerosv")) {
            return Some(self.frozen(Vendor::OpenEuler));
        }
        if tag("al") || tag("an") {
            return Some(self.frozen(Vendor::Alibaba));
        }
        if tag("tl") || tag("oc") || has(|w| w.starts_with("tlinux")) {
            return Some(self.frozen(Vendor::Tencent));
        }
        if let Some(major) = self.words().find_map(|word| tagged(word, "el")) {
            return Some(self.red_hat(major));
        }
        if has(|w| w.starts_with("amzn")) {
            return Some(self.exact(Vendor::Amazon));
        }
        if self.suffix.contains(".fc") && tag("fc") {
            return Some(self.exact(Vendor::Fedora));
        }
        if self.suffix.contains(".ph") && tag("ph") {
            return Some(self.exact(Vendor::Photon));
        }
        if has(|w| w == "flatcar" || w == "coreos") {
            return Some(self.exact(Vendor::Flatcar));
        }
        if has(|w| w.eq_ignore_ascii_case("microsoft")) {
            // WSL 1 is no Linux and always says 4.4.0.
            return Some(match self.z_is_mute() {
                true => self.frozen(Vendor::Wsl),
                false => self.exact(Vendor::Wsl),
            });
        }
        if has(|w| w == "MANJARO" || w == "ARCH") || tag("arch") || tag("zen") {
            return Some(self.exact(Vendor::Arch));
        }
        None
    }

    /// Red Hat's counter means something only on its own base ("el7a" is the 4.14 for other
    /// processors) and if nobody added a word of their own (CloudLinux's `962.3.2.lve1.5.80.el7`).
    fn red_hat(&self, major: u32) -> Identity {
        let usual = |word: &str| {
            let known = tagged(word, "el").is_some() || tagged(word, "rt").is_some();
            known || digits(word) == word.len() || RHEL_WORDS.contains(&word)
        };
        if RHEL_BASES.contains(&(major, self.named)) && self.words().all(usual) {
            self.frozen(Vendor::Rhel)
        } else {
            self.unknown()
        }
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

    fn ubuntu(&self) -> Option<Identity> {
        if !self.z_is_mute() {
            return None;
        }
        if let Some((_, base)) = self.signed() {
            let base = base.unwrap_or(self.named);
            let followed = base.patch > 0 && UBUNTU_FOLLOWS.contains(&(base.major, base.minor));
            let numbering = if followed { Numbering::Upstream } else { Numbering::Frozen };
            return Some((Vendor::Ubuntu, base, numbering));
        }
        let by_flavour = self.build().is_some_and(|build| {
            let first = build.flavour.split('-').next().unwrap_or("");
            build.numbers.len() == 1 && UBUNTU_FLAVOURS.contains(&first)
        });
        (self.build_line.contains("-Ubuntu") || by_flavour).then(|| self.frozen(Vendor::Ubuntu))
    }

    fn suse(&self) -> Option<Identity> {
        let build = self.build()?;
        let flavour = build.flavour.as_str();
        let shared = build.numbers.len() > 1 && SUSE_SHARED_FLAVOURS.contains(&flavour);
        (SUSE_FLAVOURS.contains(&flavour) || shared).then(|| self.frozen(Vendor::Suse))
    }

    /// No mark: x.y.z is believed unless z is mute. `+` and `-gHASH` mean commits on top of it.
    fn unknown(&self) -> Identity {
        let chrome = ["chrome-bot", "Chromium OS"].iter().any(|w| self.proc_version.contains(w));
        let vendor = match self.suffix {
            "" => Vendor::Upstream,
            "+" if chrome => Vendor::Cos,
            _ if self.is_described() => Vendor::ChromeOs,
            _ => Vendor::Other,
        };
        if has_candidate(self.suffix) {
            (vendor, self.named, Numbering::Prerelease)
        } else if self.z_is_mute() {
            self.frozen(vendor)
        } else {
            (vendor, self.named, Numbering::Upstream)
        }
    }

    /// ChromeOS: `-20950-g3963226d9eb4`, commits since the tag. A kernel built at home has fewer than
    /// 10000 and the kernel's build pads that with zeroes.
    fn is_described(&self) -> bool {
        let mut parts = self.suffix.split('-').skip(1);
        let commits = parts.next().unwrap_or("");
        let hash = parts.next().and_then(|p| p.strip_prefix('g')).unwrap_or("");
        commits.len() >= 5
            && digits(commits) == commits.len()
            && !commits.starts_with('0')
            && hash.len() >= 7
            && hash.bytes().all(|b| b.is_ascii_hexdigit())
    }
}
