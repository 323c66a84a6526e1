//! What earlier readings have read, so that what stands is not read again.

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

/// Part of the memory of `serve`; `check` and a replay have an empty one. A reading gets it and leaves another, which only counts if
/// the reading was not cut.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Number and feature names of ethtool, which the kernel was built with.
    pub(super) ethtool: Option<Ethtool>,
    /// Files that hold until the next boot, by request name.
    pub(super) until_reboot: BTreeMap<String, Reading<Arc<Vec<u8>>>>,
    /// Links and what surrounds tunnels; they hold while nothing is notified of.
    pub(super) links: Option<KnownLinks>,
    /// What has changed without being notified of, which must not happen.
    pub(super) unnotified: Vec<&'static str>,
    /// The rules of nf_tables; they hold while their generation stands.
    pub(super) nftables: Option<KnownRules>,
    /// [`crate::facts::NeighbourTable::refused`] of IPv4, of IPv6.
    pub(super) refused_neighbours: [Option<u64>; 2],
    /// Neighbours of this network namespace, IPv4, IPv6.
    pub(super) neighbours: [Option<KnownNeighbours>; 2],
    /// Entries of connection tracking.
    pub(super) flows: KnownFlows,
    /// Legacy tables by source.
    pub(super) tables: BTreeMap<Source, KnownTables>,
}

/// What the kernel calls its offload features.
#[derive(Clone, Debug)]
pub(in crate::read) struct Ethtool {
    /// Number of the family `ethtool` of generic netlink.
    pub family: Reading<u16>,
    /// Number of each feature in this kernel.
    pub names: Reading<BTreeMap<String, usize>>,
}

/// Neighbours of this network namespace, as they were read before.
#[derive(Clone, Debug)]
pub(super) struct KnownNeighbours {
    pub own: OwnNeighbours,
    /// See [`crate::capture::Ask::neighbours_epoch`] and [`crate::capture::Ask::epoch`].
    pub epochs: (u64, u64),
    /// When the reading began that read them; `None`: it has not come to its end.
    pub since: Option<Instant>,
    /// They are read again all the same, and compared.
    pub verify: bool,
}

/// Rules of nf_tables that were read before.
#[derive(Clone, Debug)]
pub(super) struct KnownRules {
    pub ruleset: Arc<Ruleset>,
    pub lookups: Arc<Lookups>,
    /// How the sources ended that they come from.
    pub sources: Sources,
}

/// Legacy tables that were read before.
#[derive(Clone, Debug)]
pub(super) struct KnownTables {
    /// Their descriptions by the name of the request for them; the rules hold while these stand.
    pub infos: BTreeMap<String, Vec<u8>>,
    /// Their rules, without what sets hold.
    pub ruleset: Arc<Ruleset>,
    pub lookups: Arc<Lookups>,
    /// When the reading began that read them; `None`: it has not come to its end.
    pub since: Option<Instant>,
}

impl Known {
    /// Whether rules were decoded for it that the earlier one did not have; legacy tables that are read each time apart.
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

    /// Forgets legacy tables that are this old: the kernel has no number that every change of theirs moves.
    pub fn forget_tables(&mut self, now: Instant, age: Duration) {
        self.tables.retain(|_, tables| tables.since.is_some_and(|since| now.saturating_duration_since(since) < age));
    }

    /// How old what is known of entries is now. It is read again when it is older than this; what filters select: than 200 times what all of that cost.
    pub fn age_flows(&mut self, now: Instant, interval: Duration) {
        self.flows.age(now, interval);
    }

    /// The next reading is a second one of entries of UDP, so long after the first.
    pub fn read_again(&mut self, after: Duration) {
        self.flows.read_again(after);
    }

    /// Has links and neighbours that are this old read again.
    pub fn verify(&mut self, now: Instant, age: Duration) {
        let is_old = |since: Option<Instant>| since.is_none_or(|since| now.saturating_duration_since(since) >= age);
        if let Some(links) = &mut self.links {
            links.verify = is_old(links.since);
        }
        for neighbours in self.neighbours.iter_mut().flatten() {
            neighbours.verify = is_old(neighbours.since);
        }
    }

    /// What has changed since the last call without being notified of.
    pub fn take_unnotified(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.unnotified)
    }
}
