//! What the kernel was asked and what it answered, byte for byte.
//!
//! A [`Capture`] is what `kernel` produces, what `decode` reads, what `natwatch capture` saves, what
//! `check --from` replays, and what the tests use as fixtures.

mod request;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Failure, Reading, Source, Unanswered, netfilter};
pub use request::{
    Absence, Keep, NetlinkFamily, NetlinkRequest, Question, Request, Root, XTABLES_INFO, XtablesRequest, path_part,
};

/// Rules by the name of the request that they answer.
pub type DecodedRules = BTreeMap<String, Reading<Arc<Vec<netfilter::Rule>>>>;

/// Rule sets by the source that they come from.
pub type DecodedRulesets = BTreeMap<Source, Reading<Arc<netfilter::Ruleset>>>;

/// The raw answer to one request.
pub type Answer = Reading<Vec<u8>>;

/// Legacy tables that an earlier look has read.
#[derive(Clone, Debug)]
pub struct LastTables {
    /// Their descriptions, by the name of the request for them; they hold while these stand.
    pub infos: BTreeMap<String, Vec<u8>>,
    /// Their rules.
    pub ruleset: Arc<netfilter::Ruleset>,
}

/// What is known about the look itself: everything that is not an answer of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    /// Version of the capture directory's format; [`FORMAT`].
    pub format: u32,
    /// Version of the natwatch that looked.
    pub natwatch_version: String,
    /// `little` or `big`: netlink answers are in the byte order of the machine.
    pub byte_order: String,
    /// Host name.
    pub hostname: String,
    /// Start of the look, RFC 3339, UTC.
    pub captured_at: String,
    /// CPUs online; null if it could not be told.
    pub online_cpus: Option<u32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Effective capabilities, by name.
    pub capabilities: Vec<String>,
    /// `initial`, `other` or `unknown`.
    pub network_namespace: String,
    /// Whether addresses and names were replaced (`capture --redact`).
    pub redacted: bool,
}

/// The format that this version writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// The byte order of this machine, as `meta.json` spells it.
pub const BYTE_ORDER: &str = if cfg!(target_endian = "big") { "big" } else { "little" };

/// All answers of one look.
#[derive(Clone, Debug)]
pub struct Capture {
    /// About the look.
    pub meta: Meta,
    /// Answers by request name.
    pub answers: BTreeMap<String, Answer>,
    /// The rules of nf_tables that an earlier look found; they hold while their generation stands.
    pub last_rules: Option<Arc<netfilter::Ruleset>>,
    /// Legacy tables that an earlier look has read, not long ago.
    pub last_tables: BTreeMap<Source, LastTables>,
    /// What was read out of answers already: the planner needs the same rules again in each of its rounds.
    pub rules: Arc<Mutex<DecodedRules>>,
    /// The same for whole rule sets, by the source that they come from.
    pub rulesets: Arc<Mutex<DecodedRulesets>>,
    /// What a missing answer means.
    pub unanswered: Unanswered,
}

impl Capture {
    /// A capture without answers.
    pub fn new(meta: Meta, unanswered: Unanswered) -> Self {
        let answers = BTreeMap::new();
        let (last_rules, last_tables) = (None, BTreeMap::new());
        let (rules, rulesets) = (Arc::default(), Arc::default());
        Self { meta, answers, last_rules, last_tables, rules, rulesets, unanswered }
    }

    /// That nobody answered a request.
    pub fn unanswered(&self, request: &str) -> Failure {
        Failure::NotAnswered(self.unanswered.clone()).within(request)
    }

    /// Whether this was answered already.
    pub fn has(&self, request: &Request) -> bool {
        self.answers.contains_key(&request.name)
    }

    /// The answer to a request. One that nobody answered is a failed reading, never an empty one, and so is the
    /// absence of what every kernel has.
    pub fn get(&self, request: &Request) -> Reading<&[u8]> {
        match self.answers.get(&request.name) {
            Some(Reading::Absent(why)) if request.absence == Absence::Impossible => {
                Reading::Failed(Failure::Hidden { witness: None }.within(why))
            }
            Some(answer) => answer.as_ref().map(Vec::as_slice),
            None => Reading::Failed(self.unanswered(&request.name)),
        }
    }

    /// The same, read as rules; each answer is read once.
    pub fn rules(
        &self,
        request: &Request,
        decode: impl FnOnce(&[u8]) -> Reading<Vec<netfilter::Rule>>,
    ) -> Reading<Arc<Vec<netfilter::Rule>>> {
        let mut known = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = known.get(&request.name) {
            return rules.clone();
        }
        let rules = self.get(request).and_then(decode).map(Arc::new);
        if self.has(request) {
            known.insert(request.name.clone(), rules.clone());
        }
        rules
    }

    /// What these answers make up; read once, when all of them are there.
    pub fn ruleset(
        &self,
        source: Source,
        requests: &[Request],
        decode: impl FnOnce() -> Reading<Arc<netfilter::Ruleset>>,
    ) -> Reading<Arc<netfilter::Ruleset>> {
        if let Some(request) = requests.iter().find(|request| !self.has(request)) {
            return self.get(request).map(|_| Arc::default());
        }
        let mut known = self.rulesets.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(source).or_insert_with(decode).clone()
    }

    /// The same, as text without the final newline.
    pub fn text(&self, request: &Request) -> Reading<String> {
        self.get(request).map(|bytes| String::from_utf8_lossy(bytes).trim_end_matches('\n').to_owned())
    }

    /// The same, as one line. The kernel ends it with a line feed; without one it is cut off.
    pub fn line(&self, request: &Request) -> Reading<String> {
        self.get(request).decode(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let line = text.strip_suffix('\n').map(str::to_owned);
            line.ok_or_else(|| format!("{}: {text:?} is cut off", request.name))
        })
    }

    /// The same, as one line that holds one decimal number.
    pub fn number(&self, request: &Request) -> Reading<u64> {
        self.line(request)
            .decode(|line| line.trim().parse().map_err(|_| format!("{}: {line:?} is not a number", request.name)))
    }
}

/// A list of CPUs as sysfs writes it (`0-3,8`); `None` if it is none, or longer than any machine's.
pub fn cpu_list(text: &str) -> Option<Vec<u16>> {
    const MAX_CPUS: usize = 1 << 16;
    let mut cpus = Vec::new();
    for range in text.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
        if cpus.len() > MAX_CPUS {
            return None;
        }
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_may_have_holes_but_no_nonsense() {
        assert_eq!(cpu_list("0-1,4\n"), Some(vec![0, 1, 4]));
        assert_eq!(cpu_list("0"), Some(vec![0]));
        for nonsense in ["", "0-x", "-", "0-65536", &"0-65535,".repeat(1000)] {
            assert_eq!(cpu_list(nonsense), None);
        }
    }
}
