//! Which sets hold the values that decide about a tunnel's packets. Membership is asked value by value: a set may have
//! a million elements, and a few hundred of them matter.
//!
//! Request names carry running numbers, never a value: a replay of a redacted capture asks about mapped addresses, and
//! must ask under the same names. So everything here keeps the order of first appearance.

mod elements;
mod ipset;
mod kind;
mod nftables;
mod values;

use std::collections::BTreeMap;

use crate::capture::{Capture, Request};
use crate::decode::Problems;
use crate::snapshot::netfilter::{End, Field, Match, Ruleset, Set, SetId, Step, Verdict};
use crate::snapshot::{Failure, Source};
use crate::wire::{self, NLMSG_ERROR};

pub use values::Values;

/// Sets of one rule set that are asked. With more the source is a failed one.
const MAX_SETS: usize = 512;
/// Values that all sets of one rule set are asked about, 10 µs each. With more the source is a failed one.
const MAX_QUESTIONS: usize = 8192;
/// Length of `struct nfgenmsg`.
const NFGENMSG: usize = 4;
const ENOENT: i32 = 2;

/// The next questions about the sets that rules of `ruleset` look into, as far as the answers in `capture` tell; empty
/// when nothing is left to ask.
///
/// `prefix` begins the names of requests to nf_tables. Requests to ipset are the same for every rule set. Sets are
/// numbered as the rules name them, so `ruleset` must have all its chains. Its `sets` may hold what an earlier look at the
/// same generation found; what still holds of it is not asked again.
pub fn requests(capture: &Capture, prefix: &str, ruleset: &Ruleset, values: &Values) -> Vec<Request> {
    if values.is_empty() {
        return Vec::new();
    }
    let lookups = Lookups::of(ruleset);
    let mut budget = Budget::default();
    let mut requests = Vec::new();
    for lookup in nftables::lookups(prefix, &lookups, &ruleset.sets) {
        requests.extend(lookup.requests(capture, values, &mut budget));
    }
    requests.extend(ipset::requests(capture, &lookups.ipset, values, &mut budget));
    requests
}

/// Reads the answers. A set about which nothing could be asked has no entry, nor has a value that was not asked about.
///
/// "Not an element" is only true of the rule set's generation if that is the same after the last answer: a set that is
/// deleted meanwhile has no elements either.
pub fn decode(
    capture: &Capture,
    prefix: &str,
    ruleset: &Ruleset,
    values: &Values,
    problems: &mut Problems,
) -> BTreeMap<SetId, Set> {
    if values.is_empty() {
        return BTreeMap::new();
    }
    let lookups = Lookups::of(ruleset);
    let mut budget = Budget::default();
    let mut sets = BTreeMap::new();
    for lookup in nftables::lookups(prefix, &lookups, &ruleset.sets) {
        let set = lookup.decode(capture, values, &mut budget, problems);
        sets.extend(set.map(|set| (lookup.id.clone(), set)));
    }
    sets.extend(ipset::decode(capture, &lookups.ipset, values, &mut budget, problems));
    let asks = !lookups.nftables.is_empty() || !lookups.ipset.is_empty();
    if lookups.cut || budget.cut || (values.cut && asks) {
        let source = if lookups.nftables.is_empty() { Source::Ipset } else { Source::Nftables };
        problems.fail(source, "there are more sets, peers or addresses than sets are asked about".into());
    }
    sets
}

/// What rules look into, and with what; everything in the order in which the rules name it.
#[derive(Default)]
struct Lookups<'a> {
    nftables: Vec<(&'a SetId, Vec<&'a [Field]>)>,
    ipset: Vec<(u16, Vec<&'a [End]>)>,
    /// There are more than [`MAX_SETS`].
    cut: bool,
}

impl<'a> Lookups<'a> {
    fn of(ruleset: &'a Ruleset) -> Self {
        let mut lookups = Self::default();
        let chains = ruleset.chains.values();
        let rules = chains.flat_map(|chain| chain.rules_for_udp().unwrap_or_default());
        for step in rules.flat_map(|rule| &rule.steps) {
            let room = lookups.nftables.len() + lookups.ipset.len() < MAX_SETS;
            let added = match step {
                Step::Match(Match::Set { fields, set, .. }) | Step::Verdict(Verdict::Map { fields, set, .. }) => {
                    add(&mut lookups.nftables, set, fields, room)
                }
                Step::Match(Match::Ipset { index, ends, .. }) => add(&mut lookups.ipset, *index, ends, room),
                _ => true,
            };
            lookups.cut |= !added;
        }
        lookups
    }
}

fn add<'a, K: PartialEq, T: PartialEq>(lookups: &mut Vec<(K, Vec<&'a [T]>)>, set: K, by: &'a [T], room: bool) -> bool {
    match lookups.iter_mut().find(|(known, _)| *known == set) {
        Some((_, all)) if all.contains(&by) => {}
        Some((_, all)) => all.push(by),
        None if room => lookups.push((set, vec![by])),
        None => return false,
    }
    true
}

/// How many questions are left.
struct Budget {
    left: usize,
    /// There were more questions than that.
    cut: bool,
}

impl Default for Budget {
    fn default() -> Self {
        Self { left: MAX_QUESTIONS, cut: false }
    }
}

/// One value that a set is asked about.
struct Question {
    key: Vec<u128>,
    request: Request,
}

/// Takes what there is room for.
fn within(budget: &mut Budget, mut questions: Vec<Question>) -> Vec<Question> {
    budget.cut |= questions.len() > budget.left;
    questions.truncate(budget.left);
    budget.left -= questions.len();
    questions
}

/// Every way to take one of each column, as far as anyone may ask about it.
fn combinations<T: Clone>(columns: &[Vec<T>]) -> Vec<Vec<T>> {
    if columns.is_empty() {
        return Vec::new();
    }
    columns.iter().fold(vec![Vec::new()], |rows, column| {
        let longer =
            |row: Vec<T>| column.iter().map(move |value| row.iter().chain([value]).cloned().collect::<Vec<T>>());
        rows.into_iter().flat_map(longer).take(MAX_QUESTIONS + 1).collect()
    })
}

/// The answer to an acknowledged request: at most one message of this type, and the errno that ends it (0: none).
fn reply<'a>(bytes: &'a [u8], kind: u16, what: &str) -> Result<(Option<&'a [u8]>, i32), Failure> {
    let mut body = None;
    for message in wire::messages(bytes) {
        let message = message.map_err(|error| error.within(what))?;
        match message.kind {
            NLMSG_ERROR => return Ok((body, message.errno()?)),
            found if found == kind && body.is_none() => {
                let rest = message.body.get(NFGENMSG..);
                body = Some(rest.ok_or_else(|| Failure::unexpected(format!("{what}: nfgenmsg is cut off")))?);
            }
            found => return Err(Failure::unexpected(format!("{what}: an unexpected message of type {found:#x}"))),
        }
    }
    Err(Failure::unexpected(format!("{what}: the answer has no end (the acknowledgement is missing)")))
}

/// The same, where anything but one message is an error.
fn message<'a>(bytes: &'a [u8], kind: u16, what: &str) -> Result<&'a [u8], Failure> {
    match reply(bytes, kind, what)? {
        (Some(body), 0) => Ok(body),
        (_, 0) => Err(Failure::unexpected(format!("{what}: acknowledged without an answer"))),
        (_, errno) => Err(refused(what, errno)),
    }
}

fn refused(what: &str, errno: i32) -> Failure {
    Failure::Refused(errno).within(what)
}

#[cfg(test)]
mod tests;
