//! A copy of a network's inputs, kept to check whether earlier results of walks are valid for a later network.
//!
//! Inputs of walks are fields of `Network` or `TunnelFacts`; `NetworkSnapshot` and `is_equivalent_to` destructure them, so that a
//! new field does not compile until it is handled. Unchanged chains and sets are the same objects in two readings
//! (`facts::Shared`) and are skipped.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::network::host::{Device, HostFacts, OwnAddresses};
use super::network::{BackendRules, Network};
use crate::facts::Question;
use crate::facts::netfilter::Ruleset;

/// An owned [`Device`].
type OwnedDevice = (u32, String, Option<u32>, Option<String>, u16, bool);

/// The inputs of a network.
#[derive(Clone, Debug)]
pub(crate) struct NetworkSnapshot {
    rules: Vec<(bool, Ruleset)>,
    devices: Option<Vec<OwnedDevice>>,
    local_sources: BTreeMap<IpAddr, bool>,
    ipsec: Result<bool, Question>,
    host: HostFacts,
    own: [Option<OwnAddresses>; 2],
}

impl NetworkSnapshot {
    /// For this network. Rules are shared, not copied.
    pub(crate) fn of(network: &Network<'_>) -> Self {
        let Network { rules, devices, own, local_sources, ipsec, host, survey: _, remembered: _ } = network;
        let owned = |device: &Device<'_>| {
            let Device { index, name, group, kind, hardware_type, up } = device;
            (*index, (*name).to_owned(), *group, kind.map(str::to_owned), *hardware_type, *up)
        };
        Self {
            rules: rules.iter().map(|rules| (rules.legacy, rules.ruleset.clone())).collect(),
            devices: devices.as_ref().map(|devices| devices.iter().map(owned).collect()),
            own: own.clone(),
            local_sources: local_sources.clone(),
            ipsec: ipsec.clone(),
            host: host.clone(),
        }
    }

    /// Whether walks would have the same results in this network. If so, its objects replace the kept ones: older ones
    /// can be freed, and the next comparison is faster.
    pub(crate) fn is_like(&mut self, network: &Network<'_>) -> bool {
        let Network { rules, devices, own, local_sources, ipsec, host, survey: _, remembered: _ } = network;
        let same_device = |(known, device): (&OwnedDevice, &Device<'_>)| {
            let Device { index, name, group, kind, hardware_type, up } = device;
            let (known_index, known_name, known_group, known_kind, known_type, was_up) = known;
            (known_index, known_group, known_type, was_up) == (index, group, hardware_type, up)
                && known_name == name
                && known_kind.as_deref() == *kind
        };
        let same_devices = match (&self.devices, devices) {
            (Some(known), Some(devices)) => known.len() == devices.len() && known.iter().zip(devices).all(same_device),
            (None, None) => true,
            _ => false,
        };
        let same_rules = |((legacy, ruleset), rules): (&(bool, Ruleset), &BackendRules<'_>)| {
            *legacy == rules.legacy && ruleset.is_equivalent_to(rules.ruleset)
        };
        let same = same_devices
            && self.own == *own
            && self.local_sources == *local_sources
            && self.ipsec == *ipsec
            && self.host == *host
            && self.rules.len() == rules.len()
            && self.rules.iter().zip(rules).all(same_rules);
        for ((_, kept), BackendRules { ruleset, .. }) in self.rules.iter_mut().zip(rules).filter(|_| same) {
            if !kept.chains.is(&ruleset.chains) || !kept.sets.is(&ruleset.sets) {
                kept.clone_from(ruleset);
            }
        }
        same
    }
}
