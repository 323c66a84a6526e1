//! Decides from a kernel's identity whether it has a defect.
//!
//! Precedence: operator, probe, tables. If a probe had no result, the tables decide. Probe results do not count if
//! other live patches are loaded now than then.

use super::defects::{Basis, Defect, VendorTable};
use super::range::{BuildNumber, DefectState, RangeFound};
use super::releases;
use crate::facts::{Build, Kernel, KernelVersion, Numbering, Vendor};

/// Number of live patches named in the detail.
const SHOWN_LIVEPATCHES: usize = 3;

/// Result of a decision. `state` is `Unknown` exactly if `basis` is `None`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Decision {
    /// Whether the kernel has the defect.
    pub state: DefectState,
    /// What the decision rests on.
    pub basis: Basis,
    /// One line: the release, the range that decided, and its source.
    pub detail: String,
}

impl Decision {
    /// Clears the basis if the state is unknown.
    fn new(state: DefectState, basis: Basis, detail: String) -> Self {
        let basis = if state == DefectState::Unknown { Basis::None } else { basis };
        Decision { state, basis, detail }
    }

    fn doubted(self, why: &str) -> Self {
        let detail = format!("{}; but {why}", self.detail);
        Decision::new(DefectState::Unknown, Basis::None, detail)
    }
}

/// Decision by version number and build date of `kernel`. `livepatches` are the names in /sys/kernel/livepatch: empty
/// if there are none or the directory does not exist, `None` if unread. A live patch may fix a defect without changing
/// the version but never introduces one, so it makes `present` unknown, never `absent`.
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

/// Why a kernel cannot have a fix because it was built before the fix was written. Valid only if the date is plausible,
/// that is not before the base's release, and the base has the defect.
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

/// Whether the series of `base` began with the defect and was not fixed up to it. Releases in between with unknown
/// state do not matter to a kernel built before the fix.
fn inherited(defect: &Defect, base: KernelVersion) -> bool {
    let beginning = beginning(base);
    let mut states = defect.upstream.states(&beginning, &base);
    states.next() == Some(DefectState::Present) && states.all(|state| state != DefectState::Absent)
}

/// Combines the build date with another decision. A vendor's table that says that this very build is fixed takes
/// precedence.
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

/// Decision by the vendor's table, if it has one for this kernel's build numbers.
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

/// The base's own fixes are certain, later ones possible. Decided if nothing above the base could change the answer, or
/// if the base's branch was fixed at or before it, since fixes are kept.
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

/// The first release of this one's series.
fn beginning(version: KernelVersion) -> KernelVersion {
    if version.major == 2 { version } else { version.series() }
}

/// The preceding release; where x increases, the last minor of the old x has to be known.
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
