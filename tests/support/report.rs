//! The JSON document of `natwatch check`, with lookups for tests.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::netns::Netns;
use super::program::{HERE, NATWATCH, natwatch_as, natwatch_in};
use super::strace::{Call, Strace};

/// The contract's text for a namespace that is not the node's.
pub const NOT_THE_NODES: &str = "this is not the node's network namespace; is hostNetwork set?";

/// Advisories about a fill level, which may differ between readings.
pub const LEVELS: [&str; 4] =
    ["conntrack-table-full", "neighbour-table-full", "snat-port-exhaustion", "udp-stale-translation"];

/// `natwatch check --format json` with further arguments, without the namespace flag.
#[track_caller]
pub fn check(ns: &Netns, more: &[&str]) -> Report {
    natwatch_in(ns, &[&["check", "--format", "json"], more].concat()).report()
}

/// `check` that judges this namespace.
#[track_caller]
pub fn check_here(ns: &Netns, more: &[&str]) -> Report {
    check(ns, &[&HERE[..], more].concat())
}

/// `check` that judges this namespace, and its system calls.
#[track_caller]
pub fn traced(ns: &Netns, more: &[&str]) -> (Report, Vec<Call>) {
    let strace = Strace::of("sendto,sendmsg,socket");
    let words = [strace.words(), vec![NATWATCH]].concat();
    let report = natwatch_as(ns, &words, &[&["check", "--format", "json"], &HERE[..], more].concat()).report();
    (report, strace.calls())
}

/// The JSON report and its exit code.
#[derive(Clone, Debug)]
pub struct Report {
    pub code: i32,
    pub json: Value,
}

impl Report {
    /// The advisory with this id.
    #[track_caller]
    pub fn advisory(&self, id: &str) -> &Value {
        let list = self.json["advisories"].as_array().expect("a list of advisories");
        list.iter().find(|advisory| advisory["id"] == id).unwrap_or_else(|| panic!("no {id} in {}", self.json))
    }

    /// The advisory's state.
    #[track_caller]
    pub fn state(&self, id: &str) -> &str {
        self.advisory(id)["state"].as_str().expect("a state")
    }

    /// State and detail of a source; None if it was not needed.
    pub fn source(&self, name: &str) -> Option<(&str, &str)> {
        let list = self.json["sources"].as_array().expect("a list of sources");
        let source = list.iter().find(|source| source["name"] == name)?;
        Some((source["state"].as_str()?, source["detail"].as_str()?))
    }

    /// State of each source.
    pub fn source_states(&self) -> BTreeMap<&str, &str> {
        let list = self.json["sources"].as_array().expect("a list of sources");
        list.iter().map(|s| (s["name"].as_str().expect("a name"), s["state"].as_str().expect("a state"))).collect()
    }

    /// Conntrack counters; None where the document says null.
    pub fn counters(&self) -> Option<BTreeMap<String, u64>> {
        let counters = self.json["conntrack"]["counters"].as_object()?;
        Some(counters.iter().map(|(name, value)| (name.clone(), value.as_u64().expect("a number"))).collect())
    }

    /// Tunnels by device; None where the document says null.
    pub fn tunnels(&self) -> Option<BTreeMap<String, Value>> {
        let list = self.json["tunnels"].as_array()?;
        let by_name: BTreeMap<String, Value> =
            list.iter().map(|t| (t["device"].as_str().expect("a name").to_owned(), t.clone())).collect();
        assert_eq!(by_name.len(), list.len(), "a device twice: {}", self.json);
        Some(by_name)
    }

    /// The devices that carry a tunnel; None where they are not known.
    #[track_caller]
    pub fn underlay(&self, device: &str) -> Option<BTreeSet<String>> {
        let tunnels = self.tunnels().expect("tunnels");
        let tunnel = tunnels.get(device).unwrap_or_else(|| panic!("no {device} in {}", self.json));
        Some(tunnel["underlay"].as_str()?.split(',').map(str::to_owned).collect())
    }
}
