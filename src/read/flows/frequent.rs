//! The most frequent keys of a stream in bounded memory: Misra and Gries, "Finding repeated elements" (1982).

use std::collections::HashMap;
use std::hash::Hash;

/// Counts of keys. If there were more keys than `room`, each key may have occurred up to [`Frequent::uncounted`] times
/// more often than counted, and a missing key up to as often.
#[derive(Clone, Debug)]
pub(super) struct Frequent<K, V> {
    room: usize,
    counts: HashMap<K, (u64, V)>,
    uncounted: u64,
}

impl<K: Hash + Eq, V: Default> Frequent<K, V> {
    /// With room for this many keys.
    pub(super) fn new(room: usize) -> Self {
        Self { room, counts: HashMap::new(), uncounted: 0 }
    }

    /// Counts a key. Returns the value stored with it; `None` if there is no room.
    pub(super) fn add(&mut self, key: K) -> Option<&mut V> {
        if self.counts.len() >= self.room && !self.counts.contains_key(&key) {
            self.uncounted += 1;
            self.counts.retain(|_, (count, _)| {
                *count -= 1;
                *count > 0
            });
            return None;
        }
        let (count, value) = self.counts.entry(key).or_default();
        *count += 1;
        Some(value)
    }

    /// Upper bound of the number by which any count is low.
    pub(super) fn uncounted(&self) -> u64 {
        self.uncounted
    }

    /// Each key with its count and its value.
    pub(super) fn into_counts(self) -> impl Iterator<Item = (K, u64, V)> {
        self.counts.into_iter().map(|(key, (count, value))| (key, count, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_low_by_no_more_than_it_says() {
        proptest::proptest!(|(keys in proptest::collection::vec(0u8..20, 0..500))| {
            let mut frequent = Frequent::<u8, ()>::new(4);
            for key in &keys {
                frequent.add(*key);
            }
            let uncounted = frequent.uncounted();
            assert!(uncounted <= keys.len() as u64 / 5, "{uncounted} of {}", keys.len());
            let counts: HashMap<u8, u64> = frequent.into_counts().map(|(key, count, ())| (key, count)).collect();
            for key in 0..20 {
                let real = keys.iter().filter(|other| **other == key).count() as u64;
                let counted = counts.get(&key).copied().unwrap_or(0);
                assert!((counted..=counted + uncounted).contains(&real), "{key}: {real}, {counted} + {uncounted}");
            }
        });
    }
}
