//! Reads a kernel's identity from the strings it shows in /proc. Pure and total: any input gives a
//! [`Kernel`] or one line saying what is wrong with it.
//!
//! The order of the rules matters. A kernel is first asked for its true upstream version
//! (Debian's `uname -v`, Ubuntu's signature), then for marks that only one vendor writes, and only
//! then is x.y.z believed. x.y.0 followed by something unknown is never taken for the release x.y.0:
//! several distributions keep z at 0 for years.

mod rules;
mod text;

use self::rules::Input;
use self::text::{build_line, split_version};
use crate::snapshot::{Kernel, Vendor};

/// `__NEW_UTS_LEN` of include/uapi/linux/utsname.h: no kernel has a longer release.
const MAX_RELEASE: usize = 64;

/// `release` is /proc/sys/kernel/osrelease, `version` /proc/sys/kernel/version (`uname -v`),
/// `proc_version` /proc/version, `signature` /proc/version_signature (Ubuntu only). Of the optional
/// ones, a missing or odd text makes the answer vaguer, never an error.
pub fn parse(
    release: &str,
    version: Option<&str>,
    proc_version: Option<&str>,
    signature: Option<&str>,
) -> Result<Kernel, String> {
    let release = release.trim_end_matches('\n');
    check_text(release)?;
    let (named, suffix) = split_version(release)?;
    let input = Input {
        named,
        suffix,
        build_line: version.filter(|text| !text.trim().is_empty()).or_else(|| build_line(proc_version?)).unwrap_or(""),
        proc_version: proc_version.unwrap_or(""),
        signature: signature.unwrap_or(""),
    };
    let (vendor, base, numbering) = input.identity();
    let build = match vendor {
        Vendor::Ubuntu => input.signed().map_or_else(|| input.build(), |(build, _)| Some(build)),
        _ => input.build(),
    };
    Ok(Kernel { release: release.to_owned(), vendor, base, numbering, build })
}

fn check_text(release: &str) -> Result<(), String> {
    if release.is_empty() {
        return Err("kernel release is empty".into());
    }
    if release.len() > MAX_RELEASE {
        return Err(format!(
            "kernel release has {} bytes, more than the {MAX_RELEASE} a kernel can have",
            release.len()
        ));
    }
    match release.chars().find(|c| !c.is_ascii_graphic()) {
        Some(odd) => Err(format!("kernel release {release:?} contains {odd:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
