//! Replaces what identifies a node or its owner in a capture, so that it can be attached to a public bug report. Called
//! by `capture --redact`.
//!
//! IP addresses with a common prefix keep one, so that routes cover the same addresses and verdicts stay the same. Only
//! attributes that natwatch reads are kept; everything else is zeroed, and responses of unknown kind are removed.
//!
//! In rules, a byte is kept if it is known to identify nobody. Addresses and set names are replaced, comments and
//! unknown bytes are zeroed, and a test whose meaning that would change becomes an unsupported one.

mod addresses;
mod files;
mod labels;
mod names;
mod netfilter;
mod route;
mod rules;
mod xtables;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash, RandomState};

use serde_json::Value;

use crate::capture::Capture;
use crate::facts::{Failure, Reading};
use crate::netfilter::array;
use crate::netfilter::netlink::{self, HEADER_LENGTH};
use crate::netfilter::xtables::XtFamily;

/// Responses without private data.
const NOTHING_PRIVATE: &[&str] =
    &["bpf/", "netlink/generic/", "netlink/xfrm/", ETHTOOL, "netlink/netfilter/ct-stats-cpu"];

const ETHTOOL: &str = "netlink/ethtool/";

/// Probe results: kernel, live patches, defects; their addresses are the experiment's.
const PROBE: &str = "probe/result.json";

/// Rules, sets, and conntrack entries.
const NETFILTER: &[&str] = &["netlink/netfilter/nft-", "netlink/netfilter/ipset/", "netlink/netfilter/ct-entries"];

/// Tables of legacy x_tables.
const LEGACY: &str = "xtables/";
const LEGACY_IPV6: &str = "xtables/ipv6-";

/// Redacts a capture in place. Responses that cannot be redacted become failures.
pub(crate) fn redact(capture: &mut Capture) {
    let host = std::mem::replace(&mut capture.meta.hostname, "redacted".into());
    let mut redactor = Redactor::new(RandomState::new(), host);
    capture.meta.redacted = true;
    capture.meta.boot_id = None; // Whether a probe result is of this boot was decided at capture time
    // Keys of sets are known only after all rules were visited.
    for bytes in capture.answers.iter().filter(|(name, _)| is_netfilter(name)).filter_map(|(_, answer)| answer.ok()) {
        let _ = each_message(&mut bytes.clone(), |kind, body| redactor.netfilter(kind, body));
    }
    for (name, answer) in &mut capture.answers {
        if let Reading::Ok(bytes) = answer
            && let Err(why) = redactor.answer(name, bytes)
        {
            *answer = Reading::Failed(Failure::Recorded(format!("removed by --redact: {why}")));
        }
    }
    for (old, answer) in std::mem::take(&mut capture.answers) {
        let new = redactor.request_name(&old);
        let answer = match answer {
            // Responses about a device contain its name.
            Reading::Ok(bytes) if old.starts_with(ETHTOOL) => Reading::Ok(redactor.devices_renamed(bytes)),
            answer => answer.reword(|why| redactor.text(&why.replace(&old, &new))),
        };
        capture.answers.insert(new, answer);
    }
}

fn is_netfilter(name: &str) -> bool {
    NETFILTER.iter().any(|prefix| name.starts_with(prefix))
}

struct Redactor {
    random: RandomState,
    /// Host name.
    host: String,
    /// Renamed devices: old name and new name.
    renamed: Vec<(Vec<u8>, Vec<u8>)>,
    /// Names of tables, chains and sets in request names: old to new.
    paths: BTreeMap<(names::NamePart, String), String>,
    /// Names of sets and chains: old to new.
    names: BTreeMap<Vec<u8>, Vec<u8>>,
    /// New names in use.
    taken: BTreeSet<Vec<u8>>,
    /// Layout of sets' keys, by family, table and set.
    layouts: BTreeMap<rules::SetKey, labels::KeyLayout>,
    /// Layout of maps' data.
    data: BTreeMap<rules::SetKey, labels::MapData>,
}

fn unknown() -> Failure {
    Failure::unexpected("nothing is known about what is in it")
}

/// Calls `change` with type and payload of each message. Of error and end messages, which may repeat the request, only
/// the number is kept.
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
    fn new(random: RandomState, host: String) -> Self {
        Self {
            random,
            host,
            renamed: Vec::new(),
            paths: BTreeMap::new(),
            names: BTreeMap::new(),
            taken: BTreeSet::new(),
            layouts: BTreeMap::new(),
            data: BTreeMap::new(),
        }
    }

    /// Redacts the response to a request.
    fn answer(&mut self, name: &str, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        if let Some(what) = name.strip_prefix("netlink/route/") {
            let rules = route::RULES.iter().find(|rules| what.starts_with(rules.prefix));
            return self.route(bytes, rules.ok_or_else(unknown)?);
        }
        if is_netfilter(name) {
            return each_message(bytes, |kind, body| self.netfilter(kind, body));
        }
        if name.starts_with(LEGACY) {
            let family = if name.starts_with(LEGACY_IPV6) { XtFamily::Ipv6 } else { XtFamily::Ipv4 };
            return self.legacy_table(family, bytes);
        }
        if name == PROBE {
            return self.document(bytes);
        }
        if !NOTHING_PRIVATE.iter().any(|prefix| name.starts_with(prefix)) {
            let treatment = files::treatment(name).ok_or_else(unknown)?;
            *bytes = self.text(&treatment(&String::from_utf8_lossy(bytes))).into_bytes();
        }
        Ok(())
    }

    /// Redacts a JSON document. Keys and members of closed sets are kept even if they contain the host's name.
    fn document(&self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        let mut document = serde_json::from_slice(bytes).map_err(|error| Failure::unexpected(error.to_string()))?;
        self.json(&mut document);
        *bytes = document.to_string().into_bytes();
        Ok(())
    }

    fn json(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(values) => values.iter_mut().for_each(|value| self.json(value)),
            Value::Object(fields) => {
                let named = fields.iter_mut().filter(|(key, _)| !matches!(key.as_str(), "id" | "state"));
                named.for_each(|(key, value)| match value {
                    Value::String(id) if key == "boot_id" => *id = "redacted".into(),
                    value => self.json(value),
                });
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
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
        for host in ["kernel", "absent"] {
            Redactor::new(RandomState::new(), host.into()).document(&mut bytes).unwrap();
        }
        let whole = r#"{"kernel_release":"5.4.0-redact","defects":[{"id":"kernel-x","state":"absent"}]}"#;
        assert_eq!(String::from_utf8(bytes).unwrap(), whole);
        assert!(Redactor::new(RandomState::new(), String::new()).document(&mut b"{".to_vec()).is_err());
    }
    #[test]
    fn the_boot_goes_from_a_document() {
        let mut bytes = br#"{"identity":{"boot_id":"5d3d6c1e-aaaa-4bbb-8ccc-0123456789ab"}}"#.to_vec();
        Redactor::new(RandomState::new(), String::new()).document(&mut bytes).unwrap();
        assert_eq!(String::from_utf8(bytes).unwrap(), r#"{"identity":{"boot_id":"redacted"}}"#);
    }
}
