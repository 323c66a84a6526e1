//! What was found: of a condition, an advisory, a kernel defect, and of all of them.

use std::net::IpAddr;

use super::ConditionState;
use crate::advisory::defects::{Basis, DefectState};
use crate::advisory::{ConditionKind, Severity, State};

/// One condition on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionFinding {
    /// Public name.
    pub id: String,
    /// Ingredient or lack of a safeguard.
    pub kind: ConditionKind,
    /// Whether it holds.
    pub state: ConditionState,
    /// One line that names what decided it.
    pub detail: String,
    /// If it is unknown: commands that show what could not be told. Empty: there is none.
    pub commands: Vec<String>,
}

/// A remedy that fits this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemedyFinding {
    /// What it does.
    pub text: String,
    /// A command, filled in.
    pub command: Option<String>,
    /// Whether its effect survives a reboot.
    pub survives_reboot: bool,
}

/// UDP whose translation no rule gives any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaleTranslation {
    /// Who sends.
    pub client: (IpAddr, u16),
    /// Where to.
    pub destination: (IpAddr, u16),
    /// Where it goes instead.
    pub target: (IpAddr, u16),
    /// It was seen in two readings, and packets came between them. `None`: it was seen once.
    pub refilled: Option<bool>,
}

/// One advisory on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Public name.
    pub id: String,
    /// One line.
    pub title: String,
    /// How bad an exposure is.
    pub severity: Severity,
    /// The verdict.
    pub state: State,
    /// It is unknown, and something that decides it could not be read: a permission or a repair would tell.
    pub unseen: bool,
    /// The tunnel that the conditions are about, where an advisory is judged on each.
    pub subject: Option<String>,
    /// One sentence about this node.
    pub summary: String,
    /// In the advisory's order.
    pub conditions: Vec<ConditionFinding>,
    /// Counters that bear on it; they decide nothing.
    pub evidence: Vec<String>,
    /// What to do; empty unless exposed.
    pub remedies: Vec<RemedyFinding>,
    /// Where this is known from.
    pub references: Vec<String>,
    /// Why this risk is known and does not count. `None`: it counts.
    pub accepted: Option<String>,
}

impl Finding {
    /// Whether it would count if it were not accepted.
    pub fn is_left_out(&self) -> bool {
        self.accepted.is_some() && matches!(self.state, State::Exposed | State::Unknown)
    }

    /// The detail that decided, without the subject's name in front.
    pub fn cause(&self) -> &str {
        let detail = self.deciding().map_or("", |condition| &condition.detail);
        let subject = self.subject.as_deref().unwrap_or_default();
        detail.strip_prefix(subject).and_then(|detail| detail.strip_prefix(": ")).unwrap_or(detail)
    }

    /// Commands that show what kept it unknown.
    pub fn commands(&self) -> &[String] {
        self.deciding().map_or(&[], |condition| &condition.commands)
    }

    /// The condition that decided the state; for an exposure, the last safeguard that is lacking.
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

/// One kernel defect on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DefectFinding {
    /// Public name.
    pub id: String,
    /// Whether the running kernel has it.
    pub state: DefectState,
    /// Where that is known from.
    pub basis: Basis,
    /// One line that names what decided it.
    pub detail: String,
}

/// The verdicts about one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Worst state among the advisories of at least warning that are not accepted.
    pub verdict: State,
    /// `--min-severity`: from which one on a finding counts for people and exit codes; the verdict above is always from
    /// warning on.
    pub min_severity: Severity,
    /// Sorted by id.
    pub advisories: Vec<Finding>,
    /// Sorted by id.
    pub defects: Vec<DefectFinding>,
    /// A probe's result that was not used, and why, in a sentence.
    pub probe_refused: Option<String>,
    /// UDP whose translation no rule gives any more. `None`: it was not read, or not judged.
    pub stale_translations: Option<Vec<StaleTranslation>>,
    /// Addresses of flows are left out.
    pub hide_flow_addresses: bool,
    /// The caller stopped the judgement before its end: what is unknown may be so for want of time, so this enters no
    /// history.
    pub was_stopped: bool,
}

impl Report {
    /// A second look at entries would tell more: a translation that no rule gives was seen once.
    pub fn has_seen_once(&self) -> bool {
        self.stale_translations.iter().flatten().any(|stale| stale.refilled.is_none())
    }

    /// The findings that count: of at least this severity, and not accepted.
    pub fn counted(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.advisories.iter().filter(move |finding| finding.severity >= severity && finding.accepted.is_none())
    }

    /// Worst state among those that count.
    pub fn worst(&self, severity: Severity) -> State {
        self.counted(severity).map(|finding| finding.state).max().unwrap_or(State::NotAffected)
    }

    /// How many known risks are left out, of whatever severity.
    pub fn left_out(&self) -> usize {
        self.advisories.iter().filter(|finding| finding.is_left_out()).count()
    }
}
