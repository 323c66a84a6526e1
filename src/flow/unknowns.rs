//! Questions that nothing natwatch has read can answer, and whether the answers matter.
//!
//! Each has a few possible answers. A packet's way through the rules remembers which it took for granted
//! ([`super::packet::Guesses`]); what happens under every combination of answers happens for certain.

use std::collections::BTreeMap;

use super::effort::Effort;
use super::packet::Guesses;

/// Combinations that are tried. With more, the outcome counts as uncertain.
const MAX_TRIES: usize = 4096;

/// A question.
#[derive(Clone, Debug)]
struct Unknown {
    /// Names what could not be told.
    why: String,
    /// How many answers there are, from 0.
    answers: usize,
}

/// The questions so far.
#[derive(Clone, Debug, Default)]
pub struct Unknowns {
    all: Vec<Unknown>,
    by_key: BTreeMap<String, usize>,
}

impl Unknowns {
    /// The number of a question; `key` tells whether it was asked before.
    pub fn ask(&mut self, key: String, answers: usize, why: impl FnOnce() -> String) -> usize {
        *self.by_key.entry(key).or_insert_with(|| {
            self.all.push(Unknown { why: why(), answers });
            self.all.len() - 1
        })
    }

    /// Whether one of these combinations of guesses is right, whatever the answers are.
    pub fn certain<'g>(&self, guesses: impl IntoIterator<Item = &'g Guesses>, effort: &Effort<'_>) -> bool {
        let mut all = Vec::new();
        for guesses in guesses {
            if guesses.is_empty() {
                return true;
            }
            all.push(guesses);
        }
        self.covered(&all, 0, &mut 0, effort)
    }

    /// The same, where the questions before `from` have been answered, and these combinations fit the answers.
    fn covered(&self, all: &[&Guesses], from: usize, tries: &mut usize, effort: &Effort<'_>) -> bool {
        *tries += 1;
        let open = |guesses: &&Guesses| guesses.range(from..).next().map(|(question, _)| *question);
        let mut first = None;
        for guesses in all {
            if !effort.spend(8) {
                return false;
            }
            match open(guesses) {
                None => return true,
                Some(question) => first = Some(first.map_or(question, |first: usize| first.min(question))),
            }
        }
        let Some(question) = first else { return false };
        if *tries > MAX_TRIES {
            return false;
        }
        (0..self.all[question].answers).all(|answer| {
            let fits = |guesses: &&&Guesses| guesses.get(&question).is_none_or(|guess| *guess == answer);
            let rest: Vec<&Guesses> = all.iter().filter(fits).copied().collect();
            self.covered(&rest, question + 1, tries, effort)
        })
    }

    /// What could not be told about the one that takes least for granted.
    pub fn why<'g>(&self, guesses: impl IntoIterator<Item = &'g Guesses>) -> String {
        let least = guesses.into_iter().min_by_key(|guesses| guesses.len());
        let why: Vec<&str> = least.into_iter().flatten().map(|(at, _)| self.all[*at].why.as_str()).collect();
        why.join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_under_every_answer_is_certain() {
        let mut unknowns = Unknowns::default();
        let a = unknowns.ask("a".into(), 2, || "is a so?".into());
        let b = unknowns.ask("b".into(), 3, || "which b?".into());
        assert_eq!(unknowns.ask("a".into(), 2, String::new), a, "the same question is asked once");
        let stop = std::sync::atomic::AtomicBool::new(false);
        let effort = Effort::new(&stop);
        let guesses = |list: &[(usize, usize)]| list.iter().copied().collect::<Guesses>();
        assert!(!unknowns.certain(&[], &effort));
        assert!(unknowns.certain(&[guesses(&[])], &effort));
        assert!(!unknowns.certain(&[guesses(&[(a, 1)])], &effort));
        assert!(unknowns.certain(&[guesses(&[(a, 1)]), guesses(&[(a, 0)])], &effort));
        assert!(!unknowns.certain(&[guesses(&[(a, 1)]), guesses(&[(a, 0), (b, 0)]), guesses(&[(b, 1)])], &effort));
        let all_of_b = [0, 1, 2].map(|answer| guesses(&[(a, 0), (b, answer)]));
        assert!(unknowns.certain(all_of_b.iter().chain([&guesses(&[(a, 1)])]), &effort));
        assert_eq!(unknowns.why(&[guesses(&[(a, 1), (b, 1)]), guesses(&[(b, 2)])]), "which b?");
    }
}
