//! Identity of the running kernel.
//!
//! Filled by `read::release` from /proc/sys/kernel/{osrelease,version}, /proc/version and /proc/version_signature,
//! which show the host's kernel in every container.

use std::fmt;
use std::str::FromStr;

use jiff::civil::Date;

/// The x.y.z of an upstream release. A missing z is 0, as in `uname -r` since Linux 3.0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KernelVersion {
    /// x
    pub major: u16,
    /// y
    pub minor: u16,
    /// z
    pub patch: u16,
}

impl KernelVersion {
    /// x.y.z
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// The first release of the series: 5.4.41 -> 5.4.0.
    pub const fn series(self) -> Self {
        Self::new(self.major, self.minor, 0)
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for KernelVersion {
    type Err = String;

    /// Accepts `5`, `5.4` and `5.4.41`; trailing text, signs and blanks are errors.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut numbers = [0u16; 3];
        for (position, part) in text.split('.').enumerate() {
            let slot =
                numbers.get_mut(position).ok_or_else(|| format!("version {text:?} has more than three numbers"))?;
            *slot =
                number(part).ok_or_else(|| format!("version {text:?}: {part:?} is not a number from 0 to 65535"))?;
        }
        let [major, minor, patch] = numbers;
        Ok(Self::new(major, minor, patch))
    }
}

/// Decimal digits only (`u16::from_str` would also take a leading `+`).
fn number(text: &str) -> Option<u16> {
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Who built a kernel: the name of the file in src/read/release/vendors that recognised it, or one of the constants
/// below. Names are stable, because the defect tables use them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vendor(pub &'static str);

impl Vendor {
    /// A bare x.y.z, or one of Ubuntu's unpatched "mainline" builds.
    pub const UPSTREAM: Self = Self("upstream");
    /// A vendor that no file recognises.
    pub const OTHER: Self = Self("other");
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// How exactly [`Kernel::base`] tells which fixes are included.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Numbering {
    /// Exactly the fixes of upstream release `base`.
    Upstream,
    /// A release candidate of `base`: some of the fixes between its predecessor and `base`.
    Prerelease,
    /// At least the fixes of `base`: a lower bound. Later fixes and features may be backported without changing the
    /// number.
    Frozen,
    /// Nothing: not Linux, but something that emulates it (WSL 1, gVisor).
    Foreign,
}

/// The vendor's build number: `107` of `4.15.0-107-generic`, `1127.8.2` of `3.10.0-1127.8.2.el7`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Build {
    /// Never empty. Compared number by number, so 1127 < 1127.8.2 < 1160.
    pub numbers: Vec<u32>,
    /// `generic`, `aws`, `cloud-amd64`, `rt`; empty if the release names none. Flavours may be numbered independently
    /// (Ubuntu's cloud kernels start at 1000).
    pub flavour: String,
}

impl fmt::Display for Build {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, number) in self.numbers.iter().enumerate() {
            if position > 0 {
                f.write_str(".")?;
            }
            write!(f, "{number}")?;
        }
        if !self.flavour.is_empty() {
            write!(f, "-{}", self.flavour)?;
        }
        Ok(())
    }
}

/// The running kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Kernel {
    /// `uname -r`, printable ASCII of at most 64 bytes.
    pub release: String,
    /// The vendor.
    pub vendor: Vendor,
    /// The upstream version that the sources stem from, not always the one in `release`: Debian's
    /// `4.19.0-10-amd64` is 4.19.132.
    pub base: KernelVersion,
    /// How exact `base` is.
    pub numbering: Numbering,
    /// `None` if the release has no build number, or one that cannot be compared.
    pub build: Option<Build>,
    /// Latest possible build date, in UTC, from `uname -v`; `None` if that has no date. It may be arbitrary:
    /// reproducible builds choose their date.
    pub built: Option<Date>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_printed() {
        for (text, shown) in [("0", "0.0.0"), ("5.4", "5.4.0"), ("5.4.41", "5.4.41"), ("2.6.39", "2.6.39")] {
            assert_eq!(text.parse::<KernelVersion>().unwrap().to_string(), shown);
        }
        for text in ["", ".", "5.", "5.4.", "5.4.1.2", "+5.4", "5.-4", "5.4 ", "65536.1", "5.x"] {
            assert!(text.parse::<KernelVersion>().is_err(), "{text:?}");
        }
        assert!(KernelVersion::new(5, 5, 19) > KernelVersion::new(5, 4, 41));
    }

    #[test]
    fn builds_are_printed_with_their_flavour() {
        let mut build = Build { numbers: vec![1127, 8, 2], flavour: String::new() };
        assert_eq!(build.to_string(), "1127.8.2");
        build.flavour = "rt".into();
        assert_eq!(build.to_string(), "1127.8.2-rt");
    }
}
