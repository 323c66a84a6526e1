//! From a kernel's identity to "has it this defect?".
//!
//! Operator, probe, tables, in this order. A probe that could not tell leaves the tables' word. None is believed once other
//! live patches are loaded than then.

use super::defects::{Basis, Defect, VendorTable};
use super::range::{BuildNumber, DefectState, RangeFound};
use super::releases;
use crate::facts::{Build, Kernel, KernelVersion, Numbering, Vendor};

/// How many livepatch names the detail lists.
const SHOWN_LIVEPATCHES: usize = 3;

/// What a version number implies. `state` is `Unknown` exactly if `basis` is `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    /// Whether the kernel has the defect.
    pub state: DefectState,
    /// What says so.
    pub basis: Basis,
    /// One line: the release, the range that decided, and why that is believed.
    pub detail: String,
}

impl Decision {
    /// An undecided defect has no basis.
    fn new(state: DefectState, basis: Basis, detail: String) -> Self {
        let basis = if state == DefectState::Unknown { Basis::None } else { basis };
        Decision { state, basis, detail }
    }

    fn doubted(self, why: &str) -> Self {
        let detail = format!("{}; but {why}", self.detail);
        Decision::new(DefectState::Unknown, Basis::None, detail)
    }
}

/// What the version number and the build date of `kernel` imply. `livepatches` are the names under
/// /sys/kernel/livepatch: empty if there are none (or the directory does not exist), `None` if
/// that could not be read. A livepatch may have removed a defect without a trace in the version,
/// but brings none in: it puts `present` in doubt, never `absent`.
pub(crate) fn decide(defect: &Defect, kernel: &Kernel, livepatches: Option<&[String]>) -> Decision {
    let decision = match kernel.numbering {
        Numbering::Upstream => exact(defect, kernel),
        Numbering::Prerelease => candidate(defect, kernel),
        Numbering::Frozen => by_build(defect, kernel).unwrap_or_else(|| lower_bound(defect, kernel)),
        Numbering::Foreign => foreign(kernel),
    };
    let decision = match built_before_the_fix(defect, kernel) {
        Some(why) => dated(defect, kernel, decision, &why),
        None => decision,
    };
    match (decision.state, livepatches) {
        (DefectState::Present, None) => decision.doubted("whether a livepatch is loaded could not be read"),
        (DefectState::Present, Some(names @ [_, ..])) => decision.doubted(&loaded(names)),
        _ => decision,
    }
}

/// A kernel that was built before the fix was written cannot have it, whatever its number. That says something only if the
/// date can be true, which it cannot be before the base was released, and if the base has the defect.
fn built_before_the_fix(defect: &Defect, kernel: &Kernel) -> Option<String> {
    let base = match kernel.numbering {
        Numbering::Upstream | Numbering::Frozen => kernel.base,
        Numbering::Prerelease => predecessor(kernel.base)?,
        Numbering::Foreign => return None,
    };
    let (built, written) = (kernel.built?, defect.fix_written?);
    let can_be_true = || releases::date(base).is_some_and(|released| released <= built);
    (built < written && inherited(defect, base) && can_be_true()).then(|| {
        let release = &kernel.release;
        format!("{release}: built on {built} at the latest by uname -v, before the fix was written on {written}")
    })
}

/// Whether the series of `base` began with the defect and was not repaired up to it. Releases in between that nobody has
/// read do not matter to a kernel that is older than the fix.
fn inherited(defect: &Defect, base: KernelVersion) -> bool {
    let beginning = beginning(base);
    let mut states = defect.upstream.states(&beginning, &base);
    states.next() == Some(DefectState::Present) && states.all(|state| state != DefectState::Absent)
}

/// A date and what else is known. A vendor's table that says of this very build that it is repaired knows better.
fn dated(defect: &Defect, kernel: &Kernel, decision: Decision, why: &str) -> Decision {
    let known = decision.detail.strip_prefix(&format!("{}: ", kernel.release)).unwrap_or(&decision.detail);
    match decision.state {
        DefectState::Absent if table(defect, kernel).is_some_and(|(found, build)| found.range.from == build) => {
            decision
        }
        DefectState::Absent => {
            let detail = format!("{why}; but {known}");
            Decision::new(DefectState::Unknown, Basis::None, detail)
        }
        DefectState::Present | DefectState::Unknown => {
            Decision::new(DefectState::Present, Basis::BuildDate, format!("{why}; {known}"))
        }
    }
}

fn exact(defect: &Defect, kernel: &Kernel) -> Decision {
    let found = defect.upstream.find(&kernel.base);
    let detail = format!(
        "{}: upstream {} by its version number, in the range {}: {}",
        kernel.release,
        kernel.base,
        found.span(),
        claim(&found)
    );
    Decision::new(found.range.state, Basis::UpstreamVersion, detail)
}

