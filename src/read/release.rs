//! Identity of the kernel from the strings in /proc. Pure and total: any input gives a [`Kernel`] or one line saying
//! what is wrong with it.
//!
//! The vendor is recognised by marks that only one vendor writes (`vendors/NAME.toml`). What x.y.z means depends on the
//! vendor: some follow upstream's stable releases, some name the release they are built from elsewhere (Debian's `uname
//! -v`, Ubuntu's signature), and some keep x.y.z for years and backport fixes. x.y.z with an unknown suffix is never
//! taken for the release, only as a lower bound.

mod date;
mod input;
mod rules;
mod text;
mod vendors;

use self::input::Input;
use self::text::{build_line, split_version};
use crate::facts::Kernel;

/// `__NEW_UTS_LEN` of include/uapi/linux/utsname.h: no kernel has a longer release.
const MAX_RELEASE: usize = 64;

/// `release` is /proc/sys/kernel/osrelease, `version` /proc/sys/kernel/version (`uname -v`), `proc_version`
/// /proc/version, `signature` /proc/version_signature (Ubuntu only). If an optional one is missing or malformed, the
/// result is less precise, never an error.
pub(crate) fn parse(
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
    let (vendor, base, numbering) = rules::identity(&input);
    let build = input.signed().map(|(build, _)| build).or_else(|| input.build());
    let built = date::built(input.build_line);
    Ok(Kernel { release: release.to_owned(), vendor, base, numbering, build, built })
}

/// Names of all vendors, to check the tables that use them.
#[cfg(test)]
pub(crate) fn vendors() -> impl Iterator<Item = &'static str> {
    vendors::all().iter().map(|file| file.vendor().0)
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
