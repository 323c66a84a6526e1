//! Sets of numbers: addresses, ports, device names.

/// A set of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Ascending, disjoint and not adjacent, both ends included.
    ranges: Vec<(u128, u128)>,
}

impl Numbers {
    /// From single numbers.
    pub fn of(numbers: &[u128]) -> Self {
        Self::ranges(numbers.iter().map(|number| (*number, *number)).collect())
    }

    /// From ranges in any order.
    pub fn ranges(mut ranges: Vec<(u128, u128)>) -> Self {
        ranges.sort_unstable();
        let mut joined: Vec<(u128, u128)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match joined.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => joined.push((first, last)),
            }
        }
        Self { ranges: joined }
    }

    /// Its ranges, ascending.
    pub fn as_ranges(&self) -> &[(u128, u128)] {
        &self.ranges
    }

    /// Its number, if it has exactly one.
    pub fn single(&self) -> Option<u128> {
        match self.ranges.as_slice() {
            [(first, last)] if first == last => Some(*first),
            _ => None,
        }
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// All numbers up to `largest` that are not in it.
    pub fn others(&self, largest: u128) -> Self {
        let (mut gaps, mut next) = (Vec::with_capacity(self.ranges.len() + 1), Some(0));
        for (first, last) in &self.ranges {
            if let Some(start) = next.filter(|start| start < first) {
                gaps.push((start, first - 1));
            }
            next = last.checked_add(1);
        }
        gaps.extend(next.filter(|start| *start <= largest).map(|start| (start, largest)));
        Self { ranges: gaps }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(values: &Numbers, number: u128) -> bool {
        values.as_ranges().iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    #[test]
    fn ranges_are_joined_and_leave_the_others() {
        proptest::proptest!(|(ranges in proptest::collection::vec((0u128..256, 0u128..256), 0..6))| {
            let ranges: Vec<(u128, u128)> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
            let values = Numbers::ranges(ranges.clone());
            proptest::prop_assert!(values.as_ranges().windows(2).all(|two| two[0].1 + 1 < two[1].0));
            let others = values.others(255);
            for number in 0..256 {
                let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
                proptest::prop_assert_eq!((holds(&values, number), holds(&others, number)), (expected, !expected));
            }
        });
        assert!(Numbers::of(&[]).others(u128::MAX) == Numbers::ranges(vec![(0, u128::MAX)]));
        assert!(Numbers::ranges(vec![(0, u128::MAX)]).others(u128::MAX).is_empty());
    }
}
