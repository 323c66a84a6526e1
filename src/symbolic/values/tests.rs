//! Splits and writes against what single words do.

use super::*;

fn masked(mask: u128, value: u128) -> Condition {
    Condition::Masked { mask, value }
}

/// Whether a number is in the set.
fn holds(values: &Values, number: u128) -> bool {
    match values {
        Values::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&number)),
        Values::Patterns(patterns) => {
            patterns.iter().any(|pattern| number as u32 & pattern.mask == pattern.value && number >> 32 == 0)
        }
    }
}

#[test]
fn prefixes_and_names_are_ranges() {
    let any = Values::any(&Field::Ipv4Source);
    let (inside, outside) = any.split(&Field::Ipv4Source, &masked(0xff00_0000, 0x0a00_0000)).unwrap();
    assert_eq!(inside, Values::Ranges(vec![(0x0a00_0000, 0x0aff_ffff)]));
    assert_eq!(outside, Values::Ranges(vec![(0, 0x09ff_ffff), (0x0b00_0000, 0xffff_ffff)]));
    let (all, none) = any.split(&Field::Ipv4Source, &masked(0, 0)).unwrap();
    assert!(all == any && none.is_empty());
    assert!(any.split(&Field::Ipv4Source, &masked(0, 1)).unwrap().0.is_empty(), "it can never hold");
    assert_eq!(any.split(&Field::Ipv4Source, &masked(1, 1)), None, "half of all addresses are too many ranges");
    let few = Values::of(&[3, 4, 5]);
    assert_eq!(few.split(&Field::Ipv4Source, &masked(1, 1)), Some((Values::of(&[3, 5]), Values::of(&[4]))));
}

#[test]
fn a_range_of_words_is_made_of_prefixes() {
    let any = Values::any(&Field::Mark);
    let (inside, outside) = any.split(&Field::Mark, &Condition::Ranges(vec![(1, 6)])).unwrap();
    for number in 0..20 {
        assert_eq!(holds(&inside, number), (1..=6).contains(&number));
        assert_eq!(holds(&outside, number), !(1..=6).contains(&number));
    }
    assert_eq!(covering(0, u128::from(u32::MAX)), [Pattern { mask: 0, value: 0 }]);
    assert_eq!(covering(5, 4), []);
}

proptest::proptest! {
    #[test]
    fn a_split_loses_no_word_and_invents_none(
        known: u32, value: u32, mask: u32, wanted: u32, words: [u32; 32], ranges: bool,
    ) {
        let field = if ranges { Field::Ipv4Source } else { Field::Mark };
        let whole = if ranges {
            Values::ranges(vec![(value.min(known).into(), value.max(known).into())])
        } else {
            Values::Patterns(vec![Pattern { mask: known, value: value & known }])
        };
        let mask = if ranges { u32::MAX << (mask % 32) } else { mask };
        let condition = masked(mask.into(), (wanted & mask).into());
        let (inside, outside) = whole.split(&field, &condition).unwrap();
        for word in words.into_iter().chain([value, wanted, value & known, wanted & mask]) {
            let (number, meets) = (u128::from(word), word & mask == wanted & mask);
            assert_eq!(holds(&inside, number), holds(&whole, number) && meets);
            assert_eq!(holds(&outside, number), holds(&whole, number) && !meets);
        }
    }

    #[test]
    fn a_write_is_what_the_kernel_computes(own: u32, other: u32, keep: u32, take: u32, xor: u32, known: u32) {
        let new = (own & keep) ^ (other & take) ^ xor;
        assert_eq!(Values::word(own).written(&Values::word(other), keep, take, xor), Some(Values::word(new)));
        let vague = Values::Patterns(vec![Pattern { mask: known, value: own & known }]);
        assert!(holds(&vague.written(&Values::word(other), keep, take, xor).unwrap(), new.into()));
    }
}
