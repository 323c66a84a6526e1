//! Earlier verdicts: changes for the log, and residual effects after an exposure.
//!
//! For ten minutes after a verdict leaves `exposed`, its summary says that existing flows keep their translation, if
//! they do.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Report;
use crate::advisory::{Catalogue, State};

/// How long a summary mentions the residual effect: twice the time that an idle UDP flow keeps its translation, and
/// time to read it.
const RESIDUAL_EFFECT: Duration = Duration::from_secs(600);

/// Verdicts of the last reading.
#[derive(Debug, Default)]
pub(crate) struct History {
    verdicts: BTreeMap<String, Verdict>,
}

#[derive(Clone, Copy, Debug)]
struct Verdict {
    state: State,
    /// When it stopped being exposed; `None`: it did not, or too long ago.
    left_exposed: Option<Instant>,
}

/// A changed verdict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    /// Id of the advisory.
    pub advisory: String,
    /// Previous state.
    pub old: State,
    /// Present state.
    pub new: State,
    /// The detail that decided.
    pub cause: String,
}

impl History {
    /// Records the verdicts of a complete reading and returns those that changed; none on the first one.
    pub(crate) fn note(&mut self, now: Instant, report: &Report) -> Vec<Change> {
        let mut changes = Vec::new();
        for finding in &report.advisories {
            let new = finding.state;
            let Some(known) = self.verdicts.get_mut(&finding.id) else {
                self.verdicts.insert(finding.id.clone(), Verdict { state: new, left_exposed: None });
                continue;
            };
            if known.state == new {
                continue;
            }
            let (advisory, cause) = (finding.id.clone(), finding.cause().to_owned());
            changes.push(Change { advisory, old: known.state, new, cause });
            known.left_exposed = match (known.state, new) {
                (_, State::Exposed) => None,
                (State::Exposed, _) => Some(now),
                _ => known.left_exposed,
            };
            known.state = new;
        }
        changes
    }

    /// Adds residual effects to the summaries of recently ended exposures.
    pub(crate) fn complete(&self, now: Instant, catalogue: &Catalogue, report: &mut Report) {
        for finding in report.advisories.iter_mut().filter(|finding| finding.state != State::Exposed) {
            let left = self.verdicts.get(&finding.id).and_then(|verdict| verdict.left_exposed);
            let recent = left.is_some_and(|left| now.saturating_duration_since(left) < RESIDUAL_EFFECT);
            let residual_effect = catalogue.get(&finding.id).and_then(|advisory| advisory.residual_effect.as_deref());
            if let Some(text) = residual_effect.filter(|_| recent) {
                finding.summary = format!("{} {text}", finding.summary);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advisory::Severity;
    use crate::judge::Finding;

    fn report(state: State) -> Report {
        let finding = Finding {
            id: "vxlan-double-snat-checksum".into(),
            title: String::new(),
            severity: Severity::Critical,
            state,
            unseen: false,
            subject: None,
            summary: "As it is.".into(),
            conditions: Vec::new(),
            evidence: Vec::new(),
            remedies: Vec::new(),
            references: Vec::new(),
            accepted: None,
        };
        Report {
            min_severity: Severity::Warning,
            verdict: state,
            advisories: vec![finding],
            defects: Vec::new(),
            probe_refused: None,
            stale_translations: None,
            hide_flow_addresses: false,
            was_stopped: false,
        }
    }

    #[test]
    fn changes_are_told_once_and_flows_are_remembered_for_ten_minutes() {
        let (mut history, start) = (History::default(), Instant::now());
        let summary = |history: &History, after: u64, state| {
            let mut report = report(state);
            history.complete(start + Duration::from_secs(after), Catalogue::built_in(), &mut report);
            report.advisories.remove(0).summary
        };
        assert_eq!(history.note(start, &report(State::Exposed)), [], "the first reading is no change");
        assert_eq!(summary(&history, 1, State::Exposed), "As it is.");
        let changes = history.note(start + Duration::from_secs(10), &report(State::Mitigated));
        assert_eq!((changes[0].old, changes[0].new), (State::Exposed, State::Mitigated));
        assert_eq!(history.note(start + Duration::from_secs(20), &report(State::Mitigated)), []);
        assert!(
            summary(&history, 30, State::Mitigated).contains("keep"),
            "{}",
            summary(&history, 30, State::Mitigated)
        );
        assert!(summary(&history, 609, State::Unknown).contains("keep"));
        assert_eq!(summary(&history, 611, State::Mitigated), "As it is.");
        history.note(start + Duration::from_secs(40), &report(State::Exposed));
        history.note(start + Duration::from_secs(50), &report(State::Unknown));
        assert!(summary(&history, 640, State::Unknown).contains("keep"), "it left once more");
    }
}
