//! What the kernel was asked and what it answered, byte for byte.
//!
//! A [`Capture`] is what `kernel` produces, what `decode` reads, what `natwatch capture` saves, what
//! `check --from` replays, and what the tests use as fixtures.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Reading, Source, netfilter};

/// Rules by the name of the request that they answer.
pub type DecodedRules = BTreeMap<String, Reading<Arc<Vec<netfilter::Rule>>>>;

/// The raw answer to one request.
pub type Answer = Reading<Vec<u8>>;

/// Which tree a path belongs to; each has its `--path.*` flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `/proc`
    Procfs,
    /// `/sys`
    Sysfs,
    /// The host's root file system
    Rootfs,
}

impl Root {
    /// Name of the tree in request names and capture directories.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Procfs => "procfs",
            Self::Sysfs => "sysfs",
            Self::Rootfs => "rootfs",
        }
    }
}

/// Netlink protocols in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetlinkFamily {
    /// `NETLINK_ROUTE`
    Route,
    /// `NETLINK_GENERIC`
    Generic,
    /// `NETLINK_NETFILTER`: opening this socket can load a module, so ask only when the subsystem is there.
    Netfilter,
}

/// One question to the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Question {
    /// The content of a regular file.
    File(Root, String),
    /// The lines of a large file that contain one of these words.
    Lines(Root, String, Vec<String>),
    /// The names in a directory, sorted, one per line.
    Directory(Root, String),
    /// The target of a symbolic link.
    Link(Root, String),
    /// One netlink request.
    Netlink(NetlinkRequest),
}

impl Question {
    /// Whether the answers are the same, apart from how much of them is kept.
    pub fn asks_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Netlink(one), Self::Netlink(other)) => *one == NetlinkRequest { limit: one.limit, ..other.clone() },
            _ => self == other,
        }
    }
}

/// A netlink request: message type, flags, and what follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetlinkRequest {
    /// Protocol
    pub family: NetlinkFamily,
    /// `nlmsg_type`
    pub kind: u16,
    /// Ask for a dump (`NLM_F_DUMP`).
    pub dump: bool,
    /// Ask for an acknowledgement (`NLM_F_ACK`), which then ends the answer.
    pub ack: bool,
    /// Payload
    pub body: Vec<u8>,
    /// Keep only some of the messages.
    pub keep: Option<Keep>,
    /// Most bytes of the answer; a larger one is a failed reading.
    pub limit: usize,
}

/// How the reason begins why an answer beyond [`NetlinkRequest::limit`] failed; asking again would not help.
pub const TOO_LARGE: &str = "the answer is larger than";

/// Largest answer that is kept: a routing table of 300,000 routes.
const MAX_ANSWER: usize = 32 << 20;

/// Which messages of a large dump are kept: those whose attributes, after a header of this length, include this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// Bytes of the family's own header.
    pub header: usize,
    /// Attribute type.
    pub attribute: u16,
}

/// What it means that something is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absence {
    /// The source is absent: a module is not loaded, say.
    Fact,
    /// Nothing: the source is complete without it.
    Expected,
    /// That it is hidden: every kernel has it.
    Impossible,
}

/// A question with its name and what its answer means for its source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Unique; also the path of the answer in a capture directory.
    pub name: String,
    /// The source it belongs to.
    pub source: Source,
    /// The question itself.
    pub question: Question,
    /// What it says about the source when the answer is "absent".
    pub absence: Absence,
    /// The answer cannot change before the next boot, so `serve` asks only once.
    pub until_reboot: bool,
}

impl Request {
    fn path(source: Source, root: Root, path: &str, question: Question) -> Self {
        let name = format!("{}/{path}", root.name());
        Self { name, source, question, absence: Absence::Fact, until_reboot: false }
    }

    /// The content of a file.
    pub fn file(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        Self::path(source, root, &path, Question::File(root, path.clone()))
    }

