//! Sets of numbers that a field of a symbolic packet can hold, and what a test leaves of them.
//!
//! Addresses, ports and names are sets of ranges: prefixes are ranges, and a thousand exclusions are a thousand ranges.
//! Marks and status words are sets of bit patterns, which is what rules test of them.

use std::collections::BTreeSet;

use crate::snapshot::netfilter::{Condition, Field};

/// Ranges or patterns that one field is cut into. With more, a test can no longer be followed.
pub const MAX_PARTS: usize = 8192;
/// The same for patterns, which are dearer.
pub const MAX_PATTERNS: usize = 4096;
/// Numbers that are tested one by one where a mask is no prefix.
const MAX_SINGLE: u128 = 4096;

/// A set of numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Values {
    /// Ascending, apart from each other, both ends included.
    Ranges(Vec<(u128, u128)>),
    /// The union of patterns.
    Patterns(Vec<Pattern>),
}

/// The numbers with these bits: `number & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// Bits that are known.
    pub mask: u32,
    /// What they are.
    pub value: u32,
}

/// Bits of a field.
fn width(field: &Field) -> u32 {
    match field {
        Field::Mark
        | Field::ConnectionMark
        | Field::ConnectionStatus
        | Field::ConnectionState
        | Field::InputIndex
        | Field::OutputIndex
        | Field::Ipv4Source
        | Field::Ipv4Destination => 32,
        Field::InputName | Field::OutputName | Field::Ipv6Source | Field::Ipv6Destination | Field::Other(_) => 128,
        Field::NfProto | Field::L4Proto | Field::ConnectionDirection => 8,
        Field::EtherType | Field::SourcePort | Field::DestinationPort => 16,
        Field::SourceType(_) | Field::DestinationType(_) => 4,
    }
}

fn is_word_of_bits(field: &Field) -> bool {
    matches!(field, Field::Mark | Field::ConnectionMark | Field::ConnectionStatus)
}

/// The largest number of a field.
fn largest(field: &Field) -> u128 {
    u128::MAX >> (128 - width(field))
}

impl Values {
    /// Everything that a field can hold.
    pub fn any(field: &Field) -> Self {
        match field {
            // `NF_CT_STATE_BIT` is one of these.
            Field::ConnectionState => Self::of(&[1, 2, 4, 8, 64]),
            Field::ConnectionDirection => Self::of(&[0, 1]),
            field if is_word_of_bits(field) => Self::Patterns(vec![Pattern { mask: 0, value: 0 }]),
            field => Self::Ranges(vec![(0, largest(field))]),
        }
    }

    /// These numbers, of a field that holds numbers.
    pub fn of(numbers: &[u128]) -> Self {
        Self::ranges(numbers.iter().map(|number| (*number, *number)).collect())
    }

    /// These ranges, in any order.
    pub fn ranges(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self::Ranges(joined)
    }

    /// One word of bits.
    pub fn word(value: u32) -> Self {
        Self::Patterns(vec![Pattern { mask: u32::MAX, value }])
    }

    /// Words in which these bits are free and all others 0.
    pub fn free_bits(bits: u32) -> Self {
        Self::Patterns(vec![Pattern { mask: !bits, value: 0 }])
    }

    /// The same words with these bits free.
    pub fn with_free_bits(&self, bits: u32) -> Self {
        let freed = |of: &Pattern| Pattern { mask: of.mask & !bits, value: of.value & !bits };
        Self::Patterns(unique(self.patterns().iter().map(freed).collect()))
    }

    /// The same words with these bits set.
    pub fn with_bits(&self, bits: u32) -> Self {
        let set = |of: &Pattern| Pattern { mask: of.mask | bits, value: of.value | bits };
        Self::Patterns(unique(self.patterns().iter().map(set).collect()))
    }

    /// Its ranges; none of a set of patterns.
    pub fn as_ranges(&self) -> &[(u128, u128)] {
        match self {
            Self::Ranges(ranges) => ranges,
            Self::Patterns(_) => &[],
        }
    }

