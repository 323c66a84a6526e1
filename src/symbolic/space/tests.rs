//! Packet sets compared with lists of their elements.

use std::sync::atomic::AtomicBool;

use super::*;

const BITS: u32 = 4;

/// The elements of a set over two 4-bit numbers.
fn listed(space: &Space<'_>, blocks: &[BitVector; 2], set: PacketSet) -> Vec<(u128, u128)> {
    let all = (0..1 << BITS).flat_map(|a| (0..1 << BITS).map(move |b| (a, b)));
    let is_in = |(a, b): &(u128, u128)| {
        let one = space.and(space.matching(&blocks[0], 15, *a), space.matching(&blocks[1], 15, *b));
        !space.and(one, set).is_empty()
    };
    all.filter(is_in).collect()
}

#[test]
fn operations_are_those_on_lists() {
    proptest::proptest!(|(
        one in proptest::collection::vec((0u128..16, 0u128..16), 0..12),
        other in proptest::collection::vec((0u128..16, 0u128..16), 0..12),
        bit in 0usize..4,
    )| {
        let stop = AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let space = Space::new(&effort);
        let blocks = space.interleaved(BITS);
        let made = |list: &[(u128, u128)]| {
            let each = list.iter().map(|(a, b)| {
                space.and(space.matching(&blocks[0], 15, *a), space.matching(&blocks[1], 15, *b))
            });
            space.any(each)
        };
        let sorted = |list: Vec<(u128, u128)>| list.into_iter().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let (a, b) = (made(&one), made(&other));
        let (one, other) = (sorted(one), sorted(other));
        proptest::prop_assert_eq!(listed(&space, &blocks, a), one.clone());
        proptest::prop_assert_eq!(made(&one), a, "equal sets are the same number");
        let both = one.iter().filter(|x| other.contains(x)).copied().collect();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.and(a, b)), sorted(both));
        let left = one.iter().filter(|x| !other.contains(x)).copied().collect();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.minus(a, b)), sorted(left));
        let is_within = one.iter().all(|x| other.contains(x));
        proptest::prop_assert_eq!(space.is_within(a, b), is_within);
        proptest::prop_assert!(space.is_within(space.and(a, b), a));
        let either = one.iter().chain(&other).copied().collect();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.or(a, b)), sorted(either));
        let variable = blocks[0].0[3 - bit];
        let flipped = one.iter().map(|(x, y)| (x ^ 1 << bit, *y)).collect();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.flip(a, variable)), sorted(flipped));
        let free = one.iter().flat_map(|(x, y)| [(x | 1 << bit, *y), (x & !(1 << bit), *y)]).collect();
        let variables = BTreeSet::from([variable]);
        proptest::prop_assert_eq!(listed(&space, &blocks, space.exists(a, &variables)), sorted(free));
        let always = one.iter().filter(|(x, y)| one.contains(&(x ^ 1 << bit, *y))).copied().collect();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.for_all(a, &variables)), sorted(always));
        let swapped = one.iter().map(|(x, y)| (*y, *x)).collect();
        let both = [blocks[0].0.clone(), blocks[1].0.clone()].concat();
        let turned = [blocks[1].0.clone(), blocks[0].0.clone()].concat();
        proptest::prop_assert_eq!(listed(&space, &blocks, space.renamed(a, &both, &turned)), sorted(swapped));
    });
}

#[test]
fn ranges_and_patterns_are_what_they_hold() {
    proptest::proptest!(|(ranges in proptest::collection::vec((0u128..256, 0u128..256), 0..6), mask: u8, value: u8)| {
        let stop = AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let space = Space::new(&effort);
        let block = space.block(8);
        let ranges: Vec<(u128, u128)> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        let set = space.ranges(&block, &ranges);
        let (mask, value) = (u128::from(mask), u128::from(value));
        let masked = space.matching(&block, mask, value);
        let patterns = space.patterns(set, &block, 1000).unwrap();
        for number in 0..256u128 {
            let one = space.matching(&block, 255, number);
            let expected = ranges.iter().any(|(first, last)| (*first..=*last).contains(&number));
            proptest::prop_assert_eq!(!space.and(one, set).is_empty(), expected);
            proptest::prop_assert_eq!(!space.and(one, masked).is_empty(), number & mask == value);
            proptest::prop_assert_eq!(patterns.iter().any(|of| number & of.mask == of.value), expected);
            proptest::prop_assert_eq!(space.number(one, &block), Some(number));
        }
    });
}

#[test]
fn what_is_too_large_ends_and_does_not_panic() {
    let stop = AtomicBool::new(false);
    let effort = Effort::new(&stop);
    let space = Space::new(&effort);
    // Equality of two 24-bit numbers in the worst order of variables.
    let (one, other) = (space.block(24), space.block(24));
    let mut all = EVERYTHING;
    for (a, b) in one.0.iter().zip(&other.0) {
        let (a, b) = (space.is_set(*a), space.is_set(*b));
        let same = space.or(space.and(a, b), space.minus(space.minus(EVERYTHING, a), b));
        all = space.and(all, same);
    }
    assert!(space.is_over());
}