    /// Some lines of a file.
    pub fn lines(source: Source, root: Root, path: impl Into<String>, words: &[&str]) -> Self {
        let path = path.into();
        let words = words.iter().map(ToString::to_string).collect();
        Self::path(source, root, &path, Question::Lines(root, path.clone(), words))
    }

    /// The names in a directory.
    pub fn directory(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        let mut request = Self::path(source, root, &path, Question::Directory(root, path.clone()));
        request.name.push_str(".list"); // a directory may hold files that are asked for as well
        request
    }

    /// The target of a symbolic link.
    pub fn link(source: Source, root: Root, path: impl Into<String>) -> Self {
        let path = path.into();
        Self::path(source, root, &path, Question::Link(root, path.clone()))
    }

    /// A netlink request; `name` is its path below `netlink/`.
    pub fn netlink(source: Source, name: &str, family: NetlinkFamily, kind: u16, dump: bool, body: Vec<u8>) -> Self {
        let name = format!("netlink/{name}");
        let question =
            Question::Netlink(NetlinkRequest { family, kind, dump, ack: false, body, keep: None, limit: MAX_ANSWER });
        Self { name, source, question, absence: Absence::Fact, until_reboot: false }
    }

    /// Asks the kernel to acknowledge a netlink request: one that succeeds without an answer would else be waited for
    /// until the deadline.
    pub fn acknowledged(mut self) -> Self {
        if let Question::Netlink(request) = &mut self.question {
            request.ack = true;
        }
        self
    }

    /// See [`Absence::Expected`].
    pub fn optional(self) -> Self {
        Self { absence: Absence::Expected, ..self }
    }

    /// See [`Absence::Impossible`].
    pub fn everywhere(self) -> Self {
        Self { absence: Absence::Impossible, ..self }
    }

    /// See [`Request::until_reboot`].
    pub fn until_reboot(self) -> Self {
        Self { until_reboot: true, ..self }
    }

    /// Gives up an answer that is larger than this.
    pub fn at_most(mut self, bytes: usize) -> Self {
        if let Question::Netlink(request) = &mut self.question {
            request.limit = bytes;
        }
        self
    }

    /// Keeps only the messages of a dump that carry an attribute.
    pub fn keeping(mut self, keep_only: Keep) -> Self {
        if let Question::Netlink(request) = &mut self.question {
            request.keep = Some(keep_only);
        }
        self
    }
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
    /// What was read out of answers already: the planner needs the same rules again in each of its rounds.
    pub rules: Arc<Mutex<DecodedRules>>,
    /// What a missing answer means: "no answer in this capture", say.
    pub unanswered: String,
}

impl Capture {
    /// A capture without answers.
    pub fn new(meta: Meta, unanswered: impl Into<String>) -> Self {
        Self { meta, answers: BTreeMap::new(), last_rules: None, rules: Arc::default(), unanswered: unanswered.into() }
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
                Reading::Failed(format!("{why}, which every kernel has: is it mounted and not masked?"))
            }
            Some(answer) => answer.as_ref().map(Vec::as_slice),
            None => Reading::Failed(format!("{}: {}", request.name, self.unanswered)),
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

/// A name of the kernel's as part of a request's name, which is also a path: letters, digits, `-` and `_` stay as they
/// are, and a long one ends in its hash.
pub fn path_part(name: &[u8]) -> String {
    /// The kernel's names have up to 255 bytes, a file system's too.
    const LONGEST: usize = 80;
    let mut out = String::new();
    for byte in name {
        if out.len() >= LONGEST {
            // FNV-1a: captures outlive the compiler, so the hash must be the same for ever.
            let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            out.push_str(&format!("%{:016x}", name.iter().fold(0xcbf2_9ce4_8422_2325, fold)));
            break;
        }
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => out.push(char::from(*byte)),
            _ => out.push_str(&format!("%{byte:02x}")),
        }
    }
    out
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
