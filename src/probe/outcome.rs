//! What a probe found: its document, its text, its exit code. Pure.

use serde::{Deserialize, Serialize, Serializer};

use crate::advisory::defects::DefectState;

/// Version of the document; it changes when something is renamed or removed, not when something is added.
const SCHEMA_VERSION: u32 = 1;

/// What an experiment says about one defect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProbeFinding {
    /// The defect.
    pub id: String,
    /// Whether the running kernel has it; unknown if one of the experiment's controls failed.
    #[serde(serialize_with = "by_name")]
    pub state: DefectState,
    /// One line: what was seen, or why nothing could be.
    pub detail: String,
}

fn by_name<S: Serializer>(state: &DefectState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.name())
}

/// The running kernel, told apart from every other, and from itself after a reboot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunningKernel {
    /// `/proc/sys/kernel/random/boot_id`
    pub boot_id: String,
    /// `/proc/sys/kernel/osrelease`
    pub kernel_release: String,
    /// `/proc/sys/kernel/version`, `uname -v`
    pub kernel_version: String,
}

/// A finished probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// Version of this document.
    pub schema_version: u32,
    /// Who probed.
    pub natwatch_version: String,
    /// RFC 3339, UTC.
    pub probed_at: String,
    /// How long that took.
    pub duration_ms: u64,
    /// What was probed; `None` where /proc did not tell.
    pub identity: Option<RunningKernel>,
    /// Live patches that were loaded; `None` where that could not be read.
    pub livepatches: Option<Vec<String>>,
    /// By id.
    pub defects: Vec<ProbeFinding>,
}

impl Outcome {
    /// A probe by this version.
    pub(crate) fn new(probed_at: String, identity: Option<RunningKernel>, livepatches: Option<Vec<String>>) -> Self {
        let natwatch_version = env!("CARGO_PKG_VERSION").to_owned();
        let (schema_version, duration_ms, defects) = (SCHEMA_VERSION, 0, Vec::new());
        Self { schema_version, natwatch_version, probed_at, duration_ms, identity, livepatches, defects }
    }

    /// Reads the document, which may come from anywhere: a defect is decided once, and its detail is one line.
    ///
    /// # Errors
    /// Why it is none.
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

    /// The document.
    pub(crate) fn json(&self) -> String {
        // Strings and numbers only: nothing in it can fail to be written.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// For people.
    pub(crate) fn text(&self) -> String {
        let release = self.identity.as_ref().map_or("unknown", |identity| &identity.kernel_release);
        let mut text = format!("kernel {release}, probed in {} ms\n", self.duration_ms);
        // What keeps all of them from being told is said once.
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

    /// 2 if one of the defects that count is present, else 3 if one could not be told, else 0.
    pub(crate) fn exit_code(&self, counts: impl Fn(&str) -> bool) -> u8 {
        let counted = || self.defects.iter().filter(|finding| counts(&finding.id)).map(|finding| finding.state);
        if counted().any(|state| state == DefectState::Present) {
            return 2;
        }
        if counted().any(|state| state == DefectState::Unknown) { 3 } else { 0 }
    }

    /// Whether this tells about the kernel that runs now.
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
