//! Results of walks, computed on first use and at most once per set of facts. `serve` keeps them between readings.
//!
//! A walk is a function of [`Network`], for a tunnel also of [`TunnelFacts`], and of the work budget, and has no other
//! inputs. So its result is valid while these are the same. Its work is charged again on reuse, so that a judgement
//! with memory ends where one without does.
//!
//! Not kept: results of a judgement that was stopped or ran out of budget, or that was about a reading that was cut.
//! Conditions, levels, texts, and what is outside the rules are evaluated each time.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::backends;
use crate::facts::UdpTranslations;
use crate::symbolic::{
    self, Bypass, Effort, Network, NetworkSnapshot, Occurrence, OuterPackets, ReachedSourceNats, SourceNatReplies,
    TunnelFacts, UdpTargets,
};

/// Results of walks on one set of facts.
#[derive(Debug, Default)]
pub struct Derived {
    /// Inputs of the results; `None`: no results.
    network: RefCell<Option<NetworkSnapshot>>,
    reached: CachedWalk<ReachedSourceNats>,
    replies: CachedWalk<SourceNatReplies>,
    bypass: CachedWalk<Bypass>,
    translates: CachedWalk<Occurrence>,
    two_backends: CachedWalk<Occurrence>,
    dns_to_several: CachedWalk<Occurrence>,
    /// For these entries.
    udp_targets: RefCell<Option<(Arc<UdpTranslations>, CachedWalk<UdpTargets>)>>,
    /// By tunnel.
    outer: RefCell<Vec<(TunnelFacts, CachedWalk<OuterPackets>)>>,
}

impl Derived {
    /// Starts a judgement; drops results for other inputs.
    pub fn begin(&self, network: &Network<'_>) {
        let mut known = self.network.borrow_mut();
        if known.as_mut().is_some_and(|known| known.is_like(network)) {
            return;
        }
        *known = Some(NetworkSnapshot::of(network));
        self.reached.forget();
        self.replies.forget();
        self.bypass.forget();
        self.of_services().into_iter().for_each(CachedWalk::forget);
        self.udp_targets.take();
        self.outer.borrow_mut().clear();
    }

    /// Ends a judgement; `cut`: it was incomplete, and nothing that it found is kept. Drops results for tunnels that it
    /// did not use.
    pub fn end(&mut self, cut: bool) {
        self.reached.end(cut);
        self.replies.end(cut);
        self.bypass.end(cut);
        for found in self.of_services() {
            found.end(cut);
        }
        let targets = self.udp_targets.get_mut();
        if targets.as_ref().is_some_and(|(_, targets)| !targets.end(cut)) {
            *targets = None;
        }
        self.outer.get_mut().retain(|(_, outer)| outer.end(cut));
    }

    fn of_services(&self) -> [&CachedWalk<Occurrence>; 3] {
        [&self.translates, &self.two_backends, &self.dns_to_several]
    }

    /// Source-NAT rules that new connections reach.
    pub fn reached(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<ReachedSourceNats> {
        self.reached.get(effort, || symbolic::reached(network, effort))
    }

    /// Connections with a translated source, and invalid segments in reply to them.
    pub fn replies(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<SourceNatReplies> {
        self.replies.get(effort, || symbolic::source_nat_replies(network, effort))
    }

    /// Whether any rule translates addresses.
    pub fn translates(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.translates.get(effort, || network.translates())
    }

    /// Whether rules for Services or pods are in two backends, and which.
    pub fn two_backends(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.two_backends.get(effort, || backends::rules_in_two_backends(network))
    }

    /// Whether DNS queries to one address may reach several name servers.
    pub fn dns_to_several(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.dns_to_several.get(effort, || symbolic::dns_to_several(network, effort))
    }

    /// Connections whose clients can reach the real server directly.
    pub fn bypass(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Bypass> {
        self.bypass.get(effort, || symbolic::bypass(network, effort))
    }

    /// What rules do to UDP destinations, and whether they still give these translations.
    pub fn udp_targets(
        &self,
        network: &Network<'_>,
        translations: &Arc<UdpTranslations>,
        effort: &Effort<'_>,
    ) -> Arc<UdpTargets> {
        let mut known = self.udp_targets.borrow_mut();
        let known = match &mut *known {
            Some((same, targets)) if Arc::ptr_eq(same, translations) => targets,
            other => &mut other.insert((Arc::clone(translations), CachedWalk::default())).1,
        };
        known.get(effort, || symbolic::udp_targets(network, &translations.each, effort))
    }

    /// What happens to a tunnel's outer packets.
    pub fn outer(&self, network: &Network<'_>, facts: TunnelFacts, effort: &Effort<'_>) -> Arc<OuterPackets> {
        let mut outer = self.outer.borrow_mut();
        let at = outer.iter().position(|(known, _)| *known == facts).unwrap_or_else(|| {
            outer.push((facts, CachedWalk::default()));
            outer.len() - 1
        });
        let (facts, known) = &outer[at];
        known.get(effort, || symbolic::outer_packets(network, facts, effort))
    }
}

/// The result of one walk.
#[derive(Debug)]
struct CachedWalk<T> {
    found: RefCell<Option<Arc<T>>>,
    /// Work units that it took.
    units: Cell<u64>,
    /// Whether it was used, and charged, in this judgement.
    asked: Cell<bool>,
    /// Whether it was computed in this judgement.
    new: Cell<bool>,
}

impl<T> Default for CachedWalk<T> {
    fn default() -> Self {
        Self { found: RefCell::default(), units: Cell::default(), asked: Cell::default(), new: Cell::default() }
    }
}

impl<T> CachedWalk<T> {
    fn get(&self, effort: &Effort<'_>, walk: impl FnOnce() -> T) -> Arc<T> {
        let mut found = self.found.borrow_mut();
        if let Some(known) = found.as_ref()
            && (self.asked.get() || effort.repeat(self.units.get()))
        {
            self.asked.set(true);
            return Arc::clone(known);
        }
        let (walked, units) = effort.measure(walk);
        self.units.set(units);
        self.asked.set(true);
        self.new.set(true);
        Arc::clone(found.insert(Arc::new(walked)))
    }

    fn forget(&self) {
        self.found.take();
    }

    /// Ends a judgement; returns whether the result was used and is kept.
    fn end(&self, cut: bool) -> bool {
        if self.new.take() && cut {
            self.forget();
        }
        self.asked.take() && self.found.borrow().is_some()
    }
}

#[cfg(test)]
mod tests;
