//! Whether a verdict is unknown because something could not be read, so that a permission or a repair would tell.

use super::conditions::Context;
use super::{ConditionFinding, ConditionState};
use crate::advisory::Advisory;
use crate::facts::{NetworkNamespace, Source, SourceState};

impl Context<'_> {
    /// Whether one of the unknown conditions is decided by a source that was denied or failed.
    pub(super) fn is_unseen(&self, advisory: &Advisory, found: &[ConditionFinding]) -> bool {
        match (self.blind, self.facts.network_namespace) {
            (Some(_), NetworkNamespace::Other) => false, // what could be read there is not the node's
            (Some(_), _) => true,                        // /proc/sys/net, which would tell
            (None, _) => {
                let pairs = found.iter().zip(&advisory.conditions);
                let unknown = pairs.filter(|(finding, _)| finding.state == ConditionState::Unknown);
                unknown.flat_map(|(_, condition)| condition.test.sources()).any(|source| self.was_not_read(*source))
            }
        }
    }

    fn was_not_read(&self, source: Source) -> bool {
        let mut ends = self.facts.sources.iter().filter(|status| status.source == source);
        ends.any(|status| matches!(status.state, SourceState::Denied | SourceState::Failed))
    }
}