/// A release candidate lies between two releases: decided if they agree.
fn candidate(defect: &Defect, kernel: &Kernel) -> Decision {
    let after = kernel.base;
    let Some(before) = predecessor(after) else {
        let detail = format!("{}: a candidate of {after}, whose predecessor is not known here", kernel.release);
        return Decision::new(DefectState::Unknown, Basis::None, detail);
    };
    let (low, high) = (defect.upstream.find(&before), defect.upstream.find(&after));
    let (was, is) = (low.range.state, high.range.state);
    let state = if was == is { is } else { DefectState::Unknown };
    let detail = format!(
        "{}: a candidate by its version number, between {before} (defect {was}) and {after} (defect {is}): {}",
        kernel.release, high.range.source
    );
    Decision::new(state, Basis::UpstreamVersion, detail)
}

/// The vendor's own table, if this kernel is counted by it.
fn by_build(defect: &Defect, kernel: &Kernel) -> Option<Decision> {
    let (found, _) = table(defect, kernel)?;
    let build = kernel.build.as_ref()?;
    let detail = format!(
        "{}: {} build {build} of {} by its version number, in the range {}: {}",
        kernel.release,
        kernel.vendor,
        kernel.base,
        found.span(),
        claim(&found)
    );
    Some(Decision::new(found.range.state, Basis::VendorTable, detail))
}

fn table<'a>(defect: &'a Defect, kernel: &Kernel) -> Option<(RangeFound<'a, BuildNumber>, BuildNumber)> {
    let build = kernel.build.as_ref()?;
    let table = defect.vendors.iter().find(|table| {
        table.vendor == kernel.vendor.0 && table.series == kernel.base.series() && counts(table, build)
    })?;
    let number = BuildNumber(build.numbers.clone());
    Some((table.builds.find(&number), number))
}

/// The base has its own fixes for certain, and any later ones perhaps. So it is decided if
/// nothing above the base could change the answer, or if the base's own branch was repaired
/// before it: a repair stays.
fn lower_bound(defect: &Defect, kernel: &Kernel) -> Decision {
    let found = defect.upstream.find(&kernel.base);
    let here = found.range.state;
    let above = |state| found.above.iter().any(|range| range.state == state);
    let repaired = || defect.upstream.find(&beginning(kernel.base)).range.state == DefectState::Present;
    let state = match here {
        DefectState::Absent if !above(DefectState::Present) || repaired() => here,
        DefectState::Present if !above(DefectState::Absent) => here,
        _ => DefectState::Unknown,
    };
    let why = match state {
        DefectState::Unknown => "later changes may or may not have been back-ported, and no table tells by build",
        _ => found.range.source.as_str(),
    };
    let whose = match kernel.vendor {
        Vendor::OTHER => "a kernel by someone natwatch does not know".to_owned(),
        vendor => format!("a {vendor} kernel"),
    };
    let detail = format!(
        "{}: {whose}, based on {} or later by its version number (defect {here} there): {why}",
        kernel.release, kernel.base
    );
    Decision::new(state, Basis::UpstreamVersion, detail)
}

fn counts(table: &VendorTable, build: &Build) -> bool {
    table.flavours.is_empty() || table.flavours.contains(&build.flavour)
}

fn claim<K>(found: &RangeFound<'_, K>) -> String {
    let source = &found.range.source;
    match found.range.state {
        DefectState::Unknown => format!("not known ({source})"),
        state => format!("defect {state} ({source})"),
    }
}

fn loaded(names: &[String]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN_LIVEPATCHES).map(|name| name.escape_debug().to_string()).collect();
    let more = match names.len().saturating_sub(SHOWN_LIVEPATCHES) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("a livepatch is loaded and may have repaired it ({}{more})", shown.join(", "))
}

fn foreign(kernel: &Kernel) -> Decision {
    let detail = format!("{}: this is no Linux ({}), its number says nothing", kernel.release, kernel.vendor);
    Decision::new(DefectState::Unknown, Basis::None, detail)
}

/// The release that the series of this one began with.
fn beginning(version: KernelVersion) -> KernelVersion {
    if version.major == 2 { version } else { version.series() }
}

/// The release that came before. Where x grows, the last minor of the old x has to be known.
fn predecessor(version: KernelVersion) -> Option<KernelVersion> {
    let KernelVersion { major, minor, patch } = version;
    match (major, minor, patch) {
        (2, 6, 0) => None,
        (_, _, 1..) => Some(KernelVersion::new(major, minor, patch - 1)),
        (_, 1.., 0) => Some(KernelVersion::new(major, minor - 1, 0)),
        (3, 0, 0) => Some(KernelVersion::new(2, 6, 39)),
        (4, 0, 0) => Some(KernelVersion::new(3, 19, 0)),
        (5, 0, 0) => Some(KernelVersion::new(4, 20, 0)),
        (6, 0, 0) => Some(KernelVersion::new(5, 19, 0)),
        (7, 0, 0) => Some(KernelVersion::new(6, 19, 0)),
        _ => None,
    }
}
