//! Known kernel defects: one file each, `defects/ID.toml`, checked when read.
//!
//! A file has `id`, `title`, `references`, `fix_written`, `[[upstream]]` ranges of x.y.z releases, and `[[vendor]]`
//! tables with ranges of build numbers for kernels whose x.y.z is a lower bound. A range that nobody has checked is
//! `unknown`, and its source says what was not checked. These files are the only place with such facts.

use std::sync::LazyLock;

use jiff::civil::Date;
use serde::Deserialize;

pub use super::range::DefectState;
use super::range::{BuildNumber, Partition, RawRange};
use crate::facts::{KernelVersion, names};

/// The defects, and errors in files.
static BUILT_IN: LazyLock<(Vec<Defect>, Vec<String>)> = LazyLock::new(|| {
    let mut defects = Vec::new();
    let mut errors = Vec::new();
    // Converted to JSON by build.rs.
    let files =
        serde_json::from_str::<Vec<(String, RawDefect)>>(include_str!(concat!(env!("OUT_DIR"), "/defects.json")));
    for (name, raw) in files.unwrap_or_else(|error| {
        errors.push(error.to_string());
        Vec::new()
    }) {
        match read(&name, raw) {
            Ok(defect) => defects.push(defect),
            Err(found) => errors.extend(found),
        }
    }
    defects.sort_by(|a, b| a.id.cmp(&b.id));
    (defects, errors)
});

/// A known kernel defect.
#[derive(Clone, Debug)]
pub struct Defect {
    /// Public name.
    pub id: String,
    /// One line of description.
    pub title: String,
    /// URLs of commits, mails and issues.
    pub references: Vec<String>,
    /// Day (UTC) on which the fix was written, for several commits the first: a kernel built before cannot have it.
    /// `None`: not fixed, or date unknown.
    pub fix_written: Option<Date>,
    /// State by upstream release.
    pub(super) upstream: Partition<KernelVersion>,
    /// State by vendors' build numbers.
    pub(super) vendors: Vec<VendorTable>,
}

/// State of one vendor's builds of a frozen series.
#[derive(Clone, Debug)]
pub(super) struct VendorTable {
    /// Vendor: name of a file in src/read/release/vendors.
    pub vendor: String,
    /// x.y.0 of the base, whatever z the vendor shows.
    pub series: KernelVersion,
    /// Flavours with these build numbers; empty: all.
    pub flavours: Vec<String>,
    /// State by build number.
    pub builds: Partition<BuildNumber>,
}

names! {
    /// What a decision about a defect rests on, strongest first.
    Basis {
        /// `--kernel-defect`
        Operator = "operator",
        /// An experiment on the running kernel
        Probe = "probe",
        /// The kernel was built before the fix was written
        BuildDate = "build_date",
        /// A vendor's table of build numbers
        VendorTable = "vendor_table",
        /// The upstream version that the kernel is built from
        UpstreamVersion = "upstream_version",
        /// Nothing; the state is unknown
        None = "none",
    }
}

/// All known defects, by id.
pub fn all() -> &'static [Defect] {
    &BUILT_IN.0
}

/// All errors in the files. A test checks that there are none, so [`all`] is complete.
#[cfg(test)]
pub fn lint() -> Vec<String> {
    BUILT_IN.1.clone()
}

/// All errors in one file; if it is not valid TOML, the first.
#[cfg(test)]
fn lint_file(name: &str, text: &str) -> Vec<String> {
    let read = match toml::from_str(text) {
        Ok(raw) => read(name, raw),
        Err(error) => Err(vec![format!("{name}: {}", error.to_string().trim_end())]),
    };
    read.err().unwrap_or_default()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDefect {
    id: String,
    title: String,
    references: Vec<String>,
    fix_written: Option<String>,
    upstream: Vec<RawRange>,
    #[serde(default)]
    vendor: Vec<RawVendor>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawVendor {
    name: String,
    series: String,
    #[serde(default)]
    flavours: Vec<String>,
    builds: Vec<RawRange>,
}

/// Reads a file; used by both program and linter.
fn read(name: &str, raw: RawDefect) -> Result<Defect, Vec<String>> {
    let RawDefect { id, title, references, fix_written, upstream, vendor } = raw;
    let mut errors = Vec::new();
    if id != name {
        errors.push(format!("id {id:?} does not fit the file name"));
    }
    if !id.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') || id.is_empty() {
        errors.push(format!("id {id:?} is not made of a-z, 0-9 and -"));
    }
    if title.trim().is_empty() || title.contains('\n') {
        errors.push("the title is not one line".into());
    }
    if references.is_empty() {
        errors.push("no references".into());
    }
    if references.iter().any(|reference| reference.trim().is_empty()) {
        errors.push("a reference is empty".into());
    }
    let fix_written = fix_written.and_then(|text| match text.parse::<Date>() {
        Ok(date) => Some(date),
        Err(_) => {
            errors.push(format!("fix_written: {text:?} is not a date, as 2020-04-21 is"));
            None
        }
    });
    let upstream =
        Partition::read(&upstream).map_err(|found| errors.extend(found.iter().map(|e| format!("upstream: {e}"))));
    let mut vendors: Vec<VendorTable> = Vec::new();
    for table in vendor {
        match read_vendor(table) {
            Ok(table) if vendors.iter().any(|other| other.overlaps(&table)) => {
                errors.push(format!("two tables for {} {}", table.vendor, table.series));
            }
            Ok(table) => vendors.push(table),
            Err(found) => errors.extend(found),
        }
    }
    match upstream {
        Ok(upstream) if errors.is_empty() => Ok(Defect { id, title, references, fix_written, upstream, vendors }),
        _ => Err(errors.into_iter().map(|error| format!("{name}: {error}")).collect()),
    }
}

fn read_vendor(raw: RawVendor) -> Result<VendorTable, Vec<String>> {
    let label = format!("{} {}", raw.name, raw.series);
    let mut errors = Vec::new();
    let series = match raw.series.parse::<KernelVersion>() {
        Ok(series) if raw.series.matches('.').count() == 1 => Some(series),
        _ => {
            errors.push(format!("{label}: series {:?} is not x.y", raw.series));
            None
        }
    };
    let builds =
        Partition::read(&raw.builds).map_err(|found| errors.extend(found.iter().map(|e| format!("{label}: {e}"))));
    match (series, builds) {
        (Some(series), Ok(builds)) => Ok(VendorTable { vendor: raw.name, series, flavours: raw.flavours, builds }),
        _ => Err(errors),
    }
}

impl VendorTable {
    fn overlaps(&self, other: &VendorTable) -> bool {
        let share = self.flavours.is_empty()
            || other.flavours.is_empty()
            || self.flavours.iter().any(|flavour| other.flavours.contains(flavour));
        self.vendor == other.vendor && self.series == other.series && share
    }
}

// Next to this file rather than in defects/, since all files there are embedded in the program.
#[cfg(test)]
#[path = "defects_tests.rs"]
mod tests;
