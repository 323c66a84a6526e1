//! Rules that determine vendor, upstream version and numbering.

use super::input::Input;
use super::text::{digits, has_candidate};
use super::vendors::{self, Numbers, VendorFile};
use crate::facts::{KernelVersion, Numbering, Vendor};

/// Vendor, upstream version, and what that version means.
pub(super) type Identified = (Vendor, KernelVersion, Numbering);

/// By the marks in the vendors' files; without one, x.y.z is a lower bound.
pub(super) fn identity(input: &Input<'_>) -> Identified {
    if let Some(mainline) = ubuntu_mainline(input) {
        return mainline;
    }
    // Only one vendor signs. A test checks that at most one file matches a kernel.
    let signs = |file: &&VendorFile| file.numbers == Numbers::InSignature;
    let signed = vendors::all().iter().find(signs).filter(|_| input.z_is_mute() && input.signed().is_some());
    match signed.or_else(|| vendors::all().iter().find(|file| file.knows(input))) {
        Some(file) => numbered_by(input, file),
        None => unknown(input),
    }
}

fn numbered_by(input: &Input<'_>, file: &'static VendorFile) -> Identified {
    let vendor = file.vendor();
    match file.numbers {
        Numbers::Upstream => exact(input, vendor),
        Numbers::LowerBound => (vendor, input.named, Numbering::Frozen),
        Numbers::Foreign => (vendor, input.named, Numbering::Foreign),
        Numbers::InVersion => packaged(input, file),
        Numbers::InSignature => {
            let base = input.signed().and_then(|(_, base)| base).unwrap_or(input.named);
            let followed = base.patch > 0 && file.follows(base);
            let numbering = if followed { Numbering::Upstream } else { Numbering::Frozen };
            (vendor, base, numbering)
        }
    }
}

/// The upstream version is `named` exactly, unless it is a release candidate.
fn exact(input: &Input<'_>, vendor: Vendor) -> Identified {
    let numbering = match has_candidate(input.suffix) {
        true => Numbering::Prerelease,
        false => Numbering::Upstream,
    };
    (vendor, input.named, numbering)
}

/// `#1 SMP Debian 4.19.132-1 (2020-07-24)`: the package version is the upstream version, possibly with an epoch
/// (`1:6.6.20-1+rpt1`) or as a candidate (`6.9~rc5-1`).
fn packaged(input: &Input<'_>, file: &'static VendorFile) -> Identified {
    let vendor = file.vendor();
    let Some(package) = file.package.iter().find_map(|name| Some(input.build_line.split_once(name)?.1)) else {
        return match input.z_is_mute() {
            true => (vendor, input.named, Numbering::Frozen),
            false => exact(input, vendor),
        };
    };
    let package = package.split_whitespace().next().unwrap_or("");
    let package = package.split_once(':').map_or(package, |(_, rest)| rest);
    let end = package.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    match package[..end].parse().ok().filter(|&base| input.same_series(base)) {
        Some(base) if has_candidate(package) => (vendor, base, Numbering::Prerelease),
        Some(base) => (vendor, base, Numbering::Upstream),
        None => (vendor, input.named, Numbering::Frozen),
    }
}

/// Ubuntu's unpatched builds encode the version in place of the ABI: `6.8.0-060800-generic` is release 6.8.0,
/// `6.8.0-060800rc1-generic` a candidate. With z above 0 the code may differ (`4.12.17-040917-generic` exists): x.y.z
/// counts.
fn ubuntu_mainline(input: &Input<'_>) -> Option<Identified> {
    let KernelVersion { major, minor, patch } = input.named;
    let code = input.suffix.strip_prefix('-')?.split('-').next()?;
    // A normal ABI number has no leading zero.
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
    Some((Vendor::UPSTREAM, input.named, numbering))
}

/// x.y.z alone is the release. With an unknown suffix it is a lower bound: Tencent keeps `4.14.105-19-0019` for years,
/// Synology `4.4.180+`, and both backport fixes.
fn unknown(input: &Input<'_>) -> Identified {
    match input.suffix {
        "" => (Vendor::UPSTREAM, input.named, Numbering::Upstream),
        suffix if has_candidate(suffix) => (Vendor::OTHER, input.named, Numbering::Prerelease),
        _ => (Vendor::OTHER, input.named, Numbering::Frozen),
    }
}
