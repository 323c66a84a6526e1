//! Results of judging: conditions, advisories, kernel defects, and the report.

use std::net::IpAddr;

use super::ConditionState;
use crate::advisory::defects::{Basis, DefectState};
use crate::advisory::{ConditionKind, Severity, State};

/// Result of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFinding {
    /// Public name.
    pub id: String,
    /// Ingredient or safeguard.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub state: ConditionState,
    /// One line that names what decided it.
    pub detail: String,
    /// If unknown: commands that show what could not be determined; may be empty.
    pub commands: Vec<String>,
}

/// A remedy that applies to this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemedyFinding {
    /// What it does.
    pub text: String,
    /// Shell command with its placeholders filled in; `None`: there is none.
    pub command: Option<String>,
    /// Whether its effect survives a reboot.
    pub survives_reboot: bool,
}

/// A UDP entry with a translation that no rule gives any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleTranslation {
    /// Source address and port.
    pub client: (IpAddr, u16),
    /// Original destination.
    pub destination: (IpAddr, u16),
    /// Translated destination.
    pub target: (IpAddr, u16),
    /// Whether packets refreshed the entry between two readings; `None`: seen in one reading only.
    pub refilled: Option<bool>,
}

/// Result of one advisory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Public name.
    pub id: String,
    /// One line of description.
    pub title: String,
    /// Severity of an exposure.
    pub severity: Severity,
    /// The verdict.
    pub state: State,
    /// Whether it is unknown because a source was denied or failed, so that a permission or repair would help.
    pub unseen: bool,
    /// Name of the tunnel that the conditions are about, for advisories judged per tunnel.
    pub subject: Option<String>,
    /// One sentence about this node.
    pub summary: String,
    /// In the advisory's order.
    pub conditions: Vec<ConditionFinding>,
    /// Counters that relate to it, without influence on the state.
    pub evidence: Vec<String>,
    /// What to do, best first; empty unless exposed.
    pub remedies: Vec<RemedyFinding>,
    /// URLs of reports and fixes.
    pub references: Vec<String>,
    /// Why the risk is accepted and does not count; `None`: it is not accepted.
    pub accepted: Option<String>,
}

impl Finding {
    /// Whether it would count if it were not accepted.
    pub fn is_left_out(&self) -> bool {
        self.accepted.is_some() && matches!(self.state, State::Exposed | State::Unknown)
    }

    /// The deciding detail, without the subject's name.
    pub fn cause(&self) -> &str {
        let detail = self.deciding().map_or("", |condition| &condition.detail);
        let subject = self.subject.as_deref().unwrap_or_default();
        detail.strip_prefix(subject).and_then(|detail| detail.strip_prefix(": ")).unwrap_or(detail)
    }

    /// Commands that show why it is unknown.
    pub fn commands(&self) -> &[String] {
        self.deciding().map_or(&[], |condition| &condition.commands)
    }

    /// The condition that decided the state; for an exposure, the last safeguard that is missing.
    pub fn deciding(&self) -> Option<&ConditionFinding> {
        let failing = |kind| {
            move |condition: &&ConditionFinding| condition.kind == kind && condition.state == ConditionState::Fails
        };
        match self.state {
            State::NotAffected => self.conditions.iter().find(failing(ConditionKind::Ingredient)),
            State::Mitigated => self.conditions.iter().find(failing(ConditionKind::Safeguard)),
            State::Unknown => self.conditions.iter().find(|condition| condition.state == ConditionState::Unknown),
            State::Exposed => self
                .conditions
                .iter()
                .rfind(|condition| condition.kind == ConditionKind::Safeguard)
                .or(self.conditions.last()),
        }
    }
}

/// Result for one kernel defect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefectFinding {
    /// Public name.
    pub id: String,
    /// Whether the running kernel has it.
    pub state: DefectState,
    /// What the decision rests on.
    pub basis: Basis,
    /// One line that names what decided it.
    pub detail: String,
}

/// Verdicts about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Worst state of the advisories of at least `warning` that are not accepted.
    pub verdict: State,
    /// `--min-severity`: severity from which findings count for headlines and exit codes; `verdict` always counts from
    /// `warning`.
    pub min_severity: Severity,
    /// Sorted by id.
    pub advisories: Vec<Finding>,
    /// Sorted by id.
    pub defects: Vec<DefectFinding>,
    /// Why a probe's result was not used, in a sentence; `None` if there is none or it was used.
    pub probe_refused: Option<String>,
    /// UDP entries with a translation that no rule gives any more; `None`: not read or not judged.
    pub stale_translations: Option<Vec<StaleTranslation>>,
    /// Whether addresses of flows are left out.
    pub hide_flow_addresses: bool,
    /// Whether the caller stopped the judgement. Unknown states may be due to that, so the report is not recorded in
    /// the history.
    pub was_stopped: bool,
}

impl Report {
    /// Whether a second reading of entries would help: a stale translation was seen in one reading only.
    pub fn has_seen_once(&self) -> bool {
        self.stale_translations.iter().flatten().any(|stale| stale.refilled.is_none())
    }

    /// Findings of at least this severity that are not accepted.
    pub fn counted(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.advisories.iter().filter(move |finding| finding.severity >= severity && finding.accepted.is_none())
    }

    /// Worst state of these.
    pub fn worst(&self, severity: Severity) -> State {
        self.counted(severity).map(|finding| finding.state).max().unwrap_or(State::NotAffected)
    }

    /// Number of accepted risks that would count otherwise, of any severity.
    pub fn left_out(&self) -> usize {
        self.advisories.iter().filter(|finding| finding.is_left_out()).count()
    }
}
