//! Conditions about the conntrack table.

use super::context::Evaluation;
use crate::facts::{Conntrack, FlowProtocol, FlowReading, FlowSample, FlowState, Question, Reading};

/// `conntrack_active`: the table has entries.
pub(super) fn active(conntrack: &Conntrack) -> Evaluation {
    match &conntrack.entries {
        Reading::Ok(0) => Evaluation::fails("connection tracking has 0 entries"),
        Reading::Ok(1) => Evaluation::holds("connection tracking has 1 entry"),
        Reading::Ok(entries) => Evaluation::holds(format!("connection tracking has {entries} entries")),
        Reading::Absent(_) => Evaluation::fails("nf_conntrack is not in the running kernel"),
        other => unread_conntrack(other),
    }
}

/// `conntrack_table_filled`: entries ÷ limit is at least `ratio`.
pub(super) fn table_filled(conntrack: &Conntrack, sample: &FlowReading<FlowSample>, ratio: f64) -> Evaluation {
    match (&conntrack.entries, &conntrack.entries_limit) {
        (Reading::Ok(entries), Reading::Ok(0)) => {
            Evaluation::fails(format!("{entries} entries, and nf_conntrack_max is 0: no limit"))
        }
        (Reading::Ok(entries), Reading::Ok(limit)) => {
            let filled = *entries as f64 / *limit as f64;
            let kinds = sample.found.ok().filter(|_| filled >= ratio).and_then(|sample| what_fills(sample));
            let detail = format!("{entries} of {limit} entries ({:.1} %){}", filled * 100.0, kinds.unwrap_or_default());
            let outcome = Evaluation::holds_if(filled >= ratio, detail);
            let doubled = limit.saturating_mul(2);
            if doubled > i32::MAX as u64 {
                return outcome; // more than the kernel accepts
            }
            let outcome = outcome.with("entries_limit_doubled", doubled);
            match conntrack.buckets.ok() {
                Some(buckets) => outcome.with("buckets_for_that", (*buckets).max(doubled / 4)),
                None => outcome, // there may be more by now
            }
        }
        (Reading::Ok(_), other) | (other, _) => unread_conntrack(other),
    }
}

/// What occupies the table: the share that cannot be evicted to make room.
fn what_fills(sample: &FlowSample) -> Option<String> {
    let evictable = sample.evictable_ratio()?;
    let established = sample.composition.get(&(FlowProtocol::Tcp, FlowState::Established));
    let established = established.map_or(0.0, |count| count.entries as f64 / sample.sampled.max(1) as f64);
    Some(match evictable {
        0.5.. => format!(", of which {:.0} % can be evicted to make room", 100.0 * evictable),
        _ if established >= 0.5 => {
            format!(
                ", full of established connections ({:.0} %); {:.0} % can be evicted",
                100.0 * established,
                100.0 * evictable
            )
        }
        _ => format!(", of which only {:.0} % can be evicted to make room", 100.0 * evictable),
    })
}

/// `conntrack_buckets_loaded`: 2 · entries ÷ buckets is at least `ratio`.
pub(super) fn buckets_loaded(conntrack: &Conntrack, ratio: f64) -> Evaluation {
    match (&conntrack.entries, &conntrack.buckets) {
        (_, Reading::Ok(0)) => Evaluation::unknown("nf_conntrack_buckets is 0"),
        (Reading::Ok(entries), Reading::Ok(buckets)) => {
            let load = 2.0 * *entries as f64 / *buckets as f64;
            let detail = format!("{entries} entries, each in 2 of {buckets} buckets: mean chain {load:.2}");
            Evaluation::holds_if(load >= ratio, detail).with("entries_quadrupled", entries.saturating_mul(4))
        }
        (Reading::Absent(_), _) => Evaluation::fails("nf_conntrack is not in the running kernel"),
        (Reading::Ok(_), other) | (other, _) => unread_conntrack(other),
    }
}

fn unread_conntrack(reading: &Reading<u64>) -> Evaluation {
    Evaluation::unknown(Question::unread(reading).shown_by([
        "sysctl",
        "-r",
        "net.netfilter.nf_conntrack_(count|max|buckets)",
    ]))
}
