//! What conditions are evaluated against, and what comes of it.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

use super::{ConditionState, DefectFinding, Derived};
use crate::facts::{Facts, Question, Reading};
use crate::symbolic;

/// What conditions are evaluated against.
pub(crate) struct Context<'a> {
    /// What was seen.
    pub facts: &'a Facts,
    /// What is known about the kernel.
    pub defects: &'a [DefectFinding],
    /// Set when counters, tunnels and rules are not the node's.
    pub wrong_namespace: Option<&'static str>,
    /// Details name addresses of flows.
    pub flow_addresses: bool,
    /// The work that all walks together may do.
    pub(super) effort: symbolic::Effort<'a>,
    /// Rules, links and addresses; or what of them was not read.
    network: OnceCell<Result<symbolic::Network<'a>, Question>>,
    /// What walks have found on these facts.
    pub(super) derived: &'a Derived,
    /// What happens to the outer packets of tunnels, by index of the device.
    pub(super) outer: RefCell<BTreeMap<u32, Result<symbolic::OuterPackets, Question>>>,
}

/// The state of a condition, why, and what its remedies can use.
pub(crate) struct Evaluation {
    pub state: ConditionState,
    pub detail: String,
    /// If it is unknown: commands that show what could not be told.
    pub commands: Vec<String>,
    pub values: Vec<(&'static str, String)>,
    /// It is about Services of Kubernetes, or may be.
    pub of_services: bool,
}

impl Evaluation {
    /// A state, and one line that names what decided it.
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

    /// It could not be told; the commands show what was missing.
    pub(super) fn unknown(question: impl Into<Question>) -> Self {
        let Question { text, commands } = question.into();
        Self { commands, ..Self::new(ConditionState::Unknown, text) }
    }

    /// It holds or fails.
    pub(super) fn holds_if(holds: bool, detail: impl Into<String>) -> Self {
        if holds { Self::holds(detail) } else { Self::fails(detail) }
    }

    /// The same, about Services of Kubernetes or not.
    pub(super) fn of_services(self, of_services: bool) -> Self {
        Self { of_services, ..self }
    }

    /// The same, with a value for `{name}` in the commands of remedies.
    pub(super) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.values.push((name, value.to_string()));
        self
    }
}

impl<'a> Context<'a> {
    /// Before anything was evaluated.
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

    /// What packets can meet.
    pub(super) fn network(&self) -> Result<&symbolic::Network<'a>, Question> {
        let network = || symbolic::Network::new(self.facts).inspect(|network| self.derived.begin(network));
        self.network.get_or_init(network).as_ref().map_err(Question::clone)
    }

    /// What is known about a defect of the kernel.
    pub(super) fn defect(&self, id: &str) -> Option<&DefectFinding> {
        self.defects.iter().find(|defect| defect.id == id)
    }
}

/// Links were not read.
pub(super) fn unread_links<T>(links: &Reading<T>) -> Question {
    Question::unread(links).shown_by(["ip", "-d", "link", "show"])
}
