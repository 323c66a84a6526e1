//! What walks have found, each walked once for one set of facts, when it is first asked for. `serve` keeps it between readings.
//!
//! A walk is a function of [`Network`], of [`TunnelFacts`] where it is about a tunnel, and of the work that it may do: it gets
//! nothing else. So what it has found stands while these are the same. The work that it took is charged again, so that a
//! judgement that remembers ends where one ends that does not.
//!
//! Not kept: anything found by a judgement that was stopped, ran out of budget, or is about a reading that was cut.
//! Conditions themselves, levels, texts, and what stands beside the rules are evaluated each time.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::backends;
use crate::facts::UdpTranslations;
use crate::symbolic::{
    self, Bypass, Effort, Kept, Network, Occurrence, OuterPackets, ReachedRules, SourceNatReplies, TunnelFacts,
    UdpTargets,
};

/// What walks have found on one set of facts.
#[derive(Debug, Default)]
pub struct Derived {
    /// The facts; `None`: nothing was walked.
    network: RefCell<Option<Kept>>,
    reached: Once<ReachedRules>,
    answers: Once<SourceNatReplies>,
    bypass: Once<Bypass>,
    translates: Once<Occurrence>,
    split: Once<Occurrence>,
    dns_to_several: Once<Occurrence>,
    /// Of these entries.
    udp_targets: RefCell<Option<(Arc<UdpTranslations>, Once<UdpTargets>)>>,
    /// Of each tunnel.
    outer: RefCell<Vec<(TunnelFacts, Once<OuterPackets>)>>,
}

impl Derived {
    /// A judgement begins on these facts: what was found on others is forgotten.
    pub fn begin(&self, network: &Network<'_>) {
        let mut known = self.network.borrow_mut();
        if known.as_mut().is_some_and(|known| known.is_like(network)) {
            return;
        }
        *known = Some(Kept::of(network));
        self.reached.forget();
        self.answers.forget();
        self.bypass.forget();
        self.of_services().into_iter().for_each(Once::forget);
        self.udp_targets.take();
        self.outer.borrow_mut().clear();
    }

    /// A judgement has ended; `cut`: before its end, and nothing that it found is kept. Tunnels that it was not about are
    /// forgotten.
    pub fn end(&mut self, cut: bool) {
        self.reached.end(cut);
        self.answers.end(cut);
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

    fn of_services(&self) -> [&Once<Occurrence>; 3] {
        [&self.translates, &self.split, &self.dns_to_several]
    }

    /// Source-NAT rules that new connections get to.
    pub fn reached(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<ReachedRules> {
        self.reached.get(effort, || symbolic::reached(network, effort))
    }

    /// Invalid segments that answer connections whose source was translated.
    pub fn answers(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<SourceNatReplies> {
        self.answers.get(effort, || symbolic::answers(network, effort))
    }

    /// Whether any rule translates addresses.
    pub fn translates(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.translates.get(effort, || network.translates())
    }

    /// Whether rules for Services or pods stand in two backends, and which.
    pub fn split(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.split.get(effort, || backends::split(network))
    }

    /// Whether name queries to one address get to one of several name servers.
    pub fn dns_to_several(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Occurrence> {
        self.dns_to_several.get(effort, || symbolic::dns_to_several(network, effort))
    }

    /// Connections whose clients can reach the real server past the translation.
    pub fn bypass(&self, network: &Network<'_>, effort: &Effort<'_>) -> Arc<Bypass> {
        self.bypass.get(effort, || symbolic::bypass(network, effort))
    }

    /// What rules do to destinations of UDP, and whether they still give these translations.
    pub fn udp_targets(
        &self,
        network: &Network<'_>,
        translations: &Arc<UdpTranslations>,
        effort: &Effort<'_>,
    ) -> Arc<UdpTargets> {
        let mut known = self.udp_targets.borrow_mut();
        let known = match &mut *known {
            Some((same, targets)) if Arc::ptr_eq(same, translations) => targets,
            other => &mut other.insert((Arc::clone(translations), Once::default())).1,
        };
        known.get(effort, || symbolic::udp_targets(network, &translations.each, effort))
    }

    /// What happens to the outer packets of a tunnel.
    pub fn outer(&self, network: &Network<'_>, facts: TunnelFacts, effort: &Effort<'_>) -> Arc<OuterPackets> {
        let mut outer = self.outer.borrow_mut();
        let at = outer.iter().position(|(known, _)| *known == facts).unwrap_or_else(|| {
            outer.push((facts, Once::default()));
            outer.len() - 1
        });
        let (facts, known) = &outer[at];
        known.get(effort, || symbolic::outer_packets(network, facts, effort))
    }
}

/// What one walk has found.
#[derive(Debug)]
struct Once<T> {
    found: RefCell<Option<Arc<T>>>,
    /// The work that it took.
    units: Cell<u64>,
    /// In this judgement it was asked for, and the work is charged.
    asked: Cell<bool>,
    /// It was found in this judgement.
    new: Cell<bool>,
}

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self { found: RefCell::default(), units: Cell::default(), asked: Cell::default(), new: Cell::default() }
    }
}

impl<T> Once<T> {
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

    /// Returns whether it was asked for, and is kept.
    fn end(&self, cut: bool) -> bool {
        if self.new.take() && cut {
            self.forget();
        }
        self.asked.take() && self.found.borrow().is_some()
    }
}

#[cfg(test)]
mod tests;
