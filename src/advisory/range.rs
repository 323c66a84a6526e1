//! Ranges of versions with the state of a defect in each.
//!
//! The ranges cover all versions: each ends where the next begins, and the last is open. Stable branches are listed
//! explicitly (present up to 5.4.40, absent from 5.4.41, present again from 5.5), because a fix in one branch says
//! nothing about the next.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::Deserialize;

use crate::facts::names;

names! {
    /// Whether a kernel has a defect.
    DefectState {
        /// Yes
        Present = "present",
        /// No
        Absent = "absent",
        /// Not known, never "probably not"
        Unknown = "unknown",
    }
}

/// A vendor's build number, ordered number by number: 1127 < 1127.8.2 < 1160.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct BuildNumber(pub Vec<u32>);

impl FromStr for BuildNumber {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| match part.bytes().all(|b| b.is_ascii_digit()) {
            true => part.parse().ok(),
            false => None,
        };
        let numbers: Option<Vec<u32>> = text.split('.').map(number).collect();
        numbers.map(BuildNumber).ok_or_else(|| format!("build {text:?} is not numbers with dots between"))
    }
}

impl Display for BuildNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.0.iter().map(u32::to_string).collect();
        f.write_str(&parts.join("."))
    }
}

/// A range in a file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRange {
    /// First version or build of the range.
    pub from: String,
    /// State in the range.
    pub state: DefectState,
    /// One line: the evidence, or why the state is not known.
    pub source: String,
}

#[derive(Clone, Debug)]
/// A range, up to the start of the next one.
pub(super) struct Range<K> {
    /// First version or build.
    pub from: K,
    /// State in the range.
    pub state: DefectState,
    /// One line of evidence.
    pub source: String,
}

/// Ranges that cover everything: never empty, from 0, strictly increasing.
#[derive(Clone, Debug)]
pub(super) struct Partition<K> {
    first: Range<K>,
    rest: Vec<Range<K>>,
}

/// The range that contains a version, and those above it.
pub(super) struct RangeFound<'a, K> {
    /// The range that contains the version.
    pub range: &'a Range<K>,
    /// The ranges above it, ascending.
    pub above: &'a [Range<K>],
}

impl<K: Ord> Partition<K> {
    /// The range that contains a key: the last one that begins at or below it.
    pub(crate) fn find(&self, key: &K) -> RangeFound<'_, K> {
        let below = self.rest.partition_point(|range| range.from <= *key);
        let (reached, above) = self.rest.split_at(below);
        RangeFound { range: reached.last().unwrap_or(&self.first), above }
    }

    /// States from `low` to `high`, both included.
    pub(crate) fn states(&self, low: &K, high: &K) -> impl Iterator<Item = DefectState> {
        let inside = self.rest.iter().filter(|range| *low < range.from && range.from <= *high);
        [self.find(low).range.state].into_iter().chain(inside.map(|range| range.state))
    }
}

impl<K: Display> RangeFound<'_, K> {
    /// For example `from 5.5.0 to before 5.6.13`, `from 5.14.0 on`.
    pub(crate) fn span(&self) -> String {
        match self.above.first() {
            Some(next) => format!("from {} to before {}", self.range.from, next.from),
            None => format!("from {} on", self.range.from),
        }
    }
}

impl<K: Ord + FromStr<Err = String>> Partition<K> {
    /// Checks the ranges; returns all errors.
    pub(crate) fn read(raw: &[RawRange]) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let mut ranges: Vec<Range<K>> = Vec::with_capacity(raw.len());
        for range in raw {
            let RawRange { from, state, source } = range;
            if source.trim().is_empty() {
                errors.push(format!("range from {from}: the source is empty"));
            } else if source.contains('\n') {
                errors.push(format!("range from {from}: the source has several lines"));
            }
            match from.parse::<K>() {
                Err(error) => errors.push(error),
                Ok(key) => {
                    if ranges.last().is_some_and(|last| last.from >= key) {
                        errors.push(format!("range from {from} is not above the one before it"));
                    }
                    ranges.push(Range { from: key, state: *state, source: source.clone() });
                }
            }
        }
        for pair in raw.windows(2) {
            if let [a, b] = pair
                && a.state == b.state
                && a.source == b.source
            {
                errors.push(format!("ranges from {} and {} say the same: join them", a.from, b.from));
            }
        }
        match raw.first() {
            None => errors.push("no ranges".into()),
            Some(first) if first.from != "0" => {
                errors.push(format!("the first range is from {}, not from 0", first.from));
            }
            Some(_) => {}
        }
        let mut ranges = ranges.into_iter();
        match ranges.next() {
            Some(first) if errors.is_empty() => Ok(Partition { first, rest: ranges.collect() }),
            _ => Err(errors),
        }
    }
}
