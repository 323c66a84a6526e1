//! Whether a verdict is unknown because something could not be read, so that a permission or repair would help.

use super::context::Context;
use super::{ConditionFinding, ConditionState};
use crate::advisory::Advisory;
use crate::facts::{NetworkNamespace, Source, SourceState};

/// Whether an unknown condition depends on a source that was denied or failed.
pub(super) fn is_unseen(context: &Context<'_>, advisory: &Advisory, found: &[ConditionFinding]) -> bool {
    match (context.wrong_namespace, context.facts.network_namespace) {
        (Some(_), NetworkNamespace::Other) => false, // sources here are not the node's
        (Some(_), _) => true,                        // /proc/sys/net, which would show it
        (None, _) => {
            let pairs = found.iter().zip(&advisory.conditions);
            let unknown = pairs.filter(|(finding, _)| finding.state == ConditionState::Unknown);
            unknown.flat_map(|(_, condition)| condition.test.sources()).any(|source| was_not_read(context, *source))
        }
    }
}

fn was_not_read(context: &Context<'_>, source: Source) -> bool {
    let mut ends = context.facts.sources.iter().filter(|status| status.source == source);
    ends.any(|status| matches!(status.state, SourceState::Denied | SourceState::Failed))
}
