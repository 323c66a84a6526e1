//! Result of a probe: JSON document, text and exit code. Pure.

use serde::{Deserialize, Serialize, Serializer};

use crate::advisory::defects::DefectState;

/// Version of the document; changes when something is renamed or removed, not when something is added.
const SCHEMA_VERSION: u32 = 1;

/// An experiment's result for one defect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeFinding {
    /// Id of the defect.
    pub id: String,
    /// Whether the running kernel has it; unknown if one of the experiment's controls failed.
    #[serde(serialize_with = "by_name")]
    pub state: DefectState,
    /// One line: what was observed, or why there is no result.
    pub detail: String,
}

fn by_name<S: Serializer>(state: &DefectState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

/// Identity of the running kernel and boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningKernel {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`
    pub kernel_release: String,
    /// `/proc/sys/kernel/version`, `uname -v`
    pub kernel_version: String,
}

/// Results of a finished probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Version of this document.
    pub schema_version: u32,
    /// Version of natwatch.
    pub natwatch_version: String,
    /// Start, RFC 3339, UTC.
    pub probed_at: String,
    /// Duration, milliseconds.
    pub duration_ms: u64,
    /// The kernel probed; `None` if /proc did not show it.
    pub identity: Option<RunningKernel>,
    /// Names of loaded live patches; `None` if unread.
    pub livepatches: Option<Vec<String>>,
    /// Findings by id.
    pub defects: Vec<ProbeFinding>,
}

impl Outcome {
    /// For a probe by this version.
    pub(crate) fn new(probed_at: String, identity: Option<RunningKernel>, livepatches: Option<Vec<String>>) -> Self {
        let natwatch_version = env!("CARGO_PKG_VERSION").to_owned();
        let (schema_version, duration_ms, defects) = (SCHEMA_VERSION, 0, Vec::new());
        Self { schema_version, natwatch_version, probed_at, duration_ms, identity, livepatches, defects }
    }

