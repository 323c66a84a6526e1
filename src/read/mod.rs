//! Readers: requests to the kernel, and decoding of the responses into facts. Pure and total: bytes in, facts or a
//! typed failure out, never a default value.
//!
//! Each submodule reads one kind of object, top to bottom. [`all`] runs them in order (kernel and counters, links,
//! rules, entries) on a live node or a replayed capture alike; `serve` and `commands` call it.

pub(crate) mod absence;
mod conntrack;
mod datapath;
mod ethtool;
mod flows;
mod identity;
mod ipsec;
mod iptables;
mod known;
mod links;
mod lookups;
mod marks;
pub(crate) mod modules;
mod neighbours;
mod netstat;
mod nftables;
mod node;
mod parts;
pub(crate) mod release;
mod routing;
mod services;
mod sets;
mod source_nat;
mod sources;
#[cfg(test)]
pub(crate) mod testing;
mod xtables;

use std::collections::BTreeSet;

use crate::facts::{Collector, Failure};
pub(crate) use flows::{FlowLimits, SECOND_READING};
pub use known::Known;
pub(crate) use node::Node;
pub use parts::{Parts, all, replay};
pub(crate) use parts::{identity, replay_after};
#[cfg(test)]
pub(crate) use source_nat::totals as source_nat_totals;
use sources::Sources;

/// Which collectors are enabled, and limits of what they read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collectors {
    on: BTreeSet<Collector>,
    /// Limits on conntrack entries.
    pub flows: FlowLimits,
}

impl std::ops::Deref for Collectors {
    type Target = BTreeSet<Collector>;

    fn deref(&self) -> &Self::Target {
        &self.on
    }
}

impl FromIterator<Collector> for Collectors {
    fn from_iter<I: IntoIterator<Item = Collector>>(collectors: I) -> Self {
        Self { on: collectors.into_iter().collect(), flows: FlowLimits::default() }
    }
}

impl<const N: usize> From<[Collector; N]> for Collectors {
    fn from(collectors: [Collector; N]) -> Self {
        collectors.into_iter().collect()
    }
}

fn off(collector: Collector) -> Failure {
    Failure::SwitchedOff { collector: collector.name().into() }
}
