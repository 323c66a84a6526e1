//! States of the sources that a reading used.

use std::collections::BTreeMap;

use super::Collectors;
use crate::facts::{Reading, Source, SourceState, SourceStatus};

/// State of each source: the worst of its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sources {
    states: BTreeMap<Source, (SourceState, String)>,
    remarks: BTreeMap<Source, String>,
}

impl Sources {
    /// The source was used without failure.
    pub(crate) fn asked(&mut self, source: Source) {
        self.states.entry(source).or_insert((SourceState::Ok, String::new()));
    }

    /// Records the result of a request. The worst counts, of equal ones the first.
    pub(crate) fn note<T>(&mut self, source: Source, reading: &Reading<T>) {
        let known = self.states.entry(source).or_insert((SourceState::Ok, String::new()));
        if reading.state() > known.0 {
            *known = (reading.state(), reading.why());
        }
    }

    /// Adds to the detail of a source that is ok.
    pub(crate) fn remark(&mut self, source: Source, text: String) {
        self.remarks.insert(source, text);
    }

    /// Takes over these sources' states from an earlier reading, unless they are worse here.
    pub(crate) fn take_over(&mut self, other: &Self, sources: &[Source]) {
        for source in sources {
            if let Some((state, why)) = other.states.get(source) {
                let known = self.states.entry(*source).or_insert((SourceState::Ok, String::new()));
                if *state > known.0 {
                    *known = (*state, why.clone());
                }
            }
            self.remarks.extend(other.remarks.get(source).map(|remark| (*source, remark.clone())));
        }
    }

    /// Whether no source was denied or failed.
    pub(crate) fn is_whole(&self) -> bool {
        self.states.values().all(|(state, _)| matches!(state, SourceState::Ok | SourceState::Absent))
    }

    /// States of all sources of enabled collectors. For one without requests: `unread` says why, else it was not
    /// needed.
    pub(crate) fn statuses(
        &self,
        collectors: &Collectors,
        unread: impl Fn(Source) -> Option<Reading<()>>,
    ) -> Vec<SourceStatus> {
        let on = |source: &&Source| collectors.contains(&source.collector());
        let status = |source: &Source| {
            let unread = unread(*source).map(|reading| (reading.state(), reading.why()));
            let (state, detail) = match (self.states.get(source), unread) {
                (_, Some(unread)) => unread,
                (Some(known), None) => known.clone(),
                (None, None) => (SourceState::Ok, "not needed".to_owned()),
            };
            let remark = self.remarks.get(source).filter(|_| state == SourceState::Ok);
            SourceStatus { source: *source, state, detail: remark.cloned().unwrap_or(detail) }
        };
        Source::ALL.iter().filter(on).map(status).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Collector;

    fn ends() -> [Reading<()>; 4] {
        [
            Reading::Ok(()),
            Reading::Absent("absent".into()),
            Reading::Denied("denied".into()),
            Reading::Failed("failed".into()),
        ]
    }

    fn status(sources: &Sources, source: Source) -> SourceStatus {
        let statuses = sources.statuses(&[source.collector()].into(), |_| None);
        statuses.into_iter().find(|status| status.source == source).unwrap()
    }

    #[test]
    fn the_worst_state_wins_and_the_first_of_equals() {
        for (worse, one) in ends().iter().enumerate() {
            for (worst, other) in ends().iter().enumerate() {
                let mut sources = Sources::default();
                sources.note(Source::Kernel, one);
                sources.note(Source::Kernel, other);
                sources.asked(Source::Kernel);
                let expected = &ends()[worse.max(worst)];
                let status = status(&sources, Source::Kernel);
                assert_eq!((status.state, status.detail), (expected.state(), expected.why()), "{one:?}, {other:?}");
            }
        }
        let mut sources = Sources::default();
        for why in ["first", "second"] {
            sources.note(Source::Kernel, &Reading::<()>::Failed(why.into()));
        }
        assert_eq!(status(&sources, Source::Kernel).detail, "first");
    }

    #[test]
    fn every_source_of_a_collector_that_is_on_is_told() {
        let collectors: Collectors = Collector::ALL.iter().copied().collect();
        let mut sources = Sources::default();
        sources.asked(Source::Sysctl);
        let all = sources.statuses(&collectors, |_| None);
        assert_eq!(all.iter().map(|status| status.source).collect::<Vec<_>>(), Source::ALL);
        assert!(all.iter().all(|status| status.state == SourceState::Ok));
        for status in all {
            let detail = if status.source == Source::Sysctl { "" } else { "not needed" };
            assert_eq!(status.detail, detail, "{:?}", status.source);
        }
        assert_eq!(sources.statuses(&Collectors::default(), |_| None), [], "what is off has no sources");
    }

    #[test]
    fn why_a_source_was_not_read_counts_whatever_is_known_of_it() {
        let mut sources = Sources::default();
        sources.asked(Source::Rtnetlink);
        sources.remark(Source::Rtnetlink, "a remark".into());
        let unread = |source| (source == Source::Rtnetlink).then(|| Reading::Failed("no time".into()));
        let all = sources.statuses(&[Collector::Links].into(), unread);
        for status in all {
            let expected = match status.source {
                Source::Rtnetlink => (SourceState::Failed, "no time"),
                _ => (SourceState::Ok, "not needed"),
            };
            assert_eq!((status.state, status.detail.as_str()), expected, "{:?}", status.source);
        }
    }

    #[test]
    fn a_remark_is_for_a_source_that_is_all_right() {
        let mut sources = Sources::default();
        sources.remark(Source::Kernel, "a remark".into());
        sources.asked(Source::Kernel);
        assert_eq!(status(&sources, Source::Kernel).detail, "a remark");
        sources.note(Source::Kernel, &Reading::<()>::Failed("failed".into()));
        assert_eq!(status(&sources, Source::Kernel).detail, "failed");
    }

    #[test]
    fn what_is_taken_over_keeps_its_state_and_nothing_else_comes_with_it() {
        let mut earlier = Sources::default();
        earlier.note(Source::Nftables, &Reading::<()>::Denied("denied".into()));
        earlier.note(Source::Kernel, &Reading::<()>::Failed("failed".into()));
        let mut sources = Sources::default();
        sources.take_over(&earlier, &[Source::Nftables, Source::Ipset]);
        assert_eq!(status(&sources, Source::Nftables).state, SourceState::Denied);
        assert_eq!(status(&sources, Source::Kernel).detail, "not needed");
        assert_eq!(status(&sources, Source::Ipset).detail, "not needed");
    }
}
