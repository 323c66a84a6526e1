//! Replaces what identifies a node in a capture, so that it can be attached to a public bug report.
//!
//! IP addresses keep their structure: two that share a prefix share one afterwards, so routes still cover what they
//! covered and the verdict stays the same. Only attributes that natwatch reads survive; everything else is zeroed,
//! and an answer of a kind that is not known here is removed.
//! In rules it is the other way round, since anything may matter to what they do: addresses, comments and names of sets
//! are replaced, and a chain in which something cannot be told apart from an address is removed.

mod addresses;
mod files;
mod labels;
mod netfilter;
mod route;
mod rules;
mod xtables;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, RandomState};

use serde_json::Value;

use crate::capture::Capture;
use crate::netfilter::array;
use crate::netfilter::netlink::{self, HEADER_LENGTH};
use crate::snapshot::{Failure, Reading};

/// Answers without addresses.
const HARMLESS: &[&str] = &["netlink/generic/", "netlink/ethtool/", "netlink/netfilter/ct-stats-cpu"];

/// What an experiment has found: kernel, live patches, defects; its addresses are those of the experiment.
const PROBE: &str = "probe/result.json";

/// Rules and sets.
const NETFILTER: &[&str] = &["netlink/netfilter/nft-", "netlink/netfilter/ipset/"];

/// Tables of legacy x_tables.
const LEGACY: &str = "xtables/";
const LEGACY_IPV6: &str = "xtables/ipv6-";

/// Redacts a capture in place. What cannot be redacted is removed and reads as failed.
pub fn redact(capture: &mut Capture) {
    let mut redactor = Redactor::new(RandomState::new());
    let hostname = std::mem::replace(&mut capture.meta.hostname, "redacted".into());
    capture.meta.redacted = true;
    // What keys of sets are made of is known when all rules have been seen.
    for bytes in capture.answers.iter().filter(|(name, _)| is_netfilter(name)).filter_map(|(_, answer)| answer.ok()) {
        let _ = each_message(&mut bytes.clone(), |kind, body| redactor.netfilter(kind, body));
    }
    for (name, answer) in &mut capture.answers {
        let bytes = match answer {
            Reading::Ok(bytes) => bytes,
            other => {
                *other = other.clone().reword(|why| redact_text(&why, &hostname));
                continue;
            }
        };
        let redacted = match name.strip_prefix("netlink/route/") {
            Some(what) => match route::RULES.iter().find(|rules| what.starts_with(rules.prefix)) {
                Some(rules) => redactor.route(bytes, rules).map_err(|error| error.to_string()),
                None => Err("nothing is known about its addresses".into()),
            },
            None if is_netfilter(name) => {
                each_message(bytes, |kind, body| redactor.netfilter(kind, body)).map_err(|error| error.to_string())
            }
            None if name.starts_with(LEGACY) => {
                redactor.legacy_table(name.starts_with(LEGACY_IPV6), bytes).map_err(|error| error.to_string())
            }
            None if name == PROBE => redact_document(bytes, &hostname),
            None if HARMLESS.iter().any(|prefix| name.starts_with(prefix)) => Ok(()),
            None => match files::treatment(name) {
                Some(treatment) => {
                    *bytes = redact_text(&treatment(&String::from_utf8_lossy(bytes)), &hostname).into_bytes();
                    Ok(())
                }
                None => Err("nothing is known about what is in it".into()),
            },
        };
        if let Err(why) = redacted {
            *answer = Reading::Failed(Failure::Told(format!("removed by --redact: {why}")));
        }
    }
    rename(capture, &mut redactor);
}

fn is_netfilter(name: &str) -> bool {
    NETFILTER.iter().any(|prefix| name.starts_with(prefix))
}

