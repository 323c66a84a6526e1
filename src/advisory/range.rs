//! A line of versions cut into ranges, each with what is known of a defect there.
//!
//! The ranges cover everything: each ends where the next begins and the last is open. Stable
//! branches are therefore spelled out (present up to 5.4.40, absent from 5.4.41, present again from
//! 5.5), because a fix in one branch says nothing about the next.

use std::fmt::{self, Display};
use std::str::FromStr;

use serde::Deserialize;

use crate::facts::names;

names! {
    /// Whether a kernel has a defect.
    DefectState {
        /// It has it
        Present = "present",
        /// It does not
        Absent = "absent",
        /// Not known, never "probably not"
        Unknown = "unknown",
    }
}

/// A vendor's build counter as the tables compare it: 1127 < 1127.8.2 < 1160.
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

/// A range as the files write it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRange {
    /// First version or build inside.
    pub from: String,
    pub state: DefectState,
    /// Why we believe it, or why we do not know. One line.
    pub source: String,
}

#[derive(Clone, Debug)]
pub(super) struct Range<K> {
    pub from: K,
    pub state: DefectState,
    pub source: String,
}

/// Never empty, begins at 0, strictly increasing.
#[derive(Clone, Debug)]
pub(super) struct Partition<K> {
    first: Range<K>,
    rest: Vec<Range<K>>,
}

/// The range that holds a version, and its surroundings.
pub(super) struct RangeFound<'a, K> {
    pub range: &'a Range<K>,
    /// The ranges above it, in order.
    pub above: &'a [Range<K>],
}

impl<K: Ord> Partition<K> {
    /// The range that holds a key: the last one that begins at or below it.
    pub(crate) fn find(&self, key: &K) -> RangeFound<'_, K> {
        let below = self.rest.partition_point(|range| range.from <= *key);
        let (reached, above) = self.rest.split_at(below);
        RangeFound { range: reached.last().unwrap_or(&self.first), above }
    }

    /// What is known from `low` to `high`, both included.
    pub(crate) fn states(&self, low: &K, high: &K) -> impl Iterator<Item = DefectState> {
        let inside = self.rest.iter().filter(|range| *low < range.from && range.from <= *high);
        [self.find(low).range.state].into_iter().chain(inside.map(|range| range.state))
    }
}

impl<K: Display> RangeFound<'_, K> {
    /// `from 5.5.0 to before 5.6.13`, `from 5.14.0 on`.
    pub(crate) fn span(&self) -> String {
        match self.above.first() {
            Some(next) => format!("from {} to before {}", self.range.from, next.from),
            None => format!("from {} on", self.range.from),
        }
    }
}

impl<K: Ord + FromStr<Err = String>> Partition<K> {
    /// Checks everything and reports all that is wrong.
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
