//! What earlier readings read, so that unchanged parts are not read again. Owned by `serve::memory`.

pub(in crate::read) mod flows;
pub(in crate::read) mod links;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use self::flows::KnownFlows;
use self::links::KnownLinks;
use super::Sources;
use super::lookups::Lookups;
use crate::facts::netfilter::Ruleset;
use crate::facts::{OwnNeighbours, Reading, Source};

/// Memory of earlier readings; empty in `check` and replay. A reading takes one and returns a new one, which is kept
/// only if the reading was not cut.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Ethtool family and feature numbers, fixed at boot.
    pub(super) ethtool: Option<Ethtool>,
    /// Files that do not change until the next boot, by request name.
    pub(super) until_reboot: BTreeMap<String, Reading<Arc<Vec<u8>>>>,
    /// Links, addresses, routes and the like; valid until a notification.
    pub(super) links: Option<KnownLinks>,
    /// Parts that changed without a notification, which must not happen.
    pub(super) unnotified: Vec<&'static str>,
    /// nf_tables rules; valid for one generation.
    pub(super) nftables: Option<KnownRules>,
    /// [`crate::facts::NeighbourTable::refused`] by family (IPv4, IPv6).
    pub(super) refused_neighbours: [Option<u64>; 2],
    /// Neighbours of this network namespace by family (IPv4, IPv6).
    pub(super) neighbours: [Option<KnownNeighbours>; 2],
    /// Conntrack entries.
    pub(super) flows: KnownFlows,
    /// Legacy tables by source.
    pub(super) tables: BTreeMap<Source, KnownTables>,
}

/// Numbers of the ethtool netlink interface.
#[derive(Clone, Debug)]
pub(in crate::read) struct Ethtool {
    /// Generic netlink family number of `ethtool`.
    pub family: Reading<u16>,
    /// Number of each feature, by name.
    pub names: Reading<BTreeMap<String, usize>>,
}

/// Neighbours of this network namespace, from an earlier reading.
#[derive(Clone, Debug)]
pub(super) struct KnownNeighbours {
    /// Number of entries.
    pub own: OwnNeighbours,
    /// Epochs before they were read; see [`crate::capture::Ask::neighbours_epoch`] and [`crate::capture::Ask::epoch`].
    pub epochs: (u64, u64),
    /// Start of the reading that read them; `None`: it has not ended yet.
    pub since: Option<Instant>,
    /// Read them again although nothing was notified, and compare.
    pub verify: bool,
}

/// nf_tables rules from an earlier reading.
#[derive(Clone, Debug)]
pub(super) struct KnownRules {
    /// The rule set.
    pub ruleset: Arc<Ruleset>,
    pub lookups: Arc<Lookups>,
    /// How the sources ended that they come from.
    pub sources: Sources,
}

/// Legacy tables from an earlier reading.
#[derive(Clone, Debug)]
pub(super) struct KnownTables {
    /// Descriptions (`IPT_SO_GET_INFO`) by request name; the rules are valid while these stay the same.
    pub infos: BTreeMap<String, Vec<u8>>,
    /// Their rules, without elements of sets.
    pub ruleset: Arc<Ruleset>,
    pub lookups: Arc<Lookups>,
    /// When the reading began that read them; `None`: it has not come to its end.
    pub since: Option<Instant>,
}

impl Known {
    /// Whether its rules were decoded anew since `earlier`; legacy tables that are read each time do not count.
    pub fn has_other_rules_than(&self, earlier: &Self) -> bool {
        let generation = |known: &Self| known.nftables.as_ref().map(|known| known.ruleset.generation);
        let tables =
            |known: &Self| known.tables.values().map(|tables| Arc::as_ptr(&tables.ruleset)).collect::<Vec<_>>();
        generation(self) != generation(earlier) || tables(self) != tables(earlier)
    }

    /// What the rules look into; gone through only where they are not remembered.
    pub(super) fn lookups(&self, ruleset: &Arc<Ruleset>) -> Arc<Lookups> {
        let nftables = self.nftables.iter().map(|known| (&known.ruleset, &known.lookups));
        let legacy = self.tables.values().map(|known| (&known.ruleset, &known.lookups));
        let known = nftables.chain(legacy).find(|(known, _)| Arc::ptr_eq(known, ruleset));
        known.map_or_else(|| Arc::new(Lookups::of(ruleset)), |(_, lookups)| Arc::clone(lookups))
    }

    /// Dates what a reading has read which began then.
    pub fn date(&mut self, began: Instant) {
        for tables in self.tables.values_mut() {
            tables.since.get_or_insert(began);
        }
        if let Some(links) = &mut self.links {
            links.since.get_or_insert(began);
        }
        for neighbours in self.neighbours.iter_mut().flatten() {
            neighbours.since.get_or_insert(began);
        }
        self.flows.date(began);
    }

    /// Drops legacy tables of this age, because the kernel has no generation number for them.
    pub fn forget_tables(&mut self, now: Instant, age: Duration) {
        self.tables.retain(|_, tables| tables.since.is_some_and(|since| now.saturating_duration_since(since) < age));
    }

    /// Sets the age of conntrack entries. Parts older than `interval` are read again; filtered dumps only after 200
    /// times their total cost.
    pub fn age_flows(&mut self, now: Instant, interval: Duration) {
        self.flows.age(now, interval);
    }

    /// Makes the next reading a second one of UDP entries, this long after the first.
    pub fn read_again(&mut self, after: Duration) {
        self.flows.read_again(after);
    }

    /// Has links and neighbours of this age read again.
    pub fn verify(&mut self, now: Instant, age: Duration) {
        let is_old = |since: Option<Instant>| since.is_none_or(|since| now.saturating_duration_since(since) >= age);
        if let Some(links) = &mut self.links {
            links.verify = is_old(links.since);
        }
        for neighbours in self.neighbours.iter_mut().flatten() {
            neighbours.verify = is_old(neighbours.since);
        }
    }

    /// Parts that changed without a notification since the last call.
    pub fn take_unnotified(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.unnotified)
    }
}