    /// Whether there is no number in it.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.is_empty(),
            Self::Patterns(patterns) => patterns.is_empty(),
        }
    }

    /// The patterns; none of a set of ranges.
    pub fn patterns(&self) -> &[Pattern] {
        match self {
            Self::Patterns(patterns) => patterns,
            Self::Ranges(_) => &[],
        }
    }

    /// The same cut into single words, or into patterns where these are too many.
    pub fn words(&self) -> Vec<Self> {
        /// Each is walked by itself.
        const MAX_WORDS: u32 = 32;
        let Self::Patterns(patterns) = self else { return vec![self.clone()] };
        let count = patterns.iter().fold(0u32, |sum, pattern| {
            sum.saturating_add(1u32.checked_shl(pattern.mask.count_zeros()).unwrap_or(u32::MAX))
        });
        let mut open = patterns.clone();
        let mut words = Vec::new();
        while let Some(pattern) = open.pop() {
            let free = !pattern.mask;
            if free == 0 || count > MAX_WORDS {
                words.push(Self::Patterns(vec![pattern]));
                continue;
            }
            let bit = 1 << free.trailing_zeros();
            open.push(Pattern { mask: pattern.mask | bit, value: pattern.value | bit });
            open.push(Pattern { mask: pattern.mask | bit, ..pattern });
        }
        words
    }

    /// The numbers, if they are no more than that.
    pub fn numbers(&self, at_most: u128) -> Option<Vec<u128>> {
        let Self::Ranges(ranges) = self else { return None };
        let count = ranges.iter().fold(0u128, |sum, (first, last)| sum.saturating_add(last - first).saturating_add(1));
        (count <= at_most).then(|| ranges.iter().flat_map(|(first, last)| *first..=*last).collect())
    }

    /// What is in both.
    pub fn and(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(other)) => Self::Ranges(common(one, other)),
            (Self::Patterns(one), Self::Patterns(other)) => {
                let pairs = one.iter().flat_map(|one| other.iter().filter_map(|other| one.and(*other)));
                Self::Patterns(unique(pairs.collect()))
            }
            _ => self.clone(),
        }
    }

    /// What is in this one and not in the other.
    pub fn without(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(other)) => {
                let mut gaps = Vec::with_capacity(other.len() + 1);
                let mut next = Some(0);
                for (first, last) in other {
                    if let Some(start) = next.filter(|start| start < first) {
                        gaps.push((start, first - 1));
                    }
                    next = last.checked_add(1);
                }
                gaps.extend(next.map(|start| (start, u128::MAX)));
                Self::Ranges(common(one, &gaps))
            }
            (Self::Patterns(one), Self::Patterns(other)) => {
                let mut left = one.clone();
                for pattern in other {
                    left = left.iter().flat_map(|one| one.without(*pattern)).collect();
                    if left.len() > 4 * MAX_PATTERNS {
                        break; // too many in any case, and never too few
                    }
                }
                if left.len() > 4 * MAX_PATTERNS { Self::Patterns(left) } else { Self::Patterns(unique(left)) }
            }
            _ => self.clone(),
        }
    }

    /// What is in one or the other.
    pub fn or(&self, other: &Self) -> Self {
        match (self, other) {
            (Self::Ranges(one), Self::Ranges(other)) => Self::ranges([one.as_slice(), other].concat()),
            (Self::Patterns(one), Self::Patterns(other)) => Self::Patterns(unique([one.as_slice(), other].concat())),
            _ => self.clone(),
        }
    }

    /// The numbers for which a condition holds, and those for which it does not. `None`: that cannot be followed.
    pub fn split(&self, field: &Field, condition: &Condition) -> Option<(Self, Self)> {
        let wanted = match (self, condition) {
            (Self::Patterns(_), Condition::Masked { mask, value }) => masked_word(*mask, *value),
            (Self::Patterns(_), Condition::Ranges(ranges)) => {
                Self::Patterns(ranges.iter().flat_map(|(first, last)| covering(*first, *last)).collect())
            }
            (Self::Ranges(_), Condition::Ranges(ranges)) => Self::ranges(ranges.clone()),
            (Self::Ranges(_), Condition::Masked { mask, value }) => {
                let mask = mask & largest(field);
                match prefix(field, mask) {
                    _ if value & !mask != 0 => Self::Ranges(Vec::new()),
                    Some(low) => Self::Ranges(vec![(*value, value | low)]),
                    None => return self.split_one_by_one(mask, *value),
                }
            }
        };
        let parts = (self.and(&wanted), self.without(&wanted));
        (!parts.0.is_unwieldy() && !parts.1.is_unwieldy()).then_some(parts)
    }

    /// Whether it is in more pieces than are followed.
    pub fn is_unwieldy(&self) -> bool {
        match self {
            Self::Ranges(ranges) => ranges.len() > MAX_PARTS,
            Self::Patterns(patterns) => patterns.len() > MAX_PATTERNS,
        }
    }

    /// What it costs to compute with it, in units of [`super::Effort`].
    pub fn cost(&self) -> usize {
        match self {
            Self::Ranges(ranges) => 1 + ranges.len(),
            // Each bit of each pattern is tried.
            Self::Patterns(patterns) => 1 + 64 * patterns.len(),
        }
    }

    /// Of how many ranges or patterns it consists.
    pub fn parts(&self) -> usize {
        match self {
            Self::Ranges(ranges) => ranges.len(),
            Self::Patterns(patterns) => patterns.len(),
        }
    }

    fn split_one_by_one(&self, mask: u128, value: u128) -> Option<(Self, Self)> {
        let (inside, outside): (Vec<u128>, Vec<u128>) =
            self.numbers(MAX_SINGLE)?.into_iter().partition(|number| number & mask == value);
        Some((Self::of(&inside), Self::of(&outside)))
    }

    /// What a word becomes: `(word & keep) ^ (other & take) ^ xor`, whatever the two are together.
    /// `None`: that would be too many patterns.
    pub fn written(&self, other: &Self, keep: u32, take: u32, xor: u32) -> Option<Self> {
        let write = |own: &Pattern, other: &Pattern| {
            let known = (own.mask | !keep) & (other.mask | !take);
            Pattern { mask: known, value: (own.value & keep ^ other.value & take ^ xor) & known }
        };
        // Patterns that differ only in bits that are not kept, or not taken, are one.
        let seen = |patterns: &[Pattern], bits: u32| -> BTreeSet<Pattern> {
            patterns.iter().map(|of| Pattern { mask: of.mask & bits, value: of.value & bits }).collect()
        };
        let (own, other) = (seen(self.patterns(), keep), seen(other.patterns(), take));
        if own.len().saturating_mul(other.len()) > MAX_PATTERNS {
            return None;
        }
        let pairs = own.iter().flat_map(|own| other.iter().map(move |other| write(own, other)));
        Some(Self::Patterns(unique(pairs.collect())))
    }
}

