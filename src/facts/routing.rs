//! Policy rules, and the ways that they lead packets.

use std::net::IpAddr;

use super::Name;
use super::netfilter::Family;

/// A policy rule (`ip rule`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRule {
    /// IPv4 or IPv6.
    pub family: Family,
    /// Order; lower is looked at first.
    pub priority: u32,
    /// Table that it leads to.
    pub table: u32,
    /// `FR_ACT_*`: 1 to table, 2 goto, 6 blackhole, …
    pub action: u8,
    /// Mark and mask.
    pub fwmark: Option<(u32, u32)>,
    /// `FIB_RULE_INVERT`: it is for the packets that its selectors do not hold for.
    pub inverted: bool,
    /// Source prefix.
    pub source: Option<(IpAddr, u8)>,
    /// Destination prefix.
    pub destination: Option<(IpAddr, u8)>,
    /// Name of the device that packets come in by (`FRA_IIFNAME`); of this host's own packets that is `lo`.
    pub input: Option<Name>,
    /// Attributes that natwatch does not model, by number (`FRA_*`).
    pub other: Vec<u16>,
}

impl PolicyRule {
    /// Whether it is for all packets with a mark and a destination, wherever they come from.
    pub fn is_for_all_senders(&self) -> bool {
        self.source.is_none() && self.input.is_none() && self.other.is_empty()
    }
}

/// Whether some policy rule of a family goes by where packets come from.
pub(crate) fn routes_by_sender(rules: &[PolicyRule], family: Family) -> bool {
    rules.iter().any(|rule| rule.family == family && !rule.is_for_all_senders())
}

/// The way of packets without a mark that are forwarded, as policy rules have it that go by where packets come from.
///
/// `D` is a device: its index, or as walks have it, its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardedPath<D = u32> {
    /// The device that they come in by.
    pub input: D,
    /// Their sources, both ends included.
    pub sources: (u128, u128),
    /// Their destination.
    pub target: IpAddr,
    /// The device that they leave by. `None`: they are not forwarded.
    pub output: Option<D>,
}

impl ForwardedPath {
    /// The same, by the names of its devices. `None`: one has no name.
    pub fn by_names<N>(&self, name: impl Fn(u32) -> Option<N>) -> Option<ForwardedPath<N>> {
        let Self { input, sources, target, output } = self;
        let output = match output {
            Some(output) => Some(name(*output)?),
            None => None,
        };
        Some(ForwardedPath { input: name(*input)?, sources: *sources, target: *target, output })
    }
}