    /// Parses the document, which is untrusted: each defect is taken once, with a one-line detail.
    ///
    /// # Errors
    /// Why it is invalid.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        const DETAIL: usize = 500;
        let mut outcome: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if outcome.schema_version != SCHEMA_VERSION {
            return Err(format!("schema version {} is not {SCHEMA_VERSION}", outcome.schema_version));
        }
        for (at, finding) in outcome.defects.iter().enumerate() {
            if outcome.defects[..at].iter().any(|earlier| earlier.id == finding.id) {
                return Err(format!("defect {:?} is there twice", finding.id));
            }
        }
        for finding in &mut outcome.defects {
            finding.detail = finding.detail.chars().filter(|c| !c.is_control()).take(DETAIL).collect();
        }
        Ok(outcome)
    }

    /// The JSON document.
    pub(crate) fn json(&self) -> String {
        // Strings and numbers always serialize.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// The text for people.
    pub(crate) fn text(&self) -> String {
        let release = self.identity.as_ref().map_or("unknown", |identity| &identity.kernel_release);
        let mut text = format!("kernel {release}, probed in {} ms\n", self.duration_ms);
        // A common reason is printed once.
        for alike in self.defects.chunk_by(|one, next| (one.state, &one.detail) == (next.state, &next.detail)) {
            text += "\n";
            for ProbeFinding { id, state, .. } in alike {
                let state = match state {
                    DefectState::Present => "PRESENT",
                    DefectState::Absent | DefectState::Unknown => state.name(),
                };
                text += &format!("{state:<8} {id}\n");
            }
            let options = textwrap::Options::new(80).initial_indent("  ").subsequent_indent("  ");
            text += &alike.first().map(|finding| textwrap::fill(&finding.detail, options)).unwrap_or_default();
            text += "\n";
        }
        text
    }

    /// 2 if a counted defect is present, else 3 if one is unknown, else 0.
    pub(crate) fn exit_code(&self, counts: impl Fn(&str) -> bool) -> u8 {
        let counted = || self.defects.iter().filter(|finding| counts(&finding.id)).map(|finding| finding.state);
        if counted().any(|state| state == DefectState::Present) {
            return 2;
        }
        if counted().any(|state| state == DefectState::Unknown) { 3 } else { 0 }
    }

    /// Whether the result is of the running kernel and boot.
    ///
    /// # Errors
    /// What differs.
    pub(crate) fn is_of(&self, running: Option<&RunningKernel>) -> Result<(), String> {
        let (Some(mine), Some(running)) = (&self.identity, running) else {
            return Err("which kernel runs, or was probed, is not known".into());
        };
        let pairs = [
            ("boot id", &mine.boot_id, &running.boot_id),
            ("release", &mine.kernel_release, &running.kernel_release),
            ("version", &mine.kernel_version, &running.kernel_version),
        ];
        match pairs.iter().find(|(_, mine, running)| mine != running) {
            Some((what, mine, running)) => Err(format!("it is of {what} {mine:?}, and {running:?} runs")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(states: &[(&str, DefectState)]) -> Outcome {
        let identity = |id: &str| RunningKernel {
            boot_id: id.into(),
            kernel_release: "6.1.0-9-amd64".into(),
            kernel_version: "#1 SMP".into(),
        };
        let mut outcome = Outcome::new("2026-01-01T00:00:00Z".into(), Some(identity("a-b")), Some(vec![]));
        let finding = |(id, state): &(&str, DefectState)| ProbeFinding {
            id: (*id).into(),
            state: *state,
            detail: "the detail".into(),
        };
        outcome.defects = states.iter().map(finding).collect();
        outcome
    }

    #[test]
    fn the_document_survives_a_round_trip() {
        let outcome = outcome(&[("a", DefectState::Present), ("b", DefectState::Unknown)]);
        assert_eq!(Outcome::parse(&outcome.json()), Ok(outcome.clone()));
        assert!(outcome.json().contains("\"state\": \"present\""), "{}", outcome.json());
        let twice = outcome.json().replace("\"id\": \"b\"", "\"id\": \"a\"");
        assert_eq!(Outcome::parse(&twice), Err("defect \"a\" is there twice".into()));
        let lines = outcome.json().replace("the detail", "one\\nline\\u001b[31m");
        assert_eq!(Outcome::parse(&lines).unwrap().defects[0].detail, "oneline[31m");
        assert!(Outcome::parse("").is_err() && Outcome::parse("{}").is_err());
        let newer = outcome.json().replace("\"schema_version\": 1", "\"schema_version\": 2");
        assert_eq!(Outcome::parse(&newer), Err("schema version 2 is not 1".into()));
        assert!(Outcome::parse(&outcome.json().replace("present", "maybe")).is_err());
    }

    #[test]
    fn what_keeps_all_from_being_told_is_said_once() {
        let text =
            outcome(&[("a", DefectState::Unknown), ("b", DefectState::Unknown), ("c", DefectState::Present)]).text();
        assert!(text.contains("\nunknown  a\nunknown  b\n  the detail\n\nPRESENT  c\n  the detail\n"), "{text}");
    }

    #[test]
    fn what_counts_decides_the_exit_code() {
        let mixed = outcome(&[("a", DefectState::Present), ("b", DefectState::Unknown), ("c", DefectState::Absent)]);
        assert_eq!(mixed.exit_code(|_| true), 2);
        assert_eq!(mixed.exit_code(|id| id != "a"), 3);
        assert_eq!(mixed.exit_code(|id| id == "c"), 0);
    }

    #[test]
    fn only_the_same_boot_of_the_same_kernel_is_meant() {
        let outcome = outcome(&[]);
        let same = outcome.identity.clone();
        assert_eq!(outcome.is_of(same.as_ref()), Ok(()));
        assert!(outcome.is_of(None).is_err());
        let other = |change: fn(&mut RunningKernel)| {
            let mut other = same.clone().unwrap();
            change(&mut other);
            outcome.is_of(Some(&other)).unwrap_err()
        };
        assert_eq!(other(|id| id.boot_id = "c".into()), "it is of boot id \"a-b\", and \"c\" runs");
        assert!(other(|id| id.kernel_release.push('x')).contains("release"));
        assert!(other(|id| id.kernel_version.push('x')).contains("version"));
    }
}
