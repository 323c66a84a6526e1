//! Samples about conntrack entries.

use std::collections::BTreeSet;

use super::table::{self, FlowLabels, SnatDestinationLabels};
use super::{Families, MetricSettings, SampleValue};
use crate::facts::{Facts, PortKey, PortsUsed, Reading};
use crate::judge::Report;

/// Adds the samples about conntrack entries. `looked_at`: start of the reading, Unix time in seconds.
pub(super) fn add(
    out: &mut Families,
    report: &Report,
    facts: &Facts,
    looked_at: Option<i64>,
    settings: &MetricSettings,
) {
    /// Ratio of used ports from which a destination gets a series.
    const WORTH_A_SERIES: f64 = 0.25;
    let flows = &facts.flows;
    if let Reading::Ok(sample) = &flows.sample.found {
        out.whole(table::FLOWS_SAMPLED, sample.sampled);
        out.add(table::FLOWS_SAMPLE_RATIO, (), SampleValue::Real(sample.ratio()));
        let then = looked_at.and_then(|seconds| u64::try_from(seconds).ok()?.checked_sub(flows.sample.age.as_secs()));
        if let Some(seconds) = then {
            out.whole(table::FLOWS_TIMESTAMP_SECONDS, seconds);
        }
        for ((protocol, state), count) in &sample.composition {
            let labels = FlowLabels { protocol: *protocol, state: *state };
            out.add(table::CONNTRACK_ENTRIES_ESTIMATED, labels, SampleValue::Whole(sample.scaled(count.entries)));
        }
        if let Some(ratio) = sample.evictable_ratio() {
            out.add(table::CONNTRACK_EVICTABLE_RATIO, (), SampleValue::Real(ratio));
        }
    }
    if let Reading::Ok(ports) = &flows.ports.found {
        out.add(table::SNAT_PORTS_USED_RATIO, (), SampleValue::Real(ports.used.first().map_or(0.0, PortsUsed::ratio)));
        let mut shown = BTreeSet::new();
        for used in ports.used.iter().filter(|used| used.ratio() >= WORTH_A_SERIES) {
            let PortKey { protocol, source, destination, port, .. } = used.key;
            if shown.len() < settings.flow_destinations && shown.insert((protocol, source, destination, port)) {
                let (source, destination, port) = (source.to_string(), destination.to_string(), port.to_string());
                let protocol = used.key.protocol_name();
                let labels =
                    SnatDestinationLabels { source: &source, destination: &destination, port: &port, protocol };
                out.add(table::SNAT_DESTINATION_PORTS_USED_RATIO, labels, SampleValue::Real(used.ratio()));
            }
        }
    }
    if let Reading::Ok(rewritten) = &flows.tunnels.found {
        out.whole(table::TUNNEL_REWRITTEN_FLOWS, rewritten.count);
    }
    if let Some(stale) = &report.stale_translations {
        let kept = stale.iter().filter(|stale| stale.refilled == Some(true)).count();
        out.whole(table::CONNTRACK_STALE_TRANSLATIONS, kept as u64);
    }
}