/// The ones below a prefix; `None`: the mask is none.
fn prefix(field: &Field, mask: u128) -> Option<u128> {
    let all = largest(field);
    let low = all & !mask;
    (low & low.wrapping_add(1) == 0).then_some(low)
}

fn common(one: &[(u128, u128)], other: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut found = Vec::new();
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a, b)), Some((c, d))) = (one.peek(), other.peek()) {
        let (first, last) = (*a.max(c), *b.min(d));
        if first <= last {
            found.push((first, last));
        }
        if b < d {
            one.next();
        } else {
            other.next();
        }
    }
    found
}

/// Each pattern once, and one instead of two that differ in a single bit.
fn unique(patterns: Vec<Pattern>) -> Vec<Pattern> {
    let mut all: BTreeSet<Pattern> = patterns.into_iter().collect();
    let mut open: Vec<Pattern> = all.iter().copied().collect();
    while let Some(pattern) = open.pop().filter(|_| all.len() > 1) {
        if !all.contains(&pattern) {
            continue;
        }
        let bits = (0..32).map(|shift| 1u32 << shift).filter(|bit| pattern.mask & bit != 0);
        let twin = bits.map(|bit| (bit, Pattern { value: pattern.value ^ bit, ..pattern }));
        if let Some((bit, twin)) = twin.into_iter().find(|(_, twin)| all.contains(twin)) {
            let joined = Pattern { mask: pattern.mask & !bit, value: pattern.value & !bit };
            all.remove(&pattern);
            all.remove(&twin);
            all.insert(joined);
            open.push(joined);
        }
    }
    all.into_iter().collect()
}

fn masked_word(mask: u128, value: u128) -> Values {
    match (u32::try_from(mask & u128::from(u32::MAX)), u32::try_from(value)) {
        (Ok(mask), Ok(value)) if value & !mask == 0 => Values::Patterns(vec![Pattern { mask, value }]),
        _ => Values::Patterns(Vec::new()),
    }
}

/// The prefixes that make up a range of words.
fn covering(first: u128, last: u128) -> Vec<Pattern> {
    let (mut at, last) = (first.min(1 << 32), last.min(u128::from(u32::MAX)));
    let mut found = Vec::new();
    while at <= last {
        let fits = |bits: &u32| at & ((1u128 << bits) - 1) == 0 && at + ((1u128 << bits) - 1) <= last;
        let bits = (0..=32u32).rev().find(fits).unwrap_or(0);
        let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
        found.push(Pattern { mask, value: at as u32 & mask });
        at += 1 << bits;
    }
    found
}

impl Pattern {
    fn and(self, other: Self) -> Option<Self> {
        let differs = (self.value ^ other.value) & self.mask & other.mask != 0;
        (!differs).then_some(Self { mask: self.mask | other.mask, value: self.value | other.value })
    }

    /// The words of this pattern that are not of the other, as patterns without common words.
    fn without(self, other: Self) -> Vec<Self> {
        if self.and(other).is_none() {
            return vec![self];
        }
        let mut rest = self;
        let open = (0..32).map(|shift| 1u32 << shift).filter(|bit| other.mask & !self.mask & bit != 0);
        open.map(|bit| {
            let without = Self { mask: rest.mask | bit, value: rest.value | (!other.value & bit) };
            rest = Self { mask: rest.mask | bit, value: rest.value | (other.value & bit) };
            without
        })
        .collect()
    }
}

#[cfg(test)]
mod tests;
