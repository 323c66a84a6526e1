//! Context and result of evaluating conditions.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::{ConditionState, DefectFinding, Derived};
use crate::facts::{Facts, Question, Reading};
use crate::symbolic;

/// Everything that conditions are evaluated on.
pub(crate) struct Context<'a> {
    /// The facts.
    pub facts: &'a Facts,
    /// Decisions about kernel defects.
    pub defects: &'a [DefectFinding],
    /// Why counters, tunnels and rules are not the node's; `None`: they are.
    pub wrong_namespace: Option<&'static str>,
    /// Whether details may show addresses of flows.
    pub flow_addresses: bool,
    /// Work budget shared by all walks of this judgement.
    pub(super) effort: symbolic::Effort<'a>,
    /// Rules, links and addresses, or what was not read of them.
    network: OnceCell<Result<symbolic::Network<'a>, Question>>,
    /// Results of walks on these facts.
    pub(super) derived: &'a Derived,
    /// Result for each tunnel's outer packets, by index of the device.
    pub(super) outer: RefCell<BTreeMap<u32, Result<symbolic::OuterPackets, Question>>>,
}

/// Result of evaluating a condition.
pub(crate) struct Evaluation {
    /// Whether it holds.
    pub state: ConditionState,
    /// One line that names what decided it.
    pub detail: String,
    /// If unknown: commands that show what could not be determined.
    pub commands: Vec<String>,
    /// Values for placeholders in remedies' commands.
    pub values: Vec<(&'static str, String)>,
    /// Whether it is about Kubernetes Services, or may be.
    pub of_services: bool,
}

impl Evaluation {
    /// A state with its detail.
    pub(super) fn new(state: ConditionState, detail: impl Into<String>) -> Self {
        Self { state, detail: detail.into(), commands: Vec::new(), values: Vec::new(), of_services: false }
    }

    /// The condition holds.
    pub(super) fn holds(detail: impl Into<String>) -> Self {
        Self::new(ConditionState::Holds, detail)
    }

    /// The condition does not hold.
    pub(super) fn fails(detail: impl Into<String>) -> Self {
        Self::new(ConditionState::Fails, detail)
    }

    /// Not determined; the question has the commands.
    pub(super) fn unknown(question: impl Into<Question>) -> Self {
        let Question { text, commands } = question.into();
        Self { commands, ..Self::new(ConditionState::Unknown, text) }
    }

    /// It holds or fails.
    pub(super) fn holds_if(holds: bool, detail: impl Into<String>) -> Self {
        if holds { Self::holds(detail) } else { Self::fails(detail) }
    }

    /// Sets whether it is about Kubernetes Services.
    pub(super) fn of_services(self, of_services: bool) -> Self {
        Self { of_services, ..self }
    }

    /// Adds a value for `{name}` in remedies' commands.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

impl<'a> Context<'a> {
    /// For a new judgement.
    pub(crate) fn new(
        facts: &'a Facts,
        defects: &'a [DefectFinding],
        wrong_namespace: Option<&'static str>,
        stop: &'a AtomicBool,
        derived: &'a Derived,
    ) -> Self {
        Self {
            facts,
            defects,
            wrong_namespace,
            flow_addresses: true,
            effort: symbolic::Effort::new(stop),
            network: OnceCell::new(),
            derived,
            outer: RefCell::default(),
        }
    }

    /// The network that walks see, built on first use.
    pub(super) fn network(&self) -> Result<&symbolic::Network<'a>, Question> {
        let network = || symbolic::Network::new(self.facts).inspect(|network| self.derived.begin(network));
        self.network.get_or_init(network).as_ref().map_err(Question::clone)
    }

    /// The decision about a kernel defect.
    pub(super) fn defect(&self, id: &str) -> Option<&DefectFinding> {
        self.defects.iter().find(|defect| defect.id == id)
    }
}

/// The question left by unread links.
pub(super) fn unread_links<T>(links: &Reading<T>) -> Question {
    Question::unread(links).shown_by(["ip", "-d", "link", "show"])
}