/// A JSON document, whose keys and closed sets of words stay what they are whatever the node is called.
fn redact_document(bytes: &mut Vec<u8>, hostname: &str) -> Result<(), String> {
    fn redact_value(value: &mut Value, hostname: &str) {
        match value {
            Value::String(text) => *text = redact_text(text, hostname),
            Value::Array(values) => values.iter_mut().for_each(|value| redact_value(value, hostname)),
            Value::Object(fields) => {
                let named = fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "id" | "state"));
                named.for_each(|(_, value)| redact_value(value, hostname));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
    let mut document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    redact_value(&mut document, hostname);
    *bytes = document.to_string().into_bytes();
    Ok(())
}

fn redact_text(text: &str, hostname: &str) -> String {
    if hostname.len() > 3 { text.replace(hostname, "redacted") } else { text.to_owned() }
}

/// Devices that were named after their hardware address, and requests that name a set.
fn rename(capture: &mut Capture, redactor: &mut Redactor) {
    let answers = std::mem::take(&mut capture.answers);
    for (old, answer) in answers {
        let name = redactor.request_name(&old);
        let answer = answer.reword(|why| why.replace(&old, &name));
        let renamed = &redactor.renamed;
        let new = renamed.iter().fold(name, |name, (old, new)| name.replace(old, new));
        let answer = answer
            .map(|bytes| renamed.iter().fold(bytes, |bytes, (old, new)| replaced(bytes, old, new)))
            .reword(|why| renamed.iter().fold(why, |why, (old, new)| why.replace(old, new)));
        capture.answers.insert(new, answer);
    }
}

/// Answers about a device name it; both names have the same length, so the framing stays as it is.
fn replaced(mut bytes: Vec<u8>, old: &str, new: &str) -> Vec<u8> {
    for at in 0..bytes.len().saturating_sub(old.len() - 1) {
        if let Some(place) = bytes.get_mut(at..at + old.len()).filter(|place| *place == old.as_bytes()) {
            place.copy_from_slice(new.as_bytes());
        }
    }
    bytes
}

struct Redactor {
    random: RandomState,
    renamed: Vec<(String, String)>,
    /// New names of sets and chains.
    names: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Those that are in use.
    taken: BTreeSet<Vec<u8>>,
    /// What keys of sets are made of: by family, table and set.
    layouts: BTreeMap<rules::SetKey, rules::Layout>,
}

/// Calls `change` with the type and the payload of each message. Of errors and ends only the number stays: they may
/// repeat the request.
fn each_message(
    bytes: &mut [u8],
    mut change: impl FnMut(u16, &mut [u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut at = 0;
    while at < bytes.len() {
        let length = u32::from_ne_bytes(array(bytes, at, "message")?) as usize;
        let kind = u16::from_ne_bytes(array(bytes, at + 4, "message")?);
        let next = at.saturating_add(length.max(HEADER_LENGTH));
        let body =
            bytes.get_mut(at + HEADER_LENGTH..next).ok_or_else(|| Failure::unexpected("a message is cut off"))?;
        if kind > netlink::NLMSG_DONE {
            change(kind, body)?;
        } else if kind >= netlink::NLMSG_ERROR {
            body.iter_mut().skip(4).for_each(|byte| *byte = 0);
        }
        at = next.next_multiple_of(4);
    }
    Ok(())
}

impl Redactor {
    fn new(random: RandomState) -> Self {
        Self { random, renamed: Vec::new(), names: BTreeMap::new(), taken: BTreeSet::new(), layouts: BTreeMap::new() }
    }

    fn hash(&self, what: impl Hash) -> u64 {
        self.random.hash_one(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_leaves_a_document_whole() {
        let mut bytes = br#"{"kernel_release":"5.4.0-kernel","defects":[{"id":"kernel-x","state":"absent"}]}"#.to_vec();
        redact_document(&mut bytes, "kernel").unwrap();
        redact_document(&mut bytes, "absent").unwrap();
        let whole = r#"{"kernel_release":"5.4.0-redacted","defects":[{"id":"kernel-x","state":"absent"}]}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), whole);
        assert!(redact_document(&mut b"{".to_vec(), "kernel").is_err());
    }
}
